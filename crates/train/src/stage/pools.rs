//! Pools of scored samples: drawn for their own sake, for pairs, or to train on.

use std::sync::atomic::Ordering;

use ::recipe::ModelName;
use burn::tensor::Device;
use inference::setup::{self, CompletionText, Endings, Loaded, PoolPlan, RewardSet, RewardTable};
use io::atomic;
use model::Policy;
use reward::{Pool, RewardId};
use serde_json::json;

use super::{Ended, Site, load, room, sampling, supervise, told, write_run};
use crate::calibration::reward_name;
use crate::error::Error;
use crate::methods::pool;
use crate::methods::task_pairs::{self, Codec};
use crate::pooled::{self, Pooled, PooledRows};
use crate::progress::Progress;
use crate::recipe::Recipe;

/// A pool of samples of a recipe's prompts, scored by its reward.
pub(super) struct Drawn {
    pub(super) prompts: Vec<generate::Prompt>,
    pub(super) samples: Pool,
    pub(super) id: RewardId,
}

/// A reward of what a recipe draws, after all right answers that it compares with were looked at.
pub(super) fn built(
    table: &RewardTable,
    recipe: &Recipe,
    site: &Site<'_>,
    loaded: &Loaded,
    device: &Device,
) -> Result<RewardSet, Error> {
    table.check_rows(&recipe.data, &site.places, recipe.run.seed).map_err(Error::other)?;
    let reward = setup::build(table, &site.places, loaded, device).map_err(Error::other)?;
    Ok(reward.with_stop(loaded, &recipe.sampling.stop))
}

/// Draws and scores a pool, or finds it; `None` when stopped.
pub(super) fn scored_pool(
    recipe: &Recipe,
    site: &Site<'_>,
    loaded: &Loaded,
    policy: &Policy,
    reward: &RewardSet,
    sampling: &generate::Sampling,
    samples: usize,
) -> Result<Option<Drawn>, Error> {
    let Some((prompts, mut samples)) = sampled_pool(recipe, site, loaded, policy, sampling, samples)? else {
        return Ok(None);
    };
    let id = setup::score(&mut samples, "reward", reward, &prompts, &site.pools).map_err(Error::other)?;
    Ok(Some(Drawn { prompts, samples, id }))
}

/// Draws a pool of a recipe's prompts, or finds it; `None` when stopped.
fn sampled_pool(
    recipe: &Recipe,
    site: &Site<'_>,
    loaded: &Loaded,
    policy: &Policy,
    sampling: &generate::Sampling,
    samples: usize,
) -> Result<Option<(Vec<generate::Prompt>, Pool)>, Error> {
    let prompts = setup::prompts(&recipe.data, &site.places, loaded, recipe.run.seed, room(loaded, recipe));
    let prompts = told(recipe, site, loaded, prompts.map_err(Error::other)?);
    let decode = setup::decode_of(loaded);
    let plan = PoolPlan {
        folder: &site.pools,
        policy,
        policy_hash: &loaded.hash,
        tokenizer_hash: loaded.tokenizer.hash(),
        decode: &decode,
        reference: None,
        prompts: &prompts,
        sampling,
        budget: recipe.sampling.max_new_tokens,
        samples,
        seed: recipe.run.seed,
        limits: setup::limits_of(&recipe.engine),
    };
    let mut progress = Progress::new(&site.title);
    let mut watch = |share| progress.at("samples", share) && !site.stop.load(Ordering::Relaxed);
    let Some(samples) = setup::pool(&plan, &mut watch).map_err(Error::other)? else {
        return Ok(None);
    };
    progress.finish();
    let all = (0..samples.len()).flat_map(|prompt| samples.samples(prompt));
    let endings = Endings::of(all.map(|sample| (&sample.ids[..], sample.end)));
    if let Some(warning) = endings.warning(recipe.sampling.max_new_tokens, recipe.data.is_raw(loaded)) {
        Progress::say(&format!("{}: {warning}", site.title));
    }
    Ok(Some((prompts, samples)))
}

pub(super) fn draw_pool(
    recipe: &Recipe,
    settings: &pool::Pool,
    site: &Site<'_>,
    device: &Device,
) -> Result<Ended, Error> {
    let loaded = setup::load(&site.places, &recipe.model.path, device)
        .and_then(|loaded| loaded.with_dtype(recipe.model.dtype))
        .map_err(Error::other)?;
    let policy = loaded.policy(loaded.hash.clone());
    let law = sampling(&recipe.sampling);
    if !settings.objectives.is_empty() {
        return draw_labelled(recipe, settings, site, &loaded, &policy, device);
    }
    let Some(table) = &recipe.reward else { return Ok(Ended::Done) };
    let reward = built(table, recipe, site, &loaded, device)?;
    write_run(recipe, site, &json!({ "base": loaded.name }))?;
    let Some(Drawn { prompts, samples, id }) =
        scored_pool(recipe, site, &loaded, &policy, &reward, &law, settings.samples)?
    else {
        return Ok(Ended::Interrupted);
    };
    let text = CompletionText::new(&loaded, &recipe.sampling.stop);
    let decode = |ids: &[u32]| text.of(ids);
    let (hash, seed) = (loaded.tokenizer.hash(), recipe.run.seed);
    let drawn = match &settings.task {
        None => pool::pairs(settings, &samples, &id, &prompts, hash, &decode, seed)?,
        Some(task) => {
            let encode = |text: &str| {
                let mut ids = loaded.tokenizer.encode_inside(text).map_err(Error::other)?;
                ids.extend(loaded.tokenizer.stop_ids().first());
                Ok(ids)
            };
            let codec = Codec { encode: &encode, decode: &decode, hash };
            task_pairs::pairs(task, settings.pairs_per_prompt, &samples, &id, &prompts, &codec, seed)?
        }
    };
    atomic::write(&site.folder.join("pairs.jsonl"), drawn.lines.as_bytes())?;
    let mean = mean_reward(&samples, &id)?;
    tell_pairs(site, settings, &prompts, &format!("mean reward {mean:.4}"), &drawn);
    Ok(Ended::Done)
}

/// [`draw_pool`] with a label of every pair for each of several objectives.
fn draw_labelled(
    recipe: &Recipe,
    settings: &pool::Pool,
    site: &Site<'_>,
    loaded: &Loaded,
    policy: &Policy,
    device: &Device,
) -> Result<Ended, Error> {
    let rewards = settings.objectives.iter().map(|objective| {
        let set = built(&objective.reward, recipe, site, loaded, device)?;
        Ok((objective.name.clone(), set))
    });
    let rewards = rewards.collect::<Result<Vec<_>, Error>>()?;
    write_run(recipe, site, &json!({ "base": loaded.name }))?;
    let law = sampling(&recipe.sampling);
    let Some((prompts, mut samples)) = sampled_pool(recipe, site, loaded, policy, &law, settings.samples)?
    else {
        return Ok(Ended::Interrupted);
    };
    let (mut objectives, mut means) = (Vec::new(), Vec::new());
    for (name, set) in &rewards {
        let id = setup::score(&mut samples, name, set, &prompts, &site.pools).map_err(Error::other)?;
        means.push(format!("{name} {:.4}", mean_reward(&samples, &id)?));
        objectives.push((name.clone(), id));
    }
    let text = CompletionText::new(loaded, &recipe.sampling.stop);
    let decode = |ids: &[u32]| text.of(ids);
    let hash = loaded.tokenizer.hash();
    let drawn =
        pool::labelled_pairs(settings, &samples, &objectives, &prompts, hash, &decode, recipe.run.seed)?;
    atomic::write(&site.folder.join("pairs.jsonl"), drawn.lines.as_bytes())?;
    tell_pairs(site, settings, &prompts, &format!("mean rewards {}", means.join(", ")), &drawn);
    Ok(Ended::Done)
}

fn mean_reward(samples: &Pool, id: &RewardId) -> Result<f64, Error> {
    let all = samples.rewards(id).map_err(Error::other)?;
    let count: usize = all.iter().map(|row| row.len()).sum();
    Ok(all.iter().flat_map(|row| row.iter()).sum::<f64>() / count as f64)
}

fn tell_pairs(
    site: &Site<'_>,
    settings: &pool::Pool,
    prompts: &[generate::Prompt],
    means: &str,
    drawn: &pool::Pairs,
) {
    Progress::say(&format!(
        "{}: {} samples of {} prompts, {means}; {} pairs, {} prompts without one",
        site.title,
        prompts.len() * settings.samples,
        prompts.len(),
        drawn.count,
        drawn.without
    ));
}

/// Draws and scores a pool of the model that training begins with, and trains on it.
pub(super) fn learn_from_pool<M: Pooled + Clone>(
    recipe: &Recipe,
    settings: &M,
    site: &Site<'_>,
    device: &Device,
) -> Result<Ended, Error> {
    match pooled_rows(recipe, settings, &recipe.model.path, site, device)? {
        None => Ok(Ended::Interrupted),
        Some(FromPool { model, rows, .. }) => {
            supervise(recipe, site, model, settings.clone(), (rows.train, rows.held_out), device)
        }
    }
}

/// A model, and rows made of its samples.
pub(super) struct FromPool<R> {
    pub(super) model: Loaded,
    pub(super) rows: PooledRows<R>,
    /// The name that a head remembers the reward by.
    pub(super) reward: String,
}

/// The rows that `method` makes of a scored pool of the model `name`, and that model; `None` when stopped.
pub(super) fn pooled_rows<M: Pooled>(
    recipe: &Recipe,
    method: &M,
    name: &ModelName,
    site: &Site<'_>,
    device: &Device,
) -> Result<Option<FromPool<M::Row>>, Error> {
    let Some(table) = &recipe.reward else { return Ok(None) };
    let loaded = load(recipe, name, site, device)?;
    let reward = built(table, recipe, site, &loaded, device)?;
    let policy = Policy::new(loaded.hash.clone(), &loaded.decoder);
    let law = sampling(&recipe.sampling);
    let Some(Drawn { prompts, samples, id }) =
        scored_pool(recipe, site, &loaded, &policy, &reward, &law, method.samples())?
    else {
        return Ok(None);
    };
    drop(policy);
    let name = reward_name(&reward);
    drop(reward);
    let made = pooled::rows(method, &prompts, &samples, &id, recipe.data.held_out, recipe.run.seed)?;
    Progress::say(&format!(
        "{}: {} rows of {} prompts, {} held out; {} prompts whose samples say nothing",
        site.title,
        made.train.len(),
        prompts.len(),
        made.held_out.len(),
        made.silent
    ));
    Ok(Some(FromPool { model: loaded, rows: made, reward: name }))
}
