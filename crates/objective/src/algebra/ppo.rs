//! PPO (arXiv 1707.06347) as it is used on language models (arXiv 2203.02155, TRL): the policy's tokens are actions, every token
//! pays its log-ratio to the anchor, the answer is paid at its end, and advantages are generalised estimates (GAE) over a
//! learned value of the text so far.
//!
//! With `gamma = 1`, `lambda = 1` and any values the expectation of the first update's gradient is that of
//! `E[Phi] - beta KL(pi || anchor)`. `lambda < 1` has less variance and is unbiased only where the values are right. In later
//! updates on the same answers the ratios are those of tokens and not of answers, and clipped: biased by as much as the policy
//! has moved since it drew them.

use crate::advantage::{gae, whitened};
use crate::error::{InputError, in_range, same_length};
use crate::losses::{Clip, PolicyGradient, ValueLoss, clipped, clipped_value};

/// What answers earn and what their tokens pay.
#[derive(Clone, Debug, PartialEq)]
pub struct Payments {
    /// What each answer earns at its end, prompt by prompt.
    pub ends: Vec<Vec<f64>>,
    /// What a token pays for each nat of `log pi - log anchor`.
    pub kl: f64,
}

/// Settings of PPO.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ppo {
    /// Discount of a token later, between 0 and 1; below 1 the optimum is another one.
    pub gamma: f64,
    /// Decay of the sum of temporal differences in an advantage, between 0 and 1.
    pub lambda: f64,
    /// Range of the ratio of a token's probability to that it was drawn with.
    pub clip: Clip,
    /// How far a value may move from that at the draw before its loss says nothing; 0 is any distance.
    pub value_clip: f64,
    /// Weight of the loss of the values.
    pub value_coefficient: f64,
    /// Whether advantages are brought to mean 0 and deviation 1 over the tokens of all answers.
    pub whiten: bool,
}

/// An answer, token by token, as it was drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Trajectory<'a> {
    /// Log-probabilities of its tokens under the policy.
    pub log_policy: &'a [f64],
    /// The same under the anchor.
    pub log_anchor: &'a [f64],
    /// The value of the text before each token.
    pub values: &'a [f64],
    /// What it earns at its end.
    pub end: f64,
}

/// What a token of an answer is trained to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenTerm {
    /// Its log-probability when it was drawn.
    pub log_policy: f64,
    /// The value of the text before it when it was drawn.
    pub value: f64,
    /// Its advantage.
    pub advantage: f64,
    /// What the value is to be: the unwhitened advantage and the value.
    pub target: f64,
}

/// Losses of a token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenLoss {
    /// Of its log-probability.
    pub policy: PolicyGradient,
    /// Of the value before it, without its weight.
    pub value: ValueLoss,
}

impl Ppo {
    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("gamma", self.gamma, "between 0 and 1", |g| (0.0..=1.0).contains(&g))?;
        in_range("lambda", self.lambda, "between 0 and 1", |l| (0.0..=1.0).contains(&l))?;
        self.clip.validate()?;
        in_range("value clip", self.value_clip, "at least 0", |c| c >= 0.0)?;
        in_range("value coefficient", self.value_coefficient, "at least 0", |c| c >= 0.0)
    }

    /// What the tokens of answers are trained to; `kl` is the price of a nat of log-ratio.
    pub fn terms(&self, answers: &[Trajectory<'_>], kl: f64) -> Result<Vec<Vec<TokenTerm>>, InputError> {
        let mut all = Vec::with_capacity(answers.len());
        for answer in answers {
            same_length("log-probabilities of the anchor", answer.log_policy.len(), answer.log_anchor.len())?;
            let mut rewards: Vec<f64> = answer
                .log_policy
                .iter()
                .zip(answer.log_anchor)
                .map(|(own, anchor)| -kl * (own - anchor))
                .collect();
            if let Some(last) = rewards.last_mut() {
                *last += answer.end;
            }
            let advantages = gae(&rewards, answer.values, self.gamma, self.lambda)?;
            let term = |((advantage, value), log_policy): ((f64, &f64), &f64)| TokenTerm {
                log_policy: *log_policy,
                value: *value,
                advantage,
                target: advantage + value,
            };
            let terms: Vec<TokenTerm> =
                advantages.into_iter().zip(answer.values).zip(answer.log_policy).map(term).collect();
            all.push(terms);
        }
        if self.whiten {
            let flat: Vec<f64> = all.iter().flatten().map(|term| term.advantage).collect();
            let white = whitened(&flat)?;
            for (term, advantage) in all.iter_mut().flatten().zip(white) {
                term.advantage = advantage;
            }
        }
        Ok(all)
    }

    /// The losses of a token whose log-probability and value are now these.
    pub fn loss(&self, term: &TokenTerm, log_policy: f64, value: f64) -> TokenLoss {
        TokenLoss {
            policy: clipped(log_policy - term.log_policy, term.advantage, self.clip),
            value: clipped_value(value, term.value, term.target, self.value_clip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PPO: Ppo = Ppo {
        gamma: 1.0,
        lambda: 1.0,
        clip: Clip { low: 0.2, high: 0.2 },
        value_clip: 0.2,
        value_coefficient: 0.1,
        whiten: false,
    };

    #[test]
    fn the_end_is_paid_once_and_every_token_pays_its_log_ratio() {
        let answer = Trajectory {
            log_policy: &[-1.0, -2.0, -0.5],
            log_anchor: &[-1.5, -1.0, -0.5],
            values: &[0.0; 3],
            end: 3.0,
        };
        let terms = PPO.terms(std::slice::from_ref(&answer), 0.1).expect("aligned");
        let advantages: Vec<f64> = terms[0].iter().map(|term| term.advantage).collect();
        // 3 - 0.1 (0.5 - 1), then 3 + 0.1, then 3.
        for (got, want) in advantages.iter().zip([3.05, 3.1, 3.0]) {
            assert!((got - want).abs() < 1e-12, "{advantages:?}");
        }
        let white = Ppo { whiten: true, ..PPO }.terms(&[answer], 0.1).expect("aligned");
        assert!(white[0].iter().map(|term| term.advantage).sum::<f64>().abs() < 1e-9);
        // The values are trained to the returns as they were.
        assert!((white[0][1].target - 3.1).abs() < 1e-12);
    }

    #[test]
    fn neither_loss_pulls_beyond_its_clip() {
        let term = TokenTerm { log_policy: -1.0, value: 0.0, advantage: 2.0, target: 1.0 };
        let (inside, outside) = (PPO.loss(&term, -0.9, 0.1), PPO.loss(&term, -0.7, 0.3));
        assert!(inside.policy.gradient < 0.0 && (inside.value.gradient + 0.9).abs() < 1e-12);
        assert!(outside.policy.clipped && outside.policy.gradient == 0.0);
        assert!(outside.value.clipped && outside.value.gradient == 0.0);
        let free = Ppo { value_clip: 0.0, ..PPO }.loss(&term, -0.7, 0.3);
        assert!(!free.value.clipped && (free.value.gradient + 0.7).abs() < 1e-12);
    }

    #[test]
    fn settings_out_of_range_and_rows_that_do_not_fit_are_refused() {
        for broken in [
            Ppo { gamma: 1.1, ..PPO },
            Ppo { lambda: -0.1, ..PPO },
            Ppo { value_clip: -1.0, ..PPO },
            Ppo { value_coefficient: f64::NAN, ..PPO },
        ] {
            assert!(broken.validate().is_err());
        }
        let short = Trajectory { log_policy: &[0.0], log_anchor: &[], values: &[0.0], end: 0.0 };
        assert!(PPO.validate().is_ok() && PPO.terms(&[short], 0.0).is_err());
    }
}
