//! Verifiers: rewards computed from the text, without a model.

mod brevity;
mod final_answer;
mod form;
mod lexicon;
mod number;
mod pattern;
mod sentiment;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use generate::{Candidate, Error, Ledger, Prefix, PrefixReward, Prompt, Reward, TokenId};

pub use brevity::Brevity;
pub use final_answer::{FinalAnswer, last_number_place};
pub use form::{Form, NotReadable};
pub use lexicon::{Lexicon, PerText};
pub use number::number;
pub use pattern::{Occurrences, Pattern};
pub use sentiment::Sentiment;

/// Turns token ids into the text that is verified; whether special tokens show in it is the caller's choice.
pub type Decode = Arc<dyn Fn(&[TokenId]) -> String + Send + Sync>;

/// What a verifier looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// The completion alone.
    #[default]
    Completion,
    /// Prompt and completion as one text, as where a policy continues the opening words of a review.
    PromptAndCompletion,
}

/// What is verified: a completion, whole or not, of a prompt.
pub struct Subject<'a> {
    /// The prompt.
    pub prompt: &'a Prompt,
    /// The completion's tokens, the end-of-sequence token included.
    pub ids: &'a [TokenId],
    scope: Scope,
    decode: &'a dyn Fn(&[TokenId]) -> String,
}

impl<'a> Subject<'a> {
    /// A completion and how to read it.
    pub fn new(
        prompt: &'a Prompt,
        ids: &'a [TokenId],
        scope: Scope,
        decode: &'a dyn Fn(&[TokenId]) -> String,
    ) -> Self {
        Self { prompt, ids, scope, decode }
    }

    /// The text in scope, decoded from its tokens as one piece.
    pub fn text(&self) -> String {
        match self.scope {
            Scope::Completion => (self.decode)(self.ids),
            Scope::PromptAndCompletion => (self.decode)(&[&self.prompt.ids, self.ids].concat()),
        }
    }
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("prompt", &self.prompt.index)
            .field("ids", &self.ids)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// One property of a text as a number. A new verifier is one of these.
pub trait Check {
    /// The name reports use.
    fn name(&self) -> &str;

    /// The score of one text.
    fn score(&self, subject: &Subject<'_>) -> Result<f64, Error>;

    /// The least and the greatest score that can occur.
    fn range(&self) -> (f64, f64);
}

/// A [`Check`] as a reward.
pub struct Verifier<C> {
    check: C,
    decode: Decode,
    scope: Scope,
    ledger: Ledger,
}

impl<C: Check> Verifier<C> {
    /// Checks what `decode` makes of completions.
    pub fn new(check: C, decode: Decode) -> Self {
        Self { check, decode, scope: Scope::default(), ledger: Ledger::default() }
    }

    /// Sets what is looked at.
    #[must_use]
    pub fn with_scope(mut self, scope: Scope) -> Self {
        self.scope = scope;
        self
    }

    /// The check.
    pub fn check(&self) -> &C {
        &self.check
    }

    fn scores<'a>(
        &mut self,
        items: impl ExactSizeIterator<Item = (&'a Prompt, &'a [TokenId])>,
    ) -> Result<Vec<f64>, Error> {
        let started = Instant::now();
        self.ledger.reward_calls += items.len() as u64;
        let scores = items
            .map(|(prompt, ids)| self.check.score(&Subject::new(prompt, ids, self.scope, &*self.decode)))
            .collect();
        self.ledger.seconds += started.elapsed().as_secs_f64();
        scores
    }
}

impl<C: fmt::Debug> fmt::Debug for Verifier<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("check", &self.check)
            .field("scope", &self.scope)
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

impl<C: Check> Reward for Verifier<C> {
    fn name(&self) -> &str {
        self.check.name()
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        self.scores(candidates.iter().map(|candidate| (candidate.prompt, candidate.ids)))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn range(&self) -> (f64, f64) {
        self.check.range()
    }
}

impl<C: Check> PrefixReward for Verifier<C> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        self.scores(prefixes.iter().map(|prefix| (prefix.prompt, prefix.ids)))
    }
}

#[cfg(test)]
mod tests {
    use generate::End;

    use super::*;
    use crate::fake;

    /// The score of `text` as the completion of an empty prompt.
    pub(super) fn score(check: &dyn Check, text: &str) -> f64 {
        let prompt = Prompt::from_ids(0, vec![]);
        let ids = fake::encode(text);
        let score = check.score(&Subject::new(&prompt, &ids, Scope::Completion, &fake::decode)).expect(text);
        let (low, high) = check.range();
        assert!((low..=high).contains(&score), "{text}: {score} is not in {low}..={high}");
        score
    }

    #[test]
    fn scope_and_costs() {
        let prompt = Prompt::from_ids(0, fake::encode("naïve ca"));
        let ids = fake::encode("t 猫");
        let candidates = [
            Candidate { prompt: &prompt, ids: &ids, end: End::Budget },
            Candidate { prompt: &prompt, ids: &[], end: End::Budget },
        ];
        let check = || Lexicon::new([("cat", 1.0), ("猫", 10.0)], PerText::Sum).expect("a lexicon");
        let mut completion = Verifier::new(check(), Arc::new(fake::decode));
        assert_eq!(completion.rewards(&candidates).expect("scores"), [10.0, 0.0]);
        let mut both = Verifier::new(check(), Arc::new(fake::decode)).with_scope(Scope::PromptAndCompletion);
        assert_eq!(both.rewards(&candidates).expect("scores"), [11.0, 0.0]);
        assert_eq!(
            both.prefix_rewards(&[Prefix { prompt: &prompt, ids: &ids[..1] }]).expect("scores"),
            [1.0]
        );
        assert_eq!((both.ledger().reward_calls, both.ledger().total_tokens()), (3, 0));
        assert_eq!(both.name(), "lexicon");
    }
}
