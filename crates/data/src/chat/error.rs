use crate::tokenizer::TokenizerError;

/// What can go wrong when a chat template is compiled or rendered.
#[derive(Debug, thiserror::Error)]
pub enum ChatError {
    /// The template refused the conversation through `raise_exception`.
    #[error("the chat template refuses this conversation: {message}")]
    Raised {
        /// The template's own words.
        message: String,
    },
    /// The template is not valid, or failed while rendering.
    #[error("chat template, line {line}: {detail}")]
    Template {
        /// Line of the template, from 1; 0 where it is not known.
        line: usize,
        /// The engine's reason.
        detail: String,
    },
    /// The template is larger than any template needs to be.
    #[error(
        "the chat template has {bytes} bytes, more than the {limit} that are read\nhint: it comes with the model; use \
         another, or chat_template.jinja of your own"
    )]
    Source {
        /// Its size.
        bytes: usize,
        /// The most.
        limit: usize,
    },
    /// A message holds something other than text.
    #[error(
        "message {index} holds a part of type `{kind}`, and this model reads text alone\nhint: remove the part, or the row"
    )]
    Part {
        /// Position of the message, from 0.
        index: usize,
        /// The part's type.
        kind: String,
    },
    /// The last message could not be continued.
    #[error("cannot continue the final message: {detail}")]
    Continue {
        /// Why not, and the remedy.
        detail: String,
    },
    /// A message holds a character that marks generation blocks.
    #[error(
        "a message holds the noncharacter U+{code:04X}, which marks generation blocks while rendering\nhint: remove it; \
         Unicode reserves it for use inside programs"
    )]
    Reserved {
        /// The code point.
        code: u32,
    },
    /// The tokenizer has no chat template.
    #[error(
        "the tokenizer has no chat template, but the data hold messages\nhint: add chat_template.jinja to the model's \
         directory, or use rows with plain text"
    )]
    NoTemplate,
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}
