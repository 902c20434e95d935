//! Closed forms, limits and invariances.

use super::*;
use crate::laws::rules;

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
    // Which needs no reward, and is the control of `rbon-kl`.
    let control = method(json!({ "likeliest-of-n": { "n": 3 } }));
    assert!(control.needs().is_empty());
    assert_law("likeliest-of-n", &toy.law_of(&control), &likeliest, TOLERANCE);
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
pub(crate) struct Random {
    rewards: Vec<f64>,
    texts: Vec<Vec<u32>>,
    log_probs: Vec<f64>,
    answers: Vec<String>,
}

impl Random {
    pub(crate) fn new(size: usize, seed: u64) -> Self {
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

    pub(crate) fn view(&self) -> PoolView<'_> {
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
pub(crate) fn law(value: &Value, view: &PoolView<'_>) -> Vec<f64> {
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
