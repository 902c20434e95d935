//! The lock of a run folder.

use std::fs::TryLockError;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::WriteError;

/// The file that is locked.
const NAME: &str = "run.lock";

/// Why a run folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error(
        "{folder}: another run is writing there: {holder}\n  hint: wait for it, stop it, or choose another run.name",
        folder = folder.display()
    )]
    Held {
        /// The folder.
        folder: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The lock's file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// A run folder that no other process may write to while this is held. The system lets go of it when the
/// process ends, however
/// that happens.
#[derive(Debug)]
pub struct RunLock {
    file: fs_err::File,
    path: PathBuf,
}

impl RunLock {
    /// Takes the lock of `folder`, which is made if need be, and removes what killed processes left in it.
    ///
    /// # Errors
    /// Another process has it, or its file cannot be written.
    pub fn take(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(NAME);
        let failed = |error| LockError::Write(WriteError::new(&path, 0, error));
        fs_err::create_dir_all(folder).map_err(failed)?;
        loop {
            let mut options = fs_err::OpenOptions::new();
            let mut file =
                options.read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
            match file.file().try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(LockError::Held { folder: folder.into(), holder: told_by(&mut file) });
                }
                // Some file systems have no locks: there it is as if nobody else were there.
                Err(TryLockError::Error(error)) if error.kind() == std::io::ErrorKind::Unsupported => {}
                Err(TryLockError::Error(error)) => return Err(failed(error)),
            }
            // The one who had it may have removed the file since it was opened.
            if !is_at(&file, &path) {
                continue;
            }
            introduce(&mut file).map_err(failed)?;
            crate::atomic::clear(folder).map_err(|error| WriteError::new(folder, 0, error))?;
            return Ok(Self { file, path });
        }
    }
}

impl Drop for RunLock {
    fn drop(&mut self) {
        // Removed while it is held, so that nobody's lock is removed but this one. Elsewhere an open file
        // cannot be.
        if cfg!(unix) && is_at(&self.file, &self.path) {
            let _ = fs_err::remove_file(&self.path);
        }
    }
}

/// Writes who has the lock, for whoever asks for it meanwhile.
fn introduce(file: &mut fs_err::File) -> std::io::Result<()> {
    let command: Vec<String> = std::env::args().collect();
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    file.set_len(0)?;
    file.rewind()?;
    write!(file, "{}\n{since}\n{}\n", std::process::id(), command.join(" "))
}

/// What the holder wrote.
fn told_by(file: &mut fs_err::File) -> String {
    let mut text = String::new();
    if file.read_to_string(&mut text).is_err() {
        return "a process".to_owned();
    }
    let mut lines = text.lines();
    let (Some(process), Some(since)) = (lines.next(), lines.next().and_then(|since| since.parse().ok()))
    else {
        return "a process that just began".to_owned();
    };
    let begun = UNIX_EPOCH + Duration::from_secs(since);
    let seconds = SystemTime::now().duration_since(begun).unwrap_or_default().as_secs();
    let command = lines.next().unwrap_or_default();
    format!("process {process} (`{command}`), for {seconds} s")
}

#[cfg(unix)]
fn is_at(file: &fs_err::File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), path.metadata()) {
        (Ok(own), Ok(there)) => (own.dev(), own.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_at(_: &fs_err::File, path: &Path) -> bool {
    path.exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_holds_it_and_the_lock_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path().join("a/b");
        let first = RunLock::take(&run).expect("free");
        let refusal = RunLock::take(&run).expect_err("held").to_string();
        let process = format!("process {}", std::process::id());
        assert!(refusal.contains(&process) && refusal.contains("hint: wait for it"), "{refusal}");
        drop(first);
        assert_eq!(fs_err::read_dir(&run).expect("there").count(), 0);
        drop(RunLock::take(&run).expect("free again"));
        // The file of a process that was killed is no lock.
        fs_err::write(run.join(NAME), "1\n2\n3\n").expect("written");
        RunLock::take(&run).expect("free");
        let file = folder.path().join("file");
        fs_err::write(&file, "x").expect("written");
        let refusal = RunLock::take(&file.join("run")).expect_err("no folder").to_string();
        assert!(refusal.contains("is a file, where a folder is needed"), "{refusal}");
    }
}
