//! Losses as pure functions: log-probabilities in, the loss of one example and its gradient with respect to each of them out.
//!
//! A trainer carries the gradients on to the parameters (`sum_i gradient_i log pi_i` is a surrogate with the right
//! derivative) and reduces over examples itself. Log-probabilities of sequences are sums over the completion's tokens, EOS
//! included, in nats. Every field's range is checked by `validate`, which names the offending value.

mod bonbon;
mod bradley_terry;
mod dpo;
mod policy_gradient;
mod preference;
mod quantile;
mod sft;
mod vbon;

pub use bonbon::Bonbon;
pub use bradley_terry::BradleyTerry;
pub use dpo::{Dpo, DpoVariant, SequenceLogProbs};
pub use policy_gradient::{Clip, PolicyGradient, ValueLoss, clipped, clipped_value, reinforce};
pub use preference::{LabelledLoss, Preference, Simpo};
pub use quantile::{QuantileTilt, log_mean_exp, squared_ratio};
pub use sft::{CrossEntropy, cross_entropy};
pub use vbon::{Vbon, VbonForm};

/// Loss of one pair and its gradients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairLoss {
    /// The loss of the pair.
    pub loss: f64,
    /// Derivative with respect to the score (log-probability or reward) of the chosen answer.
    pub grad_chosen: f64,
    /// Derivative with respect to the score of the rejected answer.
    pub grad_rejected: f64,
}

impl PairLoss {
    /// A loss of the margin `z` with derivative `slope`, where `dz/d chosen = chosen` and `dz/d rejected = -rejected`.
    fn of_margin(loss: f64, slope: f64, chosen: f64, rejected: f64) -> Self {
        Self { loss, grad_chosen: slope * chosen, grad_rejected: -slope * rejected }
    }
}
