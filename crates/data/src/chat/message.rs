use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn of a conversation: an object with a `role` and whatever else templates look at, as a rule `content`.
///
/// Keys keep their order and unknown keys are passed on to the template. ShareGPT's `from` and `value` are
/// read as `role`
/// and `content`, with its names of roles.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Message(Map<String, Value>);

/// Why a value is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not an object.
    #[error("a message must be an object with `role` and `content`, found {0}")]
    NotAnObject(String),
    /// No `role`, or one that is not text.
    #[error("a message must have a `role` that is a string, found {0}")]
    Role(String),
}

impl Message {
    /// A message with this role and text.
    pub fn new(role: &str, content: impl Into<String>) -> Self {
        let mut map = Map::new();
        map.insert("role".to_owned(), Value::String(role.to_owned()));
        map.insert("content".to_owned(), Value::String(content.into()));
        Self(map)
    }

    /// A user's turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// An assistant's turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// The role.
    pub fn role(&self) -> &str {
        self.0.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether this is a turn of the model.
    pub fn is_assistant(&self) -> bool {
        self.role() == "assistant"
    }

    /// The content, where it is plain text.
    pub fn content(&self) -> Option<&str> {
        self.0.get("content").and_then(Value::as_str)
    }

    /// The text of the content: plain text, or the parts of text of a list, one a line.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        match self.0.get("content")? {
            Value::String(text) => Some(Cow::Borrowed(text)),
            Value::Array(parts) => {
                let texts: Vec<&str> = parts.iter().filter_map(part_text).collect();
                Some(Cow::Owned(texts.join("\n")))
            }
            _ => None,
        }
    }

    /// All keys.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.0
    }

    pub(super) fn fields_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }
}

impl TryFrom<Value> for Message {
    type Error = MessageError;

    fn try_from(value: Value) -> Result<Self, MessageError> {
        match value {
            Value::Object(map) => match map.get("role") {
                None if map.contains_key("from") && map.contains_key("value") => sharegpt(map),
                Some(Value::String(_)) => Ok(Self(map)),
                Some(other) => Err(MessageError::Role(format!("role {}", crate::rows::kind(other)))),
                None => Err(MessageError::Role(format!("the keys {}", crate::rows::keys(&map)))),
            },
            other => Err(MessageError::NotAnObject(crate::rows::kind(&other).to_owned())),
        }
    }
}

/// The text of one part of a message's content; `None` for an image and the like.
pub(super) fn part_text(part: &Value) -> Option<&str> {
    match part {
        Value::String(text) => Some(text),
        part => part.get("text").and_then(Value::as_str),
    }
}

/// A turn of ShareGPT's layout. Roles that it does not know are kept: templates may.
fn sharegpt(map: Map<String, Value>) -> Result<Message, MessageError> {
    let role = match map.get("from") {
        Some(Value::String(from)) => match from.as_str() {
            "human" => "user",
            "gpt" | "chatgpt" | "bing" | "bard" | "model" | "function_call" => "assistant",
            "function" | "observation" => "tool",
            other => other,
        }
        .to_owned(),
        other => {
            let found = other.map_or("nothing", crate::rows::kind);
            return Err(MessageError::Role(format!("from {found}")));
        }
    };
    let mut turn = Map::new();
    turn.insert("role".to_owned(), Value::String(role));
    for (key, value) in map {
        match key.as_str() {
            "from" => {}
            "value" => drop(turn.insert("content".to_owned(), value)),
            _ => drop(turn.insert(key, value)),
        }
    }
    Ok(Message(turn))
}

impl From<Message> for Value {
    fn from(message: Message) -> Self {
        Value::Object(message.0)
    }
}
