//! `[save]` and `[log]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rules::{Rules, Validate, Violation};

/// Checkpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Save {
    /// Optimiser steps between checkpoints; 0 saves at the end only.
    pub every_steps: usize,
    /// How many of the latest checkpoints to keep.
    #[schemars(range(min = 1))]
    pub keep_last: usize,
    /// Keep the best checkpoint as well.
    pub keep_best: bool,
    /// The metric that says which one is best.
    pub metric: String,
    /// Whether more of the metric is better.
    pub greater_is_better: bool,
}

impl Default for Save {
    fn default() -> Self {
        Self {
            every_steps: 100,
            keep_last: 2,
            keep_best: false,
            metric: "eval_loss".into(),
            greater_is_better: false,
        }
    }
}

impl Validate for Save {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["metric", "keep_best"], best_has_a_metric(self));
    }
}

fn best_has_a_metric(save: &Save) -> Result<(), Violation> {
    if save.keep_best && save.metric.trim().is_empty() {
        return Err(
            Violation::new("is empty, and `keep_best` needs it").hint("name one, such as \"eval_loss\"")
        );
    }
    Ok(())
}

/// What is written while a run is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Optimiser steps between lines of metrics.
    #[schemars(range(min = 1))]
    pub every_steps: usize,
    /// Write event files for TensorBoard.
    pub tensorboard: bool,
    /// Sampled texts per table of samples; 0 for none.
    pub samples: usize,
}

impl Default for Log {
    fn default() -> Self {
        Self { every_steps: 10, tensorboard: true, samples: 4 }
    }
}

impl Validate for Log {
    /// Its values do not depend on each other.
    fn validate(&self, _rules: &mut Rules) {}
}
