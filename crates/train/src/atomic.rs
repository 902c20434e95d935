//! Writes that happen whole or not at all: beside, sync, rename, sync the folder.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Writes a file.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let part = beside(path);
    let result = write_synced(&part, bytes)
        .and_then(|()| fs_err::rename(&part, path))
        .map_err(|error| Error::writing(path, bytes.len(), error));
    if result.is_err() {
        // Room for the next attempt; what the write itself reported matters more than a failure here.
        let _ = fs_err::remove_file(&part);
    }
    result?;
    sync_folder(path);
    Ok(())
}

/// Writes a folder of files (names may have one `/`), replacing what was there.
pub fn write_folder(path: &Path, files: &[(String, Vec<u8>)]) -> Result<(), Error> {
    let part = beside(path);
    if part.exists() {
        fs_err::remove_dir_all(&part)?;
    }
    let bytes = files.iter().map(|(_, bytes)| bytes.len()).sum();
    let result = fill(&part, files).and_then(|()| {
        if path.exists() {
            fs_err::remove_dir_all(path)?;
        }
        fs_err::rename(&part, path)
    });
    if let Err(error) = result {
        let _ = fs_err::remove_dir_all(&part);
        return Err(Error::writing(path, bytes, error));
    }
    sync_folder(path);
    Ok(())
}

/// Makes `link` in the folder of `target` point to it.
pub fn point(link: &Path, target: &str) -> Result<(), Error> {
    let part = beside(link);
    let _ = fs_err::remove_file(&part);
    #[cfg(unix)]
    std::os::unix::fs::symlink(target, &part)?;
    #[cfg(not(unix))]
    fs_err::write(&part, target)?;
    fs_err::rename(&part, link)?;
    Ok(())
}

fn fill(part: &Path, files: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    fs_err::create_dir_all(part)?;
    for (name, bytes) in files {
        let path = part.join(name);
        if let Some(folder) = path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        write_synced(&path, bytes)?;
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

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    path.with_file_name(name)
}

fn sync_folder(path: &Path) {
    // Makes the rename itself durable; file systems that cannot do that say so here, and nothing is lost by it.
    if let Some(Ok(folder)) = path.parent().map(fs_err::File::open) {
        let _ = folder.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let left: Vec<_> = fs_err::read_dir(folder.path()).expect("there").flatten().collect();
        assert_eq!(left.len(), 3, "no part is left over: {left:?}");
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.json");
        write(&path, b"one").expect("written");
        // A folder in the way of the part makes the write fail.
        fs_err::create_dir_all(folder.path().join("a.json.part")).expect("made");
        assert!(write(&path, b"two").is_err());
        assert_eq!(fs_err::read(&path).expect("there"), b"one");
    }
}
