//! What can go wrong with a model's files and names.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file is not valid JSON, or a field has the wrong type.
    #[error("{path}: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        source: serde_json::Error,
    },
    /// A field of a `config.json` has a value that Plumb does not run.
    #[error("{path}: {field} = {value} is not supported\n  hint: {hint}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The field.
        field: String,
        /// Its value.
        value: String,
        /// What is supported.
        hint: String,
    },
    /// A weight file is damaged.
    #[error("{path}: {message}", path = path.display())]
    Weights {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A directory lacks what a model needs.
    #[error("{path}: {message}", path = path.display())]
    Missing {
        /// The directory.
        path: PathBuf,
        /// What is missing and what to do.
        message: String,
    },
    /// A device that this build or machine does not have.
    #[error("device {device}: {message}")]
    Device {
        /// What was asked for.
        device: String,
        /// Why it cannot be had and what to do.
        message: String,
    },
    /// A model on the hub could not be had.
    #[error("hf://{repo}: {message}")]
    Hub {
        /// The repository.
        repo: String,
        /// What happened and what to do.
        message: String,
    },
    /// Something in the tokenizer's files.
    #[error(transparent)]
    Data(#[from] Box<dyn std::error::Error + Send + Sync>),
}
