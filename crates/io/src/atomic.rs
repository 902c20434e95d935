//! Writes that happen whole or not at all: beside, sync, rename, sync the folder.
//!
//! What is written beside has a name of its own in every process, so that two that write the same file never
//! take each other's. A
//! process that was killed leaves it behind; [`clear`] removes what is left of processes that are gone.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::WriteError;

/// Ends the names of what is not whole yet, or no longer.
const PART: &str = ".part";
/// Ends the names of folders that are being replaced.
const BEFORE: &str = ".before";

/// Writes a file.
///
/// # Errors
/// It cannot be written: the old one is untouched.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), WriteError> {
    let part = beside(path, PART);
    let result = write_synced(&part, bytes).and_then(|()| fs_err::rename(&part, path));
    if let Err(error) = result {
        // Room for the next attempt; what the write itself reported matters more than a failure here.
        let _ = fs_err::remove_file(&part);
        return Err(WriteError::new(path, bytes.len(), error));
    }
    sync(path.parent());
    Ok(())
}

/// Writes a folder of files (names may have a `/`), replacing what was there.
///
/// # Errors
/// It cannot be written: the old one is untouched.
pub fn write_folder(path: &Path, files: &[(String, Vec<u8>)]) -> Result<(), WriteError> {
    let part = beside(path, PART);
    let bytes = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let result = fill(&part, files).and_then(|()| replace(&part, path));
    if let Err(error) = result {
        let _ = fs_err::remove_dir_all(&part);
        return Err(WriteError::new(path, bytes, error));
    }
    sync(path.parent());
    Ok(())
}

/// Makes `link` in the folder of `target` point to it.
///
/// # Errors
/// It cannot be written: it points to what it did before.
pub fn point(link: &Path, target: &str) -> Result<(), WriteError> {
    let part = beside(link, PART);
    let made = || -> std::io::Result<()> {
        #[cfg(unix)]
        std::os::unix::fs::symlink(target, &part)?;
        #[cfg(not(unix))]
        fs_err::write(&part, target)?;
        fs_err::rename(&part, link)
    };
    if let Err(error) = made() {
        let _ = fs_err::remove_file(&part);
        return Err(WriteError::new(link, target.len(), error));
    }
    sync(link.parent());
    Ok(())
}

/// Removes a folder: no part of it is ever there under its name.
///
/// # Errors
/// It cannot be removed.
pub fn remove_folder(path: &Path) -> Result<(), WriteError> {
    let part = beside(path, PART);
    fs_err::rename(path, &part)
        .and_then(|()| fs_err::remove_dir_all(&part))
        .map_err(|error| WriteError::new(path, 0, error))
}

/// Puts a folder aside as `NAME.old`, in place of what was put aside before, and returns where it is.
///
/// # Errors
/// It cannot be renamed.
pub fn set_aside(path: &Path) -> Result<PathBuf, WriteError> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".old");
    let old = path.with_file_name(name);
    if old.symlink_metadata().is_ok() {
        remove_folder(&old)?;
    }
    fs_err::rename(path, &old).map_err(|error| WriteError::new(&old, 0, error))?;
    sync(path.parent());
    Ok(old)
}

/// Removes from a run folder, and from the folders in it, what processes that were killed have left, and puts
/// back a folder whose
/// successor never came. Nobody else may write there meanwhile: the caller holds the folder's lock.
///
/// # Errors
/// Something of it cannot be read or removed.
pub fn clear(folder: &Path) -> std::io::Result<()> {
    clear_to(folder, 3)
}

fn clear_to(folder: &Path, depth: usize) -> std::io::Result<()> {
    if depth == 0 || !folder.is_dir() {
        return Ok(());
    }
    for entry in fs_err::read_dir(folder)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let is_folder = entry.file_type()?.is_dir();
        let name = name.to_string_lossy();
        if let Some(whole) = whole_of(&name, BEFORE).map(|whole| folder.join(whole)) {
            if whole.exists() {
                fs_err::remove_dir_all(&path)?;
            } else {
                fs_err::rename(&path, &whole)?;
            }
        } else if whole_of(&name, PART).is_some() {
            if is_folder {
                fs_err::remove_dir_all(&path)?;
            } else {
                fs_err::remove_file(&path)?;
            }
        } else if is_folder {
            clear_to(&path, depth - 1)?;
        }
    }
    Ok(())
}

/// What `name` was to be, if it is one that [`beside`] gives.
fn whole_of<'n>(name: &'n str, end: &str) -> Option<&'n str> {
    let (whole, mark) = name.strip_suffix(end)?.rsplit_once('.')?;
    let (process, number) = mark.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(process) && digits(number) && !whole.is_empty()).then_some(whole)
}

/// Puts the folder `part` at `path`. At every moment the old one or the new one is there, if under a name
/// that [`clear`] puts right.
fn replace(part: &Path, path: &Path) -> std::io::Result<()> {
    if path.symlink_metadata().is_err() {
        return fs_err::rename(part, path);
    }
    let before = beside(path, BEFORE);
    fs_err::rename(path, &before)?;
    if let Err(error) = fs_err::rename(part, path) {
        let _ = fs_err::rename(&before, path);
        return Err(error);
    }
    fs_err::remove_dir_all(before)
}

fn fill(part: &Path, files: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    fs_err::create_dir_all(part)?;
    let mut folders = std::collections::BTreeSet::from([part.to_path_buf()]);
    for (name, bytes) in files {
        let path = part.join(name);
        write_synced(&path, bytes)?;
        folders.extend(path.parent().map(Path::to_path_buf));
    }
    for folder in &folders {
        sync(Some(folder));
    }
    Ok(())
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let mut file = fs_err::File::create(path)?;
    file.write_all(bytes)?;
    // Without this a crash may leave a renamed file without its contents.
    file.sync_all()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}-{}{end}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

fn sync(folder: Option<&Path>) {
    // Makes a rename itself durable; file systems that cannot do that say so here, and nothing is lost by it.
    if let Some(Ok(folder)) = folder.map(fs_err::File::open) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs_err::read_dir(folder)
            .expect("there")
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn files_and_folders_are_replaced_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.json");
        write(&path, b"one").expect("written");
        write(&path, b"two").expect("written");
        assert_eq!(fs_err::read(&path).expect("there"), b"two");

        let step = folder.path().join("step-1");
        write_folder(&step, &[("a".into(), vec![1]), ("state/b".into(), vec![2])]).expect("written");
        write_folder(&step, &[("a".into(), vec![3])]).expect("written");
        assert_eq!(fs_err::read(step.join("a")).expect("there"), vec![3]);
        assert!(!step.join("state").exists(), "the old folder is gone");

        point(&folder.path().join("latest"), "step-1").expect("linked");
        point(&folder.path().join("latest"), "step-1").expect("linked again");
        assert_eq!(fs_err::read(folder.path().join("latest/a")).expect("there"), vec![3]);
        assert_eq!(names(folder.path()), ["a.json", "latest", "step-1"], "no part is left over");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_says_where() {
        let folder = tempfile::tempdir().expect("a folder");
        // A folder in the way of the rename makes the write fail.
        let path = folder.path().join("a.json");
        fs_err::create_dir_all(path.join("b")).expect("made");
        let error = write(&path, b"two").expect_err("in the way").to_string();
        assert!(error.contains("a.json"), "{error}");
        assert_eq!(names(folder.path()), ["a.json"]);
        let file = folder.path().join("file");
        write(&file, b"one").expect("written");
        let error = write(&file.join("x/y"), b"two").expect_err("no folder").to_string();
        assert!(error.contains("file is a file, where a folder is needed\n  hint: "), "{error}");
        #[cfg(unix)]
        {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink("nowhere", &link).expect("linked");
            let error = write(&link.join("x"), b"two").expect_err("no folder").to_string();
            assert!(error.contains("link is a link to something that is not there"), "{error}");
            let error = point(&link.join("latest"), "x").expect_err("no folder").to_string();
            assert!(error.contains("link/latest: "), "{error}");
        }
    }

    #[test]
    fn what_a_killed_process_leaves_is_cleared_and_a_folder_between_two_names_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in
            ["stage/step-2.77-3.part/state", "stage/step-1.77-1.before", "step-3.77-9.before", "step-3"]
        {
            fs_err::create_dir_all(at(name)).expect("made");
        }
        for name in ["samples/a.jsonl.12-0.part", "notes.part", "stage/x.1-2.part", "b.json"] {
            write_synced(&at(name), b"x").expect("written");
        }
        clear(folder.path()).expect("cleared");
        assert_eq!(names(folder.path()), ["b.json", "notes.part", "samples", "stage", "step-3"]);
        assert_eq!(names(&at("stage")), ["step-1"]);
        assert!(names(&at("samples")).is_empty());
    }

    #[test]
    fn one_generation_is_set_aside() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path().join("run");
        for text in ["first", "second"] {
            write(&run.join("a"), text.as_bytes()).expect("written");
            let old = set_aside(&run).expect("renamed");
            assert_eq!(fs_err::read_to_string(old.join("a")).expect("there"), text);
        }
        assert_eq!(names(folder.path()), ["run.old"]);
    }
}
