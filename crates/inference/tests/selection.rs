//! The selection rules against reference pools, and rules on pools against the methods that draw them.

mod common;

use common::{answer, method, numbers, toys};
use generate::{Chance, Prompt, Purpose, Stream};
use inference::selection::{best_of_n, majority, mbr, weighted_majority, worst_of_n};
use inference::{Divergence, Method, PoolTrace, PoolView};
use serde_json::{Value, json};

fn index(value: &Value) -> usize {
    value.as_u64().expect("an index") as usize
}

#[test]
fn rules_agree_with_the_reference() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/selection.json")).expect("JSON");
    let pools = fixture["pools"].as_array().expect("pools");
    assert_eq!(pools.len(), 30);
    for pool in pools {
        let (name, expected) = (&pool["name"], &pool["expected"]);
        let rewards = numbers(&pool["rewards"]);
        let answers: Vec<&str> =
            pool["answers"].as_array().expect("answers").iter().map(|a| a.as_str().expect("text")).collect();
        let close = |got: f64, want: &Value| {
            testkit::assert_close(&name.to_string(), got, want.as_f64().expect("a number"), 1e-10, 1e-9);
        };
        assert_eq!(best_of_n(&rewards), Ok(index(&expected["best_of_n"])), "{name}");
        assert_eq!(worst_of_n(&rewards), Ok(index(&expected["worst_of_n"])), "{name}");

        // Where the reference lets samples without an answer vote, the winner is the one of its totals
        // without them.
        let winner = |totals: &Value, named: &Value, at: &Value| -> (String, usize) {
            if !answers.contains(&"") {
                return (named.as_str().expect("text").to_owned(), index(at));
            }
            let total = |answer: &&str| totals[*answer].as_f64().expect("a number");
            let voting = answers.iter().enumerate().filter(|(_, answer)| !answer.is_empty());
            let most = voting.clone().map(|(_, answer)| total(answer)).fold(0.0, f64::max);
            let first = voting.clone().find(|(_, answer)| total(answer) >= most * (1.0 - 1e-12));
            first.map_or((String::new(), 0), |(place, answer)| ((*answer).to_owned(), place))
        };
        let vote = majority(&answers).expect("a pool");
        let want = &expected["majority"];
        assert_eq!(
            (vote.answer, vote.index),
            winner(&want["counts"], &want["answer"], &want["index"]),
            "{name}"
        );
        let named = want["counts"].as_object().expect("counts").keys().filter(|key| !key.is_empty()).count();
        assert_eq!(vote.totals.len(), named);
        for (answer, count) in &vote.totals {
            close(*count, &want["counts"][answer]);
        }
        for case in expected["weighted_majority"].as_array().expect("cases") {
            let beta = case["beta"].as_f64().expect("a number");
            let vote = weighted_majority(&answers, &rewards, beta).expect("a pool");
            let want = winner(&case["totals"], &case["answer"], &case["index"]);
            assert_eq!((vote.answer, vote.index), want, "{name} at {beta}");
            for (answer, total) in &vote.totals {
                close(*total, &case["totals"][answer]);
            }
        }
        let similarity: Vec<Vec<f64>> =
            pool["similarity"].as_array().expect("a matrix").iter().map(numbers).collect();
        let chosen = mbr(&vec![1.0; answers.len()], |i, j| similarity[i][j]).expect("a pool");
        assert_eq!(chosen.index, index(&expected["mbr"]["index"]), "{name}");
        for (got, want) in chosen.scores.iter().zip(expected["mbr"]["scores"].as_array().expect("scores")) {
            close(*got, want);
        }
    }
}

#[test]
fn the_first_n_of_a_pool_are_what_a_method_draws() {
    let toy = toys().remove(1);
    let prompts: Vec<Prompt> = (0..12).map(|index| Prompt::from_ids(index, vec![2])).collect();
    let traces = |value: Value| -> Vec<PoolTrace> {
        let given = toy.answers(&method(value), &prompts, &mut Chance::Streams);
        given.into_iter().map(|answer| serde_json::from_value(answer.trace).expect("a trace")).collect()
    };
    let full = traces(json!({ "weighted-majority": { "n": 32, "beta": 1.0 } }));
    let methods = |n: usize| {
        [
            json!({ "best-of-n": { "n": n } }),
            json!({ "worst-of-n": { "n": n } }),
            json!({ "majority": { "n": n } }),
            json!({ "weighted-majority": { "n": n, "beta": 1.0 } }),
            json!({ "soft-best-of-n": { "n": n, "beta": 0.3 } }),
            json!({ "pessimism": { "n": n, "beta": 0.3 } }),
        ]
    };
    for n in [1, 3, 8, 32] {
        for value in methods(n) {
            let rule = method(value.clone());
            for (small, pool) in traces(value).iter().zip(&full) {
                let view = PoolView {
                    size: 32,
                    rewards: pool.rewards.clone(),
                    answers: pool.answers.iter().map(String::as_str).collect(),
                    ..PoolView::default()
                };
                let law = rule.rule().expect("a rule").law(&view.first(n)).expect("a pool");
                assert_eq!((&law.probabilities, &law.votes), (&small.probabilities, &small.votes));
                assert!(law.probabilities[small.picked] > 0.0);
            }
        }
    }
}

#[test]
fn pool_weights_give_the_mean_over_subsets() {
    let toy = toys().remove(0);
    let sequences = toy.sequences();
    let ids: Vec<String> = sequences.iter().map(|ids| answer(ids)).collect();
    let answers: Vec<&str> = ids.iter().map(String::as_str).collect();
    let view = PoolView {
        size: 8,
        rewards: toy.rewards[..8].to_vec(),
        answers: answers[..8].to_vec(),
        ..PoolView::default()
    };
    let stream = Stream::new(1, Purpose::Bootstrap, 0, 0);
    let best = method(json!({ "best-of-n": {} }));
    let exact = best.rule().expect("a rule").weights(&view, 3, 1, stream).expect("a pool");
    let want = objective::pool::Pool::new(view.rewards.clone()).expect("a pool").best_of(3).expect("n");
    assert_eq!(exact, want);
    let vote = method(json!({ "majority": {} }));
    let rule = vote.rule().expect("a rule");
    let weights = rule.weights(&view, 3, 500, stream).expect("a pool");
    assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    assert_eq!(weights, rule.weights(&view, 3, 500, stream).expect("a pool"), "a stream is its address");
    assert_eq!(
        rule.kl(&view, 3).expect("a pool"),
        Divergence::OF_ANSWERS,
        "a vote chooses an answer, not a text"
    );
}

#[test]
fn the_divergence_of_best_of_n_comes_from_tie_classes() {
    let toy = toys().remove(1);
    let prompts = [Prompt::from_ids(0, vec![2])];
    let best = method(json!({ "best-of-n": { "n": 2000 } }));
    let given = toy.answers(&best, &prompts, &mut Chance::Streams).remove(0);
    let trace: PoolTrace = serde_json::from_value(given.trace).expect("a trace");
    let view = PoolView { size: 2000, rewards: trace.rewards, ..PoolView::default() };
    let base = toy.base.lm().law().expect("a law");
    for n in [2, 4, 16] {
        let law = objective::bon::law(&base, &toy.rewards, n as f64).expect("a law");
        let exact = objective::law::kl(&law, &base);
        let estimate = best.rule().expect("a rule").kl(&view, n).expect("a pool").value().expect("a text");
        assert!((estimate - exact).abs() < 0.05, "n = {n}: {estimate} against {exact}");
    }
}
