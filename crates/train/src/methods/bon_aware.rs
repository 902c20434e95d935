//! BoN-aware fine-tuning (arXiv 2412.15287): the policy is trained for what it earns under best-of-N at test time,
//! `max E[r(best of N of π)] − β KL(π ‖ π_ref)`, and not to be like best-of-N.
//!
//! - `rl` (BoN-RL): the best answer is paid its lead over the second, `(r_best − r_second) ∇log π(y_best)`; with more rollouts
//!   than N the mean over all subsets of N.
//! - `rlb` (BoN-RLB, positive side): for rewards of 0 and 1, each success among K rollouts with `f` failures weighs
//!   `C(f, N−1) / C(K, N)`, how often it is alone among N of them. Its mean is `N p^(N−1)/K`, so that the sum is an unbiased estimate
//!   of the gradient of `1 − p^N`, `p` the probability of failure. On such rewards it is `rl` but for `clip`.
//!
//! The reward that chooses is the one that pays (BoN-RL-V).
//!
//! Deviations: (1) exact best-of-N instead of the paper's variational tilt of it; (2) the lead over the second as a baseline,
//! of the same mean as the reward of the best; (3) of BoN-RLB the positive side alone, since its negative side as quoted has
//! not the sign of the gradient, and without a plug-in: the paper's weight `N p^(N−1) (1−p) / (1−p^N)` of a
//! success of best-of-N is that
//! of a known p, and at a share of failures among a few rollouts it is too large on average, eightfold for
//! easy prompts; (4) the KL is in the return, with a leave-one-out baseline.

use objective::algebra::{BonAware as Objective, BonEstimator};
use objective::rank::CachedRewards;
use recipe::{Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::on_policy::{Compose, Plan};

/// `[method.bon-aware]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BonAware {
    /// N of the best-of-N at test time.
    #[schemars(range(min = 2))]
    pub n: usize,
    /// Which estimator.
    pub form: BonForm,
    /// Answers per prompt and step, at least `n`: the mean is over all choices of `n` of them.
    #[schemars(range(min = 2))]
    pub rollouts: usize,
    /// KL coefficient, in units of the reward per nat.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// The most of `rlb`'s share of choices of N − 1 other rollouts that all fail, which a success is weighed
    /// by; 1 clips nothing, less
    /// gives less to the hardest prompts and is no longer unbiased.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub clip: f64,
    /// Ends training when the policy is further than this from the model it began as, nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_limit: Option<f64>,
}

/// Estimators of the gradient under best-of-N.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BonForm {
    /// The best less the second.
    #[default]
    Rl,
    /// For rewards of 0 and 1.
    Rlb,
}

impl Default for BonAware {
    fn default() -> Self {
        Self { n: 4, form: BonForm::Rl, rollouts: 8, beta: 0.02, clip: 1.0, kl_limit: None }
    }
}

impl Validate for BonAware {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["rollouts", "n", "form"], rollouts_hold_n(self));
    }
}

fn rollouts_hold_n(settings: &BonAware) -> Result<(), Violation> {
    if settings.rollouts >= settings.n {
        return Ok(());
    }
    let message = format!("{} rollouts do not hold a best of {}", settings.rollouts, settings.n);
    Err(Violation::new(message).hint(format!("raise `rollouts` to {} at least", settings.n)))
}

impl Compose for BonAware {
    fn answers(&self) -> (&'static str, usize) {
        ("rollouts", self.rollouts)
    }

    fn compose(&self, _: &[CachedRewards]) -> Result<Plan, Error> {
        let estimator = match self.form {
            BonForm::Rl => BonEstimator::BestMinusSecond,
            BonForm::Rlb => BonEstimator::Binary { clip: self.clip },
        };
        let objective = Objective { n: self.n, rollouts: self.rollouts, beta: self.beta, estimator };
        objective.validate().map_err(Error::other)?;
        Ok(Plan { kl_limit: self.kl_limit, ..Plan::fixed(objective) })
    }
}
