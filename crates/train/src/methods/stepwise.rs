//! `form = "stepwise"` of `prefix-scorer`: a process reward model (Uesato et al. 2022, arXiv 2211.14275; Lightman et al. 2023,
//! arXiv 2305.20050), learned from solutions whose steps are labelled, in TRL's stepwise format.
//!
//! The value of the text that ends with a step, separator included, is regressed on the step's label: by the binary
//! cross-entropy of its sigmoid where labels are right or wrong, by half the square where they are numbers. It is the value
//! that `beam` and other searches ask for at the end of a step.
//!
//! Deviations from TRL's `PRMTrainer`: one logit and not two, of which only the difference counts there; numbers as labels.

use data::render::Stepwise;
use model::Decoder;
use model::learn::{Forward, Row, prefix_scores, token_values};
use objective::numeric::{log_sigmoid, sigmoid};

use super::prefix_scorer::{HeadName, PrefixScorer};
use crate::meters::Meters;
use crate::supervised::{BatchLoss, Objective};

/// The objective.
#[derive(Debug, Clone)]
pub struct StepScorer {
    head: HeadName,
    last_only: bool,
}

impl StepScorer {
    /// By the settings of the method.
    pub fn new(settings: &PrefixScorer) -> Self {
        Self { head: settings.head, last_only: settings.train_on_last_step_only }
    }

    /// The rows that are trained and measured on.
    pub fn prepare(&self, rows: Vec<Stepwise>) -> Vec<Stepwise> {
        if self.last_only { rows.into_iter().map(Stepwise::last_only).collect() } else { rows }
    }
}

/// Loss of a value at a label, and its derivative.
pub fn at_label(value: f64, label: f64, judged: bool) -> (f64, f64) {
    if judged {
        let loss = -label * log_sigmoid(value) - (1.0 - label) * log_sigmoid(-value);
        (loss, sigmoid(value) - label)
    } else {
        (0.5 * (value - label).powi(2), value - label)
    }
}

impl Objective for StepScorer {
    type Row = Stepwise;

    fn tokens(row: &Stepwise) -> usize {
        row.ids.len()
    }

    fn weight(row: &Stepwise) -> f64 {
        row.labels.len() as f64
    }

    fn forward(&self, decoder: &Decoder, rows: &[&Stepwise], checkpointing: bool) -> Forward {
        let rows: Vec<Row<'_>> = rows.iter().map(|row| Row { ids: &row.ids, loss: &row.ends }).collect();
        match self.head {
            HeadName::Scalar => prefix_scores(decoder, &rows, checkpointing),
            HeadName::Vocabulary => token_values(decoder, &rows, checkpointing),
        }
    }

    fn loss(&self, rows: &[&Stepwise], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        let mut coefficients = Vec::with_capacity(forward.values.len());
        for (row, values) in rows.iter().zip(forward.rows()) {
            for (value, label) in values.iter().zip(&row.labels) {
                let value = f64::from(*value);
                let (loss, gradient) = at_label(value, *label, row.judged);
                coefficients.push(gradient);
                meters.add(&format!("{prefix}loss"), loss);
                meters.add(&format!("{prefix}value"), value);
                meters.add(&format!("{prefix}target"), *label);
                if row.judged {
                    let right = (value > 0.0) == (*label > 0.5);
                    meters.add(&format!("{prefix}accuracy"), f64::from(u8::from(right)));
                }
            }
        }
        BatchLoss { coefficients }
    }
}
