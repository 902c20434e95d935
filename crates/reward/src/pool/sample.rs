//! What a pool keeps of a sample, and of a reward.

use generate::{Completion, End, Ledger, TokenId};
use serde::{Deserialize, Serialize};

/// A sample of a pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolSample {
    /// Its tokens, the end-of-sequence token included; their number is its length.
    pub ids: Vec<TokenId>,
    /// Why it ended.
    pub end: End,
    /// Natural log-probability under the law it was drawn from.
    pub log_prob: f64,
    /// Natural log-probability under the policy's raw law (temperature 1, no filters).
    pub raw_log_prob: f64,
    /// `Σ_t KL(drawn law ‖ raw law)` in nats over its steps; `None` where it was not computed.
    pub kl: Option<f64>,
}

impl From<&Completion> for PoolSample {
    fn from(completion: &Completion) -> Self {
        let sum = |log_probs: &[f32]| log_probs.iter().fold(0.0, |sum, x| sum + f64::from(*x));
        Self {
            ids: completion.ids.clone(),
            end: completion.end,
            log_prob: sum(&completion.log_probs),
            raw_log_prob: sum(&completion.raw_log_probs),
            kl: completion.kl,
        }
    }
}

/// Which reward scored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardId {
    /// Its role in reports, such as `gold` or `proxy`.
    pub name: String,
    /// Hash of everything that decides about its scores: weights, settings, tokenizer. Scores are found by it alone.
    pub identity: String,
}

/// The scores that a pool has of one reward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RewardColumn {
    /// The reward.
    pub id: RewardId,
    /// How many samples of each prompt are scored, from the first.
    pub samples: usize,
    /// What scoring cost.
    pub cost: Ledger,
}
