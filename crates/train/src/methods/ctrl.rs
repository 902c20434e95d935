//! Calibrate, transform, KL-regularised RL (InfAlign-CTRL, arXiv 2412.19792): `max E_π[Φ(C)] − β KL(π ‖ π_ref)` with the
//! calibrated reward `C(y) = P(r' < r) + P(r' = r)/2` among M cached samples of the reference per prompt. The optimum
//! `π_ref exp(Φ(C)/β) / Z` wins most after the test-time procedure that `Φ` was made for.
//!
//! - `identity` for the plain win rate, `log` for best-of-N itself (N = 1 + 1/β), `power`, `exponential` with t > 0 for
//!   best-of-N and t < 0 for worst-of-N at test time, and `fixed-point`: the stationary tilt of such a procedure.
//! - The strength is `beta`, or `kl`: nats to spend on average over prompts, from which β is solved on the cached pools, ties
//!   included.
//!
//! - With `quantile`, `C` is the law of a head instead of a count among cached samples, and β that of the limit without ties.
//!
//! Deviations from the paper: (1) RLOO by default instead of PPO, which is `estimator = "ppo"`; (2) the return is in nats, `Φ/β` less the
//! log-ratio, so that one learning rate serves all tilts; (3) the fixed-point tilt is solved for instead of approximated by
//! exponentials; it is a stationary point, and no proof says that it is the best.

use objective::algebra::{Composition, Value, Weights};
use objective::design::{self, Design, Procedure};
use objective::error::InputError;
use objective::rank::CachedRewards;
use objective::tilt::Tilt;
use recipe::{ModelName, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::on_policy::{Compose, EstimatorName, Head, Plan, Ppo, TieRule, estimator_fits};

/// `[method.ctrl]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ctrl {
    /// The transform of the calibrated reward.
    pub tilt: TiltName,
    /// KL coefficient; instead of `kl`. Exponentials are not normalised: for `exp(10 u)` it is thousands.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta: Option<f64>,
    /// Nats that the optimum spends on average over prompts; instead of `beta`.
    #[schemars(range(max = 5), extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl: Option<f64>,
    /// Cached samples of the reference per prompt, M. With `quantile` none are cached, and log F, which the
    /// tilt `log` reads, is never
    /// below `−H_M`, the least that M samples can say.
    #[schemars(range(min = 2))]
    pub pool_samples: usize,
    /// A head trained by `quantile`, whose laws of rewards answers are ranked by: no samples are cached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantile: Option<ModelName>,
    /// How the gradient is estimated.
    pub estimator: EstimatorName,
    /// Settings of `estimator = "ppo"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ppo: Option<Ppo>,
    /// Answers per prompt and batch; with REINFORCE and PPO one is enough.
    #[schemars(range(min = 1))]
    pub rollouts: usize,
    /// N of the best-of-N and worst-of-N that the forecast of `--dry-run` is for.
    #[schemars(range(min = 1, max = 1000))]
    pub forecast_n: f64,
    /// Ends training when the policy is further than this from the model it began as, nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_limit: Option<f64>,
}

/// Transforms of the calibrated reward `u`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum TiltName {
    /// `u`.
    Identity {},
    /// `log u`.
    Log {},
    /// `u^exponent`.
    Power {
        /// Above 0.
        #[schemars(extend("exclusiveMinimum" = 0))]
        exponent: f64,
    },
    /// `exp(t u)`, or `−exp(t u)` for negative `t`.
    Exponential {
        /// Not 0.
        #[schemars(range(min = -100, max = 100))]
        t: f64,
    },
    /// The fixed point of a procedure; needs `kl`.
    FixedPoint {
        /// What is done at test time.
        procedure: ProcedureName,
        /// With how many answers.
        #[schemars(range(min = 1, max = 1000))]
        n: f64,
    },
}

/// Procedures at test time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ProcedureName {
    /// The best of N is kept.
    BestOfN,
    /// The worst of N counts.
    WorstOfN,
}

impl Default for Ctrl {
    fn default() -> Self {
        Self {
            tilt: TiltName::Identity {},
            beta: None,
            kl: None,
            pool_samples: 32,
            quantile: None,
            estimator: EstimatorName::Rloo,
            ppo: None,
            rollouts: 4,
            forecast_n: 4.0,
            kl_limit: None,
        }
    }
}

impl Validate for Ctrl {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["beta", "kl", "tilt"], one_strength(self));
        rules.check(&["tilt"], tilt_tilts(self));
        let fits = estimator_fits(self.estimator, self.ppo.as_ref(), self.rollouts);
        rules.check(&["estimator", "ppo", "rollouts"], fits);
        rules.check(&["pool_samples", "tilt"], pool_resolves_tilt(self));
        rules.check(&["kl", "tilt"], budget_is_met(self));
    }
}

fn one_strength(ctrl: &Ctrl) -> Result<(), Violation> {
    match (ctrl.beta, ctrl.kl) {
        (Some(_), Some(_)) => {
            Err(Violation::new("both beta and kl are given")
                .hint("keep `beta`, or `kl`, which solves for it"))
        }
        (None, None) => Err(Violation::new("the strength is not given").hint("set `kl` (nats) or `beta`")),
        (Some(_), None) if matches!(ctrl.tilt, TiltName::FixedPoint { .. }) => {
            Err(Violation::new("the fixed point is that of a KL budget, and only beta is given")
                .hint("set `kl` instead"))
        }
        _ => Ok(()),
    }
}

fn tilt_tilts(ctrl: &Ctrl) -> Result<(), Violation> {
    match ctrl.tilt {
        TiltName::Exponential { t: 0.0 } => {
            Err(Violation::new("exp(0 u) prefers nothing").hint("t > 0 for best-of-N, t < 0 for worst-of-N"))
        }
        _ => Ok(()),
    }
}

/// `E exp(t K/M)` is off by about `t² u(1−u) / 2M` of itself.
fn pool_resolves_tilt(ctrl: &Ctrl) -> Result<(), Violation> {
    let TiltName::Exponential { t } = ctrl.tilt else { return Ok(()) };
    let needed = (0.25 * t * t).ceil();
    if ctrl.quantile.is_some() || ctrl.pool_samples as f64 >= needed {
        return Ok(());
    }
    let message = format!(
        "exp({t} u) of a quantile among {} samples is off by more than half of itself",
        ctrl.pool_samples
    );
    Err(Violation::new(message)
        .hint(format!("raise `pool_samples` to {needed} at least, or take a smaller t")))
}

/// The optimum spends what was asked for.
fn budget_is_met(ctrl: &Ctrl) -> Result<(), Violation> {
    if ctrl.kl.is_none() || one_strength(ctrl).is_err() || tilt_tilts(ctrl).is_err() {
        return Ok(());
    }
    match ctrl.design() {
        Err(error @ InputError::Missed { .. }) => Err(Violation::new(error.to_string())
            .hint("lower `kl` or the tilt's `n` or `t`, or take another tilt")),
        _ => Ok(()),
    }
}

/// Nats below the best answer at which a fixed-point tilt's returns end. The optimum has a density of
/// `exp(−100)` there; that of
/// worst-of-32 goes on to 1e28 nats, and an answer of such a return would be all that a batch learns.
const DEPTH: f64 = 100.0;

impl Ctrl {
    /// The tilt, and the coefficient of the limit without ties.
    pub fn design(&self) -> Result<Design, InputError> {
        let tilt = match self.tilt {
            TiltName::Identity {} => Tilt::Identity,
            TiltName::Log {} => Tilt::Log,
            TiltName::Power { exponent } => Tilt::Power { exponent },
            TiltName::Exponential { t } => Tilt::Exponential { t },
            TiltName::FixedPoint { procedure, n } => {
                let procedure = match procedure {
                    ProcedureName::BestOfN => Procedure::BestOfN,
                    ProcedureName::WorstOfN => Procedure::WorstOfN,
                };
                design::fixed_point(procedure, n, self.kl.unwrap_or(1.0))?.tilt
            }
        };
        match (self.beta, self.kl) {
            (Some(beta), _) => Design::new(tilt, beta, self.forecast_n),
            (None, kl) => Design::of_budget(tilt, kl.unwrap_or(1.0), self.forecast_n),
        }
    }
}

impl Compose for Ctrl {
    fn pool_samples(&self) -> usize {
        if self.quantile.is_some() { 0 } else { self.pool_samples }
    }

    fn quantile(&self) -> Option<Head<'_>> {
        let head = |name| Head { name, ties: TieRule::MidRank, floor: self.pool_samples };
        self.quantile.as_ref().map(head)
    }

    fn answers(&self) -> (&'static str, usize) {
        ("rollouts", self.rollouts)
    }

    fn ppo(&self) -> Option<Ppo> {
        Ppo::of(self.estimator, self.ppo.as_ref())
    }

    fn compose(&self, cached: &[CachedRewards]) -> Result<Plan, Error> {
        let design = self.design().map_err(Error::other)?;
        let (beta, note) = match self.kl {
            None => (design.beta, None),
            // Quantiles of a continuous law are uniform whatever the prompt, so the limit without ties is exact.
            Some(kl) if self.quantile.is_some() => {
                (design.beta, Some(format!("ctrl: beta = {:.6} spends {kl} nats without ties", design.beta)))
            }
            Some(kl) => {
                let most = design::most_affordable(cached).map_err(Error::other)?;
                if kl >= 0.999 * most {
                    return Err(Error::Data {
                        what: "method.ctrl.kl".into(),
                        message: format!(
                            "{kl} nats are more than ranks can spend here: the answers of the best reward alone are {most:.3} nats away on average by the cached samples, since rewards tie\n  hint: lower `kl`, take a reward with fewer ties, or raise `pool_samples`"
                        ),
                    });
                }
                let solved = design::beta_for_budget(&design.tilt, cached, kl).map_err(Error::other)?;
                let note = format!(
                    "ctrl: beta = {:.6} spends {kl} nats on average over prompts (deviation {:.3}; without ties beta would be {:.6})",
                    solved.beta, solved.spread, design.beta
                );
                (solved.beta, Some(note))
            }
        };
        let value = Value::Calibrated(design.tilt.with_depth(DEPTH * beta));
        let weights = Weights::backward(beta);
        let objective = Composition::policy_gradient(value, weights, self.estimator.into(), self.rollouts);
        Ok(Plan { kl_limit: self.kl_limit, note, ..Plan::fixed(objective) })
    }

    fn forecast(&self) -> Vec<(&'static str, String)> {
        match self.design() {
            Ok(design) => vec![(
                "optimum",
                format!(
                    "without ties: beta {:.6}, KL {:.4}, win rate {:.4}, under best-of-{n} {:.4}, under worst-of-{n} {:.4}",
                    design.beta,
                    design.kl,
                    design.win_rate,
                    design.best_of,
                    design.worst_of,
                    n = self.forecast_n
                ),
            )],
            Err(error) => vec![("optimum", error.to_string())],
        }
    }
}
