//! What can go wrong with a pool.

use std::path::PathBuf;

/// A pool that cannot be made, read, written or used as asked.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A file or folder cannot be read; the message names it.
    #[error("pool: {0}")]
    Read(#[from] std::io::Error),
    /// The pool could not be written. No file under the pool's name was changed.
    #[error("pool {}: {written} of {bytes} bytes written: {source}\n  hint: nothing was changed; free at least {bytes} bytes there, or keep pools in another folder", path.display())]
    Write {
        /// Where it was to go.
        path: PathBuf,
        /// Bytes written when it failed.
        written: usize,
        /// Bytes there are to write.
        bytes: usize,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The pool does not serialise.
    #[error("pool: {0}")]
    Json(#[from] serde_json::Error),
    /// A line of the file is not what it should be.
    #[error("{}:{line}: damaged pool: {problem}\n  hint: delete the file; it will be sampled again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: String,
    },
    /// The file ends before its last prompt.
    #[error("{}: truncated pool: {found} of {expected} prompts\n  hint: delete the file; it will be sampled again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Whole prompts found.
        found: usize,
        /// Prompts that the header promises.
        expected: usize,
    },
    /// The file is of another version of this program.
    #[error("{}: the pool has schema {found}, and this version reads schema {known}\n  hint: sample it again, or use the version that wrote it", path.display())]
    Schema {
        /// The file.
        path: PathBuf,
        /// Schema of the file.
        found: u64,
        /// Schema that this version reads.
        known: u64,
    },
    /// The pool was sampled otherwise than the run asks for.
    #[error("{}: the pool is not the run's\n  {}\n  hint: sample a new pool for this run, or give the run the pool's settings", path.display(), differences.join("\n  "))]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// `field: pool VALUE, run VALUE`, a line for each field that differs.
        differences: Vec<String>,
    },
    /// Prompts, samples or scores that do not fit together.
    #[error("pool: {what}: got {found}, expected {expected}")]
    Shape {
        /// What is counted.
        what: String,
        /// How many were given.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// The prompts given are not those that the pool's key names.
    #[error(
        "pool: the prompts given are not those of the pool's key\n  hint: the key's `prompts` is the hash of the same prompts in the same order"
    )]
    OtherPrompts,
    /// A number of the pool is not finite.
    #[error("pool: {what} of sample {sample} of prompt {prompt} is {value}; it must be finite")]
    NotFinite {
        /// Which number.
        what: String,
        /// The prompt's place in the pool.
        prompt: usize,
        /// The sample's place.
        sample: usize,
        /// The number.
        value: f64,
    },
    /// The pool has not been scored by a reward.
    #[error("pool: not scored by {name} ({identity}); it has {}\n  hint: score the pool with this reward first", if have.is_empty() { "no rewards".to_owned() } else { have.join(", ") })]
    NotScored {
        /// The reward's name.
        name: String,
        /// The reward's identity.
        identity: String,
        /// Names and identities of the rewards there are.
        have: Vec<String>,
    },
    /// Scoring failed.
    #[error(transparent)]
    Reward(#[from] generate::Error),
    /// A pool's rewards have no ranks.
    #[error("pool: {0}")]
    Input(#[from] objective::error::InputError),
}
