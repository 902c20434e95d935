//! Direct preference optimisation (arXiv 2305.18290, Eq. 7) with log-probabilities of the reference computed once, before
//! training. The reference is the model that training begins with.

use data::render::Pair;
use generate::Score;
use model::learn::Forward;
use model::{Decoder, Policy};
use objective::losses::{Dpo as Loss, DpoVariant, SequenceLogProbs};
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reward::right;
use crate::error::Error;
use crate::meters::Meters;
use crate::supervised::{BatchLoss, Objective, pair_log_probs, spread, sums};

/// `[method.dpo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dpo {
    /// Strength of the KL regularisation.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Assumed share of flipped labels.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
}

impl Default for Dpo {
    fn default() -> Self {
        Self { beta: 0.1, label_smoothing: 0.0 }
    }
}

impl Validate for Dpo {
    fn validate(&self, _: &mut Rules) {}
}

/// A pair with the reference's summed log-probabilities.
#[derive(Debug)]
pub struct ReferencedPair {
    pair: Pair,
    chosen: f64,
    rejected: f64,
}

/// Scores pairs under the reference.
pub fn referenced(reference: &Policy, pairs: Vec<Pair>) -> Result<Vec<ReferencedPair>, Error> {
    let mut items: Vec<(&[u32], &[u32])> = Vec::with_capacity(2 * pairs.len());
    for pair in &pairs {
        for example in [&pair.chosen, &pair.rejected] {
            items.push(example.ids.split_at(example.prompt_len()));
        }
    }
    let scores = reference.score(&items)?;
    let sums: Vec<f64> = scores.iter().map(|row| row.iter().map(|x| f64::from(*x)).sum()).collect();
    let both = sums.chunks_exact(2).map(|two| (two[0], two[1]));
    Ok(pairs
        .into_iter()
        .zip(both)
        .map(|(pair, (chosen, rejected))| ReferencedPair { pair, chosen, rejected })
        .collect())
}

impl Objective for Dpo {
    type Row = ReferencedPair;

    fn tokens(row: &ReferencedPair) -> usize {
        row.pair.chosen.ids.len() + row.pair.rejected.ids.len()
    }

    fn weight(_: &ReferencedPair) -> f64 {
        1.0
    }

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
        let variant = DpoVariant::Sigmoid { label_smoothing: self.label_smoothing };
        let loss = Loss { beta: self.beta, variant };
        let log_probs = sums(forward);
        let (chosen, rejected) = log_probs.split_at(rows.len());
        let mut per_row = vec![0.0; 2 * rows.len()];
        for (index, row) in rows.iter().enumerate() {
            let sequence =
                |policy: f64, reference: f64, tokens: usize| SequenceLogProbs { policy, reference, tokens };
            let c = sequence(chosen[index], row.chosen, forward.counts[index]);
            let r = sequence(rejected[index], row.rejected, forward.counts[rows.len() + index]);
            let pair = loss.pair(c, r);
            per_row[index] = pair.grad_chosen;
            per_row[rows.len() + index] = pair.grad_rejected;
            let (rc, rr) = (self.beta * c.log_ratio(), self.beta * r.log_ratio());
            meters.add(&format!("{prefix}loss"), pair.loss);
            meters.add(&format!("{prefix}rewards/chosen"), rc);
            meters.add(&format!("{prefix}rewards/rejected"), rr);
            meters.add(&format!("{prefix}rewards/margins"), rc - rr);
            meters.add(&format!("{prefix}rewards/accuracies"), right(rc, rr));
            meters.add(&format!("{prefix}logps/chosen"), chosen[index]);
            meters.add(&format!("{prefix}logps/rejected"), rejected[index]);
        }
        BatchLoss { coefficients: spread(forward, &per_row) }
    }
}
