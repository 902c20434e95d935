//! What can be wrong with a reward before it scores anything.

use std::path::PathBuf;

/// A reward that cannot be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A sequence reward model has another head than a scalar one.
    #[error(
        "{model} gives {width} numbers per token, and a sequence reward model gives 1\n  hint: a language model is an autoregressive reward model (`arm`), or needs a scalar head trained (`reward`)"
    )]
    NotScalar {
        /// The model's name.
        model: String,
        /// Width of its outputs.
        width: usize,
    },
    /// A scorer of all next tokens has a scalar head.
    #[error(
        "{model} has a scalar head, and values of all next tokens need an output of each\n  hint: train it with `head = \"vocabulary\"` (`prefix-scorer`), or use it as a sequence reward model"
    )]
    NotVocabulary {
        /// The model's name.
        model: String,
    },
    /// An autoregressive reward model has a scalar head.
    #[error(
        "{model} has a scalar head, and an autoregressive reward model needs next-token logits\n  hint: use it as a sequence reward model (`reward`)"
    )]
    NotAutoregressive {
        /// The model's name.
        model: String,
    },
    /// Two policies of a ratio that read tokens differently.
    #[error(
        "{name}: vocabularies of {left} and {right} tokens\n  hint: a ratio needs a policy and what it was tuned from"
    )]
    Vocabularies {
        /// The ratio.
        name: String,
        /// Size of the vocabulary of the tuned policy.
        left: usize,
        /// Size of that of the reference.
        right: usize,
    },
    /// A number is out of its range.
    #[error("{key} = {value} is out of range: {limit}")]
    Setting {
        /// The setting's name.
        key: &'static str,
        /// What was given.
        value: f64,
        /// What is allowed.
        limit: &'static str,
    },
    /// A range whose ends are not in order.
    #[error("the range {low} to {high} is empty or not a number\n  hint: the lower end comes first")]
    Range {
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// A sum of no rewards.
    #[error("a weighted sum needs at least one reward with a weight other than 0")]
    NoParts,
    /// A regular expression that does not parse.
    #[error("the pattern `{pattern}` is not a regular expression: {problem}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong; where the parser knows the place, the pattern again with a mark below the place.
        problem: String,
    },
    /// A lexicon's file cannot be read; the message names it.
    #[error("lexicon: {0}")]
    Read(#[from] std::io::Error),
    /// A line of a lexicon is not a word and a weight.
    #[error("{}:{line}: {problem}\n  hint: a line is a word, a tab and a number, as in `good\\t1.9`", path.display())]
    LexiconLine {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// An entry of a lexicon is not a word with a weight.
    #[error("lexicon: {problem}")]
    LexiconEntry {
        /// What is wrong with it.
        problem: String,
    },
    /// A lexicon without words.
    #[error("the lexicon has no words, so that every text would score 0")]
    EmptyLexicon,
}
