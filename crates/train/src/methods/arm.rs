//! Autoregressive reward model (GenARM, arXiv 2410.08193, Eq. 5): a causal model whose summed log-probability is the
//! reward, `−log σ(β_r [log π_r(y_w|x) − log π_r(y_l|x)] − γ)`. No reference model, no length normalisation; the sum runs
//! over the completion's tokens, the end-of-sequence token included.
//!
//! Deviations: none from the equation. The public code truncates by characters; here rows are counted in tokens.

use data::render::Pair;
use model::Decoder;
use model::learn::Forward;
use objective::losses::Preference;
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meters::Meters;
use crate::pairs::watch_pair;
use crate::supervised::{BatchLoss, Objective, pair_log_probs, spread, sums};

/// `[method.arm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Arm {
    /// Scale β_r of the log-probabilities. Guidance of weight α tilts the base by `exp(α r / β_r)`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Margin γ.
    pub gamma: f64,
    /// Assumed share of flipped labels.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
}

impl Default for Arm {
    fn default() -> Self {
        Self { beta: 0.05, gamma: 0.0, label_smoothing: 0.0 }
    }
}

impl Validate for Arm {
    fn validate(&self, _: &mut Rules) {}
}

impl Objective for Arm {
    type Row = Pair;

    fn tokens(row: &Pair) -> usize {
        row.chosen.ids.len() + row.rejected.ids.len()
    }

    fn weight(_: &Pair) -> f64 {
        1.0
    }

    fn forward(&self, decoder: &Decoder, rows: &[&Pair], checkpointing: bool) -> Forward {
        pair_log_probs(decoder, rows, checkpointing)
    }

    fn loss(&self, rows: &[&Pair], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        let loss = Preference { beta: self.beta, gamma: self.gamma, label_smoothing: self.label_smoothing };
        let log_probs = sums(forward);
        let (chosen, rejected) = log_probs.split_at(rows.len());
        let mut per_row = vec![0.0; 2 * rows.len()];
        for (index, (c, r)) in chosen.iter().zip(rejected).enumerate() {
            let pair = loss.pair(*c, *r);
            per_row[index] = pair.grad_chosen;
            per_row[rows.len() + index] = pair.grad_rejected;
            meters.add(&format!("{prefix}loss"), pair.loss);
            watch_pair(meters, prefix, (self.beta * c, self.beta * r), (*c, *r));
        }
        BatchLoss { coefficients: spread(forward, &per_row) }
    }
}
