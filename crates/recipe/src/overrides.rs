//! `--set a.b.c=value`.

use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::path::KeyPath;
use crate::place::Origin;
use crate::problem::{Problem, ProblemKind};
use crate::suggest;
use crate::tree::{Entry, Node, Table, Value};

/// Applies one override to a tree. `origin` is where the override itself was written.
pub(crate) fn apply(root: &mut Node, text: &str, origin: &Origin) -> Result<(), Box<Problem>> {
    let wrong = |message: String, hint: &str| {
        Box::new(Problem::new(origin.place(), "", ProblemKind::Override, message, Some(hint.to_owned())))
    };
    let Some((key, value)) = split(text) else {
        return Err(wrong(format!("`{text}` has no `=`"), "write KEY=VALUE, such as optim.steps=100"));
    };
    let Some(keys) = parse_key(key) else {
        return Err(wrong(
            format!("`{key}` is not a dotted key"),
            "write KEY=VALUE, such as optim.steps=100",
        ));
    };
    put(root, &keys, Node::parse_value(value, origin), origin)
}

/// An override of the command line: the origin of what it sets is its own text.
pub(crate) fn command_line(text: &str) -> Origin {
    Origin::Override(Arc::from(text))
}

/// Splits at the first `=` outside quotes.
fn split(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (position, c) in text.char_indices() {
        match (quote, c) {
            (None, '=') => return Some((text[..position].trim(), &text[position + 1..])),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
    }
    None
}

/// The parts of a dotted key, by TOML's own rules for quotes and blanks.
fn parse_key(key: &str) -> Option<Vec<String>> {
    if key.contains(['\n', '\r']) {
        return None;
    }
    let line = format!("{key} = 0");
    let root = DeTable::parse(&line).ok()?;
    let mut parts = Vec::new();
    let mut table = root.get_ref();
    loop {
        let (name, value) = table.iter().next()?;
        parts.push(name.get_ref().to_string());
        match value.get_ref() {
            DeValue::Table(inner) => table = inner,
            _ => return Some(parts),
        }
    }
}

/// Sets a value: tables are made on the way, items of arrays are found by index or by their `name`.
fn put(root: &mut Node, keys: &[String], value: Node, origin: &Origin) -> Result<(), Box<Problem>> {
    let mut node = root;
    let mut path = KeyPath::default();
    let mut value = Some(value);
    for (depth, key) in keys.iter().enumerate() {
        let last = depth + 1 == keys.len();
        let found = node.found();
        let problem = |message: String, hint: Option<String>| {
            Box::new(Problem::new(origin.place(), &path, ProblemKind::Override, message, hint))
        };
        node = match &mut node.value {
            Value::Table(table) => {
                if table.get(key).is_none() || last {
                    let empty = Node { value: Value::Table(Table::default()), origin: origin.clone() };
                    let node = if last { value.take().unwrap_or(empty) } else { empty };
                    table.put(Entry { key: key.clone(), origin: origin.clone(), node });
                }
                let Some(entry) = table.get_mut(key) else { return Ok(()) };
                path = path.key(key);
                &mut entry.node
            }
            Value::Array(items) => {
                let index = find_item(items, key).map_err(|hint| {
                    problem(format!("`{path}` has no item `{key}` ({} items)", items.len()), hint)
                })?;
                if let Some(value) = value.take_if(|_| last) {
                    items[index] = value;
                }
                path = path.index(index);
                &mut items[index]
            }
            _ => {
                let hint = Some(format!("set `{path}` itself, or another key"));
                return Err(problem(format!("`{path}` is {found}, which has no key `{key}`"), hint));
            }
        };
    }
    Ok(())
}

/// The position of an item by index or by name; or else a hint.
fn find_item(items: &[Node], key: &str) -> Result<usize, Option<String>> {
    if let Ok(index) = key.parse::<usize>() {
        let hint = (!items.is_empty()).then(|| format!("items are 0 to {}", items.len().saturating_sub(1)));
        return if index < items.len() { Ok(index) } else { Err(hint) };
    }
    let names: Vec<Option<&str>> = items.iter().map(name_of).collect();
    names.iter().position(|name| *name == Some(key)).ok_or_else(|| {
        let known: Vec<&str> = names.iter().flatten().copied().collect();
        suggest::hint(key, &known, "items")
    })
}

fn name_of(item: &Node) -> Option<&str> {
    let Value::Table(table) = &item.value else { return None };
    match &table.get("name")?.node.value {
        Value::String(name) => Some(name),
        _ => None,
    }
}
