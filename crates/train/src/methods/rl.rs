//! KL-regularised reinforcement learning on the reward itself: `max E_π[r] − β KL(π ‖ π_ref)`, whose optimum is
//! `π_ref exp(r/β) / Z` with a normaliser of its own for every prompt.
//!
//! REINFORCE (Williams 1992), RLOO (arXiv 2402.14740), GRPO (arXiv 2402.03300) and PPO (arXiv 1707.06347, with a value head and
//! GAE) are estimators of its gradient.
//!
//! Deviations from the public code (TRL): (1) the KL is `log π − log π_ref` of the whole answer within the return for every
//! estimator (of each token in PPO); in GRPO there it is `k3` per token in the loss, whose gradient is that of the *other* direction, `KL(π_ref ‖ π)`;
//! (2) the log-probability of an answer is the sum over its tokens, not their mean; (3) one update for each batch of answers,
//! so there is no ratio to clip, but with PPO, whose own deviations are in `on_policy/ppo.rs`.

use objective::algebra::{Composition, Value, Weights};
use objective::rank::CachedRewards;
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::on_policy::{Compose, EstimatorName, Plan, Ppo, estimator_fits};

/// `[method.rl]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rl {
    /// KL coefficient, in units of the reward per nat.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// How the gradient is estimated.
    pub estimator: EstimatorName,
    /// Settings of `estimator = "ppo"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppo: Option<Ppo>,
    /// Answers per prompt and batch; with REINFORCE and PPO one is enough.
    #[schemars(range(min = 1))]
    pub rollouts: usize,
    /// Ends training when the policy is further than this from the model it began as, nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_limit: Option<f64>,
}

impl Default for Rl {
    fn default() -> Self {
        Self { beta: 0.05, estimator: EstimatorName::Rloo, ppo: None, rollouts: 4, kl_limit: None }
    }
}

impl Validate for Rl {
    fn validate(&self, rules: &mut Rules) {
        let fits = estimator_fits(self.estimator, self.ppo.as_ref(), self.rollouts);
        rules.check(&["estimator", "ppo", "rollouts"], fits);
    }
}

impl Compose for Rl {
    fn answers(&self) -> (&'static str, usize) {
        ("rollouts", self.rollouts)
    }

    fn ppo(&self) -> Option<Ppo> {
        Ppo::of(self.estimator, self.ppo.as_ref())
    }

    fn compose(&self, _: &[CachedRewards]) -> Result<Plan, Error> {
        let weights = Weights::regularised(self.beta);
        let objective =
            Composition::policy_gradient(Value::Raw, weights, self.estimator.into(), self.rollouts);
        Ok(Plan { kl_limit: self.kl_limit, ..Plan::fixed(objective) })
    }
}
