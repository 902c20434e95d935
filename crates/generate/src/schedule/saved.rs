//! A run between two rounds.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::run::{Place, Turn};
use super::{Answer, Ask};
use crate::capability::Error;
use crate::completion::TokenId;
use crate::ledger::Ledger;

/// A run between two rounds, as plain data.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    /// One for each prompt.
    pub prompts: Vec<SavedPrompt>,
    /// What it has cost so far.
    pub ledger: Ledger,
}

/// Where a prompt is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SavedPrompt {
    /// It starts anew: it has not begun, or its machine does not save.
    Fresh,
    /// It waits.
    Waiting {
        /// State of its machine.
        machine: Value,
        /// What for.
        ask: Ask,
    },
    /// It is done.
    Done(Answer),
}

/// A run between two rounds, as who watches it sees it.
#[expect(missing_debug_implementations, reason = "machines have nothing to show")]
pub struct Progress<'a> {
    pub(super) places: &'a [Place],
    pub(super) ledger: Ledger,
}

impl Progress<'_> {
    /// How many prompts are done.
    pub fn done(&self) -> usize {
        self.places.iter().filter(|place| matches!(place, Place::Done(_))).count()
    }

    /// What the run has cost so far, with what it had cost when it was saved.
    pub fn ledger(&self) -> Ledger {
        self.ledger
    }

    /// What prompt number `prompt` would be answered with if the run ended here: its answer where it is done, and otherwise
    /// a completion that later rounds may replace. `None` before its method has one.
    pub fn running(&self, prompt: usize) -> Option<Vec<TokenId>> {
        match self.places.get(prompt)? {
            Place::Coming => None,
            Place::Running { machine, .. } => machine.running(),
            Place::Done(answer) => Some(answer.ids.clone()),
        }
    }

    /// All that [`super::resume`] needs to go on from here.
    pub fn save(&self) -> Result<Saved, Error> {
        let one = |place: &Place| {
            Ok(match place {
                Place::Coming => SavedPrompt::Fresh,
                Place::Done(answer) => SavedPrompt::Done(answer.clone()),
                Place::Running { machine, turn } => match (machine.save()?, turn) {
                    (Some(machine), Turn::Ask(ask)) => SavedPrompt::Waiting { machine, ask: ask.clone() },
                    // What was drawn of its samples is drawn again: the same ones.
                    (Some(machine), Turn::Drawn { asks, .. }) => {
                        SavedPrompt::Waiting { machine, ask: Ask::Sample(asks.clone()) }
                    }
                    _ => SavedPrompt::Fresh,
                },
            })
        };
        let prompts = self.places.iter().map(one).collect::<Result<_, Error>>()?;
        Ok(Saved { prompts, ledger: self.ledger })
    }
}
