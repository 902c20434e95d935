//! Policies that are good under best-of-N, rather than like it (BoN-aware fine-tuning, Chow et al. 2025).

use super::{Draws, Group, Objective, Record, Term, TermLoss, Terms};
use crate::advantage::rloo;
use crate::error::{InputError, in_range};

/// Which estimator of the gradient of the mean reward of best-of-N.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BonEstimator {
    /// BoN-RL: `(R_best - R_second) grad log pi(y_best)`, averaged over all subsets of N among the answers drawn. The second
    /// is the reward that the subset has without its best: a leave-one-out baseline.
    BestMinusSecond,
    /// BoN-RLB for rewards of 0 and 1: of K answers with `f` failures each success weighs `N/K` times the
    /// share of choices of
    /// N - 1 others that are all failures, `C(f, N-1) / C(K-1, N-1)`, at most `clip`. Without a clip it is
    /// [`BonEstimator::BestMinusSecond`] on such rewards: the lead is 1 where the subset has one success
    /// alone.
    Binary {
        /// The largest share.
        clip: f64,
    },
}

/// `max E[R(best of N of pi)] - beta KL(pi || anchor)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BonAware {
    /// N at test time, at least 2.
    pub n: usize,
    /// Answers drawn for each prompt, at least N.
    pub rollouts: usize,
    /// KL coefficient.
    pub beta: f64,
    /// How the gradient is estimated.
    pub estimator: BonEstimator,
}

/// `C(f, N-1) / C(K-1, N-1)`: the share of choices of N - 1 among the K - 1 answers beside a success that are
/// all among its `f`
/// failures. Its mean is `p^(N-1)` where each of them fails with probability `p`, whatever K is, so that with
/// `N/K` for each
/// success the sum is on average `N p^(N-1) grad(1-p)`, the gradient of `1 - p^N`.
///
/// The paper's weight `N p^(N-1) (1-p) / (1-p^N)` of a success of best-of-N is the same for a known `p`. At
/// the share of failures among
/// other answers it is biased, since it is convex in `p`: by a factor of 8 for N = 4, four other answers and
/// `p = 0.1`.
pub fn alone_share(failures: usize, answers: usize, n: usize) -> f64 {
    if n == 0 || failures + 1 < n || answers < n {
        return 0.0;
    }
    (0..n - 1).map(|i| (failures - i) as f64 / (answers - 1 - i) as f64).product()
}

impl BonAware {
    /// Refuses settings that do not make sense.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("N of BoN-aware training", self.n as f64, "at least 2", |n| n >= 2.0)?;
        in_range("rollouts", self.rollouts as f64, "at least N", |k| k >= self.n as f64)?;
        in_range("beta", self.beta, "at least 0", |beta| beta >= 0.0)?;
        match self.estimator {
            BonEstimator::Binary { clip } => in_range("clip", clip, "above 0", |c| c > 0.0),
            BonEstimator::BestMinusSecond => Ok(()),
        }
    }

    /// Coefficient of each answer's `grad log pi` in the estimate of the gradient of `E[R(best of N)]`.
    fn gains(&self, rewards: &[f64]) -> Result<Vec<f64>, InputError> {
        if rewards.len() < self.n {
            return Err(InputError::TooFew { what: "answers of the policy", least: self.n });
        }
        match self.estimator {
            BonEstimator::BestMinusSecond => Ok(best_minus_second(rewards, self.n)),
            BonEstimator::Binary { clip } => self.binary(rewards, clip),
        }
    }

    /// Each success by how often it is alone among N of the answers.
    fn binary(&self, rewards: &[f64], clip: f64) -> Result<Vec<f64>, InputError> {
        if let Some(index) = rewards.iter().position(|r| *r != 0.0 && *r != 1.0) {
            let range = "0 or 1 for the binary estimator; form = \"rl\" takes any";
            return Err(InputError::OutOfRange { what: "reward", value: rewards[index], range });
        }
        let failures = rewards.iter().filter(|r| **r == 0.0).count();
        let share = alone_share(failures, rewards.len(), self.n).min(clip);
        let gain = self.n as f64 / rewards.len() as f64 * share;
        Ok(rewards.iter().map(|r| gain * r).collect())
    }
}

/// With answers in ascending order, the one at place `j` is the best and the one at `k < j` the second of
/// `C(k-1, N-2)` of the `C(K, N)` subsets (places from one).
fn best_minus_second(rewards: &[f64], n: usize) -> Vec<f64> {
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|a, b| rewards[*a].total_cmp(&rewards[*b]).then(a.cmp(b)));
    let choose = |m: usize, k: usize| -> f64 {
        if k > m {
            return 0.0;
        }
        (0..k).map(|i| (m - i) as f64 / (k - i) as f64).product()
    };
    let subsets = choose(rewards.len(), n);
    let mut gains = vec![0.0; rewards.len()];
    for (j, best) in order.iter().enumerate() {
        for (k, second) in order[..j].iter().enumerate() {
            gains[*best] += choose(k, n - 2) / subsets * (rewards[*best] - rewards[*second]);
        }
    }
    gains
}

impl Objective for BonAware {
    fn draws(&self) -> Draws {
        Draws { policy: self.rollouts, anchor: 0 }
    }

    fn terms(&self, groups: &[Group<'_>], record: &mut Record<'_>) -> Result<Vec<Terms>, InputError> {
        self.validate()?;
        let prompts = groups.len() as f64;
        let mut all = Vec::with_capacity(groups.len());
        for group in groups {
            let rewards: Vec<f64> = group.policy.iter().map(|rollout| rollout.reward).collect();
            let gains = self.gains(&rewards)?;
            let costs: Vec<f64> =
                group.policy.iter().map(|rollout| -self.beta * rollout.log_ratio()).collect();
            let costs = rloo(&costs)?;
            let count = rewards.len() as f64;
            record("frac_reward_zero_std", f64::from(u8::from(gains.iter().all(|g| *g == 0.0))), 1.0);
            let best = rewards.iter().take(self.n).copied().fold(f64::NEG_INFINITY, f64::max);
            record("bon/best_score", best, 1.0);
            for rollout in &group.policy {
                record("objective/scores", rollout.reward, 1.0);
                record("objective/non_score_reward", -self.beta * rollout.log_ratio(), 1.0);
            }
            let policy = gains
                .iter()
                .zip(costs)
                .map(|(gain, cost)| {
                    Some(Term { loss: TermLoss::Linear(-gain - cost / count), divisor: prompts })
                })
                .collect();
            all.push(Terms { policy, anchor: Vec::new() });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean over all draws of `rollouts` answers of failure probability `p` of the sum of gains of
    /// successes, over the exact
    /// coefficient `N p^(N-1) (1-p)`.
    fn mean_over_exact(bon: &BonAware, p: f64) -> f64 {
        let mut mean = 0.0;
        for drawn in 0..1_u32 << bon.rollouts {
            let rewards: Vec<f64> = (0..bon.rollouts).map(|i| f64::from(drawn >> i & 1)).collect();
            let successes: f64 = rewards.iter().sum();
            let failures = bon.rollouts as f64 - successes;
            let weight = (1.0 - p).powf(successes) * p.powf(failures);
            mean += weight * bon.gains(&rewards).expect("rewards of 0 and 1").iter().sum::<f64>();
        }
        mean / (bon.n as f64 * p.powi(bon.n as i32 - 1) * (1.0 - p))
    }

    #[test]
    fn both_forms_are_unbiased_for_rewards_of_zero_and_one() {
        for (n, rollouts) in [(4, 8), (4, 5), (4, 4), (2, 7), (8, 9)] {
            for p in [0.1, 0.5, 0.9] {
                for estimator in [BonEstimator::Binary { clip: 1.0 }, BonEstimator::BestMinusSecond] {
                    let bon = BonAware { n, rollouts, beta: 0.0, estimator };
                    let ratio = mean_over_exact(&bon, p);
                    assert!(
                        (ratio - 1.0).abs() < 1e-9,
                        "N = {n} of {rollouts} at {p}, {estimator:?}: {ratio}"
                    );
                }
            }
        }
        // Easy prompts get less than hard ones, as much as the gradient says.
        let clipped =
            BonAware { n: 4, rollouts: 8, beta: 0.0, estimator: BonEstimator::Binary { clip: 0.3 } };
        assert!(mean_over_exact(&clipped, 0.9) < 0.5 && mean_over_exact(&clipped, 0.1) > 0.7);
    }

    #[test]
    fn the_share_is_that_of_choices_without_another_success() {
        assert_eq!(alone_share(3, 4, 4), 1.0);
        assert_eq!((alone_share(2, 4, 4), alone_share(0, 4, 2)), (0.0, 0.0));
        assert!((alone_share(5, 8, 3) - 10.0 / 21.0).abs() < 1e-15);
        // With many answers it is the paper's: N p^(N-1) for a success of the policy.
        assert!((alone_share(50_000, 100_001, 4) - 0.125).abs() < 1e-4);
    }

    #[test]
    fn with_n_answers_the_best_alone_is_paid_its_lead() {
        assert_eq!(best_minus_second(&[1.0, 4.0, 2.5], 3), [0.0, 1.5, 0.0]);
        assert_eq!(best_minus_second(&[1.0, 4.0, 4.0], 3), [0.0, 0.0, 0.0]);
        let mean = best_minus_second(&[1.0, 4.0, 2.5], 2);
        assert!(
            (mean[1] - (3.0 + 1.5) / 3.0).abs() < 1e-15 && (mean[2] - 0.5).abs() < 1e-15 && mean[0] == 0.0
        );
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        let fine = BonAware { n: 4, rollouts: 4, beta: 0.0, estimator: BonEstimator::BestMinusSecond };
        fine.validate().expect("fine");
        assert!(BonAware { n: 1, ..fine }.validate().is_err());
        assert!(BonAware { rollouts: 3, ..fine }.validate().is_err());
        assert!(BonAware { beta: -1.0, ..fine }.validate().is_err());
        let binary = BonEstimator::Binary { clip: 1.0 };
        BonAware { estimator: binary, ..fine }.validate().expect("fine");
        assert!(BonAware { estimator: BonEstimator::Binary { clip: 0.0 }, ..fine }.validate().is_err());
        let five = BonAware { estimator: binary, rollouts: 5, ..fine };
        assert!(five.gains(&[0.0, 1.0, 0.5, 0.0, 1.0]).is_err());
        // One success and four failures: it is alone in each of the four subsets that have it.
        assert_eq!(five.gains(&[0.0, 0.0, 1.0, 0.0, 0.0]).expect("binary"), [0.0, 0.0, 0.8, 0.0, 0.0]);
    }
}
