//! Self-normalised importance weights.

use objective::numeric::sum;

/// Weights that cannot be normalised.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum WeightsError {
    /// There are none.
    #[error("importance weights: no sample")]
    Empty,
    /// A log-weight is NaN or plus infinity.
    #[error("importance weights: log-weight {value} of sample {index} is not a number below infinity")]
    NotFinite {
        /// Which sample.
        index: usize,
        /// Its log-weight.
        value: f64,
    },
    /// All log-weights are minus infinity.
    #[error("importance weights: all {0} samples have weight zero")]
    AllZero(usize),
}

/// Samples of a proposal `p` seen as samples of the target `π ∝ p·w`: weights normalised to sum one.
///
/// With `w = exp(r/β)` over samples of the base, the target is the tilted policy that QAlign samples from.
/// Everything estimated from it is consistent and biased of order one over the effective sample size; check
/// [`ess`](Self::ess) before believing it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportanceSample {
    /// Normalised, in the order of the samples.
    weights: Vec<f64>,
    /// Mean of the log-weights' exponentials, as a logarithm.
    log_mean_weight: f64,
}

impl ImportanceSample {
    /// Normalises weights given as logarithms, up to a common constant; minus infinity is a weight of zero.
    ///
    /// # Errors
    /// No samples, a log-weight that is NaN or plus infinity, or no weight above zero.
    pub fn new(log_weights: &[f64]) -> Result<Self, WeightsError> {
        if log_weights.is_empty() {
            return Err(WeightsError::Empty);
        }
        if let Some((index, value)) =
            log_weights.iter().copied().enumerate().find(|(_, w)| w.is_nan() || *w == f64::INFINITY)
        {
            return Err(WeightsError::NotFinite { index, value });
        }
        let top = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if top == f64::NEG_INFINITY {
            return Err(WeightsError::AllZero(log_weights.len()));
        }
        let scaled: Vec<f64> = log_weights.iter().map(|w| (w - top).exp()).collect();
        let total = sum(scaled.iter().copied());
        let log_mean_weight = top + (total / log_weights.len() as f64).ln();
        Ok(Self { weights: scaled.into_iter().map(|w| w / total).collect(), log_mean_weight })
    }

    /// The normalised weights, which sum to one.
    pub fn weights(&self) -> &[f64] {
        &self.weights
    }

    /// The number of samples.
    pub fn count(&self) -> usize {
        self.weights.len()
    }

    /// Kish's effective sample size `(Σw)²/Σw²`, between 1 and the number of samples.
    pub fn ess(&self) -> f64 {
        1.0 / sum(self.weights.iter().map(|w| w * w))
    }

    /// The expectation under the target of values of the samples.
    ///
    /// # Panics
    /// If there is not one value per sample.
    pub fn mean(&self, values: &[f64]) -> f64 {
        assert_eq!(values.len(), self.weights.len(), "one value per sample");
        // A sample of weight zero has no say, even where its value is infinite.
        sum(self.weights.iter().zip(values).filter(|(w, _)| **w > 0.0).map(|(w, value)| w * value))
    }

    /// `KL(π ‖ p) = E_π[log w] − log E_p[w]`, which in normalised weights is `log M − entropy`.
    ///
    /// It lies between 0 and `log M`, so that a KL near `log M` says that the samples are too few, as does a small ESS.
    pub fn kl_to_proposal(&self) -> f64 {
        let negative_entropy = sum(self.weights.iter().filter(|w| **w > 0.0).map(|w| w * w.ln()));
        (negative_entropy + (self.weights.len() as f64).ln()).max(0.0)
    }

    /// `log E_p[w]` in the scale of the given weights: the log-partition function of the tilt.
    pub fn log_mean_weight(&self) -> f64 {
        self.log_mean_weight
    }

    /// A sentence for the report if the effective sample size is below `least`, and `None` otherwise.
    pub fn warning(&self, what: &str, least: f64) -> Option<String> {
        let ess = self.ess();
        (ess < least).then(|| {
            format!(
                "{what}: the importance weights of {} samples have an effective sample size of {ess:.1}, below \
                 {least}: read it as a lower bound, or draw more samples.",
                self.count()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equal_weights_are_the_proposal() {
        let sample = ImportanceSample::new(&[-900.0; 8]).unwrap();
        assert!((sample.ess() - 8.0).abs() < 1e-12);
        assert!(sample.kl_to_proposal() < 1e-12);
        assert!((sample.log_mean_weight() + 900.0).abs() < 1e-12);
        assert_eq!(sample.warning("KL of qalign", 4.0), None);
    }

    #[test]
    fn one_weight_alone_is_one_sample() {
        let sample = ImportanceSample::new(&[0.0, f64::NEG_INFINITY, f64::NEG_INFINITY]).unwrap();
        assert_eq!((sample.ess(), sample.mean(&[2.0, f64::INFINITY, 7.0])), (1.0, 2.0));
        assert!((sample.kl_to_proposal() - 3_f64.ln()).abs() < 1e-12);
        let warning = sample.warning("KL of qalign", 10.0).unwrap();
        assert!(warning.contains("effective sample size of 1.0, below 10"), "{warning}");
    }

    #[test]
    fn it_finds_the_exact_kl_of_a_tilt() {
        // Proposal uniform over 4 items seen equally often: the estimate is then exact.
        let rewards = [0.0, 1.0, 2.0, 2.0];
        let sample = ImportanceSample::new(&rewards).unwrap();
        let z: f64 = rewards.iter().map(|r: &f64| r.exp() / 4.0).sum();
        let kl: f64 = rewards.iter().map(|r| r.exp() / 4.0 / z * (r - z.ln())).sum();
        assert!((sample.kl_to_proposal() - kl).abs() < 1e-12);
        assert!((sample.log_mean_weight() - z.ln()).abs() < 1e-12);
    }

    #[test]
    fn weights_that_cannot_be_normalised_are_refused() {
        assert_eq!(ImportanceSample::new(&[]), Err(WeightsError::Empty));
        assert_eq!(ImportanceSample::new(&[f64::NEG_INFINITY; 2]), Err(WeightsError::AllZero(2)));
        let error = ImportanceSample::new(&[0.0, f64::NAN]).unwrap_err();
        assert!(matches!(error, WeightsError::NotFinite { index: 1, .. }));
    }

    proptest! {
        #[test]
        fn a_common_constant_changes_nothing(
            log_weights in prop::collection::vec(-20.0_f64..20.0, 1..40),
            shift in -500.0_f64..500.0,
        ) {
            let sample = ImportanceSample::new(&log_weights).unwrap();
            let shifted = ImportanceSample::new(&log_weights.iter().map(|w| w + shift).collect::<Vec<_>>()).unwrap();
            prop_assert!((sample.ess() - shifted.ess()).abs() < 1e-6);
            prop_assert!((sample.kl_to_proposal() - shifted.kl_to_proposal()).abs() < 1e-9);
            prop_assert!(sample.ess() >= 1.0 - 1e-9 && sample.ess() <= log_weights.len() as f64 + 1e-9);
            prop_assert!((sample.weights().iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
    }
}
