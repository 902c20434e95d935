//! Reading JSONL and gzipped JSONL, line by line, with the place of every error.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
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
    /// A line is not JSON.
    #[error("{file}:{line}:{column}: not JSON: {detail}\nhint: each line must be one complete JSON object")]
    Json {
        /// The file.
        file: Arc<str>,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The parser's reason.
        detail: String,
    },
    /// A line is JSON but no object.
    #[error(
        "{file}:{line}: found {found}; expected an object\nhint: each line must be one complete JSON object"
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

/// The line, from 1, and the object it holds.
type Object = (usize, Map<String, Value>);

/// The objects of a JSONL file, each with its line number. Gzip is recognised by content, empty lines are skipped, a byte
/// order mark and Windows line ends are tolerated; lines may be of any length.
pub struct Objects {
    reader: Box<dyn BufRead + Send>,
    file: Arc<str>,
    line: usize,
    failed: bool,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("file", &self.file).field("line", &self.line).finish_non_exhaustive()
    }
}

impl Objects {
    /// Opens a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref();
        let file = fs_err::File::open(path.to_owned()).map_err(ReadError::Open)?;
        Self::new(file, &path.display().to_string())
    }

    /// Reads from `source`, which errors call `name`.
    pub fn new(source: impl Read + Send + 'static, name: &str) -> Result<Self, ReadError> {
        let file: Arc<str> = Arc::from(name);
        let mut reader = BufReader::with_capacity(1 << 16, source);
        let start =
            reader.fill_buf().map_err(|source| ReadError::Io { file: file.clone(), line: 0, source })?;
        let reader: Box<dyn BufRead + Send> = if start.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(reader)))
        } else {
            Box::new(reader)
        };
        Ok(Self { reader, file, line: 0, failed: false })
    }

    fn read(&mut self) -> Result<Option<Object>, ReadError> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let file = || self.file.clone();
            let count = self.reader.read_until(b'\n', &mut bytes).map_err(|source| ReadError::Io {
                file: file(),
                line: self.line,
                source,
            })?;
            if count == 0 {
                return Ok(None);
            }
            self.line += 1;
            let line = self.line;
            let text = std::str::from_utf8(&bytes).map_err(|source| ReadError::Utf8 {
                file: file(),
                line,
                byte: source.valid_up_to() + 1,
            })?;
            let text = if line == 1 { text.trim_start_matches('\u{feff}') } else { text };
            if text.trim().is_empty() {
                continue;
            }
            let value = serde_json::from_str(text.trim_end()).map_err(|source| {
                let detail = source.to_string();
                let detail = detail.split(" at line ").next().unwrap_or(&detail).to_owned();
                ReadError::Json { file: file(), line, column: source.column(), detail }
            })?;
            return match value {
                Value::Object(map) => Ok(Some((line, map))),
                other => Err(ReadError::NotAnObject { file: file(), line, found: crate::rows::kind(&other) }),
            };
        }
    }
}

impl Iterator for Objects {
    type Item = Result<Object, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let item = self.read().transpose();
        self.failed = matches!(item, Some(Err(_)));
        item
    }
}

/// The rows of a file, one by one.
pub fn stream(
    path: impl AsRef<Path>,
    kind: Kind,
    columns: &Columns,
) -> Result<impl Iterator<Item = Result<Row, ReadError>>, ReadError> {
    let objects = Objects::open(path)?;
    let (file, columns) = (objects.file.clone(), columns.clone());
    Ok(objects.map(move |object| {
        let (line, map) = object?;
        Row::parse(map, kind, &columns)
            .map(|row| Row { file: file.clone(), line, ..row })
            .map_err(|source| ReadError::Row { file: file.clone(), line, source })
    }))
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
}

/// Reads all rows of some files, one after the other.
///
/// # Errors
/// The first problem, with file and line; and [`ReadError::Empty`] where no row is left.
pub fn read(paths: &[PathBuf], options: &ReadOptions) -> Result<Rows, ReadError> {
    let mut result = Rows { rows: Vec::new(), read: 0, identical: 0 };
    let enough = options.limit.filter(|_| options.shuffle.is_none()).unwrap_or(usize::MAX);
    'files: for path in paths {
        for row in stream(path, options.kind, &options.columns)? {
            if result.rows.len() >= enough {
                break 'files;
            }
            let row = row?;
            result.read += 1;
            if row.is_identical_pair() {
                result.identical += 1;
            } else {
                result.rows.push(row);
            }
        }
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
    use std::io::Write as _;

    use super::*;

    fn objects(bytes: &[u8]) -> Objects {
        Objects::new(std::io::Cursor::new(bytes.to_vec()), "rows.jsonl").unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn marks_empty_lines_windows_ends_and_gzip_members_are_tolerated() {
        let text = "\u{feff}{\"a\": 1}\r\n\r\n   \n{\"a\": 2}\n\n{\"a\": 3}";
        let lines = |objects: Objects| -> Vec<(usize, i64)> {
            objects
                .map(|object| object.unwrap())
                .map(|(line, map)| (line, map["a"].as_i64().unwrap()))
                .collect()
        };
        assert_eq!(lines(objects(text.as_bytes())), [(1, 1), (4, 2), (6, 3)]);
        let mut members = gzip(b"{\"a\": 1}\n");
        members.extend(gzip(b"{\"a\": 2}\n"));
        assert_eq!(lines(objects(&members)), [(1, 1), (2, 2)]);
        assert_eq!(lines(objects(b"")), []);
    }

    #[test]
    fn errors_name_file_line_and_column_and_end_the_stream() {
        let first = |bytes: &[u8]| {
            let mut objects = objects(bytes);
            let error = objects.by_ref().find_map(Result::err).unwrap().to_string();
            assert!(objects.next().is_none());
            error
        };
        let hint = "hint: each line must be one complete JSON object";
        assert_eq!(
            first(b"{\"a\": 1}\n{\"a\": }\n{}"),
            format!("rows.jsonl:2:7: not JSON: expected value\n{hint}")
        );
        assert_eq!(first(b"[1]\n"), format!("rows.jsonl:1: found a list; expected an object\n{hint}"));
        assert_eq!(
            first(b"{}\n{\"a\": \"\xff\"}"),
            "rows.jsonl:2: byte 8 of the line is not UTF-8\nhint: convert the file to UTF-8"
        );
        let mut broken = gzip(&b"{\"a\": 1}\n".repeat(1000));
        broken.truncate(broken.len() - 9);
        let error = first(&broken);
        assert!(error.starts_with("rows.jsonl, after line "), "{error}");
    }

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
                 holds the conversation in the column mapping",
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
