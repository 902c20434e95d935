//! Names of models.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NameError, check_plain, check_repo, check_revision, malformed, stage_name, string_name};

/// Names a model: `tiny` (the shipped one), a directory, `hf://org/name[@revision]`, or `stage:NAME`, the output of an
/// earlier stage of the same pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName {
    text: String,
    location: ModelLocation,
}

/// Where a model is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ModelLocation {
    /// The shipped model.
    Tiny,
    /// A Hugging Face directory.
    Dir(PathBuf),
    /// A repository of the Hugging Face Hub.
    Hub {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit; `None` for the default branch.
        revision: Option<String>,
    },
    /// The output of an earlier stage of the pipeline.
    Stage(String),
}

impl ModelName {
    /// The shipped model.
    pub fn tiny() -> Self {
        Self { text: "tiny".into(), location: ModelLocation::Tiny }
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where the model is.
    pub fn location(&self) -> &ModelLocation {
        &self.location
    }
}

impl FromStr for ModelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let location = if text == "tiny" {
            ModelLocation::Tiny
        } else if let Some(stage) = text.strip_prefix("stage:") {
            ModelLocation::Stage(stage_name("model", text, stage)?)
        } else if let Some(rest) = text.strip_prefix("hf://") {
            let form = "write hf://org/name or hf://org/name@revision";
            let (repo, revision) = match rest.split_once('@') {
                Some((repo, revision)) => (repo, Some(revision)),
                None => (rest, None),
            };
            if rest.starts_with("datasets/") {
                return Err(malformed("model", text, "names a data set", form));
            }
            check_repo("model", text, repo, form)?;
            ModelLocation::Hub {
                repo: repo.to_owned(),
                revision: check_revision("model", text, revision, form)?,
            }
        } else {
            let form = "write `tiny`, a directory, hf://org/name or stage:NAME";
            check_plain("model", text, form)?;
            ModelLocation::Dir(text.into())
        };
        Ok(Self { text: text.to_owned(), location })
    }
}

string_name!(ModelName, "A model: `tiny`, a directory, `hf://org/name[@revision]`, or `stage:NAME`.", "tiny");

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(repo: &str, revision: Option<&str>) -> ModelLocation {
        ModelLocation::Hub { repo: repo.into(), revision: revision.map(str::to_owned) }
    }

    #[test]
    fn model_names_say_where_the_model_is() {
        let cases = [
            ("tiny", ModelLocation::Tiny),
            ("./tiny", ModelLocation::Dir("./tiny".into())),
            ("checkpoints/run/best", ModelLocation::Dir("checkpoints/run/best".into())),
            ("hf://org/name", hub("org/name", None)),
            ("hf://org/name-1.5@refs/pr/3", hub("org/name-1.5", Some("refs/pr/3"))),
            ("stage:arm", ModelLocation::Stage("arm".into())),
        ];
        for (text, location) in cases {
            let name: ModelName = text.parse().expect(text);
            assert_eq!(name.location(), &location, "{text}");
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn malformed_names_are_refused_with_a_remedy() {
        let names = [
            "",
            " ",
            "hf://name",
            "hf://a/b/c",
            "hf://a/b@",
            "hf://../b",
            "hf:a/b",
            "https://x/y",
            "stage:",
            "hf://datasets/a/b",
        ];
        for text in names {
            let error = text.parse::<ModelName>().expect_err(text);
            assert!(error.hint.is_some(), "{text}");
        }
    }
}
