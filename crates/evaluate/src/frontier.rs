//! The least divergence that a gold reward can be had for, and how much more than it each method spends.
//!
//! At a given mean divergence from the base no distribution has more mean reward than `π exp(s r) / Z` with
//! one strength `s` for
//! all prompts: `KL ≥ s E[r] − E[ln Z(s)]` for every `s`, with equality for the tilt (Donsker and Varadhan).
//! The normalisers are
//! estimated on the base's pool, whose samples stand for the base. Plugged in, `ln Z` of M samples is too
//! small, and the least
//! divergence too large: at 8 to 32 samples by as much as the gaps. Here its bias of first order is taken out
//! by the jackknife
//! ([`crate::stats::tilted`]). What is left of it grows with the strength, so that a gap has an interval:
//!
//! - its upper end has the greatest bound at the strengths at which many samples carry the tilt, and so are trusted; the bound
//!   holds at every strength, so that this is never too small but for chance;
//! - its lower end has the plugged-in value, which is too large on average, and is not below 0, as no gap is;
//! - both are the ends of bootstrap intervals over prompts, for the chance of both the pool and the row.
//!
//! Of M samples nothing can be told that is as rare as one of them: the estimate ends where two samples in
//! effect carry the tilt.

use objective::error::InputError;
use objective::rank::CachedRewards;
use serde::{Deserialize, Serialize};

use crate::report::{Report, Row, RowInput, Section, label, metric};
use crate::stats::{Resamples, tilted};

/// Points of the curve.
const POINTS: usize = 48;
/// Samples that have to carry the tilt for it to be told.
const CARRIERS: f64 = 2.0;
/// Of M samples `SURE · M^(1/3)` have to carry a tilt that the upper end of a gap rests on.
const SURE: f64 = 2.5;
/// Fewest samples of a prompt that tell anything.
const FEWEST: usize = 5;
/// Strengths that are looked at, in the inverse of the rewards' standard deviation.
const STEP: f64 = 0.04;
const MOST_STEPS: usize = 400;

/// The frontier of gold reward against divergence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frontier {
    /// Mean divergence from the base in nats, and the most mean reward at it; both grow.
    pub points: Vec<(f64, f64)>,
}

impl Frontier {
    /// The least divergence for a reward; `None` beyond what the samples tell.
    pub fn least(&self, reward: f64) -> Option<f64> {
        if reward <= self.points.first()?.1 {
            return Some(0.0);
        }
        let pair = self.points.windows(2).find(|pair| reward <= pair[1].1)?;
        let ((from, low), (to, high)) = (pair[0], pair[1]);
        Some(from + (to - from) * if high > low { (reward - low) / (high - low) } else { 0.0 })
    }
}

/// The tilts of the base at growing strengths.
#[derive(Clone, Debug)]
pub struct Tilts {
    /// From strength 0 on.
    steps: Vec<Tilt>,
    /// How many of them have enough samples to be sure of.
    sure: usize,
    /// Mean reward of the base.
    reward: f64,
}

#[derive(Clone, Debug)]
struct Tilt {
    strength: f64,
    /// `ln Z` of each prompt.
    log_z: Vec<f64>,
    /// As plugged in.
    plugged: Vec<f64>,
}

/// What a row spends beyond the least divergence for its reward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gap {
    /// The least divergence; `None` beyond what the samples tell.
    pub least: Option<f64>,
    /// The estimate, within its interval.
    pub gap: f64,
    /// Ends of its interval; `None` with one prompt.
    pub interval: Option<(f64, f64)>,
}

impl Tilts {
    /// Those of samples of the base's own distribution, `gold` for each prompt; `None` where there are too
    /// few, or all are
    /// worth the same.
    pub fn of(gold: &[&[f64]]) -> Result<Option<Self>, InputError> {
        let Some(samples) = gold.iter().map(|rewards| rewards.len()).min().filter(|least| *least > 0) else {
            return Ok(None);
        };
        let (mut mean, mut deviation) = (0.0, 0.0);
        for rewards in gold {
            let count = rewards.len() as f64;
            let sorted = CachedRewards::new(rewards.to_vec())?;
            let own = sorted.sorted().iter().sum::<f64>() / count;
            let square: f64 = sorted.sorted().iter().map(|r| (r - own).powi(2)).sum();
            mean += own / gold.len() as f64;
            deviation += (square / count).sqrt() / gold.len() as f64;
        }
        if samples < FEWEST || deviation <= 0.0 {
            return Ok(None);
        }
        let wanted = SURE * (samples as f64).cbrt();
        let (mut tilts, mut sure) = (Vec::new(), 0);
        for step in 0..=MOST_STEPS {
            let strength = STEP * step as f64 / deviation;
            let all: Vec<_> = gold
                .iter()
                .map(|rewards| {
                    let logs: Vec<f64> = rewards.iter().map(|reward| strength * reward).collect();
                    tilted(&logs, rewards)
                })
                .collect();
            // The harmonic mean: prompts of which one sample carries the tilt count.
            let carriers = all.len() as f64 / all.iter().map(|found| 1.0 / found.ess).sum::<f64>();
            if step > 0 && carriers < CARRIERS {
                break;
            }
            if step == 0 || (carriers >= wanted && sure == step) {
                sure = step + 1;
            }
            tilts.push(Tilt {
                strength,
                log_z: all.iter().map(|found| found.log_z).collect(),
                plugged: all.iter().map(|found| found.log_z_plugged).collect(),
            });
        }
        Ok((tilts.len() > 1).then_some(Self { steps: tilts, sure, reward: mean }))
    }

    /// The curve that a figure shows.
    pub fn frontier(&self) -> Frontier {
        let all: Vec<usize> = (0..self.steps[0].log_z.len()).collect();
        let last = self.steps.len() - 1;
        let slope = |place: usize| {
            let (a, b) = (&self.steps[place - 1], &self.steps[place]);
            (mean_of(&b.log_z, &all) - mean_of(&a.log_z, &all)) / (b.strength - a.strength)
        };
        let end = (1..=last).map(slope).fold(self.reward, f64::max);
        let mut points: Vec<(f64, f64)> = vec![(0.0, self.reward)];
        for point in 1..=POINTS {
            let reward = self.reward + (end - self.reward) * point as f64 / POINTS as f64;
            let (place, kl) = self.bound(reward, &all, last, |tilt| &tilt.log_z);
            if place < last && kl > points[points.len() - 1].0 {
                points.push((kl, reward));
            }
        }
        Frontier { points }
    }

    /// The greatest `s E[r] − E[ln Z(s)]` among the first strengths up to place `last`, and where it is.
    fn bound<'a>(
        &'a self,
        reward: f64,
        prompts: &[usize],
        last: usize,
        log_z: fn(&'a Tilt) -> &'a Vec<f64>,
    ) -> (usize, f64) {
        let mut best = (0, 0.0);
        for (place, tilt) in self.steps[..=last].iter().enumerate() {
            let value = tilt.strength * reward - mean_of(log_z(tilt), prompts);
            if value > best.1 {
                best = (place, value);
            }
        }
        best
    }

    /// The gap of a row of these divergences and rewards, over the prompts that have both; `None` where there
    /// is none.
    pub fn gap(&self, kl: &[Option<f64>], gold: &[Option<f64>], resamples: &Resamples) -> Option<Gap> {
        let both = kl.iter().zip(gold).enumerate();
        let rows: Vec<(usize, f64, f64)> =
            both.filter_map(|(place, (kl, reward))| Some((place, (*kl)?, (*reward)?))).collect();
        let prompts: Vec<usize> = rows.iter().map(|(place, ..)| *place).collect();
        if prompts.is_empty() {
            return None;
        }
        let count = rows.len() as f64;
        let spent = rows.iter().map(|(_, kl, _)| kl).sum::<f64>() / count;
        let reward = rows.iter().map(|(.., reward)| reward).sum::<f64>() / count;
        let last = self.steps.len() - 1;
        // At the best strength a small change of it changes nothing: the spread is that of a mean over
        // prompts.
        let ends = |place: usize, log_z: fn(&Tilt) -> &Vec<f64>| {
            let mut values = vec![None; kl.len()];
            for (prompt, kl, reward) in &rows {
                let tilt = &self.steps[place];
                values[*prompt] = Some(kl - tilt.strength * reward + log_z(tilt)[*prompt]);
            }
            resamples.mean(&values).ok()?.interval.ok()
        };
        let (place, least) = self.bound(reward, &prompts, last, |tilt| &tilt.log_z);
        let (plugged, _) = self.bound(reward, &prompts, last, |tilt| &tilt.plugged);
        let (trusted, _) = self.bound(reward, &prompts, self.sure - 1, |tilt| &tilt.log_z);
        let interval = ends(trusted, |tilt| &tilt.log_z).zip(ends(plugged, |tilt| &tilt.plugged));
        let interval = interval.map(|(high, low)| {
            let low = if plugged == last { 0.0 } else { low.low.max(0.0) };
            (low.min(high.high), high.high)
        });
        let gap = spent - least;
        let gap = interval.map_or(gap, |(low, high)| gap.clamp(low, high));
        Some(Gap { least: (place < last).then_some(least), gap, interval })
    }

    /// What each row with a divergence spends beyond the least for its reward; `inputs` are the rows before
    /// statistics.
    pub fn section(&self, report: &Report, inputs: &[PerPrompt], resamples: &Resamples) -> Section {
        let mut rows = Vec::new();
        let value = |row: &Row, name: &str| row.metrics.get(name).and_then(|metric| metric.mean);
        for (row, input) in report.rows.iter().zip(inputs).filter(|(row, _)| row.sweep.is_none()) {
            let (Some(reward), Some(kl)) = (value(row, metric::REWARD_GOLD), value(row, metric::KL)) else {
                continue;
            };
            let Some(found) = self.gap(&input.kl, &input.gold, resamples) else { continue };
            let gap = match (found.least, found.interval) {
                (Some(_), Some((low, high))) => format!("{:.3} [{low:.2}, {high:.2}]", found.gap),
                (Some(_), None) => format!("{:.3}", found.gap),
                (None, Some((low, high))) => format!("[{low:.2}, {high:.2}]"),
                (None, None) => "–".to_owned(),
            };
            rows.push(vec![
                row.policy.clone(),
                label(row),
                row.n.to_string(),
                format!("{reward:.3}"),
                format!("{kl:.3}"),
                found.least.map_or_else(|| "beyond".to_owned(), |least| format!("{least:.3}")),
                gap,
            ]);
        }
        let frontier = self.frontier();
        let end = frontier.points.last().map_or((0.0, 0.0), |point| *point);
        Section {
            title: "Optimality gap".to_owned(),
            columns: ["policy", "method", "n", "gold reward", "KL, nats", "least KL", "gap, nats"]
                .map(str::to_owned)
                .to_vec(),
            rows,
            text: vec![format!(
                "The least KL is that of π exp(s·r) with the same mean gold reward, estimated on the base's samples with its bias \
                 of first order taken out; the gap is what a method spends beyond it, which is never below 0. Its interval covers \
                 the chance of prompts and samples and the bias that is left: a gap whose interval begins at 0 is not told from \
                 none. The samples tell the least KL up to a gold reward of {:.3} at {:.3} nats; beyond it, the interval alone. \
                 Rows without a KL of their own distribution have no gap.",
                end.1, end.0
            )],
        }
    }
}

fn mean_of(values: &[f64], prompts: &[usize]) -> f64 {
    prompts.iter().map(|prompt| values[*prompt]).sum::<f64>() / prompts.len() as f64
}

/// Divergence and gold reward of a row by prompt.
#[derive(Clone, Debug, Default)]
pub struct PerPrompt {
    kl: Vec<Option<f64>>,
    gold: Vec<Option<f64>>,
}

impl From<&RowInput> for PerPrompt {
    fn from(row: &RowInput) -> Self {
        let values = |name: &str| row.per_prompt.get(name).cloned().unwrap_or_default();
        Self { kl: values(metric::KL), gold: values(metric::REWARD_GOLD) }
    }
}

#[cfg(test)]
mod tests {
    use generate::{Purpose, Stream};
    use objective::pool::Pool;

    use super::*;

    const PROMPTS: usize = 150;

    /// Pools of normal rewards, and answers apart from them that have a mean reward.
    fn world(samples: usize, reward: f64, seed: u64) -> (Vec<Vec<f64>>, Vec<Option<f64>>) {
        let stream = Stream::new(seed, Purpose::Bootstrap, 0, 0);
        let row = |prompt: usize| {
            let mut stream = stream.child(prompt as u64);
            (0..samples).map(|_| stream.normal()).collect()
        };
        let mut own = stream.child(u64::MAX);
        ((0..PROMPTS).map(row).collect(), (0..PROMPTS).map(|_| Some(reward + own.normal())).collect())
    }

    fn tilts(pools: &[Vec<f64>]) -> Tilts {
        let rows: Vec<&[f64]> = pools.iter().map(Vec::as_slice).collect();
        Tilts::of(&rows).expect("finite").expect("rewards differ")
    }

    fn resamples() -> Resamples {
        Resamples::new(1, PROMPTS, 400, 0.95).expect("resamples")
    }

    #[test]
    fn the_gap_of_a_law_on_the_frontier_covers_zero() {
        for samples in [8, 16, 32, 128] {
            for share in [0.5, 0.75, 0.95] {
                // The tilt of normal rewards of deviation 1 at strength s has reward s and divergence s² / 2.
                let kl = share * (samples as f64 / 4.0).ln();
                let mut covered = 0;
                for seed in 0..8 {
                    let (pools, gold) = world(samples, (2.0 * kl).sqrt(), seed);
                    let gap = tilts(&pools).gap(&[Some(kl); PROMPTS], &gold, &resamples()).expect("a gap");
                    let (low, high) = gap.interval.expect("an interval");
                    assert!(low <= gap.gap && gap.gap <= high, "{gap:?}");
                    covered += usize::from(low <= 0.0 && high >= 0.0);
                }
                assert!(covered >= 6, "{samples} samples, {kl} nats: covered {covered} of 8 times");
            }
        }
    }

    #[test]
    fn best_of_n_keeps_its_gap() {
        // Mean of the best of n normal rewards, whose divergence is ln n − (n − 1) / n.
        for (samples, n, best) in [(8, 4, 1.02938), (16, 8, 1.42360), (32, 16, 1.76599), (128, 64, 2.34373)] {
            let kl = objective::bon::kl_bound(f64::from(n));
            let want = kl - best * best / 2.0;
            let (mut mean, mut covered) = (0.0, 0);
            for seed in 0..8 {
                let (pools, _) = world(samples, 0.0, 100 + seed);
                let expected = |rewards: &Vec<f64>| {
                    let pool = Pool::new(rewards.clone()).expect("finite");
                    Some(pool.expected_best(n as usize).expect("n"))
                };
                let gold: Vec<Option<f64>> = pools.iter().map(expected).collect();
                let gap = tilts(&pools).gap(&[Some(kl); PROMPTS], &gold, &resamples()).expect("a gap");
                mean += gap.gap / 8.0;
                let (low, high) = gap.interval.expect("an interval");
                covered += usize::from((low..=high).contains(&want));
            }
            assert!(
                mean > 0.6 * want && mean < 1.3 * want,
                "best of {n} of {samples}: {mean} and not {want}"
            );
            assert!(covered >= 6, "best of {n} of {samples}: covered {covered} of 8 times");
        }
    }

    #[test]
    fn the_curve_is_that_of_the_tilt_and_ends() {
        let (pools, _) = world(64, 0.0, 3);
        let frontier = tilts(&pools).frontier();
        assert!(frontier.points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
        for reward in [0.3, 0.6, 1.0, 1.4] {
            let least = frontier.least(reward).expect("told");
            assert!((least - reward * reward / 2.0).abs() < 0.08, "{least} at a reward of {reward}");
        }
        assert_eq!(frontier.least(-1.0), Some(0.0));
        assert_eq!(frontier.least(99.0), None);
    }

    #[test]
    fn right_and_wrong_have_a_frontier_too() {
        let rows: Vec<Vec<f64>> = (0..40)
            .map(|prompt| (0..16).map(|sample| f64::from(u8::from(sample % 8 <= prompt % 8))).collect())
            .collect();
        let tilts = tilts(&rows);
        let gold: Vec<Option<f64>> = vec![Some(0.9); 40];
        let resamples = Resamples::new(1, 40, 400, 0.95).expect("resamples");
        let gap = tilts.gap(&[Some(0.6); 40], &gold, &resamples).expect("a gap");
        assert!(gap.gap >= 0.0 && gap.gap < 0.6, "{gap:?}");
        assert_eq!(tilts.gap(&[None; 40], &gold, &resamples), None, "no divergence, no gap");
    }

    #[test]
    fn too_few_samples_or_equal_ones_tell_nothing() {
        for gold in [vec![&[0.0, 1.0, 2.0, 3.0][..]], vec![&[1.0; 32]], vec![&[]], vec![]] {
            assert!(Tilts::of(&gold).expect("finite").is_none(), "{gold:?}");
        }
        assert!(Tilts::of(&[&[f64::NAN; 32]]).is_err());
    }
}
