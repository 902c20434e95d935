//! Test support: where shared reference material lies, and tolerances.
//!
//! The folder of shared material is named by the environment variable `PLUMB_SHARED`; without it, `../shared` beside
//! the checkout is tried. Tests that need it skip with a visible line where it is absent.

use std::path::{Path, PathBuf};

/// The path of a file or folder of the shared material, or `None`, with a visible line, where it is absent.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
pub fn shared(relative: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PLUMB_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = root.join(relative);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: shared material not found at {} (set PLUMB_SHARED)", path.display());
    None
}

/// The directory of SmolLM2-135M-Instruct, or `None`, with a visible line, where it is absent: `PLUMB_SMOLLM2`, else
/// `plumb/smollm2-135m-instruct` in the user's cache folder.
#[allow(clippy::print_stderr, reason = "a skipped test says so")]
pub fn smollm2() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let path = variable("PLUMB_SMOLLM2").or_else(|| Some(cache?.join("plumb/smollm2-135m-instruct")))?;
    if path.join("model.safetensors").exists() {
        return Some(path);
    }
    eprintln!("skipped: SmolLM2-135M-Instruct not found at {} (set PLUMB_SMOLLM2)", path.display());
    None
}

/// Asserts `|actual − expected| ≤ absolute + relative·|expected|`, naming `what` otherwise.
///
/// # Panics
/// When the two differ by more, or either is not finite while the other is.
pub fn assert_close(what: &str, actual: f64, expected: f64, absolute: f64, relative: f64) {
    let limit = absolute + relative * expected.abs();
    assert!(
        actual == expected || (actual - expected).abs() <= limit,
        "{what}: got {actual}, expected {expected}, difference {:e} above {limit:e}",
        (actual - expected).abs()
    );
}
