//! Fixtures shared by the integration tests.

use std::path::PathBuf;

use data::tokenizer::Tokenizer;
use serde_json::Value;

pub(crate) fn fixture(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(relative)
}

pub(crate) fn json(relative: &str) -> Value {
    serde_json::from_str(&fs_err::read_to_string(fixture(relative)).unwrap()).unwrap()
}

pub(crate) fn tokenizer(name: &str) -> Tokenizer {
    Tokenizer::from_dir(fixture("tokenizer").join(name)).unwrap()
}
