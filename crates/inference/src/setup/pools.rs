//! Pools of samples: opened where they are, drawn where they are not.

use std::path::Path;

use ::reward::{Pool, PoolKey, RewardId, prompts_hash};
use generate::{Chance, Completion, Engine, Prompt, Purpose, Sample, Sampling, Source, Step, Stream};
use model::Policy;

use super::{Error, RewardSet};
use crate::pool_asks;

/// Completions drawn between two looks at the clock and at Ctrl-C: some rounds of the engine.
const COMPLETIONS_AT_ONCE: usize = 256;

/// What a pool is drawn from.
#[derive(Debug, Clone, Copy)]
pub struct PoolPlan<'a> {
    /// Where pools are kept.
    pub folder: &'a Path,
    /// The policy.
    pub policy: &'a Policy,
    /// Hash of its weights.
    pub policy_hash: &'a str,
    /// Hash of its tokenizer.
    pub tokenizer_hash: &'a str,
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
    let mut engine = Engine::product(sources, usize::from(plan.reference.is_some()), plan.sampling.clone())?;
    let mut samples: Vec<Vec<Completion>> = Vec::with_capacity(plan.prompts.len());
    for part in plan.prompts.chunks((COMPLETIONS_AT_ONCE / plan.samples.max(1)).max(1)) {
        if !watch(samples.len() as f64 / plan.prompts.len() as f64) {
            return Ok(None);
        }
        let asks = part
            .iter()
            .flat_map(|prompt| pool_asks(prompt, prompt_stream(plan.seed, prompt), plan.samples, plan.budget))
            .collect();
        let mut drawn = engine.sample(asks, &mut Chance::Streams)?.into_iter();
        for _ in part {
            samples.push(drawn.by_ref().take(plan.samples).collect());
        }
    }
    let pool = Pool::new(key, plan.prompts, &samples, *engine.ledger())?;
    pool.save(plan.folder)?;
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
