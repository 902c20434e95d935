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
    /// BoN-RLB for rewards of 0 and 1, positive side: the best, where it succeeds, weighs `N p^(N-1) (1-p) / (1-p^N)` with
    /// the share `p` of failures, at most `clip`.
    Binary {
        /// The largest weight.
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

/// `N p^(N-1) (1-p) / (1-p^N)`: what an answer of best-of-N that succeeds has to weigh so that the sum is the gradient of
/// `1 - p^N`, with `p` the probability of failure. Between 0 (`p = 0`) and 1 (`p = 1`).
pub fn binary_weight(p: f64, n: f64) -> f64 {
    if p >= 1.0 {
        return 1.0;
    }
    n * p.powf(n - 1.0) * (1.0 - p) / (1.0 - p.powf(n))
}

impl BonAware {
    /// Refuses settings that do not make sense.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("N of BoN-aware training", self.n as f64, "at least 2", |n| n >= 2.0)?;
        let enough = "at least N (one more for the binary estimator)";
        let least = self.n + usize::from(matches!(self.estimator, BonEstimator::Binary { .. }));
        in_range("rollouts", self.rollouts as f64, enough, |k| k >= least as f64)?;
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

    /// The best of the first N, weighed by the failures among the answers that did not take part.
    fn binary(&self, rewards: &[f64], clip: f64) -> Result<Vec<f64>, InputError> {
        if let Some(index) = rewards.iter().position(|r| *r != 0.0 && *r != 1.0) {
            let range = "0 or 1 for the binary estimator; form = \"rl\" takes any";
            return Err(InputError::OutOfRange { what: "reward", value: rewards[index], range });
        }
        let (taking_part, others) = rewards.split_at(self.n);
        let mut gains = vec![0.0; rewards.len()];
        if let Some(best) = taking_part.iter().position(|r| *r == 1.0) {
            let failures = others.iter().filter(|r| **r == 0.0).count() as f64 / others.len() as f64;
            gains[best] = binary_weight(failures, self.n as f64).min(clip);
        }
        Ok(gains)
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

    #[test]
    fn the_binary_weight_gives_the_gradient_of_success_under_best_of_n() {
        for n in [2.0, 8.0, 32.0] {
            for p in [0.05, 0.3, 0.7, 0.95] {
                // Best-of-N gives a success (1-p^N)/(1-p) times as often as the policy.
                let often = (1.0 - f64::powf(p, n)) / (1.0 - p);
                let want = n * f64::powf(p, n - 1.0);
                assert!((often * binary_weight(p, n) - want).abs() < 1e-12);
            }
            assert_eq!((binary_weight(0.0, n), binary_weight(1.0, n)), (0.0, 1.0));
        }
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
        assert!(BonAware { estimator: binary, ..fine }.validate().is_err());
        let five = BonAware { estimator: binary, rollouts: 5, ..fine };
        assert!(five.gains(&[0.0, 1.0, 0.5, 0.0, 1.0]).is_err());
        assert_eq!(five.gains(&[0.0, 0.0, 1.0, 1.0, 0.0]).expect("binary"), [0.0, 0.0, 1.0, 0.0, 0.0]);
    }
}
