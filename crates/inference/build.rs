//! Tells the program which commit it is built from.

use std::path::Path;
use std::process::Command;

fn main() {
    let git = |arguments: &[&str]| {
        let given =
            Command::new("git").args(arguments).output().ok().filter(|given| given.status.success())?;
        Some(String::from_utf8_lossy(&given.stdout).trim().to_owned())
    };
    // An unpacked archive may lie inside another repository, whose commit is not that of this project.
    let root = Path::new("../..").canonicalize().ok();
    let top = git(&["rev-parse", "--show-toplevel"]).and_then(|top| Path::new(&top).canonicalize().ok());
    let commit = (root.is_some() && root == top).then(|| git(&["rev-parse", "--short=12", "HEAD"])).flatten();
    let commit = commit.unwrap_or_default();
    println!("cargo::rustc-env=PLUMB_COMMIT={commit}");
    println!("cargo::rerun-if-changed=build.rs");
    // The log of the head changes with every commit and checkout.
    let log = Path::new("../../.git/logs/HEAD");
    if log.exists() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
}
