//! The state of a run that was interrupted.

use std::path::{Path, PathBuf};

use data::chat::Clock;
use generate::Prompt;
use generate::schedule::Saved;
use serde::{Deserialize, Serialize};

/// Why a saved run cannot be taken up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The file system.
    #[error(transparent)]
    File(#[from] std::io::Error),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] io::WriteError),
    /// What is there is no saved run.
    #[error("{}: {error}\n  hint: remove the file to start anew", path.display())]
    Unreadable { path: PathBuf, error: serde_json::Error },
    /// It is of another run.
    #[error(
        "{} is of another recipe, model or data\n  hint: restore the recipe to go on, remove the file to start anew, or set another `run.name`",
        path.display()
    )]
    Other { path: PathBuf },
}

#[derive(Serialize, Deserialize)]
struct File {
    /// Hash of all that decides about the run.
    identity: String,
    /// The local time when the run began, which chat templates print.
    #[serde(default)]
    began: Option<String>,
    run: Saved,
}

/// The file `state.json` in the folder of a run, while the run is not done.
pub(crate) struct Unfinished {
    path: PathBuf,
    identity: String,
    began: String,
}

/// The state of an unfinished run in a folder.
fn state(folder: &Path) -> PathBuf {
    folder.join("state.json")
}

/// When the unfinished run of a folder began, if there is one that says so.
pub(crate) fn began(folder: &Path) -> Option<Clock> {
    let text = fs_err::read_to_string(state(folder)).ok()?;
    let file: serde_json::Value = serde_json::from_str(&text).ok()?;
    Clock::parse(file.get("began")?.as_str()?)
}

impl Unfinished {
    /// For a resolved recipe, the hash of the model and the prompts, of a run that began at `clock`.
    pub(crate) fn new(
        folder: &Path,
        recipe: &str,
        model: &str,
        prompts: &[Prompt],
        clock: &Clock,
    ) -> Result<Self, Error> {
        let path = state(folder);
        let prompts = serde_json::to_string(prompts)
            .map_err(|error| Error::Unreadable { path: path.clone(), error })?;
        let mut hasher = blake3::Hasher::new();
        for part in [recipe, model, &prompts] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Ok(Self { path, identity: hasher.finalize().to_hex().to_string(), began: clock.moment() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What was saved, if the last run was interrupted.
    pub(crate) fn load(&self) -> Result<Option<Saved>, Error> {
        let text = match fs_err::read_to_string(&self.path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let file: File = serde_json::from_str(&text)
            .map_err(|error| Error::Unreadable { path: self.path.clone(), error })?;
        if file.identity != self.identity {
            return Err(Error::Other { path: self.path.clone() });
        }
        Ok(Some(file.run))
    }

    /// The hash of all that decides about the run.
    pub(crate) fn identity(&self) -> &str {
        &self.identity
    }

    pub(crate) fn save(&self, run: &Saved) -> Result<(), Error> {
        let file =
            File { identity: self.identity.clone(), began: Some(self.began.clone()), run: run.clone() };
        let bytes = serde_json::to_vec(&file)
            .map_err(|error| Error::Unreadable { path: self.path.clone(), error })?;
        Ok(io::atomic::write(&self.path, &bytes)?)
    }

    /// After the run is done.
    pub(crate) fn remove(&self) -> std::io::Result<()> {
        match fs_err::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_run_is_found_by_the_same_run_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = Clock::parse("2024-07-26T09:05:03").expect("a moment");
        let of = |recipe: &str, prompts: &[Prompt]| {
            Unfinished::new(folder.path(), recipe, "m", prompts, &clock).expect("plain data")
        };
        let mine = of("steps = 4", &[]);
        assert!(mine.load().expect("nothing there").is_none());
        let saved = Saved::default();
        mine.save(&saved).expect("room");
        assert_eq!(mine.load().expect("readable"), Some(saved));
        assert_eq!(began(folder.path()), Some(clock.clone()), "another day renders the same prompts");
        let refusal = of("steps = 5", &[]).load().expect_err("another recipe").to_string();
        assert!(refusal.contains("of another recipe, model or data"), "{refusal}");
        assert!(of("steps = 4", &[Prompt::from_ids(0, vec![1])]).load().is_err());
        mine.remove().expect("there");
        mine.remove().expect("removing what is not there is no failure");
        assert!(mine.load().expect("nothing there").is_none());
        fs_err::write(mine.path(), "{").expect("room");
        assert!(mine.load().expect_err("no JSON").to_string().contains("remove the file"));
    }
}
