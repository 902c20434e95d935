//! From a tree to a recipe's value, with every problem on the way.

use std::sync::Arc;

use schemars::JsonSchema;
use serde_json::Value as Json;

use crate::complete::complete;
use crate::path::KeyPath;
use crate::place::{Origin, SourceFile};
use crate::problem::{Problem, ProblemKind};
use crate::rules::Rules;
use crate::schema::{Document, schema};
use crate::source::Recipe;
use crate::tree::{Node, Value};
use crate::walk::{StageReference, walk};

/// The outcome of checking one tree.
pub(crate) struct Checked<R> {
    /// None only if there are problems.
    pub(crate) value: Option<R>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) references: Vec<StageReference>,
}

/// What a tree is checked against.
pub(crate) struct Form {
    pub(crate) schema: Json,
    /// Keys that are part of the schema and not of the recipe's type.
    pub(crate) reserved: &'static [&'static str],
    /// How the root is called in a sentence.
    pub(crate) top: &'static str,
}

impl Form {
    pub(crate) fn of<R: JsonSchema>() -> Self {
        Self { schema: schema::<R>(), reserved: &[], top: "at the top level" }
    }
}

/// Walks a tree, deserialises it and judges its rules.
///
/// What has a problem is taken out, and replaced by a stand-in where it is required, before the next step: one
/// mistake neither hides others nor causes reports of its own.
pub(crate) fn check<R: Recipe>(mut root: Node, form: &Form, file: &Arc<SourceFile>) -> Checked<R> {
    let found = walk(&root, &form.schema, form.top);
    let (mut problems, meant, references) = (found.problems, found.meant, found.references);
    // An item of an array takes the array with it, so that other paths keep their meaning.
    let mut broken: Vec<KeyPath> = found.broken.iter().map(KeyPath::to_last_key).collect();
    for path in &broken {
        root.remove(path);
    }
    let value = loop {
        if !problems.is_empty() {
            complete(&mut root, &form.schema, Document { root: &form.schema });
        }
        if let Value::Table(table) = &mut root.value {
            form.reserved.iter().for_each(|key| drop(table.take(key)));
        }
        match R::deserialize(&root) {
            Ok(value) => break Some(value),
            Err(failure) => {
                let path = failure.path();
                // A key whose absence the walk reported is no news, nor is a stand-in that does not do.
                let stand_in = broken.iter().any(|broken| broken.contains(&path));
                if stand_in || (failure.missing && !problems.is_empty()) {
                    break None;
                }
                let origin = root.at(&path).map_or(&root.origin, |node| &node.origin);
                problems.push(residual(&failure.message, &path, origin));
                let key = path.to_last_key();
                if !root.remove(&key) {
                    break None;
                }
                broken.push(key);
            }
        }
    };
    let mut rules = Rules::default();
    if let Some(value) = &value {
        value.validate(&mut rules);
    }
    for rule in rules.broken {
        let tainted = |key: &KeyPath| broken.iter().chain(&meant).any(|path| path.overlaps(key));
        if rule.keys.iter().any(tainted) {
            continue;
        }
        let main = rule.keys.first().cloned().unwrap_or_default();
        let written = rule.keys.iter().find_map(|key| root.at(key));
        let place = written.map_or_else(|| Origin::Default(file.clone()).place(), |node| node.origin.place());
        let message = format!("`{main}`: {}", rule.violation.message);
        problems.push(Problem::new(place, main, ProblemKind::Rule, message, rule.violation.hint));
    }
    Checked { value, problems, references }
}

/// An error of a type's own parser. Such a parser may put a remedy on a second line, after `hint: `.
fn residual(message: &str, path: &KeyPath, origin: &Origin) -> Problem {
    let (message, hint) = match message.split_once("\nhint: ") {
        Some((message, hint)) => (message, Some(hint.to_owned())),
        None => (message, None),
    };
    let message = if path.0.is_empty() { message.to_owned() } else { format!("`{path}`: {message}") };
    Problem::new(origin.place(), path, ProblemKind::Invalid, message, hint)
}
