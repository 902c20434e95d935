//! Rules by which a completion is chosen from a pool, as a comparison lists them.

use inference::{METHODS, Method, MethodConfig};
use recipe::{Rules, Validate, Violation};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A rule: its name, for its default settings, or a table of settings as in `{ soft-best-of-n = { beta = 0.5 } }`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum RuleTable {
    /// By name.
    Name(String),
    /// With settings. Their `n` is that of the comparison.
    Table(Box<MethodConfig>),
}

/// The names of all rules on pools.
pub(super) fn rule_names() -> Vec<&'static str> {
    let is_rule = |name: &&str| MethodConfig::named(name).is_some_and(|method| method.rule().is_some());
    METHODS.iter().map(|info| info.name).filter(is_rule).collect()
}

impl RuleTable {
    /// The rule with its settings; weighted majority by name has the comparison's `beta`. `None` for a name of nothing.
    pub(super) fn method(&self, beta: f64) -> Option<MethodConfig> {
        let mut method = match self {
            Self::Name(name) => MethodConfig::named(name)?,
            Self::Table(method) => return Some((**method).clone()),
        };
        if let MethodConfig::WeightedMajority(settings) = &mut method {
            settings.beta = beta;
        }
        Some(method)
    }
}

impl<'de> Deserialize<'de> for RuleTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NameOrTable)
    }
}

struct NameOrTable;

impl<'de> Visitor<'de> for NameOrTable {
    type Value = RuleTable;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the name of a rule, or a table of its settings")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<RuleTable, E> {
        Ok(RuleTable::Name(name.to_owned()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<RuleTable, A::Error> {
        MethodConfig::deserialize(MapAccessDeserializer::new(map))
            .map(|method| RuleTable::Table(Box::new(method)))
    }
}

impl JsonSchema for RuleTable {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "RuleTable".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let names = rule_names();
        let methods = MethodConfig::json_schema(generator);
        let mut variants = methods.get("oneOf").and_then(Value::as_array).cloned().unwrap_or_default();
        variants.retain(|variant| names.iter().any(|name| variant["properties"].get(name).is_some()));
        variants.push(serde_json::json!({ "type": "string", "enum": names }));
        json_schema!({ "description": "A rule: its name, or a table of its settings.", "oneOf": variants })
    }
}

impl Validate for RuleTable {
    fn validate(&self, rules: &mut Rules) {
        // A recipe's names are checked by the schema.
        if let Self::Table(method) = self {
            method.validate(rules);
            rules.check(&[&format!("{}.n", method.info().name)], n_is_the_comparisons(method));
        }
    }
}

fn n_is_the_comparisons(method: &MethodConfig) -> Result<(), Violation> {
    let default = MethodConfig::named(method.info().name).map(|default| default.samples());
    if default == Some(method.samples()) {
        return Ok(());
    }
    let message =
        format!("{} has no effect: a rule is compared at every `n` of the comparison", method.samples());
    Err(Violation::new(message).hint("leave it out, and add the number to `n` of the comparison"))
}
