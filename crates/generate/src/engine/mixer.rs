//! From the logits of several models to the law that is drawn from.

use rayon::prelude::*;

use crate::capability::Logits;
use crate::mix::Rule;
use crate::sampling::{Sampling, are_numbers, greatest, log_sum_exp};

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
        // A maximum loses NaN.
        let most = greatest(&mixed);
        if !most.is_finite() || !are_numbers(&mixed) {
            return None;
        }
        let scale = (self.wants_log_z && self.settings.temperature > 0.0)
            .then(|| (f64::from(most) - self.rule.offset(logits)) / f64::from(self.settings.temperature));
        let law = self.wants_kl.then(|| mixed.clone());
        let total = self.settings.weights(&mut mixed, order);
        let (mut kl, mut raw) = (0.0, None);
        if let Some(law) = law {
            let reference = logits[self.reference];
            let lse = log_sum_exp(reference);
            kl = divergence(self.settings.temperature, &law, (&mixed, total), (reference, lse));
            raw = Some(lse);
        }
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

/// `Σ q ln(q/p)` in nats, of the law `q` of `weights`, whose sum is `total` and which `mixed` logits gave, to the law `p` of `reference`, whose
/// `ln Σ exp` is `lse`. The logarithm of a weight is its logit's, but for a constant: none is taken of a whole vocabulary.
fn divergence(
    temperature: f32,
    mixed: &[f32],
    (weights, total): (&[f32], f64),
    (reference, lse): (&[f32], f64),
) -> f64 {
    if temperature == 0.0 {
        let drawn = weights.iter().zip(reference).filter(|(weight, _)| **weight > 0.0);
        return drawn.map(|(_, reference)| lse - f64::from(*reference)).sum();
    }
    let inverse = 1.0 / temperature;
    let greatest = f64::from(greatest(mixed) * inverse);
    let term = |((weight, reference), mixed): ((&f32, &f32), &f32)| {
        let ratio = f64::from(mixed * inverse) - f64::from(*reference);
        if *weight > 0.0 { f64::from(*weight) * ratio } else { 0.0 }
    };
    let mut lanes = [0.0_f64; 8];
    let chunks = weights.chunks(8).zip(reference.chunks(8)).zip(mixed.chunks(8));
    for ((weights, reference), mixed) in chunks {
        for (lane, values) in lanes.iter_mut().zip(weights.iter().zip(reference).zip(mixed)) {
            *lane += term(values);
        }
    }
    let sum: f64 = lanes.iter().sum();
    sum / total + (lse - greatest - total.ln())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Purpose, Stream};

    #[test]
    fn the_divergence_is_that_of_the_laws_with_every_logarithm_taken() {
        let mut stream = Stream::new(0, Purpose::Init, 0, 0);
        let mut logits = || (0..203).map(|_| (6.0 * stream.normal()) as f32).collect::<Vec<f32>>();
        let raw = Sampling::default;
        let settings = [
            raw(),
            Sampling { temperature: 0.0, ..raw() },
            Sampling { temperature: 0.4, ..raw() },
            Sampling { temperature: 1.7, top_k: 20, ..raw() },
            Sampling { temperature: 0.8, top_p: 0.9, min_p: 0.01, ..raw() },
        ];
        for settings in settings {
            let (mut mixed, reference) = (logits(), logits());
            mixed[7] = f32::NEG_INFINITY;
            let mut weights = mixed.clone();
            let total = settings.weights(&mut weights, &mut Vec::new());
            let lse = log_sum_exp(&reference);
            let naive: f64 = weights
                .iter()
                .zip(&reference)
                .filter(|(weight, _)| **weight > 0.0)
                .map(|(weight, logit)| (f64::from(*weight) / total, f64::from(*logit) - lse))
                .map(|(q, log_p)| q * (q.ln() - log_p))
                .sum();
            let found = divergence(settings.temperature, &mixed, (&weights, total), (&reference, lse));
            assert!((found - naive).abs() < 1e-5 && naive > 0.1, "{settings:?}: {found} and not {naive}");
        }
    }
}
