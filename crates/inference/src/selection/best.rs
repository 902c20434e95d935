//! The sample of extreme reward, or of extreme score of any kind.

use objective::error::InputError;
use objective::pool::Pool;

use super::{Divergence, first_greatest, not_empty, numbers};

/// Index of the greatest reward, of equals the first. Rewards may be infinite, not NaN.
///
/// ```
/// assert_eq!(inference::selection::best_of_n(&[0.5, 2.0, 2.0]), Ok(1));
/// ```
pub fn best_of_n(rewards: &[f64]) -> Result<usize, InputError> {
    not_empty("rewards of the pool", rewards.len())?;
    numbers("rewards of the pool", rewards, true)?;
    Ok(first_greatest(rewards))
}

/// Index of the least reward, of equals the first: what an adversary would pick.
pub fn worst_of_n(rewards: &[f64]) -> Result<usize, InputError> {
    best_of_n(&negated(rewards))
}

/// The scores with their signs turned.
pub(crate) fn negated(scores: &[f64]) -> Vec<f64> {
    scores.iter().map(|score| -score).collect()
}

/// `KL(best-of-n by a score ‖ base)` from the tie classes of a pool. The score is a function of the text alone.
pub(crate) fn best_kl(scores: &[f64], n: usize) -> Result<Divergence, InputError> {
    Ok(Divergence::Nats(ranked(scores)?.kl_best_of(n)?))
}

/// Probability of each sample to be the best by a score among `n` samples of a pool.
pub(crate) fn best_weights(scores: &[f64], n: usize) -> Result<Vec<f64>, InputError> {
    ranked(scores)?.best_of(n)
}

/// Ranks are all that counts: an infinite score stands for the largest finite one.
fn ranked(scores: &[f64]) -> Result<Pool, InputError> {
    Pool::new(scores.iter().map(|score| score.clamp(f64::MIN, f64::MAX)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_the_best_of_the_negated() {
        let rewards = [0.0, -0.0, f64::NEG_INFINITY, 3.0, f64::NEG_INFINITY, 3.0];
        assert_eq!(best_of_n(&rewards), Ok(3));
        assert_eq!(worst_of_n(&rewards), Ok(2));
        assert!(best_of_n(&[]).is_err() && best_of_n(&[1.0, f64::NAN]).is_err());
    }

    #[test]
    fn infinite_scores_have_a_rank() {
        let weights = best_weights(&[f64::NEG_INFINITY, 0.0, f64::INFINITY], 2).expect("ranks");
        for (got, want) in weights.iter().zip([0.0, 1.0 / 3.0, 2.0 / 3.0]) {
            assert!((got - want).abs() < 1e-15);
        }
        assert!(best_kl(&[f64::NAN], 1).is_err());
    }
}
