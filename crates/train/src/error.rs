//! Why a run ends before its time.

use std::path::PathBuf;

/// An error of a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The disk is full.
    #[error("{path}: the disk is full ({bytes} bytes were to be written)\n  hint: free space and run again with --resume; the last checkpoint is intact", path = path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
        /// How much it needed.
        bytes: usize,
    },
    /// A file cannot be written, for another reason.
    #[error(transparent)]
    Write(io::WriteError),
    /// Another process has the run folder.
    #[error(transparent)]
    Lock(#[from] io::LockError),
    /// A run ended before its time, and what it had done is saved.
    #[error("{error}\n  what was done until step {step} is saved; --resume goes on from there")]
    Saved {
        /// Why it ended.
        error: Box<Error>,
        /// The step of its checkpoint.
        step: usize,
    },
    /// A loss or a gradient is no longer a number.
    #[error(
        "step {step}: {what} is {value}\n  hint: lower optim.learning_rate or optim.max_grad_norm; the last checkpoint is intact, and --resume goes on from it"
    )]
    Diverged {
        /// The step.
        step: usize,
        /// What is not finite.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// A run folder holds another run.
    #[error("{path}: {message}", path = path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// A checkpoint cannot be resumed from.
    #[error("{path}: {message}", path = path.display())]
    Checkpoint {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// Data that the method cannot learn from.
    #[error("{what}: {message}")]
    Data {
        /// Which data.
        what: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// Something in a model's files.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// Something while generating or scoring.
    #[error(transparent)]
    Generate(#[from] generate::Error),
    /// Something of a library below.
    #[error("{0}")]
    Other(Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// Wraps an error of a library below.
    pub fn other(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other(Box::new(error))
    }

    /// An error of writing `bytes` to `path`, told apart where the disk is full.
    pub fn writing(path: &std::path::Path, bytes: usize, error: std::io::Error) -> Self {
        io::WriteError::new(path, bytes, error).into()
    }
}

impl From<io::WriteError> for Error {
    fn from(error: io::WriteError) -> Self {
        if error.is_full() {
            return Self::DiskFull { path: error.path, bytes: error.bytes };
        }
        Self::Write(error)
    }
}
