//! Variational best-of-N (arXiv 2407.06057): the policy minimises `KL(π ‖ π_N)` to the best-of-N law of the model that
//! training begins with.
//!
//! - `bound`: reward `log F̂(r(y))`, KL coefficient `1/(N−1)` (the paper's L1).
//! - `exact`: reward `(log π_N − log π_ref)/N`, KL coefficient `1/N`.
//!
//! `F̂` counts among M cached samples of the reference per prompt. Policy gradient: sequence-level REINFORCE on the return
//! (k1 in the reward), leave-one-out baseline over the rollouts of a prompt.
//!
//! Deviations from the public code: (1) the exact form's coefficient is `1/N`, not `1/(N−1)`; (2) N is any real number;
//! (3) `log F` is estimated by `H_K − H_M` with K counted non-strictly, not by `log((K+1)/(M+1))`; (4) ties have their own
//! term in the exact form; (5) RLOO instead of PPO with a value head.

use objective::algebra::{Composition, Estimator, Value, Weights};
use objective::losses::{Vbon as Target, VbonForm};
use objective::rank::CachedRewards;
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::on_policy::{Compose, Plan, TieRule, pool_can_tell};

/// `[method.vbon]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vbon {
    /// N of the best-of-N that is distilled; any real number above 1.
    #[schemars(extend("exclusiveMinimum" = 1))]
    pub n: f64,
    /// Which form of the objective.
    pub form: Form,
    /// Cached samples of the reference per prompt, M.
    #[schemars(range(min = 2))]
    pub pool_samples: usize,
    /// Rollouts per prompt and step; the baseline of each is the mean of the others.
    #[schemars(range(min = 2))]
    pub rollouts: usize,
    /// How equal rewards count in F.
    pub ties: TieRule,
}

/// Forms of the objective.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The lower bound L1.
    #[default]
    Bound,
    /// The log-ratio of best-of-N itself.
    Exact,
}

impl Default for Vbon {
    fn default() -> Self {
        Self { n: 8.0, form: Form::Bound, pool_samples: 16, rollouts: 4, ties: TieRule::NonStrict }
    }
}

impl Validate for Vbon {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["pool_samples", "n"], pool_can_tell(self.pool_samples, self.n, "pool_samples"));
    }
}

impl Compose for Vbon {
    fn pool_samples(&self) -> usize {
        self.pool_samples
    }

    fn answers(&self) -> (&'static str, usize) {
        ("rollouts", self.rollouts)
    }

    fn compose(&self, _: &[CachedRewards]) -> Result<Plan, Error> {
        let form = match self.form {
            Form::Bound => VbonForm::Bound,
            Form::Exact => VbonForm::Exact,
        };
        let target = Target { n: self.n, form };
        target.validate().map_err(Error::other)?;
        let weights = Weights::regularised(target.kl_coefficient());
        let value = Value::Vbon { target, ties: self.ties.into() };
        Ok(Plan::fixed(Composition::policy_gradient(value, weights, Estimator::Rloo, self.rollouts)))
    }
}
