//! Chat templates in the dialect of transformers: Jinja through minijinja, with the same environment rules, and with
//! `{% generation %}` blocks reported as spans of the rendered text.

mod budget;
mod clock;
mod error;
mod generation;
mod json;
mod message;
mod parts;
mod python;
mod rewrite;
mod template;

pub use clock::Clock;
pub use error::ChatError;
pub use message::{Message, MessageError};
pub(crate) use parts::text_alone;
pub use template::{ChatOptions, ChatTemplate, Rendered};
