//! Where a value came from, and how that place is named to a user.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

/// A recipe's text under the name it is reported by.
#[derive(Debug)]
pub(crate) struct SourceFile {
    pub(crate) name: String,
    pub(crate) text: String,
}

impl SourceFile {
    /// Line and column of a byte offset, both from 1. A column counts Unicode scalar values, so that it agrees
    /// with what editors show; a byte-order mark counts as nothing, and `\r\n` ends a line as `\n` does.
    pub(crate) fn position(&self, byte: usize) -> (usize, usize) {
        let mut end = byte.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.text[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before[line_start..].trim_start_matches('\u{feff}').chars().count() + 1;
        (line, column)
    }
}

/// Where a node of the tree was written.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// In a file, at a range of bytes.
    File(Arc<SourceFile>, Range<usize>),
    /// In an override; the text is what the user wrote after `--set`.
    Override(Arc<str>),
    /// Nowhere: a default filled in by the program, for the recipe in this file.
    Default(Arc<SourceFile>),
}

impl Origin {
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::File(file, span) => {
                let (line, column) = file.position(span.start);
                Place::At { file: file.name.clone(), line, column }
            }
            Self::Override(text) => Place::Override { text: text.to_string() },
            Self::Default(file) => Place::Default { file: file.name.clone() },
        }
    }

    /// Sorts entries as they stand in the file.
    pub(crate) fn start(&self) -> usize {
        match self {
            Self::File(_, span) => span.start,
            Self::Override(_) | Self::Default(_) => usize::MAX,
        }
    }
}

/// The place a [`Problem`](crate::Problem) is reported at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Place {
    /// A whole file: it could not be read.
    File {
        /// The file, as the user named it.
        file: String,
    },
    /// A position in a file.
    At {
        /// The file, as the user named it.
        file: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// An override given on the command line.
    Override {
        /// What followed `--set`.
        text: String,
    },
    /// A value that the recipe leaves to its default.
    Default {
        /// The file that does not set it.
        file: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file } => f.write_str(file),
            Self::At { file, line, column } => write!(f, "{file}:{line}:{column}"),
            Self::Override { text } => write!(f, "--set {text}"),
            Self::Default { file } => write!(f, "{file}:(default)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_end_with_or_without_carriage_return() {
        let file = SourceFile { name: String::new(), text: "\u{feff}é = 1\r\nβγ = 2\n".into() };
        let at = |needle: &str| file.position(file.text.find(needle).expect("needle"));
        assert_eq!(at("é"), (1, 1));
        assert_eq!(at("1"), (1, 5));
        assert_eq!(at("β"), (2, 1));
        assert_eq!(at("2"), (2, 6));
        assert_eq!(file.position(usize::MAX), (3, 1));
        // Inside a two-byte character: the character itself.
        assert_eq!(file.position(4), (1, 1));
    }
}
