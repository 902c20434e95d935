//! The further models of a method: those that a recipe names beside the policy.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::Device;
use generate::{Sampling, Step};
use model::Policy;
use recipe::{ModelName, Rules, Source, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::places::warn;
use super::{Error, Loaded, Places, load, load_preferring};
use crate::{Further, Method, MethodConfig, Parts};

/// Refuses further models that are not those that `method` runs with.
pub fn fits(
    method: &MethodConfig,
    arms: &[ModelName],
    models: &BTreeMap<String, ModelName>,
) -> Result<(), Violation> {
    let name = method.info().name;
    let refuse = |message: String, hint: String| Err(Violation::new(message).hint(hint));
    let further = method.further();
    let wants_arms = matches!(further, Further::Arms(_));
    let maker = if method.preference().is_some() { "parm" } else { "arm" };
    if !arms.is_empty() && !wants_arms {
        let hint = match further {
            Further::None => "remove `arms`",
            _ => "name its models under `models`",
        };
        return refuse(format!("`{name}` runs without autoregressive reward models"), hint.into());
    }
    if !models.is_empty() && (wants_arms || further == Further::None) {
        let hint = if wants_arms { "name its models in the list `arms`" } else { "remove `models`" };
        return refuse(format!("`{name}` has no use for named models"), hint.into());
    }
    match further {
        Further::Arms(_) if method.preference().is_some() && arms.len() > 1 => refuse(
            format!("`{name}` is guided by one model, and {} are named", arms.len()),
            "its weights are of that model's objectives; `genarm` is guided by several models".into(),
        ),
        Further::Arms(Some(wanted)) if wanted != arms.len() && !arms.is_empty() => refuse(
            format!("{} models and {wanted} weights", arms.len()),
            format!("give `arms` one model for each weight of `method.{name}`, in their order"),
        ),
        Further::Arms(_) if arms.is_empty() => refuse(
            format!("`{name}` needs an autoregressive reward model, and none is named"),
            format!("add it to `arms`; the training method `{maker}` makes one"),
        ),
        Further::Any if models.is_empty() => refuse(
            format!("`{name}` needs at least one model, and none is named"),
            "add `models = { NAME = \"stage:STAGE\" }`, with a name of your choice for each".into(),
        ),
        Further::None | Further::Arms(_) | Further::Any => Ok(()),
        Further::Named(roles) => {
            let example = |role: &str| format!("add `{role} = \"stage:STAGE\"` to `models`");
            if let Some(role) = roles.iter().find(|role| !models.contains_key(*role)) {
                return refuse(
                    format!("`{name}` needs a model `{role}`, and none is named so"),
                    example(role),
                );
            }
            match models.keys().find(|given| !roles.contains(given)) {
                Some(given) => refuse(
                    format!("`{name}` has no use for a model `{given}`"),
                    format!("its models are {}", roles.join(", ")),
                ),
                None => Ok(()),
            }
        }
    }
}

/// Further models, loaded, with the name of each.
#[derive(Debug)]
pub struct FurtherModels {
    arms: Vec<Policy>,
    beta_r: Vec<Option<f64>>,
    models: Vec<(String, Policy)>,
    tokens: usize,
}

impl FurtherModels {
    /// Loads them; each must read the tokens of `base`. Autoregressive reward models that depend on weights of objectives
    /// are those under `preference`.
    pub fn load(
        places: &Places,
        arms: &[ModelName],
        models: &BTreeMap<String, ModelName>,
        preference: Option<&BTreeMap<String, f64>>,
        base: &Loaded,
        device: &Device,
    ) -> Result<Self, Error> {
        Ok(Self {
            arms: arms
                .iter()
                .map(|name| load_arm(places, name, preference, base, device))
                .collect::<Result<_, _>>()?,
            beta_r: scales(places, arms)?,
            models: models
                .iter()
                .map(|(role, name)| Ok((role.clone(), load_beside(places, name, base, device)?)))
                .collect::<Result<_, Error>>()?,
            tokens: base.tokenizer.id_bound(),
        })
    }

    /// The parts of a method's engine.
    pub fn parts<'a>(&'a self, policy: &'a dyn Step) -> Parts<'a> {
        Parts {
            arms: self.arms.iter().map(|arm| (Step::name(arm), arm as &dyn Step)).collect(),
            beta_r: self.beta_r.clone(),
            models: self.models.iter().map(|(role, model)| (role.as_str(), model as &dyn Step)).collect(),
            tokens: Some(self.tokens),
            ..Parts::new(policy)
        }
    }
}

/// [`load_beside`] of an autoregressive reward model, which may depend on weights of objectives.
pub fn load_arm(
    places: &Places,
    name: &ModelName,
    preference: Option<&BTreeMap<String, f64>>,
    base: &Loaded,
    device: &Device,
) -> Result<Policy, Error> {
    match preference {
        None => load_beside(places, name, base, device),
        Some(weights) => beside(load_preferring(places, name, device, weights)?, base),
    }
}

/// Loads a model whose next-token laws are to be combined with those of `base`: its tokenizer must be the same one, and it
/// runs in the same number format.
pub fn load_beside(
    places: &Places,
    name: &ModelName,
    base: &Loaded,
    device: &Device,
) -> Result<Policy, Error> {
    beside(load(places, name, device)?, base)
}

fn beside(loaded: Loaded, base: &Loaded) -> Result<Policy, Error> {
    let loaded = loaded.with_dtype(base.dtype)?;
    if !loaded.reads_tokens_of(base) {
        let short = |hash: &str| hash.chars().take(8).collect::<String>();
        return Err(Error::Vocabulary {
            name: loaded.name.clone(),
            hash: short(loaded.tokenizer.hash()),
            base: base.name.clone(),
            base_hash: short(base.tokenizer.hash()),
        });
    }
    if let Some(note) = other_template(&loaded, base) {
        warn(&note);
    }
    let loaded = loaded.beside(base);
    Ok(loaded.policy(loaded.name.clone()))
}

/// What is to be said of a model that continues the policy's own ids and has a chat template of its own.
pub(super) fn other_template(loaded: &Loaded, base: &Loaded) -> Option<String> {
    let template = loaded.tokenizer.chat_template()?;
    (Some(template) != base.tokenizer.chat_template()).then(|| {
        format!(
            "{} reads the prompts of {} as they are, not by its own chat template",
            loaded.name, base.name
        )
    })
}

/// The scale β_r that each autoregressive reward model was trained with, where the recipe in its run folder says so.
pub fn scales(places: &Places, arms: &[ModelName]) -> Result<Vec<Option<f64>>, Error> {
    let of = |name| Ok(places.model(name, false)?.and_then(|directory| scale(&directory)));
    arms.iter().map(of).collect()
}

fn scale(checkpoint: &Path) -> Option<f64> {
    let recipe = checkpoint.parent()?.join("recipe.toml");
    let trained = Source::read(recipe).ok()?.load::<Trained>().ok()?.value;
    Some(trained.method.arm.or(trained.method.parm)?.beta)
}

/// What is read of the recipe of a training run; other keys are its own.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Trained {
    method: TrainedBy,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct TrainedBy {
    #[serde(default)]
    arm: Option<ArmScale>,
    #[serde(default)]
    parm: Option<ArmScale>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct ArmScale {
    beta: f64,
}

impl Validate for Trained {
    fn validate(&self, _: &mut Rules) {}
}

/// Refuses, before anything is loaded, sampling settings or models of unknown scale that `method` cannot run with.
pub fn suits(
    method: &MethodConfig,
    places: &Places,
    arms: &[ModelName],
    sampling: &Sampling,
) -> Result<(), Error> {
    Ok(method.suits(sampling, &scales(places, arms)?)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(method: serde_json::Value, arms: &[&str], models: &[&str]) -> Option<String> {
        let method: MethodConfig = serde_json::from_value(method).expect("a method");
        let name = |text: &&str| text.parse::<ModelName>().expect("a name");
        let arms: Vec<ModelName> = arms.iter().map(name).collect();
        let models = models.iter().map(|role| ((*role).to_owned(), ModelName::tiny())).collect();
        fits(&method, &arms, &models).err().map(|violation| format!("{violation:?}"))
    }

    #[test]
    fn models_that_are_missing_or_too_many_are_named() {
        let says = |refusal: Option<String>, text: &str| {
            let refusal = refusal.expect("refused");
            assert!(refusal.contains(text), "{refusal} lacks {text}");
        };
        says(refusal(json!({ "eft": {} }), &[], &["tuned"]), "needs a model `untuned`");
        says(
            refusal(json!({ "eft": {} }), &[], &["tuned", "untuned", "other"]),
            "no use for a model `other`",
        );
        says(
            refusal(json!({ "eft": {} }), &["tiny"], &["tuned", "untuned"]),
            "name its models under `models`",
        );
        says(refusal(json!({ "contrastive": {} }), &[], &[]), "needs a model `amateur`");
        says(refusal(json!({ "mod": {} }), &[], &[]), "needs at least one model");
        says(refusal(json!({ "mod": { "weights": { "a": 0.5, "b": 0.5 } } }), &[], &["a"]), "a model `b`");
        says(refusal(json!({ "genarm": {} }), &[], &[]), "needs an autoregressive reward model");
        says(
            refusal(json!({ "genarm": { "alpha": [1.0] } }), &["tiny", "tiny"], &[]),
            "2 models and 1 weights",
        );
        says(refusal(json!({ "genarm-smc": { "strength": [1.0] } }), &[], &["a"]), "in the list `arms`");
        says(refusal(json!({ "sample": {} }), &["tiny"], &[]), "remove `arms`");
        says(refusal(json!({ "parm": {} }), &[], &[]), "the training method `parm`");
        says(refusal(json!({ "parm": {} }), &["tiny", "tiny"], &[]), "guided by one model, and 2 are named");
        assert_eq!(refusal(json!({ "parm": {} }), &["tiny"], &[]), None);
        assert_eq!(refusal(json!({ "genarm": {} }), &["tiny", "tiny"], &[]), None);
        assert_eq!(refusal(json!({ "mod": {} }), &[], &["a", "b"]), None);
        assert_eq!(refusal(json!({ "eft": {} }), &[], &["tuned", "untuned"]), None);
        assert_eq!(refusal(json!({ "sample": {} }), &[], &[]), None);
    }

    #[test]
    fn the_scale_of_a_model_is_in_its_run_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let checkpoint = folder.path().join("latest");
        assert_eq!(scale(&checkpoint), None);
        let text = "[run]\nname = \"a\"\n[optim]\nsteps = 3\n[method.arm]\nbeta = 0.25\ngamma = 0.0\n";
        fs_err::write(folder.path().join("recipe.toml"), text).expect("written");
        assert_eq!(scale(&checkpoint), Some(0.25));
        let text = "[method.parm]\nbeta = 0.5\nobjectives = [\"a\", \"b\"]\n";
        fs_err::write(folder.path().join("recipe.toml"), text).expect("written");
        assert_eq!(scale(&checkpoint), Some(0.5));
        fs_err::write(folder.path().join("recipe.toml"), "[method.dpo]\nbeta = 0.1\n").expect("written");
        assert_eq!(scale(&checkpoint), None);
    }
}
