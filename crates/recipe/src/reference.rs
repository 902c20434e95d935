//! Markdown of a schema: one table of keys for each table of a recipe.

use std::fmt::Write as _;

use serde_json::{Map, Value as Json};

use crate::limits::NUMBER;
use crate::schema::{Document, names, tagged, types};

/// A variant of an externally tagged enum, such as a method of `[method.NAME]`.
#[derive(Debug, Clone, Copy)]
pub struct Variant<'s> {
    /// Its name, the key of its table.
    pub name: &'s str,
    /// Its line of documentation; empty where it has none.
    pub description: &'s str,
    /// The schema of its table.
    pub schema: &'s Json,
}

/// The variants of the enum that the key `key` of the schema document `root` holds, in their order.
pub fn variants<'s>(root: &'s Json, key: &str) -> Vec<Variant<'s>> {
    let document = Document { root };
    let Some(property) = root.get("properties").and_then(|properties| properties.get(key)) else {
        return Vec::new();
    };
    tables(document, property)
        .into_iter()
        .map(|(name, table, schema)| Variant { name, description: described(table), schema })
        .collect()
}

/// The tables of keys of `schema`, a part of the document `root`: its own under the heading `[path]`, then those of the
/// tables within. A table that holds one of several kinds names them, as `answer` for `[reward.answer]`. What
/// is no table is a
/// line that says what it takes.
pub fn keys(root: &Json, path: &str, schema: &Json) -> String {
    let document = Document { root };
    let mut text = String::new();
    match inner_table(document, schema) {
        Some((suffix, inner)) => section(document, &format!("{path}{suffix}"), inner, "", &mut text),
        None => {
            let _ = writeln!(text, "`{path} = …`: {}.\n", kind(document, schema));
        }
    }
    text
}

/// [`keys`] of a variant, with its line of documentation under the heading.
pub fn variant_keys(root: &Json, path: &str, variant: &Variant<'_>) -> String {
    let document = Document { root };
    let (suffix, inner) = inner_table(document, variant.schema).unwrap_or(("", variant.schema));
    let mut text = String::new();
    section(document, &format!("{path}.{}{suffix}", variant.name), inner, variant.description, &mut text);
    text
}

/// A table of keys with its heading: `[path]`, or `[[path]]` where a list of such tables is written.
fn section(document: Document<'_>, path: &str, schema: &Json, description: &str, text: &mut String) {
    let _ = match path.strip_suffix("[]") {
        Some(path) => writeln!(text, "### `[[{path}]]`\n"),
        None => writeln!(text, "### `[{path}]`\n"),
    };
    if !description.is_empty() {
        let _ = writeln!(text, "{description}\n");
    }
    let none = Map::new();
    let properties = document.properties(schema).unwrap_or(&none);
    if properties.is_empty() {
        text.push_str("No keys.\n\n");
        return;
    }
    let required = document.resolve(schema).get("required").and_then(Json::as_array);
    let needed = |key: &str| required.is_some_and(|all| all.iter().any(|name| name.as_str() == Some(key)));
    text.push_str("| key | type | default | meaning |\n|---|---|---|---|\n");
    let mut within = Vec::new();
    for (key, property) in properties {
        let kind = kind(document, property);
        let default = match property.get("default") {
            _ if needed(key) => "required".to_owned(),
            Some(Json::Object(_) | Json::Null) | None => String::new(),
            Some(value) => format!("`{value}`"),
        };
        let mut meaning = described(property).to_owned();
        for (name, description) in meanings(document, property) {
            let _ = write!(meaning, " `{name}`: {description}");
        }
        let _ = writeln!(text, "| `{key}` | {kind} | {default} | {} |", cell(&meaning));
        if let Some((suffix, inner)) = inner_table(document, property) {
            within.push((format!("{path}.{key}{suffix}"), inner));
        }
    }
    text.push('\n');
    for (path, inner) in within {
        section(document, &path, inner, "", text);
    }
}

/// The schema of the table that a key holds, itself or as items of an array, and what stands behind its name.
fn inner_table<'s>(document: Document<'s>, property: &'s Json) -> Option<(&'static str, &'s Json)> {
    if document.properties(property).is_some() && tables(document, property).is_empty() {
        return Some(("", property));
    }
    // A table that may be left out is the one alternative to nothing.
    if let [only] = document.alternatives(std::slice::from_ref(property))[..]
        && document.properties(only).is_some()
        && tables(document, property).is_empty()
    {
        return Some(("", only));
    }
    let items = property.get("items")?;
    (document.properties(items).is_some() && tables(document, items).is_empty()).then_some(("[]", items))
}

/// Names, whole schemas and contents of the tagged alternatives of a schema.
fn tables<'s>(document: Document<'s>, schema: &'s Json) -> Vec<(&'s str, &'s Json, &'s Json)> {
    let all = document.alternatives(std::slice::from_ref(schema));
    let found: Vec<_> =
        all.iter().filter_map(|one| tagged(one).map(|(name, content)| (name, *one, content))).collect();
    // A plain table with one required key looks like a variant; an enum has several, or says `oneOf`.
    let is_enum = ["oneOf", "anyOf"].iter().any(|word| document.resolve(schema).get(word).is_some());
    if is_enum { found } else { Vec::new() }
}

/// What a key takes, as users read it.
fn kind(document: Document<'_>, property: &Json) -> String {
    let tagged: Vec<String> =
        tables(document, property).iter().map(|(name, ..)| format!("`{name}`")).collect();
    if !tagged.is_empty() {
        return format!("table: one of {}", tagged.join(", "));
    }
    let alternatives = document.alternatives(std::slice::from_ref(property));
    let named: Vec<String> =
        alternatives.iter().flat_map(|one| names(one)).map(|name| format!("`\"{name}\"`")).collect();
    if !named.is_empty() {
        return named.join(", ");
    }
    let target = alternatives.first().copied().unwrap_or(property);
    let types: Vec<&str> = types(target)
        .into_iter()
        .map(|name| match name {
            "array" => "list",
            "object" => "table",
            other => other,
        })
        .collect();
    let mut text = types.join(" or ");
    if let Some(items) = property.get("items").or_else(|| target.get("items")) {
        let _ = write!(text, " of {}", kind(document, items));
    }
    let limits = limits(property.as_object().into_iter().chain(target.as_object()));
    if !limits.is_empty() {
        let _ = write!(text, ", {limits}");
    }
    text
}

/// The range of numbers, in words.
fn limits<'s>(schemas: impl Iterator<Item = &'s Map<String, Json>> + Clone) -> String {
    let words = [
        ("minimum", "≥"),
        ("exclusiveMinimum", ">"),
        ("maximum", "≤"),
        ("exclusiveMaximum", "<"),
        ("minItems", "at least"),
    ];
    let mut parts = Vec::new();
    for (keyword, word) in words {
        let limit = schemas.clone().find_map(|schema| schema.get(keyword));
        // What every number has says nothing about one.
        if let Some(limit) = limit.filter(|limit| limit.as_f64().is_none_or(|limit| limit.abs() < NUMBER)) {
            parts.push(format!("{word} {limit}"));
        }
    }
    parts.join(", ")
}

/// The named values of a key that have documentation of their own.
fn meanings<'s>(document: Document<'s>, property: &'s Json) -> Vec<(&'s str, &'s str)> {
    document
        .alternatives(std::slice::from_ref(property))
        .into_iter()
        .filter_map(|one| Some((one.get("const")?.as_str()?, described(one))))
        .filter(|(_, description)| !description.is_empty())
        .collect()
}

fn described(schema: &Json) -> &str {
    schema.get("description").and_then(Json::as_str).unwrap_or_default()
}

/// Text that fits a cell of a table.
fn cell(text: &str) -> String {
    text.replace('\n', " ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;

    use super::*;

    /// The whole.
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Whole {
        /// What is done.
        method: Choice,
    }

    #[derive(JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    #[expect(dead_code, reason = "only its schema is looked at")]
    enum Choice {
        /// The first.
        OneWay(One),
        /// The second.
        Other(Two),
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct One {
        /// How | many.
        #[schemars(range(min = 1, max = 9))]
        count: usize,
        /// Weights.
        #[schemars(length(min = 2))]
        weights: Option<Vec<f64>>,
        /// How.
        way: Way,
        /// More.
        inner: Vec<Two>,
        /// Or none.
        perhaps: Option<Three>,
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Two {
        /// A name.
        name: String,
    }

    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Three {
        /// A number.
        number: Option<f64>,
    }

    #[derive(JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    #[expect(dead_code, reason = "only its schema is looked at")]
    enum Way {
        /// Straight on.
        StraightOn,
        /// Round.
        Round,
    }

    #[test]
    fn every_key_has_its_type_range_and_meaning() {
        let root = crate::schema::<Whole>();
        let found = variants(&root, "method");
        let named: Vec<_> = found.iter().map(|variant| (variant.name, variant.description)).collect();
        assert_eq!(named, [("one-way", "The first."), ("other", "The second.")]);
        assert_eq!(
            keys(&root, "method.one-way", found[0].schema),
            "\
### `[method.one-way]`

| key | type | default | meaning |
|---|---|---|---|
| `count` | integer, ≥ 1, ≤ 9 | required | How \\| many. |
| `weights` | list of number, at least 2 |  | Weights. |
| `way` | `\"straight-on\"`, `\"round\"` | required | How. `straight-on`: Straight on. `round`: Round. |
| `inner` | list of table | required | More. |
| `perhaps` | table |  | Or none. |

### `[[method.one-way.inner]]`

| key | type | default | meaning |
|---|---|---|---|
| `name` | string | required | A name. |

### `[method.one-way.perhaps]`

| key | type | default | meaning |
|---|---|---|---|
| `number` | number |  | A number. |

"
        );
        assert!(variants(&root, "missing").is_empty());
        let with = variant_keys(&root, "method", &found[1]);
        assert!(with.starts_with("### `[method.other]`\n\nThe second.\n\n| key |"), "{with}");
    }

    /// A value that is no table, a table that may be left out, a list of tables, a variant without keys.
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is looked at")]
    struct Shapes {
        list: Vec<String>,
        perhaps: Option<Three>,
        many: Vec<Two>,
        reward: Reward,
    }

    #[derive(JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    #[expect(dead_code, reason = "only its schema is looked at")]
    enum Reward {
        /// Nothing to set.
        Bare(Bare),
        /// Several.
        Sum(Vec<Two>),
    }

    #[derive(JsonSchema)]
    struct Bare {}

    #[test]
    fn every_shape_of_a_key_has_its_form() {
        let root = crate::schema::<Shapes>();
        let of = |key: &str| keys(&root, key, &root["properties"][key]);
        assert_eq!(of("list"), "`list = …`: list of string.\n\n");
        assert!(of("perhaps").starts_with("### `[perhaps]`\n\n| key |"));
        assert!(of("many").starts_with("### `[[many]]`\n\n| key |"));
        let [bare, sum] = &variants(&root, "reward")[..] else { panic!("two variants") };
        assert_eq!(
            variant_keys(&root, "reward", bare),
            "### `[reward.bare]`\n\nNothing to set.\n\nNo keys.\n\n"
        );
        assert!(
            variant_keys(&root, "reward", sum).starts_with("### `[[reward.sum]]`\n\nSeveral.\n\n| key |")
        );
    }
}
