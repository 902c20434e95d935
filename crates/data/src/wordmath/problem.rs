//! A finished problem and the exact text that a policy sees.

use serde::{Deserialize, Serialize};

use super::config::{Split, Style};

/// A word problem with its worked solution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `wordmath/<split>/<index>`; unique within a seed.
    pub id: String,
    /// The split it was asked from.
    pub split: Split,
    /// The story and its question, one line.
    pub question: String,
    /// The worked solution; its last line is `#### answer`.
    pub solution: String,
    /// How the solution is written.
    pub style: Style,
    /// The one right answer.
    pub answer: i64,
    /// Key of the composition: operations in order (`gain>half`), one operation and its wording (`gain/9`), or a story
    /// logic (`new/ages`).
    pub composition: String,
    /// Number of operations, or of equations of a story logic.
    pub steps: usize,
    /// Number of irrelevant sentences.
    pub distractors: usize,
}

impl Problem {
    /// What a policy is asked: `Question: <question>\nAnswer:`, without a space at its end.
    pub fn prompt(&self) -> String {
        format!("Question: {}\nAnswer:", self.question)
    }

    /// What a policy should say: a space, then the solution. The space belongs to the completion because byte-level
    /// tokenizers join it to the word that follows. Nothing comes after the answer; the end-of-text token is the
    /// caller's.
    pub fn completion(&self) -> String {
        format!(" {}", self.solution)
    }
}
