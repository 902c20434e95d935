//! Supervised fine-tuning: next-token cross-entropy on completions, the mean over tokens of the batch.

use data::render::Example;
use model::Decoder;
use model::learn::Forward;
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meters::Meters;
use crate::supervised::{BatchLoss, Objective, example_log_probs};

/// `[method.sft]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sft {
    /// Learn the prompts' tokens too, and not the completions' alone.
    pub train_on_prompt: bool,
}

impl Validate for Sft {
    fn validate(&self, _: &mut Rules) {}
}

impl Sft {
    /// Marks what is learned.
    pub fn prepare(&self, mut examples: Vec<Example>) -> Vec<Example> {
        if self.train_on_prompt {
            for example in &mut examples {
                example.loss.iter_mut().skip(1).for_each(|wanted| *wanted = true);
            }
        }
        examples
    }
}

impl Objective for Sft {
    type Row = Example;

    fn tokens(row: &Example) -> usize {
        row.ids.len()
    }

    fn weight(row: &Example) -> f64 {
        row.loss_tokens() as f64
    }

    fn forward(&self, decoder: &Decoder, rows: &[&Example], checkpointing: bool) -> Forward {
        example_log_probs(decoder, rows, checkpointing)
    }

    fn loss(&self, _: &[&Example], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        let sum: f64 = forward.values.iter().map(|log_prob| -f64::from(*log_prob)).sum();
        meters.add_sum(&format!("{prefix}loss"), sum, forward.values.len() as f64);
        BatchLoss { coefficients: vec![-1.0; forward.values.len()] }
    }
}
