//! The distinct completions that the chains of one prompt have met.

use std::collections::BTreeMap;
use std::sync::Arc;

use generate::completion::End;
use generate::{Prompt, TokenId};

use super::kernel::Scored;
use crate::method::Extract;

/// A distinct completion; chains refer to it by its number.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) ids: Arc<[TokenId]>,
    pub(super) end: End,
    /// `None` until it is scored.
    pub(super) reward: Option<f64>,
    /// Its final answer, once it was looked at.
    answer: Option<String>,
}

/// All of them, in the order of first appearance.
#[derive(Debug, Default)]
pub(super) struct Slots {
    all: Vec<Slot>,
    places: BTreeMap<Arc<[TokenId]>, usize>,
}

impl Slots {
    /// The number of a completion, new or not.
    pub(super) fn intern(&mut self, ids: Vec<TokenId>, end: End) -> usize {
        if let Some(place) = self.places.get(ids.as_slice()) {
            return *place;
        }
        let ids: Arc<[TokenId]> = ids.into();
        self.places.insert(ids.clone(), self.all.len());
        self.all.push(Slot { ids, end, reward: None, answer: None });
        self.all.len() - 1
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

    /// What the acceptance looks at; `None` before it is scored.
    pub(super) fn scored(&self, slot: usize) -> Option<Scored> {
        let slot = &self.all[slot];
        slot.reward.map(|reward| Scored { len: slot.ids.len(), reward })
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
