//! A pool of scored samples, and preference pairs drawn from it: for each prompt, random pairs of samples with different
//! rewards, uniform among all such pairs, the better one chosen. A prompt whose samples all score alike gives
//! no pair.
//!
//! With `objectives` every pair has the scores of several rewards, for methods that learn from the labels of each: random
//! pairs of samples that at least one of them tells apart.

use generate::{Prompt, Purpose, Stream};
use inference::setup::RewardTable;
use recipe::{Rules, Validate, Violation};
use reward::{Pool as Samples, PoolSample, RewardId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::task_pairs::Task;
use crate::error::Error;

/// `[method.pool]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Samples of each prompt.
    #[schemars(range(min = 2))]
    pub samples: usize,
    /// The most pairs of a prompt; each sample is in at most one, but with `task`.
    #[schemars(range(min = 1))]
    pub pairs_per_prompt: usize,
    /// Rewards by the name of their objective, in place of `[reward]`: pairs then have a label of each, for `parm`, and for
    /// other methods by `data.objective`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<Objective>,
    /// Pairs of a right and a wrong answer, for the reward model of a task; the reward has to be `answer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}

/// A reward that labels pairs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Its name in the rows.
    #[schemars(length(min = 1))]
    pub name: String,
    /// The reward.
    pub reward: RewardTable,
}

impl Default for Pool {
    fn default() -> Self {
        Self { samples: 8, pairs_per_prompt: 1, objectives: Vec::new(), task: None }
    }
}

impl Validate for Pool {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["pairs_per_prompt", "samples"], enough_samples(self));
        let names: Vec<&str> = self.objectives.iter().map(|objective| objective.name.as_str()).collect();
        rules.check(&["objectives"], names_differ(&names));
        rules.check(&["task", "objectives"], one_kind_of_pair(self));
        for (place, objective) in self.objectives.iter().enumerate() {
            rules.within(&format!("objectives.{place}.reward"), &objective.reward);
        }
    }
}

fn enough_samples(pool: &Pool) -> Result<(), Violation> {
    if pool.task.is_some() || 2 * pool.pairs_per_prompt <= pool.samples {
        return Ok(());
    }
    let message = format!("{} pairs need {} samples", pool.pairs_per_prompt, 2 * pool.pairs_per_prompt);
    Err(Violation::new(message).hint("raise `samples`, or lower `pairs_per_prompt`"))
}

fn one_kind_of_pair(pool: &Pool) -> Result<(), Violation> {
    if pool.task.is_none() || pool.objectives.is_empty() {
        return Ok(());
    }
    Err(Violation::new("pairs have a right and a wrong answer, or the scores of several objectives")
        .hint("leave `task` or `objectives` out"))
}

/// Refuses two objectives of one name.
pub(crate) fn names_differ(names: &[&str]) -> Result<(), Violation> {
    match names.iter().enumerate().find(|(place, name)| names[..*place].contains(name)) {
        None => Ok(()),
        Some((_, name)) => {
            Err(Violation::new(format!("two objectives are named {name:?}")).hint("name each once"))
        }
    }
}

/// What was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Pairs {
    /// Rows of JSON lines: texts and the token ids they were sampled as.
    pub lines: String,
    /// Number of pairs.
    pub count: usize,
    /// Prompts that gave none.
    pub without: usize,
}

/// Draws pairs of each prompt's samples.
pub fn pairs(
    settings: &Pool,
    pool: &Samples,
    reward: &RewardId,
    prompts: &[Prompt],
    tokenizer: &str,
    decode: &dyn Fn(&[u32]) -> String,
    seed: u64,
) -> Result<Pairs, Error> {
    let rewards = pool.rewards(reward).map_err(Error::other)?;
    let mut drawn = Pairs { lines: String::new(), count: 0, without: 0 };
    for (place, prompt) in prompts.iter().enumerate() {
        let samples = pool.samples(place);
        let mut stream = Stream::new(seed, Purpose::Order, 1, prompt.index as u64);
        let rewards = rewards[place];
        let apart = |a: usize, b: usize| rewards[a] != rewards[b];
        let chosen = match_up(samples, &apart, settings.pairs_per_prompt, &mut stream);
        drawn.without += usize::from(chosen.is_empty());
        for (first, second) in chosen {
            let (better, worse) =
                if rewards[first] > rewards[second] { (first, second) } else { (second, first) };
            let line = json!({
                "prompt": prompt.text,
                "chosen": decode(&samples[better].ids),
                "rejected": decode(&samples[worse].ids),
                "prompt_ids": prompt.ids,
                "chosen_ids": samples[better].ids,
                "rejected_ids": samples[worse].ids,
                "score_chosen": rewards[better],
                "score_rejected": rewards[worse],
                "tokenizer": tokenizer,
            });
            drawn.lines.push_str(&line.to_string());
            drawn.lines.push('\n');
            drawn.count += 1;
        }
    }
    Ok(drawn)
}

/// Draws pairs of each prompt's samples, each with the scores of several objectives.
pub fn labelled_pairs(
    settings: &Pool,
    pool: &Samples,
    objectives: &[(String, RewardId)],
    prompts: &[Prompt],
    tokenizer: &str,
    decode: &dyn Fn(&[u32]) -> String,
    seed: u64,
) -> Result<Pairs, Error> {
    let all = objectives.iter().map(|(name, id)| Ok((name, pool.rewards(id).map_err(Error::other)?)));
    let all = all.collect::<Result<Vec<_>, Error>>()?;
    let mut drawn = Pairs { lines: String::new(), count: 0, without: 0 };
    for (place, prompt) in prompts.iter().enumerate() {
        let samples = pool.samples(place);
        let mut stream = Stream::new(seed, Purpose::Order, 1, prompt.index as u64);
        let apart =
            |a: usize, b: usize| all.iter().any(|(_, rewards)| rewards[place][a] != rewards[place][b]);
        let chosen = match_up(samples, &apart, settings.pairs_per_prompt, &mut stream);
        drawn.without += usize::from(chosen.is_empty());
        for both in chosen.into_iter().map(<[usize; 2]>::from) {
            let scores: serde_json::Map<String, serde_json::Value> = all
                .iter()
                .map(|(name, rewards)| ((*name).clone(), json!(both.map(|at| rewards[place][at]))))
                .collect();
            let line = json!({
                "prompt": prompt.text,
                "responses": both.map(|at| decode(&samples[at].ids)),
                "scores": scores,
                "prompt_ids": prompt.ids,
                "response_ids": both.map(|at| &samples[at].ids),
                "tokenizer": tokenizer,
            });
            drawn.lines.push_str(&line.to_string());
            drawn.lines.push('\n');
            drawn.count += 1;
        }
    }
    Ok(drawn)
}

/// Random disjoint pairs of samples of different texts that `apart` tells apart: each is uniform among all
/// such pairs of the samples
/// that are left, as pairs drawn from the model are given that they differ.
fn match_up(
    samples: &[PoolSample],
    apart: &dyn Fn(usize, usize) -> bool,
    most: usize,
    stream: &mut Stream,
) -> Vec<(usize, usize)> {
    let differ = |a: usize, b: usize| apart(a, b) && samples[a].ids != samples[b].ids;
    let mut left: Vec<usize> = (0..samples.len()).collect();
    shuffle(&mut left, stream);
    let mut pairs = Vec::new();
    while pairs.len() < most && left.len() > 1 {
        if !differ(left[0], left[1]) {
            // The first two were a random pair and are rejected: one of those that differ, and what is left
            // in a new order.
            let places = |a: usize| (0..left.len()).map(move |b| (a, b));
            let candidates: Vec<(usize, usize)> = (0..left.len())
                .flat_map(places)
                .filter(|(a, b)| a != b && differ(left[*a], left[*b]))
                .collect();
            if candidates.is_empty() {
                break;
            }
            let (first, second) = candidates[(stream.uniform() * candidates.len() as f64) as usize];
            let pair = (left[first], left[second]);
            left.retain(|place| *place != pair.0 && *place != pair.1);
            shuffle(&mut left, stream);
            pairs.push(pair);
            continue;
        }
        pairs.push((left[0], left[1]));
        left.drain(..2);
    }
    pairs
}

fn shuffle(places: &mut [usize], stream: &mut Stream) {
    for place in (1..places.len()).rev() {
        places.swap(place, (stream.uniform() * (place + 1) as f64) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use generate::End;

    fn sample(id: u32) -> PoolSample {
        PoolSample { ids: vec![id], end: End::Eos, log_prob: -1.0, raw_log_prob: -1.0, kl: None }
    }

    #[test]
    fn pairs_differ_in_reward_and_share_no_sample() {
        let samples: Vec<PoolSample> = (0..8).map(sample).collect();
        let rewards = [0.0, 1.0, 1.0, 0.0, 2.0, 1.0, 0.0, 1.0];
        for seed in 0..50 {
            let mut stream = Stream::new(seed, Purpose::Order, 1, 0);
            let pairs = match_up(&samples, &|a, b| rewards[a] != rewards[b], 3, &mut stream);
            assert_eq!(pairs.len(), 3);
            let mut used: Vec<usize> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
            assert!(pairs.iter().all(|(first, second)| rewards[*first] != rewards[*second]));
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), 6);
        }
        let mut stream = Stream::new(0, Purpose::Order, 1, 0);
        assert!(match_up(&samples, &|_, _| false, 3, &mut stream).is_empty(), "equal rewards give no pair");
    }

    #[test]
    fn pairs_are_uniform_among_those_that_differ() {
        // Classes of one, two and five equal rewards: 1·2 + 1·5 + 2·5 pairs differ.
        let samples: Vec<PoolSample> = (0..8).map(sample).collect();
        let rewards = [0.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0];
        let draws = 34_000;
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..draws {
            let mut stream = Stream::new(seed, Purpose::Order, 1, 0);
            let pairs = match_up(&samples, &|a, b| rewards[a] != rewards[b], 1, &mut stream);
            let (a, b) = pairs[0];
            *counts.entry((a.min(b), a.max(b))).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 17);
        for (pair, count) in counts {
            assert!((f64::from(count) - 2000.0).abs() < 4.5 * 2000.0_f64.sqrt(), "{pair:?}: {count}");
        }
    }

    /// A pool of four samples of each of two prompts.
    fn drawn_pool(prompts: &[Prompt]) -> Samples {
        let completion = |id: u32| generate::Completion {
            ids: vec![id, 0],
            end: End::Eos,
            log_probs: vec![-1.0; 2],
            raw_log_probs: vec![-1.0; 2],
            kl: None,
            log_z: Vec::new(),
        };
        let samples: Vec<Vec<_>> = prompts.iter().map(|_| (1..5).map(completion).collect()).collect();
        let key = reward::PoolKey {
            policy: "p".into(),
            tokenizer: "t".into(),
            sampling: generate::Sampling::default(),
            budget: 2,
            seed: 0,
            prompts: reward::prompts_hash(prompts).expect("a hash"),
            samples: 4,
        };
        Samples::new(key, prompts, &samples, generate::Ledger::default()).expect("a pool")
    }

    #[test]
    fn pairs_of_several_objectives_have_the_scores_of_each() {
        let prompts: Vec<Prompt> = (0..2).map(|index| Prompt::from_ids(index, vec![9])).collect();
        let mut pool = drawn_pool(&prompts);
        let mut ids = Vec::new();
        // One objective sees the first id, the other whether it is 3.
        for name in ["size", "three"] {
            let score =
                move |id: u32| if name == "size" { -f64::from(id) } else { f64::from(u8::from(id == 3)) };
            let mut reward = First { score, ledger: generate::Ledger::default() };
            let id = RewardId { name: name.into(), identity: name.into() };
            pool.score(&id, &mut reward, &prompts).expect("scores");
            ids.push((name.to_owned(), id));
        }
        let settings = Pool { samples: 4, pairs_per_prompt: 2, ..Pool::default() };
        let decode = |ids: &[u32]| format!("{}", ids[0]);
        let drawn = labelled_pairs(&settings, &pool, &ids, &prompts, "t", &decode, 3).expect("pairs");
        assert_eq!((drawn.count, drawn.without), (4, 0));
        for line in drawn.lines.lines() {
            let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
            for at in 0..2 {
                let id = row["response_ids"][at][0].as_u64().expect("an id");
                assert_eq!(row["responses"][at], id.to_string());
                assert_eq!(row["scores"]["size"][at], -(id as f64));
                assert_eq!(row["scores"]["three"][at], f64::from(u8::from(id == 3)));
            }
        }
    }

    /// A reward of the first token.
    struct First<F> {
        score: F,
        ledger: generate::Ledger,
    }

    impl<F: Fn(u32) -> f64> generate::Reward for First<F> {
        fn name(&self) -> &'static str {
            "first"
        }
        fn rewards(&mut self, candidates: &[generate::Candidate<'_>]) -> Result<Vec<f64>, generate::Error> {
            Ok(candidates.iter().map(|candidate| (self.score)(candidate.ids[0])).collect())
        }
        fn ledger(&self) -> &generate::Ledger {
            &self.ledger
        }
    }
}
