//! Held-out preference pairs: how often the rewards that methods follow order them as the labels do.

use std::collections::BTreeMap;

use ::reward::AutoregressiveModel;
use data::render::{Example, Pair};
use generate::{Candidate, End, Prompt, Reward, TokenId};
use inference::Method;
use inference::setup::{self, RewardSet, RewardTable};
use model::Policy;
use recipe::ModelName;

use super::config::Compare;
use super::error::Error;
use super::run::Settings;
use crate::pairwise::PairwiseAccuracy;
use crate::stats::Resamples;

/// Pairs scored at a time, so that progress shows and Ctrl-C is heard.
const AT_A_TIME: usize = 64;

/// An answer of a pair as rewards take it: up to and including the last token that is to be predicted.
struct Side {
    prompt: Prompt,
    ids: Vec<TokenId>,
    end: End,
}

impl Side {
    fn new(index: usize, example: &Example, ends: &[TokenId]) -> Self {
        let start = example.prompt_len();
        let stop = example.loss.iter().rposition(|&loss| loss).map_or(start, |last| last + 1);
        let ids = example.ids[start..stop].to_vec();
        let end = if ids.last().is_some_and(|id| ends.contains(id)) { End::Eos } else { End::Budget };
        let prompt = Prompt::from_ids(index, example.ids[..start].to_vec());
        Self { prompt, ids, end }
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate { prompt: &self.prompt, ids: &self.ids, end: self.end }
    }
}

/// The accuracy of the proxy and of every autoregressive reward model among the runs, by name; `None` when stopped.
pub(super) fn accuracies(
    compare: &Compare,
    base: &setup::Loaded,
    proxy: Option<&RewardSet>,
    settings: &mut Settings<'_>,
) -> Result<Option<Vec<(String, PairwiseAccuracy)>>, Error> {
    let Some(table) = &compare.pairs else { return Ok(Some(Vec::new())) };
    let pairs = setup::pairs(table, settings.places, base, settings.seed)?.rows;
    let mut found = Vec::new();
    if let Some(proxy) = proxy {
        let models = compare.proxy.as_ref().map(RewardTable::models).unwrap_or_default();
        let name = match models[..] {
            [model] => model.to_string(),
            _ => "the proxy reward".to_owned(),
        };
        let mut reward = proxy.open()?;
        let Some(accuracy) = accuracy(&name, &mut *reward, &pairs, base, compare, settings)? else {
            return Ok(None);
        };
        found.push((name, accuracy));
    }
    for (name, preference) in arms(compare) {
        let arm: Policy = setup::load_arm(settings.places, name, preference, base, settings.device)?;
        // The scale does not change the order.
        let mut reward = AutoregressiveModel::new(&arm, 1.0)?;
        let name = match preference {
            None => name.to_string(),
            Some(weights) => under(name, weights),
        };
        let Some(accuracy) = accuracy(&name, &mut reward, &pairs, base, compare, settings)? else {
            return Ok(None);
        };
        found.push((name, accuracy));
    }
    Ok(Some(found))
}

/// A model under weights of its objectives, as the report calls it.
fn under(name: &ModelName, weights: &BTreeMap<String, f64>) -> String {
    let shares: Vec<String> =
        weights.iter().map(|(objective, weight)| format!("{objective} {weight}")).collect();
    if shares.is_empty() { name.to_string() } else { format!("{name} ({})", shares.join(", ")) }
}

/// An autoregressive reward model, and the weights of objectives that it is told.
type Arm<'a> = (&'a ModelName, Option<&'a BTreeMap<String, f64>>);

/// The autoregressive reward models of all runs, each once.
fn arms(compare: &Compare) -> Vec<Arm<'_>> {
    let mut all: Vec<Arm<'_>> = Vec::new();
    for run in &compare.runs {
        for arm in run.arms.iter().map(|arm| (arm, run.method.preference())) {
            if !all.contains(&arm) {
                all.push(arm);
            }
        }
    }
    all
}

fn accuracy(
    name: &str,
    reward: &mut dyn Reward,
    pairs: &[Pair],
    base: &setup::Loaded,
    compare: &Compare,
    settings: &mut Settings<'_>,
) -> Result<Option<PairwiseAccuracy>, Error> {
    let title = format!("held-out pairs, {name}");
    let ends = base.decoder.config.eos.clone();
    let sides: Vec<[Side; 2]> = pairs
        .iter()
        .enumerate()
        .map(|(index, pair)| [Side::new(index, &pair.chosen, &ends), Side::new(index, &pair.rejected, &ends)])
        .collect();
    // Pairs of one prompt are not independent.
    let mut groups: BTreeMap<&[TokenId], Vec<f64>> = BTreeMap::new();
    for (chunk, part) in sides.chunks(AT_A_TIME).enumerate() {
        let candidates: Vec<Candidate<'_>> = part.iter().flatten().map(Side::candidate).collect();
        let rewards = reward.rewards(&candidates)?;
        for (pair, scores) in part.iter().zip(rewards.chunks(2)) {
            groups.entry(&pair[0].prompt.ids).or_default().push(scores[0] - scores[1]);
        }
        let done = (chunk * AT_A_TIME + part.len()) as f64 / sides.len() as f64;
        if !(settings.watch)(&title, done) {
            return Ok(None);
        }
    }
    let margins: Vec<Vec<f64>> = groups.into_values().collect();
    let resamples = Resamples::new(settings.seed, margins.len(), compare.bootstrap, Resamples::LEVEL)?;
    Ok(Some(PairwiseAccuracy::grouped(&margins, &resamples)?))
}
