//! A pool of scored samples, and preference pairs drawn from it: for each prompt, random pairs of samples with different
//! rewards, the better one chosen. A prompt whose samples all score alike gives no pair.

use generate::{Prompt, Purpose, Stream};
use recipe::{Rules, Validate, Violation};
use reward::{Pool as Samples, PoolSample, RewardId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::Error;

/// `[method.pool]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pool {
    /// Samples of each prompt.
    #[schemars(range(min = 2))]
    pub samples: usize,
    /// The most pairs of a prompt; each sample is in at most one.
    #[schemars(range(min = 1))]
    pub pairs_per_prompt: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self { samples: 8, pairs_per_prompt: 1 }
    }
}

impl Validate for Pool {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["pairs_per_prompt", "samples"], enough_samples(self));
    }
}

fn enough_samples(pool: &Pool) -> Result<(), Violation> {
    if 2 * pool.pairs_per_prompt <= pool.samples {
        return Ok(());
    }
    let message = format!("{} pairs need {} samples", pool.pairs_per_prompt, 2 * pool.pairs_per_prompt);
    Err(Violation::new(message).hint("raise `samples`, or lower `pairs_per_prompt`"))
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
        let chosen = match_up(samples, rewards[place], settings.pairs_per_prompt, &mut stream);
        drawn.without += usize::from(chosen.is_empty());
        for (better, worse) in chosen {
            let line = json!({
                "prompt": prompt.text,
                "chosen": decode(&samples[better].ids),
                "rejected": decode(&samples[worse].ids),
                "prompt_ids": prompt.ids,
                "chosen_ids": samples[better].ids,
                "rejected_ids": samples[worse].ids,
                "score_chosen": rewards[place][better],
                "score_rejected": rewards[place][worse],
                "tokenizer": tokenizer,
            });
            drawn.lines.push_str(&line.to_string());
            drawn.lines.push('\n');
            drawn.count += 1;
        }
    }
    Ok(drawn)
}

/// Random disjoint pairs of samples with different rewards and texts, (better, worse).
fn match_up(
    samples: &[PoolSample],
    rewards: &[f64],
    most: usize,
    stream: &mut Stream,
) -> Vec<(usize, usize)> {
    let mut left: Vec<usize> = (0..samples.len()).collect();
    for place in (1..left.len()).rev() {
        left.swap(place, (stream.uniform() * (place + 1) as f64) as usize);
    }
    let mut pairs = Vec::new();
    while pairs.len() < most && left.len() > 1 {
        let first = left.remove(0);
        let differs =
            |other: &usize| rewards[*other] != rewards[first] && samples[*other].ids != samples[first].ids;
        if let Some(place) = left.iter().position(differs) {
            let second = left.remove(place);
            pairs.push(if rewards[first] > rewards[second] { (first, second) } else { (second, first) });
        }
    }
    pairs
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
            let pairs = match_up(&samples, &rewards, 3, &mut stream);
            assert_eq!(pairs.len(), 3);
            let mut used: Vec<usize> = pairs.iter().flat_map(|(a, b)| [*a, *b]).collect();
            assert!(pairs.iter().all(|(better, worse)| rewards[*better] > rewards[*worse]));
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len(), 6);
        }
        let mut stream = Stream::new(0, Purpose::Order, 1, 0);
        assert!(match_up(&samples, &[1.0; 8], 3, &mut stream).is_empty(), "equal rewards give no pair");
    }
}
