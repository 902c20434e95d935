//! Best-of-n from a pool of `M` samples, for all `n` at once.
//!
//! One pool per prompt serves every `n`: instead of drawing `n` of the `M` samples, the probability with which each sample
//! is the best (or worst) of a random subset of size `n` is computed, which gives unbiased estimates of the mean of any
//! statistic of the selected sample. Ties are broken uniformly, which is the mean over the orders of drawing.

use crate::error::{InputError, finite};
use crate::numeric::{Sum, sum};

/// The rewards of the `M` samples of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    rewards: Vec<f64>,
    /// Sample indices by ascending reward, cut into tie classes.
    classes: Vec<Vec<usize>>,
}

impl Pool {
    /// A pool of the given rewards: finite, at least one.
    pub fn new(rewards: Vec<f64>) -> Result<Self, InputError> {
        if rewards.is_empty() {
            return Err(InputError::TooFew { what: "rewards of the pool", least: 1 });
        }
        finite("rewards of the pool", &rewards)?;
        let mut order: Vec<usize> = (0..rewards.len()).collect();
        order.sort_by(|&i, &j| rewards[i].total_cmp(&rewards[j]).then(i.cmp(&j)));
        let classes = order.chunk_by(|&i, &j| rewards[i] == rewards[j]).map(<[usize]>::to_vec).collect();
        Ok(Self { rewards, classes })
    }

    /// Number `M` of samples.
    pub fn size(&self) -> usize {
        self.rewards.len()
    }

    /// Probability that each sample, in the given order, is selected as the best of `n` distinct samples of the pool.
    ///
    /// The sample at ascending position `j` of `M` has `C(j-1, n-1) / C(M, n)`; within a tie class the mean of these.
    /// `n` may be at most `M`.
    pub fn best_of(&self, n: usize) -> Result<Vec<f64>, InputError> {
        self.weights(n, self.classes.iter())
    }

    /// As [`Pool::best_of`], for the worst of `n`.
    pub fn worst_of(&self, n: usize) -> Result<Vec<f64>, InputError> {
        self.weights(n, self.classes.iter().rev())
    }

    /// Unbiased estimate of the mean reward of the best of `n`.
    pub fn expected_best(&self, n: usize) -> Result<f64, InputError> {
        Ok(self.weighted(&self.best_of(n)?))
    }

    /// Unbiased estimate of the mean reward of the worst of `n`.
    pub fn expected_worst(&self, n: usize) -> Result<f64, InputError> {
        Ok(self.weighted(&self.worst_of(n)?))
    }

    /// Mean of `value(best, other)`, where `best` is the best of `n` distinct samples of the pool and `other`
    /// one of those
    /// that are not among them, each alike: an unbiased estimate of the mean over `n + 1` independent draws.
    /// `None` where all
    /// are among them, `n = M`.
    pub fn best_of_against_rest(
        &self,
        n: usize,
        value: impl Fn(usize, usize) -> f64,
    ) -> Result<Option<f64>, InputError> {
        self.check_n(n)?;
        let size = self.size();
        if n == size {
            return Ok(None);
        }
        // Without the other sample one less is left, and those above it stand one place lower.
        let mut below = vec![0.0];
        for weight in best_of_weights(size - 1, n) {
            below.push(below[below.len() - 1] + weight);
        }
        let mean = |from: usize, to: usize| (below[to] - below[from]) / (to - from).max(1) as f64;
        let mut total = Sum::default();
        let mut start = 0;
        for (rank, class) in self.classes.iter().enumerate() {
            let end = start + class.len();
            for &best in class {
                let against = |classes: &[Vec<usize>]| {
                    let others = classes.iter().flatten().filter(|other| **other != best);
                    sum(others.map(|other| value(best, *other)))
                };
                if start > 0 {
                    total.add(mean(start - 1, end - 1) * against(&self.classes[..rank]));
                }
                if class.len() > 1 {
                    total.add(mean(start, end - 1) * against(&self.classes[rank..=rank]));
                }
                if end < size {
                    total.add(mean(start, end) * against(&self.classes[rank + 1..]));
                }
            }
            start = end;
        }
        Ok(Some(total.value() / size as f64))
    }

    /// Estimate of `KL(best-of-n || base)` in nats from the tie classes of the pool.
    ///
    /// A reward that several samples have is an atom of the base of the pool's frequency: within it best-of-n
    /// follows the
    /// base, and it adds `q log(q / c)` with `q = F<=^n - F<^n`. A reward that one sample has says nothing of
    /// an atom; it
    /// stands for rewards without ties between its neighbours, and adds the integral of `f log f` with the
    /// density
    /// `f(u) = n u^(n-1)` over its share of the ranks. Without ties the sum is `log n - (n-1)/n` for every
    /// `M >= n`, the value
    /// that holds then; with ties it is below. Equal outputs have equal rewards, so short outputs that repeat
    /// in the pool are
    /// accounted for.
    pub fn kl_best_of(&self, n: usize) -> Result<f64, InputError> {
        self.check_n(n)?;
        let m = self.size() as f64;
        let mut below = 0;
        let mut total = Sum::default();
        for class in &self.classes {
            let at_most = below + class.len();
            let (from, to) = (below as f64 / m, at_most as f64 / m);
            if class.len() == 1 {
                total.add(untied(to, n as f64) - untied(from, n as f64));
            } else {
                let q = to.powf(n as f64) - from.powf(n as f64);
                // A far lower class can underflow to probability zero, where q log q is zero.
                if q > 0.0 {
                    total.add(q * (q * m / class.len() as f64).ln());
                }
            }
            below = at_most;
        }
        // The exact sum is never negative; rounding may be.
        Ok(total.value().max(0.0))
    }

    /// Share of the largest tie class: near one, ranks carry no signal.
    pub fn largest_tie_mass(&self) -> f64 {
        self.classes.iter().map(Vec::len).max().unwrap_or(0) as f64 / self.size() as f64
    }

    fn weighted(&self, weights: &[f64]) -> f64 {
        sum(weights.iter().zip(&self.rewards).map(|(w, r)| w * r))
    }

    fn check_n(&self, n: usize) -> Result<(), InputError> {
        if n == 0 || n > self.size() {
            return Err(InputError::OutOfRange {
                what: "n of best-of-n",
                value: n as f64,
                range: "between 1 and the number of samples in the pool",
            });
        }
        Ok(())
    }

    /// Selection probabilities when classes come from the least to the most preferred.
    fn weights<'a>(
        &self,
        n: usize,
        classes: impl Iterator<Item = &'a Vec<usize>>,
    ) -> Result<Vec<f64>, InputError> {
        self.check_n(n)?;
        let by_position = best_of_weights(self.size(), n);
        let mut weights = vec![0.0; self.size()];
        let mut start = 0;
        for class in classes {
            let end = start + class.len();
            let share = sum(by_position[start..end].iter().copied()) / class.len() as f64;
            for &index in class {
                weights[index] = share;
            }
            start = end;
        }
        Ok(weights)
    }
}

/// The integral of `f log f` from 0 to `u`, where `f(u) = n u^(n-1)` is the density of best-of-n at rank `u`
/// of the base.
fn untied(u: f64, n: f64) -> f64 {
    let mass = u.powf(n);
    if mass > 0.0 { mass * (n.ln() + (n - 1.0) * u.ln() - (n - 1.0) / n) } else { 0.0 }
}

/// `C(j-1, n-1) / C(m, n)` for `j = 1..=m`, from the top down: `w_m = n/m`, `w_{j-1} = w_j (j-n) / (j-1)`. No factorials,
/// so no overflow; small weights underflow to zero.
fn best_of_weights(m: usize, n: usize) -> Vec<f64> {
    let mut weights = vec![0.0; m];
    let mut w = n as f64 / m as f64;
    for j in (n..=m).rev() {
        weights[j - 1] = w;
        w *= (j - n) as f64 / (j - 1).max(1) as f64;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bon;
    use crate::draw::Exhaustive;
    use crate::law::kl;

    const REWARDS: [f64; 7] = [0.5, 2.0, -1.0, 2.0, 0.5, 0.5, 3.0];

    /// The selected sample over all ordered draws without replacement; the first drawn of the best wins.
    fn enumerated(n: usize, sign: f64) -> Vec<f64> {
        Exhaustive::mean(|draw| {
            let mut left: Vec<usize> = (0..REWARDS.len()).collect();
            let drawn: Vec<usize> = (0..n).map(|_| left.remove(draw.below(left.len()))).collect();
            let mut best = drawn[0];
            for &i in &drawn {
                if sign * REWARDS[i] > sign * REWARDS[best] {
                    best = i;
                }
            }
            let mut selected = vec![0.0; REWARDS.len()];
            selected[best] = 1.0;
            selected
        })
        .expect("finite")
    }

    #[test]
    fn weights_equal_enumeration_without_replacement() {
        let pool = Pool::new(REWARDS.to_vec()).expect("pool");
        for n in 1..=7 {
            for (got, want) in pool.best_of(n).expect("n").iter().zip(enumerated(n, 1.0)) {
                assert!((got - want).abs() < 1e-14, "best of {n}");
            }
            for (got, want) in pool.worst_of(n).expect("n").iter().zip(enumerated(n, -1.0)) {
                assert!((got - want).abs() < 1e-14, "worst of {n}");
            }
        }
        assert_eq!(pool.expected_best(7).expect("n"), 3.0);
        assert_eq!(pool.expected_worst(7).expect("n"), -1.0);
        assert!((pool.expected_best(1).expect("n") - 7.5 / 7.0).abs() < 1e-15);
    }

    #[test]
    fn expected_best_is_unbiased_for_the_sampler() {
        // Pools of 4 i.i.d. draws from a 3-point law: the mean estimate is the exact mean of best-of-3.
        let (p, r) = ([0.5, 0.3, 0.2], [0.0, 1.0, 5.0]);
        let log_p = p.map(f64::ln);
        let estimate = Exhaustive::mean(|draw| {
            let pool = Pool::new((0..4).map(|_| r[draw.pick(&log_p)]).collect()).expect("pool");
            vec![pool.expected_best(3).expect("n"), pool.expected_worst(3).expect("n")]
        })
        .expect("finite");
        let exact = |law: Vec<f64>| crate::law::expectation(&law, &r);
        assert!((estimate[0] - exact(bon::law(&p, &r, 3.0).expect("law"))).abs() < 1e-14);
        assert!((estimate[1] - exact(bon::worst_law(&p, &r, 3.0).expect("law"))).abs() < 1e-14);
    }

    #[test]
    fn any_statistic_of_the_selected_sample() {
        let correct = [1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 1.0];
        let pool = Pool::new(REWARDS.to_vec()).expect("pool");
        let accuracy: f64 = pool.best_of(7).expect("n").iter().zip(correct).map(|(w, c)| w * c).sum();
        assert_eq!(accuracy, 1.0);
    }

    #[test]
    fn kl_from_tie_classes_is_exact_at_true_frequencies() {
        // 10 samples with the frequencies of the law: 5 of one answer, 3 of another, 2 of a third.
        let pool = Pool::new([vec![1.0; 5], vec![2.0; 3], vec![0.0; 2]].concat()).expect("pool");
        let (p, r) = ([0.5, 0.3, 0.2], [1.0, 2.0, 0.0]);
        for n in [1, 2, 5, 10] {
            let exact = kl(&bon::law(&p, &r, n as f64).expect("law"), &p);
            let estimate = pool.kl_best_of(n).expect("n");
            assert!((estimate - exact).abs() < 1e-14);
            // The formula for outputs without mass is far off: KL cannot exceed log(1/0.3) here.
            assert!(n < 5 || bon::kl_bound(n as f64) - estimate > 0.1);
        }
        assert_eq!(Pool::new(vec![4.0; 6]).expect("pool").kl_best_of(3).expect("n"), 0.0);
    }

    #[test]
    fn kl_of_distinct_rewards_is_that_without_ties_even_from_the_n_samples_alone() {
        for (samples, n) in [(2, 2), (4, 4), (8, 2), (8, 8), (256, 16), (256, 256)] {
            let pool = Pool::new((0..samples).map(f64::from).collect()).expect("pool");
            let (estimate, exact) = (pool.kl_best_of(n).expect("n"), bon::kl_bound(n as f64));
            assert!((estimate - exact).abs() < 1e-12, "{n} of {samples}: {estimate} and not {exact}");
        }
        // A tie lowers it, and where all tie nothing is left.
        let tied = Pool::new(vec![0.0, 1.0, 1.0, 2.0]).expect("pool").kl_best_of(4).expect("n");
        assert!(tied > 0.0 && tied < bon::kl_bound(4.0), "{tied}");
    }

    #[test]
    fn the_best_against_the_rest_is_the_mean_over_all_draws_of_one_more() {
        let value = |best: usize, other: usize| (best * 10 + other) as f64;
        let pool = Pool::new(REWARDS.to_vec()).expect("pool");
        for n in 1..7 {
            let want = Exhaustive::mean(|draw| {
                let mut left: Vec<usize> = (0..REWARDS.len()).collect();
                let drawn: Vec<usize> = (0..=n).map(|_| left.remove(draw.below(left.len()))).collect();
                let mut best = drawn[0];
                for &i in &drawn[..n] {
                    if REWARDS[i] > REWARDS[best] {
                        best = i;
                    }
                }
                vec![value(best, drawn[n])]
            })
            .expect("finite")[0];
            let got = pool.best_of_against_rest(n, value).expect("n").expect("a rest");
            assert!((got - want).abs() < 1e-11, "best of {n}: {got} and not {want}");
        }
        assert_eq!(pool.best_of_against_rest(7, value), Ok(None), "nothing is left");
        assert!(pool.best_of_against_rest(8, value).is_err());
    }

    #[test]
    fn without_ties_the_best_of_n_wins_n_of_n_plus_one_times() {
        let pool = Pool::new((0..8).map(f64::from).collect()).expect("pool");
        for n in 1..8 {
            let won = pool.best_of_against_rest(n, |best, other| f64::from(u8::from(best > other)));
            let won = won.expect("n").expect("a rest");
            assert!((won - bon::win_rate_bound(n as f64)).abs() < 1e-12, "best of {n}: {won}");
        }
    }

    #[test]
    fn large_pools_do_not_overflow() {
        let pool = Pool::new((0..5000).map(f64::from).collect()).expect("pool");
        let weights = pool.best_of(2000).expect("n");
        assert!((sum(weights) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn bad_pools_and_sizes_are_refused() {
        assert!(Pool::new(vec![]).is_err() && Pool::new(vec![f64::NAN]).is_err());
        let pool = Pool::new(vec![1.0, 2.0]).expect("pool");
        assert!(pool.best_of(0).is_err() && pool.best_of(3).is_err() && pool.kl_best_of(3).is_err());
        assert!((pool.largest_tie_mass() - 0.5).abs() < 1e-15);
    }
}
