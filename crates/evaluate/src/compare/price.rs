//! What a pool's samples cost a method that draws and reads them by itself.
//!
//! A pool is drawn once and read once for all rows, and its ledger says what that cost. Of a row this says
//! nothing: a reward
//! model reads the prompt once, shared beginnings once and equal texts once, so that the first samples are
//! dear and later ones
//! nearly free. A row therefore costs what its method would run for `n` samples alone, counted from the texts
//! as engine and
//! rewards count them, and averaged over the pool's samples `n` by `n`. It does not depend on how many more
//! samples there are.

use std::collections::{BTreeMap, BTreeSet};

use ::reward::{Pool, RewardColumn};
use generate::{Candidate, Ledger, Prompt, Reward, TokenId};
use inference::setup;

use super::error::Error;
use crate::report::Cost;

/// Tokens of prompts that are run once each, and what several begin with once.
fn prefilled<'a>(prompts: impl Iterator<Item = &'a [TokenId]>) -> u64 {
    let mut sorted: Vec<&[TokenId]> = prompts.collect();
    sorted.sort_unstable();
    let mut before: &[TokenId] = &[];
    let mut tokens = 0;
    for prompt in sorted {
        // The output after the last token is wanted, so that it is run.
        let most = prompt.len().saturating_sub(1);
        let shared = before.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count();
        tokens += (prompt.len() - shared) as u64;
        before = prompt;
    }
    tokens
}

/// The nearest count to a share of one.
fn part(count: u64, share: f64) -> u64 {
    (count as f64 * share).round() as u64
}

/// Drawing `n` samples of each prompt of a model of so many parameters. Passes and seconds are attributed by
/// tokens, not
/// measured.
pub(super) fn sampling(pool: &Pool, n: usize, parameters: u64) -> Cost {
    // The first token of a sample comes with the prompt, and the last is not run.
    let steps = |place: usize| pool.samples(place).iter().map(|s| s.ids.len().saturating_sub(1) as u64);
    let all: u64 = (0..pool.len()).flat_map(steps).sum();
    let decode_tokens = part(all, n as f64 / pool.samples_per_prompt().max(1) as f64);
    let prefill_tokens = prefilled((0..pool.len()).map(|place| pool.prompt(place)));
    let whole = pool.cost();
    let tokens = decode_tokens + prefill_tokens;
    let share = tokens as f64 / (whole.decode_tokens + whole.prefill_tokens).max(1) as f64;
    Cost {
        decode_tokens,
        prefill_tokens,
        forward_passes: part(whole.forward_passes, share),
        seconds: whole.seconds * share,
        parameter_tokens: tokens as f64 * parameters as f64,
        ..Cost::default()
    }
}

/// The mean of what `one` costs for each `n` of the pool's samples: the first `n`, the next `n`, and so on.
fn mean_of_parts(
    pool: &Pool,
    n: usize,
    mut one: impl FnMut(std::ops::Range<usize>) -> Result<Ledger, Error>,
) -> Result<(f64, f64), Error> {
    let parts = (pool.samples_per_prompt() / n.max(1)).max(1);
    let (mut tokens, mut weighed) = (0.0, 0.0);
    for number in 0..parts {
        let ledger = one(number * n..(number + 1) * n)?;
        tokens += ledger.reward_tokens as f64 / parts as f64;
        weighed += ledger.parameter_tokens / parts as f64;
    }
    Ok((tokens, weighed))
}

/// Scoring `n` samples of each prompt by a reward of which `reader` gives a fresh copy that only counts;
/// `column` has what
/// scoring the pool cost. Passes and seconds are attributed by tokens, of a reward without a model by calls.
pub(super) fn reading<'a>(
    pool: &Pool,
    prompts: &[Prompt],
    n: usize,
    column: &RewardColumn,
    reader: &dyn Fn() -> Result<Option<Box<dyn Reward + 'a>>, setup::Error>,
) -> Result<Cost, Error> {
    let (tokens, parameter_tokens) = mean_of_parts(pool, n, |places| {
        let Some(mut reader) = reader()? else { return Ok(Ledger::default()) };
        for (place, prompt) in prompts.iter().enumerate() {
            let samples = &pool.samples(place)[places.clone()];
            let candidates: Vec<Candidate<'_>> = samples
                .iter()
                .map(|sample| Candidate { prompt, ids: &sample.ids, end: sample.end })
                .collect();
            reader.rewards(&candidates)?;
        }
        Ok(*reader.ledger())
    })?;
    let by_calls = n as f64 / column.samples.max(1) as f64;
    let whole = &column.cost;
    let share = if whole.reward_tokens > 0 { tokens / whole.reward_tokens as f64 } else { by_calls };
    Ok(Cost {
        reward_tokens: tokens.round() as u64,
        reward_calls: part(whole.reward_calls, by_calls),
        forward_passes: part(whole.forward_passes, share),
        seconds: whole.seconds * share,
        parameter_tokens,
        ..Cost::default()
    })
}

/// Embedding `n` samples of each prompt by a model of so many parameters, which reads equal texts of a prompt
/// once; `whole`
/// is what embedding all of them cost.
pub(super) fn embedding(pool: &Pool, n: usize, parameters: u64, whole: &Ledger) -> Cost {
    let counted = mean_of_parts(pool, n, |places| {
        let mut ledger = Ledger::default();
        for place in 0..pool.len() {
            let samples = pool.samples(place)[places.clone()].iter();
            let distinct: BTreeSet<&[TokenId]> = samples.map(|sample| sample.ids.as_slice()).collect();
            let prompt = pool.prompt(place).len();
            ledger.reward_tokens += distinct.iter().map(|ids| (prompt + ids.len()) as u64).sum::<u64>();
        }
        Ok(ledger)
    });
    let tokens = counted.map_or(0.0, |(tokens, _)| tokens);
    let share = tokens / whole.reward_tokens.max(1) as f64;
    Cost {
        reward_tokens: tokens.round() as u64,
        forward_passes: part(whole.forward_passes, share),
        seconds: whole.seconds * share,
        parameter_tokens: tokens * parameters as f64,
        ..Cost::default()
    }
}

/// Prices by number of samples.
pub(super) type ByCount = BTreeMap<usize, Cost>;

#[cfg(test)]
mod tests {
    use ::reward::{Counting, Limits, PoolKey, RewardId, SequenceModel, prompts_hash};
    use generate::{Completion, End, Purpose, Sampling, Stream};

    use super::*;

    const PARAMETERS: u64 = 1000;

    fn prompts() -> Vec<Prompt> {
        // They begin alike for two tokens, and differ in length.
        (0..5).map(|i| Prompt::from_ids(i, [vec![1, 2], vec![10 + i as u32; 40 + i]].concat())).collect()
    }

    /// Samples of few tokens, so that they often begin alike and are often equal.
    fn samples(prompt: usize, count: usize) -> Vec<Completion> {
        (0..count)
            .map(|sample| {
                let mut stream = Stream::new(3, Purpose::Sample, 0, prompt as u64).child(sample as u64);
                let length = 1 + (stream.bits() % 12) as usize;
                Completion {
                    ids: (0..length).map(|_| 50 + (stream.bits() % 2) as u32).collect(),
                    end: End::Eos,
                    log_probs: vec![-1.0; length],
                    raw_log_probs: vec![-1.0; length],
                    kl: Some(0.0),
                    log_z: Vec::new(),
                }
            })
            .collect()
    }

    fn reader() -> SequenceModel<'static> {
        static MODEL: std::sync::OnceLock<Counting> = std::sync::OnceLock::new();
        let model = MODEL.get_or_init(|| Counting::new("reader", 1, 4096, PARAMETERS));
        SequenceModel::new(model).expect("a scalar head").with_limits(Limits::default())
    }

    /// A pool of `count` samples and what scoring it cost.
    fn pool(count: usize) -> (Pool, RewardId) {
        let prompts = prompts();
        let key = PoolKey {
            policy: "p".into(),
            tokenizer: "t".into(),
            sampling: Sampling::default(),
            budget: 200,
            seed: 0,
            prompts: prompts_hash(&prompts).expect("a hash"),
            samples: count,
        };
        let drawn: Vec<Vec<Completion>> = (0..prompts.len()).map(|place| samples(place, count)).collect();
        let cost = Ledger { decode_tokens: 7, prefill_tokens: 3, seconds: 8.0, ..Ledger::default() };
        let mut pool = Pool::new(key, &prompts, &drawn, cost).expect("a pool");
        let id = RewardId { name: "proxy".into(), identity: "proxy".into() };
        pool.score(&id, &mut reader(), &prompts).expect("scores");
        (pool, id)
    }

    /// What reading so many first samples of every prompt costs a method that has no others.
    fn alone(n: usize) -> Ledger {
        let mut reader = reader();
        for (place, prompt) in prompts().iter().enumerate() {
            let drawn = samples(place, n);
            let candidates: Vec<_> =
                drawn.iter().map(|c| Candidate { prompt, ids: &c.ids, end: c.end }).collect();
            reader.rewards(&candidates).expect("scores");
        }
        *reader.ledger()
    }

    fn price(pool: &Pool, id: &RewardId, n: usize) -> Cost {
        let column = pool.column(id).expect("scored");
        reading(pool, &prompts(), n, column, &|| Ok(Some(Box::new(reader())))).expect("counted")
    }

    #[test]
    fn n_samples_of_a_pool_cost_what_they_cost_alone() {
        for n in [1, 2, 8, 32] {
            // The same samples, and none beside them.
            let (own, id) = pool(n);
            let (cost, want) = (price(&own, &id, n), alone(n));
            assert_eq!(cost.reward_tokens, want.reward_tokens, "{n} of {n}");
            assert_eq!(cost.parameter_tokens, want.parameter_tokens);
            assert_eq!(cost.reward_calls, want.reward_calls);
            // A larger pool tells the same but for the spread of its samples; a share of what it cost would
            // not.
            let (large, id) = pool(128);
            let cost = price(&large, &id, n).reward_tokens as f64;
            let (want, share) =
                (want.reward_tokens as f64, (n as f64 / 128.0) * alone(128).reward_tokens as f64);
            assert!((cost / want - 1.0).abs() < 0.08, "{n} of 128: {cost} and {want} alone");
            assert!(n > 8 || share < 0.8 * want, "{n} of 128: a share is {share}, {want} alone");
        }
    }

    #[test]
    fn the_price_does_not_depend_on_what_a_larger_pool_has_besides() {
        let (large, id) = pool(128);
        let (small, small_id) = pool(16);
        let shown = large.with_first(16).expect("enough");
        for n in [1, 4, 16] {
            let (a, b) = (price(&shown, &id, n), price(&small, &small_id, n));
            assert_eq!((a.reward_tokens, a.reward_calls), (b.reward_tokens, b.reward_calls), "{n}");
            let (a, b) = (sampling(&shown, n, PARAMETERS), sampling(&small, n, PARAMETERS));
            assert_eq!((a.decode_tokens, a.prefill_tokens), (b.decode_tokens, b.prefill_tokens), "{n}");
        }
    }

    #[test]
    fn a_prompt_is_prefilled_once_and_what_prompts_share_once() {
        let (pool, _) = pool(8);
        let cost = sampling(&pool, 8, PARAMETERS);
        let lengths: usize = prompts().iter().map(|prompt| prompt.ids.len()).sum();
        assert_eq!(cost.prefill_tokens as usize, lengths - 4 * 2);
        let drawn: usize = (0..5).flat_map(|place| samples(place, 8)).map(|c| c.ids.len() - 1).sum();
        assert_eq!(cost.decode_tokens as usize, drawn);
        assert_eq!(cost.parameter_tokens, (cost.decode_tokens + cost.prefill_tokens) as f64 * 1000.0);
        // The same prompt twice: its last token is run again.
        let twice = [&[1_u32, 2, 3][..], &[1, 2, 3]];
        assert_eq!(prefilled(twice.into_iter()), 4);
    }
}
