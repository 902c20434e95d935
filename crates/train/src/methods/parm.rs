//! PARM (arXiv 2505.06274): one autoregressive reward model for all weights of several objectives, in place of one model for
//! each. The model is told the weights `w` by its adapter (PBLoRA, [`model::bilinear`]), and learns
//! `Σ_i w_i E[ℓ_i(π_w)]` for `w` from a Dirichlet law, `ℓ_i` the loss of the method `arm` under the labels of objective `i`.
//! At test time the method `parm` guides by it under weights that each request chooses.
//!
//! What it learns at `w` is the log-odds of the *mean* preference, `logit Σ_i w_i σ(d_i)`, and not the mean of the rewards
//! ([`objective::losses::Preference::labelled`]): where objectives disagree without noise its margin is `ln(w_1/w_2) / β`.
//!
//! Deviations from the public code: (1) every pair has weights of its own, drawn anew at every update, where that code draws
//! one for a step: the same expectation with less noise; (2) an objective that prefers neither answer has no term, where
//! that code breaks ties by position; (3) one β for all objectives, as its experiments have it; (4) pairs are counted in
//! tokens, and not dropped by characters; (5) no dropout; (6) held-out pairs keep the weights they begin with, so that
//! measurements can be compared.

use generate::{Purpose, Stream};
use inference::setup::LabelledPair;
use model::Decoder;
use model::files::BilinearConfig;
use model::learn::{Forward, Row, preferred_log_probs};
use objective::losses::Preference;
use recipe::{Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Learner;
use crate::error::Error;
use crate::meters::Meters;
use crate::methods::pool::names_differ;
use crate::pairs::right;
use crate::supervised::{BatchLoss, Objective, spread, sums};

/// `[method.parm]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Parm {
    /// The objectives, by their names in the rows; at least two.
    pub objectives: Vec<String>,
    /// Scale β_r of the log-probabilities. Guidance of weight α tilts the base by `exp(α r / β_r)`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Rank of the part of the adapter that depends on the weights; that of the shared part is `model.lora.r`. The adapter
    /// is scaled by `model.lora.alpha / own_rank`.
    #[schemars(range(min = 1))]
    pub own_rank: usize,
    /// Concentration of the Dirichlet law that weights are drawn from: 1 is uniform, less favours single objectives.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub concentration: f64,
    /// Margin γ.
    pub gamma: f64,
    /// Assumed share of flipped labels.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 0.5))]
    pub label_smoothing: f64,
}

impl Default for Parm {
    fn default() -> Self {
        let objectives = Vec::new();
        Self { objectives, beta: 0.05, own_rank: 4, concentration: 0.5, gamma: 0.0, label_smoothing: 0.0 }
    }
}

impl Validate for Parm {
    fn validate(&self, rules: &mut Rules) {
        let names: Vec<&str> = self.objectives.iter().map(String::as_str).collect();
        rules.check(&["objectives"], several(&names));
        rules.check(&["objectives"], names_differ(&names));
    }
}

fn several(names: &[&str]) -> Result<(), Violation> {
    if names.len() > 1 {
        return Ok(());
    }
    let message = format!("weights are of at least two objectives, and {} are named", names.len());
    Err(Violation::new(message)
        .hint("name those that the rows label, or train one model of one objective by `arm`"))
}

impl Parm {
    /// What the adapter keeps of it.
    pub fn bilinear(&self) -> BilinearConfig {
        BilinearConfig { r: self.own_rank, objectives: self.objectives.clone() }
    }
}

/// A pair under weights of the objectives.
#[derive(Debug, Clone, PartialEq)]
pub struct Weighed {
    /// The pair with its labels.
    pub pair: LabelledPair,
    /// Weight of each objective, adding up to 1.
    pub weights: Vec<f64>,
}

/// The method with the seed that weights are drawn by.
#[derive(Debug, Clone)]
pub struct PreferenceAware {
    settings: Parm,
    seed: u64,
}

impl PreferenceAware {
    /// With these settings.
    pub fn new(settings: &Parm, seed: u64) -> Self {
        Self { settings: settings.clone(), seed }
    }

    /// Pairs with the weights that they begin with.
    pub fn rows(&self, pairs: Vec<LabelledPair>) -> Vec<Weighed> {
        let row = |(place, pair)| Weighed { weights: self.weights(place, u64::MAX), pair };
        pairs.into_iter().enumerate().map(row).collect()
    }

    /// The weights of a row at an update.
    fn weights(&self, row: usize, step: u64) -> Vec<f64> {
        let mut stream = Stream::new(self.seed, Purpose::Order, 3, row as u64).child(step);
        dirichlet(self.settings.concentration, self.settings.objectives.len(), &mut stream)
    }
}

impl Objective for PreferenceAware {
    type Row = Weighed;

    fn tokens(row: &Weighed) -> usize {
        row.pair.answers.iter().map(data::render::Example::len).sum()
    }

    fn weight(_: &Weighed) -> f64 {
        1.0
    }

    fn refresh(
        &mut self,
        _: &Learner,
        step: usize,
        rows: &mut [Weighed],
        batches: &[Vec<usize>],
    ) -> Result<(), Error> {
        for row in batches.iter().flatten() {
            rows[*row].weights = self.weights(*row, step as u64);
        }
        Ok(())
    }

    /// All first answers, then all second ones.
    fn forward(&self, decoder: &Decoder, rows: &[&Weighed], checkpointing: bool) -> Forward {
        let answers = (0..2).flat_map(|at| rows.iter().map(move |row| &row.pair.answers[at]));
        let answers: Vec<Row<'_>> =
            answers.map(|answer| Row { ids: &answer.ids, loss: &answer.loss }).collect();
        let weights: Vec<&[f64]> = rows.iter().chain(rows).map(|row| row.weights.as_slice()).collect();
        preferred_log_probs(decoder, &answers, &weights, checkpointing)
    }

    fn loss(&self, rows: &[&Weighed], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        let Parm { objectives, beta, gamma, label_smoothing, .. } = &self.settings;
        let loss = Preference { beta: *beta, gamma: *gamma, label_smoothing: *label_smoothing };
        let log_probs = sums(forward);
        let (first, second) = log_probs.split_at(rows.len());
        let mut per_row = vec![0.0; 2 * rows.len()];
        for (index, row) in rows.iter().enumerate() {
            let both = [first[index], second[index]];
            let labels: Vec<(usize, f64, usize)> = (0..objectives.len())
                .filter_map(|place| Some((place, row.weights[place], row.pair.preferred[place]?)))
                .collect();
            let whole = loss.labelled(both, labels.iter().map(|(_, weight, label)| (*weight, *label)));
            per_row[index] = whole.gradient[0];
            per_row[rows.len() + index] = whole.gradient[1];
            meters.add(&format!("{prefix}loss"), whole.loss);
            for (place, _, label) in labels {
                let (chosen, rejected) = (both[label], both[1 - label]);
                let name = &objectives[place];
                meters.add(&format!("{prefix}loss_{name}"), loss.pair(chosen, rejected).loss);
                meters.add(&format!("{prefix}rewards_{name}/accuracies"), right(chosen, rejected));
                meters.add(&format!("{prefix}rewards_{name}/margins"), beta * (chosen - rejected));
            }
        }
        BatchLoss { coefficients: spread(forward, &per_row) }
    }
}

/// A draw of `count` weights from the Dirichlet law whose parameters are all `concentration`: gamma draws, divided by their
/// sum.
pub fn dirichlet(concentration: f64, count: usize, stream: &mut Stream) -> Vec<f64> {
    // In logarithms: draws of small parameters underflow.
    let logs: Vec<f64> = (0..count).map(|_| log_gamma_draw(concentration, stream)).collect();
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let shares: Vec<f64> = logs.iter().map(|log| (log - most).exp()).collect();
    let sum: f64 = shares.iter().sum();
    shares.into_iter().map(|share| share / sum).collect()
}

/// The logarithm of a gamma draw of parameter `shape` (Marsaglia and Tsang 2000; below 1 by a draw of `shape + 1` times
/// `u^(1/shape)`).
fn log_gamma_draw(shape: f64, stream: &mut Stream) -> f64 {
    if shape < 1.0 {
        let power = (1.0 - stream.uniform()).ln() / shape;
        return log_gamma_draw(shape + 1.0, stream) + power;
    }
    let d = shape - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        let x = stream.normal();
        let v = (1.0 + c * x).powi(3);
        let u = 1.0 - stream.uniform();
        if v > 0.0 && u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d.ln() + v.ln();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_moments_of_the_dirichlet_law() {
        for (concentration, count) in [(0.1, 2), (0.5, 3), (1.0, 2), (4.0, 4)] {
            let draws = 40_000;
            let (mut mean, mut square) = (0.0, 0.0);
            for row in 0..draws {
                let mut stream = Stream::new(1, Purpose::Order, 0, row);
                let weights = dirichlet(concentration, count, &mut stream);
                assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
                assert!(weights.iter().all(|weight| (0.0..=1.0).contains(weight)));
                mean += weights[0];
                square += weights[0] * weights[0];
            }
            let (mean, k) = (mean / f64::from(draws as u32), count as f64);
            let variance = square / f64::from(draws as u32) - mean * mean;
            let want = (k - 1.0) / (k * k * (k * concentration + 1.0));
            assert!((mean - 1.0 / k).abs() < 4.0 * (want / f64::from(draws as u32)).sqrt(), "{mean}");
            assert!((variance / want - 1.0).abs() < 0.03, "{concentration}: {variance} and not {want}");
        }
    }

    #[test]
    fn weights_of_a_row_change_from_update_to_update_and_come_back() {
        let settings = Parm { objectives: vec!["a".into(), "b".into()], ..Parm::default() };
        let method = PreferenceAware::new(&settings, 5);
        assert_eq!(method.weights(3, 7), method.weights(3, 7));
        assert_ne!(method.weights(3, 7), method.weights(3, 8));
        assert_ne!(method.weights(3, 7), method.weights(4, 7));
    }
}
