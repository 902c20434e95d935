//! Chat templates in the dialect of transformers: Jinja through minijinja, with the same environment rules, and with
//! `{% generation %}` blocks reported as spans of the rendered text.

mod clock;
mod error;
mod generation;
mod json;
mod message;
mod template;

pub use clock::Clock;
pub use error::ChatError;
pub use message::{Message, MessageError};
pub use template::{ChatOptions, ChatTemplate, Rendered};
