//! Files that are whole or not there, locks of run folders, checksums, text that is safe on a terminal.

pub mod atomic;
pub mod checksums;
mod error;
mod limits;
mod lock;
mod printable;

pub use error::WriteError;
pub use limits::{THREADS, check_threads_of_environment, survive_file_size_limit};
pub use lock::{LockError, RunLock};
pub use printable::printable;
