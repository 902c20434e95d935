//! A recipe type with everything that recipes are made of.

use std::collections::BTreeMap;

use recipe::{
    DataName, Log, Lora, ModelName, Optim, Rules, Run, Sampling, Save, Source, Validate, Violation,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sample {
    #[serde(default)]
    pub(crate) run: Run,
    pub(crate) model: ModelName,
    #[serde(default = "DataName::wordmath")]
    pub(crate) data: DataName,
    #[serde(default)]
    pub(crate) optim: Optim,
    #[serde(default)]
    pub(crate) lora: Option<Lora>,
    #[serde(default)]
    pub(crate) save: Save,
    #[serde(default)]
    pub(crate) log: Log,
    #[serde(default)]
    pub(crate) sampling: Sampling,
    pub(crate) method: Method,
    #[serde(default)]
    pub(crate) weights: BTreeMap<String, f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Method {
    /// Guided by rewards.
    Genarm(Genarm),
    /// Distilled.
    Vbon {
        /// Candidates.
        #[serde(default = "four")]
        n: u16,
    },
    /// The likeliest token.
    Greedy,
}

fn four() -> u16 {
    4
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Genarm {
    pub(crate) beta: f64,
    /// One or many.
    pub(crate) arms: Vec<Arm>,
    pub(crate) grid: Vec<Vec<u8>>,
    pub(crate) short: f32,
}

impl Default for Genarm {
    fn default() -> Self {
        Self { beta: 1.0, arms: Vec::new(), grid: Vec::new(), short: 0.1 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Arm {
    pub(crate) name: String,
    pub(crate) model: ModelName,
    #[serde(default)]
    pub(crate) weight: Option<f64>,
}

impl Validate for Sample {
    fn validate(&self, rules: &mut Rules) {
        rules.within("run", &self.run);
        rules.within("optim", &self.optim);
        rules.within("lora", &self.lora);
        rules.within("save", &self.save);
        rules.within("log", &self.log);
        rules.within("sampling", &self.sampling);
        if let Method::Genarm(genarm) = &self.method {
            rules.within_each("method.genarm.arms", &genarm.arms);
        }
    }
}

impl Validate for Arm {
    fn validate(&self, rules: &mut Rules) {
        let outcome = match self.weight {
            Some(0.0) => Err(Violation::new("an arm without weight does nothing").hint("remove it")),
            _ => Ok(()),
        };
        rules.check(&["weight"], outcome);
    }
}

/// A recipe without mistakes.
pub(crate) const VALID: &str = r#"# A comment.
model = "tiny"
data = "hf://datasets/org/rows@main/train.jsonl.gz"

[run]
name = "sample"
seed = 18446744073709551615
device = "cuda:1"

[optim]
steps = 100
learning_rate = 5e-7
schedule = "linear"
warmup_steps = 10

[lora]
r = 16

[sampling]
stop = ["\n\n", '####']

[weights]
gold = 1
"é" = -0.5

[method.genarm]
beta = 0.8
grid = [[1, 2], [3]]

[[method.genarm.arms]]
name = "helpful"
model = "stage:arm"

[[method.genarm.arms]]
name = "harmless"
model = "hf://org/harmless"
weight = 0.5
"#;

/// The printed problems of a text, under the name `r.toml`.
pub(crate) fn problems(text: &str, overrides: &[&str]) -> String {
    match Source::from_text("r.toml", text).set_all(overrides).load::<Sample>() {
        Ok(loaded) => panic!("a recipe with mistakes was accepted: {:?}", loaded.value),
        Err(errors) => errors.to_string(),
    }
}

pub(crate) fn load(text: &str, overrides: &[&str]) -> Sample {
    match Source::from_text("r.toml", text).set_all(overrides).load::<Sample>() {
        Ok(loaded) => loaded.value,
        Err(errors) => panic!("a good recipe was refused:\n{errors}"),
    }
}

/// A recipe that needs nothing more, after `text`.
pub(crate) fn with(text: &str) -> String {
    format!("model = 'tiny'\nmethod = 'greedy'\noptim.steps = 9\n{text}")
}
