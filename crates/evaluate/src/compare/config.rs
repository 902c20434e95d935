//! `[method.compare]`.

use inference::setup::{DataTable, RewardTable};
use inference::{Method, MethodConfig, Need};
use recipe::{ModelName, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compare {
    /// Samples of each prompt in a policy's pool.
    #[serde(default = "default_samples")]
    #[schemars(range(min = 1))]
    pub samples: usize,
    /// Numbers of samples at which the rules are evaluated.
    #[serde(default = "default_n")]
    #[schemars(length(min = 1), inner(range(min = 1)))]
    pub n: Vec<usize>,
    /// β of weighted majority: its weights are `softmax(reward / β)`. To compare with QAlign, give both the same.
    #[serde(default = "default_beta")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Random subsets over which rules without a closed form are averaged.
    #[serde(default = "default_subsets")]
    #[schemars(range(min = 1))]
    pub subsets: usize,
    /// Bootstrap resamples.
    #[serde(default = "default_bootstrap")]
    #[schemars(range(min = 100))]
    pub bootstrap: usize,
    /// The policies; the first is the base that others are compared with.
    #[schemars(length(min = 1))]
    pub policies: Vec<PolicyTable>,
    /// Methods that run by themselves.
    #[serde(default)]
    pub runs: Vec<RunTable>,
    /// What methods choose by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<RewardTable>,
    /// What they are judged by.
    pub gold: RewardTable,
    /// Held-out preference pairs: the report begins with how often the proxy and each autoregressive reward model order
    /// them as the labels do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pairs: Option<DataTable>,
}

/// A policy, and the rules that choose from its samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyTable {
    /// Its name in the report.
    pub name: String,
    /// Which model; without it the recipe's `[model]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<ModelName>,
    /// `best-of-n`, `majority`, `weighted-majority`.
    #[serde(default)]
    pub rules: Vec<String>,
}

/// A method that runs by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunTable {
    /// Name of the policy it runs on.
    pub policy: String,
    /// Autoregressive reward models, in the order of their weights.
    #[serde(default)]
    pub arms: Vec<ModelName>,
    /// Sampling temperature, where it is not the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub temperature: Option<f64>,
    /// The method.
    pub method: MethodConfig,
}

fn default_samples() -> usize {
    16
}

fn default_n() -> Vec<usize> {
    vec![1, 4, 16]
}

fn default_beta() -> f64 {
    1.0
}

fn default_subsets() -> usize {
    64
}

fn default_bootstrap() -> usize {
    2000
}

/// Rules by which a completion is chosen from a pool.
pub(super) const RULES: [&str; 3] = ["best-of-n", "majority", "weighted-majority"];

impl Validate for Compare {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["n", "samples"], pool_is_large_enough(self));
        rules.check(&["policies"], names_differ(self));
        rules.check(&["policies"], rules_are_known(self));
        rules.check(&["runs", "policies"], runs_name_policies(self));
        rules.check(&["proxy", "runs"], proxy_is_there(self));
        rules.within("gold", &self.gold);
        if let Some(proxy) = &self.proxy {
            rules.within("proxy", proxy);
        }
        if let Some(pairs) = &self.pairs {
            rules.within("pairs", pairs);
        }
        rules.within_each("runs", &self.runs);
    }
}

impl Validate for RunTable {
    fn validate(&self, rules: &mut Rules) {
        rules.within("method", &self.method);
        rules.check(&["arms", "method"], arms_fit(self));
    }
}

fn pool_is_large_enough(compare: &Compare) -> Result<(), Violation> {
    match compare.n.iter().find(|n| **n > compare.samples) {
        Some(n) => {
            let message = format!("best of {n} cannot be read off {} samples", compare.samples);
            Err(Violation::new(message).hint("raise `samples`, or lower the largest `n`"))
        }
        None => Ok(()),
    }
}

fn names_differ(compare: &Compare) -> Result<(), Violation> {
    let names: Vec<&str> = compare.policies.iter().map(|policy| policy.name.as_str()).collect();
    match names.iter().enumerate().find(|(place, name)| names[..*place].contains(name)) {
        Some((_, name)) => {
            Err(Violation::new(format!("two policies are named {name:?}")).hint("name each once"))
        }
        None => Ok(()),
    }
}

fn rules_are_known(compare: &Compare) -> Result<(), Violation> {
    let mut rules = compare.policies.iter().flat_map(|policy| &policy.rules);
    match rules.find(|rule| !RULES.contains(&rule.as_str())) {
        Some(rule) => {
            let message = format!("there is no rule {rule:?} for pools");
            Err(Violation::new(message).hint(format!("rules are {}", RULES.join(", "))))
        }
        None => Ok(()),
    }
}

fn runs_name_policies(compare: &Compare) -> Result<(), Violation> {
    let known = |name: &str| compare.policies.iter().any(|policy| policy.name == name);
    match compare.runs.iter().find(|run| !known(&run.policy)) {
        Some(run) => {
            let names: Vec<&str> = compare.policies.iter().map(|policy| policy.name.as_str()).collect();
            let message = format!("no policy is named {:?}", run.policy);
            Err(Violation::new(message).hint(format!("policies are {}", names.join(", "))))
        }
        None => Ok(()),
    }
}

fn proxy_is_there(compare: &Compare) -> Result<(), Violation> {
    let by_rule = compare.policies.iter().flat_map(|policy| &policy.rules).any(|rule| rule != "majority");
    let by_run = compare.runs.iter().any(|run| run.method.needs().contains(&Need::Reward));
    if compare.proxy.is_some() || !(by_rule || by_run) {
        return Ok(());
    }
    Err(Violation::new("methods that choose by a reward are compared, and no proxy reward is given")
        .hint("add [method.compare.proxy.model] or another reward"))
}

fn arms_fit(run: &RunTable) -> Result<(), Violation> {
    let MethodConfig::GenArm(genarm) = &run.method else { return Ok(()) };
    if genarm.alpha.len() == run.arms.len() {
        return Ok(());
    }
    let message = format!("{} models and {} weights", run.arms.len(), genarm.alpha.len());
    Err(Violation::new(message).hint("give `arms` one model for each weight of `method.genarm.alpha`"))
}
