//! `[method.compare]`.

use std::collections::BTreeMap;

use inference::setup::{
    DataTable, DraftTable, Dtype, RewardTable, ValueTable, fits, rollout_is_there, value_is_there,
};
use inference::{Method, MethodConfig, Need};
use recipe::{ModelName, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::labels;
use super::rule::RuleTable;

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
    /// β of weighted majority where it is named without settings: its weights are `softmax(reward / β)`. The
    /// default is that
    /// of `qalign` and `independence-mh`, which estimate the same distribution of answers at the same β;
    /// where a comparison
    /// has them at different β, its report says so.
    #[serde(default = "default_beta")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Random subsets over which rules without a closed form are averaged. Each prompt has subsets of its
    /// own, so that their
    /// error is part of the spread over prompts that the intervals show; with 64 subsets it is about 0.004 of
    /// an accuracy over
    /// 100 prompts.
    #[serde(default = "default_subsets")]
    #[schemars(range(min = 1))]
    pub subsets: usize,
    /// Numbers N at which a sample's row also has the win rate of the policy's best of N against the base's best of N, that of
    /// the worst of N (InfAlign's inference-time win rates; the proxy chooses, where there is one, and the gold reward judges),
    /// and with right and wrong answers the share of prompts solved by one of N (pass@N).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(inner(range(min = 1)))]
    pub inference_n: Vec<usize>,
    /// Whether `proxy` and `gold` are two objectives: the report then has the hypervolume of each series of policies or runs.
    #[serde(default, skip_serializing_if = "is_off")]
    pub hypervolume: bool,
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
    /// Policies of one series are drawn as one line, their settings as its points. A `path = "sweep:NAME"` fills it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// What tells it from the others of its series. Policies of the same series and setting are repetitions, such as seeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
    /// Number format of its weights; without it that of the recipe's `[model]`. A comparison of two formats has the model
    /// twice among its policies: the divergence is then that of rounding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// Whether the plain samples bring a row of the base's own samples of the same lengths: what the policy gains by length
    /// alone.
    #[serde(default, skip_serializing_if = "is_off")]
    pub length_control: bool,
    /// What chooses from them, at every `n`: names, or tables of settings such as `{ soft-best-of-n = { beta = 0.5 } }`.
    #[serde(default)]
    pub rules: Vec<RuleTable>,
}

/// A method that runs by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunTable {
    /// Name of the policy it runs on.
    pub policy: String,
    /// Runs of one series are drawn as one line, their settings as its points: a method at several weights, for instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub series: Option<String>,
    /// What tells it from the others of its series.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub setting: Option<String>,
    /// Autoregressive reward models, in the order of their weights: a list of names, or one name.
    #[serde(default, deserialize_with = "recipe::one_or_many")]
    #[schemars(with = "recipe::OneOrMany")]
    pub arms: Vec<ModelName>,
    /// Further models of the method by what they are for, as `tuned` and `untuned` of `eft`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, ModelName>,
    /// Whether a method that sharpens the policy even with untrained models (`genarm`) brings a row of the policy at the
    /// temperature that is as sharp.
    #[serde(default = "default_control")]
    pub control: bool,
    /// Whether the method brings a row of the base's own samples of the lengths of its answers: what it gains by length
    /// alone.
    #[serde(default, skip_serializing_if = "is_off")]
    pub length_control: bool,
    /// What judges completions that have not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<ValueTable>,
    /// The policy that looks ahead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<ModelName>,
    /// A model that drafts tokens for the policy to check: the same law at another cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<DraftTable>,
    /// Sampling temperature, where it is not the recipe's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub temperature: Option<f64>,
    /// The method.
    pub method: MethodConfig,
}

fn default_control() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_off(switch: &bool) -> bool {
    !*switch
}

fn default_samples() -> usize {
    16
}

fn default_n() -> Vec<usize> {
    vec![1, 4, 16]
}

fn default_beta() -> f64 {
    0.5
}

fn default_subsets() -> usize {
    64
}

fn default_bootstrap() -> usize {
    2000
}

impl Compare {
    /// The rules of all policies, with their settings.
    fn all_rules(&self) -> impl Iterator<Item = MethodConfig> {
        self.policies.iter().flat_map(|policy| &policy.rules).filter_map(|rule| rule.method(self.beta))
    }
}

impl Validate for Compare {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["n", "inference_n", "samples"], pool_is_large_enough(self));
        rules.check(&["policies"], names_differ(self));
        rules.check(&["policies"], rules_differ(self));
        rules.check(&["policies", "runs", "n"], labels::rows_differ(self));
        rules.check(&["gold", "policies"], answers_are_there(self));
        rules.check(&["runs", "policies"], runs_name_policies(self));
        rules.check(&["proxy", "runs"], proxy_is_there(self));
        rules.check(&["hypervolume", "proxy"], two_objectives_are_there(self));
        rules.check(&["policies"], base_is_no_control_of_itself(self));
        rules.within("gold", &self.gold);
        if let Some(proxy) = &self.proxy {
            rules.within("proxy", proxy);
        }
        if let Some(pairs) = &self.pairs {
            rules.within("pairs", pairs);
        }
        rules.within_each("policies", &self.policies);
        rules.within_each("runs", &self.runs);
    }
}

impl Validate for PolicyTable {
    fn validate(&self, rules: &mut Rules) {
        rules.within_each("rules", &self.rules);
    }
}

impl Validate for RunTable {
    fn validate(&self, rules: &mut Rules) {
        rules.within("method", &self.method);
        if let Some(value) = &self.value {
            rules.within("value", value);
        }
        rules.check(&["models", "arms", "method"], fits(&self.method, &self.arms, &self.models));
        rules.check(&["value", "method"], value_is_there(&self.method, self.value.is_some()));
        rules.check(&["rollout", "method"], rollout_is_there(&self.method, self.rollout.is_some()));
    }
}

fn base_is_no_control_of_itself(compare: &Compare) -> Result<(), Violation> {
    match compare.policies.first().filter(|base| base.length_control) {
        Some(base) => {
            Err(Violation::new(format!("{:?} is the base, whose samples are the control", base.name))
                .hint("set `length_control` of other policies, or of runs"))
        }
        None => Ok(()),
    }
}

fn two_objectives_are_there(compare: &Compare) -> Result<(), Violation> {
    let series = compare.policies.iter().any(|policy| policy.series.is_some())
        || compare.runs.iter().any(|run| run.series.is_some());
    if !compare.hypervolume || (compare.proxy.is_some() && series) {
        return Ok(());
    }
    let missing = if series { "a second reward, `proxy`" } else { "series of policies or runs" };
    Err(Violation::new(format!("the hypervolume of two objectives needs {missing}"))
        .hint("give the second objective as `[method.compare.proxy.…]`, and name series and settings"))
}

fn pool_is_large_enough(compare: &Compare) -> Result<(), Violation> {
    match compare.n.iter().chain(&compare.inference_n).find(|n| **n > compare.samples) {
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

fn rules_differ(compare: &Compare) -> Result<(), Violation> {
    for policy in &compare.policies {
        let rules: Vec<_> = policy.rules.iter().map(|rule| rule.method(compare.beta)).collect();
        if let Some((_, Some(rule))) =
            rules.iter().enumerate().find(|(place, rule)| rules[..*place].contains(rule))
        {
            let message = format!("the rule {} of {:?} is there twice", rule.info().name, policy.name);
            return Err(Violation::new(message).hint("name it once, or give the two different settings"));
        }
    }
    Ok(())
}

fn answers_are_there(compare: &Compare) -> Result<(), Violation> {
    if matches!(compare.gold, RewardTable::Answer(_)) {
        return Ok(());
    }
    let reads_answers = |rule: &MethodConfig| rule.needs().contains(&Need::AnswerExtractor);
    match compare.all_rules().find(reads_answers) {
        Some(rule) => {
            let message = format!("the rule {} reads final answers, and the task has none", rule.info().name);
            Err(Violation::new(message)
                .hint("compare it under [method.compare.gold.answer], or leave it out"))
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
    let by_rule = compare.all_rules().any(|rule| rule.needs().contains(&Need::Reward));
    let by_run = compare.runs.iter().any(|run| run.method.needs().contains(&Need::Reward));
    if compare.proxy.is_some() || !(by_rule || by_run) {
        return Ok(());
    }
    Err(Violation::new("methods that choose by a reward are compared, and no proxy reward is given")
        .hint("add [method.compare.proxy.model] or another reward"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Recipe {
        compare: Compare,
    }

    impl Validate for Recipe {
        fn validate(&self, rules: &mut Rules) {
            rules.within("compare", &self.compare);
        }
    }

    fn recipe(rules: &str, rest: &str) -> Result<Compare, String> {
        let text = format!(
            "[compare]\nbeta = 3.0\n[compare.gold.answer]\n{rest}[[compare.policies]]\nname = \"base\"\nrules = {rules}\n"
        );
        let loaded = recipe::Source::from_text("r.toml", text).load::<Recipe>();
        loaded.map(|loaded| loaded.value.compare).map_err(|errors| errors.to_string())
    }

    #[test]
    fn rules_are_names_or_tables() {
        let rules = r#"["best-of-n", "weighted-majority", { soft-best-of-n = { beta = 2.0 } }, { mbr = { similarity = "answer" } }]"#;
        let compare = recipe(rules, "[compare.proxy.brevity]\n").expect("a comparison");
        let all: Vec<MethodConfig> = compare.all_rules().collect();
        let json = |place: usize| serde_json::to_value(&all[place]).expect("plain data");
        assert_eq!(all[0], MethodConfig::named("best-of-n").expect("a rule"));
        assert_eq!(json(1)["weighted-majority"]["beta"], 3.0, "a name takes the comparison's beta");
        assert_eq!(json(2)["soft-best-of-n"]["beta"], 2.0);
        assert_eq!(json(3)["mbr"]["similarity"], "answer");
        let written = serde_json::to_value(&compare.policies[0].rules).expect("plain data");
        assert_eq!(written[0], "best-of-n", "a name stays a name");
        let read: Vec<RuleTable> = serde_json::from_value(written).expect("its own");
        assert_eq!(read, compare.policies[0].rules);
    }

    #[test]
    fn every_rule_can_be_named() {
        let proxy = "[compare.proxy.brevity]\n";
        for name in super::super::rule::rule_names() {
            let compare = recipe(&format!("[\"{name}\"]"), proxy).expect("a comparison");
            assert_eq!(compare.all_rules().map(|rule| rule.info().name).collect::<Vec<_>>(), [name]);
            assert!(recipe(&format!("[{{ {name} = {{}} }}]"), proxy).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_rule_with_mistakes_says_where_and_what() {
        let proxy = "[compare.proxy.brevity]\n";
        let refused = |rules: &str, rest: &str| recipe(rules, rest).expect_err("a bad recipe");
        let unknown = refused(r#"["best-of-m"]"#, proxy);
        assert!(unknown.contains("r.toml:7:10") && unknown.contains("did you mean `best-of-n`"), "{unknown}");
        let no_rule = refused(r#"["qalign"]"#, proxy);
        assert!(no_rule.contains("unknown value `qalign`") && no_rule.contains("srbon-wd"), "{no_rule}");
        assert!(!no_rule.contains("genarm"), "{no_rule}");
        assert!(refused("[{ qalign = {} }]", proxy).contains("qalign"));
        let range = refused("[{ soft-best-of-n = { beta = 0.0 } }]", proxy);
        assert!(range.contains("r.toml:7") && range.contains("soft-best-of-n.beta"), "{range}");
        assert!(refused("[{ mbr = { beta = 1.0 } }]", proxy).contains("unknown key `beta`"));
        assert!(refused("[{ mbr-bon = { similarity = \"rouge-2\" } }]", proxy).contains("rouge-2"));
        assert!(refused("[{ mbr = { n = 4 } }]", proxy).contains("has no effect"));
        assert!(refused(r#"["mbr", { mbr = {} }]"#, proxy).contains("twice"));
        assert!(refused(r#"["soft-best-of-n"]"#, "").contains("proxy"));
        assert!(recipe(r#"["mbr"]"#, "").is_ok(), "it looks at no reward");
    }

    #[test]
    fn votes_need_answers() {
        let text = "[compare.gold.brevity]\n[[compare.policies]]\nname = \"base\"\nrules = [\"majority\"]\n";
        let loaded = recipe::Source::from_text("r.toml", text).load::<Recipe>();
        let refused = loaded.expect_err("no answers").to_string();
        assert!(refused.contains("the rule majority reads final answers"), "{refused}");
    }
}
