//! Settings of PPO, which every method with `estimator = "ppo"` has under `ppo`.
//!
//! As in TRL and the InstructGPT recipe (arXiv 2203.02155): every token pays `coefficient · (log π − log π_ref)`, the method's
//! value of the answer is paid at its last token, advantages are GAE over a value head that shares the policy's trunk, and
//! the answers of a batch serve `epochs · mini_batches` updates with clipped ratios and clipped values.
//!
//! Deviations from TRL: (1) losses are summed over tokens and divided by answers, not by tokens: with one update, no whitening
//! and λ = 1 the gradient is then exactly that of `E[value] − coefficient · KL(π ‖ π_ref)`, whatever the lengths; (2) two
//! epochs by default and not four: ratios of tokens are biased once the policy has moved, and with two passes by one update
//! only, while answers, which are the dear part, serve twice; (3) the value head begins at zero and shares the trunk, where
//! TRL's trainer has a second model; (4) rewards are neither whitened nor clipped, and answers without an end are paid as
//! they are.

use objective::algebra::Ppo as Objective;
use objective::losses::Clip;
use recipe::Violation;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::EstimatorName;

/// The table `ppo` of a method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ppo {
    /// Passes over the answers of a batch. Beyond the first update ratios are biased (they are of tokens, and clipped): few.
    #[schemars(range(min = 1))]
    pub epochs: usize,
    /// Updates of a pass: each learns from as large a part of the batch's answers. They divide `optim.batch_size`.
    #[schemars(range(min = 1))]
    pub mini_batches: usize,
    /// Discount of rewards a token later; below 1 the optimum is another one.
    #[schemars(range(min = 0, max = 1))]
    pub gamma: f64,
    /// λ of the advantages (GAE): 1 is the return to come less the value, 0 one temporal difference.
    #[schemars(range(min = 0, max = 1))]
    pub lambda: f64,
    /// Range of a token's ratio around 1.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub cliprange: f64,
    /// How far a value may move on one batch of answers, in units of the return; 0 is any distance.
    #[schemars(range(min = 0))]
    pub cliprange_value: f64,
    /// Weight of the values' loss.
    #[schemars(range(min = 0))]
    pub vf_coef: f64,
    /// Bring the advantages of a batch's tokens to mean 0 and deviation 1.
    pub whiten_advantages: bool,
}

impl Default for Ppo {
    fn default() -> Self {
        Self {
            epochs: 2,
            mini_batches: 1,
            gamma: 1.0,
            lambda: 0.95,
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.1,
            whiten_advantages: true,
        }
    }
}

impl Ppo {
    /// Updates for each batch of answers.
    pub fn updates(&self) -> usize {
        self.epochs * self.mini_batches
    }

    /// The settings as mathematics.
    pub(super) fn objective(&self) -> Objective {
        Objective {
            gamma: self.gamma,
            lambda: self.lambda,
            clip: Clip { low: self.cliprange, high: self.cliprange },
            value_clip: self.cliprange_value,
            value_coefficient: self.vf_coef,
            whiten: self.whiten_advantages,
        }
    }

    /// The settings of a method: those given, or else the defaults, where the estimator is PPO.
    pub fn of(estimator: EstimatorName, given: Option<&Self>) -> Option<Self> {
        (estimator == EstimatorName::Ppo).then(|| given.cloned().unwrap_or_default())
    }

    /// Refuses batches that do not fall into mini-batches of one size.
    pub(crate) fn divides(&self, batch_size: usize) -> Result<(), Violation> {
        if batch_size.is_multiple_of(self.mini_batches) {
            return Ok(());
        }
        let message =
            format!("a batch of {batch_size} answers is not {} mini-batches of one size", self.mini_batches);
        Err(Violation::new(message).hint("make `optim.batch_size` a multiple of `mini_batches`"))
    }
}

/// Refuses settings of PPO for another estimator, and too few answers for a baseline among a prompt's own.
pub fn estimator_fits(estimator: EstimatorName, ppo: Option<&Ppo>, rollouts: usize) -> Result<(), Violation> {
    if ppo.is_some() && estimator != EstimatorName::Ppo {
        return Err(Violation::new("`ppo` is given, and the estimator is another")
            .hint("set `estimator = \"ppo\"`, or leave `ppo` out"));
    }
    if rollouts < 2 && matches!(estimator, EstimatorName::Rloo | EstimatorName::Grpo) {
        return Err(Violation::new("a single answer has no others of its prompt to be compared with")
            .hint("raise `rollouts` to 2 at least, or take `estimator = \"ppo\"`"));
    }
    Ok(())
}
