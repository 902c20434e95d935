//! Self-play preference optimisation (arXiv 2405.00675, Eq. 4.6), one round: `(log π/π_t − η (w − ½))²` on samples of π_t, the
//! model that training begins with; w is the rate at which a sample wins against the others of its prompt.
//!
//! One round is a step of multiplicative weights, `π_{t+1} ∝ π_t exp(η w)`. More rounds are stages of a pipeline: each names
//! the stage before it as its model, and draws anew.
//!
//! A sample beats another with probability `σ(r − r')` of a reward on the scale of a preference model
//! (`preference = "logistic"`), or where its reward is larger, ties one half (`"ranks"`).
//!
//! Deviations from public code: (1) a sample's own draw is not among its opponents; (2) all samples of a prompt are regressed,
//! and not its best and worst alone; (3) ½ stands for `log Z / η`, which is right for small η only; with
//! `normaliser = "pool"` it comes from the prompt's samples. With ranks it is that of QRPO with the identity
//! and β = 1/η, which is exact
//! where no two rewards are equal, and so is the round; with the logistic preference it is the logarithm of
//! the mean of `exp(η w)`
//! for win rates among all samples, oneself with one half, which becomes exact as samples grow.

use data::render::Example;
use model::Decoder;
use model::learn::Forward;
use objective::draw::Draw;
use objective::losses::{QuantileTilt, log_mean_exp};
use objective::numeric::sigmoid;
use objective::rank::CachedRewards;
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::meters::Meters;
use crate::pooled::{Pooled, Regressed, Scored, regressed, regression};
use crate::supervised::{BatchLoss, Objective, example_log_probs};

/// `[method.sppo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sppo {
    /// Step size η of the round, 1/β in the paper, whose runs have 1000.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eta: f64,
    /// How a sample beats another.
    pub preference: Preference,
    /// What stands for `log Z`.
    pub normaliser: Normaliser,
    /// Samples of each prompt.
    #[schemars(range(min = 2))]
    pub pool_samples: usize,
}

/// How a sample beats another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Preference {
    /// By the logistic function of the difference of rewards.
    #[default]
    Logistic,
    /// By the larger reward; ties one half.
    Ranks,
}

/// What stands for `log Z`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Normaliser {
    /// η/2, as in the paper.
    #[default]
    Half,
    /// The samples of the prompt.
    Pool,
}

impl Default for Sppo {
    fn default() -> Self {
        Self { eta: 1000.0, preference: Preference::Logistic, normaliser: Normaliser::Half, pool_samples: 5 }
    }
}

impl Validate for Sppo {
    fn validate(&self, _: &mut Rules) {}
}

impl Sppo {
    /// The win rate of each sample of a prompt against the others.
    pub fn win_rates(&self, rewards: &[f64]) -> Vec<f64> {
        let beats = |a: f64, b: f64| match (self.preference, a.total_cmp(&b)) {
            (Preference::Logistic, _) => sigmoid(a - b),
            _ if a == b => 0.5,
            (Preference::Ranks, order) => f64::from(u8::from(order.is_gt())),
        };
        let others = (rewards.len().max(2) - 1) as f64;
        let rate = |(place, a): (usize, &f64)| {
            let opponents = rewards.iter().enumerate().filter(|(other, _)| *other != place);
            opponents.map(|(_, b)| beats(*a, *b)).sum::<f64>() / others
        };
        rewards.iter().enumerate().map(rate).collect()
    }

    /// What the log-ratio of each sample of a prompt is to become.
    pub fn targets(&self, rewards: &[f64]) -> Result<Vec<f64>, Error> {
        let mut targets: Vec<f64> = self.win_rates(rewards).into_iter().map(|w| self.eta * w).collect();
        let log_z = match self.normaliser {
            Normaliser::Half => 0.5 * self.eta,
            Normaliser::Pool => self.log_partition(rewards, &targets)?,
        };
        for target in &mut targets {
            *target -= log_z;
        }
        Ok(targets)
    }

    /// `log Z` as the samples of a prompt tell it; `paid` are η times their win rates against the others.
    fn log_partition(&self, rewards: &[f64], paid: &[f64]) -> Result<f64, Error> {
        match self.preference {
            Preference::Ranks => {
                let pool = CachedRewards::new(rewards.to_vec()).map_err(Error::other)?;
                Ok(QuantileTilt::Identity.log_partition_of(1.0 / self.eta, &pool))
            }
            Preference::Logistic => {
                let count = rewards.len() as f64;
                let among_all = |paid: &f64| (paid * (count - 1.0) + 0.5 * self.eta) / count;
                Ok(log_mean_exp(&paid.iter().map(among_all).collect::<Vec<_>>()))
            }
        }
    }
}

impl Pooled for Sppo {
    fn samples(&self) -> usize {
        self.pool_samples
    }

    fn rows_per_prompt(&self) -> usize {
        self.pool_samples
    }

    fn rows(&self, scored: Scored<'_>, _: &mut dyn Draw) -> Result<Vec<Regressed>, Error> {
        Ok(regressed(scored, self.targets(scored.rewards)?))
    }
}

impl Objective for Sppo {
    type Row = Regressed;

    fn tokens(row: &Regressed) -> usize {
        row.example.ids.len()
    }

    fn weight(_: &Regressed) -> f64 {
        1.0
    }

    fn forward(&self, decoder: &Decoder, rows: &[&Regressed], checkpointing: bool) -> Forward {
        let examples: Vec<&Example> = rows.iter().map(|row| &row.example).collect();
        example_log_probs(decoder, &examples, checkpointing)
    }

    fn loss(&self, rows: &[&Regressed], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        regression(rows, forward, prefix, meters, 1.0)
    }
}
