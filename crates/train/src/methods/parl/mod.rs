//! Reward and policy learned by turns, on preferences about the current policy's own answers (after PARL, arXiv 2308.02585).
//!
//! In a round: two answers of the *current* policy are drawn for each of some prompts and labelled by the recipe's `[reward]`,
//! the better one with probability `sigmoid((r − r′) / temperature)`; the reward model goes on from the last round's for
//! `reward_steps` updates of the Bradley–Terry loss on these pairs (and those of `replay` earlier rounds); then the policy
//! makes `policy_steps` updates of `max E[r̂] − beta KL(π ‖ π_ref)` on that reward model `r̂`, by any estimator of `rl`. Rounds
//! follow each other until `optim.steps` policy updates are made. Where both phases end at their optimum the policy is
//! `π_ref exp(r / (temperature · beta)) / Z`; labels of a fixed policy leave `r̂` a guess where that policy does not go.
//!
//! Each checkpoint has the reward model beside the policy, in the folder `reward`.
//!
//! Deviations from the paper: (1) PARL is a bilevel problem whose upper level (the reward) has a hypergradient through the
//! policy that the lower level returns, `∇²` of the lower level inverted; here the two levels alternate and that term is left
//! out, so that the reward is fitted to the policy as it is, and not to how the policy will answer to it; (2) labels come
//! from a reward that is known, which stands for the people who are asked; (3) pairs of identical answers are left out, and at
//! temperature 0 those of equal reward; (4) the KL to the reference is in the policy's return.

mod judge;
mod task;

pub use judge::prefers_first;
pub use task::{Parl as ParlTask, Turns};

use objective::algebra::{Composition, Value, Weights};
use objective::rank::CachedRewards;
use recipe::{ModelName, Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::on_policy::{Compose, EstimatorName, Plan, Ppo, estimator_fits};

/// `[method.parl]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Parl {
    /// KL coefficient, in units of the learned reward per nat.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// How the policy's gradient is estimated.
    pub estimator: EstimatorName,
    /// Settings of `estimator = "ppo"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppo: Option<Ppo>,
    /// Answers per prompt and batch; with REINFORCE and PPO one is enough.
    #[schemars(range(min = 1))]
    pub rollouts: usize,
    /// Updates of the policy in a round.
    #[schemars(range(min = 1))]
    pub policy_steps: usize,
    /// Updates of the reward model in a round, before those of the policy.
    #[schemars(range(min = 1))]
    pub reward_steps: usize,
    /// Pairs of answers that a round draws and has labelled, one pair for each prompt.
    #[schemars(range(min = 1))]
    pub pairs: usize,
    /// Pairs per update of the reward model.
    #[schemars(range(min = 1))]
    pub reward_batch_size: usize,
    /// Learning rate of the reward model; it stays.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub reward_learning_rate: f64,
    /// Earlier rounds whose pairs are learned from again.
    pub replay: usize,
    /// Divides the difference of rewards in the probability of a label; 0 is the better one always.
    #[schemars(range(min = 0))]
    pub temperature: f64,
    /// The model that the reward model begins as; left out, that of the policy, with a new head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reward_model: Option<ModelName>,
    /// Ends training when the policy is further than this from the model it began as, nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_limit: Option<f64>,
}

impl Default for Parl {
    fn default() -> Self {
        Self {
            beta: 0.05,
            estimator: EstimatorName::Rloo,
            ppo: None,
            rollouts: 4,
            policy_steps: 10,
            reward_steps: 20,
            pairs: 64,
            reward_batch_size: 16,
            reward_learning_rate: 2e-4,
            replay: 1,
            temperature: 1.0,
            reward_model: None,
            kl_limit: None,
        }
    }
}

impl Validate for Parl {
    fn validate(&self, rules: &mut Rules) {
        let fits = estimator_fits(self.estimator, self.ppo.as_ref(), self.rollouts);
        rules.check(&["estimator", "ppo", "rollouts"], fits);
    }
}

impl Compose for Parl {
    fn answers(&self) -> (&'static str, usize) {
        ("rollouts", self.rollouts)
    }

    fn ppo(&self) -> Option<Ppo> {
        Ppo::of(self.estimator, self.ppo.as_ref())
    }

    fn forecast(&self) -> Vec<(&'static str, String)> {
        let Self { pairs, reward_steps, policy_steps, .. } = self;
        let round = format!(
            "{pairs} pairs, {reward_steps} updates of the reward model, {policy_steps} of the policy"
        );
        vec![("a round", round)]
    }

    fn compose(&self, _: &[CachedRewards]) -> Result<Plan, Error> {
        let weights = Weights::regularised(self.beta);
        let objective =
            Composition::policy_gradient(Value::Raw, weights, self.estimator.into(), self.rollouts);
        Ok(Plan { kl_limit: self.kl_limit, ..Plan::fixed(objective) })
    }
}
