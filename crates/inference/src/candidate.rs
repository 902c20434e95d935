//! What a method had to choose from, for those who want to see it.

use generate::TokenId;
use serde::{Deserialize, Serialize};

/// A completion that could have become the answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Its tokens.
    pub ids: Vec<TokenId>,
    /// Its reward, where the method looked at it.
    pub reward: Option<f64>,
    /// Its final answer, where the method looked for one and it has one.
    pub answer: Option<String>,
    /// How often it counts: 1 for a sample, for a state of Markov chains how often they were in it.
    pub weight: f64,
}
