//! A learnable table: one logit per prefix and symbol.

use std::collections::BTreeMap;

use super::lm::TabularLm;
use super::space::{Space, Symbol, TabularError};
use crate::error::{finite, same_length};
use crate::numeric::{Sum, log_softmax};

/// A policy with free softmax logits at every prefix: it can represent every law with full support, so objectives trained
/// on it with exact gradients reach their exact optimum.
#[derive(Clone, Debug, PartialEq)]
pub struct TabularPolicy {
    space: Space,
    prefixes: BTreeMap<Vec<Symbol>, usize>,
    logits: Vec<f64>,
}

impl TabularPolicy {
    /// The policy with all logits zero.
    pub fn uniform(space: Space) -> Self {
        let prefixes: BTreeMap<Vec<Symbol>, usize> = space.prefixes().into_iter().zip(0..).collect();
        let logits = vec![0.0; prefixes.len() * space.vocab() as usize];
        Self { space, prefixes, logits }
    }

    /// The policy equal to a model that gives every symbol a positive probability after every prefix.
    pub fn from_lm(lm: &TabularLm) -> Result<Self, TabularError> {
        let mut policy = Self::uniform(*lm.space());
        let mut logits = Vec::with_capacity(policy.logits.len());
        for prefix in policy.prefixes.keys() {
            let row = lm.next(prefix)?;
            finite("log-probabilities", row)
                .map_err(|source| TabularError::Conditional { prefix: prefix.clone(), source })?;
            logits.extend_from_slice(row);
        }
        policy.logits = logits;
        Ok(policy)
    }

    /// The strings that the policy is about.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The parameters: rows by prefix in lexicographic order, one logit per symbol.
    pub fn logits(&self) -> &[f64] {
        &self.logits
    }

    /// The parameters, to be changed by an optimiser.
    pub fn logits_mut(&mut self) -> &mut [f64] {
        &mut self.logits
    }

    /// The policy as a model.
    pub fn to_lm(&self) -> Result<TabularLm, TabularError> {
        let rows =
            self.prefixes.iter().map(|(prefix, &row)| (prefix.clone(), self.row(row).to_vec())).collect();
        TabularLm::from_logits(self.space, rows, false)
    }

    /// Log-probability of a complete sequence.
    pub fn log_prob(&self, sequence: &[Symbol]) -> Result<f64, TabularError> {
        self.space.need_complete(sequence)?;
        let mut total = Sum::default();
        for (t, symbol) in sequence.iter().enumerate() {
            let row = self.row_of(&sequence[..t])?;
            total.add(log_softmax(self.row(row))[*symbol as usize]);
        }
        Ok(total.value())
    }

    /// Log-probabilities of all complete sequences, in the order of [`Space::sequences`].
    pub fn log_law(&self) -> Result<Vec<f64>, TabularError> {
        self.to_lm()?.log_law()
    }

    /// Gradient with respect to the logits of `sum_y coefficients[y] log pi(y)`, `coefficients` aligned with
    /// [`Space::sequences`].
    ///
    /// Losses give their gradient with respect to sequence log-probs; this carries it on to the parameters.
    pub fn backward(&self, coefficients: &[f64]) -> Result<Vec<f64>, TabularError> {
        let sequences = self.space.sequences();
        same_length("coefficients", sequences.len(), coefficients.len())?;
        self.carry(&sequences, |sequence, _| coefficients[sequence])
    }

    /// As [`TabularPolicy::backward`], with a coefficient for the log-probability of every symbol of every sequence given
    /// those before it.
    pub fn backward_tokens(&self, coefficients: &[Vec<f64>]) -> Result<Vec<f64>, TabularError> {
        let sequences = self.space.sequences();
        same_length("coefficients", sequences.len(), coefficients.len())?;
        for (sequence, row) in sequences.iter().zip(coefficients) {
            same_length("coefficients of a sequence", sequence.len(), row.len())?;
        }
        self.carry(&sequences, |sequence, t| coefficients[sequence][t])
    }

    fn carry(
        &self,
        sequences: &[Vec<Symbol>],
        coefficient: impl Fn(usize, usize) -> f64,
    ) -> Result<Vec<f64>, TabularError> {
        let vocab = self.space.vocab() as usize;
        // First the coefficient with which each symbol after each prefix occurs ...
        let mut gradient = vec![0.0; self.logits.len()];
        for (index, sequence) in sequences.iter().enumerate() {
            for (t, symbol) in sequence.iter().enumerate() {
                let coefficient = coefficient(index, t);
                if coefficient != 0.0 {
                    gradient[self.row_of(&sequence[..t])? * vocab + *symbol as usize] += coefficient;
                }
            }
        }
        // ... then the derivative of the log-softmax, row by row.
        for (row, g) in gradient.chunks_exact_mut(vocab).enumerate() {
            let total: f64 = g.iter().sum();
            for (g, log_prob) in g.iter_mut().zip(log_softmax(self.row(row))) {
                *g -= total * log_prob.exp();
            }
        }
        Ok(gradient)
    }

    fn row(&self, row: usize) -> &[f64] {
        let vocab = self.space.vocab() as usize;
        &self.logits[row * vocab..(row + 1) * vocab]
    }

    fn row_of(&self, prefix: &[Symbol]) -> Result<usize, TabularError> {
        self.prefixes
            .get(prefix)
            .copied()
            .ok_or_else(|| TabularError::MissingPrefix { prefix: prefix.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::{kl, total_variation};

    fn policy() -> TabularPolicy {
        let mut policy = TabularPolicy::uniform(Space::new(3, 2, 3).expect("space"));
        for (i, logit) in policy.logits_mut().iter_mut().enumerate() {
            *logit = ((i * 7 + 3) % 11) as f64 / 5.0 - 1.0;
        }
        policy
    }

    #[test]
    fn policy_and_model_agree() {
        let policy = policy();
        let lm = policy.to_lm().expect("model");
        for sequence in policy.space().sequences() {
            let (a, b) =
                (policy.log_prob(&sequence).expect("in space"), lm.log_prob(&sequence).expect("in space"));
            assert!((a - b).abs() < 1e-14);
        }
        let back = TabularPolicy::from_lm(&lm).expect("full support").to_lm().expect("model");
        assert!(total_variation(&back.law().expect("law"), &lm.law().expect("law")) < 1e-14);
    }

    #[test]
    fn backward_matches_finite_differences() {
        let policy = policy();
        let coefficients: Vec<f64> =
            (0..policy.space().sequences().len()).map(|i| (i as f64 * 0.7).sin()).collect();
        let value = |p: &TabularPolicy| -> f64 {
            p.log_law().expect("law").iter().zip(&coefficients).map(|(l, c)| l * c).sum()
        };
        let gradient = policy.backward(&coefficients).expect("aligned");
        for (i, g) in gradient.iter().enumerate() {
            let (mut up, mut down) = (policy.clone(), policy.clone());
            up.logits_mut()[i] += 1e-5;
            down.logits_mut()[i] -= 1e-5;
            let numeric = (value(&up) - value(&down)) / 2e-5;
            assert!((g - numeric).abs() < 1e-8, "logit {i}: {g} and not {numeric}");
        }
    }

    #[test]
    fn the_score_has_mean_zero() {
        let policy = policy();
        let law = policy.to_lm().expect("model").law().expect("law");
        assert!(policy.backward(&law).expect("aligned").iter().all(|g| g.abs() < 1e-14));
        assert_eq!(kl(&law, &law), 0.0);
    }

    #[test]
    fn foreign_sequences_and_lengths_are_refused() {
        let policy = policy();
        assert!(matches!(policy.log_prob(&[0, 1]), Err(TabularError::Outside { .. })));
        assert!(matches!(policy.backward(&[1.0]), Err(TabularError::Input(_))));
    }
}
