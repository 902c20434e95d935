//! `[stages.sweep]`: one stage in several settings, and later stages that name them all.

use std::fmt::Write;

use crate::place::Origin;
use crate::problem::{Problem, ProblemKind};
use crate::suggest;
use crate::tree::{Entry, Node, Table, Value};

/// What a model's `path` begins with to stand for every stage of a sweep.
const ALL: &str = "sweep:";
/// The key whose values are repetitions and not settings.
const SEED: &str = "run.seed";

/// A stage of a sweep, and what tells it from the others.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// The name of the stage.
    pub(super) name: String,
    /// Its values but the seed, as `n4-beta0.1`; empty where only seeds differ.
    pub(super) setting: String,
}

/// The stages that one of the file stands for.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    pub(super) name: String,
    pub(super) members: Vec<Member>,
}

/// One of the values that a key takes.
struct Choice {
    label: String,
    value: Node,
}

/// A key with its values.
struct Axis {
    keys: Vec<String>,
    choices: Vec<Choice>,
}

/// The stages that an item of `stages` stands for: itself, or one for each combination of the values in its `sweep`, the last
/// key running fastest.
pub(super) fn expand(item: &Node, problems: &mut Vec<Problem>) -> (Vec<Node>, Option<Sweep>) {
    let mut plain = item.clone();
    let Value::Table(stage) = &mut plain.value else { return (vec![plain], None) };
    let Some(sweep) = stage.take("sweep") else { return (vec![plain], None) };
    let before = problems.len();
    let mut axes = Vec::new();
    collect(&sweep.node, &mut Vec::new(), &mut axes, problems);
    if axes.is_empty() && problems.len() == before {
        problems.push(wrong(
            &sweep.node.origin,
            "the sweep has no values".into(),
            "write `method.vbon.n = [2, 4, 8]` under it",
        ));
    }
    let name = match stage.get("name").map(|entry| &entry.node.value) {
        Some(Value::String(name)) => name.clone(),
        _ => String::new(),
    };
    if problems.len() > before {
        return (vec![plain], None);
    }
    let mut members = vec![(Member { name: name.clone(), setting: String::new() }, plain)];
    for axis in &axes {
        members = members
            .into_iter()
            .flat_map(|(member, node)| {
                axis.choices.iter().map(move |choice| with(&member, &node, axis, choice))
            })
            .collect();
    }
    let (members, mut nodes): (Vec<Member>, Vec<Node>) = members.into_iter().unzip();
    for (member, node) in members.iter().zip(&mut nodes) {
        set(
            node,
            &["name".to_owned()],
            Node { value: Value::String(member.name.clone()), origin: item.origin.clone() },
        );
    }
    (nodes, Some(Sweep { name, members }))
}

/// A stage with one more of its keys set.
fn with(member: &Member, stage: &Node, axis: &Axis, choice: &Choice) -> (Member, Node) {
    let mut stage = stage.clone();
    set(&mut stage, &axis.keys, choice.value.clone());
    let mut member = member.clone();
    // Writing to a string cannot fail.
    let _ = write!(member.name, "-{}", choice.label);
    if axis.keys.join(".") != SEED {
        let dash = if member.setting.is_empty() { "" } else { "-" };
        let _ = write!(member.setting, "{dash}{}", choice.label);
    }
    (member, stage)
}

/// The axes under a node, in the order of the file.
fn collect(node: &Node, keys: &mut Vec<String>, axes: &mut Vec<Axis>, problems: &mut Vec<Problem>) {
    match &node.value {
        Value::Table(table) => {
            for entry in &table.0 {
                keys.push(entry.key.clone());
                collect(&entry.node, keys, axes, problems);
                keys.pop();
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let mut choices: Vec<Choice> = Vec::new();
            for item in items {
                let Some(choice) = choice(item, keys) else {
                    let message =
                        format!("`sweep.{}`: {} has no name of its own", keys.join("."), item.found());
                    problems.push(wrong(&item.origin, message, "write it as { label = \"…\", value = … }"));
                    continue;
                };
                if choices.iter().any(|other| other.label == choice.label) {
                    let message = format!("`sweep.{}`: `{}` is there twice", keys.join("."), choice.label);
                    problems.push(wrong(&item.origin, message, "leave one out, or give it another label"));
                }
                choices.push(choice);
            }
            axes.push(Axis { keys: keys.clone(), choices });
        }
        _ => {
            let message =
                format!("`sweep.{}`: expected an array of values, found {}", keys.join("."), node.found());
            problems.push(wrong(&node.origin, message, "write `method.vbon.n = [2, 4, 8]` under the sweep"));
        }
    }
}

fn wrong(origin: &Origin, message: String, hint: &str) -> Problem {
    Problem::new(origin.place(), "sweep", ProblemKind::Invalid, message, Some(hint.to_owned()))
}

/// A value and how stages with it are called: `n4` for `n = 4`, its own text for a string, its label for `{ label, value }`.
fn choice(item: &Node, keys: &[String]) -> Option<Choice> {
    let key = keys.last()?;
    let (label, value) = match &item.value {
        Value::String(text) => (text.clone(), item.clone()),
        Value::Integer(number) => (format!("{key}{number}"), item.clone()),
        Value::Float(number) => (format!("{key}{number}"), item.clone()),
        Value::Boolean(value) => (format!("{key}-{value}"), item.clone()),
        Value::Table(table) => {
            let label = match &table.get("label")?.node.value {
                Value::String(label) => label.clone(),
                _ => return None,
            };
            (label, table.get("value")?.node.clone())
        }
        Value::Datetime(_) | Value::Array(_) => return None,
    };
    Some(Choice { label, value })
}

/// Sets a value, making tables on the way; what is in the way is replaced.
fn set(root: &mut Node, keys: &[String], value: Node) {
    let origin = value.origin.clone();
    let Some((key, rest)) = keys.split_first() else {
        *root = value;
        return;
    };
    let Value::Table(table) = &mut root.value else {
        root.value = Value::Table(Table::default());
        return set(root, keys, value);
    };
    if table.get(key).is_none() {
        let node = Node { value: Value::Table(Table::default()), origin: origin.clone() };
        table.put(Entry { key: key.clone(), origin, node });
    }
    if let Some(entry) = table.get_mut(key) {
        set(&mut entry.node, rest, value);
    }
}

/// Replaces every table of an array whose `path` is `sweep:NAME` by one for each stage of that sweep: its `path` is the stage,
/// its `name` the stage's, its `series` the name that the table had, or the sweep's, and its `setting` that of the stage.
pub(super) fn spread(node: &mut Node, sweeps: &[Sweep], problems: &mut Vec<Problem>) {
    match &mut node.value {
        Value::Table(table) => table.0.iter_mut().for_each(|entry| spread(&mut entry.node, sweeps, problems)),
        Value::Array(items) => {
            let all = std::mem::take(items);
            for mut item in all {
                let Some((name, origin)) = sweep_of(&item) else {
                    spread(&mut item, sweeps, problems);
                    items.push(item);
                    continue;
                };
                if let Some(sweep) = sweeps.iter().find(|sweep| sweep.name == name) {
                    items.extend(sweep.members.iter().map(|member| one(&item, sweep, member)));
                    continue;
                }
                let known: Vec<&str> = sweeps.iter().map(|sweep| sweep.name.as_str()).collect();
                let hint = suggest::hint(&name, &known, "earlier sweeps")
                    .unwrap_or_else(|| "no earlier stage has a `sweep`".to_owned());
                let message = format!("`{ALL}{name}`: no earlier stage of that name has a sweep");
                let kind = ProblemKind::UnknownName;
                problems.push(Problem::new(origin.place(), "path", kind, message, Some(hint)));
            }
        }
        _ => {}
    }
}

fn sweep_of(item: &Node) -> Option<(String, Origin)> {
    let Value::Table(table) = &item.value else { return None };
    let path = &table.get("path")?.node;
    let Value::String(text) = &path.value else { return None };
    Some((text.strip_prefix(ALL)?.to_owned(), path.origin.clone()))
}

fn one(item: &Node, sweep: &Sweep, member: &Member) -> Node {
    let mut item = item.clone();
    let origin = item.origin.clone();
    let series = match &item.value {
        Value::Table(table) => match table.get("name").map(|entry| &entry.node.value) {
            Some(Value::String(name)) => name.clone(),
            _ => sweep.name.clone(),
        },
        _ => sweep.name.clone(),
    };
    let fields = [
        ("path", format!("stage:{}", member.name)),
        ("name", member.name.clone()),
        ("series", series),
        ("setting", member.setting.clone()),
    ];
    for (key, text) in fields {
        set(&mut item, &[key.to_owned()], Node { value: Value::String(text), origin: origin.clone() });
    }
    item
}
