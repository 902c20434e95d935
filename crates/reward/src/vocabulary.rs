//! Prefix scorers with a value of every next token: one pass over a text values all of its continuations by a token.
//!
//! The value of a text `x, y_1 … y_t` is read after `y_{t−1}`, at output `y_t` plus the last output, which belongs to the text
//! so far (the state, and the token's advantage over it). A search that asks for the values of k next tokens therefore costs one
//! row of the scorer and not k (controlled decoding's own head, arXiv 2310.17022; FaRMA, arXiv 2502.04517).

use std::collections::BTreeMap;

use generate::{Candidate, Error, Ledger, Prefix, PrefixReward, Reward, Step, TokenId};

use crate::error::SetupError;
use crate::memory::{Memory, Text};
use crate::sequence::{Limits, Runner};

/// A model with a value of every next token, as a value of texts.
#[expect(missing_debug_implementations, reason = "sessions have nothing to show")]
pub struct VocabularyModel<'a> {
    memory: Memory,
    runner: Runner<'a>,
    ledger: Ledger,
}

impl<'a> VocabularyModel<'a> {
    /// Values texts with `model`, whose outputs are those of all tokens and of the text so far.
    ///
    /// # Errors
    /// The model has a scalar head.
    pub fn new(model: &'a dyn Step) -> Result<Self, SetupError> {
        if model.width() < 2 {
            return Err(SetupError::NotVocabulary { model: model.name().into() });
        }
        let limits = Limits::default();
        Ok(Self {
            memory: Memory::new(limits.remembered),
            runner: Runner::new(model, limits),
            ledger: Ledger::default(),
        })
    }

    fn value(&mut self, texts: &[Text]) -> Result<Vec<f64>, Error> {
        let (model, vocab) = (self.runner.model.name(), self.runner.model.width() - 1);
        for text in texts {
            let Some(last) = text.completion().last() else {
                let message = format!(
                    "text {} is a prompt alone, and values of next tokens begin with the first\n  hint: train the scorer with `head = \"scalar\"` for methods that value prompts",
                    text.row
                );
                return Err(Error::Reward { name: model.into(), message });
            };
            if *last as usize >= vocab {
                let position = text.ids.len() - 1;
                return Err(Error::Token { id: *last, position, vocab, model: model.into() });
            }
        }
        let runner = &mut self.runner;
        self.memory.serve(texts, &mut self.ledger, |distinct, ledger| run(runner, vocab, distinct, ledger))
    }
}

/// Runs each text without its last token once, however many texts go on from it.
fn run(
    runner: &mut Runner<'_>,
    vocab: usize,
    texts: &[&Text],
    ledger: &mut Ledger,
) -> Result<Vec<f64>, Error> {
    let mut children: BTreeMap<(&[TokenId], usize), Vec<usize>> = BTreeMap::new();
    for (place, text) in texts.iter().enumerate() {
        children.entry((&text.ids[..text.ids.len() - 1], text.prompt_len)).or_default().push(place);
    }
    let parents: Vec<Text> = children
        .iter()
        .map(|((ids, prompt_len), places)| Text {
            row: texts[places[0]].row,
            ids: ids.to_vec(),
            prompt_len: *prompt_len,
        })
        .collect();
    runner.check(&parents)?;
    let mut values = vec![0.0; texts.len()];
    let groups: Vec<&Vec<usize>> = children.values().collect();
    runner.run(&parents.iter().collect::<Vec<_>>(), ledger, &mut |parent, outputs| {
        let state = f64::from(outputs[vocab]);
        for place in groups[parent] {
            let token = texts[*place].ids[texts[*place].ids.len() - 1];
            values[*place] = state + f64::from(outputs[token as usize]);
        }
        groups[parent].iter().all(|place| values[*place].is_finite())
    })?;
    let tokens =
        |texts: &mut dyn Iterator<Item = &Text>| texts.map(|text| text.ids.len() as u64).sum::<u64>();
    ledger.cached_tokens += tokens(&mut texts.iter().copied()) - tokens(&mut parents.iter());
    Ok(values)
}

impl Reward for VocabularyModel<'_> {
    fn name(&self) -> &str {
        self.runner.model.name()
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        self.value(&Text::of_candidates(candidates))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

impl PrefixReward for VocabularyModel<'_> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        self.value(&Text::of_prefixes(prefixes))
    }
}

#[cfg(test)]
mod tests {
    use generate::Prompt;
    use proptest::prelude::*;

    use super::*;
    use crate::fake::Fake;

    const VOCAB: usize = 6;

    /// The value by running the whole text but its last token.
    fn naive(model: &Fake, prompt: &Prompt, ids: &[TokenId]) -> f64 {
        let text = [&prompt.ids, ids].concat();
        let (last, before) = text.split_last().expect("a token");
        f64::from(model.output(before, VOCAB)) + f64::from(model.output(before, *last as usize))
    }

    fn values(model: &mut VocabularyModel<'_>, prompt: &Prompt, texts: &[Vec<TokenId>]) -> Vec<f64> {
        let prefixes: Vec<_> = texts.iter().map(|ids| Prefix { prompt, ids }).collect();
        model.prefix_rewards(&prefixes).expect("values")
    }

    proptest! {
        #[test]
        fn equals_full_recomputation_however_batched_and_cached(
            calls in prop::collection::vec(
                prop::collection::vec(prop::collection::vec(0_u32..3, 1..9), 0..8), 1..6),
        ) {
            let fake = Fake::new(VOCAB + 1);
            let prompt = Prompt::from_ids(0, vec![5, 1]);
            let mut model = VocabularyModel::new(&fake).expect("a head");
            let mut asked = 0;
            for call in &calls {
                let want: Vec<f64> = call.iter().map(|ids| naive(&fake, &prompt, ids)).collect();
                prop_assert_eq!(values(&mut model, &prompt, call), want);
                asked += call.iter().map(|ids| 2 + ids.len() as u64).sum::<u64>();
            }
            // Every token asked for was run, found, or needed no pass.
            let ledger = *model.ledger();
            prop_assert_eq!(ledger.reward_tokens + ledger.cached_tokens, asked);
            prop_assert_eq!((ledger.reward_tokens, ledger.forward_passes), (fake.tokens.get(), fake.passes.get()));
        }
    }

    #[test]
    fn all_next_tokens_of_a_text_cost_one_row() {
        let fake = Fake::new(VOCAB + 1);
        let prompt = Prompt::from_ids(0, vec![5, 1, 4]);
        let mut model = VocabularyModel::new(&fake).expect("a head");
        let mut kept: Vec<TokenId> = Vec::new();
        for step in 0..10 {
            let next: Vec<Vec<TokenId>> =
                (0..VOCAB as TokenId).map(|token| [&kept[..], &[token]].concat()).collect();
            let values = values(&mut model, &prompt, &next);
            let best = (0..VOCAB).max_by(|a, b| values[*a].total_cmp(&values[*b])).expect("values");
            kept.clone_from(&next[best]);
            // The prompt once, then the one new token of every step.
            let ledger = model.ledger();
            assert_eq!((ledger.reward_tokens, ledger.forward_passes), (3 + step, 1 + step));
            assert_eq!(ledger.reward_calls, (step + 1) * VOCAB as u64);
        }
    }

    #[test]
    fn what_has_no_value_is_refused() {
        let scalar = Fake::new(1);
        let message = VocabularyModel::new(&scalar).err().expect("an error").to_string();
        assert!(message.contains("scalar head") && message.contains("hint"), "{message}");
        let fake = Fake { poison: Some(3), ..Fake::new(VOCAB + 1) };
        let prompt = Prompt::from_ids(0, vec![1]);
        let mut model = VocabularyModel::new(&fake).expect("a head");
        let mut error = |ids: &[TokenId]| {
            model.prefix_rewards(&[Prefix { prompt: &prompt, ids }]).expect_err("refused").to_string()
        };
        assert!(error(&[]).contains("head = \"scalar\""));
        assert!(error(&[6]).contains("outside the vocabulary of 6"));
        assert!(error(&[3, 1]).contains("not finite"));
        assert!(error(&[1; 65]).contains("tokens of context"));
    }
}
