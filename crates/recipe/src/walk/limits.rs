//! Limits of numbers and lengths.

use serde_json::{Map, Number, Value as Json};

use super::Walker;
use crate::path::KeyPath;
use crate::problem::ProblemKind;
use crate::tree::{Node, Value};

impl Walker<'_> {
    /// Refuses infinities and not-a-number: no setting means anything there, and limits would let the latter pass.
    pub(super) fn finite(&mut self, node: &Node, path: &KeyPath) -> bool {
        match node.value {
            Value::Float(number) if !number.is_finite() => {
                let message = format!("`{path}` = {number}: must be a finite number");
                self.report(&node.origin, path, ProblemKind::OutOfRange, message, None);
                false
            }
            _ => true,
        }
    }

    pub(super) fn number(&mut self, object: &Map<String, Json>, node: &Node, path: &KeyPath) {
        let limit = |keyword: &str| match object.get(keyword) {
            Some(Json::Number(limit)) => Some(limit),
            _ => None,
        };
        let width = object.get("format").and_then(Json::as_str).and_then(integer_width);
        let (lowest, highest) = width.map_or((None, None), |(low, high)| (Some(low), Some(high)));
        let low = limit("minimum");
        let high = limit("maximum");
        let demand = if let Some(low) = low.filter(|low| compare(node, low).is_lt()) {
            format!("at least {low}")
        } else if let Some(high) = high.filter(|high| compare(node, high).is_gt()) {
            format!("at most {high}")
        } else if let Some(low) = limit("exclusiveMinimum").filter(|low| compare(node, low).is_le()) {
            format!("greater than {low}")
        } else if let Some(high) = limit("exclusiveMaximum").filter(|high| compare(node, high).is_ge()) {
            format!("less than {high}")
        } else if let (Value::Integer(number), Some(low)) = (&node.value, lowest.filter(|_| low.is_none()))
            && *number < low
        {
            format!("at least {low}")
        } else if let (Value::Integer(number), Some(high)) = (&node.value, highest.filter(|_| high.is_none()))
            && *number > high
        {
            format!("at most {high}")
        } else {
            return;
        };
        let value = match &node.value {
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => format!("{number:?}"),
            _ => return,
        };
        let message = format!("`{path}` = {value}: must be {demand}");
        self.report(&node.origin, path, ProblemKind::OutOfRange, message, None);
    }

    /// Limits on a count of things: the keywords for the least and the most, and what is counted.
    pub(super) fn length(
        &mut self,
        object: &Map<String, Json>,
        length: usize,
        (least, most, thing): (&str, &str, &str),
        node: &Node,
        path: &KeyPath,
    ) {
        let limit = |keyword: &str| object.get(keyword).and_then(Json::as_u64).map(|limit| limit as usize);
        let (demand, bound) = match (limit(least), limit(most)) {
            (Some(least), _) if length < least => ("at least", least),
            (_, Some(most)) if length > most => ("at most", most),
            _ => return,
        };
        let plural = if bound == 1 { "" } else { "s" };
        let message = format!("`{path}`: has {length}, must have {demand} {bound} {thing}{plural}");
        self.report(&node.origin, path, ProblemKind::OutOfRange, message, None);
    }
}

/// Compares a value with a limit, integers exactly. A value that is no number meets every limit.
fn compare(node: &Node, limit: &Number) -> std::cmp::Ordering {
    let exact = limit.as_i64().map(i128::from).or_else(|| limit.as_u64().map(i128::from));
    let limit = limit.as_f64().unwrap_or(f64::NAN);
    match (&node.value, exact) {
        (Value::Integer(number), Some(limit)) => number.cmp(&limit),
        (Value::Integer(number), None) => (*number as f64).total_cmp(&limit),
        // Adding zero makes the two zeros one, which the total order tells apart.
        (Value::Float(number), _) => (number + 0.0).total_cmp(&(limit + 0.0)),
        _ => std::cmp::Ordering::Equal,
    }
}

/// The range of an integer type, where the schema leaves it to the format.
fn integer_width(format: &str) -> Option<(i128, i128)> {
    let range = match format {
        "uint8" => (0, i128::from(u8::MAX)),
        "uint16" => (0, i128::from(u16::MAX)),
        "uint32" => (0, i128::from(u32::MAX)),
        "uint64" | "uint" => (0, i128::from(u64::MAX)),
        "int8" => (i128::from(i8::MIN), i128::from(i8::MAX)),
        "int16" => (i128::from(i16::MIN), i128::from(i16::MAX)),
        "int32" => (i128::from(i32::MIN), i128::from(i32::MAX)),
        "int64" | "int" => (i128::from(i64::MIN), i128::from(i64::MAX)),
        _ => return None,
    };
    Some(range)
}
