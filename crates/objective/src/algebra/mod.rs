//! The algebra of on-policy methods: a **value** of each answer (the tilt's logarithm, raw or by ranks) × a **divergence**
//! from the target it defines × an **estimator** of the gradient. Which model the target is relative to, the **anchor**, and
//! how it moves is up to the trainer; here it is a log-probability.
//!
//! With anchor `a`, value `Phi` and coefficient `beta` the target is `a exp(Phi / beta) / Z`. A method is an [`Objective`]:
//! it says what has to be drawn for each prompt, and turns what was drawn into [`Term`]s, losses of the log-probabilities of
//! single answers. The expectation of their gradient is the gradient of the method's objective; tests take it by
//! enumeration.
//!
//! | method | value | divergence | anchor |
//! |---|---|---|---|
//! | vBoN | `log F` among cached samples | backward | fixed |
//! | RL | raw reward | backward | fixed |
//! | CTRL | any [`crate::tilt::Tilt`] of the calibrated reward | backward | fixed |
//! | BOND | `log F` among fresh samples | Jeffreys | fixed, or moved every so many steps |
//! | J-BOND | worst of three | Jeffreys | moving average |
//! | BoN-aware | raw reward of the best of N of the policy itself | backward | fixed |
//! | WIND | win rate against the anchor | squared, forward or contrastive, see [`crate::game`] | moved every round |

mod bon_aware;
mod composition;
mod estimator;
mod ppo;

pub use bon_aware::{BonAware, BonEstimator, alone_share};
pub use composition::{Composition, Value, Weights};
pub use estimator::Estimator;
pub use ppo::{Payments, Ppo, TokenLoss, TokenTerm, Trajectory};

use crate::error::InputError;
use crate::numeric::{log_sigmoid, sigmoid};
use crate::rank::CachedRewards;
use crate::reward_law::RewardLaw;

/// An answer drawn from the policy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rollout {
    /// Its reward.
    pub reward: f64,
    /// Its log-probability under the policy that drew it.
    pub log_policy: f64,
    /// Its log-probability under the anchor.
    pub log_anchor: f64,
}

impl Rollout {
    /// `log pi - log anchor` of the whole answer.
    pub fn log_ratio(&self) -> f64 {
        self.log_policy - self.log_anchor
    }
}

/// An answer drawn from the anchor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AnchorSample {
    /// Its reward.
    pub reward: f64,
    /// Its log-probability under the anchor, which drew it.
    pub log_anchor: f64,
    /// Its log-probability under the model that training began with.
    pub log_reference: f64,
}

/// What was drawn for one prompt.
#[derive(Clone, Debug, Default)]
pub struct Group<'a> {
    /// Rewards of cached samples of the reference, where there is a pool.
    pub cached: Option<&'a CachedRewards>,
    /// A learned law of the reference's rewards, which takes the place of the cached ones.
    pub law: Option<&'a RewardLaw>,
    /// Answers of the policy.
    pub policy: Vec<Rollout>,
    /// Answers of the anchor.
    pub anchor: Vec<AnchorSample>,
}

/// How many answers a step draws for each prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Draws {
    /// From the policy.
    pub policy: usize,
    /// From the anchor.
    pub anchor: usize,
}

/// A loss of one answer's log-probability under the policy, divided by a count of the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// The loss before division.
    pub loss: TermLoss,
    /// What it is divided by.
    pub divisor: f64,
}

/// Kinds of losses of a log-probability `l`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TermLoss {
    /// `c l`.
    Linear(f64),
    /// `(l - target)^2`.
    Squared {
        /// What the log-probability is to be.
        target: f64,
    },
    /// `-weight log sigmoid(h) - log sigmoid(-h)` with `h = l - noise`: least at `h = log weight`.
    Contrast {
        /// The log-probability under the noise.
        noise: f64,
        /// How often the answer is data for each time it is noise.
        weight: f64,
    },
}

impl TermLoss {
    /// Value and derivative at a log-probability.
    pub fn at(self, log_prob: f64) -> (f64, f64) {
        match self {
            Self::Linear(c) => (c * log_prob, c),
            Self::Squared { target } => {
                let residual = log_prob - target;
                (residual * residual, 2.0 * residual)
            }
            Self::Contrast { noise, weight } => {
                let h = log_prob - noise;
                (-weight * log_sigmoid(h) - log_sigmoid(-h), sigmoid(h) - weight * sigmoid(-h))
            }
        }
    }
}

/// The terms of one prompt, aligned with its [`Group`]; `None` where an answer is not trained on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    /// Of the policy's answers.
    pub policy: Vec<Option<Term>>,
    /// Of the anchor's answers.
    pub anchor: Vec<Option<Term>>,
}

/// Takes a metric: its name, a sum, and the number that the sum is over.
pub type Record<'r> = dyn FnMut(&'static str, f64, f64) + 'r;

/// An on-policy method.
pub trait Objective {
    /// What a step draws for each prompt.
    fn draws(&self) -> Draws;

    /// The terms of a step's loss from what was drawn, and metrics of it.
    fn terms(&self, groups: &[Group<'_>], record: &mut Record<'_>) -> Result<Vec<Terms>, InputError>;

    /// What the policy's answers earn and their tokens pay, and metrics of it, for an estimator that looks at tokens ([`Ppo`]).
    /// `None` where the method is not a payment for the policy's own answers less a KL.
    fn payments(
        &self,
        groups: &[Group<'_>],
        record: &mut Record<'_>,
    ) -> Result<Option<Payments>, InputError> {
        let _ = (groups, record);
        Ok(None)
    }
}
