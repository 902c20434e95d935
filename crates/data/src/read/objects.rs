//! The objects of a file: one a line, or the items of one list.

use std::borrow::Cow;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use serde_json::{Map, Value};

use super::ReadError;

/// The line, from 1, and the object it holds.
type Object = (usize, Map<String, Value>);

/// How a file separates its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// Not seen yet.
    Unknown,
    /// JSON Lines.
    Lines,
    /// One list; whether an item was read.
    List { begun: bool },
    /// A list that was closed.
    Closed,
}

/// The objects of a file of JSON, each with the number of the line it begins on: JSON Lines, or one list of
/// objects.
///
/// Gzip is recognised by content, empty lines are skipped, a byte order mark and Windows line ends are
/// tolerated. `NaN`,
/// `Infinity` and `-Infinity`, which Python writes and JSON does not have, are read as `null` and counted.
pub struct Objects {
    reader: Box<dyn BufRead + Send>,
    file: Arc<str>,
    line: usize,
    layout: Layout,
    max_bytes: usize,
    not_finite: usize,
    failed: bool,
}

impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects").field("file", &self.file).field("line", &self.line).finish_non_exhaustive()
    }
}

impl Objects {
    /// The most bytes of one row.
    pub const MAX_BYTES: usize = 64 << 20;

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
        if let Some(format) = foreign(start) {
            return Err(ReadError::Format { file, format });
        }
        let reader: Box<dyn BufRead + Send> = if start.starts_with(&[0x1f, 0x8b]) {
            Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(reader)))
        } else {
            Box::new(reader)
        };
        let (line, layout, max_bytes) = (0, Layout::Unknown, Self::MAX_BYTES);
        Ok(Self { reader, file, line, layout, max_bytes, not_finite: 0, failed: false })
    }

    /// The file's name, as errors have it.
    pub(super) fn file(&self) -> Arc<str> {
        self.file.clone()
    }

    /// How many rows so far hold a number that is not finite.
    pub fn not_finite(&self) -> usize {
        self.not_finite
    }

    fn read(&mut self) -> Result<Option<Object>, ReadError> {
        if self.layout == Layout::Unknown {
            self.begin()?;
        }
        match self.layout {
            Layout::Unknown | Layout::Lines => self.next_line(),
            Layout::List { .. } => self.next_item(),
            Layout::Closed => Ok(None),
        }
    }

    /// Skips a byte order mark and white space, and sees by the first character how rows are separated.
    fn begin(&mut self) -> Result<(), ReadError> {
        self.line = 1;
        if self.peek()? == Some(0xef) {
            let marked = self.reader.fill_buf().map(|start| start.starts_with(b"\xef\xbb\xbf"));
            if marked.map_err(|source| self.io(source))? {
                self.reader.consume(3);
            }
        }
        self.skip_space()?;
        if self.peek()? == Some(b'[') {
            self.reader.consume(1);
            self.layout = Layout::List { begun: false };
        } else {
            // The first line is counted when it is read.
            self.line -= 1;
            self.layout = Layout::Lines;
        }
        Ok(())
    }

    fn next_line(&mut self) -> Result<Option<Object>, ReadError> {
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if !self.read_line(&mut bytes)? {
                return Ok(None);
            }
            if !bytes.trim_ascii().is_empty() {
                return self.parse(&bytes, self.line).map(|map| Some((self.line, map)));
            }
        }
    }

    /// Reads a line with what ends it; false at the end of the file.
    fn read_line(&mut self, bytes: &mut Vec<u8>) -> Result<bool, ReadError> {
        loop {
            let (used, ended) = {
                let buffer = match self.reader.fill_buf() {
                    Ok(buffer) => buffer,
                    Err(source) => return Err(self.io(source)),
                };
                let used = buffer.iter().position(|byte| *byte == b'\n').map_or(buffer.len(), |at| at + 1);
                bytes.extend_from_slice(&buffer[..used]);
                (used, buffer[..used].ends_with(b"\n") || buffer.is_empty())
            };
            self.reader.consume(used);
            if bytes.len() > self.max_bytes {
                return Err(self.too_long(self.line + 1));
            }
            if ended {
                self.line += usize::from(!bytes.is_empty());
                return Ok(!bytes.is_empty());
            }
        }
    }

    /// The next item of a list.
    fn next_item(&mut self) -> Result<Option<Object>, ReadError> {
        self.skip_space()?;
        let begun = self.layout == Layout::List { begun: true };
        match self.peek()? {
            Some(b']') => {
                self.reader.consume(1);
                self.layout = Layout::Closed;
                self.skip_space()?;
                return match self.peek()? {
                    None => Ok(None),
                    Some(_) => Err(self.broken("more text after the end of the list")),
                };
            }
            Some(b',') if begun => {
                self.reader.consume(1);
                self.skip_space()?;
            }
            None => return Err(self.broken("the list does not end with `]`")),
            Some(_) if begun => return Err(self.broken("expected `,` or `]`")),
            Some(_) => {}
        }
        self.layout = Layout::List { begun: true };
        let line = self.line;
        let bytes = self.item()?;
        self.parse(&bytes, line).map(|map| Some((line, map)))
    }

    /// The bytes of one value: through the bracket that closes it, or up to what separates it from the next.
    fn item(&mut self) -> Result<Vec<u8>, ReadError> {
        let (mut bytes, mut depth, mut in_string, mut escaped) = (Vec::new(), 0_usize, false, false);
        let first = self.line;
        while let Some(byte) = self.peek()? {
            if depth == 0 && !in_string && matches!(byte, b',' | b']') {
                break;
            }
            self.reader.consume(1);
            self.line += usize::from(byte == b'\n');
            bytes.push(byte);
            if bytes.len() > self.max_bytes {
                return Err(self.too_long(first));
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                _ => {}
            }
        }
        Ok(bytes)
    }

    /// Reads what begins on `line` as an object.
    fn parse(&mut self, bytes: &[u8], line: usize) -> Result<Map<String, Value>, ReadError> {
        let file = || self.file.clone();
        let text = std::str::from_utf8(bytes).map_err(|source| {
            let before = &bytes[..source.valid_up_to()];
            let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let lines = before.split(|byte| *byte == b'\n').count() - 1;
            ReadError::Utf8 { file: file(), line: line + lines, byte: before.len() - start + 1 }
        })?;
        let text = text.trim_end();
        let value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(source) => {
                let repaired = finite(text).and_then(|text| serde_json::from_str(&text).ok());
                let Some(value) = repaired else { return Err(self.not_json(&source, line)) };
                self.not_finite += 1;
                value
            }
        };
        match value {
            Value::Object(map) => Ok(map),
            other => {
                Err(ReadError::NotAnObject { file: self.file(), line, found: crate::rows::kind(&other) })
            }
        }
    }

    fn not_json(&self, source: &serde_json::Error, line: usize) -> ReadError {
        let detail = source.to_string();
        let detail = detail.split(" at line ").next().unwrap_or(&detail).to_owned();
        let remedy = if detail.contains("surrogate") || detail.contains("end of hex escape") {
            "the text holds half of a surrogate pair (`\\ud800` to `\\udfff`), which stands for no character; remove it"
        } else {
            "each line must be one complete JSON object, or the whole file one list of objects"
        };
        let line = line + source.line().saturating_sub(1);
        ReadError::Json { file: self.file.clone(), line, column: source.column(), detail, remedy }
    }

    fn broken(&self, detail: &str) -> ReadError {
        ReadError::Json {
            file: self.file.clone(),
            line: self.line,
            column: 0,
            detail: detail.to_owned(),
            remedy: "each line must be one complete JSON object, or the whole file one list of objects",
        }
    }

    fn too_long(&self, line: usize) -> ReadError {
        ReadError::LongLine { file: self.file.clone(), line, limit: self.max_bytes }
    }

    fn io(&self, source: std::io::Error) -> ReadError {
        ReadError::Io { file: self.file.clone(), line: self.line, source }
    }

    fn peek(&mut self) -> Result<Option<u8>, ReadError> {
        match self.reader.fill_buf() {
            Ok(buffer) => Ok(buffer.first().copied()),
            Err(source) => Err(self.io(source)),
        }
    }

    fn skip_space(&mut self) -> Result<(), ReadError> {
        while let Some(byte) = self.peek()?.filter(u8::is_ascii_whitespace) {
            self.line += usize::from(byte == b'\n');
            self.reader.consume(1);
        }
        Ok(())
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

/// The name of a format that is not read, where a file begins as its files do.
fn foreign(start: &[u8]) -> Option<&'static str> {
    [
        (&b"PAR1"[..], "Parquet"),
        (b"ARROW1", "Arrow"),
        (b"PK\x03\x04", "a zip archive"),
        (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
        (b"BZh", "compressed by bzip2"),
        (b"\xfd7zXZ\0", "compressed by xz"),
    ]
    .into_iter()
    .find(|(magic, _)| start.starts_with(magic))
    .map(|(_, format)| format)
}

/// The text with `null` in the place of `NaN`, `Infinity` and `-Infinity` outside of strings; `None` where
/// there are none.
fn finite(text: &str) -> Option<Cow<'static, str>> {
    let mut out = String::with_capacity(text.len());
    let (mut in_string, mut escaped, mut found) = (false, false, false);
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        if !in_string
            && !out.ends_with(|before: char| before.is_alphanumeric())
            && let Some(after) = ["NaN", "Infinity", "-Infinity"].iter().find_map(|t| rest.strip_prefix(t))
            && !after.starts_with(|next: char| next.is_alphanumeric())
        {
            out.push_str("null");
            found = true;
            rest = after;
            continue;
        }
        match character {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        out.push(character);
        rest = &rest[character.len_utf8()..];
    }
    found.then_some(Cow::Owned(out))
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

    fn lines(objects: Objects) -> Vec<(usize, i64)> {
        objects.map(|object| object.unwrap()).map(|(line, map)| (line, map["a"].as_i64().unwrap())).collect()
    }

    fn first_error(mut objects: Objects) -> String {
        let error = objects.by_ref().find_map(Result::err).unwrap().to_string();
        assert!(objects.next().is_none());
        error
    }

    const HINT: &str =
        "hint: each line must be one complete JSON object, or the whole file one list of objects";

    #[test]
    fn marks_empty_lines_windows_ends_and_gzip_members_are_tolerated() {
        let text = "\u{feff}{\"a\": 1}\r\n\r\n   \n{\"a\": 2}\n\n{\"a\": 3}";
        assert_eq!(lines(objects(text.as_bytes())), [(1, 1), (4, 2), (6, 3)]);
        assert_eq!(lines(objects(b"\n\n{\"a\": 1}\n")), [(3, 1)]);
        let mut members = gzip(b"{\"a\": 1}\n");
        members.extend(gzip(b"{\"a\": 2}\n"));
        assert_eq!(lines(objects(&members)), [(1, 1), (2, 2)]);
        assert_eq!(lines(objects(b"")), []);
    }

    #[test]
    fn a_list_of_objects_is_read_as_rows() {
        let text = "\u{feff}\n[\n {\n  \"a\": 1\n },\n {\"a\": 2, \"b\": \"]},{\\\"\"}, {\"a\": 3}\n]\n";
        assert_eq!(lines(objects(text.as_bytes())), [(3, 1), (6, 2), (6, 3)]);
        assert_eq!(lines(objects(&gzip(b"[{\"a\": 4}]"))), [(1, 4)]);
        assert_eq!(lines(objects(b"[]")), []);
        let broken = |text: &str| first_error(objects(text.as_bytes()));
        assert_eq!(
            broken("[{\"a\": 1}\n{\"a\": 2}]"),
            format!("rows.jsonl:2: not JSON: expected `,` or `]`\n{HINT}")
        );
        assert!(broken("[{\"a\": 1}").contains("does not end with `]`"));
        assert!(broken("[{\"a\": 1}] x").contains("more text after the end"));
        assert!(
            broken("[\n\n{\"a\": 1,\n \"b\": }]").starts_with("rows.jsonl:4:7: not JSON"),
            "{}",
            broken("[\n\n{\"a\": 1,\n \"b\": }]")
        );
        assert!(broken("[{\"a\": 1},]").starts_with("rows.jsonl:1"));
        assert_eq!(broken("[1]"), format!("rows.jsonl:1: found a number; expected an object\n{HINT}"));
    }

    #[test]
    fn errors_name_file_line_and_column_and_end_the_stream() {
        let first = |bytes: &[u8]| first_error(objects(bytes));
        assert_eq!(
            first(b"{\"a\": 1}\n{\"a\": }\n{}"),
            format!("rows.jsonl:2:7: not JSON: expected value\n{HINT}")
        );
        assert_eq!(first(b"{}\n[1]\n"), format!("rows.jsonl:2: found a list; expected an object\n{HINT}"));
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
    fn numbers_that_are_not_finite_are_null_and_counted() {
        let text = b"{\"a\": NaN, \"b\": [-Infinity, Infinity], \"c\": \"NaN, \\\"Infinity\"}\n{\"a\": 1}\n";
        let mut objects = objects(text);
        let (line, map) = objects.next().unwrap().unwrap();
        assert_eq!(line, 1);
        let want = serde_json::json!({"a": null, "b": [null, null], "c": "NaN, \"Infinity"});
        assert_eq!(Value::Object(map), want);
        assert!(objects.next().unwrap().is_ok());
        assert_eq!(objects.not_finite(), 1);
        let error = first_error(self::objects(b"{\"a\": NaNs}"));
        assert!(error.starts_with("rows.jsonl:1:7: not JSON"), "{error}");
    }

    #[test]
    fn half_a_surrogate_pair_is_refused_with_its_remedy() {
        for text in [r#"{"a": "x\ud800"}"#, r#"{"a": "\udc00"}"#, r#"{"a": "\ud800A"}"#] {
            let error = first_error(objects(text.as_bytes()));
            assert!(error.starts_with("rows.jsonl:1:"), "{error}");
            assert!(error.contains("half of a surrogate pair"), "{error}");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_fills_the_memory() {
        for start in ["", "[{\"a\": \""] {
            let endless = std::io::Cursor::new(start.as_bytes()).chain(std::io::repeat(b'x'));
            let mut objects = Objects::new(endless, "endless").unwrap();
            objects.max_bytes = 1 << 20;
            let error = first_error(objects);
            assert_eq!(
                error,
                "endless:1: the row has more than 1048576 bytes\nhint: split it, or remove it; a row is one line of JSON"
            );
        }
    }

    #[test]
    fn other_formats_are_named() {
        let error = Objects::new(&b"PAR1..."[..], "rows.jsonl").unwrap_err().to_string();
        assert!(error.starts_with("rows.jsonl: the file is Parquet, not JSON\nhint: "), "{error}");
    }
}
