//! The loss of `BoNBoN` alignment (Gui, Garbacea and Veitch 2024, arXiv 2406.00832).

use serde::{Deserialize, Serialize};

use super::{Dpo, DpoVariant, PairLoss, SequenceLogProbs};
use crate::error::{InputError, in_range};
use crate::numeric::harmonic;

/// `-alpha log pi(best) + (1 - alpha) (h(best) - h(worst) - m)^2` with `h` the summed log-ratio to the reference and best and
/// worst of the same `n` samples of it.
///
/// The margin `m = (n-1) H_{n-1}` is the mean of `h(best) - h(worst)` where `pi` is best-of-n (no ties). The squared term
/// alone is not minimised there: pairs of best and worst say little about the order within the top. The first term, the
/// likelihood of the best, is; the optimum of the sum goes from the one to the other as `alpha` rises.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bonbon {
    /// Number of samples that best and worst are of, at least 2.
    pub n: usize,
    /// Weight of the likelihood of the best, in `[0, 1]`.
    pub alpha: f64,
}

impl Bonbon {
    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("n of BoNBoN", self.n as f64, "at least 2", |n| n >= 2.0)?;
        in_range("alpha", self.alpha, "between 0 and 1", |a| (0.0..=1.0).contains(&a))
    }

    /// `(n-1) H_{n-1}`, in nats; `1/(2 beta*)` in the paper's notation.
    pub fn margin(&self) -> f64 {
        let below = self.n.saturating_sub(1) as u64;
        below as f64 * harmonic(below)
    }

    /// Loss of the best and the worst of a group; gradients are with respect to the policy's summed log-probabilities.
    pub fn pair(&self, best: SequenceLogProbs, worst: SequenceLogProbs) -> PairLoss {
        // The squared term is IPO with 1/(2 tau) = m.
        let square = Dpo { beta: 0.5 / self.margin(), variant: DpoVariant::IpoSum }.pair(best, worst);
        let share = 1.0 - self.alpha;
        PairLoss {
            loss: share * square.loss - self.alpha * best.policy,
            grad_chosen: share * square.grad_chosen - self.alpha,
            grad_rejected: share * square.grad_rejected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn margins_are_the_published_ones() {
        let margin = |n| Bonbon { n, alpha: 0.005 }.margin();
        assert!((margin(2) - 1.0).abs() < 1e-15 && (margin(4) - 5.5).abs() < 1e-14);
        assert!((0.5 / margin(8) - 0.027_548_2).abs() < 5e-8, "{}", 0.5 / margin(8));
    }

    #[test]
    fn gradients_are_those_of_the_loss() {
        let bonbon = Bonbon { n: 4, alpha: 0.3 };
        let at = |policy| SequenceLogProbs { policy, reference: -4.0, tokens: 3 };
        let loss = |b, w| bonbon.pair(at(b), at(w)).loss;
        let (b, w, h) = (-2.5, -6.0, 1e-5);
        let pair = bonbon.pair(at(b), at(w));
        assert!((pair.grad_chosen - (loss(b + h, w) - loss(b - h, w)) / (2.0 * h)).abs() < 1e-8);
        assert!((pair.grad_rejected - (loss(b, w + h) - loss(b, w - h)) / (2.0 * h)).abs() < 1e-8);
        // The likelihood of the best is in the sum with its weight, and the square with the rest.
        assert!((pair.loss - (0.3 * 2.5 + 0.7 * (3.5_f64 - 5.5).powi(2))).abs() < 1e-12);
    }

    #[test]
    fn ranges_are_enforced() {
        assert!(Bonbon { n: 1, alpha: 0.1 }.validate().is_err());
        assert!(Bonbon { n: 2, alpha: 1.1 }.validate().is_err());
        assert!(Bonbon { n: 2, alpha: 1.0 }.validate().is_ok());
    }
}
