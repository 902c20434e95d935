//! Best-of-N as supervised fine-tuning (RAFT, arXiv 2304.06767): the likelihood of the best of N samples of the model that
//! training begins with. It minimises `KL(π_N ‖ π)`, the forward half of BOND; its optimum is the law of best-of-N.
//!
//! The samples are a pool, drawn and scored once. Rounds of RAFT are stages of a pipeline: each names the stage before it as
//! its model, and draws anew.
//!
//! Deviations: (1) ties are broken by a fair draw, and not by the order of sampling, which is the same law; (2) with
//! `choose = "subsets"` every sample is weighted by its probability to be the best of N among the pool's samples, the mean
//! over all choices of N of them: the same gradient on average, with less noise, since every batch is divided
//! by the same number,
//! the mean weight of all rows times its rows; (3) likelihoods are sums over tokens and
//! rows count alike, so that long answers are not weighed down as by a mean over tokens.

use data::render::Example;
use model::Decoder;
use model::learn::Forward;
use objective::draw::Draw;
use objective::pool::Pool as Ranked;
use recipe::{Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::meters::Meters;
use crate::pooled::{Pooled, Scored, best};
use crate::supervised::{BatchLoss, Objective, example_log_probs, spread, sums};

/// `[method.bon-sft]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BonSft {
    /// N of the best-of-N that is imitated.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Samples of each prompt.
    #[schemars(range(min = 1))]
    pub pool_samples: usize,
    /// How samples become examples.
    pub choose: Choose,
}

/// How samples become examples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Choose {
    /// The best of each group of N samples.
    #[default]
    Groups,
    /// All samples that can be the best of some N, weighted by how often they are.
    Subsets,
}

impl Default for BonSft {
    fn default() -> Self {
        Self { n: 8, pool_samples: 8, choose: Choose::Groups }
    }
}

impl Validate for BonSft {
    fn validate(&self, rules: &mut Rules) {
        rules.check(
            &["pool_samples", "n"],
            groups_of(self.n, self.pool_samples, self.choose == Choose::Groups),
        );
    }
}

/// Samples of a prompt make at least one group of `n`, and whole groups where they are cut into such.
pub(super) fn groups_of(n: usize, samples: usize, whole: bool) -> Result<(), Violation> {
    if samples < n {
        let message = format!("{samples} samples of a prompt have no best of {n}");
        return Err(Violation::new(message).hint("raise `pool_samples` to n or a multiple of it"));
    }
    if whole && !samples.is_multiple_of(n.max(1)) {
        let message = format!("{samples} samples are not a whole number of groups of {n}");
        return Err(Violation::new(message).hint("make `pool_samples` a multiple of `n`"));
    }
    Ok(())
}

impl BonSft {
    /// How often each sample is an example: its weight.
    pub fn weights(&self, rewards: &[f64], draw: &mut dyn Draw) -> Result<Vec<f64>, Error> {
        let mut weights = vec![0.0; rewards.len()];
        match self.choose {
            Choose::Groups => {
                for (group, rewards) in rewards.chunks_exact(self.n).enumerate() {
                    if let Some(place) = best(rewards, draw) {
                        weights[group * self.n + place] = 1.0;
                    }
                }
            }
            Choose::Subsets => {
                let ranked = Ranked::new(rewards.to_vec()).map_err(Error::other)?;
                weights = ranked.best_of(self.n).map_err(Error::other)?;
            }
        }
        Ok(weights)
    }
}

/// A completion and how much it counts.
#[derive(Debug)]
pub struct Weighted {
    example: Example,
    weight: f64,
    reward: f64,
}

impl Pooled for BonSft {
    fn samples(&self) -> usize {
        self.pool_samples
    }

    fn rows_per_prompt(&self) -> usize {
        match self.choose {
            Choose::Groups => self.pool_samples / self.n.max(1),
            // Where all rewards are equal, each sample is the best as often as the others.
            Choose::Subsets => self.pool_samples,
        }
    }

    fn rows(&self, scored: Scored<'_>, draw: &mut dyn Draw) -> Result<Vec<Weighted>, Error> {
        let weights = self.weights(scored.rewards, draw)?;
        let chosen = weights.into_iter().enumerate().filter(|(_, weight)| *weight > 0.0);
        let row = |(place, weight)| Weighted {
            example: scored.example(place),
            weight,
            reward: scored.rewards[place],
        };
        Ok(chosen.map(row).collect())
    }
}

impl Objective for BonSft {
    type Row = Weighted;

    fn tokens(row: &Weighted) -> usize {
        row.example.ids.len()
    }

    fn weight(row: &Weighted) -> f64 {
        row.weight
    }

    const DIVIDED_BY_THE_MEAN: bool = true;

    fn forward(&self, decoder: &Decoder, rows: &[&Weighted], checkpointing: bool) -> Forward {
        let examples: Vec<&Example> = rows.iter().map(|row| &row.example).collect();
        example_log_probs(decoder, &examples, checkpointing)
    }

    fn loss(&self, rows: &[&Weighted], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        let log_probs = sums(forward);
        for ((row, log_prob), count) in rows.iter().zip(&log_probs).zip(&forward.counts) {
            let loss = -row.weight * log_prob;
            meters.add_sum(&format!("{prefix}loss"), loss, row.weight);
            meters.add_sum(&format!("{prefix}loss_per_token"), loss, row.weight * *count as f64);
            meters.add_sum(&format!("{prefix}reward"), row.weight * row.reward, row.weight);
        }
        let per_row: Vec<f64> = rows.iter().map(|row| -row.weight).collect();
        BatchLoss { coefficients: spread(forward, &per_row) }
    }
}
