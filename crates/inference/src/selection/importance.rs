//! How far the tilted law is from the base, judged from base samples.

use objective::error::InputError;
use objective::numeric::sum;
use serde::{Deserialize, Serialize};

use super::vote::tilt_weights;

/// Self-normalised importance weights of base samples for `p(y) exp(r / beta) / Z`, summed up.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Importance {
    /// Number of samples `n`.
    pub samples: usize,
    /// `1 / Σ w²`: how many samples of the target they are worth, from 1 to `n`.
    pub ess: f64,
    /// `Σ w ln(n w)`: estimate of `KL(target ‖ base)` in nats. At most `ln n`, so far too small where `ess` is near 1.
    pub kl: f64,
}

/// Importance weights and what they say, for the rewards of independent base samples; finite rewards, `beta` above zero.
///
/// ```
/// // Equal rewards: the target is the base.
/// let (weights, summary) = inference::selection::importance(&[2.0; 4], 0.5)?;
/// assert_eq!(weights, [0.25; 4]);
/// assert_eq!((summary.ess, summary.kl), (4.0, 0.0));
/// # Ok::<(), objective::error::InputError>(())
/// ```
pub fn importance(rewards: &[f64], beta: f64) -> Result<(Vec<f64>, Importance), InputError> {
    let weights = tilt_weights(rewards, beta)?;
    let n = weights.len() as f64;
    let kl = sum(weights.iter().filter(|w| **w > 0.0).map(|w| w * (n * w).ln())).max(0.0);
    let summary = Importance { samples: weights.len(), ess: effective_sample_size(&weights), kl };
    Ok((weights, summary))
}

/// `(Σ w)² / Σ w²` of weights that are not all zero.
pub fn effective_sample_size(weights: &[f64]) -> f64 {
    let total = sum(weights.iter().copied());
    total * total / sum(weights.iter().map(|w| w * w))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_of_a_law_give_its_divergence() {
        // Ten samples with the frequencies (0.5, 0.3, 0.2) of a law: the estimate is exact.
        let (p, r, beta) = ([0.5, 0.3, 0.2], [0.0, 1.0, -2.0], 0.7);
        let pool = [vec![r[0]; 5], vec![r[1]; 3], vec![r[2]; 2]].concat();
        let (_, summary) = importance(&pool, beta).expect("a pool");
        let tilted = objective::law::tilt(&p, &r.map(|r| r / beta)).expect("a law");
        assert!((summary.kl - objective::law::kl(&tilted.law, &p)).abs() < 1e-14);
    }

    #[test]
    fn one_dominant_sample_is_worth_one() {
        let (weights, summary) = importance(&[0.0, 0.0, 1e308], 1e-3).expect("a pool");
        assert_eq!(weights, [0.0, 0.0, 1.0]);
        assert_eq!(summary.ess, 1.0);
        assert!((summary.kl - 3_f64.ln()).abs() < 1e-15, "the estimate is at its cap");
    }
}
