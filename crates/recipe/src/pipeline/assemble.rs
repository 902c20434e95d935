//! Puts a stage together from its layers, and checks it.

use std::path::Path;
use std::sync::Arc;

use super::Stage;
use super::sweep::{Member, Sweep, spread};
use crate::check::{Form, check};
use crate::common::run::name_is_a_file_name;
use crate::overrides;
use crate::path::KeyPath;
use crate::place::{Origin, Place, SourceFile};
use crate::problem::{Problem, ProblemKind};
use crate::source::{Recipe, Source, fill};
use crate::suggest;
use crate::tree::{Entry, Node, Table, Value};
use crate::walk::StageReference;

/// The pipeline's `[run]` without its name.
pub(super) fn run_of(root: &Node) -> Table {
    match root.at(&KeyPath::dotted("run")) {
        Some(Node { value: Value::Table(run), .. }) => {
            let mut run = run.clone();
            run.take("name");
            run
        }
        _ => Table::default(),
    }
}

/// The pipeline's `[defaults]`.
pub(super) fn defaults_of(root: &Node) -> Table {
    match root.at(&KeyPath::dotted("defaults")) {
        Some(Node { value: Value::Table(defaults), .. }) => defaults.clone(),
        _ => Table::default(),
    }
}

pub(super) fn name_of(item: &Node) -> Option<(&str, &Origin)> {
    string_of(item, "name")
}

fn string_of<'n>(item: &'n Node, key: &str) -> Option<(&'n str, &'n Origin)> {
    let Value::Table(table) = &item.value else { return None };
    let node = &table.get(key)?.node;
    let Value::String(text) = &node.value else { return None };
    Some((text, &node.origin))
}

/// What the stages of a pipeline are put together from.
pub(super) struct Assembly<'p> {
    pub(super) folder: &'p Path,
    pub(super) run: Table,
    pub(super) defaults: Table,
    pub(super) form: &'p Form,
    pub(super) file: &'p Arc<SourceFile>,
}

impl Assembly<'_> {
    /// Puts a stage together and checks it. `earlier` are the names of the stages before it, `sweeps` the sweeps among them.
    pub(super) fn stage<R: Recipe>(
        &self,
        item: &Node,
        earlier: &[String],
        sweeps: &[Sweep],
    ) -> (Option<Stage<R>>, Vec<Problem>) {
        let mut problems = Vec::new();
        let name = name_of(item);
        if let Some((name, origin)) = name {
            problems.extend(name_problem(name, origin, earlier));
        }
        let recipe = self.assemble(item, &mut problems).and_then(|mut root| {
            spread(&mut root, sweeps, &mut problems);
            let checked = check::<R>(root, self.form, self.file);
            problems.extend(checked.problems);
            problems.extend(checked.references.into_iter().filter_map(|asked| unmet(asked, earlier, sweeps)));
            checked.value
        });
        for problem in &mut problems {
            problem.stage = name.map(|(name, _)| name.to_owned());
        }
        let stage = name.zip(recipe).map(|((name, _), recipe)| Stage { name: name.to_owned(), recipe });
        (stage, problems)
    }

    /// All layers of a stage as one tree.
    fn assemble(&self, item: &Node, problems: &mut Vec<Problem>) -> Option<Node> {
        let Value::Table(inline) = &item.value else { return None };
        let mut root = self.base(item, problems)?;
        if let Value::Table(table) = &mut root.value {
            table.overlay(inline.clone());
        }
        root.origin = item.origin.clone();
        if let Some((name, _)) = name_of(item) {
            let name = Value::String(name.to_owned());
            fill(&mut root, "run.name", name, &Origin::Default(self.file.clone()));
        }
        Some(root)
    }

    /// What lies under a stage's own tables: the defaults, its file, the pipeline's run, its overrides. None if the file cannot
    /// be used, which is then a problem.
    fn base(&self, item: &Node, problems: &mut Vec<Problem>) -> Option<Node> {
        let mut root = Node { value: Value::Table(Table::default()), origin: item.origin.clone() };
        if let Some((path, origin)) = string_of(item, "recipe") {
            let unusable = |message: String, hint: &str| {
                Problem::new(
                    origin.place(),
                    "recipe",
                    ProblemKind::Unreadable,
                    message,
                    Some(hint.to_owned()),
                )
            };
            let source = match Source::read(self.folder.join(path)) {
                Ok(source) => source,
                Err(errors) => {
                    problems.extend(errors.problems().iter().map(|problem| match &problem.place {
                        Place::File { file } => unusable(
                            format!("`{file}`: {}", problem.message),
                            "`recipe` is relative to the file it is written in",
                        ),
                        _ => problem.clone(),
                    }));
                    return None;
                }
            };
            if source.is_pipeline() {
                let message = format!("`{path}` is a pipeline itself");
                problems.push(unusable(message, "list its stages here"));
                return None;
            }
            problems.extend(source.problems);
            root = source.root?;
        }
        if let Value::Table(file) = &mut root.value {
            let mut table = self.defaults.clone();
            table.overlay(std::mem::take(file));
            *file = table;
        }
        if let Value::Table(table) = &mut root.value
            && !self.run.0.is_empty()
        {
            let origin = self.run.0[0].origin.clone();
            let run = Node { value: Value::Table(self.run.clone()), origin: origin.clone() };
            table.overlay(Table(vec![Entry { key: "run".to_owned(), origin, node: run }]));
        }
        if let Some(Node { value: Value::Array(overrides), .. }) = item.at(&KeyPath::dotted("set")) {
            for node in overrides {
                if let Value::String(text) = &node.value
                    && let Err(problem) = overrides::apply(&mut root, text, &node.origin)
                {
                    problems.push(*problem);
                }
            }
        }
        Some(root)
    }
}

/// The problem of a `stage:NAME` that no earlier stage answers to.
fn unmet(asked: StageReference, earlier: &[String], sweeps: &[Sweep]) -> Option<Problem> {
    if earlier.contains(&asked.stage) {
        return None;
    }
    let known: Vec<&str> = earlier.iter().map(String::as_str).collect();
    let message = format!("`{}`: no earlier stage is called `{}`", asked.path, asked.stage);
    let hint = if known.is_empty() {
        Some("this is the first stage".to_owned())
    } else if let Some(Member { name, .. }) =
        sweeps.iter().find(|sweep| sweep.name == asked.stage).and_then(|sweep| sweep.members.first())
    {
        Some(format!(
            "it is a sweep: name one of its stages, such as `stage:{name}`, or, in a list of policies, all by `sweep:{}`",
            asked.stage
        ))
    } else {
        suggest::hint(&asked.stage, &known, "earlier stages")
    };
    Some(Problem::new(asked.origin.place(), asked.path, ProblemKind::UnknownName, message, hint))
}

/// What lies in run folders, those of pipelines and of single recipes, under a name of its own.
const HELD: [&str; 19] = [
    "alarms.json",
    "answers.jsonl",
    "best",
    "done.json",
    "inference",
    "latest",
    "ledger.json",
    "metrics.jsonl",
    "moves.jsonl",
    "pairs.jsonl",
    "pools",
    "recipe.toml",
    "report",
    "run.json",
    "run.lock",
    "samples",
    "state.json",
    "tb",
    "time.json",
];

/// Whether a stage's folder would be taken for something else, or something else for it. Some file systems do
/// not tell capitals.
fn is_reserved(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let step =
        name.strip_prefix("step-").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    let passing = [".part", ".before", ".old"].iter().any(|end| name.ends_with(end));
    step || passing || HELD.contains(&name.as_str())
}

/// A stage's name is a folder, and tells it from the others.
fn name_problem(name: &str, origin: &Origin, earlier: &[String]) -> Option<Problem> {
    let (message, hint) = if earlier.iter().any(|other| other == name) {
        (format!("two stages are called `{name}`"), Some("rename one of them".to_owned()))
    } else if is_reserved(name) {
        let message = format!("`{name}` is what a run folder holds beside the folders of stages");
        (message, Some("choose another name for the stage".to_owned()))
    } else {
        let violation = name_is_a_file_name(name).err()?;
        (violation.message, violation.hint)
    };
    Some(Problem::new(origin.place(), "name", ProblemKind::Rule, message, hint))
}
