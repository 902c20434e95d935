//! From the logits of several models to the law that is drawn from.

use rayon::prelude::*;

use crate::capability::Logits;
use crate::mix::Rule;
use crate::sampling::{Sampling, log_sum_exp};

/// How logits of several models become one law.
pub(super) struct Mixer {
    pub(super) rule: Box<dyn Rule>,
    pub(super) models: usize,
    /// Tokens that are drawn from: the first of each model's outputs.
    pub(super) width: usize,
    pub(super) reference: usize,
    pub(super) wants_kl: bool,
    pub(super) wants_log_z: bool,
    pub(super) settings: Sampling,
}

impl Mixer {
    pub(super) fn driving(&self) -> usize {
        (0..self.models).filter(|model| self.rule.drives(*model)).count()
    }

    /// The law of one row, from its logits of every model; `None` where they are not numbers.
    fn choice(&self, logits: &[&[f32]], order: &mut Vec<u32>) -> Option<Choice> {
        let mut mixed = Vec::with_capacity(self.width);
        self.rule.mix(logits, &mut mixed);
        // NaN is lost by a maximum, not by a sum.
        let any = mixed.iter().any(|value| *value > f32::NEG_INFINITY);
        if !any || mixed.iter().any(|value| value.is_nan() || *value == f32::INFINITY) {
            return None;
        }
        let scale = (self.wants_log_z && self.settings.temperature > 0.0).then(|| {
            let greatest = mixed.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            (f64::from(greatest) - self.rule.offset(logits)) / f64::from(self.settings.temperature)
        });
        let total = self.settings.weights(&mut mixed, order);
        let mut kl = 0.0;
        let raw = self.wants_kl.then(|| {
            let raw = logits[self.reference];
            let lse = log_sum_exp(raw);
            for (weight, logit) in mixed.iter().zip(raw) {
                if *weight > 0.0 {
                    let q = f64::from(*weight) / total;
                    kl += q * (q.ln() - (f64::from(*logit) - lse));
                }
            }
            lse
        });
        Some(Choice { weights: mixed, total, raw, kl, log_z: scale.map(|scale| scale + total.ln()) })
    }

    /// The laws of the rows `reads`; outputs wider than what is drawn from are cut.
    pub(super) fn choices(&self, logits: &[Logits], reads: &[usize]) -> Vec<Option<Choice>> {
        reads
            .par_iter()
            .map_init(Vec::new, |order, read| {
                let row: Vec<&[f32]> = logits.iter().map(|logits| &logits.row(*read)[..self.width]).collect();
                self.choice(&row, order)
            })
            .collect()
    }
}

/// What one row's logits give.
pub(super) struct Choice {
    pub(super) weights: Vec<f32>,
    pub(super) total: f64,
    /// `ln Σ exp` of the reference's logits, where its law is not the one drawn from.
    pub(super) raw: Option<f64>,
    pub(super) kl: f64,
    /// `ln Z` of the step, where it was asked for.
    pub(super) log_z: Option<f64>,
}
