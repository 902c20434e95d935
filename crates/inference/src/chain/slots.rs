//! The distinct completions that the chains of one prompt have met.

use generate::completion::End;
use generate::{Prompt, TokenId};
use serde::{Deserialize, Serialize};

use super::law::Scored;
use crate::method::Extract;

/// A distinct completion; chains refer to it by its number.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Slot {
    pub(super) ids: Vec<TokenId>,
    pub(super) end: End,
    /// `None` until it is scored.
    pub(super) reward: Option<f64>,
    /// Log-probability of each token under the law drawn from; empty where the target does not look at it.
    pub(super) log_drawn: Vec<f32>,
    /// Log-probability of each token under the raw law; empty where the target does not look at it.
    pub(super) log_raw: Vec<f32>,
    /// Its cuts at the ends of steps; 0 alone where cuts have another law.
    pub(super) cuts: Vec<usize>,
    /// Its final answer, once it was looked at.
    answer: Option<String>,
}

impl Slot {
    /// A completion that is not scored.
    pub(super) fn new(ids: Vec<TokenId>, end: End, cuts: Vec<usize>) -> Self {
        Self { ids, end, reward: None, log_drawn: Vec::new(), log_raw: Vec::new(), cuts, answer: None }
    }

    /// What the target looks at.
    pub(super) fn scored(&self) -> Scored {
        let sum = |logs: &[f32]| logs.iter().map(|log| f64::from(*log)).sum();
        Scored {
            len: self.ids.len(),
            steps: self.cuts.len(),
            reward: self.reward.unwrap_or(0.0),
            log_drawn: sum(&self.log_drawn),
            log_raw: sum(&self.log_raw),
        }
    }
}

/// All of them, in the order of first appearance.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Slots {
    all: Vec<Slot>,
    /// Their numbers in the order of their tokens.
    sorted: Vec<usize>,
}

impl Slots {
    /// The number of a completion, new or not.
    pub(super) fn intern(&mut self, slot: Slot) -> usize {
        match self.sorted.binary_search_by(|other| self.all[*other].ids.cmp(&slot.ids)) {
            Ok(place) => self.sorted[place],
            Err(place) => {
                self.sorted.insert(place, self.all.len());
                self.all.push(slot);
                self.all.len() - 1
            }
        }
    }

    /// The completion of a number that [`Slots::intern`] gave.
    pub(super) fn get(&self, slot: usize) -> &Slot {
        &self.all[slot]
    }

    /// Numbers without a reward, in order.
    pub(super) fn unscored(&self) -> Vec<usize> {
        // Rewards come in before anything new does, so what has none is at the end.
        let scored = self.all.iter().rposition(|slot| slot.reward.is_some()).map_or(0, |last| last + 1);
        (scored..self.all.len()).collect()
    }

    /// Stores a reward.
    pub(super) fn score(&mut self, slot: usize, reward: f64) {
        self.all[slot].reward = Some(reward);
    }

    /// What the target looks at; rewards that are looked at are in.
    pub(super) fn scored(&self, slot: usize) -> Scored {
        self.all[slot].scored()
    }

    /// Reads the final answers of `slots`, each once in a run.
    pub(super) fn read(&mut self, slots: &[usize], prompt: &Prompt, extract: &Extract) {
        for slot in slots {
            let slot = &mut self.all[*slot];
            if slot.answer.is_none() {
                slot.answer = Some(extract(prompt, &slot.ids));
            }
        }
    }

    /// A final answer that was read; the empty string otherwise.
    pub(super) fn answer(&self, slot: usize) -> &str {
        self.all[slot].answer.as_deref().unwrap_or_default()
    }
}
