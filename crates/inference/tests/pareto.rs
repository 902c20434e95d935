//! No method lies above the frontier of `p(y) exp(r(y) / β)`: its reward is at most that of the tilted policy of equal
//! divergence. On 100 random toys, through the code that runs models. The mean gaps are kept in `docs/results/toy.md`.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Toy, method};
use generate::tabular::{Tabular, TabularValue};
use generate::{Purpose, Stream};
use inference::{METHODS, Method};
use objective::law::{expectation, kl, tilt};
use objective::tabular::{Space, TabularLm};
use serde_json::{Value, json};

const TOYS: u64 = 100;

/// Three symbols and two steps, with random laws and normal rewards. The ARM is the optimum of its loss at `beta_r` 1:
/// `exp(r) / Z` over all strings. Prefixes are worth the base's mean reward.
fn toy(seed: u64) -> Toy {
    let space = Space::new(3, 2, 2).expect("a space");
    let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
    let mut row = || {
        let weights: Vec<f64> = (0..3).map(|_| 0.1 + stream.uniform()).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|weight| weight / total).collect::<Vec<_>>()
    };
    let rows: BTreeMap<Vec<_>, Vec<f64>> =
        [vec![], vec![0], vec![1]].into_iter().map(|p| (p, row())).collect();
    let rewards: Vec<f64> = (0..7).map(|_| stream.normal()).collect();
    let arm = tilt(&[1.0 / 7.0; 7], &rewards).expect("finite rewards").law;
    let base = Tabular::new(TabularLm::new(space, rows).expect("a law"));
    let value = TabularValue::new(base.lm(), |_| 0.0);
    let arm = Tabular::new(TabularLm::from_law(space, &arm).expect("a law"));
    let (name, case) = (format!("toy {seed}"), Value::Null);
    Toy { name, base, arm, rewards, beta: 0.5, alpha: 1.0, case, value }.judged_by(Toy::mean_value)
}

/// The greatest mean reward at a divergence of at most `nats` from `base`.
fn frontier(base: &[f64], rewards: &[f64], nats: f64) -> f64 {
    let at = |inverse: f64| {
        let weights: Vec<f64> = rewards.iter().map(|r| r * inverse).collect();
        tilt(base, &weights).expect("finite rewards").law
    };
    let (mut low, mut high) = (0.0, 1.0);
    while kl(&at(high), base) < nats && high < 1e6 {
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if kl(&at(middle), base) < nats { low = middle } else { high = middle }
    }
    expectation(&at(high), rewards)
}

/// Every method at a setting whose law can be enumerated.
fn settings() -> Vec<(&'static str, Value)> {
    vec![
        ("sample", json!({ "sample": {} })),
        ("greedy", json!({ "greedy": {} })),
        ("best-of-2", json!({ "best-of-n": { "n": 2 } })),
        ("best-of-3", json!({ "best-of-n": { "n": 3 } })),
        ("worst-of-2", json!({ "worst-of-n": { "n": 2 } })),
        ("likeliest of 3", json!({ "likeliest-of-n": { "n": 3 } })),
        ("soft-best-of-3, β 0.5", json!({ "soft-best-of-n": { "n": 3, "beta": 0.5 } })),
        ("majority of 3", json!({ "majority": { "n": 3 } })),
        ("weighted-majority of 3, β 0.5", json!({ "weighted-majority": { "n": 3, "beta": 0.5 } })),
        ("mbr of 3", json!({ "mbr": { "n": 3 } })),
        ("mbr-bon of 3", json!({ "mbr-bon": { "n": 3 } })),
        ("rbon-kl of 3", json!({ "rbon-kl": { "n": 3 } })),
        ("rbon-l of 3", json!({ "rbon-l": { "n": 3 } })),
        ("srbon-kl of 3", json!({ "srbon-kl": { "n": 3 } })),
        ("srbon-wd of 3", json!({ "srbon-wd": { "n": 3 } })),
        ("pessimism of 3", json!({ "pessimism": { "n": 3 } })),
        ("genarm, α 1", json!({ "genarm": { "alpha": [1.0] } })),
        ("genarm, α 2", json!({ "genarm": { "alpha": [2.0] } })),
        (
            "genarm-smc, α 1, 2 particles",
            json!({ "genarm-smc": { "alpha": [1.0], "particles": 2, "block": 1 } }),
        ),
        ("parm, α 1", json!({ "parm": {} })),
        ("mod of base and ARM", json!({ "mod": { "weights": { "untuned": 0.5, "tuned": 0.5 } } })),
        ("eft from base to ARM, α 1", json!({ "eft": { "alpha": 1.0 } })),
        ("contrastive, λ 0.5", json!({ "contrastive": { "lambda": 0.5 } })),
        (
            "args, weight 1, sampled",
            json!({ "args": { "k": 3, "weight": 1.0, "decode": "sample", "temperature": 1.0 } }),
        ),
        ("cd, λ 1", json!({ "cd": { "lambda": 1.0, "k": 3 } })),
        ("cd, λ 2", json!({ "cd": { "lambda": 2.0, "k": 3 } })),
        ("cd-blockwise, k 2, block 1", json!({ "cd-blockwise": { "k": 2, "block": 1 } })),
        ("cbs, 1 beam of 2", json!({ "cbs": { "beams": 1, "successors": 2, "chunk": 1 } })),
        ("treebon, 2 of 2 layers", json!({ "treebon": { "n": 2, "layers": 2, "children": 2 } })),
        (
            "speculative-rejection of 3",
            json!({ "speculative-rejection": { "n": 3, "alpha": 0.5, "every": 1 } }),
        ),
        ("beam, 2", json!({ "beam": { "n": 2, "width": 2, "step_tokens": 1, "separator": "" } })),
        ("transfer-q, weight 1, greedy", json!({ "transfer-q": { "k": 3, "weight": 1.0, "rollouts": 1 } })),
        (
            "twisted-smc, β 0.5, 2 particles",
            json!({ "twisted-smc": { "particles": 2, "beta": 0.5, "block": 1 } }),
        ),
        ("qalign, β 0.5, 1 step", json!({ "qalign": { "beta": 0.5, "steps": 1, "answer": "last" } })),
        ("qalign, β 0.5, 2 steps", json!({ "qalign": { "beta": 0.5, "steps": 2, "answer": "last" } })),
        ("quest, β 0.5, 2 steps", json!({ "quest": { "beta": 0.5, "steps": 2, "answer": "last" } })),
        ("power, α 2, 2 steps", json!({ "power": { "alpha": 2.0, "steps": 2, "answer": "last" } })),
        (
            "independence-mh, β 0.5, 2 steps",
            json!({ "independence-mh": { "beta": 0.5, "steps": 2, "answer": "last" } }),
        ),
        ("random-cut, best of 3 states", json!({ "random-cut": { "steps": 2, "answer": "best" } })),
    ]
}

/// Means over the toys: reward, divergence, frontier at that divergence, gap.
fn means(config: &Value) -> [f64; 4] {
    let method = method(config.clone());
    let mut total = [0.0; 4];
    for seed in 0..TOYS {
        let toy = toy(seed);
        let (law, base) = (toy.law_of(&method), toy.base.lm().law().expect("a law"));
        let (reward, nats) = (expectation(&law, &toy.rewards), kl(&law, &base));
        let best = frontier(&base, &toy.rewards, nats);
        assert!(reward < best + 2e-5, "{} on {}: {reward} above {best} at {nats} nats", config, toy.name);
        for (sum, value) in total.iter_mut().zip([reward, nats, best, best - reward]) {
            *sum += value / TOYS as f64;
        }
    }
    total
}

/// The rows of the table that the results keep: label and figures.
fn kept() -> BTreeMap<String, Vec<f64>> {
    let rows = include_str!("../../../docs/results/toy.md").lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let figures = cells[1..].iter().map(|cell| cell.parse().expect("a figure")).collect();
        (cells[0].trim_matches('`').to_owned(), figures)
    })
    .collect()
}

#[test]
fn no_method_lies_above_the_frontier() {
    let mut seen = BTreeSet::new();
    let mut rows = Vec::new();
    for (label, config) in settings() {
        seen.insert(method(config.clone()).info().name);
        rows.push((label, means(&config)));
    }
    let missing: Vec<&str> =
        METHODS.iter().map(|info| info.name).filter(|name| !seen.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} have no setting here");
    for (label, [reward, nats, best, gap]) in &rows {
        println!("| `{label}` | {reward:.3} | {nats:.3} | {best:.3} | {gap:.3} |");
    }
    let kept = kept();
    for (label, figures) in &rows {
        let there = kept.get(*label).unwrap_or_else(|| panic!("docs/results/toy.md has no row `{label}`"));
        for (now, then) in figures.iter().zip(there) {
            assert!((now - then).abs() < 2e-3, "{label}: {figures:?}, and docs/results/toy.md has {there:?}");
        }
    }
    assert_eq!(kept.len(), rows.len(), "docs/results/toy.md has rows of methods that are not there");
}
