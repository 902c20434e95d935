//! How much of two objectives a series of settings covers.

use serde::{Deserialize, Serialize};

use super::build::RowInput;
use super::columns::fixed;
use super::metric::{REWARD_GOLD, REWARD_PROXY};
use super::model::{Metric, Section};
use super::sweep::{SweepPlace, mean, series_of};
use crate::stats::{Estimate, Resamples};

/// What the settings of one series cover.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hypervolume {
    /// What is swept.
    pub series: String,
    /// Its runs, of all settings.
    pub runs: usize,
    /// The share of the rectangle between the worst and the best values that its runs dominate, in `[0, 1]`. The interval is
    /// over prompts, each resample with its own rectangle: that some prompts are harder than others moves all runs alike.
    pub share: Metric,
}

/// The hypervolumes of all series in one rectangle.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Hypervolumes {
    /// The least mean of the two rewards, proxy and gold, that any run of any series has: the reference point.
    pub worst: [f64; 2],
    /// The greatest of each.
    pub best: [f64; 2],
    /// By series.
    pub series: Vec<Hypervolume>,
}

impl Hypervolumes {
    pub(super) const TITLE: &str = "Two objectives";

    /// Of the rows of sweeps; `None` where a row lacks one of the rewards, or all rows agree in one.
    pub(super) fn of(placed: &[(&SweepPlace, &RowInput)], resamples: &Resamples) -> Option<Self> {
        let means = |counts: Option<&[u32]>| -> Option<Vec<[f64; 2]>> {
            let of = |row: &RowInput, name: &str| mean(row.per_prompt.get(name)?, counts);
            placed.iter().map(|(_, row)| Some([of(row, REWARD_PROXY)?, of(row, REWARD_GOLD)?])).collect()
        };
        let all = means(None)?;
        let (worst, best) = corners(&all)?;
        let share = |points: &[[f64; 2]], series: &str| {
            let (worst, best) = corners(points)?;
            let own = placed.iter().zip(points).filter(|((place, _), _)| place.series == series);
            let covered = dominated(own.map(|(_, point)| *point).collect(), worst);
            Some(covered / ((best[0] - worst[0]) * (best[1] - worst[1])))
        };
        let series = series_of(placed).into_iter().map(|series| Hypervolume {
            series: series.to_owned(),
            runs: placed.iter().filter(|(place, _)| place.series == series).count(),
            share: Metric::from(Ok(Estimate {
                mean: share(&all, series).unwrap_or_default(),
                interval: resamples.interval(|counts| share(&means(Some(counts))?, series)),
                count: resamples.prompts(),
            })),
        });
        Some(Self { worst, best, series: series.collect() })
    }

    pub(super) fn section(&self) -> Section {
        let rows = self.series.iter().map(|of| {
            let share = match of.share.full() {
                Some((mean, low, high)) => format!("{mean:.3} [{low:.3}, {high:.3}]"),
                None => of.share.mean.map_or_else(|| "–".to_owned(), |mean| format!("{mean:.3}")),
            };
            vec![of.series.clone(), of.runs.to_string(), share]
        });
        let [x, y] = [0, 1].map(|axis| (fixed(self.worst[axis], 3), fixed(self.best[axis], 3)));
        Section {
            title: Self::TITLE.to_owned(),
            columns: ["series", "runs", "hypervolume"].map(str::to_owned).to_vec(),
            rows: rows.collect(),
            text: vec![format!(
                "The share that a series dominates of the rectangle from the worst to the best of all runs: {} to {} in {REWARD_PROXY}, {} to {} in \
                 {REWARD_GOLD}. 1 would be one run that is best in both. Intervals by bootstrap over \
                 prompts, each resample with its own rectangle. Of rows that average over fewer samples a prompt the points scatter more, \
                 and the best of scattered points reaches further: compare series of one number of samples.",
                x.0, x.1, y.0, y.1
            )],
        }
    }
}

/// The worst and the best of either axis; `None` where all points agree in one.
fn corners(points: &[[f64; 2]]) -> Option<([f64; 2], [f64; 2])> {
    let fold = |of: fn(f64, f64) -> f64, start: f64| {
        [0, 1].map(|axis| points.iter().map(|point| point[axis]).fold(start, of))
    };
    let (worst, best) = (fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY));
    (best[0] > worst[0] && best[1] > worst[1]).then_some((worst, best))
}

/// The area between `reference` and the points that is dominated: every place that some point is not below in either axis.
fn dominated(mut points: Vec<[f64; 2]>, reference: [f64; 2]) -> f64 {
    points.sort_by(|a, b| b[0].total_cmp(&a[0]));
    let (mut area, mut height) = (0.0, reference[1]);
    for [x, y] in points {
        if x > reference[0] && y > height {
            area += (x - reference[0]) * (y - height);
            height = y;
        }
    }
    area
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dominated_area_is_that_of_the_steps_below_the_points() {
        assert_eq!(dominated(vec![[1.0, 3.0], [3.0, 1.0], [2.0, 2.0]], [0.0, 0.0]), 6.0);
        // What is dominated adds nothing, nor what lies below the reference.
        assert_eq!(dominated(vec![[1.0, 3.0], [0.5, 2.0], [-1.0, 9.0], [1.0, 3.0]], [0.0, 0.0]), 3.0);
        assert_eq!(dominated(vec![[1.0, 3.0]], [0.5, 2.0]), 0.5);
        assert_eq!(dominated(Vec::new(), [0.0, 0.0]), 0.0);
        // A grid of small squares counts the same.
        let points = [[0.3, 0.9], [0.5, 0.4], [0.8, 0.35], [0.85, 0.1]];
        let inside = |x: f64, y: f64| points.iter().any(|p| p[0] >= x && p[1] >= y);
        let grid = |i: usize| (i as f64 + 0.5) / 400.0;
        let counted =
            (0..400).flat_map(|i| (0..400).map(move |j| (grid(i), grid(j)))).filter(|(x, y)| inside(*x, *y));
        let counted = counted.count() as f64 / 160_000.0;
        assert!((dominated(points.to_vec(), [0.0, 0.0]) - counted).abs() < 1e-2);
    }

    #[test]
    fn shares_are_of_the_rectangle_of_all_series() {
        let flat = |x: f64| vec![Some(x); 4];
        let row = |series: &str, proxy: f64, gold: Vec<Option<f64>>| RowInput {
            per_prompt: [(REWARD_PROXY.to_owned(), flat(proxy)), (REWARD_GOLD.to_owned(), gold)].into(),
            sweep: Some(SweepPlace { series: series.into(), ..SweepPlace::default() }),
            ..RowInput::default()
        };
        let rows = [
            row("a", -3.0, flat(1.0)),
            row("a", 1.0, flat(0.0)),
            row("b", -1.0, vec![Some(0.0), Some(1.0), Some(0.0), Some(1.0)]),
        ];
        let placed: Vec<_> = rows.iter().filter_map(|row| Some((row.sweep.as_ref()?, row))).collect();
        let resamples = Resamples::new(1, 4, 200, 0.95).expect("in range");
        let found = Hypervolumes::of(&placed, &resamples).expect("two rewards");
        assert_eq!((found.worst, found.best), ([-3.0, 0.0], [1.0, 1.0]));
        // The extremes of `a` cover nothing; `b` covers a half times a half.
        assert_eq!(found.series[0].share.mean, Some(0.0));
        let (mean, low, high) = found.series[1].share.full().expect("an interval");
        assert!(mean == 0.25 && low < mean && high > mean && high <= 0.5, "{mean} {low} {high}");
        assert_eq!(Hypervolumes::of(&placed[..1], &resamples), None, "one point spans nothing");
    }

    #[test]
    fn prompts_that_are_harder_for_all_runs_widen_no_interval() {
        let hard = |x: f64| vec![Some(x), Some(x - 9.0), Some(x + 4.0), Some(x - 30.0)];
        let row = |series: &str, proxy: f64, gold: f64| RowInput {
            per_prompt: [(REWARD_PROXY.to_owned(), hard(proxy)), (REWARD_GOLD.to_owned(), hard(gold))].into(),
            sweep: Some(SweepPlace { series: series.into(), ..SweepPlace::default() }),
            ..RowInput::default()
        };
        let rows = [row("a", 0.0, 1.0), row("a", 1.0, 0.0), row("b", 0.5, 0.5)];
        let placed: Vec<_> = rows.iter().filter_map(|row| Some((row.sweep.as_ref()?, row))).collect();
        let resamples = Resamples::new(1, 4, 200, 0.95).expect("in range");
        let found = Hypervolumes::of(&placed, &resamples).expect("two rewards");
        let (mean, low, high) = found.series[1].share.full().expect("an interval");
        assert!((mean - 0.25).abs() < 1e-12 && high - low < 1e-12, "{mean} {low} {high}");
    }
}
