//! What a run of chains reports.

use generate::TokenId;
use generate::completion::End;
use serde::{Deserialize, Serialize};

use crate::diagnostics::Diagnostic;
use crate::selection::Importance;

/// Counts of proposals. Sums over prompts of these are the counts of all prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Proposals made.
    pub proposals: u64,
    /// Proposals accepted; those equal to the current state always are.
    pub accepted: u64,
    /// Accepted proposals that differ from the state before.
    pub changed: u64,
}

impl Rates {
    pub(super) fn count(&mut self, accepted: bool, changed: bool) {
        self.proposals += 1;
        self.accepted += u64::from(accepted);
        self.changed += u64::from(changed);
    }

    /// Share of accepted proposals; `None` without proposals.
    pub fn acceptance(&self) -> Option<f64> {
        (self.proposals > 0).then(|| self.accepted as f64 / self.proposals as f64)
    }

    /// Share of proposals that moved the chain; `None` without proposals.
    pub fn changed_rate(&self) -> Option<f64> {
        (self.proposals > 0).then(|| self.changed as f64 / self.proposals as f64)
    }
}

/// The answer after some steps, and what it took.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Steps of each chain.
    pub steps: usize,
    /// The completion given as answer.
    pub ids: Vec<TokenId>,
    /// Why it ended.
    pub end: End,
    /// The final answer that won, where the rule is a vote.
    pub answer: Option<String>,
    /// Tokens drawn so far by all chains; kept prefixes are not drawn again.
    pub drawn_tokens: u64,
    /// Completions scored so far.
    pub reward_calls: u64,
}

/// A run of chains on one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Number of chains.
    pub chains: usize,
    /// Moves of each.
    pub steps: usize,
    /// All proposals.
    pub rates: Rates,
    /// Proposals by relative cut position: entry `k` has those with `i / n` in `[k/10, (k+1)/10)`.
    pub by_cut: Vec<Rates>,
    /// Mean reward of the chains' states after each number of steps, from 0.
    pub rewards: Vec<f64>,
    /// Split-R̂ of the reward over the states that count.
    pub rhat: Diagnostic,
    /// Effective number of independent states for the mean reward.
    pub ess: Diagnostic,
    /// Split-R̂ of the indicator of the winning answer, where the rule is a vote.
    pub answer_rhat: Option<Diagnostic>,
    /// Effective number of independent votes for the winning answer, where the rule is a vote.
    pub answer_ess: Option<Diagnostic>,
    /// Distinct completions among the states that count.
    pub unique_texts: usize,
    /// Distinct final answers among them, where the rule is a vote.
    pub unique_answers: Option<usize>,
    /// Total weight of each answer in the order of first appearance, where the rule is a vote.
    pub votes: Vec<(String, f64)>,
    /// Importance weights of the independent base samples that the run has made: the chains' first draws and the
    /// proposals that kept nothing. `kl` is to the law drawn from.
    pub importance: Option<Importance>,
    /// Why there is no estimate of the divergence to the base.
    pub kl_reason: Option<String>,
    /// The answer after the numbers of steps that were asked for, and at the end.
    pub curve: Vec<Point>,
    /// What the reader of the numbers should know.
    pub warnings: Vec<String>,
}
