//! Names of data.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{NameError, check_plain, check_repo, check_revision, malformed, stage_name, string_name};
use crate::suggest;

/// Names data: `wordmath` (the built-in generator), a JSONL file (`.jsonl`, `.jsonl.gz`),
/// `hf://datasets/org/name[@revision]/path/in/repo`, or `stage:NAME`, the output of an earlier stage of the same pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DataName {
    text: String,
    location: DataLocation,
}

/// Where data is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataLocation {
    /// The built-in generator of word problems.
    Wordmath,
    /// A file of JSON lines or of one list of objects, gzipped if its name ends in `.gz`.
    File(PathBuf),
    /// A file of a data set of the Hugging Face Hub.
    Hub {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit; `None` for the default branch.
        revision: Option<String>,
        /// The file's path inside the repository.
        path_in_repo: String,
    },
    /// The output of an earlier stage of the pipeline.
    Stage(String),
}

impl DataName {
    /// The built-in generator.
    pub fn wordmath() -> Self {
        Self { text: "wordmath".into(), location: DataLocation::Wordmath }
    }

    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Where the data is.
    pub fn location(&self) -> &DataLocation {
        &self.location
    }
}

impl FromStr for DataName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let location = if text == "wordmath" {
            DataLocation::Wordmath
        } else if let Some(stage) = text.strip_prefix("stage:") {
            DataLocation::Stage(stage_name("data", text, stage)?)
        } else if let Some(rest) = text.strip_prefix("hf://") {
            hub_data(text, rest)?
        } else {
            let form = "write `wordmath`, a .jsonl or .json file, also with .gz, hf://datasets/org/name/path or stage:NAME";
            check_plain("data", text, form)?;
            if let Some((format, remedy)) = foreign(text) {
                return Err(malformed(
                    "data",
                    text,
                    &format!("is {format}, and rows are read from JSON"),
                    &remedy,
                ));
            }
            if !is_json(text) {
                let hint = suggest::closest(text, ["wordmath"])
                    .map_or_else(|| form.to_owned(), |name| format!("did you mean `{name}`?"));
                return Err(malformed("data", text, "is neither built in nor a file of JSON", &hint));
            }
            DataLocation::File(text.into())
        };
        Ok(Self { text: text.to_owned(), location })
    }
}

fn hub_data(text: &str, rest: &str) -> Result<DataLocation, NameError> {
    let form = "write hf://datasets/org/name/path/to/file.jsonl or hf://datasets/org/name@revision/path";
    let Some(rest) = rest.strip_prefix("datasets/") else {
        return Err(malformed("data", text, "does not name a data set", form));
    };
    let mut parts = rest.splitn(3, '/');
    let (Some(org), Some(name), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(malformed("data", text, "does not name a file of the repository", form));
    };
    let (name, revision) = match name.split_once('@') {
        Some((name, revision)) => (name, Some(revision)),
        None => (name, None),
    };
    let repo = format!("{org}/{name}");
    check_repo("data", text, &repo, form)?;
    if let Some((format, remedy)) = foreign(path) {
        return Err(malformed("data", text, &format!("is {format}, and rows are read from JSON"), &remedy));
    }
    if !is_json(path) || path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(malformed("data", text, "does not name a .jsonl or .json file, also with .gz", form));
    }
    let revision = check_revision("data", text, revision, form)?;
    Ok(DataLocation::Hub { repo, revision, path_in_repo: path.to_owned() })
}

/// The ending of a file's name in small letters, that before `.gz` where there is one.
fn ending(path: &str) -> String {
    let of = |path: &Path| path.extension().map(|found| found.to_string_lossy().to_lowercase());
    let path = Path::new(path);
    match of(path).as_deref() {
        Some("gz") => of(&path.with_extension("")),
        found => found.map(str::to_owned),
    }
    .unwrap_or_default()
}

fn is_json(path: &str) -> bool {
    matches!(ending(path).as_str(), "jsonl" | "json" | "ndjson")
}

/// The format of a file of rows that are not JSON, and how they become it.
fn foreign(path: &str) -> Option<(&'static str, String)> {
    let (format, reader) = match ending(path).as_str() {
        "parquet" => ("a Parquet file", "read_parquet"),
        "csv" => ("a CSV file", "read_csv"),
        "tsv" => ("a TSV file", "read_table"),
        "arrow" | "feather" => ("an Arrow file", "read_feather"),
        "xlsx" | "xls" => ("a spreadsheet", "read_excel"),
        _ => return None,
    };
    let remedy = format!(
        "convert it once, in Python: pandas.{reader}(\"{path}\").to_json(\"rows.jsonl\", orient=\"records\", lines=True)"
    );
    Some((format, remedy))
}

string_name!(
    DataName,
    "Data: `wordmath`, a .jsonl or .json file, also with .gz, `hf://datasets/org/name[@revision]/path`, or `stage:NAME`.",
    "wordmath"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_names_say_where_the_data_is() {
        let hub = |revision: Option<&str>| DataLocation::Hub {
            repo: "Anthropic/hh-rlhf".into(),
            revision: revision.map(str::to_owned),
            path_in_repo: "helpful-base/test.jsonl.gz".into(),
        };
        let cases = [
            ("wordmath", DataLocation::Wordmath),
            ("rows.jsonl", DataLocation::File("rows.jsonl".into())),
            ("data/rows.JSONL.gz", DataLocation::File("data/rows.JSONL.gz".into())),
            ("rows.json", DataLocation::File("rows.json".into())),
            ("hf://datasets/Anthropic/hh-rlhf/helpful-base/test.jsonl.gz", hub(None)),
            ("hf://datasets/Anthropic/hh-rlhf@v1/helpful-base/test.jsonl.gz", hub(Some("v1"))),
            ("stage:pool", DataLocation::Stage("pool".into())),
        ];
        for (text, location) in cases {
            let name: DataName = text.parse().expect(text);
            assert_eq!(name.location(), &location, "{text}");
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn malformed_names_are_refused_with_a_remedy() {
        let names = [
            "",
            "wordmth",
            "rows.csv",
            "rows.csv.gz",
            "rows",
            "hf://a/b/c.jsonl",
            "hf://datasets/a/b",
            "hf://datasets/a/b/c.parquet",
            "hf://datasets/a/b/../c.jsonl",
            "stage:",
        ];
        for text in names {
            let error = text.parse::<DataName>().expect_err(text);
            assert!(error.hint.is_some(), "{text}");
        }
        for (text, format) in [("a/rows.parquet", "a Parquet file"), ("rows.CSV", "a CSV file")] {
            let error = text.parse::<DataName>().expect_err(text);
            let remedy = error.hint.unwrap_or_default();
            assert!(error.message.contains(format) && remedy.contains(text), "{} {remedy}", error.message);
        }
        let error = "wordmth".parse::<DataName>().expect_err("a typo");
        assert_eq!(error.hint.as_deref(), Some("did you mean `wordmath`?"));
    }
}
