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

    /// Loss of two answers that several objectives label, `Σ_i w_i ℓ_i` with the loss `ℓ_i` of [`Preference::pair`] under
    /// the label of objective `i` (PARM, arXiv 2505.06274): `log_probs` of the answers, and for each label its weight and the
    /// position of the answer it prefers.
    ///
    /// Where each objective follows Bradley–Terry with the difference `d_i` of its rewards, the optimum at weights `w` that
    /// add up to 1 is `beta (log pi(0) - log pi(1)) = logit Σ_i w_i sigmoid(d_i)`: the log-odds of the mean preference. On a
    /// vertex that is the objective's own reward; between vertices it is near `Σ_i w_i d_i` for small differences only.
    pub fn labelled(
        &self,
        log_probs: [f64; 2],
        labels: impl IntoIterator<Item = (f64, usize)>,
    ) -> LabelledLoss {
        let mut total = LabelledLoss { loss: 0.0, gradient: [0.0; 2] };
        for (weight, preferred) in labels {
            let (chosen, rejected) = (preferred.min(1), 1 - preferred.min(1));
            let pair = self.pair(log_probs[chosen], log_probs[rejected]);
            total.loss += weight * pair.loss;
            total.gradient[chosen] += weight * pair.grad_chosen;
            total.gradient[rejected] += weight * pair.grad_rejected;
        }
        total
    }
}

/// Loss of two answers, and its derivative with respect to the log-probability of each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelledLoss {
    /// The loss.
    pub loss: f64,
    /// The derivatives, in the order of the answers.
    pub gradient: [f64; 2],
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
    fn labels_of_several_objectives_add_up_and_have_their_gradient() {
        let loss = Preference { gamma: 0.2, label_smoothing: 0.1, ..Preference::new(0.7) };
        let at = [-3.0, -4.5];
        let labels = [(0.2, 0), (0.5, 1), (0.3, 0)];
        let given = loss.labelled(at, labels);
        let by_hand: f64 = [(0.2, at[0], at[1]), (0.5, at[1], at[0]), (0.3, at[0], at[1])]
            .iter()
            .map(|(weight, chosen, rejected)| weight * loss.pair(*chosen, *rejected).loss)
            .sum();
        assert!((given.loss - by_hand).abs() < 1e-15);
        for place in 0..2 {
            let moved = |by: f64| {
                let mut at = at;
                at[place] += by;
                loss.labelled(at, labels).loss
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((given.gradient[place] - slope).abs() < 1e-9, "{} and {slope}", given.gradient[place]);
        }
        // A vertex is that objective's own loss, and no label is no loss.
        let own = loss.pair(at[1], at[0]);
        let vertex = loss.labelled(at, [(0.0, 0), (1.0, 1)]);
        assert_eq!((vertex.loss, vertex.gradient), (own.loss, [own.grad_rejected, own.grad_chosen]));
        assert_eq!(loss.labelled(at, []), LabelledLoss { loss: 0.0, gradient: [0.0; 2] });
    }

    #[test]
    fn ranges_are_enforced() {
        assert!(Preference::new(0.0).validate().is_err() && Preference::new(f64::NAN).validate().is_err());
        assert!(Preference { label_smoothing: 0.5, ..Preference::new(0.1) }.validate().is_err());
        assert!(Preference { label_smoothing: 0.1, ..Preference::new(0.1) }.validate().is_ok());
        assert!(Simpo { beta: -1.0, gamma: 0.0 }.validate().is_err());
    }
}
