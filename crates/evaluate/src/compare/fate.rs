//! What became of completions: cut at the limit, without text, without an answer.

use ::reward::Pool;
use generate::{Candidate, End, Prompt};
use inference::setup::{self, AnswerForm, CompletionText, Extract, Loaded};

use crate::report::metric;

/// A metric, and whether a completion counts for it.
type Check = (&'static str, fn(&Fate) -> bool);

/// What became of a completion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// The limit of new tokens ended it.
    truncated: bool,
    /// Its first token ended it, or all of it is blank.
    empty: bool,
    /// The grader finds no answer in it.
    no_answer: bool,
}

impl Fate {
    /// The metrics that tell it; whether an answer was found only where `answers` are looked for.
    pub(super) fn checks(answers: bool) -> impl Iterator<Item = Check> {
        let all: [Check; 3] = [
            (metric::TRUNCATED, |fate| fate.truncated),
            (metric::EMPTY, |fate| fate.empty),
            (metric::NO_ANSWER, |fate| fate.no_answer),
        ];
        all.into_iter().filter(move |(name, _)| answers || *name != metric::NO_ANSWER)
    }
}

/// Tells what became of completions.
pub(super) struct Fates {
    text: CompletionText,
    extract: Option<Extract>,
}

impl Fates {
    /// Of completions of `loaded` that were drawn with the stop strings `stop`, with answers of a form where
    /// the task has them.
    pub(super) fn new(loaded: &Loaded, form: Option<AnswerForm>, stop: &[String]) -> Self {
        Self {
            text: CompletionText::new(loaded, stop),
            extract: form.map(|form| setup::answer_of(loaded, form, stop)),
        }
    }

    /// What became of a completion.
    pub(super) fn of(&self, candidate: &Candidate<'_>) -> Fate {
        let Candidate { prompt, ids, end } = *candidate;
        Fate {
            truncated: end == End::Budget,
            empty: self.text.of(ids).trim().is_empty(),
            no_answer: self.extract.as_ref().is_some_and(|extract| extract(prompt, ids).is_empty()),
        }
    }

    /// What became of the samples of a pool.
    pub(super) fn of_pool(&self, pool: &Pool, prompts: &[Prompt]) -> Vec<Vec<Fate>> {
        let of = |(place, prompt): (usize, &Prompt)| {
            let samples = pool.samples(place).iter();
            samples.map(|sample| self.of(&Candidate { prompt, ids: &sample.ids, end: sample.end })).collect()
        };
        prompts.iter().enumerate().map(of).collect()
    }
}
