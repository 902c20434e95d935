//! PARM: guidance by one autoregressive reward model that is told how much each of several objectives weighs
//! (arXiv 2505.06274).
//!
//! Law: `π(y_t | s) ∝ π_base(y_t | s) · π_w(y_t | s)^α` at every step, then the sampling settings, where `π_w` is the model
//! that the training method `parm` makes, under the weights `w` of this request. It costs one model beside the base whatever
//! the number of objectives, where `genarm` with a model for each costs as many.
//!
//! `w` enters the model's weights, not the product: the adapter becomes an ordinary one under `w` when it is loaded. All that
//! is said of `genarm` about scales, sharpening and single steps holds here too, and the control is the same: the base at
//! `T / (1 + α)`.
//!
//! Deviations from the public code: (1) sampling as well as greedy decoding; (2) those of `genarm`.

use std::collections::BTreeMap;

use generate::{Engine, Sampling, Scheduled};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::genarm::GenArm;
use crate::error::{Error, Problem};
use crate::filter::Filter;
use crate::method::{
    Access, Further, Info, Method, Need, Parts, Tools, check, check_settings, random_enough,
};
use crate::single::Single;

/// The listing.
pub static INFO: Info = Info {
    name: "parm",
    access: Access::Logits,
    needs: &[Need::PrefixReward],
    may_need: &[],
    paper: "Lin et al. 2025, arXiv 2505.06274",
    summary: "next-token laws of the policy times those of one reward model under weights of its objectives",
};

/// Settings of `parm`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Parm {
    /// Weight of each objective by its name, adding up to 1; an objective that is not named weighs nothing. Without it all
    /// weigh the same.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    /// Weight α of the model in the product; the paper's is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<f64>,
    /// The weight in units of the reward instead: `α = strength · β_r`, with the scale β_r of the model's training, which the
    /// recipe in its run folder says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// Scale β_r that the model was trained with, for `strength`, where no recipe says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta_r: Option<f64>,
    /// Whether top-k, top-p and min-p apply to the product or to the base before.
    #[serde(skip_serializing_if = "Filter::is_after")]
    pub filter: Filter,
}

/// How far a sum of weights may be from 1.
const ROUNDING: f64 = 1e-9;

impl Parm {
    /// The guidance by one model that it is once the model has its weights.
    fn guidance(&self) -> GenArm {
        GenArm {
            alpha: self.alpha.map(|alpha| vec![alpha]),
            strength: self.strength.map(|strength| vec![strength]),
            beta_r: self.beta_r.map(|beta_r| vec![beta_r]),
            filter: self.filter,
        }
    }
}

impl Method for Parm {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.guidance().problems();
        let hint = "weights of objectives are shares: at least 0, and 1 together";
        for (name, weight) in &self.weights {
            if !(*weight >= 0.0 && weight.is_finite()) {
                problems.push(Problem::new("weights", format!("the weight of {name} is {weight}"), hint));
            }
        }
        let sum: f64 = self.weights.values().sum();
        if !self.weights.is_empty() && problems.is_empty() && (sum - 1.0).abs() > ROUNDING {
            problems.push(Problem::new("weights", format!("they add up to {sum}"), hint));
        }
        problems
    }

    fn samples(&self) -> usize {
        1
    }

    fn further(&self) -> Further {
        Further::Arms(Some(1))
    }

    fn preference(&self) -> Option<&BTreeMap<String, f64>> {
        Some(&self.weights)
    }

    fn suits(&self, sampling: &Sampling, beta_r: &[Option<f64>]) -> Result<(), Error> {
        random_enough(self, sampling.clone())?;
        self.guidance().go_with(INFO.name, sampling, beta_r)
    }

    /// `temperature / (1 + α)`.
    fn control(&self, beta_r: &[Option<f64>], arms: usize, temperature: f64) -> Option<f64> {
        self.guidance().control(beta_r, arms, temperature)
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        check_settings(self)?;
        let sampling = random_enough(self, sampling)?;
        let mix = self.guidance().mix(INFO.name, parts)?;
        self.suits(&sampling, &parts.beta_r)?;
        let (mix, sampling) = self.filter.apply(mix, sampling);
        Ok(Engine::mix(mix, sampling)?)
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Single { method: INFO.name, budget: tools.max_new_tokens }))
    }
}
