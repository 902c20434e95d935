use serde::{Deserialize, Serialize};

use crate::chat::Message;

use super::RowError;
use super::dialogue::{self, dialogue};

/// Plain text, or messages that a chat template turns into text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Text {
    /// Text that goes to the tokenizer as it is.
    Plain(String),
    /// Messages.
    Chat(Vec<Message>),
}

impl Text {
    /// Whether these are messages.
    pub fn is_chat(&self) -> bool {
        matches!(self, Self::Chat(_))
    }

    /// As messages of a prompt: a dialogue in HH-RLHF's layout (`\n\nHuman: … \n\nAssistant:`) turn by turn, any other
    /// text as one user's message.
    pub fn into_prompt_messages(self) -> Result<Vec<Message>, RowError> {
        match self {
            Self::Chat(messages) => Ok(messages),
            Self::Plain(text) if dialogue::is_dialogue(&text) => dialogue(&text),
            Self::Plain(text) => Ok(vec![Message::user(text)]),
        }
    }

    /// As messages of a completion: plain text becomes one assistant's message without outer white space, which belongs
    /// to the layout of the plain text and not to the answer. With `in_dialogue`, further turns in HH-RLHF's layout
    /// become messages of their own.
    pub fn into_completion_messages(self, in_dialogue: bool) -> Vec<Message> {
        match self {
            Self::Chat(messages) => messages,
            Self::Plain(text) if in_dialogue => dialogue::turns(&text, "assistant"),
            Self::Plain(text) => vec![Message::assistant(text.trim())],
        }
    }

    /// Whether this is plain text in HH-RLHF's layout.
    pub fn is_dialogue(&self) -> bool {
        matches!(self, Self::Plain(text) if dialogue::is_dialogue(text))
    }

    /// The text a reader sees: plain text as it is, of messages the contents, one a line.
    pub fn to_plain(&self) -> String {
        match self {
            Self::Plain(text) => text.clone(),
            Self::Chat(messages) => messages.iter().filter_map(Message::text).collect::<Vec<_>>().join("\n"),
        }
    }
}
