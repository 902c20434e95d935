//! Columns of a row that its chat template reads beside the messages: `tools`, `documents`,
//! `chat_template_kwargs`.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::{RenderError, Renderer};
use crate::rows::{Body, Row, Text, kind};

impl Renderer<'_> {
    /// Renders a row by a renderer whose template sees the row's own columns; errors have the row's place.
    pub(super) fn with_row<T>(
        &self,
        row: &Row,
        render: impl FnOnce(&Self) -> Result<T, RenderError>,
    ) -> Result<T, RenderError> {
        self.of_row(row).and_then(|renderer| render(&renderer)).map_err(|error| error.at(row))
    }

    fn of_row(&self, row: &Row) -> Result<Cow<'_, Self>, RenderError> {
        if !is_chat(&row.body) {
            return Ok(Cow::Borrowed(self));
        }
        let tools = list(&row.extra, "tools")?;
        let documents = list(&row.extra, "documents")?;
        let variables = variables(&row.extra)?;
        if tools.is_none() && documents.is_none() && variables.is_empty() {
            return Ok(Cow::Borrowed(self));
        }
        let mut renderer = self.clone();
        renderer.options.tools = tools.or(renderer.options.tools);
        renderer.options.documents = documents.or(renderer.options.documents);
        renderer.options.variables.extend(variables);
        Ok(Cow::Owned(renderer))
    }
}

/// Whether a chat template renders the row.
fn is_chat(body: &Body) -> bool {
    match body {
        Body::Prompt { prompt }
        | Body::Completion { prompt, .. }
        | Body::Preference { prompt, .. }
        | Body::Stepwise { prompt, .. }
        | Body::Labelled { prompt, .. } => matches!(prompt, Text::Chat(_)),
        Body::Messages { .. } => true,
    }
}

/// The list of a column, which may be written as JSON text, as TRL takes it.
fn list(extra: &Map<String, Value>, column: &'static str) -> Result<Option<Value>, RenderError> {
    let Some(value) = decoded(extra, column)? else { return Ok(None) };
    match value {
        list @ Value::Array(_) => Ok(Some(list)),
        other => Err(RenderError::Column {
            column,
            found: kind(&other).to_owned(),
            expected: "a list, or a list as JSON text, for the chat template",
        }),
    }
}

/// The variables of the column `chat_template_kwargs`.
fn variables(extra: &Map<String, Value>) -> Result<Map<String, Value>, RenderError> {
    let column = "chat_template_kwargs";
    match decoded(extra, column)? {
        None => Ok(Map::new()),
        Some(Value::Object(variables)) => Ok(variables),
        Some(other) => Err(RenderError::Column {
            column,
            found: kind(&other).to_owned(),
            expected: "an object with variables of the chat template",
        }),
    }
}

/// A column's value, read out of JSON text where it is text; `None` where it is absent, null or empty text.
fn decoded(extra: &Map<String, Value>, column: &'static str) -> Result<Option<Value>, RenderError> {
    match extra.get(column) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => Ok(None),
        Some(Value::String(text)) => match serde_json::from_str(text) {
            Ok(Value::Null) => Ok(None),
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(RenderError::Column {
                column,
                found: format!("text that is not JSON ({error})"),
                expected: "JSON for the chat template",
            }),
        },
        Some(value) => Ok(Some(value.clone())),
    }
}
