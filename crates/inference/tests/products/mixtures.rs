//! EFT, contrastive decoding and MOD.

use super::*;

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
