//! Worlds small enough to enumerate, and descents on the tabular policy.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;

use objective::law::RankMasses;
use objective::tabular::{Space, Symbol, TabularLm, TabularPolicy, TabularTable};
use serde::Deserialize;

#[derive(Deserialize)]
struct Toy {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    horizon: usize,
    vocab: Symbol,
    eos: Symbol,
    base_conditionals: BTreeMap<String, Vec<f64>>,
    rewards: Vec<f64>,
}

/// A base model, its law, rewards and rank masses.
pub(crate) struct World {
    pub(crate) base: TabularLm,
    pub(crate) p: Vec<f64>,
    pub(crate) log_p: Vec<f64>,
    pub(crate) r: Vec<f64>,
    pub(crate) masses: RankMasses,
}

/// The three toys: distinct rewards, ties, two values.
pub(crate) fn worlds() -> Vec<World> {
    let toy: Toy = serde_json::from_str(include_str!("../fixtures/toy.json")).expect("the fixture parses");
    let world = |case: Case| {
        let Case { horizon, vocab, eos, base_conditionals: conditionals, rewards: r } = case;
        let base: TabularLm = TabularTable { vocab, eos, horizon, conditionals }.try_into().expect("table");
        let log_p = base.log_law().expect("law");
        let p: Vec<f64> = log_p.iter().map(|l| l.exp()).collect();
        let masses = RankMasses::new(&p, &r).expect("law");
        World { base, p, log_p, r, masses }
    };
    toy.cases.into_iter().map(world).collect()
}

/// Natural-gradient descent for losses weighted by the policy itself: the gradient of each logit is divided by the
/// probability to reach it. On a KL-regularised return with coefficient `c`, a step of `1/c` is policy iteration, so the
/// rarest strings converge as fast as the others.
pub(crate) fn train_natural(
    start: &TabularLm,
    steps: usize,
    rate: f64,
    gradient: impl Fn(&[f64]) -> Vec<f64>,
) -> Vec<f64> {
    let mut policy = TabularPolicy::from_lm(start).expect("full support");
    let space = *start.space();
    let (sequences, prefixes, vocab) = (space.sequences(), space.prefixes(), space.vocab() as usize);
    for _ in 0..steps {
        let log_law = policy.log_law().expect("law");
        let g = policy.backward(&gradient(&log_law)).expect("aligned");
        let mut reached = vec![0.0; g.len()];
        for (sequence, log_prob) in sequences.iter().zip(&log_law) {
            for (t, symbol) in sequence.iter().enumerate() {
                let row = prefixes.binary_search_by(|p| p[..].cmp(&sequence[..t])).expect("a prefix");
                reached[row * vocab + *symbol as usize] += log_prob.exp();
            }
        }
        for ((logit, g), reached) in policy.logits_mut().iter_mut().zip(&g).zip(&reached) {
            *logit -= rate * g / reached;
        }
    }
    policy.log_law().expect("law").into_iter().map(f64::exp).collect()
}

/// Minimises a loss whose gradient with respect to the log-probabilities of all sequences is `gradient(log_law)`: Adam with
/// a cosine schedule. Returns the trained law.
pub(crate) fn train(start: &TabularLm, steps: usize, gradient: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut policy = TabularPolicy::from_lm(start).expect("full support");
    let mut first = vec![0.0; policy.logits().len()];
    let mut second = first.clone();
    for step in 1..=steps {
        let g = policy.backward(&gradient(&policy.log_law().expect("law"))).expect("aligned");
        let rate = 0.05 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
        let (c1, c2) = (1.0 - 0.9_f64.powi(step as i32), 1.0 - 0.999_f64.powi(step as i32));
        for (i, logit) in policy.logits_mut().iter_mut().enumerate() {
            first[i] = 0.9 * first[i] + 0.1 * g[i];
            second[i] = 0.999 * second[i] + 0.001 * g[i] * g[i];
            *logit -= rate * (first[i] / c1) / ((second[i] / c2).sqrt() + 1e-12);
        }
    }
    policy.log_law().expect("law").into_iter().map(f64::exp).collect()
}

/// Numeric gradient of `f` at the policy's logits.
pub(crate) fn numeric_gradient(policy: &TabularPolicy, f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let at = |i: usize, h: f64| {
        let mut moved = policy.clone();
        moved.logits_mut()[i] += h;
        f(&moved.to_lm().expect("model").law().expect("law"))
    };
    // Fourth-order central differences.
    let h = 1e-3;
    (0..policy.logits().len())
        .map(|i| (8.0 * (at(i, h) - at(i, -h)) - (at(i, 2.0 * h) - at(i, -2.0 * h))) / (12.0 * h))
        .collect()
}

/// A policy away from the base.
pub(crate) fn moved(base: &TabularLm) -> TabularPolicy {
    let mut policy = TabularPolicy::from_lm(base).expect("full support");
    for (i, logit) in policy.logits_mut().iter_mut().enumerate() {
        *logit += (i as f64 * 1.3).sin();
    }
    policy
}

pub(crate) fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// Four items with one tie: small enough to enumerate groups of samples.
pub(crate) fn items() -> World {
    let space = Space::new(4, 3, 1).expect("space");
    let p = vec![0.4, 0.1, 0.2, 0.3];
    let r = vec![0.0, 2.0, 1.0, 1.0];
    let masses = RankMasses::new(&p, &r).expect("law");
    let base = TabularLm::from_law(space, &p).expect("law");
    World { base, log_p: p.iter().map(|p| p.ln()).collect(), p, r, masses }
}
