//! Content that is a list of parts, as models that read images have it, for templates and models of text
//! alone.

use serde_json::{Value, json};

use super::message::part_text;
use super::{ChatError, Message};

/// The parts of a message whose content is a list.
fn of(message: &Value) -> Option<&Vec<Value>> {
    message.get("content").and_then(Value::as_array)
}

/// Whether any message's content is a list.
pub(super) fn any(messages: &[Value]) -> bool {
    messages.iter().any(|message| of(message).is_some())
}

/// Refuses messages with parts without text, such as images, which a model of text alone does not read.
pub(crate) fn text_alone(messages: &[Message]) -> Result<(), ChatError> {
    let values = messages.iter().filter(|message| message.content().is_none());
    if values.clone().count() == 0 {
        return Ok(());
    }
    let values: Vec<Value> = messages.iter().map(|message| Value::Object(message.fields().clone())).collect();
    check(&values)
}

/// Refuses parts without text.
pub(super) fn check(messages: &[Value]) -> Result<(), ChatError> {
    for (index, message) in messages.iter().enumerate() {
        for part in of(message).into_iter().flatten() {
            if part_text(part).is_none() {
                let kind = part.get("type").and_then(Value::as_str).unwrap_or("unknown").to_owned();
                return Err(ChatError::Part { index, kind });
            }
        }
    }
    Ok(())
}

/// Whether a template prints the text of a part and not the list itself, tried on a message of its own.
pub(super) fn read_by(render: impl FnOnce(Vec<Value>) -> Result<String, ChatError>) -> bool {
    let probe = "plumb probe";
    let message = json!({"role": "user", "content": [{"type": "text", "text": probe}]});
    render(vec![message]).is_ok_and(|text| {
        let quoted = [format!("'{probe}'"), format!("\"{probe}\"")];
        text.contains(probe) && !quoted.iter().any(|quoted| text.contains(quoted))
    })
}

/// The messages with the texts of each one's parts joined, one a line, as vLLM and llama.cpp join them.
pub(super) fn joined(mut messages: Vec<Value>) -> Vec<Value> {
    for message in &mut messages {
        if let Some(parts) = of(message) {
            let texts: Vec<&str> = parts.iter().filter_map(part_text).collect();
            let text = texts.join("\n");
            message["content"] = Value::String(text);
        }
    }
    messages
}
