//! Variational best-of-N (arXiv 2407.06057): the policy minimises `KL(π ‖ π_N)` to the best-of-N law of the model that
//! training begins with.
//!
//! - `bound`: reward `log F̂(r(y))`, KL coefficient `1/(N−1)` (the paper's L1).
//! - `exact`: reward `(log π_N − log π_ref)/N`, KL coefficient `1/N`.
//!
//! `F̂` counts among M cached samples of the reference per prompt. Policy gradient: sequence-level REINFORCE on the return
//! (k1 in the reward), leave-one-out baseline over the rollouts of a prompt, or another estimator.
//!
//! With `quantile`, `log F` is that of a head's law of rewards instead of an estimate from a count (BOND, Appendix B.1).
//!
//! Deviations from the public code: (1) the exact form's coefficient is `1/N`, not `1/(N−1)`; (2) N is any real number;
//! (3) `log F` is estimated by `H_K − H_M` with K counted non-strictly, not by `log((K+1)/(M+1))`; (4) ties have their own
//! term in the exact form; (5) RLOO by default instead of PPO with a value head, which is `estimator = "ppo"`.

use objective::algebra::{Composition, Value, Weights};
use objective::losses::{Vbon as Target, VbonForm};
use objective::rank::CachedRewards;
use recipe::{ModelName, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::on_policy::{Compose, EstimatorName, Head, Plan, Ppo, TieRule, estimator_fits, pool_can_tell};

/// `[method.vbon]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vbon {
    /// N of the best-of-N that is distilled; any real number above 1.
    #[schemars(extend("exclusiveMinimum" = 1))]
    pub n: f64,
    /// Which form of the objective.
    pub form: Form,
    /// Cached samples of the reference per prompt, M. With `quantile` none are cached, and log F is never
    /// below `−H_M`, the least that M
    /// samples can say.
    #[schemars(range(min = 2))]
    pub pool_samples: usize,
    /// A head trained by `quantile` with the same `ties`, whose laws of rewards give F: no samples are cached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantile: Option<ModelName>,
    /// How the gradient is estimated.
    #[serde(skip_serializing_if = "EstimatorName::is_default")]
    pub estimator: EstimatorName,
    /// Settings of `estimator = "ppo"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppo: Option<Ppo>,
    /// Rollouts per prompt and batch; with RLOO the baseline of each is the mean of the others, with PPO one is enough.
    #[schemars(range(min = 1))]
    pub rollouts: usize,
    /// How equal rewards count in F.
    pub ties: TieRule,
    /// Ends training when the policy is further than this from the model it began as, nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_limit: Option<f64>,
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
        Self {
            n: 8.0,
            form: Form::Bound,
            pool_samples: 16,
            quantile: None,
            estimator: EstimatorName::Rloo,
            ppo: None,
            rollouts: 4,
            ties: TieRule::NonStrict,
            kl_limit: None,
        }
    }
}

impl Validate for Vbon {
    fn validate(&self, rules: &mut Rules) {
        if self.quantile.is_none() {
            rules.check(&["pool_samples", "n"], pool_can_tell(self.pool_samples, self.n, "pool_samples"));
        }
        rules.check(&["quantile", "form"], law_has_no_ties(self));
        rules.check(&["ties", "form"], exact_counts_ties(self));
        let fits = estimator_fits(self.estimator, self.ppo.as_ref(), self.rollouts);
        rules.check(&["estimator", "ppo", "rollouts"], fits);
    }
}

fn law_has_no_ties(vbon: &Vbon) -> Result<(), Violation> {
    if vbon.quantile.is_none() || vbon.form == Form::Bound {
        return Ok(());
    }
    let message = "the exact form needs the mass of ties, which a head's law of rewards does not have";
    Err(Violation::new(message).hint("set `form = \"bound\"`, or leave `quantile` out for a pool of samples"))
}

/// `log π_N − log π_ref = (N−1) log F≤ + log B`: no other count of ties is that of best-of-N.
fn exact_counts_ties(vbon: &Vbon) -> Result<(), Violation> {
    if vbon.form == Form::Bound || vbon.ties == TieRule::NonStrict {
        return Ok(());
    }
    let message = "the exact form is that of best-of-N for F with ties counted in full, and these ties are counted otherwise";
    Err(Violation::new(message).hint("set `ties = \"non-strict\"`, or `form = \"bound\"`"))
}

impl Compose for Vbon {
    fn pool_samples(&self) -> usize {
        if self.quantile.is_some() { 0 } else { self.pool_samples }
    }

    fn quantile(&self) -> Option<Head<'_>> {
        self.quantile.as_ref().map(|name| Head { name, ties: self.ties, floor: self.pool_samples })
    }

    fn answers(&self) -> (&'static str, usize) {
        ("rollouts", self.rollouts)
    }

    fn ppo(&self) -> Option<Ppo> {
        Ppo::of(self.estimator, self.ppo.as_ref())
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
        let objective = Composition::policy_gradient(value, weights, self.estimator.into(), self.rollouts);
        Ok(Plan { kl_limit: self.kl_limit, ..Plan::fixed(objective) })
    }
}
