//! What decides about a pool's samples, and so is its address.

use std::fmt::Display;

use generate::{Prompt, Sampling, TokenId};
use recipe::fingerprint;
use serde::{Deserialize, Serialize};

use super::PoolError;

/// Everything that decides about the samples of a pool. Two runs with equal keys draw the same samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PoolKey {
    /// Hash of the policy's weights and architecture.
    pub policy: String,
    /// Hash of the tokenizer.
    pub tokenizer: String,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Most new tokens of a sample.
    pub budget: usize,
    /// Seed of the random streams.
    pub seed: u64,
    /// Hash of the prompts (see [`prompts_hash`]).
    pub prompts: String,
    /// Samples per prompt, `M`. Each row has its own random stream, so the first samples of a larger pool are the samples
    /// of a smaller one: a pool serves every key that differs in a smaller `M` alone.
    pub samples: usize,
}

/// The hash of a list of prompts: the places that address their random streams, and their tokens.
///
/// # Errors
/// None in practice: numbers always serialise.
pub fn prompts_hash(prompts: &[Prompt]) -> Result<String, PoolError> {
    hash_of(prompts.iter().map(|prompt| (prompt.index, prompt.ids.as_slice())))
}

pub(super) fn hash_of<'a>(
    prompts: impl Iterator<Item = (usize, &'a [TokenId])>,
) -> Result<String, PoolError> {
    Ok(fingerprint(&prompts.collect::<Vec<_>>())?)
}

impl PoolKey {
    /// The hexadecimal BLAKE3 hash of the canonical JSON of the key without its number of samples.
    ///
    /// # Errors
    /// None in practice: a key always serialises.
    pub fn address(&self) -> Result<String, PoolError> {
        let key = Self { samples: 0, ..self.clone() };
        if key.sampling.stop.is_empty() {
            return Ok(fingerprint(&key)?);
        }
        // Pools of earlier versions had such keys, and samples that did not end there.
        Ok(fingerprint(&(key, "samples end at stop strings"))?)
    }

    /// One line for each field in which the key `run` of a run asks for something else than this pool's.
    pub(super) fn differences(&self, run: &Self) -> Vec<String> {
        // Without `..`: a field added to the key must be compared here, or this does not compile.
        let Self { policy, tokenizer, sampling, budget, seed, prompts, samples } = self;
        let Sampling { temperature, top_k, top_p, min_p, stop, repetition_penalty, no_repeat_ngram_size } =
            sampling;
        let mut lines = Vec::new();
        let mut differ = |field: &str, differs: bool, pool: &dyn Display, run: &dyn Display| {
            if differs {
                lines.push(format!("{field}: pool {pool}, run {run}"));
            }
        };
        let hashes = [
            ("policy", policy, &run.policy),
            ("tokenizer", tokenizer, &run.tokenizer),
            ("prompts", prompts, &run.prompts),
        ];
        for (field, pool, run) in hashes {
            differ(field, pool != run, &short(pool), &short(run));
        }
        let reals = [
            ("temperature", *temperature, run.sampling.temperature),
            ("top_p", *top_p, run.sampling.top_p),
            ("min_p", *min_p, run.sampling.min_p),
            ("repetition_penalty", *repetition_penalty, run.sampling.repetition_penalty),
        ];
        for (field, pool, run) in reals {
            differ(field, pool != run, &format!("{pool:?}"), &format!("{run:?}"));
        }
        differ("top_k", *top_k != run.sampling.top_k, top_k, &run.sampling.top_k);
        differ("stop", *stop != run.sampling.stop, &format!("{stop:?}"), &format!("{:?}", run.sampling.stop));
        differ(
            "no_repeat_ngram_size",
            *no_repeat_ngram_size != run.sampling.no_repeat_ngram_size,
            no_repeat_ngram_size,
            &run.sampling.no_repeat_ngram_size,
        );
        differ("budget", *budget != run.budget, budget, &run.budget);
        differ("seed", *seed != run.seed, seed, &run.seed);
        differ("samples", *samples < run.samples, samples, &run.samples);
        lines
    }
}

/// The beginning of a hash, enough to tell two apart by eye.
fn short(hash: &str) -> String {
    match hash.char_indices().nth(12) {
        Some((end, _)) => format!("{}…", &hash[..end]),
        None => hash.to_owned(),
    }
}
