//! Checksums of a checkpoint's files, beside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The file of a folder that has the checksums of the others.
pub const FILE: &str = "state/checksums.json";

/// A file that is not what was written.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// A file has other bytes than those that were written.
    #[error("{path}: the file is not what was written: its checksum is another", path = path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read, or there are no checksums.
    #[error("{path}: {message}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// The checksum of some bytes.
pub fn of(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The checksum of a file.
///
/// # Errors
/// It cannot be read.
pub fn of_file(path: &Path) -> std::io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs_err::File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// What [`FILE`] says of files by name. Those that people may write on, the model's card, are left out.
///
/// # Errors
/// None that can be caused.
pub fn list(files: &[(String, Vec<u8>)]) -> Result<Vec<u8>, serde_json::Error> {
    let sums: BTreeMap<&str, String> = files
        .iter()
        .filter(|(name, _)| name != "README.md")
        .map(|(name, bytes)| (name.as_str(), of(bytes)))
        .collect();
    serde_json::to_vec_pretty(&sums)
}

/// Compares the files of a folder with its checksums.
///
/// # Errors
/// The first file that is not what was written.
pub fn verify(folder: &Path) -> Result<(), Damage> {
    let path = folder.join(FILE);
    let missing = |path: &Path, message: String| Damage::Missing { path: path.into(), message };
    let text = fs_err::read_to_string(&path).map_err(|error| missing(&path, error.to_string()))?;
    let sums: BTreeMap<String, String> =
        serde_json::from_str(&text).map_err(|error| missing(&path, error.to_string()))?;
    for (name, sum) in sums {
        let path = folder.join(name);
        match of_file(&path) {
            Ok(found) if found == sum => {}
            Ok(_) => return Err(Damage::Changed { path }),
            Err(error) => return Err(missing(&path, error.to_string())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = vec![
            ("a.bin".to_owned(), vec![1, 2, 3]),
            ("state/b.json".to_owned(), b"{}".to_vec()),
            ("README.md".to_owned(), b"card".to_vec()),
        ];
        files.push((FILE.to_owned(), list(&files).expect("texts")));
        crate::atomic::write_folder(&folder.path().join("x"), &files).expect("written");
        let at = folder.path().join("x");
        verify(&at).expect("as written");
        fs_err::write(at.join("README.md"), "more").expect("written");
        verify(&at).expect("a card may be written on");
        for name in ["a.bin", "state/b.json", FILE] {
            let bytes = fs_err::read(at.join(name)).expect("there");
            for bit in [0, 5] {
                let mut flipped = bytes.clone();
                let middle = flipped.len() / 2;
                flipped[middle] ^= 1 << bit;
                fs_err::write(at.join(name), &flipped).expect("written");
                assert!(verify(&at).is_err(), "{name}");
            }
            fs_err::write(at.join(name), bytes).expect("written");
        }
        fs_err::remove_file(at.join("a.bin")).expect("there");
        assert!(verify(&at).expect_err("gone").to_string().contains("a.bin"));
    }
}
