//! Identity preference optimisation (arXiv 2310.12036, Eq. 17): `(h_w − h_l − 1/(2τ))²`, `h` the log-ratio of policy to
//! reference of the chosen and the rejected answer.
//!
//! With pairs drawn from the reference and the better answer chosen, the optimum is `π_ref exp(C/τ)`, C the calibrated
//! reward: the same law as that of CTRL with the identity and `β = τ`. The square is never satisfied pair by pair: margins
//! between a good and a bad answer differ, and their mean is what the optimum follows.
//!
//! Deviation from public code: log-ratios are sums over tokens, as in the paper. The mean over tokens, which some trainers
//! compute, is `loss = "ipo"` of the method `dpo`; its optimum depends on lengths.

use objective::losses::{Dpo as Loss, DpoVariant, PairLoss, SequenceLogProbs};
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pairs::PairMethod;

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

impl PairMethod for Ipo {
    fn pair(&self, chosen: SequenceLogProbs, rejected: SequenceLogProbs) -> PairLoss {
        Loss { beta: self.tau, variant: DpoVariant::IpoSum }.pair(chosen, rejected)
    }

    fn reward(&self, answer: SequenceLogProbs) -> f64 {
        self.tau * answer.log_ratio()
    }
}
