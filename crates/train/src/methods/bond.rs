//! Best-of-N distillation (BOND, arXiv 2407.14622): the policy minimises the Jeffreys divergence
//! `(1−b) KL(π_N ‖ π) + b KL(π ‖ π_N)` to best-of-N of the anchor.
//!
//! - The forward half (Eq. 13) is the negative log-likelihood of the best of N fresh samples of the anchor.
//! - The backward half (Eq. 15) is a policy gradient with the return `(N−1) log F̂ − (log π − log anchor)`, `F̂` counted among
//!   the same fresh samples, k of them.
//! - With `update_every` the anchor becomes the policy every so many steps (Alg. 1): small N, repeated, follows best-of-N^k.
//!   Nothing stops it by itself; `kl_limit` does.
//!
//! Deviations: (1) the return has the logarithm that the paper's text leaves out and its derivation needs; (2) `log F` is
//! estimated by `H_K − H_k` with K counted non-strictly, which is finite where no sample is beaten; (3) the baseline is
//! the mean of the other rollouts of the prompt, or with one rollout a prompt that of the batch, as in the paper.

use objective::algebra::{Composition, Estimator, Value, Weights};
use objective::rank::{CachedRewards, Ties};
use recipe::{Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::anchor::Motion;
use crate::error::Error;
use crate::on_policy::{Compose, Plan, pool_can_tell};

/// `[method.bond]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bond {
    /// N of the best-of-N that is distilled; whole unless `b = 1`.
    #[schemars(extend("exclusiveMinimum" = 1))]
    pub n: f64,
    /// Weight of the backward divergence: 0 is fine-tuning on the best of N, 1 is variational best-of-N.
    #[schemars(range(min = 0, max = 1))]
    pub b: f64,
    /// Fresh samples of the anchor per prompt and step, k: ranks are taken among all, the best of the first N is learned.
    #[schemars(range(min = 2))]
    pub samples: usize,
    /// Rollouts of the policy per prompt and step.
    #[schemars(range(min = 1))]
    pub rollouts: usize,
    /// Steps after which the anchor becomes the policy; left out, it stays.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update_every: Option<usize>,
    /// Ends training when the policy is further than this from the model it began as, nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_limit: Option<f64>,
}

impl Default for Bond {
    fn default() -> Self {
        Self { n: 4.0, b: 0.5, samples: 16, rollouts: 1, update_every: None, kl_limit: None }
    }
}

impl Validate for Bond {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["n", "b"], best_is_of_whole_n(self));
        rules.check(&["samples", "n"], samples_hold_n(self));
    }
}

fn best_is_of_whole_n(bond: &Bond) -> Result<(), Violation> {
    if bond.b == 1.0 || bond.n.fract() == 0.0 {
        return Ok(());
    }
    let message = format!("the forward half learns the best of n samples, and n = {} is not whole", bond.n);
    Err(Violation::new(message).hint("round `n`, or set `b = 1`, which takes any n"))
}

fn samples_hold_n(bond: &Bond) -> Result<(), Violation> {
    if bond.b < 1.0 && (bond.samples as f64) < bond.n {
        let message = format!("{} samples hold no best of {}", bond.samples, bond.n);
        return Err(Violation::new(message).hint("raise `samples` to n at least"));
    }
    pool_can_tell(bond.samples, bond.n, "samples")
}

impl Compose for Bond {
    fn answers(&self) -> (&'static str, usize) {
        ("rollouts", self.rollouts)
    }

    fn least_batch(&self) -> usize {
        // The baseline of a prompt's only rollout is the mean of the batch's others.
        if self.rollouts == 1 { 2 } else { 1 }
    }

    fn compose(&self, _: &[CachedRewards]) -> Result<Plan, Error> {
        let beta = 1.0 / (self.n - 1.0);
        let objective = Composition {
            value: Value::LogQuantile { ties: Ties::NonStrict },
            weights: Weights::jeffreys(self.b, beta, 0.0).map_err(Error::other)?,
            estimator: Estimator::Rloo,
            rollouts: self.rollouts,
            anchor_samples: self.samples,
            best_of: self.n as usize,
        };
        let motion = self.update_every.map_or(Motion::Fixed, |every| Motion::Steps { every });
        Ok(Plan { motion, kl_limit: self.kl_limit, ..Plan::fixed(objective) })
    }
}
