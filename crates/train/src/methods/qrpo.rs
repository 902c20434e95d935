//! Quantile reward policy optimisation (arXiv 2507.08068): `(Φ(q) − β log Z − β log π/π_ref)²` on samples of the model that
//! training begins with, q the quantile of a sample's reward among the others of its prompt.
//!
//! The optimum is the tilt `π_ref exp(Φ(C)/β) / Z` of the calibrated reward C, the same as CTRL's with that Φ, without
//! rollouts. Only ranks of rewards are seen.
//!
//! | `tilt` | Φ(u) | |
//! |---|---|---|
//! | `identity` | u | the most win rate for its KL |
//! | `log` | log u | best-of-N with N = 1 + 1/β |
//! | `power` | `u^t` | |
//! | `exp` | `(e^{tu} − 1)/(e^t − 1)` | t > 0 for use with best-of-N, t < 0 against worst-of-N |
//!
//! Deviations from public code: (1) a sample's quantile is its mid-rank among the *other* samples of its prompt, which is
//! unbiased for C; counting a sample among its own references, or ties in full, is not; (2) `log Z` is the
//! integral of `exp(Φ/β)` over
//! `[0, 1]`, exact where no two rewards are equal and not only for small β (`partition = "closed-form"`), or
//! with `"pool"` the same for
//! samples that tie with no other, each of which stands for 1/M of the quantiles, and the value of their own
//! for classes of ties: without
//! ties the same, with ties right as M grows. The mean of `exp(Φ/β)` at the ranks among the others would be
//! too large by a constant
//! (0.5 nats at the defaults), and the policy then goes further than the target; (3) `Φ = log` is estimated by `H_K − H_M`; (4) log-ratios
//! are sums over tokens.

use data::render::Example;
use model::Decoder;
use model::learn::Forward;
use objective::draw::Draw;
use objective::losses::QuantileTilt;
use objective::rank::CachedRewards;
use recipe::{Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::meters::Meters;
use crate::pooled::{Pooled, Regressed, Scored, regressed, regression};
use crate::supervised::{BatchLoss, Objective, example_log_probs};

/// `[method.qrpo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Qrpo {
    /// Strength β of the KL regularisation. The paper's runs have 0.0003 to 0.003.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// The function of the quantile.
    pub tilt: Tilt,
    /// The parameter of `power` and `exp`.
    pub t: f64,
    /// Where `log Z` comes from.
    pub partition: Partition,
    /// Samples of each prompt.
    #[schemars(range(min = 2))]
    pub pool_samples: usize,
}

/// Functions of the quantile.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Tilt {
    /// The quantile.
    #[default]
    Identity,
    /// Its logarithm.
    Log,
    /// A power of it.
    Power,
    /// An exponential of it.
    Exp,
}

/// Where `log Z` comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Partition {
    /// The samples of the prompt: exact where none tie, and right with equal rewards as samples grow.
    #[default]
    Pool,
    /// The integral over quantiles; where no two rewards are equal.
    ClosedForm,
}

impl Default for Qrpo {
    fn default() -> Self {
        Self { beta: 0.1, tilt: Tilt::Identity, t: 1.0, partition: Partition::Pool, pool_samples: 8 }
    }
}

impl Validate for Qrpo {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["t", "tilt"], tilt_is_one(self));
    }
}

fn tilt_is_one(qrpo: &Qrpo) -> Result<(), Violation> {
    let refuse = |error: objective::error::InputError| {
        Violation::new(error.to_string()).hint("set `t`, for instance 2 for `power`, 5 for `exp`")
    };
    qrpo.function().validate().map_err(refuse)
}

impl Qrpo {
    /// The function of the quantile.
    pub fn function(&self) -> QuantileTilt {
        match self.tilt {
            Tilt::Identity => QuantileTilt::Identity,
            Tilt::Log => QuantileTilt::Log,
            Tilt::Power => QuantileTilt::Power(self.t),
            Tilt::Exp => QuantileTilt::Exp(self.t),
        }
    }

    /// What the log-ratio of each sample of a prompt is to become.
    pub fn targets(&self, rewards: &[f64]) -> Result<Vec<f64>, Error> {
        let all = CachedRewards::new(rewards.to_vec()).map_err(Error::other)?;
        let mut targets = Vec::with_capacity(rewards.len());
        for reward in rewards {
            let rank = all.rank(*reward).map_err(Error::other)?;
            targets.push(self.function().of_rank(rank.among_others()) / self.beta);
        }
        let log_z = match self.partition {
            Partition::Pool => self.function().log_partition_of(self.beta, &all),
            Partition::ClosedForm => self.function().log_partition(self.beta),
        };
        for target in &mut targets {
            *target -= log_z;
        }
        Ok(targets)
    }
}

impl Pooled for Qrpo {
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

impl Objective for Qrpo {
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
        regression(rows, forward, prefix, meters, self.beta)
    }
}
