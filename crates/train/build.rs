//! Tells the program which commit it is built from, where git knows.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-env=PLUMB_COMMIT={}", commit(&root).unwrap_or_else(|| "unknown".to_owned()));
}

/// The commit, with `-modified` where tracked source files differ from it; `None` outside a checkout of this
/// project,
/// such as an unpacked archive, also one that lies inside another repository.
fn commit(root: &Path) -> Option<String> {
    let top = PathBuf::from(git(root, &["rev-parse", "--show-toplevel"])?);
    if top.canonicalize().ok()? != root.canonicalize().ok()? {
        return None;
    }
    // The log grows with every move of the head. Cargo runs this script each time where a file named here is
    // missing.
    for path in ["HEAD", "logs/HEAD"] {
        let path = root.join(git(root, &["rev-parse", "--git-path", path])?);
        if path.exists() {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
    // What the program is built from: a change there builds it anew anyway.
    for entry in root.join("crates").read_dir().ok()?.flatten() {
        let source = entry.path().join("src");
        if source.is_dir() {
            println!("cargo:rerun-if-changed={}", source.display());
        }
    }
    let commit = git(root, &["rev-parse", "--short=12", "HEAD"])?;
    let changes =
        git(root, &["status", "--porcelain", "--untracked-files=no", "--", "crates", "Cargo.lock"])?;
    Some(if changes.is_empty() { commit } else { format!("{commit}-modified") })
}

/// What git prints; `None` where it fails or is not there.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
