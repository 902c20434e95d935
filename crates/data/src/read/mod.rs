//! Reading rows of JSON, plain or gzipped, one by one, with the place of every error.

mod objects;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use objects::Objects;
use serde_json::{Map, Value};

use crate::batch::permutation;
use crate::rows::{Columns, Kind, Row, RowError};

/// What can go wrong while reading rows.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be opened.
    #[error("{0}\nhint: check the path of the data set")]
    Open(std::io::Error),
    /// Reading stopped within the file.
    #[error("{file}, after line {line}: {source}")]
    Io {
        /// The file.
        file: Arc<str>,
        /// The last whole line, from 1.
        line: usize,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A line is not UTF-8.
    #[error("{file}:{line}: byte {byte} of the line is not UTF-8\nhint: convert the file to UTF-8")]
    Utf8 {
        /// The file.
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// Position of the first bad byte in the line, from 1.
        byte: usize,
    },
    /// A row is not JSON.
    #[error("{file}:{line}{}: not JSON: {detail}\nhint: {remedy}", place(*column))]
    Json {
        /// The file.
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// The column, from 1; 0 where it is not known.
        column: usize,
        /// The parser's reason.
        detail: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A row has more bytes than any row should.
    #[error(
        "{file}:{line}: the row has more than {limit} bytes\nhint: split it, or remove it; a row is one line of JSON"
    )]
    LongLine {
        /// The file.
        file: Arc<str>,
        /// The line that it begins on, from 1.
        line: usize,
        /// The most bytes.
        limit: usize,
    },
    /// The file is of a format that is not read.
    #[error(
        "{file}: the file is {format}, not JSON\nhint: convert it to JSON Lines, as \
         `datasets.Dataset.to_json(\"rows.jsonl\")` does"
    )]
    Format {
        /// The file.
        file: Arc<str>,
        /// The format.
        format: &'static str,
    },
    /// A row is JSON but no object.
    #[error(
        "{file}:{line}: found {found}; expected an object\nhint: each line must be one complete JSON object, or the \
         whole file one list of objects"
    )]
    NotAnObject {
        /// The file.
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// What the line holds.
        found: &'static str,
    },
    /// An object is not a row of the kind asked for.
    #[error("{file}:{line}: {source}")]
    Row {
        /// The file.
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        source: RowError,
    },
    /// The files hold no row that can be used.
    #[error("no rows in {files}: {detail}")]
    Empty {
        /// The files.
        files: String,
        /// How many lines were read and dropped.
        detail: String,
    },
}

/// A column as a part of a place in a file.
fn place(column: usize) -> String {
    if column == 0 { String::new() } else { format!(":{column}") }
}

/// The rows of a file, one by one.
pub fn stream(
    path: impl AsRef<Path>,
    kind: Kind,
    columns: &Columns,
) -> Result<impl Iterator<Item = Result<Row, ReadError>>, ReadError> {
    let objects = Objects::open(path)?;
    let (file, columns) = (objects.file(), columns.clone());
    Ok(objects.map(move |object| row(object?, &file, kind, &columns)))
}

fn row(
    (line, map): (usize, Map<String, Value>),
    file: &Arc<str>,
    kind: Kind,
    columns: &Columns,
) -> Result<Row, ReadError> {
    Row::parse(map, kind, columns)
        .map(|row| Row { file: file.clone(), line, ..row })
        .map_err(|source| ReadError::Row { file: file.clone(), line, source })
}

/// How rows are read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// What each row is read as.
    pub kind: Kind,
    /// Names of the columns.
    pub columns: Columns,
    /// Keep this many rows: the first in the files, or, with `shuffle`, the first after it.
    pub limit: Option<usize>,
    /// Shuffle all rows by this seed.
    pub shuffle: Option<u64>,
}

impl ReadOptions {
    /// All rows of this kind, in the files' order, under TRL's column names.
    pub fn new(kind: Kind) -> Self {
        Self { kind, columns: Columns::default(), limit: None, shuffle: None }
    }
}

/// What [`read`] returns.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The rows.
    pub rows: Vec<Row>,
    /// How many rows were read, kept or not. With a limit and no shuffle, reading stops when enough are kept.
    pub read: usize,
    /// How many preference pairs were dropped because both answers are the same.
    pub identical: usize,
    /// How many of those that were read hold `NaN` or an infinity, which is read as `null`.
    pub not_finite: usize,
}

/// Reads all rows of some files, one after the other.
///
/// # Errors
/// The first problem, with file and line; and [`ReadError::Empty`] where no row is left.
pub fn read(paths: &[PathBuf], options: &ReadOptions) -> Result<Rows, ReadError> {
    let mut result = Rows { rows: Vec::new(), read: 0, identical: 0, not_finite: 0 };
    let enough = options.limit.filter(|_| options.shuffle.is_none()).unwrap_or(usize::MAX);
    for path in paths {
        let mut objects = Objects::open(path)?;
        let file = objects.file();
        while result.rows.len() < enough
            && let Some(object) = objects.next()
        {
            let row = row(object?, &file, options.kind, &options.columns)?;
            result.read += 1;
            if row.is_identical_pair() {
                result.identical += 1;
            } else {
                result.rows.push(row);
            }
        }
        result.not_finite += objects.not_finite();
    }
    if let Some(seed) = options.shuffle {
        let mut slots: Vec<Option<Row>> = result.rows.into_iter().map(Some).collect();
        let order = permutation(seed, "shuffle", 0, slots.len());
        result.rows = order.into_iter().filter_map(|index| slots[index].take()).collect();
    }
    if let Some(limit) = options.limit {
        result.rows.truncate(limit);
    }
    if result.rows.is_empty() && options.limit != Some(0) {
        let files: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        return Err(ReadError::Empty {
            files: files.join(", "),
            detail: format!("{} read, {} dropped as identical pairs", result.read, result.identical),
        });
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_shuffled_limited_and_rid_of_identical_pairs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pairs.jsonl");
        let lines: Vec<String> = (0..20)
            .map(|i| {
                format!(
                    r#"{{"prompt": "{i}", "chosen": "a", "rejected": "{}"}}"#,
                    if i % 5 == 0 { "a" } else { "b" }
                )
            })
            .collect();
        fs_err::write(&path, lines.join("\n")).unwrap();
        let paths = [path.clone()];
        let lines = |options: &ReadOptions| -> Vec<usize> {
            read(&paths, options).unwrap().rows.iter().map(|row| row.line).collect()
        };
        let all = ReadOptions::new(Kind::Preference);
        let rows = read(&paths, &all).unwrap();
        assert_eq!((rows.read, rows.identical, rows.rows.len()), (20, 4, 16));
        assert_eq!(lines(&ReadOptions { limit: Some(3), ..all.clone() }), [2, 3, 4]);
        let shuffled = ReadOptions { shuffle: Some(7), ..all.clone() };
        let order = lines(&shuffled);
        assert_eq!(order, lines(&shuffled));
        assert_ne!(order, lines(&ReadOptions { shuffle: Some(8), ..all.clone() }));
        assert_eq!(order[..5], lines(&ReadOptions { limit: Some(5), ..shuffled })[..]);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, lines(&all));

        let error = read(&paths, &ReadOptions::new(Kind::Messages)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "{}:1: no column `messages`; the row has `prompt`, `chosen`, `rejected`\nhint: name the column that \
                 holds the conversation in [data.columns], as `messages = \"NAME\"`",
                path.display()
            )
        );
        let identical = dir.path().join("same.jsonl");
        fs_err::write(&identical, r#"{"prompt": "p", "chosen": "a", "rejected": "a"}"#).unwrap();
        let error = read(std::slice::from_ref(&identical), &all).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("no rows in {}: 1 read, 1 dropped as identical pairs", identical.display())
        );
        let error = read(&[dir.path().join("none.jsonl")], &all).unwrap_err().to_string();
        assert!(
            error.contains("none.jsonl") && error.ends_with("hint: check the path of the data set"),
            "{error}"
        );
    }
}
