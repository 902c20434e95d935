//! `[run]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::device::Device;
use crate::rules::{Rules, Validate, Violation};

/// What every recipe has: a name, a seed, and where to write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Names the folder of the run inside `out`. Letters, digits, `.`, `_` and `-`; left out, it is the name of the
    /// recipe's file.
    #[schemars(regex(pattern = r"^[A-Za-z0-9._-]*$"))]
    pub name: String,
    /// Seed of every random stream. The same seed gives the same run.
    pub seed: u64,
    /// The folder that runs are written to.
    pub out: PathBuf,
    /// Where tensors live.
    pub device: Device,
    /// Threads used on the processor; left out, all of them.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
}

impl Default for Run {
    fn default() -> Self {
        Self {
            name: String::new(),
            seed: 0,
            out: "checkpoints".into(),
            device: Device::default(),
            threads: None,
        }
    }
}

impl Run {
    /// The folder of the run: `out/name`.
    pub fn folder(&self) -> PathBuf {
        self.out.join(&self.name)
    }
}

impl Validate for Run {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["name"], name_is_a_file_name(&self.name));
    }
}

/// A name becomes a folder and a tag in reports, on every system. An empty one has not been filled in yet.
pub(crate) fn name_is_a_file_name(name: &str) -> Result<(), Violation> {
    let foreign = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
    if let Some(foreign) = foreign {
        let message = format!("the name {name:?} holds {foreign:?}");
        return Err(Violation::new(message).hint("use letters, digits, `.`, `_` and `-`"));
    }
    if !name.is_empty() && name.chars().all(|c| c == '.') {
        return Err(
            Violation::new(format!("the name {name:?} means a folder already")).hint("choose another")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folders_and_nothing_more() {
        for name in ["", "a", "quickstart-2.1_b", "..a"] {
            assert!(name_is_a_file_name(name).is_ok(), "{name}");
        }
        for name in ["a/b", "a b", "..", ".", "é", "a\\b", "a:b"] {
            assert!(name_is_a_file_name(name).is_err(), "{name}");
        }
    }
}
