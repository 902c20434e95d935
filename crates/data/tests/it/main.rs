//! Integration tests of `data` against reference outputs of the Python ecosystem: one binary, for one link.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bpe;
mod chat;
mod hh;
mod render;
mod smollm2;
mod support;
mod tokenizer;
