//! Weights of states, and the answer that they give.

use generate::Prompt;
use objective::error::InputError;

use super::config::AnswerBy;
use super::slots::Slots;
use crate::method::Tools;
use crate::selection::{mbr, vote};

/// Weights of completions in the order in which they first got any: states interleaved by step, as the chains run.
#[derive(Debug, Default)]
pub(super) struct Tally {
    order: Vec<usize>,
    weights: Vec<f64>,
    /// Place in the two lists, by slot.
    places: Vec<Option<usize>>,
}

/// The answer so far.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) slot: usize,
    pub(super) answer: Option<String>,
    pub(super) votes: Vec<(String, f64)>,
}

impl Tally {
    /// Adds weight to a completion; zero does not count as an appearance.
    pub(super) fn add(&mut self, slot: usize, weight: f64) {
        if weight <= 0.0 {
            return;
        }
        if self.places.len() <= slot {
            self.places.resize(slot + 1, None);
        }
        if let Some(place) = self.places[slot] {
            self.weights[place] += weight;
        } else {
            self.places[slot] = Some(self.order.len());
            self.order.push(slot);
            self.weights.push(weight);
        }
    }

    /// Completions with weight.
    pub(super) fn distinct(&self) -> usize {
        self.order.len()
    }

    /// The answer by `rule`; `last` is the last state of the first chain.
    pub(super) fn choose(
        &self,
        rule: AnswerBy,
        last: usize,
        slots: &mut Slots,
        prompt: &Prompt,
        tools: &Tools,
    ) -> Result<Choice, InputError> {
        match (rule, &tools.extract, &tools.similarity) {
            (AnswerBy::Vote, Some(extract), _) => {
                slots.read(&self.order, prompt, extract);
                let answers: Vec<&str> = self.order.iter().map(|slot| slots.answer(*slot)).collect();
                let vote = vote(&answers, &self.weights)?;
                let slot = self.order[vote.index];
                Ok(Choice { slot, answer: Some(vote.answer), votes: vote.totals })
            }
            (AnswerBy::Mbr, _, Some(similarity)) => {
                let ids = |place: usize| &*slots.get(self.order[place]).ids;
                let chosen = mbr(&self.weights, |i, j| similarity(ids(i), ids(j)))?;
                Ok(Choice { slot: self.order[chosen.index], answer: None, votes: Vec::new() })
            }
            // Without its tool a rule is refused before the machine starts.
            _ => Ok(Choice { slot: last, answer: None, votes: Vec::new() }),
        }
    }
}
