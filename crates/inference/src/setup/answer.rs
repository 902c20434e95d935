//! Runs a method of a recipe on prompts.

use std::rc::Rc;

use burn::tensor::Device;
use generate::schedule::{self, Answer, Progress, Saved, Services};
use generate::{
    Chance, Engine, Ledger, PrefixReward, Prompt, Purpose, Reward, Sample, Sampling, Stream, TokenId,
};

use super::recipe::Recipe;
use super::rewards::{decode_of, ends_step_of};
use super::values::{build_value, prompts_at_once};
use super::{
    Error, FurtherModels, Loaded, Places, RewardSet, ValueSet, answer_of, build, embedder, load_beside, suits,
};
use crate::selection::SimilarityTable;
use crate::{Method, PoolRule, Tools};

/// `[sampling]` as the engine takes it.
pub fn sampling_of(table: &recipe::Sampling) -> Sampling {
    Sampling {
        temperature: table.temperature as f32,
        top_k: table.top_k,
        top_p: table.top_p as f32,
        min_p: table.min_p as f32,
        stop: table.stop.clone(),
    }
}

/// What a method gave, and what it cost.
#[derive(Debug)]
pub struct Answers {
    /// One for each prompt.
    pub answers: Vec<Answer>,
    /// The reward of each answer, where the recipe has a reward.
    pub rewards: Option<Vec<f64>>,
    /// The cost, without that of the rewards above.
    pub ledger: Ledger,
}

/// A token as it is drawn: the ask's place, and the token.
pub type OnToken<'w> = dyn FnMut(usize, TokenId) + 'w;

/// Sees a run between two rounds; may save it, and stops it by `false`.
pub type OnRound<'w> = dyn FnMut(&Progress<'_>) -> Result<bool, generate::Error> + 'w;

/// Answers `prompts`, going on from `saved` where a run of the same recipe was saved. `on_token` is told tokens as they are
/// drawn; `None` when `watch` stopped the run.
pub fn answer(
    recipe: &Recipe,
    loaded: &Loaded,
    prompts: &[Prompt],
    device: &Device,
    saved: Option<Saved>,
    on_token: &mut OnToken<'_>,
    watch: &mut OnRound<'_>,
) -> Result<Option<Answers>, Error> {
    let places = Places::default();
    suits(&recipe.method, &places, &recipe.arms, &sampling_of(&recipe.sampling))?;
    let policy = loaded.policy(loaded.name.clone());
    let beside = |name| load_beside(&places, name, loaded, device);
    let ahead = recipe.rollout.as_ref().map(beside).transpose()?;
    let value = recipe.value.as_ref().map(|table| build_value(table, &places, loaded, device)).transpose()?;
    let reward = recipe.reward.as_ref().map(|table| build(table, &places, loaded, device)).transpose()?;
    let further = FurtherModels::load(&places, &recipe.arms, &recipe.models, loaded, device)?;
    let parts = further.parts(&policy);
    let decode = decode_of(loaded);
    let mut rollout = match &ahead {
        Some(policy) => {
            let decode = decode.clone();
            let engine = Engine::new(policy, sampling_of(&recipe.sampling))?;
            Some(engine.with_decode(move |ids| decode(ids)))
        }
        None => None,
    };
    let mut engine = recipe
        .method
        .engine(&parts, sampling_of(&recipe.sampling))?
        .with_decode(move |ids| decode(ids))
        .with_watch(on_token);
    let extract = answer_of(loaded);
    let mut tools =
        Tools::new(recipe.sampling.max_new_tokens).with_extract(move |prompt, ids| extract(prompt, ids));
    tools = tools.with_ends_step(ends_step_of(loaded));
    if reward.is_some() {
        tools = tools.with_reward();
    }
    if value.is_some() {
        tools = tools.with_value();
    }
    if ahead.is_some() {
        tools = tools.with_rollout();
    }
    let similarity = recipe.method.rule().and_then(PoolRule::similarity).and_then(SimilarityTable::model);
    let embedding = similarity.map(|name| embedder(name, &places, loaded, device)).transpose()?.map(Rc::new);
    if let Some(model) = embedding.clone() {
        tools = tools.with_embed(move |prompt, completions| model.embed(prompt, completions));
    }
    let method = recipe.method.machine(&tools)?;
    let mut chooser = reward.as_ref().map(RewardSet::open).transpose()?;
    let mut judge = value.as_ref().map(ValueSet::open).transpose()?;
    let streams: Vec<Stream> = prompts
        .iter()
        .map(|prompt| Stream::new(recipe.run.seed, Purpose::Method, 0, prompt.index as u64))
        .collect();
    let mut ledger = saved.as_ref().map_or_else(Ledger::default, |saved| saved.ledger);
    let given = {
        let mut services = Services::new(&mut engine)
            .with_scorer(&policy)
            .with_reward(chooser.as_deref_mut().map(|reward| reward as &mut dyn Reward))
            .with_value(judge.as_deref_mut().map(|value| value as &mut dyn PrefixReward))
            .with_rollout(rollout.as_mut().map(|engine| engine as &mut dyn Sample))
            .at_once(prompts_at_once(&recipe.method, prompts, recipe.sampling.max_new_tokens));
        schedule::resume(&*method, prompts, &streams, &mut services, &mut Chance::Streams, saved, watch)?
    };
    let Some(answers) = given else { return Ok(None) };
    ledger += *engine.ledger();
    if let Some(reward) = &chooser {
        ledger += *reward.ledger();
    }
    if let Some(model) = &embedding {
        ledger += model.ledger();
    }
    if let Some(value) = &judge {
        ledger += *value.ledger();
    }
    if let Some(rollout) = &rollout {
        ledger += *rollout.ledger();
    }
    let rewards = match &reward {
        Some(set) => {
            let candidates: Vec<generate::Candidate<'_>> = prompts
                .iter()
                .zip(&answers)
                .map(|(prompt, answer)| generate::Candidate { prompt, ids: &answer.ids, end: answer.end })
                .collect();
            Some(set.open()?.rewards(&candidates)?)
        }
        None => None,
    };
    Ok(Some(Answers { answers, rewards, ledger }))
}
