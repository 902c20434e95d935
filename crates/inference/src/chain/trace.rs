//! What a run of chains reports.

use generate::TokenId;
use generate::completion::End;
use serde::{Deserialize, Serialize};

use super::law::Law;
use crate::candidate::Candidate;
use crate::diagnostics::Diagnostic;
use crate::selection::Importance;

/// Counts of moves or swaps. Sums over prompts of these are the counts of all prompts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Moves proposed; several tries at one cut are one proposal.
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
    /// Completions drawn and proposed so far by all chains.
    pub samples: usize,
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

/// One rung of a ladder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rung {
    /// Its `beta` or `alpha`.
    pub parameter: f64,
    /// Moves of its chains.
    pub rates: Rates,
    /// Swaps with the next rung; `None` for the last.
    pub swaps: Option<Rates>,
}

/// One move of one chain.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Move {
    /// Which step of the chain, from 1.
    pub step: usize,
    /// Which chain.
    pub chain: usize,
    /// Which rung of the ladder; 0 has the target.
    pub rung: usize,
    /// How many tokens of the state were kept.
    pub cut: usize,
    /// Tokens of the state before the move.
    pub length: usize,
    /// Reward of the state before the move, where there is one.
    pub reward: Option<f64>,
    /// The proposal; of several tries the one that was chosen.
    pub proposal: Vec<TokenId>,
    /// Its reward, where there is one.
    pub proposal_reward: Option<f64>,
    /// Logarithm of the acceptance ratio, not cut off at 0.
    pub log_alpha: f64,
    /// Whether the proposal became the state.
    pub accepted: bool,
}

/// A run of chains on one prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Number of chains.
    pub chains: usize,
    /// Moves of each: fewer than the settings say where the vote was decided before.
    pub steps: usize,
    /// The step at which no votes still to come could change the winner, where the chains stopped for it.
    pub decided_at: Option<usize>,
    /// `beta` or `alpha` of the target, as it was frozen for this prompt; `None` without a target.
    pub parameter: Option<f64>,
    /// The target, with that parameter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<Law>,
    /// All moves of the chains of the target.
    pub rates: Rates,
    /// Proposals by relative cut position: entry `k` has those with `i / n` in `[k/10, (k+1)/10)`.
    pub by_cut: Vec<Rates>,
    /// The rungs, the target's first; empty without a ladder.
    pub rungs: Vec<Rung>,
    /// Mean reward of the chains' states after each number of steps, from 0; empty where nothing is scored.
    pub rewards: Vec<f64>,
    /// Split-R̂ of the reward over the states that count; without rewards, of the raw log-probability or of the length.
    pub rhat: Diagnostic,
    /// Effective number of independent states for the mean of the same.
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
    /// proposals that kept nothing. `kl` is that of the target to the law drawn from, far too small where
    /// these are few.
    pub importance: Option<Importance>,
    /// Why there is no divergence of the answer to the base.
    pub kl_reason: Option<String>,
    /// The answer after the numbers of steps that were asked for, and at the end.
    pub curve: Vec<Point>,
    /// Every move, where moves are recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub moves: Vec<Move>,
    /// What the reader of the numbers should know.
    pub warnings: Vec<String>,
    /// The distinct states that counted, in the order in which they first did, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}
