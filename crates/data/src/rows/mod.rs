//! Rows of a data set in TRL's formats, parsed into types: a prompt, a prompt with a completion, a preference pair, a
//! solution in labelled steps, or a conversation. Columns that are not part of the format are kept.

mod columns;
mod dialogue;
mod error;
mod labelled;
mod layouts;
mod preference;
mod row;
mod stepwise;
mod text;

pub use columns::{Columns, Kind};
pub use dialogue::dialogue;
pub use error::RowError;
pub use row::{Body, Row};
pub use stepwise::StepLabels;
pub use text::Text;

pub(crate) use error::{keys, kind};
