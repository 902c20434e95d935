//! Emulated fine-tuning (arXiv 2310.12962), the same as proxy-tuning (arXiv 2401.08565): the policy, often large, moved by
//! what tuning did to another model, often small.
//!
//! Law: `π(y_t | s) ∝ π_base(y_t | s) · (π_tuned(y_t | s) / π_untuned(y_t | s))^α` at every step, then the sampling
//! settings. Whether raw logits are added (proxy-tuning) or log-probabilities (EFT) is the same: constants cancel.
//!
//! An untrained pair is neutral: where tuned and untuned are equal the law is the base's own, bit for bit, because the
//! difference is taken before it is added. There is no sharpening to control for, unlike `genarm`.
//!
//! Deviations from the public code: (1) top-k, top-p and min-p may apply to the base before (`filter`), which bounds what
//! the negative weight can favour; (2) where both models exclude a token their ratio counts as 1.

use generate::mix::{Difference, Differences};
use generate::{Engine, Mix, Sampling, Scheduled};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::filter::Filter;
use crate::method::{
    Access, Further, Info, Method, Need, Parts, Tools, check, check_settings, random_enough,
};
use crate::single::Single;

/// The listing.
pub static INFO: Info = Info {
    name: "eft",
    access: Access::Logits,
    needs: &[Need::Models],
    may_need: &[],
    paper: "Mitchell et al. 2024, arXiv 2310.12962; Liu et al. 2024, arXiv 2401.08565",
    summary: "the policy times the ratio of a tuned to an untuned model; also called proxy-tuning",
};

/// Settings of `eft`. The models are named `tuned` and `untuned`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Eft {
    /// Exponent of the ratio; 0 is the base.
    #[schemars(range(min = 0))]
    pub alpha: f64,
    /// Whether top-k, top-p and min-p apply to the combined law or to the base before.
    #[serde(skip_serializing_if = "Filter::is_after")]
    pub filter: Filter,
}

impl Default for Eft {
    /// Exponent 1, as in both papers.
    fn default() -> Self {
        Self { alpha: 1.0, filter: Filter::After }
    }
}

impl Method for Eft {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let good = self.alpha.is_finite() && self.alpha >= 0.0;
        let message = || format!("{} is not a finite number of at least 0", self.alpha);
        let hint = "1 is usual; to move the other way, exchange `tuned` and `untuned`";
        (!good).then(|| Problem::new("alpha", message(), hint)).into_iter().collect()
    }

    fn samples(&self) -> usize {
        1
    }

    fn further(&self) -> Further {
        Further::Named(vec!["tuned".into(), "untuned".into()])
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        check_settings(self)?;
        let sampling = random_enough(self, sampling)?;
        let (tuned, untuned) = (parts.model(INFO.name, "tuned")?, parts.model(INFO.name, "untuned")?);
        let term = Difference { plus: 1, minus: 2, weight: self.alpha as f32 };
        let mix = Mix {
            models: vec![parts.policy, tuned, untuned],
            rule: Box::new(Differences { terms: vec![term] }),
            reference: 0,
            tokens: parts.tokens,
        };
        let (mix, sampling) = self.filter.apply(mix, sampling);
        Ok(Engine::mix(mix, sampling)?)
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Single { method: INFO.name, budget: tools.max_new_tokens }))
    }
}
