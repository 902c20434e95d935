//! Estimators of `KL(pi || ref)` from samples of `pi`, and what each does as a loss.
//!
//! With `x = log pi - log ref` of a sample of `pi`:
//!
//! | estimator | value | in the reward | differentiated as a loss, on-policy |
//! |---|---|---|---|
//! | `k1` | `x` | gradient of `KL(pi \|\| ref)` | **zero** in expectation |
//! | `k2` | `x^2 / 2` (biased) | no | gradient of `KL(pi \|\| ref)` |
//! | `k3` | `exp(-x) - 1 + x` | no | gradient of `KL(ref \|\| pi)`, **the other direction** |
//!
//! `x` is that of the whole sequence. Sums over tokens of `k2` or `k3` leave out the effect of early tokens on the KL of
//! later ones, so their gradient is that of the sequence-level KL only at length one. For reports,
//! [`rao_blackwell`] sums the exact KL of every next-token law: unbiased, and never of larger variance than `k1`.

use serde::{Deserialize, Serialize};

use crate::error::{InputError, same_length};
use crate::numeric::{Sum, sum};

/// A single-sample estimator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KlEstimator {
    /// `x`: unbiased; the one to put into the reward.
    K1,
    /// `x^2 / 2`: biased; as a loss it has the right gradient.
    K2,
    /// `exp(-x) - 1 + x`: unbiased, never negative; as a loss it has the gradient of the forward KL.
    K3,
}

/// Value and derivative of a single-sample estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KlEstimate {
    /// The estimate in nats.
    pub value: f64,
    /// Derivative with respect to the policy's log-probability, the sample held fixed.
    pub gradient: f64,
}

impl KlEstimator {
    /// The estimate from `log_ratio = log pi - log ref` of one sample of `pi`.
    pub fn estimate(self, log_ratio: f64) -> KlEstimate {
        let x = log_ratio;
        match self {
            Self::K1 => KlEstimate { value: x, gradient: 1.0 },
            Self::K2 => KlEstimate { value: 0.5 * x * x, gradient: x },
            Self::K3 => KlEstimate { value: (-x).exp_m1() + x, gradient: -(-x).exp_m1() },
        }
    }
}

/// Exact `KL(pi || ref)` of two next-token laws given by full vectors of log-probabilities.
///
/// Its derivative with respect to logit `v` of `pi` is `pi_v (log pi_v - log ref_v - KL)`.
pub fn exact(policy: &[f64], reference: &[f64]) -> Result<f64, InputError> {
    same_length("reference log-probabilities", policy.len(), reference.len())?;
    let terms = policy.iter().zip(reference).filter(|(p, _)| **p > f64::NEG_INFINITY);
    Ok(sum(terms.map(|(p, q)| p.exp() * (p - q))))
}

/// Sum over the steps of one sampled sequence of the exact KL between the next-token laws (Amini et al. 2025, "Better
/// Estimation of the KL Divergence"). `steps` yields the log-probability vectors of policy and reference.
///
/// Its mean over sequences of `pi` is `KL(pi || ref)` of whole sequences. Differentiated with the prefixes held fixed it
/// misses the effect of early tokens on which prefixes are reached; use it for reports, and `k1` in the reward to train.
pub fn rao_blackwell<'a>(steps: impl IntoIterator<Item = (&'a [f64], &'a [f64])>) -> Result<f64, InputError> {
    let mut total = Sum::default();
    for (policy, reference) in steps {
        total.add(exact(policy, reference)?);
    }
    Ok(total.value())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn k3_is_positive_and_precise_near_zero() {
        for x in [-2.0, -1e-9, 0.0, 1e-9, 3.0] {
            assert!(KlEstimator::K3.estimate(x).value >= 0.0);
        }
        assert!((KlEstimator::K3.estimate(1e-3).value - 4.998_333_7e-7).abs() < 1e-13);
    }

    #[test]
    fn exact_handles_impossible_tokens() {
        let coin = [0.5_f64.ln(), 0.5_f64.ln(), f64::NEG_INFINITY];
        let biased = [0.25_f64.ln(), 0.75_f64.ln(), f64::NEG_INFINITY];
        let want = 0.5 * 2.0_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln();
        assert!((exact(&coin, &biased).expect("aligned") - want).abs() < 1e-15);
        assert_eq!(exact(&coin, &[0.0, f64::NEG_INFINITY, f64::NEG_INFINITY]), Ok(f64::INFINITY));
        assert!(exact(&coin, &[0.0]).is_err());
    }
}
