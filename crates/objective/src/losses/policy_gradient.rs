//! Policy-gradient surrogates: REINFORCE, and PPO's clipped importance ratio and clipped value loss.

use serde::{Deserialize, Serialize};

use crate::error::{InputError, in_range};

/// Surrogate loss of one sample (a sequence or a token) and its derivative with respect to the new log-probability.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyGradient {
    /// The surrogate; its value has no meaning beyond its derivative.
    pub loss: f64,
    /// Derivative with respect to the log-probability under the policy.
    pub gradient: f64,
    /// Whether the clip is active, so that the sample has no gradient.
    pub clipped: bool,
}

/// REINFORCE: `-A log pi`, derivative `-A`. With the mean over `n` samples the coefficient of each log-probability is
/// `-A / n`; with leave-one-out advantages ([`crate::advantage::rloo`]) that is RLOO. Descending it ascends `E[A]`.
///
/// The log-probability is that of the whole sequence when the advantage comes from a reward of the whole sequence; a
/// per-token product of ratios and log-probabilities is not its gradient.
pub fn reinforce(log_prob: f64, advantage: f64) -> PolicyGradient {
    PolicyGradient { loss: -advantage * log_prob, gradient: -advantage, clipped: false }
}

/// Range `[1 - low, 1 + high]` of the importance ratio.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Clip {
    /// Distance below one, in `[0, 1]`.
    pub low: f64,
    /// Distance above one, at least 0.
    pub high: f64,
}

impl Clip {
    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("clip low", self.low, "between 0 and 1", |c| (0.0..=1.0).contains(&c))?;
        in_range("clip high", self.high, "at least 0", |c| c >= 0.0)
    }
}

/// `max(-A rho, -A clip(rho))` with `rho = exp(log_ratio)`, `log_ratio` the new minus the old log-probability of a token, of
/// a sequence (their sum), or the mean over a sequence's tokens. The derivative is with respect to `log_ratio`; equal terms
/// take that of the first, as at `rho = 1`.
pub fn clipped(log_ratio: f64, advantage: f64, clip: Clip) -> PolicyGradient {
    let ratio = log_ratio.exp();
    let free = -advantage * ratio;
    let bounded = -advantage * ratio.clamp(1.0 - clip.low, 1.0 + clip.high);
    if bounded > free {
        PolicyGradient { loss: bounded, gradient: 0.0, clipped: true }
    } else {
        PolicyGradient { loss: free, gradient: free, clipped: false }
    }
}

/// Loss of a value and its derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueLoss {
    /// The loss.
    pub loss: f64,
    /// Derivative with respect to the value.
    pub gradient: f64,
    /// Whether the clip is active, so that the value has no gradient.
    pub clipped: bool,
}

/// `max((v - target)^2, (clip(v) - target)^2) / 2`, `v` clipped to at most `range` from what it was (PPO2, TRL); with range 0
/// it is not clipped.
pub fn clipped_value(value: f64, old: f64, target: f64, range: f64) -> ValueLoss {
    let free = value - target;
    if range > 0.0 {
        let bounded = value.clamp(old - range, old + range) - target;
        if bounded * bounded > free * free {
            return ValueLoss { loss: 0.5 * bounded * bounded, gradient: 0.0, clipped: true };
        }
    }
    ValueLoss { loss: 0.5 * free * free, gradient: free, clipped: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_policy_the_clipped_surrogate_has_the_gradient_of_reinforce() {
        let clip = Clip { low: 0.2, high: 0.2 };
        for advantage in [-1.5, 0.0, 2.0] {
            assert_eq!(clipped(0.0, advantage, clip).gradient, reinforce(-3.0, advantage).gradient);
        }
    }

    #[test]
    fn the_clip_stops_gains_and_not_losses() {
        let clip = Clip { low: 0.2, high: 0.2 };
        assert!(clipped(0.5, 1.0, clip).clipped && !clipped(-0.5, 1.0, clip).clipped);
        assert!(clipped(-0.5, -1.0, clip).clipped && !clipped(0.5, -1.0, clip).clipped);
        assert!(Clip { low: 1.2, high: 0.0 }.validate().is_err());
    }

    #[test]
    fn the_clip_of_a_value_stops_what_goes_to_the_target_and_not_what_goes_away() {
        // From 0 towards 1, and from 0 away from 1.
        assert!(clipped_value(0.5, 0.0, 1.0, 0.2).clipped && !clipped_value(-0.5, 0.0, 1.0, 0.2).clipped);
        for value in [-0.7, 0.1, 0.15] {
            let at = |v| clipped_value(v, 0.0, 1.0, 0.2).loss;
            let numeric = (at(value + 1e-6) - at(value - 1e-6)) / 2e-6;
            assert!((numeric - clipped_value(value, 0.0, 1.0, 0.2).gradient).abs() < 1e-8);
        }
    }
}
