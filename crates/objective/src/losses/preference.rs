//! Reference-free preference losses: the loss of an autoregressive reward model (GenARM, Eq. 5) and SimPO.

use serde::{Deserialize, Serialize};

use super::PairLoss;
use crate::error::{InputError, in_range};
use crate::numeric::{log_sigmoid, sigmoid};

/// `-(1-e) log sigmoid(z) - e log sigmoid(-z)` and its derivative with respect to `z`.
pub(super) fn smoothed_logistic(z: f64, smoothing: f64) -> (f64, f64) {
    let loss = -(1.0 - smoothing) * log_sigmoid(z) - smoothing * log_sigmoid(-z);
    // sigmoid(-z) in each tail is computed without cancellation; with no smoothing it is the whole slope.
    let slope = -(1.0 - smoothing) * sigmoid(-z) + smoothing * sigmoid(z);
    (loss, slope)
}

pub(super) fn check_smoothing(smoothing: f64) -> Result<(), InputError> {
    in_range("label_smoothing", smoothing, "at least 0 and below 0.5", |e| (0.0..0.5).contains(&e))
}

/// `z = beta (log pi(chosen) - log pi(rejected)) - gamma`; loss `-(1-e) log sigmoid(z) - e log sigmoid(-z)`.
///
/// The loss of an autoregressive reward model, equal to DPO without reference. On Bradley–Terry preferences of a reward `r`
/// its optimum satisfies `beta log pi(y) = r(y) + constant`: relative to the uniform measure over strings, no base in it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Preference {
    /// Scale `beta_r` of the log-probabilities, above 0. Guidance with weight `alpha` tilts by `exp(alpha r / beta_r)`.
    pub beta: f64,
    /// Margin that the chosen answer must lead by.
    pub gamma: f64,
    /// Assumed share of flipped labels, in `[0, 0.5)`.
    pub label_smoothing: f64,
}

impl Preference {
    /// No margin and no label smoothing.
    pub fn new(beta: f64) -> Self {
        Self { beta, gamma: 0.0, label_smoothing: 0.0 }
    }

    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("beta", self.beta, "above 0", |b| b > 0.0)?;
        in_range("gamma", self.gamma, "finite", |_| true)?;
        check_smoothing(self.label_smoothing)
    }

    /// Loss of a pair of summed log-probabilities.
    pub fn pair(&self, chosen: f64, rejected: f64) -> PairLoss {
        let (loss, slope) =
            smoothed_logistic(self.beta * (chosen - rejected) - self.gamma, self.label_smoothing);
        PairLoss::of_margin(loss, slope, self.beta, self.beta)
    }
}

/// `-log sigmoid(beta (log pi(chosen) / n_chosen - log pi(rejected) / n_rejected) - gamma)`: SimPO, length-normalised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Simpo {
    /// Scale of the mean log-probabilities, above 0.
    pub beta: f64,
    /// Margin that the chosen answer must lead by.
    pub gamma: f64,
}

impl Simpo {
    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("beta", self.beta, "above 0", |b| b > 0.0)?;
        in_range("gamma", self.gamma, "finite", |_| true)
    }

    /// Loss of a pair of summed log-probabilities over `chosen_tokens` and `rejected_tokens` (at least 1) tokens. Gradients
    /// are with respect to the sums.
    pub fn pair(&self, chosen: f64, chosen_tokens: usize, rejected: f64, rejected_tokens: usize) -> PairLoss {
        let (c, r) = (self.beta / chosen_tokens as f64, self.beta / rejected_tokens as f64);
        let (loss, slope) = smoothed_logistic(c * chosen - r * rejected - self.gamma, 0.0);
        PairLoss::of_margin(loss, slope, c, r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_answers_cost_log_two_and_pull_apart() {
        let pair = Preference::new(0.1).pair(-5.0, -5.0);
        assert!((pair.loss - std::f64::consts::LN_2).abs() < 1e-15);
        assert_eq!((pair.grad_chosen, pair.grad_rejected), (-0.05, 0.05));
    }

    #[test]
    fn ranges_are_enforced() {
        assert!(Preference::new(0.0).validate().is_err() && Preference::new(f64::NAN).validate().is_err());
        assert!(Preference { label_smoothing: 0.5, ..Preference::new(0.1) }.validate().is_err());
        assert!(Preference { label_smoothing: 0.1, ..Preference::new(0.1) }.validate().is_ok());
        assert!(Simpo { beta: -1.0, gamma: 0.0 }.validate().is_err());
    }
}
