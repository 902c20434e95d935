//! The parsed recipe: values that know where they were written.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::path::{KeyPath, Segment};
use crate::place::{Origin, Place, SourceFile};
use crate::problem::{Problem, ProblemKind};

/// A value and where it was written.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) origin: Origin,
}

/// A TOML value. Integers are wider than TOML's so that a value that is too large is reported with its limit.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    String(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
}

/// A table in the order of the file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table(pub(crate) Vec<Entry>);

/// A key of a table, with its own place: a typo is reported at the key, not at its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) origin: Origin,
    pub(crate) node: Node,
}

impl Table {
    pub(crate) fn get(&self, key: &str) -> Option<&Entry> {
        self.0.iter().find(|entry| entry.key == key)
    }

    pub(crate) fn get_mut(&mut self, key: &str) -> Option<&mut Entry> {
        self.0.iter_mut().find(|entry| entry.key == key)
    }

    pub(crate) fn take(&mut self, key: &str) -> Option<Entry> {
        let position = self.0.iter().position(|entry| entry.key == key)?;
        Some(self.0.remove(position))
    }

    /// Sets a key, in place of what it held.
    pub(crate) fn put(&mut self, entry: Entry) {
        match self.get_mut(&entry.key) {
            Some(old) => *old = entry,
            None => self.0.push(entry),
        }
    }

    /// Lays another table over this one: tables merge key by key, anything else is replaced.
    pub(crate) fn overlay(&mut self, top: Self) {
        for entry in top.0 {
            match self.get_mut(&entry.key) {
                Some(Entry { node: Node { value: Value::Table(below), .. }, .. })
                    if matches!(entry.node.value, Value::Table(_)) =>
                {
                    if let Value::Table(above) = entry.node.value {
                        below.overlay(above);
                    }
                }
                Some(old) => *old = entry,
                None => self.0.push(entry),
            }
        }
    }
}

impl Node {
    /// Parses a file. Syntax errors are all reported; the tree is usable only if they leave its meaning clear.
    pub(crate) fn parse(file: &Arc<SourceFile>) -> (Option<Self>, Vec<Problem>) {
        let (root, errors) = DeTable::parse_recoverable(&file.text);
        let mut problems: Vec<Problem> = Vec::new();
        let mut last_line = 0;
        for error in &errors {
            let span = error.span().unwrap_or(0..0);
            let place = Origin::File(file.clone(), span).place();
            // Recovery after an error stumbles over the rest of the line: only its first error tells anything.
            if let Place::At { line, .. } = &place
                && std::mem::replace(&mut last_line, *line) == *line
            {
                continue;
            }
            let message = error.message().trim().replace('\n', "; ");
            problems.push(Problem::new(place, "", ProblemKind::Syntax, message, None));
        }
        let clear = errors.iter().all(|error| error.message().starts_with("duplicate key"));
        let node = clear.then(|| Self::table(root.get_ref(), file, 0..0));
        (node, problems)
    }

    /// Parses the right-hand side of an override: TOML, or else a bare string.
    pub(crate) fn parse_value(text: &str, origin: &Origin) -> Self {
        let file = Arc::new(SourceFile { name: String::new(), text: String::new() });
        let mut node = match DeValue::parse(text.trim()) {
            Ok(value) => Self::value(&value, &file),
            Err(_) => Self { value: Value::String(text.to_owned()), origin: origin.clone() },
        };
        node.stamp(origin);
        node
    }

    /// The value at a path.
    pub(crate) fn at(&self, path: &KeyPath) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, segment| match (&node.value, segment) {
            (Value::Table(table), Segment::Key(key)) => table.get(key).map(|entry| &entry.node),
            (Value::Array(items), Segment::Index(index)) => items.get(*index),
            _ => None,
        })
    }

    /// Removes a key, and reports whether it was there.
    pub(crate) fn remove(&mut self, path: &KeyPath) -> bool {
        let Some((Segment::Key(last), way)) = path.0.split_last() else { return false };
        let mut node = self;
        for segment in way {
            let next = match (&mut node.value, segment) {
                (Value::Table(table), Segment::Key(key)) => table.get_mut(key).map(|entry| &mut entry.node),
                (Value::Array(items), Segment::Index(index)) => items.get_mut(*index),
                _ => None,
            };
            let Some(next) = next else { return false };
            node = next;
        }
        match &mut node.value {
            Value::Table(table) => table.take(last).is_some(),
            _ => false,
        }
    }

    /// What the value is, in a sentence: `the string "many"`, `an array`.
    pub(crate) fn found(&self) -> String {
        match &self.value {
            Value::String(text) => {
                let short: String = text.chars().take(40).collect();
                let more = if short.len() < text.len() { "…" } else { "" };
                format!("the string {:?}", format!("{short}{more}"))
            }
            Value::Integer(number) => format!("the integer {number}"),
            Value::Float(number) => format!("the float {number:?}"),
            Value::Boolean(value) => format!("the boolean {value}"),
            Value::Datetime(date) => format!("the date-time {date}"),
            Value::Array(_) => "an array".to_owned(),
            Value::Table(_) => "a table".to_owned(),
        }
    }

    fn table(table: &DeTable<'_>, file: &Arc<SourceFile>, span: std::ops::Range<usize>) -> Self {
        let mut entries: Vec<Entry> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                origin: Origin::File(file.clone(), key.span()),
                node: Self::value(value, file),
            })
            .collect();
        entries.sort_by_key(|entry| entry.origin.start());
        Self { value: Value::Table(Table(entries)), origin: Origin::File(file.clone(), span) }
    }

    fn value(value: &Spanned<DeValue<'_>>, file: &Arc<SourceFile>) -> Self {
        let origin = Origin::File(file.clone(), value.span());
        let value = match value.get_ref() {
            DeValue::Table(table) => return Self::table(table, file, value.span()),
            DeValue::String(text) => Value::String(text.to_string()),
            // Digits beyond 128 bits saturate: they are past every limit either way.
            DeValue::Integer(number) => {
                let digits = number.as_str();
                let saturated = if digits.starts_with('-') { i128::MIN } else { i128::MAX };
                Value::Integer(i128::from_str_radix(digits, number.radix()).unwrap_or(saturated))
            }
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(date) => Value::Datetime(date.to_string()),
            DeValue::Array(items) => Value::Array(items.iter().map(|item| Self::value(item, file)).collect()),
        };
        Self { value, origin }
    }

    /// Gives every part of a value the same origin.
    fn stamp(&mut self, origin: &Origin) {
        self.origin = origin.clone();
        match &mut self.value {
            Value::Array(items) => items.iter_mut().for_each(|item| item.stamp(origin)),
            Value::Table(table) => {
                for entry in &mut table.0 {
                    entry.origin = origin.clone();
                    entry.node.stamp(origin);
                }
            }
            _ => {}
        }
    }
}
