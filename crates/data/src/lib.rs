//! From files to token ids: tokenizers, chat templates, rows and readers, loss masks, batches, and the synthetic task.
//!
//! | module | what it does |
//! |---|---|
//! | [`tokenizer`] | loads, trains and saves Hugging Face tokenizers; encodes with offsets; decodes streams |
//! | [`chat`] | renders chat templates as transformers does, with the spans of `{% generation %}` blocks |
//! | [`rows`] | rows in TRL's formats: prompts, completions, preference pairs, conversations |
//! | [`read`] | JSONL and gzipped JSONL, with file and line in every error |
//! | [`render`] | rows to token ids and loss masks |
//! | [`batch`] | orders without state, batches of similar length, padding |
//! | [`wordmath`] | the synthetic task: word problems, worked solutions, exact verifier |

pub mod batch;
mod caught;
pub mod chat;
pub mod read;
pub mod render;
pub mod rows;
pub mod tokenizer;
pub mod wordmath;
