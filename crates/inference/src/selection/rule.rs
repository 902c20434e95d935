//! A rule on a pool, and what it would choose for any number of samples.

use generate::Stream;
use objective::error::InputError;
use serde::{Deserialize, Serialize};

use super::same_length;

/// What a rule may look at. Lists are aligned with the samples; a list that the rule does not look at may be empty.
#[derive(Debug, Clone, Copy)]
pub struct PoolView<'a> {
    /// Number of samples.
    pub size: usize,
    /// Their rewards.
    pub rewards: &'a [f64],
    /// Their final answers; the empty string is an ordinary answer.
    pub answers: &'a [&'a str],
}

impl<'a> PoolView<'a> {
    /// The first `n` samples, as a method with that `n` would have drawn them; all where there are not so many.
    #[must_use]
    pub fn first(self, n: usize) -> Self {
        let cut = |len: usize| n.min(len);
        Self {
            size: cut(self.size),
            rewards: &self.rewards[..cut(self.rewards.len())],
            answers: &self.answers[..cut(self.answers.len())],
        }
    }

    pub(crate) fn need_rewards(&self) -> Result<&'a [f64], InputError> {
        same_length("rewards of the pool", self.size, self.rewards.len())?;
        Ok(self.rewards)
    }

    pub(crate) fn need_answers(&self) -> Result<&'a [&'a str], InputError> {
        same_length("answers of the pool", self.size, self.answers.len())?;
        Ok(self.answers)
    }
}

/// What a rule chose.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pick {
    /// Index of the chosen sample.
    pub index: usize,
    /// For votes, the total weight of each answer in the order of first appearance; else empty.
    pub votes: Vec<(String, f64)>,
}

/// A rule that chooses one of a pool of independent samples.
pub trait PoolRule {
    /// Chooses from the whole view.
    fn pick(&self, pool: PoolView<'_>) -> Result<Pick, InputError>;

    /// Estimate, from this pool, of `KL(law of the rule on n samples ‖ law drawn from)` in nats; `None` for rules that
    /// choose an answer and not a text.
    fn kl(&self, pool: PoolView<'_>, n: usize) -> Result<Option<f64>, InputError>;

    /// Probability of each sample to be chosen when the rule sees `n` distinct samples of the pool in random order. The
    /// mean of any statistic of the answer is the sum of its values times these.
    ///
    /// Without a closed form it is the mean over `subsets` random subsets drawn from `stream`.
    fn weights(
        &self,
        pool: PoolView<'_>,
        n: usize,
        subsets: usize,
        stream: Stream,
    ) -> Result<Vec<f64>, InputError> {
        selection_weights(|view| self.pick(view).map(|pick| pick.index), pool, n, subsets, stream)
    }
}

/// How often `choose` takes each sample of the pool, over `subsets` random subsets of size `n`, each in random order.
/// Subset `s` comes from `stream.child(s)`.
pub fn selection_weights(
    choose: impl Fn(PoolView<'_>) -> Result<usize, InputError>,
    pool: PoolView<'_>,
    n: usize,
    subsets: usize,
    stream: Stream,
) -> Result<Vec<f64>, InputError> {
    if n == 0 || n > pool.size {
        let range = "between 1 and the number of samples in the pool";
        return Err(InputError::OutOfRange { what: "n", value: n as f64, range });
    }
    if subsets == 0 {
        return Err(InputError::TooFew { what: "subsets", least: 1 });
    }
    let mut counts = vec![0_usize; pool.size];
    for subset in 0..subsets {
        let mut order: Vec<usize> = (0..pool.size).collect();
        let mut stream = stream.child(subset as u64);
        for place in 0..n {
            let other = place + (stream.uniform() * (pool.size - place) as f64) as usize;
            order.swap(place, other);
        }
        let chosen = &order[..n];
        let rewards: Vec<f64> = chosen.iter().filter_map(|i| pool.rewards.get(*i).copied()).collect();
        let answers: Vec<&str> = chosen.iter().filter_map(|i| pool.answers.get(*i).copied()).collect();
        counts[chosen[choose(PoolView { size: n, rewards: &rewards, answers: &answers })?]] += 1;
    }
    Ok(counts.into_iter().map(|count| count as f64 / subsets as f64).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::best_of_n;
    use generate::Purpose;

    #[test]
    fn random_subsets_agree_with_the_closed_form() {
        let rewards = [0.5, 2.0, -1.0, 2.0, 0.5, 0.5, 3.0];
        let pool = PoolView { size: 7, rewards: &rewards, answers: &[] };
        let exact = objective::pool::Pool::new(rewards.to_vec()).expect("a pool");
        let stream = Stream::new(3, Purpose::Bootstrap, 0, 0);
        for n in [1, 3, 7] {
            let weights =
                selection_weights(|view| best_of_n(view.rewards), pool, n, 20_000, stream).expect("a pool");
            for (got, want) in weights.iter().zip(exact.best_of(n).expect("n")) {
                // Five standard errors of a share at 20 000 draws.
                assert!((got - want).abs() < 0.018, "n = {n}: {got} against {want}");
            }
        }
        assert!(selection_weights(|_| Ok(0), pool, 8, 1, stream).is_err());
        assert!(selection_weights(|_| Ok(0), pool, 0, 1, stream).is_err());
    }

    #[test]
    fn a_view_is_cut_in_all_its_lists() {
        let pool = PoolView { size: 3, rewards: &[1.0, 2.0, 3.0], answers: &[] };
        let first = pool.first(2);
        assert_eq!((first.size, first.rewards, first.answers.len()), (2, &[1.0, 2.0][..], 0));
        assert_eq!(pool.first(9).size, 3);
        assert!(first.need_answers().is_err() && first.need_rewards().is_ok());
    }
}
