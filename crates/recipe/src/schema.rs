//! The JSON Schema of a recipe type, and the few questions the walk asks of one.

use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value as Json};

/// The JSON Schema (draft 2020-12) of a recipe type, as `--schema` prints it.
pub fn schema<R: JsonSchema>() -> Json {
    let mut schema = schemars::schema_for!(R).to_value();
    crate::limits::bound(&mut schema);
    schema
}

/// [`schema`] as indented text.
pub fn schema_text<R: JsonSchema>() -> String {
    text(&schema::<R>())
}

pub(crate) fn text(schema: &Json) -> String {
    format!("{schema:#}\n")
}

/// For string types that parse themselves: their schema, written by hand because it is a format and not a struct.
pub(crate) fn string_schema(description: &str, example: &str) -> Schema {
    schemars::json_schema!({ "type": "string", "description": description, "examples": [example] })
}

/// The schema keyword of strings that may be `stage:NAME`, the output of an earlier stage of a pipeline. A type of
/// another crate takes part in the check of such names with `#[schemars(extend("x-names-stage" = true))]`.
pub const NAMES_STAGE: &str = "x-names-stage";

/// A schema document: looks up the `$ref`s that its parts make.
#[derive(Clone, Copy)]
pub(crate) struct Document<'s> {
    pub(crate) root: &'s Json,
}

impl<'s> Document<'s> {
    /// What a schema's `$ref` points at.
    pub(crate) fn target(self, schema: &Map<String, Json>) -> Option<&'s Json> {
        let pointer = schema.get("$ref")?.as_str()?.strip_prefix('#')?;
        self.root.pointer(pointer)
    }

    /// A schema, or what its `$ref` points at in the end.
    pub(crate) fn resolve(self, schema: &'s Json) -> &'s Json {
        let target = schema.as_object().and_then(|object| self.target(object));
        target.map_or(schema, |target| self.resolve(target))
    }

    /// The properties of a table schema, through `$ref`.
    pub(crate) fn properties(self, schema: &'s Json) -> Option<&'s Map<String, Json>> {
        self.resolve(schema).get("properties")?.as_object()
    }

    /// The alternatives of a schema, those of nested `anyOf` and `oneOf` included; `null` is left out, since TOML
    /// has none and an optional key is simply not written.
    pub(crate) fn alternatives(self, schemas: &'s [Json]) -> Vec<&'s Json> {
        let mut flat = Vec::new();
        for schema in schemas {
            let target = self.resolve(schema);
            let nested = ["anyOf", "oneOf"].iter().find_map(|keyword| target.get(keyword)?.as_array());
            match nested {
                Some(nested) => flat.extend(self.alternatives(nested)),
                None if target.get("type").and_then(Json::as_str) == Some("null") => {}
                None => flat.push(target),
            }
        }
        flat
    }
}

/// The JSON types that a schema takes, `null` left out; empty when it does not say.
pub(crate) fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one.as_str()],
        Some(Json::Array(many)) => {
            many.iter().filter_map(Json::as_str).filter(|name| *name != "null").collect()
        }
        _ => Vec::new(),
    }
}

/// The strings that a schema of names takes: its `enum` or its `const`.
pub(crate) fn names(schema: &Json) -> Vec<&str> {
    let many = schema.get("enum").and_then(Json::as_array).into_iter().flatten();
    many.chain(schema.get("const")).filter_map(Json::as_str).collect()
}

/// The name and the content of an externally tagged variant: an object with exactly one key, which is required.
pub(crate) fn tagged(schema: &Json) -> Option<(&str, &Json)> {
    let properties = schema.get("properties")?.as_object()?;
    let required = schema.get("required")?.as_array()?;
    let closed = schema.get("additionalProperties") == Some(&Json::Bool(false));
    let (name, content) = properties.iter().next()?;
    let alone = properties.len() == 1 && required.len() == 1 && required[0].as_str() == Some(name);
    (alone && closed).then_some((name.as_str(), content))
}

/// What a schema takes, in a sentence: `an integer`, `a string or a table`.
pub(crate) fn expected(types: &[&str]) -> String {
    let named: Vec<&str> = types
        .iter()
        .map(|name| match *name {
            "integer" => "an integer",
            "number" => "a number",
            "boolean" => "a boolean",
            "string" => "a string",
            "array" => "an array",
            "object" => "a table",
            other => other,
        })
        .collect();
    named.join(" or ")
}
