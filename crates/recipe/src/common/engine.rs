//! `[engine]`: how many rows are decoded at once.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use super::name::NameError;
use crate::rules::{Rules, Validate};

/// How many rows are decoded at once. What is drawn does not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// Most rows that run together; further ones wait.
    #[schemars(range(min = 1))]
    pub rows: usize,
    /// Most memory of cached keys and values, such as `"4 GB"`: rows that would need more wait until others have ended. A
    /// single row always runs. Weights and the work of a pass come on top.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

impl Engine {
    /// The rows that run together where a recipe says nothing.
    pub const ROWS: usize = 64;

    /// Whether a recipe says nothing.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Engine {
    fn default() -> Self {
        Self { rows: Self::ROWS, memory: None }
    }
}

impl Validate for Engine {
    fn validate(&self, _: &mut Rules) {}
}

/// An amount of memory: a number and a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bytes(u64);

/// The units, the largest first.
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
    ("B", 1),
];

impl Bytes {
    /// So many bytes.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let refuse = || {
            let hint = "write a number and one of GB, GiB, MB, MiB, kB, KiB, B, such as \"4 GB\"";
            NameError::new(format!("`{text}` is no amount of memory"), Some(hint.to_owned()))
        };
        let (unit, size) = UNITS.into_iter().find(|(unit, _)| text.ends_with(unit)).ok_or_else(refuse)?;
        let number: f64 = text[..text.len() - unit.len()].trim().parse().map_err(|_| refuse())?;
        let bytes = number * size as f64;
        if !(1.0..=1e18).contains(&bytes) {
            return Err(refuse());
        }
        Ok(Self(bytes as u64))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) =
            UNITS.into_iter().find(|(_, size)| self.0.is_multiple_of(*size)).unwrap_or(("B", 1));
        write!(f, "{} {unit}", self.0 / size)
    }
}

impl TryFrom<String> for Bytes {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        bytes.to_string()
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        crate::schema::string_schema(
            "An amount of memory: a number and GB, GiB, MB, MiB, kB, KiB or B.",
            "4 GB",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written() {
        let bytes = |text: &str| text.parse::<Bytes>().map(Bytes::get);
        assert_eq!(bytes("4 GB"), Ok(4_000_000_000));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
        assert_eq!(bytes("512 MiB"), Ok(512 << 20));
        assert_eq!(bytes("7 B"), Ok(7));
        for text in ["", "4", "GB", "-1 GB", "0 MB", "NaN GB", "4 gigs", "1e30 GB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for bytes in [Bytes::new(4_000_000_000), Bytes::new(3 << 29), Bytes::new(7)] {
            assert_eq!(bytes.to_string().parse(), Ok(bytes));
        }
    }
}
