//! The rules on pools: their laws through the machine against all tuples of samples, and what must hold of any pool.

mod common;

use std::collections::BTreeMap;

use common::{Toy, answer, assert_law, method, small, toys};
use generate::{Chance, Prompt, Purpose, Stream};
use inference::selection::{Similarities, SimilarityTable, rouge1_f1, soft_best_of_n_law, transport};
use inference::{METHODS, Method, MethodConfig, PoolLaw, PoolTrace, PoolView};
use objective::law::{kl, tilt, total_variation, win_rate};
use serde_json::{Value, json};

/// Logits are `f32`.
const TOLERANCE: f64 = 2e-6;

// --- A slow and obvious second version of every rule, on tuples of sequences.

/// What a tuple shows of its samples.
struct Tuple<'a> {
    r: Vec<f64>,
    log_p: Vec<f64>,
    ids: Vec<&'a [u32]>,
}

impl Tuple<'_> {
    fn n(&self) -> usize {
        self.r.len()
    }

    /// The first of greatest score. Rounding may separate equal scores; distinct ones are further apart than this.
    fn first_best(&self, score: impl Fn(usize) -> f64) -> Vec<f64> {
        let most = (0..self.n()).map(&score).fold(f64::NEG_INFINITY, f64::max);
        let best = (0..self.n()).find(|i| score(*i) > most - 1e-9).expect("someone is best");
        (0..self.n()).map(|i| f64::from(u8::from(i == best))).collect()
    }

    fn in_proportion(&self, weight: impl Fn(usize) -> f64) -> Vec<f64> {
        let total: f64 = (0..self.n()).map(&weight).sum();
        (0..self.n()).map(|i| weight(i) / total).collect()
    }

    fn alike(&self, i: usize) -> f64 {
        self.ids.iter().map(|other| rouge1_f1(self.ids[i], other)).sum::<f64>() / self.n() as f64
    }

    fn copies(&self, i: usize) -> f64 {
        self.ids.iter().filter(|ids| **ids == self.ids[i]).count() as f64
    }

    fn reference(&self, name: &str) -> Vec<f64> {
        self.in_proportion(|i| match name {
            "samples" => 1.0,
            "probabilities" => self.log_p[i].exp(),
            _ => self.log_p[i].exp() / self.copies(i),
        })
    }

    fn carried(&self, reference: &[f64], beta: f64) -> Vec<f64> {
        let mut law = vec![0.0; self.n()];
        for (i, mass) in reference.iter().enumerate() {
            let target = self.first_best(|j| self.r[j] - beta * (1.0 - rouge1_f1(self.ids[i], self.ids[j])));
            law.iter_mut().zip(target).for_each(|(law, here)| *law += mass * here);
        }
        law
    }
}

/// `max(0, (r − λ) / β)` with λ by bisection.
fn chi_square(rewards: &[f64], beta: f64) -> impl Fn(f64) -> f64 + use<> {
    let mean = |lambda: f64| {
        rewards.iter().map(|r| ((r - lambda) / beta).max(0.0)).sum::<f64>() / rewards.len() as f64
    };
    let (mut low, mut high) = (-1e3, 1e3);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if mean(middle) > 1.0 { low = middle } else { high = middle }
    }
    move |r| ((r - low) / beta).max(0.0)
}

fn naive(toy: &Toy, n: usize, law_of: &dyn Fn(&Tuple<'_>) -> Vec<f64>) -> Vec<f64> {
    let (sequences, base) = (toy.sequences(), toy.base.lm().law().expect("a law"));
    let mut law = vec![0.0; sequences.len()];
    for code in 0..sequences.len().pow(n as u32) {
        let places: Vec<usize> =
            (0..n as u32).map(|i| code / sequences.len().pow(i) % sequences.len()).collect();
        let p: f64 = places.iter().map(|i| base[*i]).product();
        let tuple = Tuple {
            r: places.iter().map(|i| toy.rewards[*i]).collect(),
            log_p: places.iter().map(|i| base[*i].ln()).collect(),
            ids: places.iter().map(|i| sequences[*i].as_slice()).collect(),
        };
        for (place, q) in places.iter().zip(law_of(&tuple)) {
            law[*place] += p * q;
        }
    }
    law
}

type Rule = (Value, Box<dyn Fn(&Tuple<'_>) -> Vec<f64>>);

/// Every rule with settings of all kinds.
fn rules(n: usize) -> Vec<Rule> {
    let mut all: Vec<Rule> = vec![
        (json!({ "best-of-n": { "n": n } }), Box::new(|t| t.first_best(|i| t.r[i]))),
        (json!({ "worst-of-n": { "n": n } }), Box::new(|t| t.first_best(|i| -t.r[i]))),
        (json!({ "mbr": { "n": n } }), Box::new(|t| t.first_best(|i| t.alike(i)))),
        (json!({ "mbr": { "n": n, "similarity": "exact" } }), Box::new(|t| t.first_best(|i| t.copies(i)))),
        (
            json!({ "mbr": { "n": n, "similarity": "answer" } }),
            Box::new(|t| {
                let same = |i: usize, ids: &&&[u32]| answer(ids) == answer(t.ids[i]);
                t.first_best(|i| t.ids.iter().filter(|ids| same(i, ids)).count() as f64)
            }),
        ),
        (
            json!({ "rbon-l": { "n": n, "beta": 1.7 } }),
            Box::new(|t| t.first_best(|i| t.r[i] - 1.7 / t.ids[i].len() as f64)),
        ),
    ];
    for beta in [0.2, 1.3] {
        all.push((
            json!({ "soft-best-of-n": { "n": n, "beta": beta } }),
            Box::new(move |t| t.in_proportion(|i| (t.r[i] / beta).exp())),
        ));
        all.push((
            json!({ "mbr-bon": { "n": n, "beta": beta } }),
            Box::new(move |t| t.first_best(|i| t.r[i] + beta * t.alike(i))),
        ));
        all.push((
            json!({ "rbon-kl": { "n": n, "beta": beta } }),
            Box::new(move |t| t.first_best(|i| t.r[i] + beta * t.log_p[i])),
        ));
        for name in ["samples", "probabilities", "distinct"] {
            all.push((
                json!({ "srbon-kl": { "n": n, "beta": beta, "reference": name } }),
                Box::new(move |t| {
                    let reference = t.reference(name);
                    t.in_proportion(|i| reference[i] * (t.r[i] / beta).exp())
                }),
            ));
            all.push((
                json!({ "srbon-wd": { "n": n, "beta": beta, "reference": name } }),
                Box::new(move |t| t.carried(&t.reference(name), beta)),
            ));
        }
        all.push((
            json!({ "pessimism": { "n": n, "beta": beta, "reuse": true } }),
            Box::new(move |t| {
                let weight = chi_square(&t.r, beta);
                t.r.iter().map(|r| weight(*r) / t.n() as f64).collect()
            }),
        ));
        for max_reward in [None, Some(2.0)] {
            all.push((
                json!({ "pessimism": { "n": n, "beta": beta, "max_reward": max_reward } }),
                Box::new(move |t| rejected(t, beta, max_reward)),
            ));
        }
    }
    all
}

/// The paper's two batches, one trial after the other.
fn rejected(t: &Tuple<'_>, beta: f64, max_reward: Option<f64>) -> Vec<f64> {
    let half = t.n() / 2;
    let mut law = vec![0.0; half];
    let mut alive = 1.0;
    if half > 0 {
        let weight = chi_square(&t.r[..half], beta);
        let bound = weight(max_reward.unwrap_or(t.r.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
        for reward in &t.r[half..t.n() - 1] {
            let accept = (weight(*reward) / bound).min(1.0);
            law.push(alive * accept);
            alive *= 1.0 - accept;
        }
    }
    law.push(alive);
    law
}

fn check_laws(toy: &Toy, n: usize, wanted: impl Fn(&Value) -> bool) {
    for (value, law) in rules(n).into_iter().filter(|(value, _)| wanted(value)) {
        let got = toy.law_of(&method(value.clone()));
        assert_law(&format!("{} {value}", toy.name), &got, &naive(toy, n, &*law), TOLERANCE);
    }
}

/// Whether a rule has none of the second values of its settings: half of the rules, for the larger enumerations.
fn is_plain(value: &Value) -> bool {
    let text = value.to_string();
    !["0.2", "distinct", "samples", "max_reward\":2"].iter().any(|other| text.contains(other))
}

#[test]
fn every_rule_has_its_law_on_all_tuples() {
    for n in 1..=2 {
        check_laws(&small(), n, |_| true);
    }
    check_laws(&small(), 3, is_plain);
    check_laws(&toys().remove(0), 2, is_plain);
}

#[test]
fn four_samples_have_their_law() {
    let names = ["srbon-kl", "srbon-wd", "mbr-bon", "rbon-kl"];
    check_laws(&small(), 4, |value| is_plain(value) && names.iter().any(|name| value.get(name).is_some()));
    check_laws(&small(), 4, |value| {
        is_plain(value) && value["pessimism"]["reuse"].is_null() && value.get("pessimism").is_some()
    });
}

#[test]
fn every_rule_is_tested() {
    let covered: Vec<String> =
        rules(2).iter().flat_map(|(value, _)| value.as_object().expect("a table").keys().cloned()).collect();
    for info in METHODS {
        let is_rule = MethodConfig::named(info.name).expect("listed").rule().is_some();
        let elsewhere = ["majority", "weighted-majority"].contains(&info.name);
        assert!(!is_rule || elsewhere || covered.iter().any(|name| name == info.name), "{}", info.name);
    }
}

// --- Laws in closed form.

#[test]
fn soft_best_of_n_has_its_integral_and_nears_the_tilted_law() {
    let (toy, beta) = (small(), 0.5);
    let base = toy.base.lm().law().expect("a law");
    let logs: Vec<f64> = toy.rewards.iter().map(|r| r / beta).collect();
    let tilted = tilt(&base, &logs).expect("a law").law;
    let law = |n: usize| toy.law_of(&method(json!({ "soft-best-of-n": { "n": n, "beta": beta } })));
    let mut last = f64::INFINITY;
    for n in 1..=4 {
        let (got, want) = (law(n), soft_best_of_n_law(&base, &logs, n).expect("a law"));
        assert_law(&format!("soft best of {n}"), &got, &want, TOLERANCE);
        let far = kl(&got, &tilted);
        assert!(far < last, "{far} after {last}");
        last = far;
    }
    // The law of best-of-n is on the way, but not where it leads.
    let far = |n: usize| kl(&soft_best_of_n_law(&base, &logs, n).expect("a law"), &tilted);
    assert!(far(256) * 256.0 < far(1), "O(1/n)");
    assert!(
        far(256) < 1e-4
            && kl(&objective::bon::law(&base, &toy.rewards, 256.0).expect("a law"), &tilted) > 0.1
    );
    // Limits at fixed n.
    let soft = |beta: f64| toy.law_of(&method(json!({ "soft-best-of-n": { "n": 3, "beta": beta } })));
    assert_law(
        "beta to 0",
        &soft(1e-6),
        &objective::bon::law(&base, &toy.rewards, 3.0).expect("a law"),
        TOLERANCE,
    );
    assert_law("beta to infinity", &soft(1e9), &base, TOLERANCE);
}

/// A score of a reward, a log-probability and a length.
type Score<'a> = &'a dyn Fn(f64, f64, f64) -> f64;

#[test]
fn rules_that_score_the_text_alone_are_best_of_n_by_that_score() {
    let toy = small();
    let base = toy.base.lm().law().expect("a law");
    let sequences = toy.sequences();
    let place = |i: usize| (toy.rewards[i], base[i].ln(), sequences[i].len() as f64);
    let cases: [(Value, Score<'_>); 3] = [
        (json!({ "worst-of-n": { "n": 3 } }), &|r, _, _| -r),
        (json!({ "rbon-kl": { "n": 3, "beta": 0.4 } }), &|r, log_p, _| r + 0.4 * log_p),
        (json!({ "rbon-l": { "n": 3, "beta": 2.0 } }), &|r, _, length| r - 2.0 / length),
    ];
    for (value, score) in cases {
        let scores: Vec<f64> = (0..base.len())
            .map(|i| {
                let (r, p, l) = place(i);
                score(r, p, l)
            })
            .collect();
        let want = objective::bon::law(&base, &scores, 3.0).expect("a law");
        assert_law(&value.to_string(), &toy.law_of(&method(value.clone())), &want, TOLERANCE);
    }
    // In the limit of a large weight, the likeliest sample.
    let likeliest = objective::bon::law(&base, &base, 3.0).expect("a law");
    let got = toy.law_of(&method(json!({ "rbon-kl": { "n": 3, "beta": 1e9 } })));
    assert_law("rbon-kl", &got, &likeliest, TOLERANCE);
}

#[test]
fn best_of_n_keeps_its_bounds() {
    let toy = small();
    let base = toy.base.lm().law().expect("a law");
    for n in 1..=4 {
        let law = toy.law_of(&method(json!({ "best-of-n": { "n": n } })));
        assert!(kl(&law, &base) <= objective::bon::kl_bound(f64::from(n)) + 1e-6);
        let won = win_rate(&base, &base, &toy.rewards).expect("laws");
        assert!((won - 0.5).abs() < 1e-12);
        let exact = objective::bon::law(&base, &toy.rewards, f64::from(n)).expect("a law");
        let won = win_rate(&exact, &base, &toy.rewards).expect("laws");
        assert!(won <= objective::bon::win_rate_bound(f64::from(n)) + 1e-12);
    }
}

#[test]
fn a_second_weighing_by_the_reference_leads_elsewhere() {
    // A pool with the frequencies of a law: what the rules near as samples are added.
    let (p, r, beta) = ([0.5, 0.3, 0.2], [0.0, 1.0, -2.0], 0.7);
    let texts: [&[u32]; 3] = [&[1, 2], &[0, 2], &[0, 0]];
    let places: Vec<usize> = [vec![0; 5], vec![1; 3], vec![2; 2]].concat();
    let pool = PoolView {
        size: 10,
        rewards: places.iter().map(|i| r[*i]).collect(),
        log_probs: places.iter().map(|i| f64::ln(p[*i])).collect(),
        tokens: places.iter().map(|i| texts[*i]).collect(),
        ..PoolView::default()
    };
    let law = |reference: &str| {
        let rule = method(json!({ "srbon-kl": { "beta": beta, "reference": reference } }));
        let given = rule.rule().expect("a rule").law(&pool).expect("a pool").probabilities;
        let mut law = [0.0; 3];
        places.iter().zip(given).for_each(|(place, q)| law[*place] += q);
        law
    };
    let tilted = tilt(&p, &r.map(|r| r / beta)).expect("a law").law;
    let squares: f64 = p.iter().map(|p| p * p).sum();
    let twice = tilt(&p.map(|p| p * p / squares), &r.map(|r| r / beta)).expect("a law").law;
    let inverted = tilt(&p.map(|p| p * p / squares), &r.map(|r| r * beta)).expect("a law").law;
    assert!(total_variation(&law("distinct"), &tilted) < 1e-12);
    assert!(total_variation(&law("samples"), &tilted) < 1e-12);
    assert!(total_variation(&law("probabilities"), &twice) < 1e-12);
    assert!(total_variation(&twice, &tilted) > 0.05, "the two targets are not one");
    assert!(total_variation(&law("probabilities"), &inverted) > 0.05, "beta multiplied is another law");
}

// --- What must hold of any pool.

/// A pool of `size` random samples, some of them copies.
struct Random {
    rewards: Vec<f64>,
    texts: Vec<Vec<u32>>,
    log_probs: Vec<f64>,
    answers: Vec<String>,
}

impl Random {
    fn new(size: usize, seed: u64) -> Self {
        let mut stream = Stream::new(seed, Purpose::Bootstrap, 0, 0);
        let mut pick = |n: usize| (stream.uniform() * n as f64) as usize;
        let texts: Vec<Vec<u32>> =
            (0..size).map(|_| (0..=pick(4)).map(|_| pick(3) as u32).collect()).collect();
        let mut known: BTreeMap<Vec<u32>, (f64, f64)> = BTreeMap::new();
        let mut stream = Stream::new(seed, Purpose::Bootstrap, 1, 0);
        let of = texts.iter().map(|ids| {
            let fresh = || (stream.normal(), -1.0 - 5.0 * stream.uniform());
            *known.entry(ids.clone()).or_insert_with(fresh)
        });
        let (rewards, log_probs) = of.unzip();
        let answers = texts.iter().map(|ids| ids[0].to_string()).collect();
        Self { rewards, texts, log_probs, answers }
    }

    fn view(&self) -> PoolView<'_> {
        PoolView {
            size: self.rewards.len(),
            rewards: self.rewards.clone(),
            answers: self.answers.iter().map(String::as_str).collect(),
            log_probs: self.log_probs.clone(),
            tokens: self.texts.iter().map(Vec::as_slice).collect(),
            similarities: None,
        }
    }
}

/// The law of a rule on a view, with the similarities that it names.
fn law(value: &Value, view: &PoolView<'_>) -> Vec<f64> {
    let chosen = method(value.clone());
    let rule = chosen.rule().expect("a rule");
    let mut view = view.clone();
    if let Some(table) = rule.similarity() {
        view.similarities = Some(table.of(&view.tokens, &view.answers, &[]).expect("aligned"));
    }
    let PoolLaw { probabilities, .. } = rule.law(&view).expect("a pool");
    assert!((probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-12, "{value}: {probabilities:?}");
    probabilities
}

/// The probability of each text.
fn by_text(law: &[f64], view: &PoolView<'_>) -> BTreeMap<Vec<u32>, f64> {
    let mut texts: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
    for (ids, p) in view.tokens.iter().zip(law) {
        *texts.entry(ids.to_vec()).or_default() += p;
    }
    texts
}

#[test]
fn the_order_of_samples_changes_no_text() {
    for seed in 0..40 {
        let random = Random::new(7, seed);
        let view = random.view();
        let turned = view.select(&[3, 0, 6, 2, 5, 1, 4]);
        for (value, _) in rules(7) {
            let fresh = value.get("pessimism").is_some_and(|table| table.get("reuse").is_none());
            // Ties between texts go to the first: similarities of few values tie often.
            let ties = value.get("mbr").is_some();
            if fresh || ties {
                continue;
            }
            let (a, b) = (by_text(&law(&value, &view), &view), by_text(&law(&value, &turned), &turned));
            for (ids, p) in &a {
                assert!((p - b[ids]).abs() < 1e-12, "seed {seed}, {value}, {ids:?}: {p} against {}", b[ids]);
            }
        }
    }
}

#[test]
fn one_sample_is_that_sample() {
    let random = Random::new(1, 5);
    for (value, _) in rules(1) {
        assert_eq!(law(&value, &random.view()), [1.0], "{value}");
    }
    let toy = toys().remove(0);
    let prompts: Vec<Prompt> = (0..8).map(|index| Prompt::from_ids(index, vec![2])).collect();
    let ids = |value: Value| -> Vec<Vec<u32>> {
        let given = toy.answers(&method(value), &prompts, &mut Chance::Streams);
        given.into_iter().map(|answer| answer.ids).collect()
    };
    let sample = ids(json!({ "sample": {} }));
    for (value, _) in rules(1) {
        assert_eq!(ids(value.clone()), sample, "{value}");
    }
}

#[test]
fn mbr_bon_lies_between_best_of_n_and_mbr() {
    for seed in 0..40 {
        let random = Random::new(6, seed);
        let view = random.view();
        for similarity in ["rouge-1", "exact", "answer"] {
            let between =
                |beta: f64| law(&json!({ "mbr-bon": { "beta": beta, "similarity": similarity } }), &view);
            assert_eq!(between(0.0), law(&json!({ "best-of-n": {} }), &view), "seed {seed}");
            // So large that rewards vanish in the sum: ties are ties of the similarity.
            let mbr = law(&json!({ "mbr": { "similarity": similarity } }), &view);
            assert_eq!(between(1e30), mbr, "seed {seed}, {similarity}");
        }
    }
}

#[test]
fn votes_are_mbr_by_the_answer() {
    for seed in 0..60 {
        let mut random = Random::new(9, seed);
        let mbr = law(&json!({ "mbr": { "similarity": "answer" } }), &random.view());
        assert_eq!(law(&json!({ "majority": {} }), &random.view()), mbr, "seed {seed}");
        random.rewards = vec![0.7; 9];
        assert_eq!(law(&json!({ "weighted-majority": { "beta": 0.1 } }), &random.view()), mbr, "seed {seed}");
    }
}

#[test]
fn best_is_worst_of_the_negated_and_the_mean_lies_between() {
    let stream = Stream::new(0, Purpose::Bootstrap, 0, 0);
    for seed in 0..40 {
        let random = Random::new(8, seed);
        let view = random.view();
        let turned = PoolView { rewards: view.rewards.iter().map(|r| -r).collect(), ..view.clone() };
        let (best, worst) = (json!({ "best-of-n": {} }), json!({ "worst-of-n": {} }));
        assert_eq!(law(&best, &view), law(&worst, &turned));
        let (best, worst) = (method(best), method(worst));
        let (best, worst) = (best.rule().expect("a rule"), worst.rule().expect("a rule"));
        let mean = |weights: &[f64]| weights.iter().zip(&view.rewards).map(|(w, r)| w * r).sum::<f64>();
        let middle = view.rewards.iter().sum::<f64>() / 8.0;
        for n in 1..=8 {
            let up = best.weights(&view, n, 1, stream).expect("n");
            assert_eq!(up, worst.weights(&turned, n, 1, stream).expect("n"));
            assert_eq!(best.kl(&view, n), worst.kl(&turned, n));
            let down = worst.weights(&view, n, 1, stream).expect("n");
            assert!(mean(&up) >= middle - 1e-12 && middle >= mean(&down) - 1e-12, "seed {seed}, n = {n}");
        }
    }
}

#[test]
fn limits_of_the_stochastic_rules() {
    for seed in 0..30 {
        let random = Random::new(6, seed);
        let view = random.view();
        let best = by_text(&law(&json!({ "best-of-n": {} }), &view), &view);
        let same = |value: &Value, want: &BTreeMap<Vec<u32>, f64>| {
            for (ids, p) in by_text(&law(value, &view), &view) {
                assert!((p - want[&ids]).abs() < 1e-6, "seed {seed}, {value}, {ids:?}: {p}");
            }
        };
        same(&json!({ "srbon-wd": { "beta": 0.0 } }), &best);
        same(&json!({ "pessimism": { "beta": 1e-9, "reuse": true } }), &best);
        let equal = by_text(&[1.0 / 6.0; 6], &view);
        same(&json!({ "pessimism": { "beta": 1e9, "reuse": true } }), &equal);
        for reference in ["samples", "probabilities", "distinct"] {
            same(&json!({ "srbon-kl": { "beta": 1e-9, "reference": reference } }), &best);
            let copies = |i: usize| view.tokens.iter().filter(|ids| **ids == view.tokens[i]).count() as f64;
            let weight = |i: usize| match reference {
                "samples" => 1.0,
                "probabilities" => view.log_probs[i].exp(),
                _ => view.log_probs[i].exp() / copies(i),
            };
            let total: f64 = (0..6).map(weight).sum();
            let far = by_text(&(0..6).map(|i| weight(i) / total).collect::<Vec<_>>(), &view);
            same(&json!({ "srbon-kl": { "beta": 1e9, "reference": reference } }), &far);
            // By exact match no two different texts are one.
            same(
                &json!({ "srbon-wd": { "beta": 1e9, "reference": reference, "similarity": "exact" } }),
                &far,
            );
        }
    }
}

#[test]
fn normalised_rewards_make_beta_independent_of_their_scale() {
    for seed in 0..20 {
        let random = Random::new(6, seed);
        let view = random.view();
        let moved =
            PoolView { rewards: view.rewards.iter().map(|r| 250.0 * r - 40.0).collect(), ..view.clone() };
        for name in ["soft-best-of-n", "mbr-bon", "rbon-kl", "rbon-l", "srbon-kl", "srbon-wd", "pessimism"] {
            let value = json!({ name: { "normalise": true } });
            for (a, b) in law(&value, &view).iter().zip(law(&value, &moved)) {
                assert!((a - b).abs() < 1e-9, "seed {seed}, {name}");
            }
        }
        let soft = json!({ "soft-best-of-n": {} });
        assert!(total_variation(&law(&soft, &view), &law(&soft, &moved)) > 0.0);
    }
}

// --- SRBoN-WD against transport problems solved by their vertices.

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
