//! From the logits of several models to the law that is drawn from.

use rayon::prelude::*;

use crate::capability::{Logits, TokenDraw};
use crate::completion::TokenId;
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

    /// The distribution of the token after `text`, from the logits of every model; `None` where they are not
    /// numbers.
    fn choice(&self, logits: &[&[f32]], text: &[TokenId]) -> Option<Choice> {
        let mut mixed = Vec::with_capacity(self.width);
        self.rule.mix(logits, &mut mixed);
        self.settings.penalise(&mut mixed, text);
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

    /// Whether [`Mixer::choices`] needs the texts of rows.
    pub(super) fn reads_text(&self) -> bool {
        self.settings.reads_text()
    }

    /// The distributions of the first `rows` rows; outputs wider than the vocabulary sampled from are cut.
    /// `texts` are the rows' tokens,
    /// prompt and completion, where they are read, else it may be empty.
    pub(super) fn choices(
        &self,
        logits: &[Logits],
        rows: usize,
        texts: &[Vec<TokenId>],
    ) -> Vec<Option<Choice>> {
        debug_assert!(!self.reads_text() || texts.len() == rows, "a text for each row");
        (0..rows)
            .into_par_iter()
            .map(|row| {
                let outputs: Vec<&[f32]> =
                    logits.iter().map(|logits| &logits.row(row)[..self.width]).collect();
                self.choice(&outputs, texts.get(row).map_or(&[], Vec::as_slice))
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
