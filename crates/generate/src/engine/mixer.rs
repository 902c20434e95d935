//! From the logits of several models to the law that is drawn from.

use rayon::prelude::*;

use crate::capability::{Logits, TokenDraw};
use crate::mix::Rule;
use crate::sampling::{Sampling, divergence, finite_greatest, log_sum_exp};

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
    fn choice(&self, logits: &[&[f32]]) -> Option<Choice> {
        let mut mixed = Vec::with_capacity(self.width);
        self.rule.mix(logits, &mut mixed);
        let most = finite_greatest(&mixed)?;
        let scale = (self.wants_log_z && self.settings.temperature > 0.0)
            .then(|| (f64::from(most) - self.rule.offset(logits)) / f64::from(self.settings.temperature));
        let law = self.wants_kl.then(|| mixed.clone());
        let total = self.settings.weights_below(&mut mixed, most);
        let (mut kl, mut raw) = (0.0, None);
        if let Some(law) = law {
            let reference = logits[self.reference];
            let lse = log_sum_exp(reference);
            kl = divergence(self.settings.temperature, (&law, most), (&mixed, total), (reference, lse));
            raw = Some(lse);
        }
        Some(Choice { weights: mixed, total, raw, kl, log_z: scale.map(|scale| scale + total.ln()) })
    }

    /// The laws of the rows `reads`; outputs wider than what is drawn from are cut.
    pub(super) fn choices(&self, logits: &[Logits], reads: &[usize]) -> Vec<Option<Choice>> {
        reads
            .par_iter()
            .map(|read| {
                let row: Vec<&[f32]> = logits.iter().map(|logits| &logits.row(*read)[..self.width]).collect();
                self.choice(&row)
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

impl Choice {
    /// A token of this law; `reference` are the reference's logits.
    pub(super) fn drawn(&self, id: usize, reference: &[f32]) -> TokenDraw {
        TokenDraw::of(id, (&self.weights, self.total), self.raw.map(|lse| (reference, lse)))
    }
}
