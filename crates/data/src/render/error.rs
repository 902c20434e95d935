use std::sync::Arc;

use crate::chat::ChatError;
use crate::rows::Row;
use crate::tokenizer::TokenizerError;

/// Why a row cannot be turned into token ids.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template failed.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// Completions end with EOS, but the tokenizer names none.
    #[error(
        "the tokenizer names no eos_token, which ends every completion\nhint: set eos_token in tokenizer_config.json"
    )]
    NoEos,
    /// Rendered chat text begins with two BOS.
    #[error(
        "the rendered conversation begins with `{bos}` twice\nhint: the template writes it once; remove it from the \
         template's second place or from the messages"
    )]
    DoubleBos {
        /// Text of the BOS.
        bos: String,
    },
    /// A prompt without tokens.
    #[error("the prompt is empty, and the tokenizer adds no BOS\nhint: remove the row, or give it a prompt")]
    EmptyPrompt,
    /// A plain prompt with messages as its completion.
    #[error("the prompt is text and the completion is messages\nhint: give both as text or both as messages")]
    Mixed,
    /// The row does not hold what was asked for.
    #[error("the row holds no {wanted}\nhint: read the data set as another kind of row")]
    NoAnswer {
        /// What was asked for.
        wanted: &'static str,
    },
    /// No turn of the assistant to learn.
    #[error(
        "the conversation has no turn of the assistant to learn\nhint: remove the row, or read it as a prompt"
    )]
    NoAssistant,
    /// A prompt for a completion that ends within an assistant's turn.
    #[error(
        "the prompt ends with a turn of the assistant, so its completion would begin another\nhint: move that turn into \
         the completion, or read the rows as prompts to be continued"
    )]
    OpenPrompt,
    /// The rendering of the turns before an answer is no prefix of the rendering of all.
    #[error(
        "the chat template does not render turns 0 to {turn} the same when message {turn} follows, so its place in the \
         text is unknown\nhint: mark what the model writes with {{% generation %}} … {{% endgeneration %}} in the \
         template, or train on the last turn only"
    )]
    NotAPrefix {
        /// Index of the message to learn, from 0.
        turn: usize,
    },
    /// The template's generation blocks do not match the assistant's turns.
    #[error(
        "the chat template rendered {spans} generation blocks for {turns} turns of the assistant, so it is unknown which \
         belong to the completion\nhint: the template should have one {{% generation %}} block for each turn"
    )]
    Blocks {
        /// Blocks rendered.
        spans: usize,
        /// Turns of the assistant.
        turns: usize,
    },
    /// A step without tokens, so that its end is no place of its own.
    #[error(
        "step {step} and its separator have no tokens\nhint: remove the step and its label, or set a separator"
    )]
    EmptyStep {
        /// The step, from 0.
        step: usize,
    },
    /// Labels that are not one for each step.
    #[error("{labels} labels for {steps} steps\nhint: give one label for each step")]
    StepLabels {
        /// Number of steps.
        steps: usize,
        /// Number of labels.
        labels: usize,
    },
    /// A token that the model has no embedding for.
    #[error(
        "token `{token}`, id {id} at position {position}, is outside the vocabulary of {vocabulary} tokens that the model \
         has embeddings for\nhint: remove the token from the text, or give the model a tokenizer whose tokens it has"
    )]
    Beyond {
        /// The token as the vocabulary spells it.
        token: String,
        /// Its id.
        id: u32,
        /// Where it is among the row's tokens, from 0.
        position: usize,
        /// Number of embeddings.
        vocabulary: usize,
    },
    /// A column of the row for its chat template is not what the template gets.
    #[error("`{column}` is {found}; expected {expected}")]
    Column {
        /// The column.
        column: &'static str,
        /// What it holds.
        found: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A row is longer than allowed.
    #[error(
        "{tokens} tokens, more than the limit of {limit}\nhint: raise the limit, or drop such rows instead of refusing them"
    )]
    TooLong {
        /// Its length.
        tokens: usize,
        /// The limit.
        limit: usize,
    },
    /// Any of these, with the place of the row.
    #[error("{file}:{line}: {source}")]
    Row {
        /// The file.
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        source: Box<RenderError>,
    },
}

impl RenderError {
    /// The tokens of a row that is too long; where it was not encoded, the least that it can have.
    pub fn too_long(&self) -> Option<usize> {
        match self {
            Self::TooLong { tokens, .. } => Some(*tokens),
            Self::Row { source, .. } => source.too_long(),
            _ => None,
        }
    }

    /// Adds the row's place, where it has one.
    #[must_use]
    pub fn at(self, row: &Row) -> Self {
        if row.line == 0 {
            return self;
        }
        Self::Row { file: row.file.clone(), line: row.line, source: Box::new(self) }
    }
}
