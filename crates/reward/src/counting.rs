//! A model that runs nothing: what reading texts would cost is counted by the very code that reads them.

use generate::capability::Logits;
use generate::{Error, RowId, Score, Session, Step, TokenId};

/// A model of a name, an output width, a context and a number of parameters, whose outputs are zeros. A
/// reward made of it
/// counts what the reward made of the model itself would, at no cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting {
    name: String,
    width: usize,
    context: usize,
    parameters: u64,
}

impl Counting {
    /// A model with these sizes.
    pub fn new(name: impl Into<String>, width: usize, context: usize, parameters: u64) -> Self {
        Self { name: name.into(), width, context, parameters }
    }

    /// A model with the sizes of `model`.
    pub fn of(model: &dyn Step) -> Self {
        Self::new(model.name(), model.width(), model.context(), model.parameters())
    }
}

impl Score for Counting {
    fn score(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error> {
        Ok(items.iter().map(|(_, continuation)| vec![0.0; continuation.len()]).collect())
    }
}

impl Step for Counting {
    fn name(&self) -> &str {
        &self.name
    }

    fn width(&self) -> usize {
        self.width
    }

    fn context(&self) -> usize {
        self.context
    }

    fn eos(&self) -> &[TokenId] {
        &[]
    }

    fn parameters(&self) -> u64 {
        self.parameters
    }

    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(Rows { width: self.width, next: 0 })
    }
}

struct Rows {
    width: usize,
    next: u32,
}

impl Session for Rows {
    fn open(&mut self) -> RowId {
        self.next += 1;
        RowId(self.next - 1)
    }

    fn fork(&mut self, _: RowId, _: usize) -> RowId {
        self.open()
    }

    fn truncate(&mut self, _: RowId, _: usize) {}

    fn close(&mut self, _: RowId) {}

    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        Ok(Logits { width: self.width, values: vec![0.0; self.width * rows.len()] })
    }

    fn log_probs(
        &mut self,
        _: &[(RowId, &[TokenId])],
        targets: &[&[TokenId]],
    ) -> Result<Vec<Vec<f32>>, Error> {
        Ok(targets.iter().map(|targets| vec![0.0; targets.len()]).collect())
    }
}

#[cfg(test)]
mod tests {
    use generate::{Candidate, End, Prompt, Reward};
    use proptest::prelude::*;

    use super::*;
    use crate::fake::Fake;
    use crate::{AutoregressiveModel, SequenceModel, VocabularyModel};

    proptest! {
        #[test]
        fn counts_what_the_model_itself_would_cost(
            calls in prop::collection::vec(
                prop::collection::vec((0_usize..3, prop::collection::vec(1_u32..3, 1..12)), 0..8), 1..6),
        ) {
            let prompts = [vec![1], vec![1, 2, 1], vec![2; 30]].map(|ids| Prompt::from_ids(0, ids));
            let fakes = [Fake::new(1), Fake::new(4), Fake::new(4)];
            let counting = fakes.each_ref().map(|fake| Counting::of(fake));
            let rewards = |models: [&'_ dyn Step; 3]| -> Vec<Vec<(u64, u64, u64, u64)>> {
                let mut all: Vec<Box<dyn Reward + '_>> = vec![
                    Box::new(SequenceModel::new(models[0]).expect("scalar")),
                    Box::new(VocabularyModel::new(models[1]).expect("of a vocabulary")),
                    Box::new(AutoregressiveModel::new(models[2], 1.0).expect("autoregressive")),
                ];
                calls.iter().map(|call| {
                    let candidates: Vec<Candidate<'_>> = call
                        .iter()
                        .map(|(at, ids)| Candidate { prompt: &prompts[*at], ids, end: End::Budget })
                        .collect();
                    let count = |reward: &mut Box<dyn Reward + '_>| {
                        reward.rewards(&candidates).expect("scores");
                        let ledger = reward.ledger();
                        (ledger.reward_tokens, ledger.cached_tokens, ledger.forward_passes, ledger.reward_calls)
                    };
                    all.iter_mut().map(count).collect()
                }).collect()
            };
            let [a, b, c] = &fakes;
            let [x, y, z] = &counting;
            prop_assert_eq!(rewards([a, b, c]), rewards([x, y, z]));
        }
    }
}
