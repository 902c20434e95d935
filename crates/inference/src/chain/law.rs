//! The laws that chains have as targets, relative to the law drawn from.

use serde::{Deserialize, Serialize};

/// What a target looks at of a completion.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Scored {
    /// Its tokens, the end-of-sequence token included; at least 1.
    pub len: usize,
    /// How many cuts the law of cuts at the ends of steps allows; at least 1. Other laws of cuts do not look at it.
    pub steps: usize,
    /// Its reward, finite; 0 where the target does not look at it.
    pub reward: f64,
    /// `ln q(y)` under the law drawn from, in nats; 0 where the target does not look at it.
    pub log_drawn: f64,
    /// `ln p(y)` under the policy's raw law, in nats; 0 where the target does not look at it.
    pub log_raw: f64,
}

/// The target of a chain that draws from `q`, on the support of `q`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// `q(y) exp(r(y) / beta) / Z`.
    Tilted {
        /// Divides the rewards; above 0.
        beta: f64,
    },
    /// `exp(r(y) / beta) / Z`, whatever `q` is.
    Gibbs {
        /// Divides the rewards; above 0.
        beta: f64,
    },
    /// `p(y)^alpha / Z` of the policy's raw law `p`, whatever `q` is.
    Power {
        /// The exponent; above 0.
        alpha: f64,
    },
    /// Every move is accepted. With uniform cuts the law is `|y| q(y) / Z`.
    Walk,
}

impl Law {
    /// `beta` or `alpha`.
    pub fn parameter(self) -> Option<f64> {
        match self {
            Self::Tilted { beta } | Self::Gibbs { beta } => Some(beta),
            Self::Power { alpha } => Some(alpha),
            Self::Walk => None,
        }
    }

    /// The law with another `beta` or `alpha`.
    #[must_use]
    pub fn with(self, parameter: f64) -> Self {
        match self {
            Self::Tilted { .. } => Self::Tilted { beta: parameter },
            Self::Gibbs { .. } => Self::Gibbs { beta: parameter },
            Self::Power { .. } => Self::Power { alpha: parameter },
            Self::Walk => Self::Walk,
        }
    }

    /// The key of the parameter in a recipe.
    pub(super) fn key(self) -> &'static str {
        match self {
            Self::Tilted { .. } | Self::Gibbs { .. } => "beta",
            Self::Power { .. } => "alpha",
            Self::Walk => "steps",
        }
    }

    /// What makes the target easier to reach.
    pub(super) fn easier(self) -> &'static str {
        match self {
            Self::Tilted { .. } | Self::Gibbs { .. } => "raise beta or steps",
            Self::Power { .. } => "lower alpha or raise steps",
            Self::Walk => "raise steps",
        }
    }

    /// Whether rewards decide.
    pub(super) fn uses_rewards(self) -> bool {
        matches!(self, Self::Tilted { .. } | Self::Gibbs { .. })
    }

    /// Whether log-probabilities decide.
    pub(super) fn uses_log_probs(self) -> bool {
        matches!(self, Self::Gibbs { .. } | Self::Power { .. })
    }

    /// `ln(w(to) / w(from))` with `w = target / q`. Finite for finite rewards and log-probabilities, however small `beta`
    /// is.
    ///
    /// ```
    /// use inference::chain::{Law, Scored};
    ///
    /// let from = Scored { len: 3, reward: 1.0, ..Scored::default() };
    /// let to = Scored { reward: 2.0, ..from };
    /// assert_eq!(Law::Tilted { beta: 0.5 }.log_ratio(&from, &to), 2.0);
    /// ```
    pub fn log_ratio(self, from: &Scored, to: &Scored) -> f64 {
        let drawn = from.log_drawn - to.log_drawn;
        let ratio = match self {
            Self::Tilted { beta } => (to.reward - from.reward) / beta,
            Self::Gibbs { beta } => (to.reward - from.reward) / beta + drawn,
            Self::Power { alpha } => alpha * (to.log_raw - from.log_raw) + drawn,
            Self::Walk => (to.len as f64 / from.len as f64).ln(),
        };
        ratio.clamp(f64::MIN, f64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_those_of_the_targets_to_the_law_drawn_from() {
        let from = Scored { len: 2, steps: 1, reward: 0.3, log_drawn: -1.2, log_raw: -2.0 };
        let to = Scored { len: 5, steps: 2, reward: -0.4, log_drawn: -3.1, log_raw: -2.9 };
        let same = |law: Law, want: f64| {
            assert!((law.log_ratio(&from, &to) - want).abs() < 1e-14, "{law:?}");
            assert_eq!(law.log_ratio(&from, &from), 0.0);
        };
        same(Law::Tilted { beta: 0.7 }, -1.0);
        same(Law::Gibbs { beta: 0.7 }, -1.0 + 1.9);
        same(Law::Power { alpha: 4.0 }, -3.6 + 1.9);
        same(Law::Walk, 2.5_f64.ln());
    }

    #[test]
    fn tiny_betas_do_not_overflow() {
        let from = Scored { reward: -1e300, ..Scored::default() };
        let to = Scored { reward: 1e300, ..from };
        assert_eq!(Law::Tilted { beta: 1e-300 }.log_ratio(&from, &to), f64::MAX);
        assert_eq!(Law::Tilted { beta: 0.5 }.with(2.0).parameter(), Some(2.0));
    }
}
