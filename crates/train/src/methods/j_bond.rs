//! J-BOND (arXiv 2407.14622, Alg. 2): best-of-2 of an anchor that follows the policy as a moving average.
//!
//! For each prompt one answer of the policy and two of the anchor. The better of the two is learned with weight `1−b`; the
//! policy's own is worth `−log 16` if it is worse than both and 0 otherwise, less the log-ratio to the anchor, with weight `b`;
//! `gamma KL(π ‖ anchor)` regularises. After every step `anchor ← (1−eta) anchor + eta π`.
//!
//! The distance to the model it began as grows about linearly with steps, and nothing stops it by itself: `kl_limit` does.
//!
//! Deviations: (1) the regulariser's gradient is *added* to what is descended. Printed with a minus, as the paper's Alg. 2 has
//! it, descending it raises the KL; (2) "worse" is strict, where the text prints `≤` once; (3) with adapters the average is of
//! the products, not of the factors; (4) `log` of the ratio is that of whole answers.

use objective::algebra::{Composition, Estimator, Value, Weights};
use objective::rank::CachedRewards;
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::anchor::Motion;
use crate::error::Error;
use crate::on_policy::{Compose, Plan};

/// `[method.j-bond]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct JBond {
    /// Weight of the backward divergence.
    #[schemars(range(min = 0, max = 1))]
    pub b: f64,
    /// Regularisation towards the anchor: larger is slower, at less KL for the same reward.
    #[schemars(range(min = 0))]
    pub gamma: f64,
    /// Share of the policy that the anchor takes up at every step.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub eta: f64,
    /// Rollouts of the policy per prompt and step.
    #[schemars(range(min = 1))]
    pub rollouts: usize,
    /// Ends training when the policy is further than this from the model it began as, nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_limit: Option<f64>,
}

impl Default for JBond {
    fn default() -> Self {
        Self { b: 0.5, gamma: 0.0, eta: 0.02, rollouts: 1, kl_limit: None }
    }
}

impl Validate for JBond {
    fn validate(&self, _: &mut Rules) {}
}

impl Compose for JBond {
    fn answers(&self) -> (&'static str, usize) {
        ("rollouts", self.rollouts)
    }

    fn least_batch(&self) -> usize {
        // The baseline of a prompt's only rollout is the mean of the batch's others.
        if self.rollouts == 1 { 2 } else { 1 }
    }

    fn compose(&self, _: &[CachedRewards]) -> Result<Plan, Error> {
        let objective = Composition {
            value: Value::WorstOfThree,
            weights: Weights::jeffreys(self.b, 1.0, self.gamma).map_err(Error::other)?,
            estimator: Estimator::Rloo,
            rollouts: self.rollouts,
            anchor_samples: 2,
            best_of: 2,
        };
        let motion = Motion::Average { eta: self.eta };
        Ok(Plan { motion, kl_limit: self.kl_limit, ..Plan::fixed(objective) })
    }
}
