//! GenARM: guidance by autoregressive reward models (ARMs), token by token (arXiv 2410.08193, Eq. 7).
//!
//! Law: `π(y_t | s) ∝ π_base(y_t | s) · Π_i π_i(y_t | s)^α_i` at every step, then the sampling settings. It is not the
//! sequence-level optimum `π_base(y) Π_i π_i(y)^α_i / Z`: each step is normalised by itself.
//!
//! **Control.** An untrained ARM is not neutral: with `π_i = π_base` for all `i` the product is `π_base^(1 + Σα)`, the base at
//! temperature `T / (1 + Σα)`. Part of any gain over the base at temperature `T` is this sharpening. Compare with `sample`
//! at the temperature that [`GenArm::base_at`] returns. Weights of ARMs that were trained at different `beta_r` are not on
//! one scale: the strength in units of the reward is `α / beta_r`.

use generate::{Engine, Sampling, Source, TextMethod};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Parts, Tools, check, check_settings, random_enough};
use crate::single::Single;

/// The listing.
pub static INFO: Info = Info {
    name: "genarm",
    access: Access::Logits,
    needs: &[Need::PrefixReward],
    may_need: &[],
    paper: "Xu et al. 2025, arXiv 2410.08193",
    summary: "next-token laws of the policy times those of autoregressive reward models",
};

/// Settings of `genarm`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenArm {
    /// Weight of each autoregressive reward model, in the models' order; a model of weight 0 does not run.
    #[schemars(length(min = 1), inner(range(min = 0)))]
    pub alpha: Vec<f64>,
}

impl Default for GenArm {
    /// One model of weight 1, as the paper runs HH-RLHF and UltraFeedback.
    fn default() -> Self {
        Self { alpha: vec![1.0] }
    }
}

impl GenArm {
    /// The temperature at which the base alone is as sharp as this product at `temperature` would be with untrained
    /// models: `temperature / (1 + Σα)`.
    ///
    /// ```
    /// assert_eq!(inference::methods::genarm::GenArm { alpha: vec![0.5, 0.5] }.base_at(1.0), 0.5);
    /// ```
    pub fn base_at(&self, temperature: f64) -> f64 {
        temperature / (1.0 + self.alpha.iter().sum::<f64>())
    }
}

impl Method for GenArm {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let hint = "give one weight for each autoregressive reward model";
        let none = Problem::too_few("alpha", self.alpha.len(), 1, hint);
        let bad = self.alpha.iter().find(|alpha| !(alpha.is_finite() && **alpha >= 0.0)).map(|alpha| {
            let hint = "negative weights favour what the model thinks unlikely, without bound; 1 is usual";
            Problem::new("alpha", format!("{alpha} is not a finite number of at least 0"), hint)
        });
        none.into_iter().chain(bad).collect()
    }

    fn samples(&self) -> usize {
        1
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        check_settings(self)?;
        if parts.arms.is_empty() {
            return Err(Error::Missing { method: INFO.name, need: Need::PrefixReward });
        }
        if parts.arms.len() != self.alpha.len() {
            let arms = parts.arms.iter().map(|(name, _)| (*name).to_owned()).collect();
            return Err(Error::Arms { alphas: self.alpha.len(), arms });
        }
        let base = Source { policy: parts.policy, weight: 1.0 };
        let arms = parts
            .arms
            .iter()
            .zip(&self.alpha)
            .map(|((_, arm), alpha)| Source { policy: *arm, weight: *alpha });
        Ok(Engine::product(std::iter::once(base).chain(arms).collect(), 0, random_enough(self, sampling)?)?)
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn TextMethod>, Error> {
        check(self, tools)?;
        Ok(Box::new(Single { method: INFO.name, budget: tools.max_new_tokens }))
    }
}
