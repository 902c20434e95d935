//! Runs a method of a recipe on prompts.

use burn::tensor::Device;
use generate::engine::{Drawn, Limits};
use generate::schedule::{Answer, Progress, Saved};
use generate::{Ledger, Prompt, Sampling};

use super::outfit::{Named, Outfit, Run};
use super::recipe::Recipe;
use super::{Error, Loaded, Places, RewardTable, build, suits};

/// `[sampling]` as the engine takes it.
pub fn sampling_of(table: &recipe::Sampling) -> Sampling {
    Sampling {
        temperature: table.temperature as f32,
        top_k: table.top_k,
        top_p: table.top_p as f32,
        min_p: table.min_p as f32,
        stop: table.stop.clone(),
        repetition_penalty: table.repetition_penalty as f32,
        no_repeat_ngram_size: table.no_repeat_ngram_size,
    }
}

/// `[engine]` as the engine takes it.
pub fn limits_of(table: &recipe::Engine) -> Limits {
    Limits { rows: table.rows, memory: table.memory.map(recipe::Bytes::get), ..Limits::default() }
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

/// Is told tokens as they are drawn; stops the run by `false`.
pub type OnToken<'w> = dyn FnMut(Drawn<'_>) -> bool + 'w;

/// Sees a run between two rounds; may save it, and stops it by `false`.
pub type OnRound<'w> = dyn FnMut(&Progress<'_>) -> Result<bool, generate::Error> + 'w;

/// Answers `prompts`, going on from `saved` where a run of the same recipe was saved. `on_token` is told tokens as they are
/// drawn; `None` when one of the two stopped the run.
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
    let sampling = sampling_of(&recipe.sampling);
    suits(&recipe.method, &places, &recipe.arms, &sampling)?;
    let built = recipe.reward.as_ref().map(|table| build(table, &places, loaded, device)).transpose()?;
    let reward = built.map(|set| set.with_stop(loaded, &sampling.stop));
    let named = Named {
        method: &recipe.method,
        arms: &recipe.arms,
        models: &recipe.models,
        value: recipe.value.as_ref(),
        rollout: recipe.rollout.as_ref(),
        draft: recipe.draft.as_ref(),
    };
    let given = Outfit::load(&named, &places, loaded, device)?.with_candidates().run(Run {
        policy: &loaded.policy(loaded.name.clone()),
        reward: reward.as_ref(),
        sampling,
        limits: limits_of(&recipe.engine),
        max_new_tokens: recipe.sampling.max_new_tokens,
        answers: Some(recipe.reward.as_ref().and_then(RewardTable::answers).unwrap_or_default()),
        prompts,
        seed: recipe.run.seed,
        saved,
        on_token,
        on_round: watch,
    })?;
    let Some((answers, ledger)) = given else { return Ok(None) };
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
