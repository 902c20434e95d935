//! Prompts and the completions that policies give them.

use serde::{Deserialize, Serialize};

/// A token's number in a vocabulary.
pub type TokenId = u32;

/// A prompt: the tokens a policy continues, and what a verifier may want to know about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prompt {
    /// Its place in the prompt set; random streams and pools are keyed by it.
    pub index: usize,
    /// The tokens that are continued.
    pub ids: Vec<TokenId>,
    /// The text these tokens stand for.
    pub text: String,
    /// Other columns of its row, such as `answer`.
    pub columns: serde_json::Map<String, serde_json::Value>,
}

impl Prompt {
    /// A prompt of token ids alone, as the tabular policy has them.
    pub fn from_ids(index: usize, ids: Vec<TokenId>) -> Self {
        Self { index, ids, text: String::new(), columns: serde_json::Map::new() }
    }
}

/// Why a completion ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// An end-of-sequence token, which is part of the completion.
    Eos,
    /// A stop string; the token that completed it is part of the completion.
    Stop,
    /// The budget of new tokens was used up.
    Budget,
}

/// A continuation of a prefix and how it was drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The new tokens, the end-of-sequence token included.
    pub ids: Vec<TokenId>,
    /// Why it ended.
    pub end: End,
    /// Natural log-probability of each token under the law it was drawn from (temperature, filters, guidance).
    pub log_probs: Vec<f32>,
    /// Natural log-probability of each token under the reference source's raw law (see [`crate::Engine`]).
    pub raw_log_probs: Vec<f32>,
    /// `Σ_t KL(drawn law ‖ raw law)` over the steps, in nats: the Rao–Blackwell estimate of the divergence of the law
    /// drawn from to the raw law of the reference source; `None` when it was not asked for.
    pub kl: Option<f64>,
    /// `ln Z_t` of each step where it was asked for ([`crate::Engine::with_log_z`]), else empty: the sum over the tokens
    /// that may be drawn of the mixed law, its components normalised. For a product of a base with models of weights
    /// α_i at temperature T, `Z_t = Σ_v [π_b(v) Π_i π_i(v)^α_i]^(1/T)`. In nats.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_z: Vec<f64>,
}

impl Completion {
    /// Nothing drawn yet.
    pub(crate) fn empty() -> Self {
        Self {
            ids: Vec::new(),
            end: End::Budget,
            log_probs: Vec::new(),
            raw_log_probs: Vec::new(),
            kl: Some(0.0),
            log_z: Vec::new(),
        }
    }

    /// Whether it ended by itself rather than by its budget.
    pub fn finished(&self) -> bool {
        self.end != End::Budget
    }
}

/// A prompt and a whole completion of it, as rewards see them.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// The prompt.
    pub prompt: &'a Prompt,
    /// The completion's tokens, the end-of-sequence token included.
    pub ids: &'a [TokenId],
    /// Why the completion ended.
    pub end: End,
}

/// A prompt and the first tokens of a completion.
#[derive(Debug, Clone, Copy)]
pub struct Prefix<'a> {
    /// The prompt.
    pub prompt: &'a Prompt,
    /// The completion so far; may be empty.
    pub ids: &'a [TokenId],
}
