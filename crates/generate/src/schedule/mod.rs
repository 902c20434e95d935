//! Serves methods that ask for text, scores, rewards or values, many prompts and chains in lock step.
//!
//! A run can be saved between any two rounds and goes on from there: [`Progress::save`] takes the state of every machine
//! with the ask that it waits for, [`resume`] makes the machines again and serves those asks first.

mod run;
mod saved;

pub use run::{Services, resume, run};
pub use saved::{Progress, Saved, SavedPrompt};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::capability::{Error, NextAsk, NextToken, SampleAsk};
use crate::completion::{Completion, End, Prompt, TokenId};
use crate::stream::{Chance, Stream};

/// What a method asks for next.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Continuations; each ask brings its own random stream.
    Sample(Vec<SampleAsk>),
    /// Continuations by the second policy, for lookahead.
    Rollout(Vec<SampleAsk>),
    /// Candidates for the next token.
    Next(Vec<NextAsk>),
    /// Raw log-probabilities of `(prefix, continuation)`.
    Score(Vec<(Vec<TokenId>, Vec<TokenId>)>),
    /// Rewards of whole completions of the machine's prompt.
    Reward(Vec<(Vec<TokenId>, End)>),
    /// Values of completions of the machine's prompt, whole or not, as they stand.
    Value(Vec<Vec<TokenId>>),
    /// The method is done.
    Done(Answer),
}

/// What a method gets for its ask, in the order of the ask.
#[derive(Debug)]
pub enum Reply {
    /// There was no ask before.
    Start,
    /// To [`Ask::Sample`] and [`Ask::Rollout`].
    Samples(Vec<Completion>),
    /// To [`Ask::Next`].
    Next(Vec<Vec<NextToken>>),
    /// To [`Ask::Score`].
    Scores(Vec<Vec<f32>>),
    /// To [`Ask::Reward`].
    Rewards(Vec<f64>),
    /// To [`Ask::Value`].
    Values(Vec<f64>),
}

/// What a method gives for a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The completion's tokens.
    pub ids: Vec<TokenId>,
    /// Why it ended.
    pub end: End,
    /// Estimate of the divergence of the method's law to the base, in nats, where the method knows one.
    pub kl: Option<f64>,
    /// What the method wants to report: acceptance, votes, diagnostics.
    pub trace: Value,
}

/// One prompt's run of a method.
pub trait Machine {
    /// Takes the reply to the last ask and says what is needed next.
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask, Error>;

    /// Its state as plain data, which [`TextMethod::restore`] takes; `None` for a machine that is started anew instead, as
    /// is right for one that asks once or twice.
    fn save(&self) -> Result<Option<Value>, Error> {
        Ok(None)
    }

    /// The completion that it would give if it had to answer now, for streaming: it may be replaced later. `None` before
    /// there is one.
    fn running(&self) -> Option<Vec<TokenId>>;
}

/// A method whose chance and cost go through asks: it starts a [`Machine`] for each prompt.
pub trait TextMethod {
    /// Starts on `prompt`; all chance of the run comes from `stream`.
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine>;

    /// The machine of `prompt` as it was when [`Machine::save`] gave `saved`: it goes on as that one would have, bit for
    /// bit. A saved state that is not one of this method is an error.
    fn restore(&self, prompt: &Prompt, saved: Value) -> Result<Box<dyn Machine>, Error> {
        let _ = (prompt, saved);
        Err(Error::Method { method: "schedule", message: "the method saves no states".to_owned() })
    }
}
