//! Stand-ins for required values that are missing or were taken out as wrong.
//!
//! Without them one malformed `model` would keep the whole recipe from being read, and so hide the cross-field rules
//! that other tables break. What a stand-in stands for has a problem already, so no rule about it is judged.

use serde_json::{Map, Value as Json};

use crate::place::Origin;
use crate::schema::{Document, names, tagged, types};
use crate::tree::{Entry, Node, Table, Value};

/// How deep a stand-in may nest: recursive types have no end of their own.
const DEPTH: usize = 4;

/// Fills in every required key that a tree lacks, where the schema tells a value that will do.
pub(crate) fn complete(node: &mut Node, schema: &Json, document: Document<'_>) {
    for schema in document.alternatives(std::slice::from_ref(schema)) {
        match &mut node.value {
            Value::Array(items) => {
                if let Some(schema) = schema.get("items") {
                    for item in items {
                        complete(item, schema, document);
                    }
                }
            }
            Value::Table(table) => complete_table(table, &node.origin, schema, document),
            _ => {}
        }
    }
}

fn complete_table(table: &mut Table, origin: &Origin, schema: &Json, document: Document<'_>) {
    if tagged(schema).is_some_and(|(name, _)| table.get(name).is_none()) {
        return; // Another variant.
    }
    let properties = schema.get("properties").and_then(Json::as_object);
    let rest = schema.get("additionalProperties");
    for entry in &mut table.0 {
        if let Some(schema) = properties.and_then(|properties| properties.get(&entry.key)).or(rest) {
            complete(&mut entry.node, schema, document);
        }
    }
    for (key, schema) in required(schema) {
        if table.get(key).is_none()
            && let Some(value) = stand_in(schema, document, DEPTH)
        {
            let node = with_origin(value, origin);
            table.put(Entry { key: key.to_owned(), origin: origin.clone(), node });
        }
    }
}

/// The required keys of a table schema and what they take.
fn required(schema: &Json) -> impl Iterator<Item = (&str, &Json)> {
    let properties = schema.get("properties").and_then(Json::as_object);
    let keys = schema.get("required").and_then(Json::as_array).into_iter().flatten();
    keys.filter_map(move |key| properties?.get_key_value(key.as_str()?))
        .map(|(key, schema)| (key.as_str(), schema))
}

/// A value that a schema takes: an example of its author's, or else the plainest of its type.
fn stand_in(schema: &Json, document: Document<'_>, depth: usize) -> Option<Json> {
    let depth = depth.checked_sub(1)?;
    let alternatives = document.alternatives(std::slice::from_ref(schema));
    alternatives.into_iter().find_map(|schema| plainest(schema, document, depth))
}

fn plainest(schema: &Json, document: Document<'_>, depth: usize) -> Option<Json> {
    let example = schema.get("examples").and_then(|examples| examples.get(0));
    if let Some(example) = example.or_else(|| schema.get("default")) {
        return Some(example.clone());
    }
    if let Some(name) = names(schema).first() {
        return Some(Json::from(*name));
    }
    let number = |keyword: &str| schema.get(keyword).and_then(Json::as_f64);
    let value = match *types(schema).first()? {
        "string" => "-".into(),
        "boolean" => false.into(),
        "integer" => schema.get("minimum").and_then(Json::as_i64).unwrap_or(0).into(),
        "number" => match (number("minimum"), number("exclusiveMinimum"), number("exclusiveMaximum")) {
            (Some(least), ..) => least.into(),
            (None, Some(below), Some(above)) => f64::midpoint(below, above).into(),
            (None, Some(below), None) => (below + 1.0).into(),
            (None, None, _) => 0.0.into(),
        },
        "array" => {
            let count = schema.get("minItems").and_then(Json::as_u64).unwrap_or(0);
            let item = schema.get("items").and_then(|schema| stand_in(schema, document, depth));
            Json::Array((0..count).filter_map(|_| item.clone()).collect())
        }
        "object" => {
            let entries = required(schema)
                .map(|(key, schema)| Some((key.to_owned(), stand_in(schema, document, depth)?)));
            Json::Object(entries.collect::<Option<Map<_, _>>>()?)
        }
        _ => return None,
    };
    Some(value)
}

fn with_origin(value: Json, origin: &Origin) -> Node {
    let value = match value {
        Json::Null => Value::Table(Table::default()),
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => match number.as_i128() {
            Some(number) => Value::Integer(number),
            None => Value::Float(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::String(text),
        Json::Array(items) => Value::Array(items.into_iter().map(|item| with_origin(item, origin)).collect()),
        Json::Object(entries) => Value::Table(Table(
            entries
                .into_iter()
                .map(|(key, value)| Entry { key, origin: origin.clone(), node: with_origin(value, origin) })
                .collect(),
        )),
    };
    Node { value, origin: origin.clone() }
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;

    use super::*;

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Tree {
        Not(Box<Tree>),
        Both { left: Box<Tree>, right: Box<Tree> },
        Leaf(#[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))] f64),
    }

    #[test]
    fn recursive_types_have_a_finite_stand_in() {
        let schema = crate::schema::schema::<Tree>();
        let value = stand_in(&schema, Document { root: &schema }, DEPTH);
        assert_eq!(value, Some(serde_json::json!({ "Not": { "Not": { "Leaf": 0.5 } } })));
    }
}
