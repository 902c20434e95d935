//! Direct preference optimisation and its relatives (Rafailov et al. 2023; robust: Chowdhury et al. 2024; hinge: SLiC; IPO:
//! Azar et al. 2023).

use serde::{Deserialize, Serialize};

use super::PairLoss;
use super::preference::{check_smoothing, smoothed_logistic};
use crate::error::{InputError, in_range};
use crate::numeric::{log_sigmoid, sigmoid};

/// Log-probabilities of one answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SequenceLogProbs {
    /// Summed log-probability under the policy.
    pub policy: f64,
    /// Summed log-probability under the reference.
    pub reference: f64,
    /// Number of tokens summed over, at least 1.
    pub tokens: usize,
}

impl SequenceLogProbs {
    /// `log pi - log ref` of the whole answer; times beta it is the implicit reward.
    pub fn log_ratio(&self) -> f64 {
        self.policy - self.reference
    }
}

/// Which function of the margin is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DpoVariant {
    /// `-(1-e) log sigmoid(z) - e log sigmoid(-z)`; plain DPO at `e = 0`.
    Sigmoid {
        /// `e`, in `[0, 0.5)`.
        label_smoothing: f64,
    },
    /// `(-(1-e) log sigmoid(z) + e log sigmoid(-z)) / (1 - 2e)`: unbiased under labels flipped with probability `e`.
    Robust {
        /// `e`, in `[0, 0.5)`.
        label_smoothing: f64,
    },
    /// `max(0, 1 - z)`.
    Hinge,
    /// `(h - 1/(2 tau))^2` with `h` the difference of summed log-ratios and `tau` in the place of beta, as in the paper.
    IpoSum,
    /// As [`DpoVariant::IpoSum`] with `h` the difference of per-token mean log-ratios, as TRL computes it.
    IpoMean,
}

/// `z = beta ((c - ref_c) - (r - ref_r))` under a [`DpoVariant`].
///
/// On Bradley–Terry preferences of a reward `r` the sigmoid optimum is `ref(y) exp(r(y)/beta) / Z`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dpo {
    /// Strength of the KL regularisation, above 0; `tau` of IPO.
    pub beta: f64,
    /// Function of the margin.
    pub variant: DpoVariant,
}

impl Dpo {
    /// Plain DPO.
    pub fn new(beta: f64) -> Self {
        Self { beta, variant: DpoVariant::Sigmoid { label_smoothing: 0.0 } }
    }

    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("beta", self.beta, "above 0", |b| b > 0.0)?;
        match self.variant {
            DpoVariant::Sigmoid { label_smoothing } | DpoVariant::Robust { label_smoothing } => {
                check_smoothing(label_smoothing)
            }
            DpoVariant::Hinge | DpoVariant::IpoSum | DpoVariant::IpoMean => Ok(()),
        }
    }

    /// Loss of a pair; gradients are with respect to the policy's summed log-probabilities.
    pub fn pair(&self, chosen: SequenceLogProbs, rejected: SequenceLogProbs) -> PairLoss {
        let beta = self.beta;
        let z = beta * (chosen.log_ratio() - rejected.log_ratio());
        match self.variant {
            DpoVariant::Sigmoid { label_smoothing } => {
                let (loss, slope) = smoothed_logistic(z, label_smoothing);
                PairLoss::of_margin(loss, slope, beta, beta)
            }
            DpoVariant::Robust { label_smoothing: e } => {
                let scale = 1.0 / (1.0 - 2.0 * e);
                let loss = scale * (-(1.0 - e) * log_sigmoid(z) + e * log_sigmoid(-z));
                let slope = scale * (-(1.0 - e) * sigmoid(-z) - e * sigmoid(z));
                PairLoss::of_margin(loss, slope, beta, beta)
            }
            DpoVariant::Hinge => {
                let slope = if z < 1.0 { -1.0 } else { 0.0 };
                PairLoss::of_margin((1.0 - z).max(0.0), slope, beta, beta)
            }
            DpoVariant::IpoSum => ipo(beta, chosen, rejected, 1.0, 1.0),
            DpoVariant::IpoMean => {
                ipo(beta, chosen, rejected, 1.0 / chosen.tokens as f64, 1.0 / rejected.tokens as f64)
            }
        }
    }
}

fn ipo(tau: f64, chosen: SequenceLogProbs, rejected: SequenceLogProbs, c: f64, r: f64) -> PairLoss {
    let miss = c * chosen.log_ratio() - r * rejected.log_ratio() - 0.5 / tau;
    PairLoss::of_margin(miss * miss, 2.0 * miss, c, r)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smoothing_of_one_half_has_no_robust_form() {
        for variant in [
            DpoVariant::Sigmoid { label_smoothing: 0.5 },
            DpoVariant::Robust { label_smoothing: 0.5 },
            DpoVariant::Robust { label_smoothing: -0.1 },
        ] {
            assert!(Dpo { beta: 0.1, variant }.validate().is_err());
        }
        assert!(Dpo { beta: f64::INFINITY, variant: DpoVariant::Hinge }.validate().is_err());
        assert!(Dpo::new(0.1).validate().is_ok());
    }

    #[test]
    fn the_robust_loss_is_unbiased_under_flipped_labels() {
        let of = |policy| SequenceLogProbs { policy, reference: -3.0, tokens: 4 };
        let (a, b, e) = (of(-2.0), of(-4.5), 0.2);
        let robust = Dpo { beta: 0.7, variant: DpoVariant::Robust { label_smoothing: e } };
        let observed = (1.0 - e) * robust.pair(a, b).loss + e * robust.pair(b, a).loss;
        assert!((observed - Dpo::new(0.7).pair(a, b).loss).abs() < 1e-14);
    }
}
