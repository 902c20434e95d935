//! The capabilities of a policy, from the least to the most. A method asks for the least it needs.

use std::any::Any;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::completion::{Candidate, Completion, End, Prefix, TokenId};
use crate::ledger::Ledger;
use crate::mix::Composition;
use crate::sampling::{Sampling, greatest};
use crate::stream::{Chance, Stream};

/// How a row comes to fit a context.
fn shorten(needed: usize, limit: usize, budget: usize) -> String {
    let excess = needed.saturating_sub(limit);
    match budget.checked_sub(excess) {
        Some(fits @ 1..) => format!(
            "lower max_new_tokens from {budget} to at most {fits}, or shorten the prompt by {excess} tokens"
        ),
        _ if budget > 0 => format!("shorten the prompt by {excess} tokens; max_new_tokens is {budget}"),
        _ => format!("shorten the text by {excess} tokens"),
    }
}

/// What can go wrong while a policy is asked for something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A prefix and its budget do not fit the context.
    #[error("{what} {row} needs {needed} tokens of context, but {model} has {limit}\n  hint: {}", shorten(*needed, *limit, *budget))]
    Context {
        /// What kind of row it is.
        what: &'static str,
        /// Its place in the batch.
        row: usize,
        /// Tokens it needs.
        needed: usize,
        /// Tokens there are.
        limit: usize,
        /// How many of them are new ones, that are still to be drawn.
        budget: usize,
        /// The model's name.
        model: String,
    },
    /// A token id outside the vocabulary.
    #[error(
        "token id {id} at position {position} is outside the vocabulary of {vocab} of {model}\n  hint: was it made with another tokenizer?"
    )]
    Token {
        /// The id.
        id: TokenId,
        /// Its place in the row.
        position: usize,
        /// Size of the vocabulary.
        vocab: usize,
        /// The model's name.
        model: String,
    },
    /// An empty prefix: there is nothing to condition on.
    #[error(
        "row {row} has an empty prefix\n  hint: a prompt needs at least one token, such as the tokenizer's BOS"
    )]
    EmptyPrefix {
        /// Its place in the batch.
        row: usize,
    },
    /// Numbers of a model that are not numbers.
    #[error(
        "{model} gave logits that are not finite (row {row})\n  hint: the checkpoint may be damaged, or training diverged"
    )]
    NotFinite {
        /// The model's name.
        model: String,
        /// Its place in the batch.
        row: usize,
    },
    /// A setting is out of its range.
    #[error("{key} = {value} is out of range: {limit}")]
    Setting {
        /// The setting's name.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        limit: &'static str,
    },
    /// A text is looked for in completions, and nothing turns their tokens into text.
    #[error(
        "completions end at {text:?}, and there is nothing that turns their tokens into text\n  hint: give the engine a decoder, or leave `stop` out"
    )]
    NoDecoder {
        /// A stop string.
        text: String,
    },
    /// Two models that must share a vocabulary do not.
    #[error(
        "{left} has a vocabulary of {left_size} and {right} of {right_size}\n  hint: guidance needs models with the same tokenizer"
    )]
    Vocabulary {
        /// One model.
        left: String,
        /// Its vocabulary.
        left_size: usize,
        /// The other model.
        right: String,
        /// Its vocabulary.
        right_size: usize,
    },
    /// A model whose outputs do not cover the tokenizer.
    #[error(
        "{model} gives {width} outputs, and the tokenizer has {tokens} tokens\n  hint: it was made with another tokenizer"
    )]
    Narrow {
        /// The model's name.
        model: String,
        /// Its outputs.
        width: usize,
        /// Tokens of the tokenizer.
        tokens: usize,
    },
    /// A policy that gives text was asked for its next-token law.
    #[error(
        "{name} gives text and not next-token log-probabilities\n  hint: choose a method of text access, or run the policy here"
    )]
    NoLogits {
        /// The policy's name.
        name: String,
    },
    /// A reward could not be computed.
    #[error("reward {name}: {message}")]
    Reward {
        /// The reward's name.
        name: String,
        /// What happened and what to do.
        message: String,
    },
    /// A method got something else than what it asked for.
    #[error("method {method}: {message}")]
    Method {
        /// The method's name.
        method: &'static str,
        /// What happened.
        message: String,
    },
    /// Who watches the tokens wanted no more of them.
    #[error("stopped")]
    Stopped,
    /// Anything a back end reports.
    #[error(transparent)]
    Backend(#[from] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The same of the row that `place` makes of its own: of a part of a batch, its place in the whole.
    #[must_use]
    pub fn at(mut self, place: impl FnOnce(usize) -> usize) -> Self {
        if let Self::Context { row, .. } | Self::EmptyPrefix { row } | Self::NotFinite { row, .. } = &mut self
        {
            *row = place(*row);
        }
        self
    }
}

/// A request to continue `prefix` by at most `budget` tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleAsk {
    /// Prompt and what is kept of a completion; not empty.
    pub prefix: Vec<TokenId>,
    /// How many of the prefix's tokens are the prompt: stop strings are looked for behind it.
    pub prompt_len: usize,
    /// The most new tokens, the end-of-sequence token included; at least 1.
    pub budget: usize,
    /// The row's random stream: the text depends on it and on the prefix alone, never on the other asks.
    pub stream: Stream,
}

/// A request for the law of the token after `prefix`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextAsk {
    /// Prompt and completion so far; not empty.
    pub prefix: Vec<TokenId>,
    /// How many of the prefix's tokens are the prompt.
    pub prompt_len: usize,
    /// The most candidates, the likeliest first; 0 gives all.
    pub k: usize,
}

/// A token that may come next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NextToken {
    /// The token.
    pub id: TokenId,
    /// Its natural log-probability under the law drawn from, normalised over all tokens and not over the candidates.
    pub log_prob: f64,
    /// Its natural log-probability under the reference's raw law.
    pub raw_log_prob: f64,
    /// Why a completion that gets this token ends; `None` where it goes on.
    pub end: Option<End>,
}

/// Takes completions as they end, each with the number of its ask, and gives further asks, which go on the numbers of those
/// before. It is told what sampling has cost so far. Called with none, when nothing is left to run, it gives what is left to
/// ask: none ends the flow.
pub type Flow<'f> =
    dyn FnMut(Vec<(usize, Completion)>, &Ledger, &mut Chance<'_>) -> Result<Vec<SampleAsk>, Error> + 'f;

/// Gives continuations of token prefixes.
pub trait Sample {
    /// Answers every ask, in order.
    fn sample(&mut self, asks: Vec<SampleAsk>, chance: &mut Chance<'_>) -> Result<Vec<Completion>, Error>;

    /// Answers asks, numbered from 0, and those that `flow` gives for their answers. No text depends on the others, so that
    /// a sampler may give each as soon as it ends and let new asks take its place; without that, all asks are answered
    /// before the next are taken.
    fn flow(
        &mut self,
        asks: Vec<SampleAsk>,
        chance: &mut Chance<'_>,
        flow: &mut Flow<'_>,
    ) -> Result<(), Error> {
        in_rounds(self, asks, chance, flow)
    }

    /// The candidates for the next token of every prefix, the likeliest first and of equals the lower id; what the
    /// sampling settings exclude is left out. A prefix that extends one asked for before costs its new tokens.
    ///
    /// # Errors
    /// A policy that gives text alone has none.
    fn next(&mut self, _: Vec<NextAsk>) -> Result<Vec<Vec<NextToken>>, Error> {
        Err(Error::NoLogits { name: "the policy".into() })
    }

    /// What answering has cost so far.
    fn ledger(&self) -> &Ledger;
}

/// [`Sample::flow`] with all asks answered before the next are taken.
pub(crate) fn in_rounds<S: Sample + ?Sized>(
    sampler: &mut S,
    mut asks: Vec<SampleAsk>,
    chance: &mut Chance<'_>,
    flow: &mut Flow<'_>,
) -> Result<(), Error> {
    let mut first = 0;
    loop {
        let given = if asks.is_empty() { Vec::new() } else { sampler.sample(asks, chance)? };
        let idle = given.is_empty();
        let done: Vec<_> = given.into_iter().enumerate().map(|(place, one)| (first + place, one)).collect();
        first += done.len();
        let ledger = *sampler.ledger();
        asks = flow(done, &ledger, chance)?;
        if idle && asks.is_empty() {
            return Ok(());
        }
    }
}

/// Gives log-probabilities of given continuations under the raw law.
pub trait Score {
    /// For every `(prefix, continuation)`, the natural log-probability of each token of the continuation given all
    /// before it. Prefixes are not empty.
    fn score(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error>;
}

/// A row of a [`Session`]: a token sequence whose keys and values are cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub u32);

/// Outputs on the host, `[rows, width]` row-major. Width is the vocabulary of a language model and 1 for a scalar head.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// Values of one row.
    pub width: usize,
    /// All rows' values.
    pub values: Vec<f32>,
}

impl Logits {
    /// The values of row `row`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }
}

/// How tokens are drawn after rows ([`Session::draw`]).
#[derive(Debug, Clone, Copy)]
pub struct Draws<'a> {
    /// Temperature and filters.
    pub settings: &'a Sampling,
    /// The law is over the first so many outputs.
    pub width: usize,
    /// For each row numbers in `[0, 1)`, one for each token that is drawn after it.
    pub uniforms: &'a [Vec<f64>],
}

impl Draws<'_> {
    /// What is drawn from rows of outputs; `None` where they are not numbers.
    pub fn of(&self, mut logits: Logits) -> Vec<Option<RowDraw>> {
        let rows = logits.values.par_chunks_mut(logits.width.max(1)).enumerate();
        rows.map(|(row, logits)| self.of_row(row, logits)).collect()
    }

    /// What is drawn from the outputs of a row, which are not there any more afterwards; `None` where they are not numbers.
    pub fn of_row(&self, row: usize, logits: &mut [f32]) -> Option<RowDraw> {
        self.settings.draw(&mut logits[..self.width], &self.uniforms[row])
    }
}

/// A token that was drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenDraw {
    /// The token.
    pub id: TokenId,
    /// Its natural log-probability under the law that it was drawn from.
    pub log_prob: f64,
    /// Its natural log-probability under the raw law.
    pub raw_log_prob: f64,
}

/// What was drawn after a row's last token.
#[derive(Debug, Clone, PartialEq)]
pub struct RowDraw {
    /// A token for each number.
    pub tokens: Vec<TokenDraw>,
    /// Divergence of the law drawn from to the raw law, in nats.
    pub kl: f64,
}

/// Rows of cached prefixes that can be extended, forked, cut and dropped.
///
/// Prefill and step are one call, [`Session::extend`], with rows of any lengths together.
pub trait Session {
    /// A new row without tokens.
    fn open(&mut self) -> RowId;

    /// A new row that begins with the first `len` tokens of `row` and shares what is cached of them.
    ///
    /// # Panics
    /// When `len` exceeds the row's length or the row is not open.
    fn fork(&mut self, row: RowId, len: usize) -> RowId;

    /// Forgets all but the first `len` tokens of `row`.
    ///
    /// # Panics
    /// When `len` exceeds the row's length or the row is not open.
    fn truncate(&mut self, row: RowId, len: usize);

    /// Drops `row`.
    fn close(&mut self, row: RowId);

    /// Appends tokens to distinct rows (at least one token each) and gives each row's output after its last new token.
    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error>;

    /// As [`Session::extend`], with the outputs after each of the last `counts[i]` new tokens of row `i` (at least one), row
    /// after row.
    fn extend_each(&mut self, rows: &[(RowId, &[TokenId])], counts: &[usize]) -> Result<Logits, Error> {
        let mut given = Logits { width: 0, values: Vec::new() };
        for ((row, tokens), count) in rows.iter().zip(counts) {
            let first = tokens.len() + 1 - count;
            let parts = std::iter::once(&tokens[..first]).chain(tokens[first..].chunks(1));
            for part in parts {
                let logits = self.extend(&[(*row, part)])?;
                given.width = logits.width;
                given.values.extend(logits.values);
            }
        }
        Ok(given)
    }

    /// Appends tokens to distinct rows (at least one token each), and draws after each row's last token, where the inverse of the law's running
    /// sum has the row's numbers. `None` for a row whose outputs are not numbers.
    ///
    /// What [`Session::extend`] and [`Sampling::draw`] give; a model may draw where its outputs are, so that they need not come here. On a GPU sums
    /// are rounded to `f32`, so that near the border of two tokens it may be the other one.
    ///
    /// # Panics
    /// When there are not as many lists of numbers as rows, or the law is wider than the outputs.
    fn draw(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        draws: Draws<'_>,
    ) -> Result<Vec<Option<RowDraw>>, Error> {
        Ok(draws.of(self.extend(rows)?))
    }

    /// Appends tokens to distinct rows, and gives for row `i` the natural log-probabilities of `targets[i]` (at least one and
    /// at most as many as the new tokens): of each of them after one of the last new tokens, in order.
    fn log_probs(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        targets: &[&[TokenId]],
    ) -> Result<Vec<Vec<f32>>, Error> {
        let counts: Vec<usize> = targets.iter().map(|targets| targets.len()).collect();
        let logits = self.extend_each(rows, &counts)?;
        let mut place = 0;
        let mut after = |target: &TokenId| {
            let logits = logits.row(place);
            place += 1;
            let most = greatest(logits);
            let sum: f64 = logits.iter().map(|logit| f64::from(logit - most).exp()).sum();
            let chosen = logits.get(*target as usize).copied().unwrap_or(f32::NEG_INFINITY);
            (f64::from(chosen - most) - sum.ln()) as f32
        };
        Ok(targets.iter().map(|targets| targets.iter().map(&mut after).collect()).collect())
    }
}

/// Gives sessions: next-token logits after any prefix.
pub trait Step: Score {
    /// The name errors use.
    fn name(&self) -> &str;

    /// Width of the outputs.
    fn width(&self) -> usize;

    /// The most tokens that a row may hold.
    fn context(&self) -> usize;

    /// Tokens that end a sequence.
    fn eos(&self) -> &[TokenId];

    /// Its parameters, which every token runs through; 0 where they are not known.
    fn parameters(&self) -> u64 {
        0
    }

    /// Bytes that a token takes in a session's cache; 0 where nothing is cached.
    fn token_bytes(&self) -> u64 {
        0
    }

    /// A session without rows.
    fn session(&self) -> Box<dyn Session + '_>;

    /// Itself, for policies that [`Step::joins`] others of their kind.
    fn any(&self) -> Option<&dyn Any> {
        None
    }

    /// Whether rows of this policy and of `other` can run as one batch, as those of two adapters of one backbone can.
    fn joins(&self, _: &dyn Step) -> bool {
        false
    }

    /// Sessions of this policy and of others, each of which it [`Step::joins`].
    fn join<'a>(&'a self, _: &[&'a dyn Step]) -> Option<Joined<'a>> {
        None
    }
}

/// Sessions whose rows can run as one batch.
#[expect(missing_debug_implementations, reason = "sessions have nothing to show")]
pub struct Joined<'a> {
    /// One for each policy, in their order. Each may be used by itself.
    pub sessions: Vec<Box<dyn Session + 'a>>,
    /// All together.
    pub batch: Box<dyn Batch + 'a>,
}

/// Several sessions at once.
pub trait Batch {
    /// [`Session::extend_each`] of every session, each with rows of its own, and with the same counts.
    fn extend_each(
        &mut self,
        rows: &[Vec<(RowId, &[TokenId])>],
        counts: &[usize],
    ) -> Result<Vec<Logits>, Error>;

    /// Whether it can [`Batch::draw`].
    fn draws(&self) -> bool {
        false
    }

    /// Extends every session as [`Session::extend`] does, and draws from the law that is composed of theirs as [`Session::draw`] does. The raw law is
    /// that of the session `reference`.
    ///
    /// # Panics
    /// Unless it [`Batch::draws`].
    fn draw(
        &mut self,
        _: &[Vec<(RowId, &[TokenId])>],
        _: Composition<'_>,
        _reference: usize,
        _: Draws<'_>,
    ) -> Result<Vec<Option<RowDraw>>, Error> {
        panic!("this batch gives outputs, and draws nothing")
    }
}

/// Maps whole completions to scores.
pub trait Reward {
    /// The name reports use.
    fn name(&self) -> &str;

    /// The score of each candidate; no other candidate changes it.
    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error>;

    /// What scoring has cost so far.
    fn ledger(&self) -> &Ledger;

    /// The least and the greatest score that can occur.
    fn range(&self) -> (f64, f64) {
        (f64::NEG_INFINITY, f64::INFINITY)
    }
}

/// What points to a reward is one.
macro_rules! reward_by {
    ($($pointer:ty),*) => {$(
        impl<R: Reward + ?Sized> Reward for $pointer {
            fn name(&self) -> &str {
                (**self).name()
            }
            fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
                (**self).rewards(candidates)
            }
            fn ledger(&self) -> &Ledger {
                (**self).ledger()
            }
            fn range(&self) -> (f64, f64) {
                (**self).range()
            }
        }

        impl<R: PrefixReward + ?Sized> PrefixReward for $pointer {
            fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
                (**self).prefix_rewards(prefixes)
            }
        }
    )*};
}
reward_by!(&mut R, Box<R>);

/// A reward that can judge partial completions too, for search that prunes before texts end.
///
/// A reward remembers between calls what it ran, and finds the longest prefix of a text that it has seen itself. A search
/// therefore just asks: with a sequence reward model, scoring every candidate for the next token costs one token each,
/// and a text cut and continued elsewhere costs its new part. No method manages a cache.
pub trait PrefixReward: Reward {
    /// The score of each prefix as it stands, in order; within [`Reward::range`], and counted in [`Reward::ledger`].
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error>;
}
