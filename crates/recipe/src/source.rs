//! From a file and its overrides to a checked recipe.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::check::{Form, check};
use crate::overrides;
use crate::path::KeyPath;
use crate::place::{Origin, Place, SourceFile};
use crate::problem::{Problem, ProblemKind, RecipeErrors};
use crate::rules::Validate;
use crate::tree::{Entry, Node, Table, Value};

/// What a type must be able to do to be read from a recipe. Every type that can is one.
pub trait Recipe: DeserializeOwned + Serialize + JsonSchema + Validate {}

impl<R: DeserializeOwned + Serialize + JsonSchema + Validate> Recipe for R {}

/// The text of a recipe with its overrides, not yet checked.
#[derive(Debug, Clone)]
pub struct Source {
    pub(crate) file: Arc<SourceFile>,
    /// None if the text is not TOML.
    pub(crate) root: Option<Node>,
    pub(crate) problems: Vec<Problem>,
    path: PathBuf,
}

/// A recipe that passed every check.
#[derive(Debug, Clone)]
pub struct Loaded<R> {
    /// The recipe, defaults filled in.
    pub value: R,
    /// What it was read from.
    pub source: Source,
    references: Vec<String>,
}

impl Source {
    /// Reads a file. Errors in its text are kept for [`Source::load`].
    ///
    /// # Errors
    /// If the file cannot be read or is not UTF-8.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, RecipeErrors> {
        let path = path.as_ref();
        let name = path.display().to_string();
        let unreadable = |place, message: String, hint: &str| {
            let problem = Problem::new(place, "", ProblemKind::Unreadable, message, Some(hint.to_owned()));
            RecipeErrors::new(vec![problem])
        };
        let bytes = fs_err::read(path).map_err(|error| {
            let reason = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
            let message = format!("cannot read the recipe: {reason}");
            unreadable(Place::File { file: name.clone() }, message, "name an existing TOML file")
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let valid = String::from_utf8_lossy(&error.as_bytes()[..error.utf8_error().valid_up_to()]);
            let file = SourceFile { name: name.clone(), text: valid.into_owned() };
            let (line, column) = file.position(usize::MAX);
            let place = Place::At { file: name.clone(), line, column };
            unreadable(place, "the text is not UTF-8".to_owned(), "save the file as UTF-8")
        })?;
        Ok(Self::from_text(path, text))
    }

    /// Takes the text of a recipe under the path it is reported by; relative paths of stages start from there.
    pub fn from_text(path: impl AsRef<Path>, text: impl Into<String>) -> Self {
        let path = path.as_ref().to_owned();
        let file = Arc::new(SourceFile { name: path.display().to_string(), text: text.into() });
        let (root, problems) = Node::parse(&file);
        Self { file, root, problems, path }
    }

    /// Applies an override as given after `--set`: `a.b.c=value`, the value being TOML or else a bare string. Tables
    /// are made where they are missing; an item of an array is named by its index or by its `name`. What is wrong
    /// with the override is reported by [`Source::load`].
    #[must_use]
    pub fn set(mut self, text: &str) -> Self {
        if let Some(root) = &mut self.root
            && let Err(problem) = overrides::apply(root, text, &overrides::command_line(text))
        {
            self.problems.push(*problem);
        }
        self
    }

    /// Applies several overrides, in order.
    #[must_use]
    pub fn set_all(self, texts: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        texts.into_iter().fold(self, |source, text| source.set(text.as_ref()))
    }

    /// Fills in a string (dotted key) where the recipe leaves it out, such as `run.name` from [`Source::stem`].
    #[must_use]
    pub fn set_default(mut self, key: &str, value: &str) -> Self {
        let origin = Origin::Default(self.file.clone());
        if let Some(root) = &mut self.root
            && root.at(&KeyPath::dotted(key)).is_none()
        {
            fill(root, key, Value::String(value.to_owned()), &origin);
        }
        self
    }

    /// Fills in a value of TOML (dotted key) where the recipe leaves it out, such as a setting that a model
    /// brings.
    #[must_use]
    pub fn set_default_value(mut self, key: &str, value: &str) -> Self {
        let origin = Origin::Default(self.file.clone());
        if let Some(root) = &mut self.root
            && root.at(&KeyPath::dotted(key)).is_none()
        {
            fill(root, key, Node::parse_value(value, &origin).value, &origin);
        }
        self
    }

    /// Whether the recipe says anything under a dotted key.
    pub fn has(&self, key: &str) -> bool {
        self.root.as_ref().is_some_and(|root| root.at(&KeyPath::dotted(key)).is_some())
    }

    /// The file's name without its extension.
    pub fn stem(&self) -> String {
        self.path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
    }

    /// The path the source was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether this is a recipe of stages, to be read with [`Source::load_pipeline`].
    pub fn is_pipeline(&self) -> bool {
        matches!(&self.root, Some(Node { value: Value::Table(table), .. }) if table.get("stages").is_some())
    }

    /// Checks the recipe and reads it: keys, types and ranges against the schema of `R`, its own parsers, and the
    /// rules of [`Validate`].
    ///
    /// # Errors
    /// All problems at once.
    pub fn load<R: Recipe>(self) -> Result<Loaded<R>, RecipeErrors> {
        let mut problems = self.problems.clone();
        let checked = self.root.clone().map(|root| check::<R>(root, &Form::of::<R>(), &self.file));
        let (value, references) = checked.map_or((None, Vec::new()), |checked| {
            problems.extend(checked.problems);
            (checked.value, checked.references)
        });
        match value {
            Some(value) if problems.is_empty() => {
                let references = references.into_iter().map(|reference| reference.stage).collect();
                Ok(Loaded::new(value, self, references))
            }
            _ => Err(RecipeErrors::new(problems)),
        }
    }
}

impl<R: Serialize> Loaded<R> {
    /// The recipe as TOML with every default written out. Loading it again gives an equal value.
    ///
    /// # Errors
    /// If the type holds something that TOML cannot express, such as a map with keys that are no strings.
    pub fn resolved(&self) -> Result<String, toml::ser::Error> {
        resolved(&self.value)
    }
}

/// A recipe, or a stage of a pipeline, as TOML with every default written out.
///
/// # Errors
/// If the type holds something that TOML cannot express, such as a map with keys that are no strings.
pub fn resolved<T: Serialize + ?Sized>(recipe: &T) -> Result<String, toml::ser::Error> {
    toml::to_string_pretty(recipe)
}

impl<R> Loaded<R> {
    pub(crate) fn new(value: R, source: Source, references: Vec<String>) -> Self {
        Self { value, source, references }
    }

    /// The stages whose outputs the recipe asks for with `stage:NAME`: outside a pipeline they are not to be had.
    pub fn stage_references(&self) -> &[String] {
        &self.references
    }
}

/// Sets a value, making tables on the way; what is in the way stays, for the walk to report.
pub(crate) fn fill(root: &mut Node, key: &str, value: Value, origin: &Origin) {
    let mut node = root;
    let keys: Vec<&str> = key.split('.').collect();
    for (depth, key) in keys.iter().enumerate() {
        let Value::Table(table) = &mut node.value else { return };
        let last = depth + 1 == keys.len();
        if last || table.get(key).is_none() {
            let value = if last { value.clone() } else { Value::Table(Table::default()) };
            let node = Node { value, origin: origin.clone() };
            table.put(Entry { key: (*key).to_owned(), origin: origin.clone(), node });
        }
        let Some(entry) = table.get_mut(key) else { return };
        node = &mut entry.node;
    }
}
