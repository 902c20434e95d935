//! The laws of products of next-token distributions, exactly, through the shipped methods; and the rules of public code that
//! miss them.

mod common;

use std::collections::BTreeMap;

use common::{Toy, assert_law, method, small, stream, toys};
use generate::schedule::{Answer, Services, run};
use generate::tabular::Tabular;
use generate::{Chance, Error, Logits, Prompt, RowId, Sampling, Score, Session, Step, TokenId};
use inference::methods::genarm_smc::SmcTrace;
use inference::{Method, MethodConfig, Parts};
use objective::draw::{Draw, Exhaustive};
use objective::law::{kl, tilt, total_variation};
use objective::numeric::{log_softmax, log_sum_exp, softmax};

use objective::tabular::{Space, Symbol, TabularLm, sequence_optimum};
use serde_json::json;

/// Logits are `f32`.
const TOLERANCE: f64 = 2e-6;

fn replay(
    toy: &Toy,
    method: &dyn Method,
    parts: &Parts<'_>,
    sampling: &Sampling,
    draw: &mut dyn Draw,
) -> Answer {
    let mut engine = method.engine(parts, sampling.clone()).expect("an engine");
    let machine = method.machine(&toy.tools()).expect("a machine");
    let mut services = Services::new(&mut engine);
    let chance = &mut Chance::Replay(draw);
    run(&*machine, &[toy.base.prompt()], &[stream(0)], &mut services, chance, &mut |_| true)
        .expect("the toy fits")
        .expect("nothing stops it")
        .remove(0)
}

fn law(toy: &Toy, method: &dyn Method, parts: &Parts<'_>, sampling: &Sampling) -> Vec<f64> {
    toy.align(Exhaustive::law(|draw| replay(toy, method, parts, sampling, draw).ids).expect("finite"))
}

fn raw_law(toy: &Toy, method: &dyn Method, parts: &Parts<'_>) -> Vec<f64> {
    law(toy, method, parts, &Sampling::default())
}

/// The law of sequences whose next symbols follow `softmax(step(prefix))`: a slow and obvious second version.
fn naive(toy: &Toy, step: impl Fn(&[Symbol]) -> Vec<f64>) -> Vec<f64> {
    let one = |ids: &Vec<TokenId>| -> f64 {
        let ids: Vec<Symbol> = ids.iter().map(|id| *id as Symbol).collect();
        (0..ids.len()).map(|t| softmax(&step(&ids[..t]))[ids[t] as usize]).product()
    };
    toy.sequences().iter().map(one).collect()
}

fn next(policy: &Tabular, prefix: &[Symbol]) -> Vec<f64> {
    policy.lm().next(prefix).expect("a row").to_vec()
}

fn with_arms<'a>(toy: &'a Toy, arms: &[&'a dyn Step]) -> Parts<'a> {
    Parts { arms: arms.iter().map(|arm| ("arm", *arm)).collect(), ..Parts::new(&toy.base) }
}

fn with_models<'a>(toy: &'a Toy, models: &[(&'a str, &'a dyn Step)]) -> Parts<'a> {
    Parts { models: models.to_vec(), ..Parts::new(&toy.base) }
}

/// A policy whose logits carry a constant, another one for each length, and columns that no token uses.
struct Altered<'a> {
    inner: &'a Tabular,
    shift: f32,
    padding: usize,
}

impl Score for Altered<'_> {
    fn score(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error> {
        self.inner.score(items)
    }
}

impl Step for Altered<'_> {
    fn name(&self) -> &'static str {
        "altered"
    }
    fn width(&self) -> usize {
        self.inner.width() + self.padding
    }
    fn context(&self) -> usize {
        self.inner.context()
    }
    fn eos(&self) -> &[TokenId] {
        self.inner.eos()
    }
    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(AlteredSession { of: self, inner: self.inner.session() })
    }
}

struct AlteredSession<'a> {
    of: &'a Altered<'a>,
    inner: Box<dyn Session + 'a>,
}

impl Session for AlteredSession<'_> {
    fn open(&mut self) -> RowId {
        self.inner.open()
    }
    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        self.inner.fork(row, len)
    }
    fn truncate(&mut self, row: RowId, len: usize) {
        self.inner.truncate(row, len);
    }
    fn close(&mut self, row: RowId) {
        self.inner.close(row);
    }
    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        let given = self.inner.extend(rows)?;
        let mut values = Vec::new();
        for (row, (_, tokens)) in rows.iter().enumerate() {
            let shift = self.of.shift * (1 + tokens.last().copied().unwrap_or(0)) as f32;
            values.extend(given.row(row).iter().map(|logit| logit + shift));
            values.extend(std::iter::repeat_n(9.0, self.of.padding));
        }
        Ok(Logits { width: self.of.width(), values })
    }
}

#[test]
fn genarm_follows_the_product_step_by_step() {
    for toy in toys() {
        let got = toy.law_of(&method(json!({ "genarm": { "alpha": [toy.alpha] } })));
        assert_law(&toy.name, &got, &toy.law("genarm_tokenwise"), TOLERANCE);
        let kl = Exhaustive::mean(|draw| {
            vec![toy.replay(&method(json!({ "genarm": { "alpha": [toy.alpha] } })), draw).kl.expect("known")]
        });
        let want = toy.case["summary"]["genarm_tokenwise"]["kl_to_base"].as_f64().expect("a number");
        assert!((kl.expect("finite")[0] - want).abs() < 1e-5);
    }
}

#[test]
fn hundred_thousand_draws_of_genarm_have_its_law() {
    let toy = toys().remove(0);
    let prompts: Vec<Prompt> = (0..100_000).map(|index| Prompt::from_ids(index, vec![2])).collect();
    let given =
        toy.answers(&method(json!({ "genarm": { "alpha": [toy.alpha] } })), &prompts, &mut Chance::Streams);
    let mut counts: BTreeMap<Vec<TokenId>, f64> = BTreeMap::new();
    for answer in given {
        *counts.entry(answer.ids).or_default() += 1.0;
    }
    let chi_square = |law: &[f64]| -> f64 {
        let terms = toy.sequences().into_iter().zip(law).map(|(ids, p)| {
            let expected = p * 1e5;
            (counts.get(&ids).copied().unwrap_or(0.0) - expected).powi(2) / expected
        });
        terms.sum()
    };
    // The 0.999 quantile of χ² with 30 degrees of freedom is 59.7.
    let own = chi_square(&toy.law("genarm_tokenwise"));
    assert!(own < 59.7, "χ² = {own}");
    assert!(chi_square(&toy.law("genarm_sequence")) > 200.0, "the sequence-level optimum is another law");
}

#[test]
fn an_untrained_model_sharpens_the_base() {
    let toy = toys().remove(0);
    let guided = method(json!({ "genarm": { "alpha": [0.5, 0.25] } }));
    let parts = with_arms(&toy, &[&toy.base, &toy.base]);
    let control = guided.control(&[None, None], 2, 1.4).expect("it sharpens");
    assert_eq!(control, 1.4 / 1.75);
    let at = |temperature: f64| Sampling { temperature: temperature as f32, ..Sampling::default() };
    let sample = method(json!({ "sample": {} }));
    let want = law(&toy, &sample, &Parts::new(&toy.base), &at(control));
    assert_law("control", &law(&toy, &guided, &parts, &at(1.4)), &want, TOLERANCE);
    for neutral in [json!({ "eft": {} }), json!({ "genarm": { "alpha": [0.0] } }), json!({ "sample": {} })] {
        assert_eq!(method(neutral).control(&[None], 1, 1.0), None);
    }
}

#[test]
fn splitting_permuting_and_constants_change_nothing() {
    for toy in toys() {
        let other =
            Tabular::new(TabularLm::from_law(*toy.base.lm().space(), &toy.law("tilted")).expect("a law"));
        let genarm = |alpha: &[f64]| method(json!({ "genarm": { "alpha": alpha } }));
        let of = |alpha: &[f64], arms: &[&dyn Step]| raw_law(&toy, &genarm(alpha), &with_arms(&toy, arms));
        let whole = of(&[0.8, 0.3], &[&toy.arm, &other]);
        assert_law(
            "naive",
            &whole,
            &naive(&toy, |prefix| {
                let (base, a, b) = (next(&toy.base, prefix), next(&toy.arm, prefix), next(&other, prefix));
                (0..base.len()).map(|v| base[v] + 0.8 * a[v] + 0.3 * b[v]).collect()
            }),
            TOLERANCE,
        );
        assert_law("permuted", &of(&[0.3, 0.8], &[&other, &toy.arm]), &whole, TOLERANCE);
        assert_law("split", &of(&[0.4, 0.3, 0.4], &[&toy.arm, &other, &toy.arm]), &whole, TOLERANCE);
        assert_law("without weight", &of(&[0.8, 0.0, 0.3], &[&toy.arm, &toy.arm, &other]), &whole, TOLERANCE);
        let altered = Altered { inner: &toy.arm, shift: 3.3, padding: 0 };
        assert_law("constants", &of(&[0.8, 0.3], &[&altered, &other]), &whole, 1e-5);
        let padded = Altered { inner: &toy.arm, shift: 0.0, padding: 5 };
        let known = Parts { tokens: Some(3), ..with_arms(&toy, &[&padded, &other]) };
        assert_law("padding", &raw_law(&toy, &genarm(&[0.8, 0.3]), &known), &whole, TOLERANCE);
        let refusal = |parts: &Parts<'_>| {
            genarm(&[0.8, 0.3]).engine(parts, Sampling::default()).err().expect("refused").to_string()
        };
        let unknown = refusal(&with_arms(&toy, &[&padded, &other]));
        assert!(unknown.contains("altered has a vocabulary of 8 and tabular of 3"), "{unknown}");
        let narrow = refusal(&Parts { tokens: Some(4), ..with_arms(&toy, &[&padded, &other]) });
        assert!(narrow.contains("tabular gives 3 outputs, and the tokenizer has 4 tokens"), "{narrow}");
    }
}

#[test]
fn limits_of_the_weight_and_of_the_temperature() {
    for toy in toys() {
        let walk = |score: &dyn Fn(&[Symbol]) -> Vec<f64>| -> Vec<f64> {
            naive(&toy, |prefix| score(prefix).iter().map(|x| x * 1e6).collect())
        };
        let none = toy.law_of(&method(json!({ "genarm": { "alpha": [0.0] } })));
        assert_eq!(none, toy.law_of(&method(json!({ "sample": {} }))), "no weight is the base, bit for bit");
        let far = toy.law_of(&method(json!({ "genarm": { "alpha": [1e4] } })));
        assert_law("the arm's likeliest", &far, &walk(&|prefix| next(&toy.arm, prefix)), TOLERANCE);
        let sum = |prefix: &[Symbol]| -> Vec<f64> {
            next(&toy.base, prefix).iter().zip(next(&toy.arm, prefix)).map(|(b, a)| b + 0.7 * a).collect()
        };
        let genarm = method(json!({ "genarm": { "alpha": [0.7] } }));
        let parts = with_arms(&toy, &[&toy.arm]);
        let greedy = law(&toy, &genarm, &parts, &Sampling::greedy());
        assert_law("the likeliest of the sum", &greedy, &walk(&sum), TOLERANCE);
    }
}

#[test]
fn what_an_arm_can_express_is_not_what_preferences_teach_it() {
    for toy in toys() {
        let (space, base) = (*toy.base.lm().space(), toy.base.lm().law().expect("a law"));
        let (alpha, beta_r) = (0.8, 0.5);
        let scaled: Vec<f64> = toy.rewards.iter().map(|r| alpha * r / beta_r).collect();
        let target = tilt(&base, &scaled).expect("a law").law;
        let genarm = method(json!({ "genarm": { "alpha": [alpha] } }));
        // Some ARM gives the tilted policy token by token: (q / base)^(1/α) of its conditionals.
        let q = TabularLm::from_law(space, &target).expect("a law");
        let rows = toy.base.lm().rows().map(|(prefix, base)| {
            let q = q.next(prefix).expect("a row");
            let ratio: Vec<f64> = q.iter().zip(base).map(|(q, b)| (q - b) / alpha).collect();
            (prefix.to_vec(), softmax(&ratio))
        });
        let able = Tabular::new(TabularLm::new(space, rows.collect()).expect("laws"));
        let got = raw_law(&toy, &genarm, &with_arms(&toy, &[&able]));
        assert_law("expressible", &got, &target, TOLERANCE);
        // Preferences teach exp(r / β_r) over strings: its weighted particles have the target, its tokens do not.
        let learned = |shift: f64| {
            let exponents: Vec<f64> = toy.rewards.iter().map(|r| (r + shift) / beta_r).collect();
            Tabular::new(TabularLm::from_law(space, &softmax(&exponents)).expect("a law"))
        };
        let (taught, shifted) = (learned(0.0), learned(3.0));
        let tokenwise = raw_law(&toy, &genarm, &with_arms(&toy, &[&taught]));
        let gap = kl(&tokenwise, &target);
        assert!(gap > 1e-3, "{}: {gap}", toy.name);
        assert_law(
            "r and r + c",
            &raw_law(&toy, &genarm, &with_arms(&toy, &[&shifted])),
            &tokenwise,
            TOLERANCE,
        );
        let optimum = sequence_optimum(toy.base.lm(), &[(taught.lm(), alpha)]).expect("a law").law;
        assert_law("sequence optimum", &optimum, &target, 1e-12);
    }
}

#[test]
fn a_small_pair_guides_a_strong_base_to_the_strong_aligned_model() {
    for toy in toys() {
        let aligned = TabularLm::from_law(*toy.base.lm().space(), &toy.law("tilted")).expect("a law");
        let rows = toy.base.lm().rows().map(|(prefix, base)| {
            let ratio: Vec<f64> =
                aligned.next(prefix).expect("a row").iter().zip(base).map(|(a, b)| a - b).collect();
            (prefix.to_vec(), softmax(&ratio))
        });
        let ratio = Tabular::new(TabularLm::new(*toy.base.lm().space(), rows.collect()).expect("laws"));
        let genarm = method(json!({ "genarm": { "alpha": [1.0] } }));
        let got = raw_law(&toy, &genarm, &with_arms(&toy, &[&ratio]));
        assert_law(&toy.name, &got, &toy.law("tilted"), TOLERANCE);
    }
}

/// Log-probabilities of the tokens that `filter` keeps, renormalised; others are impossible.
fn filtered(logs: &[f64], filter: &Sampling) -> Vec<f64> {
    let mut weights: Vec<f32> = logs.iter().map(|log| *log as f32).collect();
    filter.weights(&mut weights, &mut Vec::new());
    let kept = logs.iter().zip(&weights).map(|(log, w)| if *w > 0.0 { *log } else { f64::NEG_INFINITY });
    log_softmax(&kept.collect::<Vec<_>>())
}

#[test]
fn filters_before_and_after_are_two_methods() {
    let filter = Sampling { top_p: 0.6, temperature: 0.8, ..Sampling::default() };
    let tempered = |logs: Vec<f64>| -> Vec<f64> { logs.iter().map(|log| log / 0.8).collect() };
    let mut differ = 0;
    for toy in toys() {
        let sum = |base: &[f64], prefix: &[Symbol], alpha: f64| -> Vec<f64> {
            let add = |(b, a): (&f64, f64)| if *b == f64::NEG_INFINITY { *b } else { b + alpha * a };
            base.iter().zip(next(&toy.arm, prefix)).map(add).collect()
        };
        let parts = with_arms(&toy, &[&toy.arm]);
        let of = |value| law(&toy, &method(value), &parts, &filter);
        for alpha in [1.3, -0.4] {
            let before = of(json!({ "genarm": { "alpha": [alpha], "filter": "before" } }));
            let want = naive(&toy, |prefix| {
                tempered(sum(&filtered(&next(&toy.base, prefix), &filter), prefix, alpha))
            });
            assert_law("before", &before, &want, TOLERANCE);
            if alpha > 0.0 {
                let after = of(json!({ "genarm": { "alpha": [alpha] } }));
                let want = naive(&toy, |prefix| {
                    tempered(filtered(&sum(&next(&toy.base, prefix), prefix, alpha), &filter))
                });
                assert_law("after", &after, &want, TOLERANCE);
                differ += usize::from(total_variation(&before, &after) > 0.01);
            }
        }
        let none = of(json!({ "genarm": { "alpha": [0.0], "filter": "before" } }));
        assert_law("no weight", &none, &of(json!({ "sample": {} })), TOLERANCE);
    }
    assert!(differ > 0);
}

#[test]
fn weights_in_units_of_the_reward() {
    let toy = toys().remove(0);
    let parts = |beta_r: &[Option<f64>]| Parts { beta_r: beta_r.to_vec(), ..with_arms(&toy, &[&toy.arm]) };
    let want = raw_law(&toy, &method(json!({ "genarm": { "alpha": [0.75] } })), &parts(&[]));
    let strength = method(json!({ "genarm": { "strength": [3.0] } }));
    assert_eq!(raw_law(&toy, &strength, &parts(&[Some(0.25)])), want, "from the checkpoint");
    let given = method(json!({ "genarm": { "strength": [1.5], "beta_r": [0.5] } }));
    assert_eq!(raw_law(&toy, &given, &parts(&[Some(9.0)])), want, "what is given comes first");
    assert_eq!(strength.control(&[Some(0.25)], 1, 1.0), Some(1.0 / 1.75));
    let refusal = strength.engine(&parts(&[None]), Sampling::default()).err().expect("refused").to_string();
    assert!(
        refusal.contains("β_r of model 1 is not known") && refusal.contains("give `beta_r`"),
        "{refusal}"
    );
    assert!(strength.suits(&Sampling::default(), &[None]).is_err());
    assert!(strength.suits(&Sampling::default(), &[]).is_ok(), "not known yet");
}

#[test]
fn eft_adds_what_tuning_did() {
    for toy in toys() {
        let other =
            Tabular::new(TabularLm::from_law(*toy.base.lm().space(), &toy.law("tilted")).expect("a law"));
        for alpha in [0.6, 1.0, 2.0] {
            let eft = method(json!({ "eft": { "alpha": alpha } }));
            let of = |tuned: &dyn Step, untuned: &dyn Step| {
                raw_law(&toy, &eft, &with_models(&toy, &[("tuned", tuned), ("untuned", untuned)]))
            };
            let want = naive(&toy, |prefix| {
                let (b, t, u) = (next(&toy.base, prefix), next(&other, prefix), next(&toy.arm, prefix));
                (0..b.len()).map(|v| b[v] + alpha * (t[v] - u[v])).collect()
            });
            assert_law("eft", &of(&other, &toy.arm), &want, TOLERANCE);
            // Proxy-tuning adds raw logits: constants cancel.
            let raw = Altered { inner: &other, shift: 2.7, padding: 0 };
            assert_law("proxy-tuning", &of(&raw, &toy.arm), &want, 1e-5);
            let sample = toy.law_of(&method(json!({ "sample": {} })));
            assert_eq!(of(&other, &other), sample, "an untrained pair is the base, bit for bit");
        }
    }
}

#[test]
fn contrastive_moves_away_among_plausible_tokens() {
    for toy in toys() {
        let of = |lambda: f64, plausibility: f64, amateur: &dyn Step| {
            let contrastive =
                method(json!({ "contrastive": { "lambda": lambda, "plausibility": plausibility } }));
            raw_law(&toy, &contrastive, &with_models(&toy, &[("amateur", amateur)]))
        };
        let masked = |share: f64, lambda: f64| {
            naive(&toy, |prefix| {
                let (expert, amateur) = (next(&toy.base, prefix), next(&toy.arm, prefix));
                let most = expert.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let one = |v: usize| {
                    let plausible = expert[v] >= most + share.ln();
                    let score = (1.0 + lambda) * expert[v] - lambda * amateur[v];
                    if plausible { score } else { f64::NEG_INFINITY }
                };
                (0..expert.len()).map(one).collect()
            })
        };
        for (lambda, share) in [(0.5, 0.1), (2.0, 0.4), (0.5, 0.9), (1.0, 1e-6)] {
            assert_law("contrastive", &of(lambda, share, &toy.arm), &masked(share, lambda), TOLERANCE);
        }
        assert_eq!(of(3.0, 0.4, &toy.base), of(0.0, 0.4, &toy.arm), "an equal amateur, bit for bit");
        assert!(total_variation(&masked(0.9, 0.5), &masked(1e-6, 0.5)) > 0.01, "the mask has a part");
    }
}

#[test]
fn mod_under_the_reverse_kl_is_the_geometric_mean() {
    for toy in toys() {
        let second =
            Tabular::new(TabularLm::from_law(*toy.base.lm().space(), &toy.law("tilted")).expect("a law"));
        let of = |value| {
            let models: [(&str, &dyn Step); 2] = [("a", &toy.arm), ("b", &second)];
            raw_law(&toy, &method(json!({ "mod": value })), &with_models(&toy, &models))
        };
        let want = |reference: f64, a: f64, b: f64| {
            naive(&toy, |prefix| {
                let laws = [next(&toy.base, prefix), next(&toy.arm, prefix), next(&second, prefix)];
                (0..3).map(|v| reference * laws[0][v] + a * laws[1][v] + b * laws[2][v]).collect()
            })
        };
        let weights = |a: f64, b: f64| json!({ "weights": { "a": a, "b": b } });
        assert_law("shares", &of(weights(0.3, 0.7)), &want(0.0, 0.3, 0.7), TOLERANCE);
        assert_law("equal shares", &of(json!({})), &want(0.0, 0.5, 0.5), TOLERANCE);
        assert_law("the rest", &of(weights(0.3, 0.2)), &want(0.5, 0.3, 0.2), TOLERANCE);
        for divergence in ["reverse-kl", "forward-kl"] {
            let one_hot = json!({ "weights": { "a": 0.0, "b": 1.0 }, "divergence": divergence });
            assert_law("one-hot", &of(one_hot), &toy.law("tilted"), TOLERANCE);
        }
        let near =
            |alpha: f64| json!({ "weights": { "a": 0.3, "b": 0.7 }, "divergence": "alpha", "alpha": alpha });
        let limit = want(0.0, 0.3, 0.7);
        let off = |alpha: f64| total_variation(&of(near(alpha)), &limit);
        assert!(off(1e-4) < 1e-4 && off(0.9) > 10.0 * off(0.01), "{} and {}", off(1e-4), off(0.01));
        let forward = of(json!({ "weights": { "a": 0.3, "b": 0.7 }, "divergence": "forward-kl" }));
        assert_law("α = 1", &of(near(1.0)), &forward, TOLERANCE);
    }
}

/// Texts of one token: the law of a step is that of a text, and every optimum can be written down.
fn one_step(law: &[f64]) -> Tabular {
    let space = Space::new(law.len() as Symbol, 0, 1).expect("a space");
    Tabular::new(TabularLm::new(space, BTreeMap::from([(Vec::new(), law.to_vec())])).expect("a law"))
}

/// The optimum of `Σ p r − D(p)` with `∇f(x) = 1 − 1/x` (forward KL), by bisection on the multiplier.
fn forward_optimum(reference: &[f64], rewards: &[f64]) -> Vec<f64> {
    let law = |lambda: f64| -> Vec<f64> {
        rewards.iter().zip(reference).map(|(r, q)| q / (1.0 - r + lambda)).collect()
    };
    let most = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut low, mut high) = (most - 1.0 + 1e-12, most + 9.0);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if law(middle).iter().sum::<f64>() > 1.0 { low = middle } else { high = middle }
    }
    law(high)
}

#[test]
fn mod_reaches_the_enumerated_optimum_and_the_mean_does_not() {
    let reference = [0.34, 0.26, 0.2, 0.15, 0.05];
    let rewards = [[0.3, -0.5, 1.4, 0.0, -1.1], [-0.6, 1.2, 0.2, -0.3, 0.9]];
    let mixed: Vec<f64> = (0..5).map(|v| 0.4 * rewards[0][v] + 0.6 * rewards[1][v]).collect();
    let toy = Toy { base: one_step(&reference), arm: one_step(&reference), ..small() };
    let of = |policies: &[Tabular; 2], value| {
        let models: [(&str, &dyn Step); 2] = [("a", &policies[0]), ("b", &policies[1])];
        raw_law(&toy, &method(json!({ "mod": value })), &with_models(&toy, &models))
    };
    let weights = json!({ "a": 0.4, "b": 0.6 });

    let aligned = rewards.map(|r| one_step(&tilt(&reference, &r).expect("a law").law));
    let got = of(&aligned, json!({ "weights": weights }));
    assert_law("reverse KL", &got, &tilt(&reference, &mixed).expect("a law").law, TOLERANCE);

    let aligned = rewards.map(|r| one_step(&forward_optimum(&reference, &r)));
    let want = forward_optimum(&reference, &mixed);
    let forward =
        |solution: &str| json!({ "weights": weights, "divergence": "forward-kl", "solution": solution });
    let exact = of(&aligned, forward("exact"));
    assert_law("forward KL", &exact, &want, TOLERANCE);
    let mean = of(&aligned, forward("mean"));
    assert!(total_variation(&mean, &want) > 5e-3, "{mean:?} against {want:?}");
    let harmonic = naive(&toy, |_| {
        let laws = aligned.each_ref().map(|policy| next(policy, &[]));
        (0..5).map(|v| -(0.4 / laws[0][v].exp() + 0.6 / laws[1][v].exp()).ln()).collect()
    });
    assert_law("the mean by its own name", &mean, &harmonic, TOLERANCE);

    // Half of the weight is a policy that was aligned to nothing: half of the rewards.
    let half: Vec<f64> = rewards[0].iter().map(|r| 0.5 * r).collect();
    let models: [(&str, &dyn Step); 1] = [("a", &aligned[0])];
    let rest = method(json!({ "mod": { "weights": { "a": 0.5 }, "divergence": "forward-kl" } }));
    let got = raw_law(&toy, &rest, &with_models(&toy, &models));
    assert_law("the rest is the reference's", &got, &forward_optimum(&reference, &half), TOLERANCE);
}

#[test]
fn constants_change_the_rule_of_the_public_code_and_not_ours() {
    for toy in toys() {
        let second =
            Tabular::new(TabularLm::from_law(*toy.base.lm().space(), &toy.law("tilted")).expect("a law"));
        let altered = Altered { inner: &toy.arm, shift: 1.5, padding: 0 };
        for (divergence, alpha) in [("forward-kl", None), ("alpha", Some(0.5))] {
            for solution in ["exact", "mean"] {
                let config = method(json!({ "mod": {
                    "weights": { "a": 0.5, "b": 0.5 }, "divergence": divergence, "alpha": alpha, "solution": solution
                } }));
                let of = |first: &dyn Step| {
                    raw_law(&toy, &config, &with_models(&toy, &[("a", first), ("b", &second)]))
                };
                assert_law("constants", &of(&altered), &of(&toy.arm), 1e-5);
            }
        }
        // The public code's greedy rule: −ln Σ w exp(−logits), of logits as they are.
        let public = |shift: f64| {
            let laws = [next(&toy.arm, &[]), next(&second, &[])];
            let one = |v: usize| -log_sum_exp(&[-(laws[0][v] + shift), -laws[1][v]]);
            softmax(&(0..3).map(one).collect::<Vec<_>>())
        };
        assert!(
            total_variation(&public(0.0), &public(1.5)) > 1e-3,
            "{}: the constant changes its law",
            toy.name
        );
    }
}

/// A policy of seven sequences and an arm that is far from it.
fn small_pair() -> Toy {
    let rows =
        [(vec![], vec![0.2, 0.5, 0.3]), (vec![0], vec![0.7, 0.1, 0.2]), (vec![1], vec![0.05, 0.15, 0.8])];
    let space = Space::new(3, 2, 2).expect("a space");
    let arm = Tabular::new(TabularLm::new(space, BTreeMap::from(rows)).expect("a law"));
    Toy { arm, ..small() }
}

/// Four sequences of up to three tokens: particles meet twice before they end.
fn long_pair() -> Toy {
    let space = Space::new(2, 1, 3).expect("a space");
    let lm = |go: [f64; 3]| {
        let rows = go.iter().enumerate().map(|(t, go)| (vec![0; t], vec![*go, 1.0 - go]));
        Tabular::new(TabularLm::new(space, rows.collect()).expect("a law"))
    };
    Toy { base: lm([0.6, 0.5, 0.7]), arm: lm([0.5, 0.8, 0.1]), ..small() }
}

fn trace(answer: &Answer) -> SmcTrace {
    serde_json::from_value(answer.trace.clone()).expect("a trace")
}

#[test]
fn particles_are_properly_weighted_for_the_sequence_level_optimum() {
    let check = |toy: &Toy, particles: usize, block: usize, threshold: f64, alpha: f64| {
        let smc = method(json!({ "genarm-smc": {
            "alpha": [alpha], "particles": particles, "block": block, "threshold": threshold
        } }));
        let parts = with_arms(toy, &[&toy.arm]);
        let sequences = toy.sequences();
        let (mut resampled, mut law) = (0, vec![0.0; sequences.len()]);
        // E[Ẑ 1{answer = y}] for every y.
        let mean = Exhaustive::mean(|draw| {
            let answer = replay(toy, &smc, &parts, &Sampling::default(), draw);
            let trace = trace(&answer);
            resampled += trace.resampled;
            let place = sequences.iter().position(|ids| *ids == answer.ids).expect("complete");
            let mut row = vec![0.0; 2 * sequences.len()];
            (row[place], row[sequences.len() + place]) = (trace.log_z.exp(), 1.0);
            row
        })
        .expect("finite");
        let want = sequence_optimum(toy.base.lm(), &[(toy.arm.lm(), alpha)]).expect("a law");
        let z = want.log_partition.exp();
        for (place, p) in want.law.iter().enumerate() {
            assert!(
                (mean[place] - z * p).abs() < TOLERANCE * z,
                "{place}: {} against {}",
                mean[place],
                z * p
            );
            law[place] = mean[sequences.len() + place];
        }
        assert!((mean[..sequences.len()].iter().sum::<f64>() - z).abs() < TOLERANCE * z);
        (total_variation(&law, &want.law), resampled)
    };
    let toy = small_pair();
    let genarm =
        raw_law(&toy, &method(json!({ "genarm": { "alpha": [2.0] } })), &with_arms(&toy, &[&toy.arm]));
    let optimum = sequence_optimum(toy.base.lm(), &[(toy.arm.lm(), 2.0)]).expect("a law").law;
    let alone = total_variation(&genarm, &optimum);
    let (two, never) = check(&toy, 2, 1, 0.0, 2.0);
    let (three, _) = check(&toy, 3, 1, 0.0, 2.0);
    let (four, _) = check(&toy, 4, 2, 0.0, 2.0);
    assert!(alone > two && two > three && three > four, "{alone} {two} {three} {four}");
    assert_eq!(never, 0);
    let toy = long_pair();
    for threshold in [0.9, 1.0] {
        let (_, resampled) = check(&toy, 3, 1, threshold, 2.0);
        assert!(resampled > 0, "weights of three particles differ after the second token");
    }
    let toy = toys().remove(1);
    let (_, resampled) = check(&toy, 2, 1, 1.0, 1.0);
    assert!(resampled > 0);
    check(&toy, 2, 3, 0.7, 0.5);
}

#[test]
fn many_particles_have_the_law_of_the_optimum_and_report_its_divergence() {
    let toy = toys().remove(0);
    let alpha = 2.0;
    let smc = method(json!({ "genarm-smc": { "alpha": [alpha], "particles": 64, "block": 1 } }));
    let prompts: Vec<Prompt> = (0..3000).map(|index| Prompt::from_ids(index, vec![2])).collect();
    let answers = toy.answers(&smc, &prompts, &mut Chance::Streams);
    let want = sequence_optimum(toy.base.lm(), &[(toy.arm.lm(), alpha)]).expect("a law");
    let count = |ids: &Vec<TokenId>| answers.iter().filter(|answer| answer.ids == *ids).count() as f64;
    let got: Vec<f64> = toy.sequences().iter().map(|ids| count(ids) / 3000.0).collect();
    let genarm = toy.law_of(&method(json!({ "genarm": { "alpha": [alpha] } })));
    let (near, far) = (total_variation(&got, &want.law), total_variation(&genarm, &want.law));
    assert!(near < 0.045 && far > 0.1, "{near} against {far} of genarm");
    let mean = |value: &dyn Fn(&Answer) -> f64| answers.iter().map(value).sum::<f64>() / 3000.0;
    let log_z = mean(&|answer| trace(answer).log_z);
    assert!((log_z - want.log_partition).abs() < 0.02, "{log_z} against {}", want.log_partition);
    let divergence = kl(&want.law, &toy.base.lm().law().expect("a law"));
    let estimate = mean(&|answer| answer.kl.expect("known"));
    assert!((estimate - divergence).abs() < 0.03, "{estimate} against {divergence}");
    for answer in &answers[..50] {
        let trace = trace(answer);
        assert!((trace.weights.iter().sum::<f64>() - 1.0).abs() < 1e-12 && trace.ess >= 1.0);
        assert_eq!(trace.lengths[trace.picked], answer.ids.len());
        assert!(trace.distinct <= 31 && trace.ess_of_blocks.len() <= 4);
    }
}

#[test]
fn few_particles_and_large_weights_say_so() {
    let toy = small_pair();
    let smc =
        method(json!({ "genarm-smc": { "alpha": [5.0], "particles": 4, "block": 1, "threshold": 0.0 } }));
    let prompts: Vec<Prompt> = (0..40).map(|index| Prompt::from_ids(index, vec![2])).collect();
    let answers = toy.answers(&smc, &prompts, &mut Chance::Streams);
    let warned = answers.iter().filter(|answer| !trace(answer).warnings.is_empty()).count();
    assert!(warned > 0, "effective sample sizes near 1 are told");
}

#[test]
fn settings_that_cannot_be_meant_are_refused() {
    let problem = |value| {
        let method: MethodConfig = method(value);
        let problems = method.problems();
        assert_eq!(problems.len(), 1, "{problems:?}");
        problems[0].to_string()
    };
    assert!(
        problem(json!({ "genarm": { "alpha": [-1.0] } }))
            .contains("-1 is below 0 while `filter` is \"after\"")
    );
    assert!(
        problem(json!({ "genarm": { "alpha": [1.0], "strength": [1.0] } })).contains("give one of the two")
    );
    assert!(problem(json!({ "genarm": { "beta_r": [1.0] } })).contains("with `strength` only"));
    assert!(
        problem(json!({ "genarm": { "strength": [1.0, 2.0], "beta_r": [1.0] } })).contains("1 scales for 2")
    );
    assert!(problem(json!({ "genarm-smc": { "particles": 1 } })).contains("1 is below 2"));
    assert!(problem(json!({ "genarm-smc": { "threshold": 1.5 } })).contains("1.5 is not between"));
    assert!(problem(json!({ "eft": { "alpha": -1.0 } })).contains("exchange `tuned` and `untuned`"));
    assert!(problem(json!({ "contrastive": { "plausibility": 0.0 } })).contains("not above 0"));
    assert!(problem(json!({ "mod": { "weights": { "a": 0.9, "b": 0.9 } } })).contains("add up to 1.8"));
    assert!(problem(json!({ "mod": { "weights": { "a": -0.5, "b": 0.9 } } })).contains("a = -0.5"));
    assert!(problem(json!({ "mod": { "divergence": "alpha" } })).contains("needs its α"));
    assert!(problem(json!({ "mod": { "alpha": 0.5 } })).contains("only"));

    let toy = small_pair();
    let refusal = |value, parts: &Parts<'_>, sampling: Sampling| {
        method(value).engine(parts, sampling).err().expect("refused").to_string()
    };
    let one = with_arms(&toy, &[&toy.arm]);
    let plain = Sampling::default;
    let text = refusal(json!({ "genarm": {} }), &Parts::new(&toy.base), plain());
    assert!(text.starts_with("method genarm needs an autoregressive reward model"), "{text}");
    let text = refusal(json!({ "genarm": { "alpha": [1.0, 2.0] } }), &one, plain());
    assert!(text.contains("2 numbers for 1 autoregressive reward models (arm)"), "{text}");
    let text = refusal(json!({ "genarm": { "alpha": [-1.0], "filter": "before" } }), &one, plain());
    assert!(text.contains("no filter of the base's own law") && text.contains("top_p"), "{text}");
    let text = refusal(json!({ "genarm-smc": {} }), &one, Sampling::greedy());
    assert!(text.contains("temperature 0 makes them all equal"), "{text}");
    let text = refusal(json!({ "eft": {} }), &with_models(&toy, &[("tuned", &toy.arm)]), plain());
    assert!(text.contains("needs a model `untuned`, and the models are tuned"), "{text}");
    let text = refusal(json!({ "mod": {} }), &Parts::new(&toy.base), plain());
    assert!(text.starts_with("method mod needs further models"), "{text}");
}
