//! Next-token cross-entropy.

use crate::error::{InputError, finite};
use crate::numeric::log_softmax;

/// Negative log-likelihood of one token.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossEntropy {
    /// `-log softmax(logits)[label]`. With respect to that log-probability the gradient is `-1`.
    pub loss: f64,
    /// Gradient with respect to the logits: `softmax(logits)` less one at the label.
    pub gradient: Vec<f64>,
}

/// Negative log-likelihood of `label` under finite `logits`.
pub fn cross_entropy(logits: &[f64], label: usize) -> Result<CrossEntropy, InputError> {
    finite("logits", logits)?;
    if label >= logits.len() {
        return Err(InputError::OutOfRange {
            what: "label",
            value: label as f64,
            range: "below the number of logits",
        });
    }
    let log_probs = log_softmax(logits);
    let mut gradient: Vec<f64> = log_probs.iter().map(|l| l.exp()).collect();
    gradient[label] -= 1.0;
    Ok(CrossEntropy { loss: -log_probs[label], gradient })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_logits_cost_the_log_of_their_number() {
        let ce = cross_entropy(&[2.0; 4], 1).expect("valid");
        assert!((ce.loss - 4.0_f64.ln()).abs() < 1e-15);
        for (got, want) in ce.gradient.iter().zip([0.25, -0.75, 0.25, 0.25]) {
            assert!((got - want).abs() < 1e-15);
        }
        assert!(cross_entropy(&[0.0], 1).is_err() && cross_entropy(&[f64::NAN], 0).is_err());
    }
}
