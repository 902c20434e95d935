//! Labels of two answers by several objectives.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{RowError, keys, kind};

/// The two values of a list.
pub(super) fn two(column: &str, value: Value) -> Result<[Value; 2], RowError> {
    let found = match value {
        Value::Array(list) => match <[Value; 2]>::try_from(list) {
            Ok(two) => return Ok(two),
            Err(list) => format!("a list of {}", list.len()),
        },
        other => kind(&other).to_owned(),
    };
    Err(RowError::Type { column: column.to_owned(), found, expected: "a list of two" })
}

/// By objective the position of the answer it prefers, out of the row's columns: those named in `objectives`, else
/// `preferred` and `scores`. Equal scores and nulls prefer neither.
pub(super) fn preferred(
    map: &mut Map<String, Value>,
    objectives: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Option<usize>>, RowError> {
    if !objectives.is_empty() {
        return objectives
            .iter()
            .map(|(objective, column)| match map.get(column) {
                Some(value) => Ok((objective.clone(), position(column, value)?)),
                None => Err(RowError::Missing {
                    column: column.clone(),
                    found: keys(map),
                    remedy: format!("correct the name given for the labels of `{objective}`"),
                }),
            })
            .collect();
    }
    let mut labels = BTreeMap::new();
    for (objective, value) in object(map, "preferred")? {
        let label = position(&format!("preferred.{objective}"), &value)?;
        labels.insert(objective, label);
    }
    for (objective, value) in object(map, "scores")? {
        let column = format!("scores.{objective}");
        let label = greater(&column, value)?;
        if labels.insert(objective, label).is_some() {
            return Err(RowError::shape(
                format!(
                    "`{column}` and the label of the same name in `preferred` are two answers to one question"
                ),
                "keep one of the two",
            ));
        }
    }
    if labels.is_empty() {
        return Err(RowError::Missing {
            column: "preferred".to_owned(),
            found: keys(map),
            remedy: "give labels as `preferred` (0 or 1 by objective) or `scores` (two numbers by objective), or name \
                     the column of each objective in `columns.objectives`"
                .to_owned(),
        });
    }
    Ok(labels)
}

fn object(map: &mut Map<String, Value>, column: &str) -> Result<Map<String, Value>, RowError> {
    match map.shift_remove(column) {
        None | Some(Value::Null) => Ok(Map::new()),
        Some(Value::Object(labels)) => Ok(labels),
        Some(other) => Err(RowError::Type {
            column: column.to_owned(),
            found: kind(&other).to_owned(),
            expected: "an object with one label for each objective",
        }),
    }
}

fn position(column: &str, value: &Value) -> Result<Option<usize>, RowError> {
    match value.as_u64() {
        _ if value.is_null() => Ok(None),
        Some(0) => Ok(Some(0)),
        Some(1) => Ok(Some(1)),
        _ => Err(RowError::Type {
            column: column.to_owned(),
            found: if value.is_number() { value.to_string() } else { kind(value).to_owned() },
            expected: "0 or 1, the position of the preferred response, or null for none",
        }),
    }
}

fn greater(column: &str, value: Value) -> Result<Option<usize>, RowError> {
    let scores = two(column, value)?;
    if scores.iter().any(Value::is_null) {
        return Ok(None);
    }
    let number = |value: &Value| {
        value.as_f64().ok_or_else(|| RowError::Type {
            column: column.to_owned(),
            found: kind(value).to_owned(),
            expected: "two numbers, or null for none",
        })
    };
    let (first, second) = (number(&scores[0])?, number(&scores[1])?);
    Ok((first != second).then_some(usize::from(second > first)))
}

#[cfg(test)]
mod tests {
    use super::super::{Body, Columns, Kind, Row, Text};
    use super::*;

    fn parse(json: &str, columns: &Columns) -> Result<Row, RowError> {
        Row::parse(serde_json::from_str(json).unwrap(), Kind::Labelled, columns)
    }

    fn labels(row: Row) -> Vec<(String, Option<usize>)> {
        let Body::Labelled { preferred, .. } = row.body else { panic!("labelled") };
        preferred.into_iter().collect()
    }

    #[test]
    fn labels_are_positions_scores_or_columns() {
        let plain = Columns::default();
        let label = |name: &str, position| (name.to_owned(), position);
        let row = parse(
            r#"{"prompt": "p", "responses": ["a", "b"], "preferred": {"helpful": 1, "kind": null},
                "scores": {"brief": [-3, -5.5], "equal": [2, 2]}, "id": 7}"#,
            &plain,
        )
        .unwrap();
        let Body::Labelled { prompt, responses, .. } = &row.body else { panic!("labelled") };
        assert_eq!(*prompt, Text::Plain("p".into()));
        assert_eq!(*responses, [Text::Plain("a".into()), Text::Plain("b".into())]);
        assert_eq!(row.extra.keys().collect::<Vec<_>>(), ["id"]);
        let want =
            [label("brief", Some(0)), label("equal", None), label("helpful", Some(1)), label("kind", None)];
        assert_eq!(labels(row), want);
        // As PKU-SafeRLHF has it.
        let objectives = [("helpful", "better_response_id"), ("safe", "safer_response_id")];
        let columns = Columns {
            objectives: objectives.map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
            ..Columns::default()
        };
        let pku = r#"{"prompt": "p", "response_0": "a", "response_1": "b", "better_response_id": 0, "safer_response_id": 1}"#;
        assert_eq!(
            labels(parse(pku, &columns).unwrap()),
            [label("helpful", Some(0)), label("safe", Some(1))]
        );
        let same = parse(r#"{"prompt": "p", "responses": ["a", "a"], "preferred": {"x": 0}}"#, &plain);
        assert!(same.unwrap().is_identical_pair());
    }

    #[test]
    fn what_is_no_label_is_named() {
        let refused = |json: &str| parse(json, &Columns::default()).unwrap_err().to_string();
        let row = |rest: &str| refused(&format!(r#"{{"prompt": "p", "responses": ["a", "b"], {rest}}}"#));
        assert!(row(r#""preferred": {"x": 2}"#).starts_with("`preferred.x` is 2; expected 0 or 1"));
        assert!(row(r#""preferred": {"x": true}"#).starts_with("`preferred.x` is a boolean"));
        assert!(row(r#""preferred": [0]"#).starts_with("`preferred` is a list; expected an object"));
        assert!(
            row(r#""scores": {"x": [1]}"#).starts_with("`scores.x` is a list of 1; expected a list of two")
        );
        assert!(row(r#""scores": {"x": [1, "b"]}"#).starts_with("`scores.x` is a string"));
        assert!(
            row(r#""scores": {"x": [1, 2]}, "preferred": {"x": 1}"#).contains("two answers to one question")
        );
        assert!(row(r#""id": 1"#).starts_with("no column `preferred`"));
        assert!(refused(r#"{"prompt": "p", "responses": ["a"]}"#).starts_with("`responses` is a list of 1"));
        assert!(refused(r#"{"prompt": "p", "response_0": "a"}"#).starts_with("no column `responses`"));
        let columns = Columns { objectives: [("x".to_owned(), "y".to_owned())].into(), ..Columns::default() };
        let error = parse(r#"{"prompt": "p", "responses": ["a", "b"]}"#, &columns).unwrap_err();
        assert!(error.to_string().contains("labels of `x`"), "{error}");
        // A reader of single preferences is told how to choose.
        let map = serde_json::from_str(r#"{"prompt": "p", "responses": ["a", "b"], "scores": {}}"#).unwrap();
        let error = Row::parse(map, Kind::Preference, &Columns::default()).unwrap_err().to_string();
        assert!(error.contains("several objectives") && error.ends_with("as `objective`"), "{error}");
    }
}
