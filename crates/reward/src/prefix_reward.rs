//! Rewards of completions that have not ended.

use generate::{Error, Prompt, Reward, TokenId};

/// A prompt and the first tokens of a completion.
#[derive(Debug, Clone, Copy)]
pub struct Prefix<'a> {
    /// The prompt.
    pub prompt: &'a Prompt,
    /// The completion so far; may be empty.
    pub ids: &'a [TokenId],
}

/// A reward that can judge partial completions too, for search that prunes before texts end.
///
/// A reward remembers between calls what it ran, and finds the longest prefix of a text that it has seen itself. A search
/// therefore just asks: with a [`crate::SequenceModel`], scoring every candidate for the next token costs one token each,
/// and a text cut and continued elsewhere costs its new part. No method manages a cache.
pub trait PrefixReward: Reward {
    /// The score of each prefix as it stands, in order; within [`Reward::range`], and counted in [`Reward::ledger`].
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error>;
}

impl<R: PrefixReward + ?Sized> PrefixReward for &mut R {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        (**self).prefix_rewards(prefixes)
    }
}
