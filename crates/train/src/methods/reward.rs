//! Sequence reward model: the Bradley–Terry loss of the scores at the last tokens of a pair.
//!
//! A row's column `margin`, as TRL's `RewardTrainer` reads it, is the lead that its chosen answer must have; for a row without
//! one it is the setting of that name.

use data::render::Pair;
use model::Decoder;
use model::learn::Forward;
use objective::losses::BradleyTerry;
use recipe::{Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::meters::Meters;
use crate::pairs::right;
use crate::supervised::{BatchLoss, Objective, pair_scores};

/// `[method.reward]`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RewardModel {
    /// Weight of `(chosen + rejected)²`, which pulls the mean reward to zero (Eisenstein et al. 2023).
    #[schemars(range(min = 0))]
    pub center_rewards_coefficient: f64,
    /// The lead that a chosen answer must have, of rows without a column `margin`.
    #[schemars(range(min = 0))]
    pub margin: f64,
}

impl Validate for RewardModel {
    fn validate(&self, _: &mut Rules) {}
}

impl Objective for RewardModel {
    type Row = Pair;

    fn tokens(row: &Pair) -> usize {
        row.chosen.ids.len() + row.rejected.ids.len()
    }

    fn weight(_: &Pair) -> f64 {
        1.0
    }

    fn forward(&self, decoder: &Decoder, rows: &[&Pair], checkpointing: bool) -> Forward {
        pair_scores(decoder, rows, checkpointing)
    }

    fn loss(&self, rows: &[&Pair], forward: &Forward, prefix: &str, meters: &mut Meters) -> BatchLoss {
        let loss = BradleyTerry { center_coefficient: self.center_rewards_coefficient };
        let mut coefficients = vec![0.0; 2 * rows.len()];
        for index in 0..rows.len() {
            let (chosen, rejected) =
                (f64::from(forward.values[index]), f64::from(forward.values[rows.len() + index]));
            let margin = rows[index].margin.unwrap_or(self.margin);
            let pair = loss.pair(chosen, rejected, margin);
            coefficients[index] = pair.grad_chosen;
            coefficients[rows.len() + index] = pair.grad_rejected;
            meters.add(&format!("{prefix}loss"), pair.loss);
            meters.add(&format!("{prefix}accuracy"), right(chosen, rejected));
            meters.add(&format!("{prefix}margin"), chosen - rejected);
            meters.extend(&format!("{prefix}mean_reward"), [chosen, rejected]);
        }
        BatchLoss { coefficients }
    }
}
