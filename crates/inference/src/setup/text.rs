//! The text of completions, which ends before a stop string, and rewards that see no more than it.

use std::borrow::Cow;
use std::sync::Arc;

use ::reward::Decode;
use data::tokenizer::Tokenizer;
use generate::sampling::before_stop;
use generate::{Candidate, Error, Ledger, Prefix, PrefixReward, Reward, TokenId};

use super::Loaded;

/// Turns the tokens of completions into their text. That of one which a stop string ended is cut before it,
/// with what came after
/// it in the same token.
#[derive(Debug, Clone)]
pub struct CompletionText {
    tokenizer: Tokenizer,
    stop: Arc<[String]>,
}

impl CompletionText {
    /// The text of completions of `loaded`, drawn with the stop strings `stop`.
    pub fn new(loaded: &Loaded, stop: &[String]) -> Self {
        Self { tokenizer: loaded.tokenizer.clone(), stop: stop.into() }
    }

    /// The text, without special tokens.
    pub fn of(&self, ids: &[TokenId]) -> String {
        let text = self.tokenizer.decode(ids, true).unwrap_or_default();
        before_stop(&self.stop, &text).to_owned()
    }

    /// The text as far as it is sure while tokens are still drawn: without the beginning of a stop string, or
    /// of a character, that
    /// the next token may complete.
    pub fn so_far(&self, ids: &[TokenId]) -> String {
        let text = self.of(ids);
        let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER);
        let begun = |end: usize| self.stop.iter().any(|stop| stop.starts_with(&text[end..]));
        let end = text.char_indices().map(|(at, _)| at).find(|at| begun(*at)).unwrap_or(text.len());
        text[..end].to_owned()
    }

    /// The same as a function.
    pub fn decode(&self) -> Decode {
        let text = self.clone();
        Arc::new(move |ids| text.of(ids))
    }

    /// The tokens of the text: those that were drawn, where no stop string ended it, else the tokens before
    /// it, and what the last one of
    /// them had before it encoded by itself.
    pub fn ids<'i>(&self, ids: &'i [TokenId]) -> Cow<'i, [TokenId]> {
        if self.stop.is_empty() {
            return Cow::Borrowed(ids);
        }
        let text = self.tokenizer.decode(ids, true).unwrap_or_default();
        let cut = before_stop(&self.stop, &text);
        if cut.len() == text.len() {
            return Cow::Borrowed(ids);
        }
        let whole = |count: &usize| {
            let before = self.tokenizer.decode(&ids[..*count], true).unwrap_or_default();
            cut.strip_prefix(before.as_str()).map(|rest| (*count, rest))
        };
        let (count, rest) = (0..ids.len()).rev().find_map(|count| whole(&count)).unwrap_or((0, cut));
        if rest.is_empty() {
            return Cow::Borrowed(&ids[..count]);
        }
        let encode = |text: &str| self.tokenizer.encode(text, false).unwrap_or_default();
        let joined = [&ids[..count], &encode(rest)].concat();
        let is_text = self.tokenizer.decode(&joined, true).is_ok_and(|decoded| decoded == cut);
        Cow::Owned(if is_text { joined } else { encode(cut) })
    }
}

/// A reward that sees completions as they are without what a stop string ended.
pub(super) struct BeforeStop<R> {
    reward: R,
    text: CompletionText,
}

impl<R: PrefixReward> BeforeStop<R> {
    pub(super) fn new(reward: R, text: CompletionText) -> Self {
        Self { reward, text }
    }
}

impl<R: PrefixReward> Reward for BeforeStop<R> {
    fn name(&self) -> &str {
        self.reward.name()
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        let ids: Vec<_> = candidates.iter().map(|candidate| self.text.ids(candidate.ids)).collect();
        let seen = candidates.iter().zip(&ids);
        let seen: Vec<_> =
            seen.map(|(one, ids)| Candidate { prompt: one.prompt, ids, end: one.end }).collect();
        self.reward.rewards(&seen)
    }

    fn ledger(&self) -> &Ledger {
        self.reward.ledger()
    }

    fn range(&self) -> (f64, f64) {
        self.reward.range()
    }
}

impl<R: PrefixReward> PrefixReward for BeforeStop<R> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        let ids: Vec<_> = prefixes.iter().map(|prefix| self.text.ids(prefix.ids)).collect();
        let seen = prefixes.iter().zip(&ids);
        let seen: Vec<_> = seen.map(|(one, ids)| Prefix { prompt: one.prompt, ids }).collect();
        self.reward.prefix_rewards(&seen)
    }
}
