//! What a file that cannot be written says.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A file or folder that could not be written: which, why, and what to do.
#[derive(Debug)]
pub struct WriteError {
    /// What was being written.
    pub path: PathBuf,
    /// How much of it there is.
    pub bytes: usize,
    /// Why it could not be.
    pub source: std::io::Error,
}

impl WriteError {
    /// Of writing `bytes` to `path`.
    pub fn new(path: &Path, bytes: usize, source: std::io::Error) -> Self {
        Self { path: path.into(), bytes, source }
    }

    /// Whether there is no room.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }

    /// What lies where a folder of the path should be: a file, or a link to nothing.
    fn in_the_way(&self) -> Option<(&Path, &'static str)> {
        self.path.ancestors().find_map(|part| {
            let own = part.symlink_metadata().ok()?;
            if own.is_symlink() && !part.exists() {
                return Some((part, "a link to something that is not there"));
            }
            (part != self.path && part.is_file()).then_some((part, "a file"))
        })
    }
}

impl fmt::Display for WriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => write!(
                f,
                "{path}: the disk is full ({} bytes were to be written)\n  hint: free space and run again",
                self.bytes
            ),
            ErrorKind::FileTooLarge => write!(
                f,
                "{path}: {} bytes are more than a file may have here\n  hint: raise the limit (`ulimit -f`), or choose another file system",
                self.bytes
            ),
            ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => write!(
                f,
                "{path}: {}\n  hint: choose a folder that may be written to, by `run.out`",
                self.source
            ),
            _ => match self.in_the_way() {
                Some((part, what)) => write!(
                    f,
                    "{path}: {} is {what}, where a folder is needed\n  hint: remove it, or choose another place by `run.out` or `run.name`",
                    part.display()
                ),
                None => write!(f, "{path}: {}", self.source),
            },
        }
    }
}

impl std::error::Error for WriteError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
