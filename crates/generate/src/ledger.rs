//! What an answer costs.

use std::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// Counts of work, all additive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// Tokens drawn, each model that runs for the draw counted.
    pub decode_tokens: u64,
    /// Tokens of prefixes run through a policy that were not cached.
    pub prefill_tokens: u64,
    /// Tokens run through reward models that were not cached.
    pub reward_tokens: u64,
    /// Batched forward passes of any model.
    pub forward_passes: u64,
    /// Completions scored by a reward.
    pub reward_calls: u64,
    /// Tokens of prefixes that were found in a cache.
    pub cached_tokens: u64,
    /// Tokens that a draft proposed; their cost is among the decoded ones.
    #[serde(default)]
    pub drafted_tokens: u64,
    /// Those of them that were accepted.
    #[serde(default)]
    pub accepted_tokens: u64,
    /// Tokens run through any model, each times the model's parameters, which tells tokens of a large model
    /// from those of a
    /// small one; models of unknown size add nothing. Two floating-point operations each, attention apart.
    #[serde(default)]
    pub parameter_tokens: f64,
    /// Wall-clock seconds inside models and rewards.
    pub seconds: f64,
}

impl Ledger {
    /// The share of drafted tokens that was accepted; `None` where nothing was drafted.
    pub fn acceptance(&self) -> Option<f64> {
        (self.drafted_tokens > 0).then(|| self.accepted_tokens as f64 / self.drafted_tokens as f64)
    }

    /// Tokens run through any model.
    pub fn total_tokens(&self) -> u64 {
        self.decode_tokens + self.prefill_tokens + self.reward_tokens
    }
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.decode_tokens += other.decode_tokens;
        self.prefill_tokens += other.prefill_tokens;
        self.reward_tokens += other.reward_tokens;
        self.forward_passes += other.forward_passes;
        self.reward_calls += other.reward_calls;
        self.cached_tokens += other.cached_tokens;
        self.drafted_tokens += other.drafted_tokens;
        self.accepted_tokens += other.accepted_tokens;
        self.parameter_tokens += other.parameter_tokens;
        self.seconds += other.seconds;
    }
}

impl Add for Ledger {
    type Output = Self;
    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl Sub for Ledger {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self {
            decode_tokens: self.decode_tokens - other.decode_tokens,
            prefill_tokens: self.prefill_tokens - other.prefill_tokens,
            reward_tokens: self.reward_tokens - other.reward_tokens,
            forward_passes: self.forward_passes - other.forward_passes,
            reward_calls: self.reward_calls - other.reward_calls,
            cached_tokens: self.cached_tokens - other.cached_tokens,
            drafted_tokens: self.drafted_tokens - other.drafted_tokens,
            accepted_tokens: self.accepted_tokens - other.accepted_tokens,
            parameter_tokens: self.parameter_tokens - other.parameter_tokens,
            seconds: self.seconds - other.seconds,
        }
    }
}
