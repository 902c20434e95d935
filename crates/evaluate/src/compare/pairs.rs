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
    /// The stretches that are to be predicted, each behind all before it.
    learned: Vec<Stretch>,
}

/// Tokens that are to be predicted, and what stands before them.
struct Stretch {
    prompt: Prompt,
    ids: Vec<TokenId>,
}

impl Side {
    fn new(index: usize, example: &Example, ends: &[TokenId]) -> Self {
        let start = example.prompt_len();
        let stop = example.loss.iter().rposition(|&loss| loss).map_or(start, |last| last + 1);
        let ids = example.ids[start..stop].to_vec();
        let end = if ids.last().is_some_and(|id| ends.contains(id)) { End::Eos } else { End::Budget };
        let prompt = Prompt::from_ids(index, example.ids[..start].to_vec());
        let mut learned = Vec::new();
        let mut at = start;
        for part in example.loss[start..stop].chunk_by(|a, b| a == b) {
            if part[0] {
                let prompt = Prompt::from_ids(index, example.ids[..at].to_vec());
                learned.push(Stretch { prompt, ids: example.ids[at..at + part.len()].to_vec() });
            }
            at += part.len();
        }
        Self { prompt, ids, end, learned }
    }

    /// What a reward is asked for, whose sum is its reward: of a sum of log-probabilities the stretches that
    /// are to be predicted, as
    /// in training, without the turns of others between them; else the whole answer.
    fn asked(&self, of_tokens: bool) -> Vec<Candidate<'_>> {
        if !of_tokens || self.learned.len() < 2 {
            return vec![self.candidate()];
        }
        let end = self.end;
        self.learned
            .iter()
            .map(|stretch| Candidate { prompt: &stretch.prompt, ids: &stretch.ids, end })
            .collect()
    }

    fn candidate(&self) -> Candidate<'_> {
        Candidate { prompt: &self.prompt, ids: &self.ids, end: self.end }
    }
}

/// Accuracies by name, and what was left out of the pairs that they are of.
#[derive(Debug, Default)]
pub(super) struct Accuracies {
    pub(super) found: Vec<(String, PairwiseAccuracy)>,
    pub(super) left_out: Option<String>,
}

/// The accuracy of the proxy and of every autoregressive reward model among the runs, by name; `None` when stopped.
pub(super) fn accuracies(
    compare: &Compare,
    base: &setup::Loaded,
    proxy: Option<&RewardSet>,
    settings: &mut Settings<'_>,
) -> Result<Option<Accuracies>, Error> {
    let Some(table) = &compare.pairs else { return Ok(Some(Accuracies::default())) };
    let pairs = setup::pairs(table, settings.places, base, settings.seed)?;
    let left_out = pairs.left_out().map(|left| format!("{} held-out pairs; {left}", pairs.rows.len()));
    let pairs = pairs.rows;
    let mut found = Vec::new();
    if let Some(proxy) = proxy {
        let models = compare.proxy.as_ref().map(RewardTable::models).unwrap_or_default();
        let name = match models[..] {
            [model] => model.to_string(),
            _ => "the proxy reward".to_owned(),
        };
        let mut reward = proxy.open()?;
        let of_tokens = matches!(compare.proxy, Some(RewardTable::Arm(_)));
        let Some(accuracy) = accuracy(&name, &mut *reward, of_tokens, &pairs, base, compare, settings)?
        else {
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
        let Some(accuracy) = accuracy(&name, &mut reward, true, &pairs, base, compare, settings)? else {
            return Ok(None);
        };
        found.push((name, accuracy));
    }
    Ok(Some(Accuracies { found, left_out }))
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
    of_tokens: bool,
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
        let asked: Vec<Vec<Candidate<'_>>> =
            part.iter().flatten().map(|side| side.asked(of_tokens)).collect();
        let counts: Vec<usize> = asked.iter().map(Vec::len).collect();
        let mut given = reward.rewards(&asked.concat())?.into_iter();
        let rewards: Vec<f64> = counts.into_iter().map(|count| given.by_ref().take(count).sum()).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_over_tokens_leaves_out_what_is_not_learned() {
        let loss = [false, false, true, true, false, true, false].to_vec();
        let example = Example { ids: (10..17).collect(), loss };
        let side = Side::new(3, &example, &[15]);
        let asked = |of_tokens| -> Vec<(Vec<TokenId>, Vec<TokenId>)> {
            let candidates = side.asked(of_tokens);
            candidates.iter().map(|one| (one.prompt.ids.clone(), one.ids.to_vec())).collect()
        };
        assert_eq!(asked(false), [(vec![10, 11], vec![12, 13, 14, 15])]);
        assert_eq!(asked(true), [(vec![10, 11], vec![12, 13]), (vec![10, 11, 12, 13, 14], vec![15])]);
        let whole = Side::new(0, &Example::join(&[1], &[2, 3]), &[]);
        assert_eq!(whole.asked(true).len(), 1);
    }
}
