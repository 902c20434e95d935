//! Names of models and of data: strings that parse themselves.

mod data;
mod model;

pub use self::data::{DataLocation, DataName};
pub use self::model::{ModelLocation, ModelName};

/// Why a name cannot be read. Its text has the remedy on a second line, after `hint: `, as recipes report it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}{}", .hint.as_ref().map(|hint| format!("\nhint: {hint}")).unwrap_or_default())]
pub struct NameError {
    message: String,
    hint: Option<String>,
}

impl NameError {
    pub(crate) fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        Self { message: message.into(), hint }
    }
}

fn malformed(what: &str, text: &str, why: &str, remedy: &str) -> NameError {
    NameError::new(format!("the {what} name `{text}` {why}"), Some(remedy.to_owned()))
}

fn stage_name(what: &str, text: &str, stage: &str) -> Result<String, NameError> {
    if stage.is_empty() {
        return Err(malformed(what, text, "names no stage", "write stage:NAME"));
    }
    Ok(stage.to_owned())
}

/// A path, or a name that is nothing yet: a scheme other than `hf` is neither.
fn check_plain(what: &str, text: &str, form: &str) -> Result<(), NameError> {
    if text.trim().is_empty() {
        return Err(malformed(what, text, "is empty", form));
    }
    if text.contains("://") || text.starts_with("hf:") {
        return Err(malformed(what, text, "has a form that is not known", form));
    }
    Ok(())
}

/// `org/name`, each of the characters that the hub allows.
fn check_repo(what: &str, text: &str, repo: &str, form: &str) -> Result<(), NameError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let is_part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed);
    match repo.split_once('/') {
        Some((org, name)) if is_part(org) && is_part(name) => Ok(()),
        _ => Err(malformed(what, text, "does not name a repository as org/name", form)),
    }
}

fn check_revision(
    what: &str,
    text: &str,
    revision: Option<&str>,
    form: &str,
) -> Result<Option<String>, NameError> {
    if revision == Some("") {
        return Err(malformed(what, text, "has an empty revision", form));
    }
    Ok(revision.map(str::to_owned))
}

/// What both kinds of name share: they are strings that parse themselves.
macro_rules! string_name {
    ($type:ident, $description:literal, $example:literal) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.text
            }
        }

        impl schemars::JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let mut schema = crate::schema::string_schema($description, $example);
                schema.insert(crate::schema::NAMES_STAGE.into(), true.into());
                schema
            }
        }
    };
}
use string_name;

/// Reads a list of names, or one name in its place.
pub fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<ModelName>, D::Error> {
    struct Names;
    impl<'de> serde::de::Visitor<'de> for Names {
        type Value = Vec<ModelName>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of models, or one")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![text.parse().map_err(E::custom)?])
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut names = Vec::new();
            while let Some(name) = items.next_element()? {
                names.push(name);
            }
            Ok(names)
        }
    }
    deserializer.deserialize_any(Names)
}

/// The schema of what [`one_or_many`] reads.
#[derive(Debug, schemars::JsonSchema)]
#[serde(untagged)]
#[allow(dead_code, reason = "it is a schema alone")]
pub enum OneOrMany {
    /// Several.
    Many(Vec<ModelName>),
    /// One model.
    One(ModelName),
}
