//! Upper limits of sizes: what nobody means, and what would end in memory that is not there or in a run
//! without end.
//!
//! A setting whose own schema has a limit keeps it. All others get one here, by their key, so that no number
//! of a recipe is without.

use serde_json::{Map, Value as Json, json};

/// The most of an integer setting that is not in [`LARGEST`].
const INTEGER: u64 = 1 << 20;
/// The most of a number, and with a minus the least where it may be negative.
pub(crate) const NUMBER: f64 = 1e12;

/// Settings that have another limit than most, by key.
const LARGEST: [(&str, u64); 24] = [
    ("threads", 1024),
    ("r", 65_536),
    ("own_rank", 65_536),
    ("batch_size", 65_536),
    ("micro_batch_size", 65_536),
    ("reward_batch_size", 65_536),
    ("rows", 65_536),
    ("hidden_size", 65_536),
    ("intermediate_size", 262_144),
    ("layers", 1000),
    ("heads", 1024),
    ("kv_heads", 1024),
    ("children", 1024),
    ("beams", 65_536),
    ("successors", 65_536),
    ("width", 65_536),
    ("limit", 10_000_000),
    ("held_out", 10_000_000),
    ("tokenizer_problems", 10_000_000),
    ("skip", 1_000_000_000_000),
    ("warmup_steps", 100_000_000),
    ("every_steps", 100_000_000),
    ("keep_last", 100_000_000),
    ("top_k", 1 << 31),
];

/// Steps of an optimiser; those of a chain are answers.
const OPTIMISER: (&str, u64) = ("steps", 100_000_000);

/// Random seeds are any number.
const SEED: &str = "seed";

/// Gives every number of a schema that has no upper limit one.
pub(crate) fn bound(schema: &mut Json) {
    let Some(root) = schema.as_object_mut() else { return };
    bound_in(root, "");
}

fn bound_in(schema: &mut Map<String, Json>, name: &str) {
    if let Some(Json::Object(properties)) = schema.get_mut("properties") {
        for (key, property) in properties {
            bound_value(property, key, name);
        }
    }
    if let Some(Json::Object(definitions)) = schema.get_mut("$defs") {
        for (title, definition) in definitions {
            if let Some(definition) = definition.as_object_mut() {
                bound_in(definition, title);
            }
        }
    }
    for keyword in ["oneOf", "anyOf", "allOf"] {
        for part in schema.get_mut(keyword).and_then(Json::as_array_mut).into_iter().flatten() {
            if let Some(part) = part.as_object_mut() {
                bound_in(part, name);
            }
        }
    }
}

/// Bounds the value of `key` in the table `table`, and what is within it.
fn bound_value(value: &mut Json, key: &str, table: &str) {
    let Some(schema) = value.as_object_mut() else { return };
    let types = crate::schema::types(&Json::Object(schema.clone())).join(" ");
    let open = !schema.contains_key("maximum") && !schema.contains_key("exclusiveMaximum");
    if types.contains("integer") && open && key != SEED {
        let steps = (table == "Optim" && key == OPTIMISER.0).then_some(OPTIMISER.1);
        let listed = LARGEST.iter().find(|(name, _)| *name == key).map(|(_, most)| *most);
        schema.insert("maximum".into(), json!(steps.or(listed).unwrap_or(INTEGER)));
    } else if types.contains("number") {
        if open {
            schema.insert("maximum".into(), json!(NUMBER));
        }
        if !schema.contains_key("minimum") && !schema.contains_key("exclusiveMinimum") {
            schema.insert("minimum".into(), json!(-NUMBER));
        }
    }
    for keyword in ["items", "additionalProperties"] {
        if let Some(items) = schema.get_mut(keyword) {
            bound_value(items, key, table);
        }
    }
    for keyword in ["oneOf", "anyOf", "allOf"] {
        for part in schema.get_mut(keyword).and_then(Json::as_array_mut).into_iter().flatten() {
            bound_value(part, key, table);
        }
    }
    bound_in(schema, table);
}

#[cfg(test)]
mod tests {
    use crate::{Optim, Rules, Run, Sampling, Source, Validate};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};

    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Chain {
        #[serde(default)]
        steps: usize,
        #[serde(default)]
        weights: Vec<f64>,
        #[serde(default)]
        n: Option<usize>,
    }

    #[derive(Debug, Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Whole {
        #[serde(default)]
        run: Run,
        #[serde(default)]
        optim: Optim,
        #[serde(default)]
        sampling: Sampling,
        chain: Chain,
    }

    impl Validate for Whole {
        fn validate(&self, _: &mut Rules) {}
    }

    #[test]
    fn every_size_has_an_upper_limit_and_seeds_have_none() {
        let refused = |set: &str| {
            let source = Source::from_text("a.toml", "[chain]\n").set(set);
            source.load::<Whole>().err().map(|errors| errors.to_string())
        };
        for (set, limit) in [
            ("run.threads=100000", "1024"),
            ("optim.batch_size=1000000000000", "65536"),
            ("optim.steps=1000000000000", "100000000"),
            ("chain.steps=1000000000000", "1048576"),
            ("chain.n=9223372036854775807", "1048576"),
            ("sampling.max_new_tokens=4000000000", "1048576"),
            ("chain.weights=[1.0, 1e300]", "1000000000000"),
            ("optim.learning_rate=1e30", "1000000000000"),
        ] {
            let error = refused(set).unwrap_or_else(|| panic!("{set} is taken"));
            assert!(error.contains(limit) && error.contains("at most"), "{set}: {error}");
        }
        for set in
            ["run.seed=9223372036854775807", "optim.steps=1000000", "chain.n=1048576", "chain.weights=[-1]"]
        {
            assert_eq!(refused(set), None, "{set}");
        }
    }
}
