//! Direct preference optimisation (arXiv 2305.18290, Eq. 7) and the losses that share its pairs. With `z = β (h_w − h_l)`,
//! `h` the log-ratio of policy to reference of the chosen and the rejected answer, summed over tokens:
//!
//! | `loss` | minimised | from |
//! |---|---|---|
//! | `sigmoid` | `−(1−ε) log σ(z) − ε log σ(−z)`, ε the label smoothing | DPO; conservative DPO |
//! | `robust` | `(−(1−ε) log σ(z) + ε log σ(−z)) / (1−2ε)` | arXiv 2403.00409 |
//! | `hinge` | `max(0, 1 − z)` | SLiC, arXiv 2305.10425 |
//! | `ipo` | `(h̄_w − h̄_l − 1/(2β))²`, `h̄` the mean over tokens | TRL's reading of arXiv 2310.12036 |
//! | `simpo` | `−log σ(β (log π_w/n_w − log π_l/n_l) − γ)`, n the number of tokens, no reference | arXiv 2405.14734 |
//!
//! The reference is the model that training begins with; its log-probabilities are computed once, before training. With
//! `reference_free` it is left out: log-ratios are the policy's log-probabilities, which is the loss of an autoregressive
//! reward model.
//!
//! Deviations: (1) `ipo` is here as TRL has it; the paper's loss, with sums, is the method `ipo`. (2) Where public code
//! ignores label smoothing or a margin that a loss has no place for, it is refused.

use objective::losses::{Dpo as Loss, DpoVariant, PairLoss, SequenceLogProbs, Simpo};
use recipe::{Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pairs::PairMethod;

/// `[method.dpo]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dpo {
    /// Strength of the KL regularisation; of `simpo`, the scale of the mean log-probabilities (2 and more).
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// What is minimised.
    pub loss: PairwiseLoss,
    /// Assumed share of flipped labels, of `sigmoid` and `robust`.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
    /// Margin γ of `simpo`.
    #[schemars(range(min = 0))]
    pub gamma: f64,
    /// Leave the reference out.
    pub reference_free: bool,
}

/// What `dpo` minimises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PairwiseLoss {
    /// The logistic loss of DPO.
    #[default]
    Sigmoid,
    /// Unbiased under a known share of flipped labels.
    Robust,
    /// The hinge of SLiC.
    Hinge,
    /// The square of IPO, of means over tokens.
    Ipo,
    /// SimPO: no reference, means over tokens, a margin.
    Simpo,
}

impl Default for Dpo {
    fn default() -> Self {
        Self {
            beta: 0.1,
            loss: PairwiseLoss::Sigmoid,
            label_smoothing: 0.0,
            gamma: 0.0,
            reference_free: false,
        }
    }
}

impl Validate for Dpo {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["label_smoothing", "loss"], smoothing_has_a_place(self));
        rules.check(&["gamma", "loss"], margin_has_a_place(self));
    }
}

fn smoothing_has_a_place(dpo: &Dpo) -> Result<(), Violation> {
    if dpo.label_smoothing == 0.0 || matches!(dpo.loss, PairwiseLoss::Sigmoid | PairwiseLoss::Robust) {
        return Ok(());
    }
    let message = format!("{} has no effect: only `sigmoid` and `robust` smooth labels", dpo.label_smoothing);
    Err(Violation::new(message).hint("set `label_smoothing = 0`, or `loss = \"robust\"`"))
}

fn margin_has_a_place(dpo: &Dpo) -> Result<(), Violation> {
    if dpo.gamma == 0.0 || dpo.loss == PairwiseLoss::Simpo {
        return Ok(());
    }
    let message = format!("{} has no effect: only `simpo` has a margin", dpo.gamma);
    Err(Violation::new(message).hint("set `gamma = 0`, or `loss = \"simpo\"`"))
}

impl Dpo {
    /// Whether log-probabilities of the reference are needed.
    pub fn uses_reference(&self) -> bool {
        !self.reference_free && self.loss != PairwiseLoss::Simpo
    }
}

impl PairMethod for Dpo {
    fn pair(&self, chosen: SequenceLogProbs, rejected: SequenceLogProbs) -> PairLoss {
        let (beta, label_smoothing) = (self.beta, self.label_smoothing);
        let variant = match self.loss {
            PairwiseLoss::Sigmoid => DpoVariant::Sigmoid { label_smoothing },
            PairwiseLoss::Robust => DpoVariant::Robust { label_smoothing },
            PairwiseLoss::Hinge => DpoVariant::Hinge,
            PairwiseLoss::Ipo => DpoVariant::IpoMean,
            PairwiseLoss::Simpo => {
                let loss = Simpo { beta, gamma: self.gamma };
                return loss.pair(chosen.policy, chosen.tokens, rejected.policy, rejected.tokens);
            }
        };
        Loss { beta, variant }.pair(chosen, rejected)
    }

    fn reward(&self, answer: SequenceLogProbs) -> f64 {
        match self.loss {
            PairwiseLoss::Simpo | PairwiseLoss::Ipo => self.beta * answer.log_ratio() / answer.tokens as f64,
            _ => self.beta * answer.log_ratio(),
        }
    }
}
