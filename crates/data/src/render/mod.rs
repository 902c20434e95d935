//! From rows to token ids and loss masks.
//!
//! Chat text is rendered once, as a whole, and encoded once; which tokens are to be learnt follows from where the
//! completion lies in the text, never from encoding a prefix again. Plain text is the concatenation of the separately
//! encoded prompt and completion, which is what generation sees: it continues the prompt's own ids.

mod chat;
mod error;
mod example;
mod limit;
mod plain;
mod spans;
mod stepwise;

pub use chat::Turns;
pub use error::RenderError;
pub use example::{Example, Pair, Prompt};
pub use limit::{Fitted, Limit, TokenLength, fit};
pub use spans::mask;
pub use stepwise::Stepwise;

use crate::chat::{ChatOptions, ChatTemplate, Message};
use crate::rows::{Body, Row, Text};
use crate::tokenizer::Tokenizer;

/// Turns rows into ids for one model: its tokenizer, its chat template where it has one, and the template's options.
#[derive(Clone, Debug)]
pub struct Renderer<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<ChatTemplate>,
    options: ChatOptions,
}

impl<'a> Renderer<'a> {
    /// A renderer; `template` is needed only for messages.
    pub fn new(tokenizer: &'a Tokenizer, template: Option<ChatTemplate>) -> Self {
        Self { tokenizer, template, options: ChatOptions::default() }
    }

    /// Gives templates these tools and variables. How a rendering ends is the renderer's business.
    #[must_use]
    pub fn with_options(mut self, options: ChatOptions) -> Self {
        self.options = ChatOptions { add_generation_prompt: false, continue_final_message: false, ..options };
        self
    }

    /// The ids that generation starts from. A chat prompt ends with the header of the answer, or, where it ends with an
    /// assistant's turn, within that turn.
    pub fn prompt(&self, prompt: &Text) -> Result<Prompt, RenderError> {
        match prompt {
            Text::Plain(text) => Ok(Prompt { ids: self.plain_prompt(text)?, text: text.clone() }),
            Text::Chat(messages) => self.chat_prompt(messages),
        }
    }

    /// A prompt with the answer to learn, up to and including the token that ends it.
    pub fn completion(&self, prompt: &Text, completion: &Text) -> Result<Example, RenderError> {
        match (prompt, completion) {
            (Text::Plain(prompt), Text::Plain(completion)) => {
                let prompt = self.plain_prompt(prompt)?;
                Ok(Example::join(&prompt, &self.plain_completion(completion)?))
            }
            (Text::Chat(prompt), Text::Chat(completion)) => self.chat_completion(prompt, completion),
            (Text::Chat(prompt), Text::Plain(completion)) => {
                self.chat_completion(prompt, &[Message::assistant(completion.as_str())])
            }
            (Text::Plain(_), Text::Chat(_)) => Err(RenderError::Mixed),
        }
    }

    /// A prompt with a preferred and another answer.
    pub fn pair(&self, prompt: &Text, chosen: &Text, rejected: &Text) -> Result<Pair, RenderError> {
        Ok(Pair::new(self.completion(prompt, chosen)?, self.completion(prompt, rejected)?))
    }

    /// A conversation in which the assistant's turns are to be learnt.
    pub fn messages(&self, messages: &[Message], turns: Turns) -> Result<Example, RenderError> {
        self.chat_messages(messages, turns)
    }

    /// The row's prompt; of a conversation, all before its last answer.
    pub fn row_prompt(&self, row: &Row) -> Result<Prompt, RenderError> {
        let prompt = match &row.body {
            Body::Prompt { prompt }
            | Body::Completion { prompt, .. }
            | Body::Preference { prompt, .. }
            | Body::Stepwise { prompt, .. }
            | Body::Labelled { prompt, .. } => self.prompt(prompt),
            Body::Messages { messages } => {
                let last = messages.iter().rposition(Message::is_assistant).unwrap_or(messages.len());
                self.chat_prompt(&messages[..last])
            }
        };
        prompt.map_err(|error| error.at(row))
    }

    /// The row as an example to imitate: its completion, its preferred answer, or all of the assistant's turns.
    pub fn row_example(&self, row: &Row) -> Result<Example, RenderError> {
        let example = match &row.body {
            Body::Completion { prompt, completion } => self.completion(prompt, completion),
            Body::Preference { prompt, chosen, .. } => self.completion(prompt, chosen),
            Body::Messages { messages } => self.messages(messages, Turns::All),
            Body::Prompt { .. } | Body::Stepwise { .. } | Body::Labelled { .. } => {
                Err(RenderError::NoAnswer { wanted: "completion" })
            }
        };
        example.map_err(|error| error.at(row))
    }

    /// The row as a preference pair.
    pub fn row_pair(&self, row: &Row) -> Result<Pair, RenderError> {
        let pair = match &row.body {
            Body::Preference { prompt, chosen, rejected, .. } => self.pair(prompt, chosen, rejected),
            _ => Err(RenderError::NoAnswer { wanted: "preference pair" }),
        };
        pair.map(|pair| pair.with_margin(row.margin())).map_err(|error| error.at(row))
    }

    /// The row's two answers, of which several objectives may prefer either.
    pub fn row_responses(&self, row: &Row) -> Result<[Example; 2], RenderError> {
        let both = match &row.body {
            Body::Labelled { prompt, responses: [first, second], .. } => {
                self.completion(prompt, first).and_then(|first| Ok([first, self.completion(prompt, second)?]))
            }
            _ => Err(RenderError::NoAnswer { wanted: "pair of responses" }),
        };
        both.map_err(|error| error.at(row))
    }

    fn template(&self) -> Result<&ChatTemplate, RenderError> {
        self.template.as_ref().ok_or_else(|| crate::chat::ChatError::NoTemplate.into())
    }
}
