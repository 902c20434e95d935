//! `[draft]`: a model that runs ahead of the policy, for lossless speculative decoding.

use std::fmt;

use recipe::ModelName;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A small model that drafts tokens, which the policy (with all that guides it) checks in one pass. What is drawn follows the
/// same law as without a draft (Leviathan et al. 2023, arXiv 2211.17192); a good draft makes it faster.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DraftTable {
    /// The model; it reads the policy's tokens.
    pub path: ModelName,
    /// Tokens that are drafted before they are checked.
    #[serde(default = "default_tokens")]
    #[schemars(range(min = 1, max = 64))]
    pub tokens: usize,
    /// Whether the draft is guided as the policy is, by the same further models: more is accepted, and they run twice.
    #[serde(default)]
    pub guided: bool,
}

fn default_tokens() -> usize {
    4
}

impl fmt::Display for DraftTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guided = if self.guided { ", guided" } else { "" };
        write!(f, "{} tokens by {}{guided}", self.tokens, self.path)
    }
}
