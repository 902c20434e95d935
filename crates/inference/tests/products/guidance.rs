//! GenARM: its law, its limits, its filters and its weights.

use super::*;

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
        // Columns of the base that no token uses are no candidates either.
        let wide = Altered { inner: &toy.base, shift: 0.0, padding: 5 };
        let narrow = with_arms(&toy, &[&toy.arm, &other]);
        let known = Parts { tokens: Some(3), policy: &wide, ..with_arms(&toy, &[&toy.arm, &other]) };
        let candidates = |parts: &Parts<'_>| {
            let mut engine = genarm(&[0.8, 0.3]).engine(parts, Sampling::default()).expect("an engine");
            let ask = NextAsk { prefix: toy.base.prompt().ids, prompt_len: 1, k: 0 };
            engine.next(vec![ask]).expect("room").remove(0)
        };
        assert_eq!(candidates(&known), candidates(&narrow));
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
    filter.weights(&mut weights);
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
fn parm_is_the_product_with_the_model_under_the_weights_of_the_request() {
    for toy in toys() {
        let space = *toy.base.lm().space();
        // Two objectives: the reward, and the number of tokens. The model under w is what their sum teaches.
        let size = |place: usize| -(toy.sequences()[place].len() as f64);
        let under = |w: [f64; 2]| {
            let exponents: Vec<f64> =
                toy.rewards.iter().enumerate().map(|(place, r)| w[0] * r + w[1] * size(place)).collect();
            Tabular::new(TabularLm::from_law(space, &softmax(&exponents)).expect("a law"))
        };
        let parm =
            |w: [f64; 2]| method(json!({ "parm": { "weights": { "r": w[0], "size": w[1] }, "alpha": 0.7 } }));
        let of = |w: [f64; 2]| raw_law(&toy, &parm(w), &with_arms(&toy, &[&under(w)]));
        let middle = [0.25, 0.75];
        let told = under(middle);
        let product = naive(&toy, |prefix| {
            let (base, arm) = (next(&toy.base, prefix), next(&told, prefix));
            base.iter().zip(arm).map(|(b, a)| b + 0.7 * a).collect()
        });
        assert_law("the product", &of(middle), &product, TOLERANCE);
        // On a vertex it is guidance by that objective's own model, and between them by neither.
        let genarm = method(json!({ "genarm": { "alpha": [0.7] } }));
        for vertex in [[1.0, 0.0], [0.0, 1.0]] {
            let alone = raw_law(&toy, &genarm, &with_arms(&toy, &[&under(vertex)]));
            assert_eq!(of(vertex), alone);
            assert!(kl(&product, &alone) > 1e-3);
        }
        assert_eq!(parm(middle).control(&[None], 1, 1.7), Some(1.0));
    }
}

#[test]
fn weights_of_parm_are_shares() {
    let refused = |settings: serde_json::Value| {
        let problems = method(json!({ "parm": settings })).problems();
        problems.iter().map(|problem| problem.message.clone()).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(refused(json!({ "weights": { "a": 0.3, "b": 0.7 } })), "");
    assert_eq!(refused(json!({ "weights": { "a": 0.3, "b": 0.6 } })), "they add up to 0.8999999999999999");
    assert_eq!(refused(json!({ "weights": { "a": -0.5, "b": 1.5 } })), "the weight of a is -0.5");
    assert!(refused(json!({ "alpha": 1.0, "strength": 1.0 })).contains("as `alpha` and as `strength`"));
    assert!(refused(json!({ "alpha": -1.0 })).contains("below 0"));
}
