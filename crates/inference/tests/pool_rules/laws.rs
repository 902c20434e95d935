//! Every rule against the enumeration of all tuples.

use super::*;

/// What a tuple shows of its samples.
pub(crate) struct Tuple<'a> {
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

pub(crate) type Rule = (Value, Box<dyn Fn(&Tuple<'_>) -> Vec<f64>>);

/// Every rule with settings of all kinds.
pub(crate) fn rules(n: usize) -> Vec<Rule> {
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
    all.push((json!({ "likeliest-of-n": { "n": n } }), Box::new(|t| t.first_best(|i| t.log_p[i]))));
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
