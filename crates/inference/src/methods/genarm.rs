//! GenARM: guidance by autoregressive reward models (ARMs), token by token (arXiv 2410.08193, Eq. 7).
//!
//! Law: `π(y_t | s) ∝ π_base(y_t | s) · Π_i π_i(y_t | s)^α_i` at every step, then the sampling settings. It is not the
//! sequence-level optimum `π_base(y) Π_i π_i(y)^α_i / Z`: each step is normalised by itself. The method `genarm-smc`
//! corrects that.
//!
//! **Weights.** An ARM trained at scale β_r learns `π_i ∝ exp(r / β_r)`, so weight α tilts the base by `exp(α r / β_r)`.
//! Weights of ARMs that were trained at different β_r are not on one scale; `strength`, `α = strength · β_r`, is: it tilts
//! by `exp(strength · r)`.
//!
//! **Control.** An untrained ARM is not neutral: with `π_i = π_base` for all `i` the product is `π_base^(1 + Σα)`, the base at
//! temperature `T / (1 + Σα)`. Part of any gain over the base at temperature `T` is this sharpening. Comparisons run the
//! base at that temperature as well.
//!
//! Deviations from the public code: (1) weights of 0 do not run their model; (2) sums are taken in `f32` whatever the
//! models' precision; (3) top-k, top-p and min-p apply to the product, as there, or to the base before (`filter`).
//! Negative weights, which favour what an ARM thinks unlikely without bound, need the second.

use generate::{Engine, Mix, Sampling, Scheduled, Source};
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
    name: "genarm",
    access: Access::Logits,
    needs: &[Need::PrefixReward],
    may_need: &[],
    paper: "Xu et al. 2025, arXiv 2410.08193",
    summary: "next-token laws of the policy times those of autoregressive reward models",
};

/// Settings of `genarm`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenArm {
    /// Weight α of each autoregressive reward model, in the models' order; a model of weight 0 does not run. Without it
    /// and without `strength` every model has weight 1, as the paper runs HH-RLHF and UltraFeedback.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub alpha: Option<Vec<f64>>,
    /// Weights in units of the reward instead: `α = strength · β_r`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub strength: Option<Vec<f64>>,
    /// Scale β_r that each model was trained with, for `strength`. Without it the recipe in the model's run folder says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub beta_r: Option<Vec<f64>>,
    /// Whether top-k, top-p and min-p apply to the product or to the base before.
    #[serde(skip_serializing_if = "Filter::is_after")]
    pub filter: Filter,
}

impl GenArm {
    /// Weights of `arms` models, of which `beta_r` are the known scales.
    fn weights(&self, method: &'static str, beta_r: &[Option<f64>], arms: usize) -> Result<Vec<f64>, Error> {
        let Some(strength) = &self.strength else {
            return Ok(self.alpha.clone().unwrap_or_else(|| vec![1.0; arms]));
        };
        let given = self.beta_r.as_deref().unwrap_or_default();
        let alpha = |(place, strength): (usize, &f64)| {
            let known = given.get(place).copied().or_else(|| beta_r.get(place).copied().flatten());
            let unknown = || {
                let message = format!(
                    "the scale β_r of model {} is not known: no recipe of its training is in its run folder",
                    place + 1
                );
                let hint = "give `beta_r`, one number for each model, or weights as `alpha`";
                Error::Settings { method, problems: vec![Problem::new("strength", message, hint)] }
            };
            known.map(|beta_r| strength * beta_r).ok_or_else(unknown)
        };
        strength.iter().enumerate().map(alpha).collect()
    }

    /// The product of the base with its models, for `method`.
    pub(crate) fn mix<'a>(&self, method: &'static str, parts: &Parts<'a>) -> Result<Mix<'a>, Error> {
        if parts.arms.is_empty() {
            return Err(Error::Missing { method, need: Need::PrefixReward });
        }
        let lists = [("alpha", &self.alpha), ("strength", &self.strength), ("beta_r", &self.beta_r)];
        for (key, list) in lists {
            if let Some(list) = list.as_ref().filter(|list| list.len() != parts.arms.len()) {
                let arms = parts.arms.iter().map(|(name, _)| (*name).to_owned()).collect();
                return Err(Error::Arms { method, key, weights: list.len(), arms });
            }
        }
        let base = Source { policy: parts.policy, weight: 1.0 };
        let weights = self.weights(method, &parts.beta_r, parts.arms.len())?;
        let arms = parts.arms.iter().zip(weights).map(|((_, arm), weight)| Source { policy: *arm, weight });
        let mix = Mix::product(std::iter::once(base).chain(arms).collect(), 0)?;
        Ok(Mix { tokens: parts.tokens, ..mix })
    }

    /// [`Method::suits`] for `method`.
    pub(crate) fn go_with(
        &self,
        method: &'static str,
        sampling: &Sampling,
        beta_r: &[Option<f64>],
    ) -> Result<(), Error> {
        if !beta_r.is_empty() {
            self.weights(method, beta_r, beta_r.len())?;
        }
        let mut listed = self.alpha.iter().chain(&self.strength).flatten();
        if !listed.any(|weight| *weight < 0.0) || self.filter.bounds(sampling) {
            return Ok(());
        }
        let message = "a negative weight and no filter of the base's own law: without one it favours what the model thinks unlikely, without bound";
        let hint = "set `filter = \"before\"` and sampling.top_p, top_k or min_p";
        Err(Error::Settings { method, problems: vec![Problem::new(self.key(), message, hint)] })
    }

    /// The key of the weights.
    fn key(&self) -> &'static str {
        if self.strength.is_some() { "strength" } else { "alpha" }
    }
}

impl Method for GenArm {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.alpha.is_some() && self.strength.is_some() {
            let message = "weights are given as `alpha` and as `strength`";
            problems.push(Problem::new("strength", message, "give one of the two"));
        }
        let lists = [("alpha", &self.alpha), ("strength", &self.strength), ("beta_r", &self.beta_r)];
        for (key, list) in lists {
            let Some(list) = list else { continue };
            let hint = "give one number for each autoregressive reward model";
            problems.extend(Problem::too_few(key, list.len(), 1, hint));
            for value in list {
                if key == "beta_r" {
                    let hint = "it is `method.arm.beta` of the recipe that trained the model";
                    problems.extend(Problem::not_positive(key, *value, hint));
                } else if !value.is_finite() {
                    problems.push(Problem::new(key, format!("{value} is not a finite number"), "1 is usual"));
                } else if *value < 0.0 && self.filter.is_after() {
                    let message = format!("{value} is below 0 while `filter` is \"after\"");
                    let hint = "negative weights favour what the model thinks unlikely, without bound: filter the base \"before\"";
                    problems.push(Problem::new(key, message, hint));
                }
            }
        }
        if let (Some(beta_r), Some(strength)) = (&self.beta_r, &self.strength)
            && beta_r.len() != strength.len()
        {
            let message = format!("{} scales for {} weights", beta_r.len(), strength.len());
            problems.push(Problem::new("beta_r", message, "give one of each for each model"));
        }
        if self.beta_r.is_some() && self.strength.is_none() {
            let message = "it is used with `strength` only, and none is given";
            problems.push(Problem::new("beta_r", message, "give weights as `strength`, or leave it out"));
        }
        problems
    }

    fn samples(&self) -> usize {
        1
    }

    fn further(&self) -> Further {
        Further::Arms(self.strength.as_ref().or(self.alpha.as_ref()).map(Vec::len))
    }

    fn suits(&self, sampling: &Sampling, beta_r: &[Option<f64>]) -> Result<(), Error> {
        random_enough(self, sampling.clone())?;
        self.go_with(INFO.name, sampling, beta_r)
    }

    /// `temperature / (1 + Σα)`.
    ///
    /// ```
    /// use inference::{Method, methods::genarm::GenArm};
    ///
    /// let guided = GenArm { alpha: Some(vec![0.5, 0.5]), ..GenArm::default() };
    /// assert_eq!(guided.control(&[None, None], 2, 1.0), Some(0.5));
    /// ```
    fn control(&self, beta_r: &[Option<f64>], arms: usize, temperature: f64) -> Option<f64> {
        let sum: f64 = self.weights(INFO.name, beta_r, arms).ok()?.iter().sum();
        (sum != 0.0 && sum > -1.0).then(|| temperature / (1.0 + sum))
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        check_settings(self)?;
        let sampling = random_enough(self, sampling)?;
        let mix = self.mix(INFO.name, parts)?;
        self.suits(&sampling, &parts.beta_r)?;
        let (mix, sampling) = self.filter.apply(mix, sampling);
        Ok(Engine::mix(mix, sampling)?)
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Single { method: INFO.name, budget: tools.max_new_tokens }))
    }
}
