//! `[optim]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules::{Rules, Validate, Violation};

/// AdamW, its schedule, and the length of the training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Optim {
    /// Peak learning rate.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub learning_rate: f64,
    /// Decoupled weight decay, per step and unit of learning rate.
    #[schemars(range(min = 0))]
    pub weight_decay: f64,
    /// Decay of the first moment.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub beta1: f64,
    /// Decay of the second moment.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub beta2: f64,
    /// Added to the root of the second moment.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub eps: f64,
    /// Largest L2 norm of all gradients together; 0 turns clipping off.
    #[schemars(range(min = 0))]
    pub max_grad_norm: f64,
    /// How the learning rate changes after the warm-up.
    pub schedule: Schedule,
    /// Optimiser steps over which the learning rate rises from 0 to its peak.
    pub warmup_steps: usize,
    /// The same as a share of all steps, rounded up; instead of `warmup_steps`.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_ratio: Option<f64>,
    /// The learning rate at the end, as a share of its peak; for the schedules that fall.
    #[schemars(range(min = 0, max = 1))]
    pub min_lr_ratio: f64,
    /// Optimiser steps. This or `epochs` is required where something is trained.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Passes over the data. This or `steps` is required where something is trained.
    #[schemars(extend("exclusiveMinimum" = 0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epochs: Option<f64>,
    /// Sequences, or pairs, per optimiser step.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Sequences, or pairs, per forward pass: gradients are accumulated over as many passes as the batch needs.
    /// Left out, the whole batch at once.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub micro_batch_size: Option<usize>,
    /// Recompute activations in the backward pass: less memory, more time.
    pub gradient_checkpointing: bool,
}

/// How the learning rate changes after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// It stays at its peak.
    Constant,
    /// It falls on a straight line.
    Linear,
    /// It falls on half a cosine.
    #[default]
    Cosine,
}

impl Default for Optim {
    fn default() -> Self {
        Self {
            learning_rate: 1e-4,
            weight_decay: 0.0,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            max_grad_norm: 1.0,
            schedule: Schedule::default(),
            warmup_steps: 0,
            warmup_ratio: None,
            min_lr_ratio: 0.0,
            steps: None,
            epochs: None,
            batch_size: 16,
            micro_batch_size: None,
            gradient_checkpointing: false,
        }
    }
}

impl Optim {
    /// Rows per forward pass.
    pub fn micro_batch(&self) -> usize {
        self.micro_batch_size.unwrap_or(self.batch_size)
    }

    /// Forward passes per optimiser step: `⌈batch_size / micro_batch_size⌉`.
    pub fn accumulation(&self) -> usize {
        self.batch_size.div_ceil(self.micro_batch().max(1))
    }

    /// Optimiser steps of the run over `rows` rows of data: `steps`, or `⌈epochs · rows / batch_size⌉`, at least 1.
    pub fn total_steps(&self, rows: usize) -> usize {
        self.steps.unwrap_or_else(|| {
            let rows = self.epochs.unwrap_or(1.0) * rows as f64;
            ((rows / self.batch_size.max(1) as f64).ceil() as usize).max(1)
        })
    }

    /// Steps of the warm-up in a run of `total` steps.
    pub fn warmup(&self, total: usize) -> usize {
        self.warmup_ratio.map_or(self.warmup_steps, |ratio| (ratio * total as f64).ceil() as usize)
    }
}

impl Validate for Optim {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["steps", "epochs"], one_length(self));
        rules.check(&["warmup_steps", "steps"], warmup_ends(self));
        rules.check(&["warmup_ratio", "warmup_steps"], one_warmup(self));
        rules.check(&["micro_batch_size", "batch_size"], micro_batch_fits(self));
    }
}

fn one_length(optim: &Optim) -> Result<(), Violation> {
    match (optim.steps, optim.epochs) {
        (Some(steps), Some(epochs)) => {
            let message = format!("{steps} steps and {epochs} epochs are both given");
            Err(Violation::new(message).hint("keep `steps` or `epochs`"))
        }
        (None, None) => {
            Err(Violation::new("the length of the training is not given").hint("set `steps` or `epochs`"))
        }
        _ => Ok(()),
    }
}

fn warmup_ends(optim: &Optim) -> Result<(), Violation> {
    match optim.steps {
        Some(steps) if optim.warmup_steps >= steps => {
            let message = format!("{} warm-up steps do not end within {steps} steps", optim.warmup_steps);
            Err(Violation::new(message).hint(format!("at most {}", steps.saturating_sub(1))))
        }
        _ => Ok(()),
    }
}

fn one_warmup(optim: &Optim) -> Result<(), Violation> {
    match optim.warmup_ratio {
        Some(ratio) if optim.warmup_steps > 0 => {
            let message =
                format!("a ratio of {ratio} and {} warm-up steps are both given", optim.warmup_steps);
            Err(Violation::new(message).hint("keep `warmup_ratio` or `warmup_steps`"))
        }
        _ => Ok(()),
    }
}

fn micro_batch_fits(optim: &Optim) -> Result<(), Violation> {
    if optim.micro_batch() <= optim.batch_size {
        return Ok(());
    }
    let message =
        format!("a micro-batch of {} is larger than the batch of {}", optim.micro_batch(), optim.batch_size);
    Err(Violation::new(message).hint("lower `micro_batch_size`, or raise `batch_size`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(optim: &Optim) -> Vec<String> {
        let mut rules = Rules::default();
        optim.validate(&mut rules);
        rules.broken.into_iter().map(|rule| rule.keys[0].to_string()).collect()
    }

    #[test]
    fn each_rule_holds_up_to_its_boundary() {
        let good = Optim { steps: Some(10), warmup_steps: 9, micro_batch_size: Some(16), ..Optim::default() };
        assert_eq!(broken(&good), [""; 0]);
        assert_eq!(broken(&Optim::default()), ["steps"]);
        assert_eq!(broken(&Optim { epochs: Some(1.0), ..good.clone() }), ["steps"]);
        assert_eq!(broken(&Optim { warmup_steps: 10, ..good.clone() }), ["warmup_steps"]);
        assert_eq!(broken(&Optim { warmup_ratio: Some(0.1), ..good.clone() }), ["warmup_ratio"]);
        assert_eq!(broken(&Optim { micro_batch_size: Some(17), ..good }), ["micro_batch_size"]);
    }

    #[test]
    fn derived_counts() {
        let optim =
            Optim { batch_size: 10, micro_batch_size: Some(4), epochs: Some(1.5), ..Optim::default() };
        assert_eq!((optim.accumulation(), optim.total_steps(33), optim.total_steps(0)), (3, 5, 1));
        let optim = Optim { steps: Some(7), warmup_ratio: Some(0.2), ..Optim::default() };
        assert_eq!((optim.accumulation(), optim.total_steps(1000), optim.warmup(7)), (1, 7, 2));
    }
}
