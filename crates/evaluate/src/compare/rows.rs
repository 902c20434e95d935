//! From pools and answers to the rows of a report.

use std::collections::BTreeMap;

use ::reward::Pool;
use generate::{Ledger, Purpose, Stream};
use inference::selection::{Similarities, SimilarityTable};
use inference::{Divergence, Method, MethodConfig, Need, PoolRule, PoolView};
use objective::error::InputError;

use super::fate::Fate;
use super::labels::params_of;
use super::price::ByCount;
use crate::report::{Cost, RowInput, metric};

/// A policy's pool with everything that rules look at.
#[derive(Debug)]
pub(super) struct Scored<'a> {
    pub(super) pool: &'a Pool,
    pub(super) gold: Vec<&'a [f64]>,
    pub(super) proxy: Option<Vec<&'a [f64]>>,
    /// Final answers, where the task has them.
    pub(super) answers: Option<Vec<Vec<String>>>,
    /// Whether the gold reward is the share of right answers.
    pub(super) gold_is_accuracy: bool,
    /// What became of each sample.
    pub(super) fates: Vec<Vec<Fate>>,
    /// The similarities that its rules look at.
    pub(super) alike: Vec<Alike>,
    /// What drawing so many samples costs by itself, and what scoring them by the proxy does.
    pub(super) drawing: ByCount,
    pub(super) scoring: ByCount,
}

/// How alike the samples of a pool are by one similarity, for each prompt, and what it costs of so many
/// samples by itself.
#[derive(Debug)]
pub(super) struct Alike {
    pub(super) by: SimilarityTable,
    pub(super) prompts: Vec<Similarities>,
    pub(super) price: ByCount,
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
        parameter_tokens: ledger.parameter_tokens,
    }
}

/// Whether a completion of gold reward `gold` beats one of gold reward `other`, a tie one half.
pub(super) fn beats(gold: f64, other: f64) -> f64 {
    // `==`, so that -0.0 ties with 0.0.
    if gold == other { 0.5 } else { f64::from(u8::from(gold > other)) }
}

/// The chance that a completion of gold reward `gold`, drawn apart from `base`, beats a base sample, ties one
/// half.
pub(super) fn wins(gold: f64, base: &[f64]) -> f64 {
    base.iter().map(|other| beats(gold, *other)).sum::<f64>() / base.len() as f64
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
    // Whether the samples chosen from are those compared with.
    let own_base = std::ptr::eq(scored.pool, base.pool);
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
        // A sample is not compared with itself, nor with those that it was chosen over.
        let won = match method.rule().filter(|_| own_base) {
            Some(rule) => {
                rule.against_rest(&view, n, subsets, stream, &|i, other| beats(gold[i], gold[other]))?
            }
            None => Some(mean(&|i| wins(gold[i], base.gold[place]))),
        };
        put("win_rate", won);
        put("length", Some(mean(&|i| samples[i].ids.len() as f64)));
        for (name, is) in Fate::checks(scored.gold_is_accuracy) {
            put(name, Some(mean(&|i| f64::from(u8::from(is(&scored.fates[place][i]))))));
        }
        // The law drawn from lies `sample.kl` from the base on average; the rule moves it further.
        let drawn = if method.rule().is_some() && n > 1 {
            let to_base = |i: usize| samples[i].log_prob - samples[i].raw_log_prob;
            Some(mean(&to_base))
        } else {
            samples.iter().map(|sample| sample.kl).sum::<Option<f64>>().map(|sum| sum / samples.len() as f64)
        };
        put("kl", rule_kl.value().zip(drawn).map(|(rule, drawn)| rule + drawn));
        if !scored.pool.key().sampling.is_raw() {
            // Of another policy it would take the base's own filtered distribution on its samples.
            put(metric::KL_AS_SAMPLED, rule_kl.value().filter(|_| std::ptr::eq(scored, base)));
        }
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
    if own_base && method.rule().is_some() {
        let reason = "no sample of the base is left beside the n chosen from; raise `samples` above n";
        reasons.insert("win_rate".to_owned(), reason.to_owned());
    }
    if !std::ptr::eq(scored, base) {
        let reason =
            "of another policy than the base the divergence is known to the base at temperature 1 only";
        reasons.insert(metric::KL_AS_SAMPLED.to_owned(), reason.to_owned());
    } else if let Some(reason) = reasons.get("kl").cloned() {
        reasons.insert(metric::KL_AS_SAMPLED.to_owned(), reason);
    }
    let at = |prices: &ByCount| prices.get(&n).copied().unwrap_or_default();
    let mut cost = at(&scored.drawing);
    if uses_reward {
        cost += at(&scored.scoring);
    }
    if let Some(alike) = alike {
        cost += at(&alike.price);
    }
    Ok(RowInput {
        method: method.info().name.to_owned(),
        policy: policy.to_owned(),
        params: params_of(method),
        n,
        per_prompt: values.into_iter().map(|(name, values)| (name.to_owned(), values)).collect(),
        reasons,
        cost,
        diagnostics: kl_of_best_of(method, n),
        sweep: None,
        basis: Some(basis(method, scored.pool.samples_per_prompt(), subsets)),
    })
}

/// What the value of a prompt is in the row of a rule.
fn basis(method: &MethodConfig, samples: usize, subsets: usize) -> String {
    match method.rule() {
        None => format!("mean over the {samples} samples of a prompt"),
        Some(rule) if rule.is_exact() => {
            format!("mean over all subsets of n of the {samples} samples of a prompt, one answer of each")
        }
        Some(_) => {
            format!(
                "mean over {subsets} random subsets of n of the {samples} samples of a prompt, one answer of each"
            )
        }
    }
}

/// `log n − (n − 1)/n` of best-of-n and worst-of-n, for their row to be compared with.
pub(super) fn kl_of_best_of(method: &MethodConfig, n: usize) -> BTreeMap<String, f64> {
    if !matches!(method, MethodConfig::BestOfN(_) | MethodConfig::WorstOfN(_)) || n == 0 {
        return BTreeMap::new();
    }
    let n = n as f64;
    [("log n - (n-1)/n".to_owned(), n.ln() - (n - 1.0) / n)].into()
}

#[cfg(test)]
mod tests {
    use ::reward::{PoolKey, prompts_hash};
    use generate::{Completion, End, Prompt, Sampling};
    use serde_json::json;

    use super::*;

    /// A pool of samples of one token each.
    fn pool(samples: usize) -> Pool {
        let prompts = [Prompt::from_ids(0, vec![1, 2])];
        let key = PoolKey {
            policy: "p".into(),
            tokenizer: "t".into(),
            sampling: Sampling::default(),
            budget: 200,
            seed: 0,
            prompts: prompts_hash(&prompts).expect("a hash"),
            samples,
        };
        let sample = |id: usize| Completion {
            ids: vec![id as u32],
            end: End::Eos,
            log_probs: vec![-1.0],
            raw_log_probs: vec![-1.0],
            kl: Some(0.0),
            log_z: Vec::new(),
        };
        let drawn = [(0..samples).map(sample).collect()];
        Pool::new(key, &prompts, &drawn, Ledger::default()).expect("a pool")
    }

    fn scored<'a>(pool: &'a Pool, gold: &'a [f64]) -> Scored<'a> {
        Scored {
            pool,
            gold: vec![gold],
            proxy: Some(vec![gold]),
            answers: None,
            gold_is_accuracy: false,
            fates: vec![vec![Fate::default(); gold.len()]],
            alike: Vec::new(),
            drawing: [(4, Cost { decode_tokens: 9, ..Cost::default() })].into(),
            scoring: [(4, Cost { reward_tokens: 5, ..Cost::default() })].into(),
        }
    }

    fn win_rate(own: &Scored<'_>, base: &Scored<'_>, method: &str, n: usize) -> Option<f64> {
        let method = MethodConfig::named(method).expect("a method");
        rule_row(own, base, "p", &method, n, 400, 0).expect("a row").per_prompt["win_rate"][0]
    }

    #[test]
    fn the_base_is_not_compared_with_the_samples_that_it_chose_from() {
        let (pool, gold) = (pool(8), [0.3, 0.1, 0.9, 0.8, 0.2, 0.5, 0.7, 0.4]);
        let base = scored(&pool, &gold);
        for n in [2, 4, 7] {
            // Distinct rewards: the best of n + 1 exchangeable samples is among the n with probability n / (n + 1).
            let won = win_rate(&base, &base, "best-of-n", n).expect("a rest");
            assert!((won - n as f64 / (n as f64 + 1.0)).abs() < 1e-12, "best of {n}: {won}");
            let lost = win_rate(&base, &base, "worst-of-n", n).expect("a rest");
            assert!((lost - 1.0 / (n as f64 + 1.0)).abs() < 1e-12, "worst of {n}: {lost}");
            // By random subsets it is the same but for their spread.
            let soft = win_rate(&base, &base, "soft-best-of-n", n).expect("a rest");
            assert!(soft > 0.5 && soft < won, "soft best of {n}: {soft}");
        }
        assert_eq!(win_rate(&base, &base, "best-of-n", 8), None, "no sample is left to compare with");
        assert_eq!(win_rate(&base, &base, "sample", 1), Some(0.5));
        // Another policy's samples are compared with all of the base's.
        let (other, high) = (self::pool(8), [1.0; 8]);
        assert_eq!(win_rate(&scored(&other, &high), &base, "best-of-n", 8), Some(1.0));
    }

    #[test]
    fn rewards_that_are_equal_numbers_tie() {
        assert_eq!((beats(-0.0, 0.0), beats(0.0, -0.0)), (0.5, 0.5));
        assert_eq!(wins(0.0, &[-0.0, 1.0, -1.0, 0.0]), 0.5);
        assert_eq!((beats(1.0, 0.0), beats(0.0, 1.0)), (1.0, 0.0));
    }

    #[test]
    fn a_row_costs_what_its_rule_runs_by_itself() {
        let (pool, gold) = (pool(8), [0.0; 8]);
        let base = scored(&pool, &gold);
        let cost = |method: &str| {
            let method: MethodConfig = serde_json::from_value(json!({ method: {} })).expect("a method");
            rule_row(&base, &base, "p", &method, 4, 10, 0).expect("a row").cost
        };
        let best = cost("best-of-n");
        assert_eq!((best.decode_tokens, best.reward_tokens), (9, 5));
        let likeliest = cost("likeliest-of-n");
        assert_eq!((likeliest.decode_tokens, likeliest.reward_tokens), (9, 0), "it looks at no reward");
    }
}
