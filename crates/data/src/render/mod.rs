//! From rows to token ids and loss masks.
//!
//! Chat text is rendered once, as a whole, and encoded once; which tokens are to be learnt follows from where the
//! completion lies in the text, never from encoding a prefix again. Plain text is encoded as prompt and
//! completion
//! together, of which the prompt's own ids, which generation continues, must be the beginning (see
//! [`Renderer::completion`]).

mod chat;
mod error;
mod example;
mod limit;
mod plain;
mod row_options;
mod spans;
mod stepwise;

pub use chat::Turns;
pub use error::RenderError;
pub use example::{Example, Pair, Prompt};
pub use limit::{Fitted, Limit, TokenLength, fit};
pub use spans::mask;
pub use stepwise::Stepwise;

use std::sync::Arc;

use crate::chat::{ChatOptions, ChatTemplate, Message};
use crate::rows::{Body, Row, Text};
use crate::tokenizer::Tokenizer;

/// Turns rows into ids for one model: its tokenizer, its chat template where it has one, and the template's options.
#[derive(Clone, Debug)]
pub struct Renderer<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<Arc<ChatTemplate>>,
    options: ChatOptions,
    /// Number of tokens that the model has embeddings for.
    vocabulary: Option<usize>,
    /// The most tokens that the model reads.
    context: Option<usize>,
    turns: Turns,
}

impl<'a> Renderer<'a> {
    /// A renderer; `template` is needed only for messages.
    pub fn new(tokenizer: &'a Tokenizer, template: Option<ChatTemplate>) -> Self {
        let (template, options) = (template.map(Arc::new), ChatOptions::default());
        Self { tokenizer, template, options, vocabulary: None, context: None, turns: Turns::default() }
    }

    /// Refuses rows with a token that the model has no embedding for, of which it has `vocabulary`.
    #[must_use]
    pub fn with_vocabulary(self, vocabulary: usize) -> Self {
        Self { vocabulary: Some(vocabulary), ..self }
    }

    /// Refuses, before it is encoded, a text that cannot fit in the `context` tokens that the model reads.
    #[must_use]
    pub fn with_context(self, context: usize) -> Self {
        Self { context: Some(context), ..self }
    }

    /// Learns these turns of conversations that are read whole.
    #[must_use]
    pub fn with_turns(self, turns: Turns) -> Self {
        Self { turns, ..self }
    }

    /// Whether there is a chat template.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
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
        let prompt = match prompt {
            Text::Plain(text) => Prompt { ids: self.plain_prompt(text)?, text: text.clone() },
            Text::Chat(messages) => self.chat_prompt(messages)?,
        };
        self.check_ids(&prompt.ids)?;
        Ok(prompt)
    }

    /// A prompt with the answer to learn, up to and including the token that ends it.
    ///
    /// Plain text is encoded as one, prompt and completion together, as transformers, TRL and
    /// lm-evaluation-harness do, and
    /// the completion is what follows the prompt's own ids. Where the boundary merges, so that the ids of the
    /// whole do not
    /// begin with those of the prompt, the prompt keeps its own, which generation would continue, and the
    /// completion is
    /// encoded by itself, without the mark that some tokenizers put before every text.
    pub fn completion(&self, prompt: &Text, completion: &Text) -> Result<Example, RenderError> {
        let example = match (prompt, completion) {
            (Text::Plain(prompt), Text::Plain(completion)) => self.plain_example(prompt, completion)?,
            (Text::Chat(prompt), Text::Chat(completion)) => self.chat_completion(prompt, completion)?,
            (Text::Chat(prompt), Text::Plain(completion)) => {
                self.chat_completion(prompt, &[Message::assistant(completion.as_str())])?
            }
            (Text::Plain(_), Text::Chat(_)) => return Err(RenderError::Mixed),
        };
        self.check_ids(&example.ids)?;
        Ok(example)
    }

    /// Refuses a token beyond the model's embeddings.
    pub fn check_ids(&self, ids: &[u32]) -> Result<(), RenderError> {
        let Some(vocabulary) = self.vocabulary else { return Ok(()) };
        match ids.iter().position(|id| *id as usize >= vocabulary) {
            None => Ok(()),
            Some(position) => Err(RenderError::Beyond {
                token: self.tokenizer.token(ids[position]).unwrap_or_default(),
                id: ids[position],
                position,
                vocabulary,
            }),
        }
    }

    /// Refuses a text with so many bytes that it has more tokens than the model reads, whatever they are.
    fn check_bytes(&self, text: &str) -> Result<(), RenderError> {
        // Encoding takes memory and time many times a text's bytes; short texts are simply encoded and
        // counted.
        const SMALL: usize = 1 << 16;
        let Some(context) = self.context else { return Ok(()) };
        let longest = self.tokenizer.longest_token().max(1);
        if text.len() > SMALL.max(context.saturating_mul(longest)) {
            return Err(RenderError::TooLong { tokens: text.len().div_ceil(longest), limit: context });
        }
        Ok(())
    }

    /// A prompt with a preferred and another answer.
    pub fn pair(&self, prompt: &Text, chosen: &Text, rejected: &Text) -> Result<Pair, RenderError> {
        Ok(Pair::new(self.completion(prompt, chosen)?, self.completion(prompt, rejected)?))
    }

    /// A conversation in which the assistant's turns are to be learnt.
    pub fn messages(&self, messages: &[Message], turns: Turns) -> Result<Example, RenderError> {
        let example = self.chat_messages(messages, turns)?;
        self.check_ids(&example.ids)?;
        Ok(example)
    }

    /// The row's prompt; of a conversation, all before its last answer.
    pub fn row_prompt(&self, row: &Row) -> Result<Prompt, RenderError> {
        self.with_row(row, |renderer| match &row.body {
            Body::Prompt { prompt }
            | Body::Completion { prompt, .. }
            | Body::Preference { prompt, .. }
            | Body::Stepwise { prompt, .. }
            | Body::Labelled { prompt, .. } => renderer.prompt(prompt),
            Body::Messages { messages } => {
                let last = messages.iter().rposition(Message::is_assistant).unwrap_or(messages.len());
                renderer.prompt(&Text::Chat(messages[..last].to_vec()))
            }
        })
    }

    /// The row as an example to imitate: its completion, its preferred answer, or all of the assistant's turns.
    pub fn row_example(&self, row: &Row) -> Result<Example, RenderError> {
        self.with_row(row, |renderer| match &row.body {
            Body::Completion { prompt, completion } => renderer.completion(prompt, completion),
            Body::Preference { prompt, chosen, .. } => renderer.completion(prompt, chosen),
            Body::Messages { messages } => renderer.messages(messages, renderer.turns),
            Body::Prompt { .. } | Body::Stepwise { .. } | Body::Labelled { .. } => {
                Err(RenderError::NoAnswer { wanted: "completion" })
            }
        })
    }

    /// The row as a preference pair.
    pub fn row_pair(&self, row: &Row) -> Result<Pair, RenderError> {
        let pair = self.with_row(row, |renderer| match &row.body {
            Body::Preference { prompt, chosen, rejected, .. } => renderer.pair(prompt, chosen, rejected),
            _ => Err(RenderError::NoAnswer { wanted: "preference pair" }),
        });
        pair.map(|pair| pair.with_margin(row.margin()))
    }

    /// The row's two answers, of which several objectives may prefer either.
    pub fn row_responses(&self, row: &Row) -> Result<[Example; 2], RenderError> {
        self.with_row(row, |renderer| match &row.body {
            Body::Labelled { prompt, responses: [first, second], .. } => {
                Ok([renderer.completion(prompt, first)?, renderer.completion(prompt, second)?])
            }
            _ => Err(RenderError::NoAnswer { wanted: "pair of responses" }),
        })
    }

    fn template(&self) -> Result<&ChatTemplate, RenderError> {
        self.template.as_deref().ok_or_else(|| crate::chat::ChatError::NoTemplate.into())
    }
}
