//! The least divergence that a gold reward can be had for, and how much more than it each method spends.
//!
//! At a given mean divergence from the base no law has more reward than `π exp(r/β) / Z` with one `β` for all prompts. It is
//! estimated on the base's pool, whose samples stand for the law: of M samples nothing can be told that is as rare as one of
//! them, so the estimate ends at `log(M/4)` nats, where four samples in effect carry the tilted law.

use objective::design::{inverse_beta, most_on_average};
use objective::error::InputError;
use objective::law;
use objective::rank::CachedRewards;
use serde::{Deserialize, Serialize};

use crate::report::{Report, Row, Section, label, metric};

/// Points of the frontier.
const POINTS: usize = 48;
/// Samples that have to carry the tilted law for it to be told.
const CARRIERS: f64 = 4.0;

/// The frontier of gold reward against divergence.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Frontier {
    /// Mean divergence from the base in nats, and the most mean reward at it; both grow.
    pub points: Vec<(f64, f64)>,
}

impl Frontier {
    /// That of samples of the base's own law, `gold` for each prompt; `None` where there are too few, or all are worth the same.
    pub fn of(gold: &[&[f64]]) -> Result<Option<Self>, InputError> {
        let Some(samples) = gold.iter().map(|rewards| rewards.len()).min().filter(|samples| *samples > 0)
        else {
            return Ok(None);
        };
        let pools = gold.iter().map(|rewards| CachedRewards::new(rewards.to_vec()));
        let pools = pools.collect::<Result<Vec<_>, _>>()?;
        let end = (samples as f64 / CARRIERS).ln().min(0.98 * most_on_average(&pools));
        if end <= 0.0 {
            return Ok(None);
        }
        let uniform = |rewards: &&[f64]| vec![1.0 / rewards.len() as f64; rewards.len()];
        let laws: Vec<(Vec<f64>, Vec<f64>)> =
            gold.iter().map(|rewards| (rewards.to_vec(), uniform(rewards))).collect();
        let spread = pools.iter().map(CachedRewards::sorted).map(|all| all[all.len() - 1] - all[0]);
        let mut strength = laws.len() as f64 / spread.sum::<f64>();
        let mut points = Vec::with_capacity(POINTS + 1);
        for point in 0..=POINTS {
            let kl = end * point as f64 / POINTS as f64;
            // At no divergence nothing is tilted; each strength is near the one before.
            let tilted_by = if point == 0 { 0.0 } else { inverse_beta(&laws, kl, strength) };
            strength = if point == 0 { strength } else { tilted_by };
            let mut reward = 0.0;
            for (rewards, masses) in &laws {
                let weights: Vec<f64> = rewards.iter().map(|reward| tilted_by * reward).collect();
                reward += law::expectation(&law::tilt(masses, &weights)?.law, rewards);
            }
            points.push((kl, reward / laws.len() as f64));
        }
        Ok(Some(Self { points }))
    }

    /// The least divergence for a reward; `None` beyond what the samples tell.
    pub fn least(&self, reward: f64) -> Option<f64> {
        if reward <= self.points.first()?.1 {
            return Some(0.0);
        }
        let pair = self.points.windows(2).find(|pair| reward <= pair[1].1)?;
        let ((from, low), (to, high)) = (pair[0], pair[1]);
        Some(from + (to - from) * if high > low { (reward - low) / (high - low) } else { 0.0 })
    }

    /// What each row with a divergence spends beyond the least for its reward.
    pub fn section(&self, report: &Report) -> Section {
        let mut rows = Vec::new();
        let value = |row: &Row, name: &str| row.metrics.get(name).and_then(|metric| metric.mean);
        for row in report.rows.iter().filter(|row| row.sweep.is_none()) {
            let (Some(reward), Some(kl)) = (value(row, metric::REWARD_GOLD), value(row, metric::KL)) else {
                continue;
            };
            let least = self.least(reward);
            rows.push(vec![
                row.policy.clone(),
                label(row),
                row.n.to_string(),
                format!("{reward:.3}"),
                format!("{kl:.3}"),
                least.map_or_else(|| "beyond".to_owned(), |least| format!("{least:.3}")),
                least.map_or_else(|| "–".to_owned(), |least| format!("{:.3}", kl - least)),
            ]);
        }
        let end = self.points.last().map_or((0.0, 0.0), |point| *point);
        Section {
            title: "Optimality gap".to_owned(),
            columns: ["policy", "method", "n", "gold reward", "KL, nats", "least KL", "gap, nats"]
                .map(str::to_owned)
                .to_vec(),
            rows,
            text: vec![format!(
                "The least KL is that of π exp(r/β) with the same mean gold reward, estimated on the base's samples; the gap is \
                 what a method spends beyond it. A gap below zero by a little is noise. The samples tell nothing beyond a gold \
                 reward of {:.3} at {:.3} nats.",
                end.1, end.0
            )],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_tilt_of_the_samples_and_no_other_law_is_above_it() {
        let gold: Vec<Vec<f64>> = (0..3)
            .map(|prompt| {
                (0..64).map(|i| f64::from((i * 37 + 11 * prompt) % 23) / 5.0 + f64::from(prompt)).collect()
            })
            .collect();
        let rows: Vec<&[f64]> = gold.iter().map(Vec::as_slice).collect();
        let frontier = Frontier::of(&rows).expect("finite").expect("rewards differ");
        assert!((frontier.points[POINTS].0 - 16.0_f64.ln()).abs() < 1e-12, "{:?}", frontier.points[POINTS]);
        assert!(frontier.points.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
        let uniform = vec![1.0 / 64.0; 64];
        // The tilt at a strength lies on it; best-of-n and a tilt that differs between prompts lie under it.
        let law_of = |weights: &dyn Fn(usize, f64) -> f64| {
            let (mut kl, mut reward) = (0.0, 0.0);
            for (prompt, rewards) in gold.iter().enumerate() {
                let logs: Vec<f64> = rewards.iter().map(|r| weights(prompt, *r)).collect();
                let tilted = law::tilt(&uniform, &logs).expect("finite").law;
                kl += law::kl(&tilted, &uniform) / 3.0;
                reward += law::expectation(&tilted, rewards) / 3.0;
            }
            (kl, reward)
        };
        let (kl, reward) = law_of(&|_, r| 0.7 * r);
        assert!((frontier.least(reward).expect("told") - kl).abs() < 2e-3, "{kl}");
        let (kl, reward) = law_of(&|prompt, r| (0.2 + 0.5 * prompt as f64) * r);
        assert!(frontier.least(reward).expect("told") < kl - 1e-3);
        let (mut kl, mut reward) = (0.0, 0.0);
        for rewards in &gold {
            let best = objective::bon::law(&uniform, rewards, 4.0).expect("finite");
            kl += law::kl(&best, &uniform) / 3.0;
            reward += law::expectation(&best, rewards) / 3.0;
        }
        let least = frontier.least(reward).expect("told");
        assert!(least < kl && least > 0.5 * kl, "{least} of {kl}");
        assert_eq!(frontier.least(-1.0), Some(0.0));
        assert_eq!(frontier.least(99.0), None);
    }

    #[test]
    fn too_few_samples_or_equal_ones_tell_nothing() {
        for gold in [vec![&[0.0, 1.0, 2.0, 3.0][..]], vec![&[1.0; 32]], vec![&[]], vec![]] {
            assert_eq!(Frontier::of(&gold).expect("finite"), None, "{gold:?}");
        }
        assert!(Frontier::of(&[&[f64::NAN; 32]]).is_err());
    }
}
