//! Identity preference optimisation (arXiv 2310.12036, Eq. 17): `(h_w − h_l − 1/(2τ))²`, `h` the log-ratio of policy to
//! reference of the chosen and the rejected answer.
//!
//! With pairs drawn from the reference and the better answer chosen, the optimum is `π_ref exp(C/τ)`, C the calibrated
//! reward: the same law as that of CTRL with the identity and `β = τ`. The square is never satisfied pair by pair: margins
//! between a good and a bad answer differ, and their mean is what the optimum follows.
//!
//! Deviation from public code: log-ratios are sums over tokens, as in the paper. The mean over tokens, which some trainers
//! compute, is `loss = "ipo"` of the method `dpo`; its optimum depends on lengths.

use data::render::Pair;
use model::Decoder;
use model::learn::Forward;
use objective::losses::{Dpo as Loss, DpoVariant, PairLoss, SequenceLogProbs};
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meters::Meters;
use crate::pairs::{ReferencedPair, pair_losses};
use crate::supervised::{BatchLoss, Objective, pair_log_probs};

/// `[method.ipo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ipo {
    /// Strength τ of the KL regularisation: a pair's log-ratios are to differ by `1/(2τ)` nats.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub tau: f64,
}

impl Default for Ipo {
    fn default() -> Self {
        Self { tau: 0.1 }
    }
}

impl Validate for Ipo {
    fn validate(&self, _: &mut Rules) {}
}

impl Ipo {
    /// The loss of a pair.
    pub fn pair(&self, chosen: SequenceLogProbs, rejected: SequenceLogProbs) -> PairLoss {
        Loss { beta: self.tau, variant: DpoVariant::IpoSum }.pair(chosen, rejected)
    }
}

impl Objective for Ipo {
    type Row = ReferencedPair;

    fn tokens(row: &ReferencedPair) -> usize {
        row.tokens()
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
        let reward = |answer: SequenceLogProbs| self.tau * answer.log_ratio();
        pair_losses(rows, forward, prefix, meters, |c, r| self.pair(c, r), reward)
    }
}
