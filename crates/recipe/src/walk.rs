//! The walk of a recipe's tree against its JSON Schema, which finds every wrong key, type and range in one pass.
//!
//! The schema keywords understood are those that `schemars` derives from Rust types: `$ref`, `type`, `enum`,
//! `const`, `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `minLength`, `maxLength`, `minItems`,
//! `maxItems`, `items`, `prefixItems`, `properties`, `required`, `additionalProperties`, `allOf`, `anyOf`, `oneOf`,
//! and `format` for the width of integers. A `pattern` is left to the type's own parser, which words it better.

use serde_json::{Map, Value as Json};

use crate::path::KeyPath;
use crate::place::Origin;
use crate::problem::{Problem, ProblemKind};
use crate::schema::{Document, NAMES_STAGE, expected, names, tagged, types};
use crate::suggest;
use crate::tree::{Entry, Node, Table, Value};

mod limits;
mod variants;

/// A string `stage:NAME` in a recipe.
#[derive(Debug, Clone)]
pub(crate) struct StageReference {
    pub(crate) stage: String,
    pub(crate) path: KeyPath,
    pub(crate) origin: Origin,
}

/// What a walk finds.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) problems: Vec<Problem>,
    /// What cannot be deserialised as it stands: the values that problems are about.
    pub(crate) broken: Vec<KeyPath>,
    /// Keys that a problem is probably about, though they are not there: the right spelling of a typo.
    pub(crate) meant: Vec<KeyPath>,
    pub(crate) references: Vec<StageReference>,
}

/// Walks a whole tree. `top` is how its root is called in a sentence: `at the top level`.
pub(crate) fn walk(root: &Node, schema: &Json, top: &'static str) -> Findings {
    let mut walker = Walker { document: Document { root: schema }, top, found: Findings::default() };
    walker.node(schema, root, &root.origin, &KeyPath::default());
    walker.found
}

struct Walker<'s> {
    document: Document<'s>,
    top: &'static str,
    found: Findings,
}

impl<'s> Walker<'s> {
    /// Checks one value. `named` is the place of its key, for what is wrong with a table as a whole.
    fn node(&mut self, schema: &'s Json, node: &Node, named: &Origin, path: &KeyPath) {
        let Some(object) = schema.as_object() else {
            self.finite(node, path);
            return;
        };
        if let Some(target) = self.document.target(object) {
            self.node(target, node, named, path);
        }
        for part in array(object, "allOf") {
            self.node(part, node, named, path);
        }
        for keyword in ["anyOf", "oneOf"] {
            if object.contains_key(keyword) {
                let alternatives = self.document.alternatives(array(object, keyword));
                self.alternatives(&alternatives, node, named, path);
            }
        }
        let wanted = types(schema);
        if !wanted.is_empty() && !wanted.iter().any(|name| is_type(node, name)) {
            return self.wrong_type(&expected(&wanted), node, path);
        }
        let allowed = names(schema);
        if let Value::String(text) = &node.value
            && !allowed.is_empty()
            && !allowed.contains(&text.as_str())
        {
            return self.unknown_value(text, &allowed, node, path);
        }
        match &node.value {
            Value::Integer(_) | Value::Float(_) => {
                if self.finite(node, path) {
                    self.number(object, node, path);
                }
            }
            Value::String(text) => {
                self.length(
                    object,
                    text.chars().count(),
                    ("minLength", "maxLength", "character"),
                    node,
                    path,
                );
                if object.get(NAMES_STAGE) == Some(&Json::Bool(true))
                    && let Some(stage) = text.strip_prefix("stage:")
                {
                    let (stage, path, origin) = (stage.to_owned(), path.clone(), node.origin.clone());
                    self.found.references.push(StageReference { stage, path, origin });
                }
            }
            Value::Array(items) => {
                self.length(object, items.len(), ("minItems", "maxItems", "item"), node, path);
                let leading = array(object, "prefixItems");
                for (index, item) in items.iter().enumerate() {
                    if let Some(schema) = leading.get(index).or_else(|| object.get("items")) {
                        self.node(schema, item, &item.origin, &path.index(index));
                    }
                }
            }
            Value::Table(table) => self.table(schema, object, table, named, path),
            Value::Boolean(_) | Value::Datetime(_) => {}
        }
    }

    /// Keys of a table: those it has against those it may and must have.
    fn table(
        &mut self,
        schema: &'s Json,
        object: &'s Map<String, Json>,
        table: &Table,
        named: &Origin,
        path: &KeyPath,
    ) {
        let properties = object.get("properties").and_then(Json::as_object);
        let rest = object.get("additionalProperties");
        for entry in &table.0 {
            let known = properties.and_then(|properties| properties.get(&entry.key));
            match (known, rest) {
                (None, Some(Json::Bool(false))) => self.unknown_key(schema, entry, path),
                (Some(schema), _) | (None, Some(schema)) => self.entry(schema, entry, path),
                (None, None) => {}
            }
        }
        for key in array(object, "required").iter().filter_map(Json::as_str) {
            if table.get(key).is_none() {
                let hint = properties.and_then(|properties| self.describe(properties.get(key)?));
                let message = format!("missing key `{key}` {}", self.section(path));
                self.report(named, &path.key(key), ProblemKind::MissingKey, message, hint);
            }
        }
    }

    /// How a table is called in a sentence.
    fn section(&self, path: &KeyPath) -> String {
        if path.0.is_empty() { self.top.to_owned() } else { format!("in [{path}]") }
    }

    fn entry(&mut self, schema: &'s Json, entry: &Entry, path: &KeyPath) {
        self.node(schema, &entry.node, &entry.origin, &path.key(&entry.key));
    }

    fn unknown_key(&mut self, schema: &'s Json, entry: &Entry, path: &KeyPath) {
        let properties = self.document.properties(schema);
        let valid: Vec<&str> =
            properties.into_iter().flat_map(|properties| properties.keys().map(String::as_str)).collect();
        let close = suggest::closest(&entry.key, valid.iter().copied());
        let hint = match close {
            None if valid.is_empty() => Some("this table takes no keys".to_owned()),
            None => self.elsewhere(&entry.key).or_else(|| suggest::hint(&entry.key, &valid, "valid keys")),
            Some(_) => suggest::hint(&entry.key, &valid, "valid keys"),
        };
        if let Some(meant) = close {
            self.found.meant.push(path.key(meant));
        }
        let message = format!("unknown key `{}` {}", entry.key, self.section(path));
        self.report(&entry.origin, &path.key(&entry.key), ProblemKind::UnknownKey, message, hint);
    }

    /// Whether a key that one table does not know belongs to another.
    fn elsewhere(&self, key: &str) -> Option<String> {
        let root = self.document.properties(self.document.root)?;
        if root.contains_key(key) {
            return Some(format!("`{key}` belongs at the top level"));
        }
        let holds =
            |schema: &'s Json| self.document.properties(schema).is_some_and(|keys| keys.contains_key(key));
        let (section, _) = root.iter().find(|(_, schema)| holds(schema))?;
        Some(format!("`{key}` belongs in [{section}]"))
    }

    /// What a missing key wants: its type or the names it takes.
    fn describe(&self, schema: &'s Json) -> Option<String> {
        let flat = self.document.alternatives(std::slice::from_ref(schema));
        let variants: Vec<&str> = flat.iter().filter_map(|part| Some(tagged(part)?.0)).collect();
        let named: Vec<&str> = flat.iter().flat_map(|part| names(part)).collect();
        if !variants.is_empty() || !named.is_empty() {
            let all: Vec<&str> = variants.into_iter().chain(named).collect();
            return Some(format!("one of: {}", all.join(", ")));
        }
        let wanted: Vec<&str> = flat.iter().flat_map(|part| types(part)).collect();
        (!wanted.is_empty()).then(|| format!("it takes {}", expected(&wanted)))
    }

    fn unknown_value(&mut self, text: &str, allowed: &[&str], node: &Node, path: &KeyPath) {
        let message = format!("`{path}`: unknown value `{text}`");
        let hint = suggest::hint(text, allowed, "one of");
        self.report(&node.origin, path, ProblemKind::UnknownName, message, hint);
    }

    fn wrong_type(&mut self, wanted: &str, node: &Node, path: &KeyPath) {
        let subject = if path.0.is_empty() { "the recipe".to_owned() } else { format!("`{path}`") };
        let message = format!("{subject}: expected {wanted}, found {}", node.found());
        let hint = match (&node.value, wanted) {
            (Value::Float(number), "an integer") if number.fract() == 0.0 && number.abs() < 1e15 => {
                Some(format!("write {number:.0}"))
            }
            (Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_), "a string") => {
                Some("write it in quotes".to_owned())
            }
            (Value::String(text), "a number" | "an integer" | "a boolean")
                if text.parse::<f64>().is_ok() || text.parse::<bool>().is_ok() =>
            {
                Some("write it without quotes".to_owned())
            }
            (Value::String(text), "an array") => {
                Some(format!("write `[{text:?}]`: a list needs its brackets"))
            }
            (Value::Table(_), "an array") => {
                Some(format!("write `[[{path}]]`, once for each item, and not `[{path}]`"))
            }
            _ => None,
        };
        self.report(&node.origin, path, ProblemKind::WrongType, message, hint);
    }

    fn report(
        &mut self,
        origin: &Origin,
        path: &KeyPath,
        kind: ProblemKind,
        message: String,
        hint: Option<String>,
    ) {
        self.found.broken.push(path.clone());
        self.found.problems.push(Problem::new(origin.place(), path, kind, message, hint));
    }
}

fn array<'s>(object: &'s Map<String, Json>, keyword: &str) -> &'s [Json] {
    object.get(keyword).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

/// Whether a value is of a JSON type. An integer is a number too: `learning_rate = 1` needs no point.
fn is_type(node: &Node, name: &str) -> bool {
    match &node.value {
        Value::String(_) => name == "string",
        Value::Integer(_) => name == "integer" || name == "number",
        Value::Float(_) => name == "number",
        Value::Boolean(_) => name == "boolean",
        Value::Array(_) => name == "array",
        Value::Table(_) => name == "object",
        Value::Datetime(_) => false,
    }
}
