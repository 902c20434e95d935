//! Writing a report's files, each whole or not at all.

use std::path::{Path, PathBuf};

use super::figure::{FigureError, figures};
use super::html::html;
use super::markdown::markdown;
use super::model::Report;

/// A report that could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A file or folder could not be written; the message names it.
    #[error("report: {0}\n  files written before are whole, earlier versions of the others are untouched")]
    Write(#[from] io::WriteError),
    /// The report does not serialise.
    #[error("report: {0}")]
    Json(#[from] serde_json::Error),
    /// A figure could not be drawn.
    #[error(transparent)]
    Figure(#[from] FigureError),
}

/// Writes `report.json`, `report.md`, `report.html` and the figures into `dir`, which is made if need be, and returns their
/// paths.
///
/// Everything is rendered before anything is written. Each file is written beside its place, synced, and renamed: at any
/// moment a file is its old version or its new one. The same report gives the same bytes.
///
/// # Errors
/// A folder or file that cannot be written.
pub fn write(dir: &Path, report: &Report) -> Result<Vec<PathBuf>, WriteError> {
    let figures = figures(report)?;
    let mut json = serde_json::to_string_pretty(report)?;
    json.push('\n');
    let mut files = vec![
        ("report.json", json),
        ("report.md", markdown(report, &figures)),
        ("report.html", html(report, &figures)),
    ];
    files.extend(figures.into_iter().map(|figure| (figure.file, figure.svg)));
    let mut paths = Vec::new();
    for (name, content) in files {
        let path = dir.join(name);
        io::atomic::write(&path, content.as_bytes())?;
        paths.push(path);
    }
    Ok(paths)
}
