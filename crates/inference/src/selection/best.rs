//! The sample of extreme reward, or of extreme score of any kind.

use generate::Stream;
use objective::error::InputError;
use objective::pool::Pool;

use super::rule::{Divergence, PoolLaw, PoolRule, PoolView, against_rest_of_subsets, selection_weights};
use super::{first_greatest, not_empty, numbers};

/// A rule that chooses the sample of greatest score, of equals the first. Where the score is a function of the text alone,
/// its law is that of best-of-n, with the same exact weights and divergence.
pub trait BestBy {
    /// The score of each sample; infinite ones stand for ranks, NaN is refused.
    fn scores(&self, pool: &PoolView<'_>) -> Result<Vec<f64>, InputError>;

    /// Why a score depends on the other samples of the pool, where it does.
    fn over_pool(&self) -> Option<Divergence> {
        None
    }
}

impl<R: BestBy> PoolRule for R {
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError> {
        Ok(PoolLaw::certain(best_of_n(&self.scores(pool)?)?, pool.size))
    }

    fn kl(&self, pool: &PoolView<'_>, n: usize) -> Result<Divergence, InputError> {
        match self.over_pool() {
            Some(unknown) => Ok(unknown),
            None => Ok(Divergence::Nats(ranked(&self.scores(pool)?)?.kl_best_of(n)?)),
        }
    }

    fn is_exact(&self) -> bool {
        self.over_pool().is_none()
    }

    fn weights(
        &self,
        pool: &PoolView<'_>,
        n: usize,
        subsets: usize,
        stream: Stream,
    ) -> Result<Vec<f64>, InputError> {
        if self.over_pool().is_some() {
            return selection_weights(|view| Ok(self.law(view)?.probabilities), pool, n, subsets, stream);
        }
        ranked(&self.scores(pool)?)?.best_of(n)
    }

    fn against_rest(
        &self,
        pool: &PoolView<'_>,
        n: usize,
        subsets: usize,
        stream: Stream,
        value: &dyn Fn(usize, usize) -> f64,
    ) -> Result<Option<f64>, InputError> {
        if self.over_pool().is_some() {
            let choose = |view: &PoolView<'_>| Ok(self.law(view)?.probabilities);
            return against_rest_of_subsets(choose, pool, n, subsets, stream, value);
        }
        ranked(&self.scores(pool)?)?.best_of_against_rest(n, value)
    }
}

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
        let weights =
            ranked(&[f64::NEG_INFINITY, 0.0, f64::INFINITY]).and_then(|pool| pool.best_of(2)).expect("ranks");
        for (got, want) in weights.iter().zip([0.0, 1.0 / 3.0, 2.0 / 3.0]) {
            assert!((got - want).abs() < 1e-15);
        }
        assert!(ranked(&[f64::NAN]).is_err());
    }
}
