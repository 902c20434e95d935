//! Integration tests of `data` against reference outputs of the Python ecosystem: one binary, for one link.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bpe;
mod chat;
mod constructs;
mod hh;
mod hostile;
mod render;
mod rows;
mod sentencepiece;
mod smollm2;
mod support;
mod tokenizer;
