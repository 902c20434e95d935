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
        if error.kind() == std::io::ErrorKind::StorageFull {
            Self::DiskFull { path: path.into(), bytes }
        } else {
            Self::Io(error)
        }
    }
}
