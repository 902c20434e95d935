//! What tells the rows of a comparison apart, known before anything runs.

use std::collections::{BTreeMap, BTreeSet};

use inference::{Method, MethodConfig};
use recipe::Violation;
use serde_json::{Map, Value, json};

use super::config::{Compare, RunTable};
use super::run::settings_of;

/// Settings of a row by name, as the report shows them.
pub(super) type Params = BTreeMap<String, Value>;

/// Settings that a row's `n` tells, and those that change nothing that a row shows.
const TOLD_BY_N: [&str; 3] = ["n", "steps", "at"];
const WITHOUT_EFFECT: [&str; 1] = ["record_moves"];

/// Options that are named where they are not the default.
const OPTIONS: [&str; 7] =
    ["burn_in", "cut", "ladder", "pilot", "rao_blackwell", "stop_when_decided", "tries"];

fn settings(method: &MethodConfig) -> Map<String, Value> {
    let value = serde_json::to_value(method).unwrap_or_default();
    let table = value.as_object().and_then(|tagged| tagged.values().next()).cloned();
    table.as_ref().and_then(Value::as_object).cloned().unwrap_or_default()
}

/// The settings that tell two rows of a method apart, without what is `n`: all that are not the defaults, and
/// of the others
/// those that a reader needs to know a method by.
pub(super) fn params_of(method: &MethodConfig) -> Params {
    let defaults = MethodConfig::named(method.info().name).as_ref().map(settings).unwrap_or_default();
    let is_shown = |key: &str, value: &Value| {
        let changed = defaults.get(key) != Some(value);
        // A switch that is off, as it is by default, tells nothing.
        let telling = !OPTIONS.contains(&key) && *value != Value::Bool(false);
        !TOLD_BY_N.contains(&key) && !WITHOUT_EFFECT.contains(&key) && (changed || telling)
    };
    settings(method).into_iter().filter(|(key, value)| is_shown(key, value)).collect()
}

/// The settings of a run's rows: those of its method, what it runs with, and whatever else tells it from the
/// other rows.
pub(super) fn run_params(compare: &Compare, table: &RunTable) -> Params {
    let mut params = own_params(table);
    let twins = || {
        let others = compare.runs.iter().filter(|other| !std::ptr::eq(*other, table));
        others.filter(|other| {
            let same = (other.method.info().name, &other.policy) == (table.method.info().name, &table.policy);
            same && own_params(other) == own_params(table)
        })
    };
    // Models are named where they are all that tells two runs apart.
    if twins().any(|other| (&other.arms, &other.models) != (&table.arms, &table.models)) {
        let named = table.models.iter().map(|(role, model)| format!("{role}={model}"));
        let models: Vec<String> = table.arms.iter().map(ToString::to_string).chain(named).collect();
        params.insert("models".into(), json!(models));
    }
    // So is all of a value of which the label tells a part.
    if twins().any(|other| other.value != table.value) {
        params.insert("value".into(), json!(table.value));
    }
    // Settings that `n` tells are shown where points of two curves have the same `n`.
    let counts: BTreeSet<usize> = table.method.counts().into_iter().collect();
    let own = settings(&table.method);
    for other in twins() {
        let theirs = settings(&other.method);
        let stops = own.get("stop_when_decided") == Some(&Value::Bool(true));
        if stops || other.method.counts().iter().any(|count| counts.contains(count)) {
            let differ = TOLD_BY_N.iter().filter(|key| own.get(**key) != theirs.get(**key));
            params.extend(differ.filter_map(|key| Some(((*key).to_owned(), own.get(*key)?.clone()))));
        }
    }
    // A run beside the same rule on the policy's pool has draws of its own.
    let rules = compare.policies.iter().filter(|policy| policy.name == table.policy);
    let mut rules = rules.flat_map(|policy| settings_of(compare, policy));
    if rules.any(|(method, n)| {
        method.info().name == table.method.info().name && counts.contains(&n) && params_of(&method) == params
    }) {
        params.insert("alone".into(), json!(true));
    }
    params
}

/// What a run shows whatever else is compared.
fn own_params(table: &RunTable) -> Params {
    let mut params = params_of(&table.method);
    params.extend(table.temperature.map(|temperature| ("temperature".to_owned(), json!(temperature))));
    params.extend(table.value.as_ref().map(|value| ("value".to_owned(), json!(value.label()))));
    params.extend(table.rollout.as_ref().map(|rollout| ("rollout".to_owned(), json!(rollout.to_string()))));
    params.extend(table.draft.as_ref().map(|draft| ("draft".to_owned(), json!(draft.to_string()))));
    params
}

/// Whether every row has a name of its own.
pub(super) fn rows_differ(compare: &Compare) -> Result<(), Violation> {
    let mut seen: BTreeSet<(String, &str, String, usize)> = BTreeSet::new();
    let mut put = |policy: &str, method: &MethodConfig, params: &Params, n: usize| {
        let name = method.info().name;
        let text = json!(params).to_string();
        if seen.insert((policy.to_owned(), name, text, n)) {
            return Ok(());
        }
        let shown: Vec<String> = params.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        let message = format!("two rows are {name} on {policy:?}, n = {n}{}", shown.concat());
        Err(Violation::new(message).hint("leave one out, or give the two different settings"))
    };
    for policy in &compare.policies {
        for (method, n) in settings_of(compare, policy) {
            put(&policy.name, &method, &params_of(&method), n)?;
        }
    }
    for table in &compare.runs {
        let params = run_params(compare, table);
        for n in table.method.counts() {
            put(&table.policy, &table.method, &params, n)?;
        }
    }
    Ok(())
}

/// Says which β are compared where weighted votes and chains of one policy, which estimate one distribution
/// of answers at
/// one β, have several.
pub(super) fn betas_that_differ(compare: &Compare) -> Vec<String> {
    let mut notes = Vec::new();
    for policy in &compare.policies {
        let rules = settings_of(compare, policy).into_iter().map(|(method, _)| method);
        let runs = compare.runs.iter().filter(|run| run.policy == policy.name).map(|run| run.method.clone());
        let mut votes: Vec<(&str, f64)> = Vec::new();
        for method in rules.chain(runs) {
            let beta = match &method {
                MethodConfig::WeightedMajority(settings) => Some(settings.beta),
                MethodConfig::QAlign(settings) => Some(settings.beta),
                MethodConfig::IndependenceMh(settings) => Some(settings.beta),
                MethodConfig::RandomCut(settings) => settings.beta,
                _ => None,
            };
            votes.extend(beta.map(|beta| (method.info().name, beta)));
        }
        votes.dedup();
        let betas: BTreeSet<u64> = votes.iter().map(|(_, beta)| beta.to_bits()).collect();
        let names: BTreeSet<&str> = votes.iter().map(|(name, _)| *name).collect();
        // Several β of one method are a sweep, which its labels show; two methods without a β in common are
        // not comparable.
        let common = betas.iter().any(|beta| {
            names.iter().all(|name| votes.iter().any(|(other, b)| other == name && b.to_bits() == *beta))
        });
        if names.len() > 1 && !common {
            let all: Vec<String> = votes.iter().map(|(name, beta)| format!("{name} β = {beta}")).collect();
            notes.push(format!(
                "{}: {}: votes by exp(reward / β) and chains with that target estimate one distribution of answers only at \
                 the same β; here they do not compare.",
                policy.name,
                all.join(", ")
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(rules: Value, runs: Value) -> Compare {
        serde_json::from_value(json!({
            "samples": 8, "n": [2, 8], "gold": { "answer": {} }, "proxy": { "brevity": {} },
            "policies": [{ "name": "base", "rules": rules }], "runs": runs,
        }))
        .expect("a comparison")
    }

    fn run(method: Value) -> Value {
        json!({ "policy": "base", "method": method })
    }

    fn params(compare: &Compare) -> Vec<String> {
        compare.runs.iter().map(|table| json!(run_params(compare, table)).to_string()).collect()
    }

    #[test]
    fn rows_that_differ_in_any_setting_are_told_apart() {
        let chains = [
            json!({ "answer": "vote" }),
            json!({ "answer": "best" }),
            json!({ "burn_in": 4 }),
            json!({ "rao_blackwell": true }),
            json!({ "chains": 2 }),
            json!({ "steps": 32 }),
            json!({ "steps": 32, "burn_in": 4, "at": [8, 16] }),
            // Its curve meets the end of the one above.
            json!({ "steps": 64, "burn_in": 4, "at": [32] }),
            json!({ "stop_when_decided": true }),
            json!({ "tries": 2 }),
        ];
        let runs: Vec<Value> = chains.iter().map(|settings| run(json!({ "qalign": settings }))).collect();
        let compare = compare(json!([]), json!(runs));
        rows_differ(&compare).unwrap_or_else(|violation| panic!("{violation:?}"));
        let shown = params(&compare);
        assert!(shown[0].contains("\"answer\":\"vote\"") && shown[1].contains("\"answer\":\"best\""));
        assert!(shown[2].contains("burn_in") && shown[3].contains("rao_blackwell"));
        assert!(!shown[0].contains("burn_in") && !shown[0].contains("steps"), "{}", shown[0]);
        assert!(shown[6].contains("\"steps\":32") && shown[7].contains("\"steps\":64"), "{shown:?}");
    }

    #[test]
    fn a_run_beside_its_own_rule_is_told_apart() {
        let compare = compare(json!(["best-of-n"]), json!([run(json!({ "best-of-n": { "n": 8 } }))]));
        assert!(rows_differ(&compare).is_ok());
        assert_eq!(params(&compare), ["{\"alone\":true}"]);
    }

    #[test]
    fn rows_that_are_one_are_refused_before_anything_runs() {
        let twice = run(json!({ "qalign": { "steps": 8 } }));
        let compare = compare(json!([]), json!([twice, twice]));
        let violation = format!("{:?}", rows_differ(&compare).expect_err("twice"));
        assert!(violation.contains("two rows are qalign") && violation.contains("n = 9"), "{violation}");
    }

    #[test]
    fn votes_and_chains_without_a_common_beta_are_named() {
        let qalign = |beta: f64| run(json!({ "qalign": { "beta": beta } }));
        let rules = json!(["weighted-majority"]);
        assert!(betas_that_differ(&compare(rules.clone(), json!([run(json!({ "qalign": {} }))]))).is_empty());
        assert!(betas_that_differ(&compare(rules.clone(), json!([qalign(2.0), qalign(0.5)]))).is_empty());
        let notes = betas_that_differ(&compare(rules, json!([qalign(2.0)])));
        assert!(notes[0].contains("weighted-majority β = 0.5, qalign β = 2"), "{notes:?}");
    }
}
