//! Rewarded Soups (arXiv 2306.04488) and any weighted merge of models that began as one: `θ = Σ wᵢ θᵢ`, decoded at the cost
//! of one model. Nothing is trained: the stage reads models and writes one that opens like any other.
//!
//! Where the weights do not add up to 1, the rest is the model of `[model]`, which all began as: a sum of changes, as in
//! task arithmetic. Adapters of one base are joined to one adapter of all their ranks, or merged into the base with `whole`.
//!
//! Deviation from public code: what is summed are the changes of the weights, and not the factors of adapters, whose sum is
//! another model: `(Σ w B)(Σ w A) ≠ Σ w B A`. That merge is there for comparison, as `average = "factors"`.

use burn::tensor::Device;
use inference::setup::{self, Loaded, Places};
use model::merge::{self, Part};
use recipe::{ModelName, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::checkpoint::Learner;
use crate::error::Error;

/// `[method.soup]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Soup {
    /// The models and their weights.
    #[schemars(length(min = 1))]
    pub models: Vec<Ingredient>,
    /// What is averaged.
    #[serde(default)]
    pub average: Average,
    /// Write a whole model where all are adapters.
    #[serde(default)]
    pub whole: bool,
}

/// A model and its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ingredient {
    /// Which model.
    pub path: ModelName,
    /// Its weight; below 0 it is taken away.
    pub weight: f64,
}

/// What is averaged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Average {
    /// The changes of the weights.
    #[default]
    Deltas,
    /// The factors of adapters, for comparison.
    Factors,
}

impl Validate for Soup {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["models"], some_weight_counts(self));
        rules.check(&["whole", "average"], factors_stay_factors(self));
    }
}

fn some_weight_counts(soup: &Soup) -> Result<(), Violation> {
    if let Some(bad) = soup.models.iter().find(|model| !model.weight.is_finite()) {
        return Err(Violation::new(format!("the weight of {} is {}", bad.path, bad.weight)));
    }
    if soup.models.iter().any(|model| model.weight != 0.0) {
        return Ok(());
    }
    Err(Violation::new("all weights are 0").hint("give at least one model a weight"))
}

fn factors_stay_factors(soup: &Soup) -> Result<(), Violation> {
    if !soup.whole || soup.average == Average::Deltas {
        return Ok(());
    }
    Err(Violation::new("averaged factors are an adapter")
        .hint("leave `whole` out, or set `average = \"deltas\"`"))
}

impl Soup {
    /// The weight that is left for the model that all began as; 0 where the others add up to 1.
    pub fn rest(&self) -> f64 {
        let rest = 1.0 - self.models.iter().map(|model| model.weight).sum::<f64>();
        if rest.abs() < 1e-9 { 0.0 } else { rest }
    }

    /// Loads the models and sums them. `base` is the model that they began as.
    pub fn cook(&self, base: &ModelName, places: &Places, device: &Device) -> Result<Learner, Error> {
        let load = |name: &ModelName| setup::load(places, name, device).map_err(Error::other);
        let loaded = self.models.iter().map(|model| load(&model.path)).collect::<Result<Vec<_>, _>>()?;
        same_tokenizer(&loaded)?;
        let mut parts: Vec<Part<'_>> = loaded
            .iter()
            .zip(&self.models)
            .map(|(loaded, model)| Part {
                name: &loaded.name,
                decoder: &loaded.decoder,
                adapter: loaded.adapter.as_ref(),
                weight: model.weight,
            })
            .collect();
        let tokenizer = loaded[0].tokenizer.clone();
        let adapters = loaded.iter().all(|loaded| loaded.adapter.is_some());
        if self.average == Average::Factors {
            let (decoder, config) = merge::average_factors(&parts)?;
            return Ok(Learner { decoder, base: config.base.clone(), adapter: Some(config), tokenizer });
        }
        if adapters && !self.whole {
            let (decoder, config) = merge::concatenate(&parts)?;
            return Ok(Learner { decoder, base: config.base.clone(), adapter: Some(config), tokenizer });
        }
        let rest = if self.rest() == 0.0 { None } else { Some(load(base)?) };
        if let Some(rest) = &rest {
            let (name, adapter) = (rest.name.as_str(), rest.adapter.as_ref());
            parts.push(Part { name, decoder: &rest.decoder, adapter, weight: self.rest() });
        }
        let decoder = merge::average(&parts)?;
        Ok(Learner { decoder, adapter: None, tokenizer, base: base.to_string() })
    }
}

fn same_tokenizer(loaded: &[Loaded]) -> Result<(), Error> {
    let first = &loaded[0];
    match loaded.iter().find(|other| other.tokenizer.hash() != first.tokenizer.hash()) {
        None => Ok(()),
        Some(other) => Err(Error::Data {
            what: other.name.clone(),
            message: format!(
                "its tokenizer is not that of {}\n  hint: only models that began as one can be merged",
                first.name
            ),
        }),
    }
}
