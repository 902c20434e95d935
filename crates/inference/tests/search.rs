//! Search in blocks on tabular policies: exact laws against a slow and obvious second version, and what must be
//! best-of-n bit for bit.

mod common;

use std::collections::BTreeMap;

use common::{Toy, assert_law, method, small, toys};
use generate::schedule::Answer;
use generate::{Chance, Prompt, TokenId};
use inference::{MethodConfig, SearchTrace};
use serde_json::{Value, json};

/// Logits are `f32`.
const TOLERANCE: f64 = 2e-6;

type Ids = Vec<TokenId>;

/// A search as the papers write it: rows, how many are kept, continuations of each, tokens of a block.
#[derive(Clone, Copy)]
struct Naive {
    rows: usize,
    keep: usize,
    children: usize,
    block: usize,
    /// Whether complete strings stay, however they rank.
    complete_stay: bool,
}

/// Continuations of `ids` by at most `block` symbols, with their probabilities.
fn blocks(toy: &Toy, ids: &[TokenId], block: usize) -> Vec<(Ids, f64)> {
    let lm = toy.base.lm();
    if block == 0 || lm.space().is_complete(ids) {
        return vec![(ids.to_vec(), 1.0)];
    }
    let next = lm.next(ids).expect("a row");
    let below = |(symbol, log): (usize, &f64)| {
        let rest = blocks(toy, &[ids, &[symbol as TokenId]].concat(), block - 1);
        let first = log.exp();
        rest.into_iter().map(move |(ids, p)| (ids, p * first))
    };
    next.iter().enumerate().flat_map(below).collect()
}

fn best(toy: &Toy, pool: &[Ids]) -> Ids {
    let mut best = &pool[0];
    for ids in pool {
        if toy.value_of(ids) > toy.value_of(best) {
            best = ids;
        }
    }
    best.clone()
}

fn search(toy: &Toy, rule: Naive, pool: &[Ids], p: f64, law: &mut BTreeMap<Ids, f64>) {
    let complete = |ids: &Ids| toy.base.lm().space().is_complete(ids);
    let mut outcomes: Vec<(Vec<Ids>, f64)> = vec![(Vec::new(), p)];
    for ids in pool {
        let options = blocks(toy, ids, rule.block);
        outcomes = outcomes
            .iter()
            .flat_map(|(so_far, p)| {
                options.iter().map(move |(ids, q)| ([&so_far[..], std::slice::from_ref(ids)].concat(), p * q))
            })
            .collect();
    }
    for (pool, p) in outcomes {
        if pool.iter().all(complete) {
            *law.entry(best(toy, &pool)).or_default() += p;
            continue;
        }
        let mut kept = vec![false; pool.len()];
        for _ in 0..rule.keep {
            let left = (0..pool.len()).filter(|i| !kept[*i]);
            let first = left.fold(None, |best: Option<usize>, i| match best {
                Some(j) if toy.value_of(&pool[j]) >= toy.value_of(&pool[i]) => Some(j),
                _ => Some(i),
            });
            if let Some(i) = first {
                kept[i] = true;
            }
        }
        let stays = |i: &usize| kept[*i] || (rule.complete_stay && complete(&pool[*i]));
        let kept: Vec<Ids> = (0..pool.len()).filter(stays).map(|i| pool[i].clone()).collect();
        if kept.iter().all(complete) {
            *law.entry(best(toy, &kept)).or_default() += p;
            continue;
        }
        let next: Vec<Ids> = kept
            .into_iter()
            .flat_map(|ids| {
                let copies = if complete(&ids) { 1 } else { rule.children };
                vec![ids; copies]
            })
            .collect();
        search(toy, rule, &next, p, law);
    }
}

fn naive(toy: &Toy, rule: Naive) -> Vec<f64> {
    let mut law = BTreeMap::new();
    search(toy, rule, &vec![Ids::new(); rule.rows], 1.0, &mut law);
    toy.align(law.into_iter().collect())
}

/// A value that has little to do with the rewards below it, on partial strings.
fn crooked(toy: &Toy, ids: &[TokenId]) -> f64 {
    let place = toy.sequences().iter().position(|sequence| sequence == ids);
    place.map_or_else(
        || (ids.iter().sum::<u32>() as f64 * 2.3 + ids.len() as f64).sin(),
        |place| toy.rewards[place],
    )
}

fn answers(toy: &Toy, value: Value, count: usize) -> Vec<Answer> {
    let prompts: Vec<Prompt> = (0..count).map(|index| Prompt::from_ids(index, vec![2])).collect();
    toy.answers(&method(value), &prompts, &mut Chance::Streams)
}

fn ids(answers: &[Answer]) -> Vec<Ids> {
    answers.iter().map(|answer| answer.ids.clone()).collect()
}

fn trace(answer: &Answer) -> SearchTrace {
    serde_json::from_value(answer.trace.clone()).expect("a trace")
}

#[test]
fn blockwise_decoding_is_best_of_k_at_every_block() {
    let check = |toy: &Toy, k: usize, block: usize| {
        let got = toy.law_of(&method(json!({ "cd-blockwise": { "k": k, "block": block } })));
        let rule = Naive { rows: k, keep: 1, children: k, block, complete_stay: false };
        assert_law(&format!("{} {k} {block}", toy.name), &got, &naive(toy, rule), TOLERANCE);
    };
    for toy in toys() {
        check(&toy, 2, 1);
        check(&toy, 2, 3);
    }
    for value in [Toy::mean_value, crooked] {
        let toy = small().judged_by(value);
        for k in 1..=3 {
            check(&toy, k, 1);
        }
        let want =
            objective::bon::law(&toy.base.lm().law().expect("a law"), &toy.rewards, 3.0).expect("a law");
        let got = toy.law_of(&method(json!({ "cd-blockwise": { "k": 3, "block": 2 } })));
        assert_law("one block is best-of-k", &got, &want, TOLERANCE);
    }
}

#[test]
fn chunks_are_searched_as_written() {
    for value in [Toy::mean_value, crooked] {
        let toy = small().judged_by(value);
        for (beams, successors) in [(1, 2), (2, 1), (2, 2), (3, 1)] {
            let got = toy
                .law_of(&method(json!({ "cbs": { "beams": beams, "successors": successors, "chunk": 1 } })));
            let rule = Naive {
                rows: beams * successors,
                keep: beams,
                children: successors,
                block: 1,
                complete_stay: false,
            };
            assert_law(&format!("cbs {beams} {successors}"), &got, &naive(&toy, rule), TOLERANCE);
        }
    }
}

#[test]
fn trees_and_rejection_follow_their_rules() {
    for value in [Toy::mean_value, crooked] {
        let toy = small().judged_by(value);
        for (n, children) in [(2, 2), (4, 2), (3, 3), (4, 4)] {
            let got =
                toy.law_of(&method(json!({ "treebon": { "n": n, "layers": 2, "children": children } })));
            let rule = Naive { rows: n, keep: n / children, children, block: 1, complete_stay: false };
            assert_law(&format!("treebon {n} {children}"), &got, &naive(&toy, rule), TOLERANCE);
        }
        for (n, keep) in [(2, 1), (3, 2), (4, 2)] {
            let reject = method(json!({ "speculative-rejection": { "n": n, "alpha": 0.5, "every": 1 } }));
            let rule = Naive { rows: n, keep, children: 1, block: 1, complete_stay: true };
            assert_law(&format!("rejection {n}"), &toy.law_of(&reject), &naive(&toy, rule), TOLERANCE);
        }
    }
}

#[test]
fn a_beam_is_a_search_in_chunks_and_diverse_trees_do_not_mix() {
    let toy = small().judged_by(crooked);
    let beam = |n: usize, width: usize, diverse: bool| {
        method(
            json!({ "beam": { "n": n, "width": width, "step_tokens": 1, "separator": "", "diverse": diverse } }),
        )
    };
    let rule = Naive { rows: 4, keep: 2, children: 2, block: 1, complete_stay: false };
    assert_law("beam", &toy.law_of(&beam(4, 2, false)), &naive(&toy, rule), TOLERANCE);
    // Each tree by itself is blockwise decoding, and the answer is the better of the two.
    let one = Naive { rows: 2, keep: 1, children: 2, block: 1, complete_stay: false };
    let want = objective::bon::law(&naive(&toy, one), &toy.rewards, 2.0).expect("a law");
    assert_law("diverse", &toy.law_of(&beam(4, 2, true)), &want, TOLERANCE);
    let mixed: f64 = naive(&toy, rule).iter().zip(&want).map(|(a, b)| (a - b).abs()).sum();
    assert!(mixed > 1e-3, "the two differ here: {mixed}");
}

#[test]
fn the_score_of_a_path_is_what_the_aggregate_says() {
    let toy = toys().remove(0).judged_by(crooked);
    let fold = |aggregate: &str, path: &[f64]| match aggregate {
        "last" => path[path.len() - 1],
        "min" => path.iter().copied().fold(f64::INFINITY, f64::min),
        _ => path.iter().product(),
    };
    for aggregate in ["last", "min", "product"] {
        let search = json!({ "beam": { "n": 6, "width": 3, "step_tokens": 1, "separator": "", "aggregate": aggregate } });
        for answer in answers(&toy, search, 20) {
            let trace = trace(&answer);
            for (ids, score) in trace.candidates.iter().zip(&trace.scores) {
                let path: Vec<f64> = (1..=ids.len()).map(|len| toy.value_of(&ids[..len])).collect();
                assert!((fold(aggregate, &path) - score).abs() < 1e-12, "{aggregate} {ids:?}: {score}");
            }
            assert!(trace.scores.iter().all(|score| *score <= trace.scores[trace.picked]));
        }
    }
}

#[test]
fn what_prunes_nothing_is_best_of_n_bit_for_bit() {
    for toy in toys().into_iter().map(|toy| toy.judged_by(crooked)) {
        for n in [1, 4, 6] {
            let want = ids(&answers(&toy, json!({ "best-of-n": { "n": n } }), 40));
            for same in [
                json!({ "cd-blockwise": { "k": n, "block": 4 } }),
                json!({ "cd-blockwise": { "k": n, "block": 400 } }),
                json!({ "cbs": { "beams": 1, "successors": n, "chunk": 4 } }),
                json!({ "cbs": { "beams": n, "successors": 1, "chunk": 1 } }),
                json!({ "treebon": { "n": n, "layers": 1, "children": n } }),
                json!({ "treebon": { "n": n, "layers": 4, "children": 1 } }),
                json!({ "treebon": { "n": n, "layers": 3, "children": 1 } }),
                json!({ "speculative-rejection": { "n": n, "alpha": 0.0, "every": 1 } }),
                json!({ "speculative-rejection": { "n": n, "alpha": 0.9, "every": 4 } }),
                json!({ "beam": { "n": n, "width": 1, "step_tokens": 1, "separator": "" } }),
                json!({ "beam": { "n": n, "width": 1, "step_tokens": 2, "diverse": true, "choose": "reward" } }),
            ] {
                assert_eq!(ids(&answers(&toy, same.clone(), 40)), want, "{} {same}", toy.name);
            }
        }
        let one = ids(&answers(&toy, json!({ "sample": {} }), 40));
        assert_eq!(ids(&answers(&toy, json!({ "cd-blockwise": { "k": 1, "block": 1 } }), 40)), one);
        let blockwise = ids(&answers(&toy, json!({ "cd-blockwise": { "k": 3, "block": 1 } }), 40));
        let chunks = json!({ "cbs": { "beams": 1, "successors": 3, "chunk": 1 } });
        assert_eq!(ids(&answers(&toy, chunks, 40)), blockwise);
    }
}

#[test]
fn rejection_never_beats_best_of_n_on_its_seeds() {
    let mut below = 0;
    for toy in toys().into_iter().map(|toy| toy.judged_by(crooked)) {
        let rewards = |value: Value| -> (Vec<f64>, u64) {
            let given = answers(&toy, value, 200);
            let drawn = given.iter().filter(|answer| answer.trace["drawn_tokens"].is_u64());
            (
                given.iter().map(|answer| toy.mean_value(&answer.ids)).collect(),
                drawn.map(|answer| trace(answer).drawn_tokens).sum(),
            )
        };
        let (bon, _) = rewards(json!({ "best-of-n": { "n": 8 } }));
        let mut least = u64::MAX;
        for alpha in [0.0, 0.25, 0.5, 0.9] {
            let (given, drawn) =
                rewards(json!({ "speculative-rejection": { "n": 8, "alpha": alpha, "every": 1 } }));
            assert!(given.iter().zip(&bon).all(|(given, bon)| given <= bon), "{} {alpha}", toy.name);
            assert!(drawn < least, "{drawn} tokens at {alpha}");
            least = drawn;
            below += given.iter().zip(&bon).filter(|(given, bon)| given < bon).count();
        }
    }
    assert!(below > 0, "the value is crooked, so something good was rejected");
}

#[test]
fn a_tree_draws_no_more_tokens_than_best_of_n() {
    let toy = toys().remove(0);
    let drawn = |answers: &[Answer]| -> Vec<u64> { answers.iter().map(|a| trace(a).drawn_tokens).collect() };
    for layers in 1..=4 {
        let tree = answers(&toy, json!({ "treebon": { "n": 8, "layers": layers, "children": 4 } }), 100);
        assert!(drawn(&tree).iter().all(|tokens| *tokens <= 8 * 4), "{layers} layers");
        for (answer, tokens) in tree.iter().zip(drawn(&tree)) {
            let trace = trace(answer);
            let ended: usize = trace.rounds.iter().map(|round| round.ended).sum();
            let early = trace.candidates.iter().any(|ids| ids.len() < 4);
            assert!(
                ended > 0 || early || tokens == 8 * 4,
                "without early ends the budget is used: {trace:?}"
            );
        }
    }
    // Rows that end early keep competing, without children.
    let tree = answers(&toy, json!({ "treebon": { "n": 8, "layers": 4, "children": 4 } }), 100);
    let kept = |answer: &Answer| trace(answer).candidates.iter().any(|ids| ids.len() < 4);
    assert!(tree.iter().any(|answer| kept(answer) && trace(answer).candidates.len() < 8));
}

#[test]
fn layers_share_the_horizon() {
    let toy = toys().remove(0);
    // Four tokens in three layers: 2, 1, 1.
    let lengths = |answer: &Answer| trace(answer).rounds.len();
    let tree = answers(&toy, json!({ "treebon": { "n": 4, "layers": 3, "children": 2 } }), 50);
    assert!(tree.iter().map(lengths).max() <= Some(2), "the last layer is judged by the reward alone");
    let refused = method(json!({ "treebon": { "layers": 5 } }));
    let refused = inference::Method::machine(&refused, &toy.tools()).err().expect("refused").to_string();
    assert_eq!(
        refused,
        "[method.treebon] `layers` = 5 does not fit `sampling.max_new_tokens` = 4\n  hint: a layer has at least one \
         token: lower `layers`, or raise max_new_tokens"
    );
}

#[test]
fn settings_out_of_range_are_refused() {
    let problems = |value: Value| -> Vec<&'static str> {
        let config: MethodConfig = method(value);
        inference::Method::problems(&config).into_iter().map(|problem| problem.key).collect()
    };
    assert_eq!(problems(json!({ "cd-blockwise": { "k": 0, "block": 0 } })), ["k", "block"]);
    assert_eq!(problems(json!({ "cbs": { "beams": 0, "chunk": 0 } })), ["beams", "chunk"]);
    assert_eq!(problems(json!({ "treebon": { "n": 6, "children": 4 } })), ["n"]);
    assert_eq!(problems(json!({ "speculative-rejection": { "alpha": 1.0 } })), ["alpha"]);
    assert_eq!(problems(json!({ "beam": { "n": 6, "width": 4 } })), ["n"]);
    assert_eq!(problems(json!({ "args": { "temperature": 0.0 } })), ["temperature"]);
    assert_eq!(problems(json!({ "transfer-q": { "indirect": 1.0 } })), ["rollouts"]);
    assert_eq!(problems(json!({ "twisted-smc": { "ess": 1.5, "beta": 0.0 } })), ["beta", "ess"]);
}
