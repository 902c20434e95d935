//! From pools and answers to the rows of a report.

use std::collections::BTreeMap;

use ::reward::{Pool, RewardId};
use generate::{Ledger, Purpose, Stream};
use inference::selection::{Similarities, SimilarityTable};
use inference::{Divergence, Method, MethodConfig, Need, PoolRule, PoolView};
use objective::error::InputError;
use serde_json::{Value, json};

use crate::report::{Cost, RowInput};

/// A policy's pool with everything that rules look at.
#[derive(Debug)]
pub(super) struct Scored<'a> {
    pub(super) pool: &'a Pool,
    pub(super) gold: Vec<&'a [f64]>,
    pub(super) proxy: Option<Vec<&'a [f64]>>,
    pub(super) proxy_id: Option<&'a RewardId>,
    /// Final answers, where the task has them.
    pub(super) answers: Option<Vec<Vec<String>>>,
    /// Whether the gold reward is the share of right answers.
    pub(super) gold_is_accuracy: bool,
    /// The similarities that its rules look at.
    pub(super) alike: Vec<Alike>,
}

/// How alike the samples of a pool are by one similarity, for each prompt, and what it cost.
#[derive(Debug)]
pub(super) struct Alike {
    pub(super) by: SimilarityTable,
    pub(super) prompts: Vec<Similarities>,
    pub(super) cost: Ledger,
}

/// What a ledger counts, as the report has it.
pub(super) fn cost_of(ledger: &Ledger) -> Cost {
    Cost {
        decode_tokens: ledger.decode_tokens,
        prefill_tokens: ledger.prefill_tokens,
        reward_tokens: ledger.reward_tokens,
        forward_passes: ledger.forward_passes,
        reward_calls: ledger.reward_calls,
        seconds: ledger.seconds,
    }
}

/// The chance that a completion of gold reward `gold` beats a base sample, ties one half.
pub(super) fn wins(gold: f64, base: &[f64]) -> f64 {
    let points: f64 = base
        .iter()
        .map(|other| match gold.total_cmp(other) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        })
        .sum();
    points / base.len() as f64
}

/// The row of a rule at `n` samples, by its expectation over the pool's subsets.
pub(super) fn rule_row(
    scored: &Scored<'_>,
    base: &Scored<'_>,
    policy: &str,
    method: &MethodConfig,
    n: usize,
    subsets: usize,
    seed: u64,
) -> Result<RowInput, InputError> {
    let mut values: BTreeMap<&str, Vec<Option<f64>>> = BTreeMap::new();
    let mut reasons = BTreeMap::new();
    let uses_reward = method.needs().contains(&Need::Reward);
    let similarity = method.rule().and_then(PoolRule::similarity);
    let alike = scored.alike.iter().find(|alike| Some(&alike.by) == similarity);
    for place in 0..scored.pool.len() {
        let samples = scored.pool.samples(place);
        let rewards: &[f64] = scored.proxy.as_ref().map_or(&[], |proxy| proxy[place]);
        let answers: Vec<&str> = scored
            .answers
            .as_ref()
            .map_or(Vec::new(), |answers| answers[place].iter().map(String::as_str).collect());
        let view = PoolView {
            size: samples.len(),
            rewards: rewards.to_vec(),
            answers,
            log_probs: samples.iter().map(|sample| sample.raw_log_prob).collect(),
            tokens: samples.iter().map(|sample| sample.ids.as_slice()).collect(),
            similarities: alike.map(|alike| alike.prompts[place].clone()),
        };
        let stream = Stream::new(seed, Purpose::Bootstrap, n as u64, place as u64);
        let uniform = || vec![1.0 / samples.len() as f64; samples.len()];
        let (weights, rule_kl) = match method.rule() {
            Some(rule) => (rule.weights(&view, n, subsets, stream)?, rule.kl(&view, n)?),
            None => (uniform(), Divergence::Nats(0.0)),
        };
        let mean = |value: &dyn Fn(usize) -> f64| -> f64 {
            weights.iter().enumerate().filter(|(_, w)| **w > 0.0).map(|(i, w)| w * value(i)).sum()
        };
        let gold = scored.gold[place];
        let mut put = |name: &'static str, value: Option<f64>| values.entry(name).or_default().push(value);
        put("reward/gold", Some(mean(&|i| gold[i])));
        if scored.gold_is_accuracy {
            put("accuracy", Some(mean(&|i| gold[i])));
        }
        if !rewards.is_empty() {
            put("reward/proxy", Some(mean(&|i| rewards[i])));
        }
        put("win_rate", Some(mean(&|i| wins(gold[i], base.gold[place]))));
        put("length", Some(mean(&|i| samples[i].ids.len() as f64)));
        // The law drawn from lies `sample.kl` from the base on average; the rule moves it further.
        let drawn = if method.rule().is_some() && n > 1 {
            let to_base = |i: usize| samples[i].log_prob - samples[i].raw_log_prob;
            Some(mean(&to_base))
        } else {
            samples.iter().map(|sample| sample.kl).sum::<Option<f64>>().map(|sum| sum / samples.len() as f64)
        };
        put("kl", rule_kl.value().zip(drawn).map(|(rule, drawn)| rule + drawn));
        if let Some(reason) = rule_kl.reason() {
            reasons.insert("kl".to_owned(), reason.to_owned());
        }
    }
    if !scored.gold_is_accuracy {
        reasons.insert("accuracy".to_owned(), "the gold reward is not the share of right answers".to_owned());
    }
    if scored.proxy.is_none() {
        reasons.insert("reward/proxy".to_owned(), "no proxy reward was given".to_owned());
    }
    // A pool may have been drawn, and scored, for more samples than are shown here.
    let mut cost = cost_of(scored.pool.cost()).share(n, scored.pool.key().samples);
    if let Some(column) = scored.proxy_id.and_then(|id| scored.pool.column(id)).filter(|_| uses_reward) {
        cost += cost_of(&column.cost).share(n, column.samples);
    }
    if let Some(alike) = alike {
        cost += cost_of(&alike.cost).share(n, scored.pool.samples_per_prompt());
    }
    Ok(RowInput {
        method: method.info().name.to_owned(),
        policy: policy.to_owned(),
        params: params_of(method),
        n,
        per_prompt: values.into_iter().map(|(name, values)| (name.to_owned(), values)).collect(),
        reasons,
        cost,
        diagnostics: BTreeMap::new(),
        sweep: None,
    })
}

/// The settings that tell two rows of a method apart, without what is `n`.
pub(super) fn params_of(method: &MethodConfig) -> BTreeMap<String, Value> {
    let fields_of = |method: &MethodConfig| {
        let value = serde_json::to_value(method).unwrap_or_default();
        let table = value.as_object().and_then(|tagged| tagged.values().next()).cloned().unwrap_or(json!({}));
        table.as_object().cloned().unwrap_or_default()
    };
    let hidden = ["n", "steps", "at", "burn_in", "rao_blackwell", "answer", "record_moves"];
    // Options of chains, which are named where they are used.
    let options = ["cut", "tries", "ladder", "pilot", "stop_when_decided"];
    let defaults = MethodConfig::named(method.info().name).as_ref().map(fields_of).unwrap_or_default();
    // A switch that is off tells nothing.
    let is_shown = |key: &str, value: &Value| {
        !hidden.contains(&key)
            && *value != Value::Bool(false)
            && (!options.contains(&key) || defaults.get(key) != Some(value))
    };
    fields_of(method).into_iter().filter(|(key, value)| is_shown(key, value)).collect()
}

#[cfg(test)]
mod tests {
    use ::reward::{PoolKey, prompts_hash};
    use generate::{Completion, End, Prompt, Sampling};

    use super::*;

    /// A pool of eight samples that cost 800 tokens, and 160 to score.
    fn pool() -> (Pool, RewardId, RewardId) {
        let prompts = [Prompt::from_ids(0, vec![1, 2])];
        let key = PoolKey {
            policy: "p".into(),
            tokenizer: "t".into(),
            sampling: Sampling::default(),
            budget: 200,
            seed: 0,
            prompts: prompts_hash(&prompts).expect("a hash"),
            samples: 8,
        };
        let sample = |id| Completion {
            ids: vec![id],
            end: End::Eos,
            log_probs: vec![-1.0],
            raw_log_probs: vec![-1.0],
            kl: Some(0.0),
            log_z: Vec::new(),
        };
        let cost = Ledger { decode_tokens: 800, prefill_tokens: 2, seconds: 8.0, ..Ledger::default() };
        let mut pool =
            Pool::new(key, &prompts, &[(0..8).map(sample).collect()], cost).expect("a pool of eight");
        let id = |name: &str| RewardId { name: name.into(), identity: name.into() };
        let scored = Ledger { reward_tokens: 160, reward_calls: 8, ..Ledger::default() };
        let values = vec![(0..8).map(f64::from).collect()];
        pool.add_rewards(id("gold"), values.clone(), Ledger::default()).expect("scores");
        pool.add_rewards(id("proxy"), values, scored).expect("scores");
        (pool, id("gold"), id("proxy"))
    }

    #[test]
    fn samples_cost_the_same_whatever_pool_they_are_taken_from() {
        let method: MethodConfig = serde_json::from_value(json!({ "best-of-n": {} })).expect("a method");
        let (whole, gold, proxy) = pool();
        for shown in [8, 4, 2] {
            let pool = whole.clone().with_first(shown).expect("enough samples");
            let scored = Scored {
                pool: &pool,
                gold: pool.rewards(&gold).expect("scored"),
                proxy: Some(pool.rewards(&proxy).expect("scored")),
                proxy_id: Some(&proxy),
                answers: None,
                gold_is_accuracy: false,
                alike: Vec::new(),
            };
            for n in [1, 2] {
                let row = rule_row(&scored, &scored, "base", &method, n, 10, 0).expect("a rule");
                let n = n as u64;
                let counted = (row.cost.decode_tokens, row.cost.prefill_tokens, row.cost.reward_tokens);
                assert_eq!(counted, (100 * n, 2, 20 * n), "{n} of {shown} shown");
                assert_eq!(row.cost.seconds, n as f64);
            }
        }
    }
}
