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
//! the KL and the NCE loss come from estimated win rates, and so are a little off where answers are few; (4) the NCE loss as said above; (5) 4 answers by default where SPPO has 5: they divide
//! the default batch.

use objective::game::{Game, Preference, Wind as Objective, WindLoss};
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
        rules.check(&["eta", "loss"], weights_stay_finite(self));
    }
}

/// The weights of the KL and of NCE are up to `exp(d)` times each other; the loss of NCE leans on their mean, too.
fn weights_stay_finite(wind: &Wind) -> Result<(), Violation> {
    const MOST: f64 = 20.0;
    const MOST_OF_NCE: f64 = 2.0;
    let d = wind.eta / (1.0 + wind.beta * wind.eta);
    if wind.loss == LossName::Nce && d > MOST_OF_NCE {
        let message = format!(
            "a round moves an answer by up to {d:.1} nats, and beyond {MOST_OF_NCE} the noise-contrastive loss is least elsewhere than at the next iterate"
        );
        return Err(Violation::new(message)
            .hint(format!("lower `eta` to {MOST_OF_NCE} or raise `beta`, or take the squared loss")));
    }
    if wind.loss == LossName::Squared || d <= MOST {
        return Ok(());
    }
    let message = format!(
        "a round moves an answer by up to {d:.1} nats, and a weight of exp({d:.1}) drowns all others"
    );
    Err(Violation::new(message)
        .hint(format!("lower `eta` to {MOST} or raise `beta`, or take the squared loss")))
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
