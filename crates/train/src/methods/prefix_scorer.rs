//! A prefix scorer for controlled decoding (arXiv 2310.17022): a scalar head on every prefix of a completion that predicts the
//! reward of what the base makes of it, `V(x, y_≤t) = E[r | x, y_≤t]`. It is saved as a reward model, whose score of a partial
//! text is this value.
//!
//! - `fudge` (CD-FUDGE): `½ Σ_t (V(x, y_≤t) − r(x, y))²` on samples of the base.
//! - `q` (CD-Q): `½ Σ_t (V(x, y_≤t) − v_t)²`, `v_t` the value of the next prefix by a target network, at the last token `r`.
//!   The target network is a copy of the model from `target_every` updates ago at most.
//!
//! Both have the same fixed point, the value of the base. `lambda` mixes them (`TD(λ)`): 0 is CD-Q, 1 is CD-FUDGE.
//!
//! Deviations: (1) the mean of the next value over all next tokens, which the paper writes, is taken over the base's own
//! samples: one next token per prefix, which is unbiased because samples are drawn from the base itself; (2) losses are means
//! over the tokens of a batch; (3) a sample that was cut off ends with its reward like any other.

use std::collections::BTreeSet;

use burn::tensor::{Tensor, TensorData};
use data::render::Example;
use model::Decoder;
use model::files::named;
use model::learn::{Forward, Row, prefix_scores};
use model::weights::{Named, Weights};
use objective::draw::Draw;
use recipe::{ModelName, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Learner;
use crate::error::Error;
use crate::meters::Meters;
use crate::pooled::{Pooled, Scored};
use crate::supervised::{BatchLoss, Objective};

/// `[method.prefix-scorer]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PrefixScorer {
    /// What a prefix is regressed on.
    pub form: Form,
    /// Share of the final reward in the targets of `q`; 1 is `fudge`.
    #[schemars(range(min = 0, max = 1))]
    pub lambda: f64,
    /// Updates between two copies of the model to the target network of `q`.
    #[schemars(range(min = 1))]
    pub target_every: usize,
    /// Samples of each prompt.
    #[schemars(range(min = 1))]
    pub pool_samples: usize,
    /// The base whose samples are scored, if it is not the model of `[model]`, whose body the scorer begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<ModelName>,
}

/// What a prefix is regressed on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The reward of the whole sample.
    #[default]
    Fudge,
    /// The value of the next prefix.
    Q,
}

impl Default for PrefixScorer {
    fn default() -> Self {
        Self { form: Form::Fudge, lambda: 0.0, target_every: 20, pool_samples: 4, policy: None }
    }
}

impl Validate for PrefixScorer {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["lambda", "form"], lambda_has_a_place(self));
    }
}

fn lambda_has_a_place(scorer: &PrefixScorer) -> Result<(), Violation> {
    if scorer.lambda == 0.0 || scorer.form == Form::Q {
        return Ok(());
    }
    let message = format!("{} has no effect: `fudge` regresses on the final reward alone", scorer.lambda);
    Err(Violation::new(message).hint("set `form = \"q\"`, or leave `lambda` out"))
}

impl PrefixScorer {
    /// What the values of the prefixes of a completion are to become. `values[t]` is the target network's value of the first
    /// `t + 1` tokens; the last prefix is the whole completion, which is worth its reward.
    pub fn targets(&self, values: &[f64], reward: f64) -> Vec<f64> {
        let mut targets = vec![reward; values.len()];
        if self.form == Form::Q {
            for t in (0..values.len().saturating_sub(1)).rev() {
                targets[t] = (1.0 - self.lambda) * values[t + 1] + self.lambda * targets[t + 1];
            }
        }
        targets
    }
}

/// A completion, its reward, and what the values of its prefixes are to become.
#[derive(Debug)]
pub struct Prefixes {
    example: Example,
    reward: f64,
    /// Empty: the reward, for every prefix.
    targets: Vec<f64>,
}

impl Prefixes {
    fn row(&self) -> Row<'_> {
        Row { ids: &self.example.ids, loss: &self.example.loss }
    }

    fn target(&self, t: usize) -> f64 {
        self.targets.get(t).copied().unwrap_or(self.reward)
    }
}

/// The method with its target network.
#[derive(Debug, Clone)]
pub struct Scorer {
    settings: PrefixScorer,
    target: Option<Decoder>,
    /// The parameters that are trained, which the target network has of its own.
    trained: BTreeSet<String>,
}

impl Scorer {
    /// A scorer without a target network yet.
    pub fn new(settings: &PrefixScorer) -> Self {
        Self { settings: settings.clone(), target: None, trained: BTreeSet::new() }
    }

    fn copy(&mut self, decoder: &Decoder) {
        let mut trained = BTreeSet::new();
        decoder.clone().visit(&mut |name, slot| {
            if slot.is_trained() {
                trained.insert(name.to_owned());
            }
        });
        (self.target, self.trained) = (Some(decoder.frozen()), trained);
    }
}

impl Pooled for Scorer {
    fn samples(&self) -> usize {
        self.settings.pool_samples
    }

    fn rows_per_prompt(&self) -> usize {
        self.settings.pool_samples
    }

    fn rows(&self, scored: Scored<'_>, _: &mut dyn Draw) -> Result<Vec<Prefixes>, Error> {
        let row = |(place, reward): (usize, &f64)| Prefixes {
            example: scored.example(place),
            reward: *reward,
            targets: Vec::new(),
        };
        Ok(scored.rewards.iter().enumerate().map(row).collect())
    }
}

impl Objective for Scorer {
    type Row = Prefixes;

    fn tokens(row: &Prefixes) -> usize {
        row.example.ids.len()
    }

    fn weight(row: &Prefixes) -> f64 {
        row.example.loss_tokens() as f64
    }

    fn refresh(
        &mut self,
        learner: &Learner,
        step: usize,
        rows: &mut [Prefixes],
        batches: &[Vec<usize>],
    ) -> Result<(), Error> {
        if self.settings.form == Form::Fudge {
            return Ok(());
        }
        if step.is_multiple_of(self.settings.target_every) || self.target.is_none() {
            self.copy(&learner.decoder);
        }
        let Some(target) = &self.target else { return Ok(()) };
        for batch in batches {
            let forward = {
                let batch: Vec<Row<'_>> = batch.iter().map(|place| rows[*place].row()).collect();
                prefix_scores(target, &batch, false)
            };
            let values: Vec<Vec<f64>> =
                forward.rows().map(|row| row.iter().map(|value| f64::from(*value)).collect()).collect();
            for (place, values) in batch.iter().zip(values) {
                rows[*place].targets = self.settings.targets(&values, rows[*place].reward);
            }
        }
        Ok(())
    }

    fn state(&mut self) -> Vec<Named> {
        let trained = &self.trained;
        self.target.as_mut().map(|target| named(target, &|name| trained.contains(name))).unwrap_or_default()
    }

    fn restore(&mut self, learner: &Learner, state: &Weights) -> Result<(), Error> {
        self.copy(&learner.decoder);
        let Some(target) = &mut self.target else { return Ok(()) };
        let device = target.device();
        let mut failure = None;
        let trained = &self.trained;
        target.visit(&mut |name, mut slot| {
            if !trained.contains(name) {
                return;
            }
            match state.read(name, &slot.shape()) {
                Ok(values) => {
                    let count = values.len();
                    slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &device));
                }
                Err(error) => failure = Some(error),
            }
        });
        target.pack();
        failure.map_or(Ok(()), |error| Err(error.into()))
    }

    fn forward(&self, decoder: &Decoder, rows: &[&Prefixes], checkpointing: bool) -> Forward {
        let rows: Vec<Row<'_>> = rows.iter().map(|row| row.row()).collect();
        prefix_scores(decoder, &rows, checkpointing)
    }

    fn loss(&self, rows: &[&Prefixes], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        let mut coefficients = Vec::with_capacity(forward.values.len());
        for (row, values) in rows.iter().zip(forward.rows()) {
            for (t, value) in values.iter().enumerate() {
                let (value, target) = (f64::from(*value), row.target(t));
                coefficients.push(value - target);
                meters.add(&format!("{prefix}loss"), 0.5 * (value - target).powi(2));
                meters.add(&format!("{prefix}value"), value);
                meters.add(&format!("{prefix}target"), target);
                // Against the final reward: of the same meaning in both forms.
                meters.add(&format!("{prefix}error"), (value - row.reward).abs());
            }
            if let Some(last) = values.last() {
                meters.add(&format!("{prefix}last_error"), (f64::from(*last) - row.reward).abs());
            }
        }
        BatchLoss { coefficients }
    }
}
