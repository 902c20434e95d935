//! Methods that are a value, a divergence and a policy gradient.

use super::{Draws, Estimator, Group, Objective, Payments, Record, Term, TermLoss, Terms};
use crate::error::{InputError, in_range};
use crate::losses::Vbon;
use crate::rank::{CachedRewards, LogCdf, Rank, Ties};
use crate::reward_law::RewardLaw;
use crate::tilt::Tilt;

/// `-log 16`, what J-BOND takes from an answer that is worse than two of the anchor.
const WORST: f64 = -2.772_588_722_239_781;

/// What an answer is worth: `Phi`.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Its reward.
    Raw,
    /// A tilt of its calibrated reward among the cached samples.
    Calibrated(Tilt),
    /// The reward of variational best-of-N, from `log F` among the cached samples.
    Vbon {
        /// N and the form.
        target: Vbon,
        /// How equal rewards count.
        ties: Ties,
    },
    /// `log F` among this step's samples of the anchor (BOND).
    LogQuantile {
        /// How equal rewards count.
        ties: Ties,
    },
    /// J-BOND's `r_J`: `-log 16` for an answer worse than both of two samples of the anchor, else 0. Its mean is
    /// `-log 16 (1 - F<=)^2`, which equals `log F<=` at one half and at one.
    WorstOfThree,
}

/// The coefficients that a divergence gives to the parts of the loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights {
    /// Of the value in the return of an answer of the policy.
    pub value: f64,
    /// Of `log pi - log anchor` in the return.
    pub kl: f64,
    /// Of the negative log-likelihood of the target's samples.
    pub likelihood: f64,
}

impl Weights {
    /// The KL-regularised return `Phi - beta (log pi - log anchor)`: `-beta KL(pi || target)` up to a constant.
    pub fn regularised(beta: f64) -> Self {
        Self { value: 1.0, kl: beta, likelihood: 0.0 }
    }

    /// The same divided by `beta`: the return is in nats, of like size for every tilt.
    pub fn backward(beta: f64) -> Self {
        Self { value: 1.0 / beta, kl: 1.0, likelihood: 0.0 }
    }

    /// The Jeffreys divergence `(1-b) KL(target || pi) + b KL(pi || target)` with `gamma KL(pi || anchor)` added: BOND's
    /// objective and J-BOND's regulariser, whose gradient is `+gamma (log pi - log anchor) grad log pi` in what is
    /// *descended*.
    pub fn jeffreys(b: f64, beta: f64, gamma: f64) -> Result<Self, InputError> {
        in_range("weight of the backward divergence", b, "between 0 and 1", |b| (0.0..=1.0).contains(&b))?;
        in_range("beta", beta, "above 0", |beta| beta > 0.0)?;
        in_range("gamma", gamma, "at least 0", |gamma| gamma >= 0.0)?;
        Ok(Self { value: b / beta, kl: b + gamma, likelihood: 1.0 - b })
    }

    /// The return of an answer with value `phi`.
    pub fn sequence_return(&self, phi: f64, log_ratio: f64) -> f64 {
        self.value * phi - self.kl * log_ratio
    }

    /// Derivative of the exact loss with respect to the log-probability of every answer, for laws written out in full:
    /// what the sampled terms are in expectation, up to constants that the gradient does not see. `target` is what the
    /// likelihood is of.
    pub fn exact(&self, law: &[f64], anchor: &[f64], phi: &[f64], target: &[f64]) -> Vec<f64> {
        (0..law.len())
            .map(|y| {
                let log_ratio = law[y].ln() - anchor[y].ln();
                -law[y] * self.sequence_return(phi[y], log_ratio) - self.likelihood * target[y]
            })
            .collect()
    }
}

/// A value, a divergence and an estimator.
#[derive(Clone, Debug, PartialEq)]
pub struct Composition {
    /// What answers are worth.
    pub value: Value,
    /// Parts of the loss.
    pub weights: Weights,
    /// How the gradient of the return is estimated.
    pub estimator: Estimator,
    /// Answers of the policy for each prompt.
    pub rollouts: usize,
    /// Answers of the anchor for each prompt.
    pub anchor_samples: usize,
    /// The likelihood is that of the best of the first so many samples of the anchor.
    pub best_of: usize,
}

impl Composition {
    /// A policy gradient against a fixed anchor, without samples of it.
    pub fn policy_gradient(value: Value, weights: Weights, estimator: Estimator, rollouts: usize) -> Self {
        Self { value, weights, estimator, rollouts, anchor_samples: 0, best_of: 0 }
    }

    /// The values of a prompt's rollouts.
    fn values(&self, group: &Group<'_>, record: &mut Record<'_>) -> Result<Vec<f64>, InputError> {
        let fresh = || CachedRewards::new(group.anchor.iter().map(|sample| sample.reward).collect());
        let pool = || group.cached.ok_or(InputError::TooFew { what: "cached rewards", least: 1 });
        let rewards = group.policy.iter().map(|rollout| rollout.reward);
        match (&self.value, group.law) {
            (Value::Raw, _) => Ok(rewards.collect()),
            (Value::Calibrated(tilt), Some(law)) => rewards
                .map(|reward| {
                    let log_f = learned_quantile(law, reward, record)?;
                    let value = match tilt {
                        Tilt::Log => law.floored_log_cdf(reward)?,
                        _ => tilt.of_log_quantile(log_f),
                    };
                    record("objective/tilted_score", value, 1.0);
                    Ok(value)
                })
                .collect(),
            // Ties have no mass under a learned law, which is continuous.
            (Value::Vbon { target, .. }, Some(law)) => rewards
                .map(|reward| {
                    learned_quantile(law, reward, record)?;
                    Ok(target.reward(law.floored_log_cdf(reward)?, 0.0))
                })
                .collect(),
            (Value::Calibrated(tilt), None) => {
                let pool = pool()?;
                rewards
                    .map(|reward| {
                        let rank = pool.rank(reward)?;
                        log_quantile(rank, Ties::NonStrict, record);
                        let value = tilt.of_rank(rank);
                        record("objective/tilted_score", value, 1.0);
                        Ok(value)
                    })
                    .collect()
            }
            (Value::Vbon { target, ties }, None) => {
                let pool = pool()?;
                rewards
                    .map(|reward| {
                        let rank = pool.rank(reward)?;
                        Ok(target.reward(log_quantile(rank, *ties, record), rank.tie_share()))
                    })
                    .collect()
            }
            (Value::LogQuantile { ties }, _) => {
                let fresh = fresh()?;
                rewards.map(|reward| Ok(log_quantile(fresh.rank(reward)?, *ties, record))).collect()
            }
            (Value::WorstOfThree, _) => {
                let [first, second, ..] = group.anchor[..] else {
                    return Err(InputError::TooFew { what: "samples of the anchor", least: 2 });
                };
                let (low, high) = (first.reward.min(second.reward), first.reward.max(second.reward));
                record("j-bond/ties", f64::from(u8::from(low == high)), 1.0);
                Ok(rewards
                    .map(|reward| {
                        let fires = reward < low;
                        record("j-bond/firing_rate", f64::from(u8::from(fires)), 1.0);
                        if fires { WORST } else { 0.0 }
                    })
                    .collect())
            }
        }
    }

    /// The values of a prompt's rollouts, with what is worth knowing about their returns.
    fn observed_values(&self, group: &Group<'_>, record: &mut Record<'_>) -> Result<Vec<f64>, InputError> {
        let values = self.values(group, record)?;
        let silent = values.windows(2).all(|pair| pair[0] == pair[1]);
        if values.len() > 1 {
            record("frac_reward_zero_std", f64::from(u8::from(silent)), 1.0);
        }
        for (rollout, value) in group.policy.iter().zip(&values) {
            record("objective/scores", rollout.reward, 1.0);
            record("objective/rlhf_reward", self.weights.sequence_return(*value, rollout.log_ratio()), 1.0);
            record("objective/non_score_reward", -self.weights.kl * rollout.log_ratio(), 1.0);
        }
        Ok(values)
    }
}

impl Objective for Composition {
    fn draws(&self) -> Draws {
        Draws { policy: self.rollouts, anchor: self.anchor_samples }
    }

    fn terms(&self, groups: &[Group<'_>], record: &mut Record<'_>) -> Result<Vec<Terms>, InputError> {
        let mut returns = Vec::with_capacity(groups.len());
        for group in groups {
            let values = self.observed_values(group, record)?;
            let paid = values.iter().zip(&group.policy);
            returns.push(
                paid.map(|(value, rollout)| self.weights.sequence_return(*value, rollout.log_ratio()))
                    .collect(),
            );
        }
        let advantages = if self.rollouts == 0 { returns } else { self.estimator.advantages(&returns)? };
        let rollouts = advantages.iter().map(Vec::len).sum::<usize>() as f64;
        let prompts = groups.len() as f64;
        let mut terms = Vec::with_capacity(groups.len());
        for (group, advantages) in groups.iter().zip(advantages) {
            let policy = advantages
                .into_iter()
                .map(|advantage| Some(Term { loss: TermLoss::Linear(-advantage), divisor: rollouts }))
                .collect();
            let mut anchor = vec![None; group.anchor.len()];
            if self.weights.likelihood > 0.0 {
                let best = best(group, self.best_of)?;
                let loss = TermLoss::Linear(-self.weights.likelihood);
                anchor[best] = Some(Term { loss, divisor: prompts });
                record("bond/best_score", group.anchor[best].reward, 1.0);
            }
            terms.push(Terms { policy, anchor });
        }
        Ok(terms)
    }

    fn payments(
        &self,
        groups: &[Group<'_>],
        record: &mut Record<'_>,
    ) -> Result<Option<Payments>, InputError> {
        if self.rollouts == 0 || self.weights.likelihood > 0.0 {
            return Ok(None);
        }
        let mut ends = Vec::with_capacity(groups.len());
        for group in groups {
            let values = self.observed_values(group, record)?;
            ends.push(values.into_iter().map(|value| self.weights.value * value).collect());
        }
        Ok(Some(Payments { ends, kl: self.weights.kl }))
    }
}

/// The best of the first `n` samples of the anchor; of equals the first, which is as good as any since draws are exchangeable.
fn best(group: &Group<'_>, n: usize) -> Result<usize, InputError> {
    if n == 0 || group.anchor.len() < n {
        return Err(InputError::TooFew { what: "samples of the anchor", least: n.max(1) });
    }
    let mut best = 0;
    for (index, sample) in group.anchor.iter().enumerate().take(n) {
        if sample.reward > group.anchor[best].reward {
            best = index;
        }
    }
    Ok(best)
}

/// The estimate of `log F` at a rank, with what is worth knowing about it.
fn log_quantile(rank: Rank, ties: Ties, record: &mut Record<'_>) -> f64 {
    let log_f = LogCdf::HarmonicDifference.estimate(rank.count(ties), rank.total);
    record("objective/log_f", log_f, 1.0);
    record("bon/quantile", rank.fraction(Ties::MidRank), 1.0);
    record("bon/floor_hits", f64::from(u8::from(rank.count(Ties::NonStrict) == 0.0)), 1.0);
    record("bon/tie_mass", rank.tie_mass(), 1.0);
    effective_n(rank.fraction(Ties::MidRank), record);
    log_f
}

/// `log F` of a reward by a learned law, with what is worth knowing about it.
fn learned_quantile(law: &RewardLaw, reward: f64, record: &mut Record<'_>) -> Result<f64, InputError> {
    let log_f = law.log_cdf(reward)?;
    record("objective/log_f", law.floored_log_cdf(reward)?, 1.0);
    record("bon/quantile", log_f.exp(), 1.0);
    record("bon/floor_hits", f64::from(u8::from(law.is_floored(reward)?)), 1.0);
    effective_n(log_f.exp(), record);
    Ok(log_f)
}

fn effective_n(quantile: f64, record: &mut Record<'_>) {
    // Best-of-N wins N/(N+1) against its base, so this ratio of sums is the N that the policy's win rate stands for; ties
    // count one half, so that the base itself has one.
    record("bon/effective_n", quantile, 1.0 - quantile);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::algebra::{AnchorSample, Rollout};

    fn group(policy: &[f64], anchor: &[f64]) -> Group<'static> {
        let rollout = |reward: &f64| Rollout { reward: *reward, log_policy: -1.0, log_anchor: -1.5 };
        let sample = |reward: &f64| AnchorSample { reward: *reward, log_anchor: -1.0, log_reference: -1.0 };
        Group {
            cached: None,
            law: None,
            policy: policy.iter().map(rollout).collect(),
            anchor: anchor.iter().map(sample).collect(),
        }
    }

    fn j_bond() -> Composition {
        Composition {
            value: Value::WorstOfThree,
            weights: Weights::jeffreys(0.5, 1.0, 0.25).expect("in range"),
            estimator: Estimator::Reinforce,
            rollouts: 1,
            anchor_samples: 2,
            best_of: 2,
        }
    }

    #[test]
    fn an_answer_is_punished_only_when_it_is_strictly_the_worst() {
        assert!((WORST + 16.0_f64.ln()).abs() < 1e-15);
        let loss = |policy: f64, anchor: &[f64]| {
            let terms = j_bond().terms(&[group(&[policy], anchor)], &mut |_, _, _| {}).expect("drawn");
            (terms[0].policy[0].expect("a term").loss, terms[0].anchor.iter().position(Option::is_some))
        };
        // The log-ratio is 1/2 and counts b + gamma = 3/4.
        assert_eq!(loss(0.0, &[1.0, 2.0]), (TermLoss::Linear(-0.5 * WORST + 0.375), Some(1)));
        assert_eq!(loss(1.0, &[1.0, 2.0]), (TermLoss::Linear(0.375), Some(1)));
        assert_eq!(loss(3.0, &[2.0, 2.0]), (TermLoss::Linear(0.375), Some(0)));
    }

    #[test]
    fn what_was_not_drawn_is_named() {
        let mut ignore = |_: &'static str, _: f64, _: f64| {};
        assert!(j_bond().terms(&[group(&[0.0], &[1.0])], &mut ignore).is_err());
        let vbon = Value::Calibrated(Tilt::Identity);
        let ctrl = Composition::policy_gradient(vbon, Weights::backward(1.0), Estimator::Rloo, 2);
        let error = ctrl.terms(&[group(&[0.0, 1.0], &[])], &mut ignore).expect_err("no pool");
        assert!(error.to_string().contains("cached rewards"));
        assert!(Weights::jeffreys(1.5, 1.0, 0.0).is_err() && Weights::jeffreys(0.5, 1.0, -1.0).is_err());
    }

    #[test]
    fn a_learned_law_takes_the_place_of_the_pool() {
        use crate::reward_law::MixtureShape;

        let shape = MixtureShape { components: 1, location: 0.0, scale: 1.0 };
        let law = shape.read(&[0.0; 3]).expect("numbers");
        let exact = |tilt: Tilt| {
            Composition::policy_gradient(
                Value::Calibrated(tilt),
                Weights::backward(0.5),
                Estimator::Reinforce,
                2,
            )
        };
        let rewards = [-0.4, 1.1];
        let group = Group { law: Some(&law), ..group(&rewards, &[]) };
        for (tilt, phi) in [
            (Tilt::Identity, &(|u: f64| u) as &dyn Fn(f64) -> f64),
            (Tilt::Log, &|u: f64| u.ln()),
            (Tilt::Exponential { t: -2.0 }, &|u: f64| -(-2.0 * u).exp()),
        ] {
            let mut quantiles = Vec::new();
            let terms = exact(tilt.clone())
                .terms(std::slice::from_ref(&group), &mut |name, sum, _| {
                    if name == "bon/quantile" {
                        quantiles.push(sum);
                    }
                })
                .expect("terms");
            for ((reward, term), quantile) in rewards.iter().zip(&terms[0].policy).zip(&quantiles) {
                let u = law.cdf(*reward).expect("finite");
                assert_eq!(*quantile, u);
                // The log-ratio is 1/2 and counts one.
                let TermLoss::Linear(loss) = term.expect("a term").loss else { panic!("{tilt:?}") };
                assert!((loss + phi(u) / 0.5 - 0.5).abs() < 1e-12, "{tilt:?}: {loss}");
            }
        }
        let vbon = crate::losses::Vbon { n: 4.0, form: crate::losses::VbonForm::Bound };
        let value = Value::Vbon { target: vbon, ties: Ties::NonStrict };
        let weights = Weights::regularised(vbon.kl_coefficient());
        let bound = Composition::policy_gradient(value, weights, Estimator::Reinforce, 2);
        let terms = bound.terms(&[group], &mut |_, _, _| {}).expect("terms");
        let TermLoss::Linear(loss) = terms[0].policy[0].expect("a term").loss else { panic!("linear") };
        assert!((loss + law.log_cdf(-0.4).expect("finite") - 0.5 / 3.0).abs() < 1e-12);
    }

    #[test]
    fn the_effective_n_is_a_ratio_of_sums() {
        let effective = |pool: &[f64], answers: &[f64]| {
            let cached = CachedRewards::new(pool.to_vec()).expect("finite");
            let (mut wins, mut losses) = (0.0, 0.0);
            for reward in answers {
                let rank = cached.rank(*reward).expect("finite");
                log_quantile(rank, Ties::NonStrict, &mut |name, sum, count| {
                    if name == "bon/effective_n" {
                        (wins, losses) = (wins + sum, losses + count);
                    }
                });
            }
            wins / losses
        };
        // Answers of the reference itself: N is one, with ties too.
        let pool: Vec<f64> = (0..100).map(f64::from).collect();
        assert!((effective(&pool, &pool) - 1.0).abs() < 1e-12);
        let tied: Vec<f64> = (0..100).map(|r| f64::from(r / 40)).collect();
        assert!((effective(&tied, &tied) - 1.0).abs() < 1e-12);
        // Three answers in four above the median of two values.
        assert!((effective(&[0.0, 1.0], &[1.0, 1.0, 1.0, 0.0]) - 0.625 / 0.375).abs() < 1e-12);
    }
}
