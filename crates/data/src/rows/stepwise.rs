//! A solution in steps, each of which is labelled: TRL's stepwise supervision.

use serde_json::Value;

use super::{RowError, kind};

/// What the steps of a solution are labelled with.
#[derive(Clone, Debug, PartialEq)]
pub enum StepLabels {
    /// Whether each is right.
    Judged(Vec<bool>),
    /// A number for each, such as a return.
    Graded(Vec<f64>),
}

impl StepLabels {
    /// Number of labelled steps.
    pub fn len(&self) -> usize {
        match self {
            Self::Judged(labels) => labels.len(),
            Self::Graded(labels) => labels.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The labels as numbers; 1 for a right step and 0 for a wrong one.
    pub fn numbers(&self) -> Vec<f64> {
        match self {
            Self::Judged(labels) => labels.iter().map(|right| f64::from(u8::from(*right))).collect(),
            Self::Graded(labels) => labels.clone(),
        }
    }
}

/// The texts of the column with the steps.
pub(super) fn steps(column: &str, value: Value) -> Result<Vec<String>, RowError> {
    let wrong = |found: String| RowError::Type {
        column: column.to_owned(),
        found,
        expected: "a list of texts, one for each step",
    };
    let Value::Array(list) = value else { return Err(wrong(kind(&value).to_owned())) };
    if list.is_empty() {
        return Err(wrong("an empty list".into()));
    }
    list.into_iter()
        .enumerate()
        .map(|(at, step)| match step {
            Value::String(text) => Ok(text),
            other => Err(wrong(format!("a list with {} at place {at}", kind(&other)))),
        })
        .collect()
}

/// The labels of a column, one for each of `count` steps.
pub(super) fn labels(column: &str, value: &Value, count: usize) -> Result<StepLabels, RowError> {
    let wrong = |found: String| RowError::Type {
        column: column.to_owned(),
        found,
        expected: "a list of true and false, or of numbers, one for each step",
    };
    let Value::Array(list) = value else { return Err(wrong(kind(value).to_owned())) };
    if list.len() != count {
        return Err(RowError::shape(
            format!("`{column}` has {} entries for {count} steps", list.len()),
            "give one label for each step, or remove the row",
        ));
    }
    if list.iter().all(Value::is_boolean) {
        return Ok(StepLabels::Judged(list.iter().filter_map(Value::as_bool).collect()));
    }
    if list.iter().all(Value::is_number) {
        return Ok(StepLabels::Graded(list.iter().filter_map(Value::as_f64).collect()));
    }
    match list.iter().find(|label| !label.is_boolean() && !label.is_number()) {
        Some(other) => Err(wrong(format!("a list with {}", kind(other)))),
        None => Err(wrong("a list of both".into())),
    }
}
