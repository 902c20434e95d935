use serde_json::{Map, Value};

use crate::chat::MessageError;

/// Why an object is not a row of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// A column is absent.
    #[error("no column `{column}`; the row has {found}\nhint: {remedy}")]
    Missing {
        /// The column looked for.
        column: String,
        /// The row's columns.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// A column holds the wrong type.
    #[error("`{column}` is {found}; expected {expected}")]
    Type {
        /// The column.
        column: String,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A message within a column is malformed.
    #[error("`{column}`, message {index}: {source}")]
    Message {
        /// The column.
        column: String,
        /// Position of the message, from 0.
        index: usize,
        /// What is wrong with it.
        source: MessageError,
    },
    /// The columns do not fit together.
    #[error("{detail}\nhint: {remedy}")]
    Shape {
        /// What was found.
        detail: String,
        /// What to do.
        remedy: String,
    },
}

impl RowError {
    pub(super) fn shape(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Shape { detail: detail.into(), remedy: remedy.into() }
    }
}

/// A JSON value's type, for messages.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// An object's keys, for messages.
pub(crate) fn keys(map: &Map<String, Value>) -> String {
    if map.is_empty() {
        return "none".to_owned();
    }
    map.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}
