//! The implicit reward of a tuned policy: its log-ratio to the policy that it was tuned from.
//!
//! `V(y_1:t) = β Σ_j w_j [log π_tuned(y_j | x, y_<j) − log π_ref(y_j | x, y_<j)]`. For a policy tuned by DPO at scale β from
//! `π_ref`, the undiscounted sum of a whole text is its reward up to a constant of the prompt (arXiv 2305.18290, Eq. 5), and
//! that of a partial text is its optimal value up to the same constant (arXiv 2404.12358, 2405.19262). With `w_j = 1/j`,
//! `j` counted from 1, it is TreeBoN's score of partial texts (arXiv 2410.16033).

use generate::{Candidate, Error, Ledger, Prefix, PrefixReward, Reward, Step};

use crate::autoregressive::Runner;
use crate::error::SetupError;
use crate::memory::{Memory, Text};
use crate::sequence::Limits;

/// Weights of the tokens of a text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Discount {
    /// 1 for every token.
    #[default]
    None,
    /// 1, 1/2, 1/3, …
    Harmonic,
}

impl Discount {
    /// The weight of the token at `place`, from 0.
    fn weight(self, place: usize) -> f64 {
        match self {
            Self::None => 1.0,
            Self::Harmonic => 1.0 / (place as f64 + 1.0),
        }
    }
}

/// A log-ratio of two policies of one vocabulary, as a reward of whole and of partial completions.
///
/// Texts that begin as earlier ones cost what is new in them.
#[expect(missing_debug_implementations, reason = "policies have nothing to show")]
pub struct ImplicitReward<'a> {
    name: String,
    tuned: Runner<'a>,
    reference: Runner<'a>,
    beta: f64,
    discount: Discount,
    memory: Memory,
    ledger: Ledger,
}

impl<'a> ImplicitReward<'a> {
    /// The log-ratio of `tuned` to `reference` times `beta`, the scale that `tuned` was trained at.
    ///
    /// # Errors
    /// A model has a scalar head, the vocabularies differ, or `beta` is not above 0.
    pub fn new(
        tuned: &'a dyn Step,
        reference: &'a dyn Step,
        beta: f64,
        discount: Discount,
    ) -> Result<Self, SetupError> {
        let name = format!("log {}/{}", tuned.name(), reference.name());
        let (left, right) = (tuned.width(), reference.width());
        let runners = (Runner::new(tuned, beta)?, Runner::new(reference, beta)?);
        if left != right {
            return Err(SetupError::Vocabularies { name, left, right });
        }
        let (tuned, reference) = runners;
        let memory = Memory::new(Limits::default().remembered);
        Ok(Self { name, tuned, reference, beta, discount, memory, ledger: Ledger::default() })
    }

    fn score(&mut self, texts: &[Text]) -> Result<Vec<f64>, Error> {
        self.tuned.check(texts)?;
        self.reference.check(texts)?;
        let (tuned, reference) = (&mut self.tuned, &mut self.reference);
        let (beta, discount) = (self.beta, self.discount);
        self.memory.serve(texts, &mut self.ledger, |distinct, ledger| {
            let tuned = tuned.token_log_probs(distinct, ledger)?;
            let reference = reference.token_log_probs(distinct, ledger)?;
            let value = |(tuned, reference): (&Vec<f32>, &Vec<f32>)| {
                let ratios = tuned.iter().zip(reference).enumerate();
                let sum = ratios.fold(0.0, |sum, (place, (tuned, reference))| {
                    sum + discount.weight(place) * (f64::from(*tuned) - f64::from(*reference))
                });
                beta * sum
            };
            Ok(tuned.iter().zip(&reference).map(value).collect())
        })
    }
}

impl Reward for ImplicitReward<'_> {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        self.score(&Text::of_candidates(candidates))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl PrefixReward for ImplicitReward<'_> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        self.score(&Text::of_prefixes(prefixes))
    }
}

#[cfg(test)]
mod tests {
    use generate::{End, Prompt, TokenId};

    use super::*;
    use crate::fake::Fake;

    #[test]
    fn discounts_begin_at_one() {
        // Two models that differ: the fake's outputs depend on the whole text.
        let (tuned, reference) = (Fake::new(50), Fake { salt: 9, ..Fake::new(50) });
        let prompt = Prompt::from_ids(0, vec![3, 4]);
        let ids: [TokenId; 3] = [7, 8, 0];
        let ratios: Vec<f64> = (0..3)
            .map(|at| {
                let text = [&prompt.ids, &ids[..at]].concat();
                let log = |model: &Fake| f64::from(model.output(&text, ids[at] as usize) - 1.0);
                log(&tuned) - log(&reference)
            })
            .collect();
        for (discount, weights) in
            [(Discount::None, [1.0, 1.0, 1.0]), (Discount::Harmonic, [1.0, 0.5, 1.0 / 3.0])]
        {
            let mut value = ImplicitReward::new(&tuned, &reference, 0.5, discount).expect("two models");
            let prefixes: Vec<_> = (0..=3).map(|n| Prefix { prompt: &prompt, ids: &ids[..n] }).collect();
            let scores = value.prefix_rewards(&prefixes).expect("scores");
            for (n, score) in scores.iter().enumerate() {
                let want: f64 =
                    ratios.iter().zip(weights).take(n).map(|(ratio, weight)| 0.5 * ratio * weight).sum();
                assert!((score - want).abs() < 1e-12, "{discount:?} {n}: {score} against {want}");
            }
            let whole = value.rewards(&[Candidate { prompt: &prompt, ids: &ids, end: End::Eos }]);
            assert_eq!(whole.expect("a score"), [scores[3]]);
            assert_eq!(value.ledger().reward_calls, 5);
            // Two models over 2 + 3 + 4 tokens: the last of a text predicts nothing. The whole text was remembered.
            assert_eq!((value.ledger().reward_tokens, value.ledger().cached_tokens), (18, 10 + 5));
        }
        assert!(ratios.iter().all(|ratio| *ratio != 0.0));
    }

    #[test]
    fn an_untuned_policy_has_no_preferences() {
        let fake = Fake::new(50);
        let prompt = Prompt::from_ids(0, vec![3]);
        let mut value = ImplicitReward::new(&fake, &fake, 1.0, Discount::None).expect("two models");
        let given = value.prefix_rewards(&[Prefix { prompt: &prompt, ids: &[5, 6] }]).expect("a score");
        assert_eq!(given, [0.0]);
    }

    #[test]
    fn models_that_do_not_fit_are_refused() {
        let refused = |left: &Fake, right: &Fake, beta: f64| {
            let made = ImplicitReward::new(left, right, beta, Discount::None);
            made.err().expect("refused").to_string()
        };
        assert!(refused(&Fake::new(4), &Fake::new(5), 1.0).contains("vocabularies of 4 and 5 tokens"));
        assert!(refused(&Fake::new(4), &Fake::new(4), 0.0).contains("above 0"));
        assert!(refused(&Fake::new(1), &Fake::new(1), 1.0).contains("scalar head"));
    }
}
