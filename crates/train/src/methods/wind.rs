//! WIND (arXiv 2410.20727): the policy that is the best answer to itself in a KL-regularised win-rate game, reached by rounds.
//!
//! In a round, answers are drawn from the policy that the round began with, their win rates are counted among each other, and
//! their log-probabilities are regressed onto those of the exact next iterate:
//! `(log π − a log π_t − c log π_ref − d (ŵ − 1/2))²` with `a = 1/(1+βη)`, `c = βηa`, `d = ηa`. With `beta = 0` it is SPPO.
//!
//! Losses of a round: `squared`, the above; `kl`, the answers' likelihood weighted by the iterate's ratio `ω` to `π_t`; `nce`,
//! noise-contrastive estimation (Gutmann and Hyvärinen 2010) of the iterate as data with `π_t` as noise: the answers of `π_t`
//! serve as noise with weight 1 and as data with weight `ω`, and a classifier whose logit is `log π(y) − log π_t(y)` tells
//! the two apart, `−ω log σ(h) − log σ(−h)`. That loss is least at `h = log ω` for every answer alone, and `π = ω π_t` is a
//! law because `ω` has mean 1 under `π_t`: the minimum is the exact iterate, and no other law has it. The paper's own form
//! could not be read; this one is ours. In `ω` a half stands for the logarithm of its normaliser, as in the squared loss; at
//! `d = 2`, the most that it may be here, the minimum is less than 0.001 nats from the exact iterate.
//!
//! Deviations from the paper: (1) answers of a round are drawn anew at every step; (2) preferences come from a reward's order,
//! or from its differences (Bradley–Terry), and not from a pairwise ranker; (3) the weights of
//! the KL and the NCE loss are not the exponential of a counted win rate, which is too large on average, but
//! an unbiased estimate of a
//! polynomial in the win rate that is the exponential to 1 % of its logarithm; settings for which the answers
//! are too few for that are
//! refused; (4) the NCE loss as said above; (5) 4 answers by default where SPPO has 5: they divide
//! the default batch.

use objective::game::{Game, Preference, UnbiasedExponential, Wind as Objective, WindLoss};
use objective::rank::CachedRewards;
use recipe::{Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::anchor::Motion;
use crate::error::Error;
use crate::on_policy::{Compose, Plan};

/// `[method.wind]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Wind {
    /// KL coefficient of the game, in win rate per nat; 0 is SPPO.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// Step of a round: how far in nats a certain win moves an answer.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eta: f64,
    /// Answers per prompt and step; the default divides the default `optim.batch_size`.
    #[schemars(range(min = 2))]
    pub samples: usize,
    /// Steps of a round.
    #[schemars(range(min = 1))]
    pub round: usize,
    /// How answers are compared.
    pub preference: PreferenceName,
    /// How a round learns the next iterate.
    pub loss: LossName,
    /// Ends training when the policy is further than this from the model it began as, nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_limit: Option<f64>,
}

/// How a round learns the next iterate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LossName {
    /// Regression of the answers' log-probabilities onto the iterate's.
    #[default]
    Squared,
    /// The answers' likelihood, weighted by the iterate's ratio to the round's policy: `KL(next ‖ π)`.
    Kl,
    /// Noise-contrastive: the iterate is told apart from the round's policy.
    Nce,
}

/// Ways to compare two answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PreferenceName {
    /// The larger reward wins; ties count one half.
    Rank {},
    /// `sigmoid((r − r') / scale)`.
    Logistic {
        /// Divides the difference of rewards.
        #[schemars(extend("exclusiveMinimum" = 0))]
        scale: f64,
    },
}

impl Default for Wind {
    fn default() -> Self {
        Self {
            beta: 0.2,
            eta: 1.0,
            samples: 4,
            round: 10,
            preference: PreferenceName::Rank {},
            loss: LossName::Squared,
            kl_limit: None,
        }
    }
}

impl Validate for Wind {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["eta", "loss"], contrast_is_least_at_the_iterate(self));
        rules.check(&["samples", "eta", "loss"], weights_are_unbiased(self));
    }
}

/// The loss of NCE leans on the mean of its weights.
fn contrast_is_least_at_the_iterate(wind: &Wind) -> Result<(), Violation> {
    const MOST: f64 = 2.0;
    let (_, _, d) = Game { beta: wind.beta, eta: wind.eta }.exponents();
    if wind.loss != LossName::Nce || d <= MOST {
        return Ok(());
    }
    let message = format!(
        "a round moves an answer by up to {d:.1} nats, and beyond {MOST} the noise-contrastive loss is least elsewhere than at the next iterate"
    );
    Err(Violation::new(message)
        .hint(format!("lower `eta` to {MOST} or raise `beta`, or take the squared loss")))
}

/// The weights of the KL and of NCE are polynomials in a win rate, of a degree up to the number of
/// comparisons.
fn weights_are_unbiased(wind: &Wind) -> Result<(), Violation> {
    /// Of the logarithm of a weight, relative to the largest one.
    const TOLERANCE: f64 = 0.01;
    const MOST_SAMPLES: usize = 16;
    let (_, _, d) = Game { beta: wind.beta, eta: wind.eta }.exponents();
    let serves = |samples: usize| {
        let comparisons = samples.saturating_sub(1).max(1);
        UnbiasedExponential::new(d, comparisons).error(comparisons) <= TOLERANCE
    };
    if wind.loss == LossName::Squared || serves(wind.samples) {
        return Ok(());
    }
    let message = format!(
        "a round moves an answer by up to {d:.2} nats, and weights of exp({d:.2} w) have no estimate from {} comparisons that is right to {} %",
        wind.samples.saturating_sub(1),
        100.0 * TOLERANCE
    );
    let enough = (wind.samples + 1..=MOST_SAMPLES).find(|samples| serves(*samples));
    Err(Violation::new(message).hint(match enough {
        Some(samples) => format!("raise `samples` to {samples}, lower `eta`, or take the squared loss"),
        None => "lower `eta` or raise `beta`, or take the squared loss".to_owned(),
    }))
}

impl Compose for Wind {
    fn answers(&self) -> (&'static str, usize) {
        ("samples", self.samples)
    }

    fn compose(&self, _: &[CachedRewards]) -> Result<Plan, Error> {
        let game = Game { beta: self.beta, eta: self.eta };
        game.validate().map_err(Error::other)?;
        let preference = match self.preference {
            PreferenceName::Rank {} => Preference::Rank,
            PreferenceName::Logistic { scale } => Preference::Logistic { scale },
        };
        let loss = match self.loss {
            LossName::Squared => WindLoss::Squared,
            LossName::Kl => WindLoss::Kl,
            LossName::Nce => WindLoss::Nce,
        };
        let objective = Objective { loss, game, preference, samples: self.samples };
        Ok(Plan {
            motion: Motion::Steps { every: self.round },
            kl_limit: self.kl_limit,
            ..Plan::fixed(objective)
        })
    }
}
