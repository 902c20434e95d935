//! WIND (arXiv 2410.20727): the policy that is the best answer to itself in a KL-regularised win-rate game, reached by rounds.
//!
//! In a round, answers are drawn from the policy that the round began with, their win rates are counted among each other, and
//! their log-probabilities are regressed onto those of the exact next iterate:
//! `(log π − a log π_t − c log π_ref − d (ŵ − 1/2))²` with `a = 1/(1+βη)`, `c = βηa`, `d = ηa`. With `beta = 0` it is SPPO.
//!
//! Deviations from the paper: (1) answers of a round are drawn anew at every step; (2) preferences come from a reward's order,
//! or from its differences (Bradley–Terry), and not from a pairwise ranker; (3) of its three losses the squared one alone.

use objective::game::{Game, Preference, SquaredWind};
use objective::rank::CachedRewards;
use recipe::{Rules, Validate};
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
    /// Answers per prompt and step.
    #[schemars(range(min = 2))]
    pub samples: usize,
    /// Steps of a round.
    #[schemars(range(min = 1))]
    pub round: usize,
    /// How answers are compared.
    pub preference: PreferenceName,
    /// Ends training when the policy is further than this from the model it began as, nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_limit: Option<f64>,
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
            samples: 5,
            round: 10,
            preference: PreferenceName::Rank {},
            kl_limit: None,
        }
    }
}

impl Validate for Wind {
    fn validate(&self, _: &mut Rules) {}
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
        let objective = SquaredWind { game, preference, samples: self.samples };
        Ok(Plan {
            motion: Motion::Steps { every: self.round },
            kl_limit: self.kl_limit,
            ..Plan::fixed(objective)
        })
    }
}
