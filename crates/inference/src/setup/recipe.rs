//! A recipe of the `inference` binary.

use std::collections::BTreeMap;

use recipe::{Engine, ModelName, Rules, Run, Sampling, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DataTable, DraftTable, ModelTable, RewardTable, ValueTable, fits, sampling_of};
use crate::{Method, MethodConfig, Need};

/// A test-time method on the prompts of a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name, seed, place, device.
    #[serde(default)]
    pub run: Run,
    /// The policy.
    #[serde(default)]
    pub model: ModelTable,
    /// Autoregressive reward models, in the order of the method's weights: `arms = ["checkpoints/arm"]`, or
    /// one name.
    #[serde(default, deserialize_with = "recipe::one_or_many")]
    #[schemars(with = "recipe::OneOrMany")]
    pub arms: Vec<ModelName>,
    /// Further models of the method by what they are for, as `models = { tuned = "…", untuned = "…" }` of
    /// `eft`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelName>,
    /// The prompts.
    #[serde(default)]
    pub data: DataTable,
    /// How completions are drawn. Where the recipe is silent, the model's `generation_config.json` decides
    /// (temperature, top_k,
    /// top_p, min_p, repetition_penalty, no_repeat_ngram_size, max_new_tokens), and the run says so; training
    /// and comparisons do
    /// not read it, since their divergences are to the model at temperature 1.
    #[serde(default)]
    pub sampling: Sampling,
    /// What the method chooses by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reward: Option<RewardTable>,
    /// What judges completions that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<ValueTable>,
    /// The policy that looks ahead, of methods that need one: `rollout = "checkpoints/small/latest"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<ModelName>,
    /// How many rows are decoded at once.
    #[serde(default, skip_serializing_if = "Engine::is_default")]
    pub engine: Engine,
    /// A model that drafts tokens for the policy to check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<DraftTable>,
    /// The method.
    pub method: MethodConfig,
}

impl Validate for Recipe {
    fn validate(&self, rules: &mut Rules) {
        rules.within("run", &self.run);
        rules.within("model", &self.model);
        rules.within("data", &self.data);
        rules.within("sampling", &self.sampling);
        if let Some(reward) = &self.reward {
            rules.within("reward", reward);
        }
        if let Some(value) = &self.value {
            rules.within("value", value);
        }
        rules.within("method", &self.method);
        rules.within("engine", &self.engine);
        rules.check(&["reward", "method"], reward_is_there(self));
        rules.check(&["models", "arms", "method"], fits(&self.method, &self.arms, &self.models));
        rules.check(&["sampling", "method"], sampling_suits(self));
        rules.check(&["value", "method"], value_is_there(&self.method, self.value.is_some()));
        rules.check(&["rollout", "method"], rollout_is_there(&self.method, self.rollout.is_some()));
    }
}

/// Refuses a method that judges partial texts without a value of them.
pub fn value_is_there(method: &MethodConfig, given: bool) -> Result<(), Violation> {
    there(method, Need::PrefixValue, given)
}

/// Refuses a method that looks ahead by a second policy without one.
pub fn rollout_is_there(method: &MethodConfig, given: bool) -> Result<(), Violation> {
    there(method, Need::Rollout, given)
}

fn there(method: &MethodConfig, need: Need, given: bool) -> Result<(), Violation> {
    if given || !method.needs().contains(&need) {
        return Ok(());
    }
    let message = format!("the method `{}` needs {need}, and none is given", method.info().name);
    Err(Violation::new(message).hint(need.remedy()))
}

fn reward_is_there(recipe: &Recipe) -> Result<(), Violation> {
    if recipe.reward.is_some() || !recipe.method.needs().contains(&Need::Reward) {
        return Ok(());
    }
    let message = format!("the method `{}` needs a reward, and none is given", recipe.method.info().name);
    Err(Violation::new(message)
        .hint("add [reward.model], [reward.answer], [reward.lexicon] or [reward.sentiment]"))
}

/// Whether models have the scales that a method asks for is seen when they are at hand.
fn sampling_suits(recipe: &Recipe) -> Result<(), Violation> {
    let Err(error) = recipe.method.suits(&sampling_of(&recipe.sampling), &[]) else { return Ok(()) };
    let text = error.to_string();
    Err(match text.split_once("\n  hint: ") {
        Some((message, hint)) => Violation::new(message).hint(hint),
        None => Violation::new(text),
    })
}
