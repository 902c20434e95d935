//! Methods that learn from the policy's own answers.

use burn::tensor::Device;
use inference::setup;
use model::Policy;
use objective::rank::CachedRewards;

use super::pools::{Drawn, built, scored_pool};
use super::{Ended, Site, learner, load, load_for_score, mark_trained, room, told, train};
use crate::calibration::{self, Wanted};
use crate::error::Error;
use crate::methods::parl::{Parl, ParlTask, Turns};
use crate::on_policy::{Compose, Head, OnPolicy, Parts, PpoTask};
use crate::progress::Progress;
use crate::recipe::Recipe;
use crate::trainer::Task;

pub(super) fn on_policy(
    recipe: &Recipe,
    settings: &dyn Compose,
    site: &Site<'_>,
    device: &Device,
) -> Result<Ended, Error> {
    let Some(table) = &recipe.reward else { return Ok(Ended::Done) };
    let loaded = load(recipe, &recipe.model.path, site, device)?;
    let reward = built(table, recipe, site, &loaded, device)?;
    let reference = Policy::new(loaded.hash.clone(), &loaded.decoder);
    let raw = generate::Sampling::default();
    let samples = settings.pool_samples();
    let (prompts, cached) = if samples == 0 {
        let found =
            setup::prompts(&recipe.data, &site.places, &loaded, recipe.run.seed, room(&loaded, recipe));
        (told(recipe, site, &loaded, found.map_err(Error::other)?), Vec::new())
    } else {
        let pool = scored_pool(recipe, site, &loaded, &reference, &reward, &raw, samples)?;
        let Some(Drawn { prompts, samples, id }) = pool else { return Ok(Ended::Interrupted) };
        let cached = samples
            .rewards(&id)
            .map_err(Error::other)?
            .into_iter()
            .map(|row| CachedRewards::new(row.to_vec()).map_err(Error::other))
            .collect::<Result<Vec<_>, _>>()?;
        (prompts, cached)
    };
    let laws = match settings.quantile() {
        None => Vec::new(),
        Some(Head { name, ties, floor }) => {
            let wanted = Wanted { name, ties, reference: &loaded, reward: &reward };
            let laws = calibration::laws(wanted, &prompts, &site.places, device)?;
            laws.into_iter().map(|law| law.with_floor_of(floor)).collect()
        }
    };
    let plan = settings.compose(&cached)?;
    if let Some(note) = &plan.note {
        Progress::say(&format!("{}: {note}", site.title));
    }
    let tokenizer = loaded.tokenizer.clone();
    let parts = Parts {
        prompts,
        cached,
        laws,
        reference: &reference,
        reward: reward.open().map_err(Error::other)?,
        budget: recipe.sampling.max_new_tokens,
        limits: setup::limits_of(&recipe.engine),
        decode: Box::new(move |ids| tokenizer.decode(ids, true).unwrap_or_default()),
    };
    let mut learner = learner(recipe, loaded)?;
    let seed = recipe.run.seed;
    let mut task: Box<dyn Task> = match settings.ppo() {
        None => Box::new(OnPolicy::new(plan, &recipe.optim, parts, seed)),
        Some(ppo) => {
            learner.decoder = learner.decoder.with_value_head();
            Box::new(PpoTask::new(plan, ppo, &recipe.optim, parts, seed)?)
        }
    };
    train(recipe, site, &mut learner, task.as_mut(), device)
}

/// Trains a reward model and a policy by turns.
pub(super) fn by_turns(
    recipe: &Recipe,
    settings: &Parl,
    site: &Site<'_>,
    device: &Device,
) -> Result<Ended, Error> {
    let Some(table) = &recipe.reward else { return Ok(Ended::Done) };
    let seed = recipe.run.seed;
    let loaded = load(recipe, &recipe.model.path, site, device)?;
    let gold = built(table, recipe, site, &loaded, device)?;
    let name = settings.reward_model.as_ref().unwrap_or(&recipe.model.path);
    let judge = load_for_score(recipe, name, model::Head::Score, site, device)?;
    if judge.tokenizer.hash() != loaded.tokenizer.hash() {
        return Err(Error::Data {
            what: judge.name,
            message: format!(
                "its tokenizer is not that of {}, whose answers it is to score\n  hint: name models of one family",
                loaded.name
            ),
        });
    }
    let reference = Policy::new(loaded.hash.clone(), &loaded.decoder);
    let prompts = setup::prompts(&recipe.data, &site.places, &loaded, seed, room(&loaded, recipe));
    let prompts = told(recipe, site, &loaded, prompts.map_err(Error::other)?);
    let parts = |prompts: Vec<generate::Prompt>| {
        let tokenizer = loaded.tokenizer.clone();
        Ok::<_, Error>(Parts {
            prompts,
            cached: Vec::new(),
            laws: Vec::new(),
            reference: &reference,
            reward: gold.open().map_err(Error::other)?,
            budget: recipe.sampling.max_new_tokens,
            limits: setup::limits_of(&recipe.engine),
            decode: Box::new(move |ids: &[u32]| tokenizer.decode(ids, true).unwrap_or_default()),
        })
    };
    let (labels, policy) = (parts(prompts.clone())?, parts(prompts)?);
    let mut judge = learner(recipe, judge)?;
    let adapters = judge.adapter.is_some();
    mark_trained(&mut judge.decoder, adapters);
    let mut task = ParlTask::new(settings, &recipe.optim, Turns { labels, policy, judge }, seed)?;
    let mut learner = learner(recipe, loaded)?;
    if settings.ppo().is_some() {
        learner.decoder = learner.decoder.with_value_head();
    }
    train(recipe, site, &mut learner, &mut task, device)
}
