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

/// An ask for the next token that cannot be made: what a method of text access has in the place of [`NextAsk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoNext {}

/// What a method asks for next. With `N =` [`NoNext`] it is of text access: it cannot ask for next-token laws.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask<N = NextAsk> {
    /// Continuations; each ask brings its own random stream.
    Sample(Vec<SampleAsk>),
    /// Continuations by the second policy, for lookahead.
    Rollout(Vec<SampleAsk>),
    /// Candidates for the next token.
    Next(Vec<N>),
    /// Raw log-probabilities of `(prefix, continuation)`.
    Score(Vec<(Vec<TokenId>, Vec<TokenId>)>),
    /// Rewards of whole completions of the machine's prompt.
    Reward(Vec<(Vec<TokenId>, End)>),
    /// Values of completions of the machine's prompt, whole or not, as they stand.
    Value(Vec<Vec<TokenId>>),
    /// The method is done.
    Done(Answer),
}

impl Ask<NoNext> {
    /// The same ask, as a method of any access makes it.
    fn widen(self) -> Ask {
        match self {
            Self::Sample(asks) => Ask::Sample(asks),
            Self::Rollout(asks) => Ask::Rollout(asks),
            Self::Next(asks) => Ask::Next(asks.into_iter().map(|none| match none {}).collect()),
            Self::Score(items) => Ask::Score(items),
            Self::Reward(items) => Ask::Reward(items),
            Self::Value(items) => Ask::Value(items),
            Self::Done(answer) => Ask::Done(answer),
        }
    }
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
pub trait Machine<N = NextAsk> {
    /// Takes the reply to the last ask and says what is needed next.
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask<N>, Error>;

    /// Its state as plain data, which [`Scheduled::restore`] takes; `None` for a machine that is started anew instead, as
    /// is right for one that asks once or twice.
    fn save(&self) -> Result<Option<Value>, Error> {
        Ok(None)
    }

    /// The completion that it would give if it had to answer now, for streaming: it may be replaced later. `None` before
    /// there is one.
    fn running(&self) -> Option<Vec<TokenId>>;
}

/// A method whose chance and cost go through asks: it starts a [`Machine`] for each prompt.
pub trait Scheduled {
    /// Starts on `prompt`; all chance of the run comes from `stream`.
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine>;

    /// The machine of `prompt` as it was when [`Machine::save`] gave `saved`: it goes on as that one would have, bit for
    /// bit. A saved state that is not one of this method is an error.
    fn restore(&self, prompt: &Prompt, saved: Value) -> Result<Box<dyn Machine>, Error> {
        let _ = (prompt, saved);
        Err(no_states())
    }
}

/// A method of text access: it needs of a policy no more than [`Sample`](crate::Sample) and, if it asks for them,
/// log-probabilities of given texts. Any policy that gives texts will do, one behind a network interface for instance.
///
/// That it asks for no next-token laws is checked by the compiler:
///
/// ```
/// use generate::schedule::{Ask, NoNext};
/// use generate::{Purpose, SampleAsk, Stream};
///
/// let stream = Stream::new(0, Purpose::Method, 0, 0);
/// let ask: Ask<NoNext> = Ask::Sample(vec![SampleAsk { prefix: vec![1], prompt_len: 1, budget: 8, stream }]);
/// ```
///
/// ```compile_fail,E0308
/// use generate::NextAsk;
/// use generate::schedule::{Ask, NoNext};
///
/// let ask: Ask<NoNext> = Ask::Next(vec![NextAsk { prefix: vec![1], prompt_len: 1, k: 0 }]);
/// ```
pub trait TextMethod {
    /// As [`Scheduled::start`].
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine<NoNext>>;

    /// As [`Scheduled::restore`].
    fn restore(&self, prompt: &Prompt, saved: Value) -> Result<Box<dyn Machine<NoNext>>, Error> {
        let _ = (prompt, saved);
        Err(no_states())
    }
}

impl<M: TextMethod> Scheduled for M {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine> {
        Box::new(Widened(TextMethod::start(self, prompt, stream)))
    }

    fn restore(&self, prompt: &Prompt, saved: Value) -> Result<Box<dyn Machine>, Error> {
        Ok(Box::new(Widened(TextMethod::restore(self, prompt, saved)?)))
    }
}

/// A machine of text access among machines of any.
struct Widened(Box<dyn Machine<NoNext>>);

impl Machine for Widened {
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        Ok(self.0.advance(reply, chance)?.widen())
    }

    fn save(&self) -> Result<Option<Value>, Error> {
        self.0.save()
    }

    fn running(&self) -> Option<Vec<TokenId>> {
        self.0.running()
    }
}

fn no_states() -> Error {
    Error::Method { method: "schedule", message: "the method saves no states".to_owned() }
}
