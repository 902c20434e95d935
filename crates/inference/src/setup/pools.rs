//! Pools of samples: opened where they are, drawn where they are not.

use std::path::Path;

use ::reward::{Decode, Pool, PoolKey, RewardId, prompts_hash};
use generate::engine::Limits;
use generate::{Chance, Completion, Engine, Prompt, Purpose, Sample, Sampling, Source, Step, Stream};
use model::Policy;

use super::{Error, RewardSet};
use crate::pool_asks;

/// Completions drawn between two looks at the clock and at Ctrl-C: some rounds of the engine. They are saved, and found
/// again by a run that goes on.
const COMPLETIONS_AT_ONCE: usize = 256;

/// What a pool is drawn from.
#[expect(missing_debug_implementations, reason = "a function has nothing to show")]
#[derive(Clone, Copy)]
pub struct PoolPlan<'a> {
    /// Where pools are kept.
    pub folder: &'a Path,
    /// The policy.
    pub policy: &'a Policy,
    /// Hash of its weights.
    pub policy_hash: &'a str,
    /// Hash of its tokenizer.
    pub tokenizer_hash: &'a str,
    /// Turns its tokens into text, where stop strings are looked for.
    pub decode: &'a Decode,
    /// The model that divergences refer to, if it is another.
    pub reference: Option<&'a Policy>,
    /// The prompts.
    pub prompts: &'a [Prompt],
    /// How completions are drawn.
    pub sampling: &'a Sampling,
    /// Most new tokens.
    pub budget: usize,
    /// Samples of each prompt.
    pub samples: usize,
    /// Seed of the random streams.
    pub seed: u64,
    /// How many rows are decoded at once.
    pub limits: Limits,
}

/// The random stream of a prompt of a set.
pub fn prompt_stream(seed: u64, prompt: &Prompt) -> Stream {
    Stream::new(seed, Purpose::Sample, 0, prompt.index as u64)
}

/// Opens the pool, or draws and saves it. `watch` is told the share that is done and may stop it: then `None`.
pub fn pool(plan: &PoolPlan<'_>, watch: &mut dyn FnMut(f64) -> bool) -> Result<Option<Pool>, Error> {
    let key = PoolKey {
        policy: match plan.reference {
            // Divergences are part of a pool, so what they refer to is part of its address.
            Some(reference) => format!("{} against {}", plan.policy_hash, reference.name()),
            None => plan.policy_hash.to_owned(),
        },
        tokenizer: plan.tokenizer_hash.to_owned(),
        sampling: plan.sampling.clone(),
        budget: plan.budget,
        seed: plan.seed,
        prompts: prompts_hash(plan.prompts)?,
        samples: plan.samples,
    };
    if let Some(found) = Pool::open(plan.folder, &key)? {
        return Ok(Some(found));
    }
    let mut sources = vec![Source { policy: plan.policy as &dyn Step, weight: 1.0 }];
    sources.extend(plan.reference.map(|policy| Source { policy: policy as &dyn Step, weight: 0.0 }));
    let engine = Engine::product(sources, usize::from(plan.reference.is_some()), plan.sampling.clone())?;
    let decode = plan.decode.clone();
    let mut engine = engine.with_limits(plan.limits).with_decode(move |ids| decode(ids));
    let folder = plan.folder.join("parts");
    let mut parts: Vec<Pool> = Vec::new();
    let mut done = 0;
    for part in plan.prompts.chunks((COMPLETIONS_AT_ONCE / plan.samples.max(1)).max(1)) {
        if !watch(done as f64 / plan.prompts.len() as f64) {
            return Ok(None);
        }
        done += part.len();
        let key = PoolKey { prompts: prompts_hash(part)?, ..key.clone() };
        if let Some(found) = Pool::open(&folder, &key)?.filter(|found| found.key().samples == plan.samples) {
            parts.push(found);
            continue;
        }
        let before = *engine.ledger();
        let asks = part
            .iter()
            .flat_map(|prompt| pool_asks(prompt, prompt_stream(plan.seed, prompt), plan.samples, plan.budget))
            .collect();
        let drawn = engine.sample(asks, &mut Chance::Streams)?;
        let samples: Vec<Vec<Completion>> = drawn.chunks(plan.samples).map(<[Completion]>::to_vec).collect();
        let drawn = Pool::new(key, part, &samples, *engine.ledger() - before)?;
        drawn.save(&folder)?;
        parts.push(drawn);
    }
    let paths = parts.iter().map(|part| part.path(&folder)).collect::<Result<Vec<_>, _>>()?;
    let pool = Pool::join(key, plan.prompts, parts)?;
    pool.save(plan.folder)?;
    for path in paths {
        // A part that stays behind costs nothing but its space.
        let _ = fs_err::remove_file(path);
    }
    let _ = fs_err::remove_dir(&folder);
    Ok(Some(pool))
}

/// Scores a pool by a reward, unless it is scored already, and saves the scores with it.
pub fn score(
    pool: &mut Pool,
    name: &str,
    set: &RewardSet,
    prompts: &[Prompt],
    folder: &Path,
) -> Result<RewardId, Error> {
    let id = RewardId { name: name.to_owned(), identity: set.identity.clone() };
    let mut reward = set.open()?;
    if pool.score(&id, reward.as_mut(), prompts)? {
        pool.save(folder)?;
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use model::{Config, Decoder, Shape};

    fn policy() -> Policy {
        let shape = Shape {
            vocab_size: 40,
            hidden_size: 16,
            intermediate_size: 24,
            num_hidden_layers: 1,
            num_attention_heads: 2,
            num_key_value_heads: 1,
            max_position_embeddings: 32,
            eos: 1,
            pad: 0,
        };
        let mut stream = Stream::new(1, Purpose::Init, 0, 0);
        let decoder = Decoder::random(Config::llama(&shape), &Device::flex(), &mut || 4.0 * stream.normal());
        Policy::new("random", &decoder)
    }

    #[test]
    fn a_pool_that_was_interrupted_goes_on_where_it_stopped_and_is_the_same() {
        let policy = policy();
        let prompts: Vec<Prompt> =
            (0..10).map(|index| Prompt::from_ids(index, vec![2 + index as u32])).collect();
        let sampling = Sampling::default();
        let decode: Decode = std::sync::Arc::new(|ids| format!("{ids:?}"));
        let drawn = |folder: &Path, watch: &mut dyn FnMut(f64) -> bool| {
            let plan = PoolPlan {
                folder,
                policy: &policy,
                policy_hash: "random",
                tokenizer_hash: "none",
                decode: &decode,
                reference: None,
                prompts: &prompts,
                sampling: &sampling,
                budget: 5,
                samples: COMPLETIONS_AT_ONCE / 3,
                seed: 7,
                limits: Limits::default(),
            };
            pool(&plan, watch).expect("a pool")
        };
        let texts = |pool: &Pool| -> Vec<Vec<u32>> {
            (0..pool.len()).flat_map(|at| pool.samples(at).iter().map(|s| s.ids.clone())).collect()
        };
        let (one, two) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let whole = drawn(one.path(), &mut |_| true).expect("not stopped");
        let mut looks = 0;
        let mut stop = |_: f64| {
            looks += 1;
            looks < 3
        };
        assert!(drawn(two.path(), &mut stop).is_none(), "stopped before the third part");
        let mut shares = Vec::new();
        let mut watch = |share: f64| {
            shares.push(share);
            true
        };
        let parts = two.path().join("parts");
        let kept = fs_err::read_dir(&parts).expect("the parts").count();
        assert_eq!(kept, 2);
        let resumed = drawn(two.path(), &mut watch).expect("not stopped");
        assert_eq!(texts(&resumed), texts(&whole));
        assert_eq!(resumed.key(), whole.key());
        assert!(!parts.exists(), "parts are cleared away");
        assert!(drawn(two.path(), &mut |_| false).is_some(), "found, not drawn");
    }
}
