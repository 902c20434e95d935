//! Settings of one method beside those of others: points averaged over their runs, and who is on the Pareto front.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::build::RowInput;
use super::cells;
use super::columns::fixed;
use super::hypervolume::Hypervolumes;
use super::metric::{self, KL, REWARD_GOLD, REWARD_PROXY};
use super::model::{Metric, Section};
use crate::frontier::Frontier;
use crate::stats::{Estimate, Resamples};

/// Where a row stands in a sweep.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SweepPlace {
    /// What is swept, for instance a method.
    pub series: String,
    /// Its setting. Rows of one series and setting are repetitions, such as seeds.
    pub setting: String,
    /// Seconds that training took, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// A setting, averaged over its runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SweepPoint {
    /// What is swept.
    pub series: String,
    /// The setting.
    pub setting: String,
    /// How many runs there are of it.
    pub runs: usize,
    /// Means over prompts of the means over runs; the intervals are over prompts.
    pub metrics: BTreeMap<String, Metric>,
    /// Standard deviations between the runs' means, where there are several.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub spread: BTreeMap<String, f64>,
    /// Mean seconds of training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// How much of a series is on the front of a reward against the KL.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Front {
    /// What is swept.
    pub series: String,
    /// The reward.
    pub reward: String,
    /// Its runs, of all settings.
    pub runs: usize,
    /// The share of them that no run of any series dominates: none has as little KL and as much reward, and less or more of
    /// one. The interval is over prompts.
    pub share: Metric,
}

/// All sweeps of a comparison.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sweep {
    /// Settings in the order of their first rows.
    pub points: Vec<SweepPoint>,
    /// The share of each series on the front, by reward.
    pub fronts: Vec<Front>,
    /// What each series covers of two objectives, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hypervolume: Option<Hypervolumes>,
}

impl Sweep {
    /// Titles of the tables.
    pub(super) const TITLES: [&str; 3] = ["Sweeps", "Pareto front", Hypervolumes::TITLE];

    /// Of the rows that have a place in one; `None` where there are none. With `objectives` the two rewards are objectives.
    pub(super) fn of(rows: &[RowInput], resamples: &Resamples, objectives: bool) -> Option<Self> {
        let placed: Vec<(&SweepPlace, &RowInput)> =
            rows.iter().filter_map(|row| Some((row.sweep.as_ref()?, row))).collect();
        let mut points: Vec<SweepPoint> = Vec::new();
        for (place, _) in &placed {
            let same =
                |other: &SweepPlace| (&other.series, &other.setting) == (&place.series, &place.setting);
            if points.iter().any(|point| point.series == place.series && point.setting == place.setting) {
                continue;
            }
            let runs: Vec<&(&SweepPlace, &RowInput)> =
                placed.iter().filter(|(other, _)| same(other)).collect();
            points.push(point(place, &runs, resamples));
        }
        let fronts =
            [REWARD_GOLD, REWARD_PROXY].into_iter().flat_map(|reward| fronts(&placed, reward, resamples));
        (!points.is_empty()).then(|| Self {
            fronts: fronts.collect(),
            hypervolume: objectives.then(|| Hypervolumes::of(&placed, resamples)).flatten(),
            points,
        })
    }

    /// The tables of a report.
    pub fn sections(&self, frontier: Option<&Frontier>) -> Vec<Section> {
        let mut sections = vec![self.settings(frontier)];
        if !self.fronts.is_empty() {
            sections.push(self.front());
        }
        sections.extend(self.hypervolume.as_ref().map(Hypervolumes::section));
        sections
    }

    fn settings(&self, frontier: Option<&Frontier>) -> Section {
        let names = metric::in_order(self.points.iter().flat_map(|point| {
            point.metrics.iter().filter(|(_, metric)| metric.mean.is_some()).map(|(name, _)| name.as_str())
        }));
        let mut columns: Vec<String> = ["series", "setting", "runs"].map(str::to_owned).to_vec();
        columns.extend(names.iter().map(|name| (*name).to_owned()));
        columns.push("gap, nats".to_owned());
        columns.push("training, s".to_owned());
        let rows = self.points.iter().map(|point| {
            let mut cells = vec![point.series.clone(), point.setting.clone(), point.runs.to_string()];
            cells.extend(names.iter().map(|name| point.cell(name)));
            let mean = |name: &str| point.metrics.get(name).and_then(|metric| metric.mean);
            let gap = frontier.and_then(|frontier| Some(mean(KL)? - frontier.least(mean(REWARD_GOLD)?)?));
            cells.push(gap.map_or_else(|| "–".to_owned(), |gap| fixed(gap, 3)));
            cells.push(point.seconds.map_or_else(|| "–".to_owned(), cells::seconds));
            cells
        });
        Section {
            title: Self::TITLES[0].to_owned(),
            columns,
            rows: rows.collect(),
            text: vec![
                "Means over the runs of a setting, with intervals over prompts; after ± the standard deviation between runs. \
                 The gap is the KL beyond the least for the same gold reward. Every run by itself is in report.json."
                    .to_owned(),
            ],
        }
    }

    fn front(&self) -> Section {
        let rows = self.fronts.iter().map(|front| {
            let share = match front.share.full() {
                Some((mean, low, high)) => format!("{mean:.2} [{low:.2}, {high:.2}]"),
                None => front.share.mean.map_or_else(|| "–".to_owned(), |mean| format!("{mean:.2}")),
            };
            vec![front.reward.clone(), front.series.clone(), front.runs.to_string(), share]
        });
        Section {
            title: Self::TITLES[1].to_owned(),
            columns: ["reward", "series", "runs", "share on the front"].map(str::to_owned).to_vec(),
            rows: rows.collect(),
            text: vec![
                "A run is on the front of reward against KL if no run of any series has as little KL and as much reward, and \
                 less or more of one. Intervals by bootstrap over prompts."
                    .to_owned(),
            ],
        }
    }
}

impl SweepPoint {
    /// `0.512 [0.50, 0.53] ±0.004`.
    fn cell(&self, name: &str) -> String {
        let Some(metric) = self.metrics.get(name) else { return "–".to_owned() };
        let Some(mean) = metric.mean else { return "–".to_owned() };
        let interval =
            metric.full().map(|(_, low, high)| format!(" [{low:.3}, {high:.3}]")).unwrap_or_default();
        let spread = self.spread.get(name).map(|spread| format!(" ±{spread:.3}")).unwrap_or_default();
        format!("{}{interval}{spread}", fixed(mean, 3))
    }
}

fn point(place: &SweepPlace, runs: &[&(&SweepPlace, &RowInput)], resamples: &Resamples) -> SweepPoint {
    let names: Vec<&String> = runs[0].1.per_prompt.keys().collect();
    let (mut metrics, mut spread) = (BTreeMap::new(), BTreeMap::new());
    for name in names {
        let values: Vec<&Vec<Option<f64>>> =
            runs.iter().filter_map(|(_, row)| row.per_prompt.get(name)).collect();
        let mean_of = |prompt: usize| {
            let all: Option<Vec<f64>> = values.iter().map(|run| run[prompt]).collect();
            all.map(|all| all.iter().sum::<f64>() / all.len() as f64)
        };
        let means: Vec<Option<f64>> = (0..resamples.prompts()).map(mean_of).collect();
        metrics.insert(name.clone(), Metric::from(resamples.mean(&means)));
        let of_runs: Vec<f64> = values.iter().filter_map(|run| mean(run, None)).collect();
        if of_runs.len() > 1 {
            spread.insert(name.clone(), deviation(&of_runs));
        }
    }
    let seconds: Option<Vec<f64>> = runs.iter().map(|(place, _)| place.seconds).collect();
    SweepPoint {
        series: place.series.clone(),
        setting: place.setting.clone(),
        runs: runs.len(),
        metrics,
        spread,
        seconds: seconds.map(|all| all.iter().sum::<f64>() / all.len() as f64),
    }
}

/// The mean of the values that are there, each counted as often as its prompt was drawn.
pub(super) fn mean(values: &[Option<f64>], counts: Option<&[u32]>) -> Option<f64> {
    let (mut sum, mut weight) = (0.0, 0.0);
    for (prompt, value) in values.iter().enumerate() {
        let count = counts.map_or(1.0, |counts| f64::from(counts[prompt]));
        if let Some(value) = value {
            sum += count * value;
            weight += count;
        }
    }
    (weight > 0.0).then(|| sum / weight)
}

/// Standard deviation with `n − 1`.
fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (values.len() - 1) as f64).sqrt()
}

/// The share of each series on the front of a reward; empty where a row lacks the reward or the KL.
fn fronts(placed: &[(&SweepPlace, &RowInput)], reward: &str, resamples: &Resamples) -> Vec<Front> {
    let means = |counts: Option<&[u32]>| -> Option<Vec<(f64, f64)>> {
        let of = |row: &RowInput, name: &str| mean(row.per_prompt.get(name)?, counts);
        placed.iter().map(|(_, row)| Some((of(row, KL)?, of(row, reward)?))).collect()
    };
    let Some(all) = means(None) else { return Vec::new() };
    let share = |points: &[(f64, f64)], series: &str| {
        let own = || placed.iter().zip(points).filter(|((place, _), _)| place.series == series);
        own().filter(|(_, point)| on_front(**point, points)).count() as f64 / own().count() as f64
    };
    series_of(placed)
        .into_iter()
        .map(|series| Front {
            series: series.to_owned(),
            reward: reward.to_owned(),
            runs: placed.iter().filter(|(place, _)| place.series == series).count(),
            share: Metric::from(Ok(Estimate {
                mean: share(&all, series),
                interval: resamples.interval(|counts| Some(share(&means(Some(counts))?, series))),
                count: resamples.prompts(),
            })),
        })
        .collect()
}

/// The names of the series, in the order of their first rows.
pub(super) fn series_of<'a>(placed: &[(&'a SweepPlace, &RowInput)]) -> Vec<&'a str> {
    let mut series: Vec<&str> = Vec::new();
    for (place, _) in placed {
        if !series.contains(&place.series.as_str()) {
            series.push(&place.series);
        }
    }
    series
}

/// Whether no point has as little KL and as much reward, and less or more of one.
fn on_front((kl, reward): (f64, f64), points: &[(f64, f64)]) -> bool {
    !points
        .iter()
        .any(|(other_kl, other)| *other_kl <= kl && *other >= reward && (*other_kl < kl || *other > reward))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(series: &str, setting: &str, kl: [f64; 4], gold: [f64; 4]) -> RowInput {
        let values = |values: [f64; 4]| values.into_iter().map(Some).collect();
        RowInput {
            per_prompt: [(KL.to_owned(), values(kl)), (REWARD_GOLD.to_owned(), values(gold))].into(),
            sweep: Some(SweepPlace { series: series.into(), setting: setting.into(), seconds: Some(2.0) }),
            ..RowInput::default()
        }
    }

    fn sweep(rows: &[RowInput]) -> Sweep {
        let resamples = Resamples::new(1, 4, 200, 0.95).expect("in range");
        Sweep::of(rows, &resamples, false).expect("rows of sweeps")
    }

    #[test]
    fn points_are_means_over_runs_with_their_spread() {
        let found = sweep(&[
            row("vbon", "n4", [1.0; 4], [0.0, 1.0, 0.0, 1.0]),
            row("vbon", "n4", [3.0; 4], [1.0; 4]),
            row("dpo", "", [1.0; 4], [0.0; 4]),
        ]);
        assert_eq!(found.points.len(), 2);
        let point = &found.points[0];
        assert_eq!((point.runs, point.metrics[KL].mean, point.seconds), (2, Some(2.0), Some(2.0)));
        assert_eq!(point.metrics[REWARD_GOLD].mean, Some(0.75));
        assert!((point.spread[KL] - 2.0_f64.sqrt()).abs() < 1e-12);
        let (low, high) = (point.metrics[REWARD_GOLD].low, point.metrics[REWARD_GOLD].high);
        assert!(low < Some(0.75) && high > Some(0.75), "over prompts, not over runs: {low:?} {high:?}");
        assert!(found.points[1].spread.is_empty(), "one run has none");
    }

    #[test]
    fn the_front_is_of_all_series_together() {
        let flat = |x: f64| [x; 4];
        let found = sweep(&[
            row("a", "1", flat(0.1), flat(0.2)),
            row("a", "2", flat(0.5), flat(0.5)),
            row("a", "3", flat(0.6), flat(0.5)),
            row("b", "1", flat(0.5), flat(0.4)),
            row("b", "2", flat(0.1), flat(0.2)),
        ]);
        let share = |series: &str| {
            let front = found.fronts.iter().find(|front| front.series == series).expect("a series");
            (front.runs, front.share.mean.expect("a share"))
        };
        // The same point twice is on it twice; more KL for the same reward is not on it, nor less reward for the same KL.
        assert_eq!(share("a"), (3, 2.0 / 3.0));
        assert_eq!(share("b"), (2, 0.5));
        assert!(found.fronts.iter().all(|front| front.reward == REWARD_GOLD), "there is no proxy");
        // What depends on the prompts has an interval.
        let found = sweep(&[
            row("a", "", flat(0.5), [0.0, 1.0, 0.0, 1.0]),
            row("b", "", flat(0.4), [1.0, 0.0, 1.0, 0.0]),
        ]);
        assert_eq!(found.fronts[0].share.full().map(|(_, low, high)| (low, high)), Some((0.0, 1.0)));
    }
}
