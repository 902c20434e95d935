//! What is wrong with a recipe, for people and for programs.

use std::fmt;

use serde::Serialize;

use crate::place::Place;

/// The sort of mistake, for programs that read problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The file cannot be read.
    Unreadable,
    /// The text is not TOML.
    Syntax,
    /// An override cannot be applied.
    Override,
    /// A key that nothing reads.
    UnknownKey,
    /// A name that is not among those allowed: a method, a schedule.
    UnknownName,
    /// A key without which the recipe means nothing.
    MissingKey,
    /// One method was wanted, and none or several are given.
    Ambiguous,
    /// A value of another type than the key takes.
    WrongType,
    /// A value beyond a limit.
    OutOfRange,
    /// A value of the right type that does not parse, such as a malformed model name.
    Invalid,
    /// Values that do not go together.
    Rule,
}

/// One mistake in a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Where it is.
    pub place: Place,
    /// The key it concerns, such as `optim.learning_rate`; empty for the whole file.
    pub key: String,
    /// The stage of a pipeline that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// What sort of mistake it is.
    pub kind: ProblemKind,
    /// What is wrong: the value, and the limit or the type expected.
    pub message: String,
    /// What to do about it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(
        place: Place,
        key: impl ToString,
        kind: ProblemKind,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        Self { place, key: key.to_string(), stage: None, kind, message: message.into(), hint }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(stage) = &self.stage {
            write!(f, "stage `{stage}`: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Every problem of a recipe, sorted by file, line and column; those of overrides and defaults come last.
///
/// `Display` prints them one after the other, each as `FILE:LINE:COLUMN: what is wrong` and, where a remedy is
/// known, an indented `hint:` line. [`RecipeErrors::to_json`] gives the same to programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipeErrors {
    problems: Vec<Problem>,
}

impl RecipeErrors {
    /// Sorts the problems and drops repetitions: two stages may share a file.
    pub(crate) fn new(problems: Vec<Problem>) -> Self {
        let mut sorted = problems;
        sorted.sort_by(|left, right| rank(left).cmp(&rank(right)));
        let mut kept: Vec<Problem> = Vec::with_capacity(sorted.len());
        for problem in sorted {
            let twin = |other: &Problem| other.place == problem.place && other.message == problem.message;
            // Those without a position concern one stage each.
            if matches!(problem.place, Place::Default { .. }) || !kept.iter().any(twin) {
                kept.push(problem);
            }
        }
        Self { problems: kept }
    }

    /// The problems, in the order in which they are printed. There is at least one.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The machine-readable form: an array of objects `place`, `key`, `stage`, `kind`, `message`, `hint`.
    pub fn to_json(&self) -> serde_json::Value {
        // Strings and numbers only: serialisation has nothing to fail on.
        serde_json::to_value(&self.problems).unwrap_or_default()
    }
}

/// Positions in files first, then overrides in the order given, then defaults.
fn rank(problem: &Problem) -> (u8, &str, usize, usize) {
    match &problem.place {
        Place::File { file } => (0, file, 0, 0),
        Place::At { file, line, column } => (0, file, *line, *column),
        Place::Override { .. } => (1, "", 0, 0),
        Place::Default { file } => (2, file, 0, 0),
    }
}

impl fmt::Display for RecipeErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, problem) in self.problems.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for RecipeErrors {}
