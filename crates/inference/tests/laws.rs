//! The exact laws of the methods' answers on tabular policies, by exhaustive replay of the very code that runs models.

mod common;

use std::collections::BTreeMap;

use common::{Toy, answer, assert_law, method, small, toys};
use generate::{Chance, Prompt, Sampling};
use inference::{Method, Parts};
use serde_json::json;

/// Logits are `f32`.
const TOLERANCE: f64 = 2e-6;

#[test]
fn sample_follows_the_base() {
    for toy in toys() {
        assert_law(&toy.name, &toy.law_of(&method(json!({ "sample": {} }))), &toy.law("base"), TOLERANCE);
    }
}

#[test]
fn greedy_walks_along_the_likeliest_symbols() {
    for toy in toys() {
        let mut ids = Vec::new();
        while !toy.base.lm().space().is_complete(&ids) {
            let next = toy.base.lm().next(&ids).expect("a row");
            let greatest = next.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            ids.push(next.iter().position(|log| *log == greatest).expect("a symbol") as u32);
        }
        let place = toy.sequences().iter().position(|sequence| *sequence == ids).expect("complete");
        let law = toy.law_of(&method(json!({ "greedy": {} })));
        assert_eq!(law[place], 1.0, "{}", toy.name);
    }
}

#[test]
fn best_of_n_has_its_closed_form_with_ties() {
    for toy in toys() {
        let got = toy.law_of(&method(json!({ "best-of-n": { "n": 2 } })));
        assert_law(&toy.name, &got, &toy.law("bon2"), TOLERANCE);
    }
    let toy = small();
    let base = toy.base.lm().law().expect("a law");
    for n in 1..=4 {
        let got = toy.law_of(&method(json!({ "best-of-n": { "n": n } })));
        let want = objective::bon::law(&base, &toy.rewards, f64::from(n)).expect("a law");
        assert_law(&format!("best of {n}"), &got, &want, TOLERANCE);
    }
}

#[test]
fn three_draws_of_a_toy_with_ties() {
    let toy = toys().remove(1);
    let got = toy.law_of(&method(json!({ "best-of-n": { "n": 3 } })));
    let want = objective::bon::law(&toy.law("base"), &toy.rewards, 3.0).expect("a law");
    assert_law(&toy.name, &got, &want, TOLERANCE);
}

/// The law of a vote, from all `n`-tuples of sequences: a slow and obvious second version of the rule.
fn naive_vote(toy: &Toy, n: usize, weight: impl Fn(f64) -> f64) -> Vec<f64> {
    let (sequences, base) = (toy.sequences(), toy.base.lm().law().expect("a law"));
    let mut law = vec![0.0; sequences.len()];
    for code in 0..sequences.len().pow(n as u32) {
        let tuple: Vec<usize> =
            (0..n as u32).map(|i| code / sequences.len().pow(i) % sequences.len()).collect();
        let mut totals: BTreeMap<String, f64> = BTreeMap::new();
        for i in &tuple {
            *totals.entry(answer(&sequences[*i])).or_default() += weight(toy.rewards[*i]);
        }
        let most = totals.values().copied().fold(0.0, f64::max);
        // Rounding may separate equal totals; distinct ones are further apart than this on these tables.
        let winner = tuple.iter().find(|i| totals[&answer(&sequences[**i])] > most - 1e-9);
        law[*winner.expect("someone wins")] += tuple.iter().map(|i| base[*i]).product::<f64>();
    }
    law
}

#[test]
fn votes_equal_the_enumeration_of_all_tuples() {
    let check = |toy: &Toy, n: usize| {
        let plain = toy.law_of(&method(json!({ "majority": { "n": n } })));
        assert_law("majority", &plain, &naive_vote(toy, n, |_| 1.0), TOLERANCE);
        let beta = toy.beta;
        let weighted = toy.law_of(&method(json!({ "weighted-majority": { "n": n, "beta": beta } })));
        assert_law("weighted majority", &weighted, &naive_vote(toy, n, |r| (r / beta).exp()), TOLERANCE);
    };
    for toy in toys() {
        check(&toy, 2);
    }
    for n in 1..=4 {
        check(&small(), n);
    }
}

#[test]
fn one_sample_is_the_sample_for_every_rule() {
    let toy = toys().remove(0);
    let prompts: Vec<Prompt> = (0..8).map(|index| Prompt::from_ids(index, vec![2])).collect();
    let answers = |value| -> Vec<Vec<u32>> {
        let given = toy.answers(&method(value), &prompts, &mut Chance::Streams);
        given.into_iter().map(|answer| answer.ids).collect()
    };
    let sample = answers(json!({ "sample": {} }));
    assert_eq!(answers(json!({ "best-of-n": { "n": 1 } })), sample);
    assert_eq!(answers(json!({ "majority": { "n": 1 } })), sample);
    assert_eq!(answers(json!({ "weighted-majority": { "n": 1 } })), sample);
    assert_eq!(answers(json!({ "genarm": { "alpha": [0.0] } })), sample);
}

#[test]
fn many_samples_at_temperature_zero_are_refused() {
    let toy = small();
    let parts = Parts::new(&toy.base);
    let refused = method(json!({ "best-of-n": { "n": 4 } })).engine(&parts, Sampling::greedy());
    assert!(refused.err().expect("refused").to_string().contains("temperature 0 makes them all equal"));
    assert!(method(json!({ "sample": {} })).engine(&parts, Sampling::greedy()).is_ok());
    assert!(method(json!({ "greedy": {} })).engine(&parts, Sampling::default()).is_ok());
}
