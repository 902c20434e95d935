//! The schema that `--schema` prints.

use crate::sample::Sample;
use recipe::{pipeline_schema, schema, schema_text};
use serde_json::{Value, json};

/// Every `$ref` of a schema leads somewhere within it.
fn check_references(part: &Value, root: &Value) {
    match part {
        Value::Object(object) => {
            if let Some(target) = object.get("$ref").and_then(Value::as_str) {
                assert!(root.pointer(target.trim_start_matches('#')).is_some(), "{target}");
            }
            object.values().for_each(|part| check_references(part, root));
        }
        Value::Array(items) => items.iter().for_each(|part| check_references(part, root)),
        _ => {}
    }
}

#[test]
fn a_schema_has_descriptions_ranges_defaults_and_closed_tables() {
    let schema = schema::<Sample>();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], json!(["model", "method"]));
    assert_eq!(schema["additionalProperties"], false);
    let optim = &schema["$defs"]["Optim"];
    assert_eq!(optim["additionalProperties"], false);
    let rate = &optim["properties"]["learning_rate"];
    assert_eq!(rate["description"], "Peak learning rate.");
    assert_eq!((&rate["type"], &rate["exclusiveMinimum"]), (&json!("number"), &json!(0)));
    assert_eq!(rate["default"], 1e-4);
    let top_p = &schema["$defs"]["Sampling"]["properties"]["top_p"];
    assert_eq!((&top_p["exclusiveMinimum"], &top_p["maximum"]), (&json!(0), &json!(1)));
    assert_eq!(schema["$defs"]["ModelName"]["type"], "string");
    check_references(&schema, &schema);
    assert_eq!(serde_json::from_str::<Value>(&schema_text::<Sample>()).unwrap(), schema);
}

#[test]
fn the_schema_of_a_pipeline_holds_that_of_its_stages() {
    let schema = pipeline_schema::<Sample>();
    assert_eq!(schema["required"], json!(["stages"]));
    let stage = &schema["properties"]["stages"]["items"];
    assert_eq!(stage["required"], json!(["name"]));
    assert!(schema["properties"]["defaults"]["properties"].get("optim").is_some());
    assert_eq!(schema["properties"]["defaults"]["required"], json!([]));
    for key in ["name", "recipe", "set", "method", "optim"] {
        assert!(stage["properties"].get(key).is_some(), "{key}");
    }
    check_references(&schema, &schema);
}
