//! Transport, large pools, and what is refused.

use super::*;
use crate::limits::{Random, law};

/// The least cost of carrying `from` to `to`, over all vertices of the couplings: each comes of filling cells to the brim in
/// some order.
fn wasserstein(from: &[f64], to: &[f64], cost: &dyn Fn(usize, usize) -> f64) -> f64 {
    fn fill(rows: &mut [f64], columns: &mut [f64], cost: &dyn Fn(usize, usize) -> f64) -> f64 {
        let mut least = f64::INFINITY;
        for i in 0..rows.len() {
            for j in 0..columns.len() {
                let mass = rows[i].min(columns[j]);
                if mass <= 1e-13 {
                    continue;
                }
                (rows[i], columns[j]) = (rows[i] - mass, columns[j] - mass);
                least = least.min(mass * cost(i, j) + fill(rows, columns, cost));
                (rows[i], columns[j]) = (rows[i] + mass, columns[j] + mass);
            }
        }
        if least.is_infinite() { 0.0 } else { least }
    }
    fill(&mut from.to_vec(), &mut to.to_vec(), cost)
}

#[test]
fn the_transport_law_is_the_optimum() {
    let mut missed = 0;
    for seed in 0..12 {
        let mut stream = Stream::new(seed, Purpose::Bootstrap, 2, 0);
        let mut uniform = || stream.uniform();
        let rewards: Vec<f64> = (0..3).map(|_| uniform()).collect();
        let weights: Vec<f64> = (0..3).map(|_| 0.1 + uniform()).collect();
        let total: f64 = weights.iter().sum();
        let reference: Vec<f64> = weights.iter().map(|w| w / total).collect();
        let alike = Similarities::symmetric(3, |i, j| if i == j { 1.0 } else { uniform() });
        for beta in [0.0, 0.3, 1.0, 4.0] {
            let cost = |i: usize, j: usize| 1.0 - alike.at(i, j);
            let value = |law: &[f64]| -> f64 {
                let gain: f64 = law.iter().zip(&rewards).map(|(p, r)| p * r).sum();
                gain - beta * wasserstein(&reference, law, &cost)
            };
            let law = transport(&reference, &rewards, beta, &alike).expect("a pool");
            let best = value(&law);
            for a in 0..=20 {
                for b in 0..=20 - a {
                    let other = [a, b, 20 - a - b].map(|share| f64::from(share) / 20.0);
                    assert!(
                        value(&other) <= best + 1e-9,
                        "seed {seed}, beta {beta}: {other:?} beats {law:?}"
                    );
                }
            }
            // The public code's cost is the similarity: nothing is carried for free, least of all nowhere.
            let turned = Similarities::symmetric(3, |i, j| 1.0 - alike.at(i, j));
            let wrong = transport(&reference, &rewards, beta, &turned).expect("a pool");
            assert!(value(&wrong) <= best + 1e-9);
            missed += usize::from(value(&wrong) < best - 1e-3);
        }
    }
    assert!(missed >= 24, "the inverted cost misses the optimum in {missed} of 48 cases");
}

#[test]
fn the_mean_similarity_is_a_distance_to_the_samples() {
    for seed in 0..20 {
        let random = Random::new(3, seed);
        let view = random.view();
        let alike = SimilarityTable::Rouge1.of(&view.tokens, &[], &[]).expect("aligned");
        for beta in [0.1, 0.8, 5.0] {
            let score = |i: usize| {
                let mut dirac = [0.0; 3];
                dirac[i] = 1.0;
                view.rewards[i] - beta * wasserstein(&[1.0 / 3.0; 3], &dirac, &|a, b| 1.0 - alike.at(a, b))
            };
            let most = (0..3).map(score).fold(f64::NEG_INFINITY, f64::max);
            let chosen = law(&json!({ "mbr-bon": { "beta": beta } }), &view);
            let index = chosen.iter().position(|p| *p == 1.0).expect("certain");
            assert!(score(index) > most - 1e-12, "seed {seed}, beta {beta}");
        }
    }
}

// --- The machine with random streams, and its estimates.

#[test]
fn draws_follow_the_law() {
    let toy = toys().remove(0);
    let prompts: Vec<Prompt> = (0..3000).map(|index| Prompt::from_ids(index, vec![2])).collect();
    for value in [json!({ "soft-best-of-n": { "n": 4 } }), json!({ "pessimism": { "n": 5 } })] {
        let given = toy.answers(&method(value.clone()), &prompts, &mut Chance::Streams);
        // By sample: how often it was picked, how often it was to be, and the variance of that.
        let mut counts = [(0.0, 0.0, 0.0); 5];
        for answer in given {
            let trace: PoolTrace = serde_json::from_value(answer.trace).expect("a trace");
            counts[trace.picked].0 += 1.0;
            for (count, p) in counts.iter_mut().zip(&trace.probabilities) {
                count.1 += p;
                count.2 += p * (1.0 - p);
            }
        }
        for (picked, expected, variance) in counts {
            let off: f64 = picked - expected;
            assert!(off.abs() <= 5.0 * f64::sqrt(variance), "{value}: {picked} against {expected}");
        }
    }
}

#[test]
fn divergences_of_large_pools_are_those_of_the_laws() {
    let toy = toys().remove(1);
    let (base, sequences) = (toy.base.lm().law().expect("a law"), toy.sequences());
    let log_p: Vec<f64> = base.iter().map(|p| p.ln()).collect();
    let mut stream = Stream::new(11, Purpose::Sample, 0, 0);
    let places: Vec<usize> = (0..2000).map(|_| objective::draw::Draw::pick(&mut stream, &log_p)).collect();
    let view = PoolView {
        size: 2000,
        rewards: places.iter().map(|i| toy.rewards[*i]).collect(),
        log_probs: places.iter().map(|i| log_p[*i]).collect(),
        tokens: places.iter().map(|i| sequences[*i].as_slice()).collect(),
        ..PoolView::default()
    };
    let tilted = |score: &dyn Fn(usize) -> f64, n: usize| {
        soft_best_of_n_law(&base, &(0..base.len()).map(score).collect::<Vec<_>>(), n).expect("a law")
    };
    let best = |score: &dyn Fn(usize) -> f64, n: usize| {
        objective::bon::law(&base, &(0..base.len()).map(score).collect::<Vec<_>>(), n as f64).expect("a law")
    };
    for n in [2, 4, 16] {
        let cases = [
            (json!({ "worst-of-n": {} }), best(&|i| -toy.rewards[i], n)),
            (json!({ "rbon-kl": { "beta": 0.3 } }), best(&|i| toy.rewards[i] + 0.3 * log_p[i], n)),
            (json!({ "likeliest-of-n": {} }), best(&|i| log_p[i], n)),
            (
                json!({ "rbon-l": { "beta": 1.0 } }),
                best(&|i| toy.rewards[i] - 1.0 / sequences[i].len() as f64, n),
            ),
            (json!({ "soft-best-of-n": { "beta": 0.5 } }), tilted(&|i| toy.rewards[i] / 0.5, n)),
            (json!({ "srbon-kl": { "beta": 0.5 } }), tilted(&|i| toy.rewards[i] / 0.5 + log_p[i], n)),
        ];
        for (value, law) in cases {
            let (exact, chosen) = (kl(&law, &base), method(value.clone()));
            let estimate =
                chosen.rule().expect("a rule").kl(&view, n).expect("a pool").value().expect("a text");
            assert!((estimate - exact).abs() < 0.06, "{value}, n = {n}: {estimate} against {exact}");
        }
    }
    for value in [
        json!({ "mbr-bon": {} }),
        json!({ "srbon-wd": {} }),
        json!({ "pessimism": {} }),
        json!({ "srbon-kl": { "reference": "distinct" } }),
        json!({ "soft-best-of-n": { "normalise": true } }),
    ] {
        let chosen = method(value.clone());
        let reason = chosen.rule().expect("a rule").kl(&view, 4).expect("a pool").reason();
        assert!(reason.is_some_and(|reason| reason.contains("no closed form")), "{value}");
    }
}

#[test]
fn what_a_rule_lacks_is_refused() {
    let random = Random::new(3, 0);
    let view = random.view();
    let refused = |value: Value, view: &PoolView<'_>| {
        method(value).rule().expect("a rule").law(view).expect_err("refused").to_string()
    };
    assert!(refused(json!({ "mbr": {} }), &view).starts_with("similarities of the pool"));
    let bare = PoolView { size: 3, rewards: view.rewards.clone(), ..PoolView::default() };
    assert!(refused(json!({ "rbon-kl": {} }), &bare).starts_with("log-probabilities of the pool"));
    assert!(refused(json!({ "rbon-l": {} }), &bare).starts_with("tokens of the pool"));
    let infinite = PoolView { rewards: vec![0.0, f64::INFINITY, 1.0], ..bare };
    for name in ["soft-best-of-n", "pessimism"] {
        assert!(refused(json!({ name: {} }), &infinite).contains("must be finite"), "{name}");
    }
}
