//! Preference pairs beside what a reference gives them, and what losses of such pairs have in common.

use data::render::{Example, Pair};
use generate::Score;
use model::learn::Forward;
use model::{Decoder, Policy};
use objective::losses::{PairLoss, SequenceLogProbs};

use crate::error::Error;
use crate::meters::Meters;
use crate::supervised::{BatchLoss, Objective, pair_log_probs, spread, sums};

/// A pair with the reference's summed log-probabilities.
#[derive(Debug)]
pub struct ReferencedPair {
    /// The two answers.
    pub pair: Pair,
    /// Log-probability of the chosen answer under the reference.
    pub chosen: f64,
    /// Log-probability of the rejected answer under the reference.
    pub rejected: f64,
}

impl ReferencedPair {
    /// Tokens of both answers with their prompts.
    pub fn tokens(&self) -> usize {
        self.pair.chosen.ids.len() + self.pair.rejected.ids.len()
    }
}

/// Scores pairs under the reference: the sums over the tokens that are learned, as the policy's are, which
/// leave out the turns of
/// others within an answer.
pub fn referenced(reference: &Policy, pairs: Vec<Pair>) -> Result<Vec<ReferencedPair>, Error> {
    let mut items: Vec<(&[u32], &[u32])> = Vec::with_capacity(2 * pairs.len());
    for pair in &pairs {
        for example in [&pair.chosen, &pair.rejected] {
            items.push(example.ids.split_at(example.prompt_len()));
        }
    }
    let scores = reference.score(&items)?;
    let examples = pairs.iter().flat_map(|pair| [&pair.chosen, &pair.rejected]);
    let sums: Vec<f64> = examples.zip(&scores).map(|(example, row)| learned_sum(example, row)).collect();
    let both = sums.chunks_exact(2).map(|two| (two[0], two[1]));
    Ok(pairs
        .into_iter()
        .zip(both)
        .map(|(pair, (chosen, rejected))| ReferencedPair { pair, chosen, rejected })
        .collect())
}

/// The sum over learned tokens of log-probabilities of all tokens from the first learned one on.
fn learned_sum(example: &Example, log_probs: &[f32]) -> f64 {
    let learned = &example.loss[example.prompt_len()..];
    learned.iter().zip(log_probs).filter(|(learned, _)| **learned).map(|(_, log)| f64::from(*log)).sum()
}

/// Pairs of a loss that has no reference: every log-ratio is the log-probability itself.
pub fn unreferenced(pairs: Vec<Pair>) -> Vec<ReferencedPair> {
    pairs.into_iter().map(|pair| ReferencedPair { pair, chosen: 0.0, rejected: 0.0 }).collect()
}

/// A method whose loss is a function of the two answers of a pair, under the policy and the reference.
pub trait PairMethod: Sync {
    /// The loss of a pair, with its gradients.
    fn pair(&self, chosen: SequenceLogProbs, rejected: SequenceLogProbs) -> PairLoss;

    /// The implicit reward of an answer, for the metrics.
    fn reward(&self, answer: SequenceLogProbs) -> f64;
}

impl<M: PairMethod> Objective for M {
    type Row = ReferencedPair;

    fn tokens(row: &ReferencedPair) -> usize {
        row.tokens()
    }

    fn weight(_: &ReferencedPair) -> f64 {
        1.0
    }

    /// All chosen answers, then all rejected ones.
    fn forward(&self, decoder: &Decoder, rows: &[&ReferencedPair], checkpointing: bool) -> Forward {
        let pairs: Vec<&Pair> = rows.iter().map(|row| &row.pair).collect();
        pair_log_probs(decoder, &pairs, checkpointing)
    }

    fn loss(
        &self,
        rows: &[&ReferencedPair],
        forward: &Forward,
        prefix: &str,
        meters: &mut Meters,
    ) -> BatchLoss {
        let log_probs = sums(forward);
        let (chosen, rejected) = log_probs.split_at(rows.len());
        let mut per_row = vec![0.0; 2 * rows.len()];
        for (index, row) in rows.iter().enumerate() {
            let sequence =
                |policy: f64, reference: f64, tokens: usize| SequenceLogProbs { policy, reference, tokens };
            let c = sequence(chosen[index], row.chosen, forward.counts[index]);
            let r = sequence(rejected[index], row.rejected, forward.counts[rows.len() + index]);
            let pair = self.pair(c, r);
            per_row[index] = pair.grad_chosen;
            per_row[rows.len() + index] = pair.grad_rejected;
            meters.add(&format!("{prefix}loss"), pair.loss);
            watch_pair(meters, prefix, (self.reward(c), self.reward(r)), (c.policy, r.policy));
        }
        BatchLoss { coefficients: spread(forward, &per_row) }
    }
}

/// Adds implicit rewards and log-probabilities of a pair, chosen first, under TRL's names.
pub fn watch_pair(meters: &mut Meters, prefix: &str, rewards: (f64, f64), log_probs: (f64, f64)) {
    meters.add(&format!("{prefix}rewards/chosen"), rewards.0);
    meters.add(&format!("{prefix}rewards/rejected"), rewards.1);
    meters.add(&format!("{prefix}rewards/margins"), rewards.0 - rewards.1);
    meters.add(&format!("{prefix}rewards/accuracies"), right(rewards.0, rewards.1));
    meters.add(&format!("{prefix}logps/chosen"), log_probs.0);
    meters.add(&format!("{prefix}logps/rejected"), log_probs.1);
}

/// 1 where the chosen answer leads, one half for a tie.
pub fn right(chosen: f64, rejected: f64) -> f64 {
    match chosen.total_cmp(&rejected) {
        // 0.0 and -0.0 tie.
        _ if chosen == rejected => 0.5,
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    }
}
