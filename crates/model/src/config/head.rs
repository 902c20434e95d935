//! The heads that a decoder may have.

use serde::{Deserialize, Serialize};

/// What a model gives for a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// Logits of the next token (`…ForCausalLM`).
    Language,
    /// One score (`…ForSequenceClassification` with one label, `score.weight`).
    Score,
    /// A value of every next token (`score.weight` of `vocab_size + 1` rows): that of token `z` is output `z` plus the last
    /// output, which belongs to the text so far.
    Vocabulary,
    /// Numbers of a law of rewards, read at the last token of a prompt (`score.weight`).
    Quantile {
        /// How many.
        outputs: usize,
    },
}

/// The field of `config.json` that says which of the heads `score.weight` is, where it is not a plain score.
pub(super) const HEAD: &str = "plumb_head";

impl Head {
    /// Whether it is `score.weight` and not a language model's.
    pub fn is_score(self) -> bool {
        self != Self::Language
    }

    /// Outputs for each token of a model of `vocab` tokens.
    pub fn outputs(self, vocab: usize) -> usize {
        match self {
            Self::Language => vocab,
            Self::Score => 1,
            Self::Vocabulary => vocab + 1,
            Self::Quantile { outputs } => outputs,
        }
    }

    /// What `name` in [`HEAD`] and a number of labels make.
    pub(super) fn named(name: &str, labels: usize) -> Option<Self> {
        match name {
            "vocabulary" => Some(Self::Vocabulary),
            "quantile" => Some(Self::Quantile { outputs: labels }),
            _ => None,
        }
    }
}
