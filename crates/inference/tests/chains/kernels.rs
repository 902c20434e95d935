//! Kernels from every state, and their stationary laws.

use super::*;

#[test]
fn kernels_from_every_state_are_exact_and_their_laws_are_the_targets() {
    for toy in toys() {
        for (name, target) in [("qalign", "tilted"), ("quest", "quest_target")] {
            let rows = kernel_of(&toy, &last(name, json!({ "beta": toy.beta })), 1.0);
            let fixture = &toy.case["chains"][name];
            for (row, want) in rows.iter().zip(fixture["transition"].as_array().expect("a matrix")) {
                assert_law(&format!("{} {name}", toy.name), row, &numbers(want), 5e-6);
            }
            let law = stationary(&rows).expect("irreducible");
            assert_law(&format!("{} {name}", toy.name), &law, &toy.law(target), STATIONARY);
        }
        let base = toy.law("base");
        let power = law_at(&toy, &last("power", json!({ "alpha": 3.0 })), 1.0);
        assert_law("power", &power, &powered(&toy, 3.0), STATIONARY);
        let alone = law_at(&toy, &last("independence-mh", json!({ "beta": toy.beta })), 1.0);
        assert_law("independence-mh", &alone, &toy.law("tilted"), STATIONARY);
        let walk = law_at(&toy, &last("random-cut", json!({})), 1.0);
        let lengths = toy.sequences().into_iter().zip(&base).map(|(ids, p)| ids.len() as f64 * p);
        assert_law("random-cut", &walk, &normalised(lengths), STATIONARY);
    }
}

#[test]
fn every_law_of_cuts_and_number_of_tries_has_the_target() {
    for toy in [small(), middle()] {
        let quest = normalised(toy.rewards.iter().map(|r| (r / toy.beta).exp()));
        for cut in ["uniform", "step-boundaries", "early"] {
            // Every pair of suffixes from every state of the larger toy is too many to run for all.
            let most = if toy.name == "small" || cut == "step-boundaries" { 2 } else { 1 };
            for tries in 1..=most {
                let settings = |key: &str, value: f64| json!({ key: value, "cut": cut, "tries": tries });
                let what = format!("{} {cut} {tries}", toy.name);
                let law = law_at(&toy, &last("qalign", settings("beta", toy.beta)), 1.0);
                assert_law(&what, &law, &tilted(&toy, 1.0, toy.beta), STATIONARY);
                let law = law_at(&toy, &last("quest", settings("beta", toy.beta)), 1.0);
                assert_law(&what, &law, &quest, STATIONARY);
                let law = law_at(&toy, &last("power", settings("alpha", 2.5)), 1.0);
                assert_law(&what, &law, &powered(&toy, 2.5), STATIONARY);
            }
        }
        let alone = last("independence-mh", json!({ "beta": toy.beta, "tries": 2 }));
        assert_law(&toy.name, &law_at(&toy, &alone, 1.0), &tilted(&toy, 1.0, toy.beta), STATIONARY);
    }
    let three = last("qalign", json!({ "beta": 0.7, "tries": 3 }));
    assert_law("three tries", &law_at(&small(), &three, 1.0), &tilted(&small(), 1.0, 0.7), STATIONARY);
}

#[test]
fn the_temperature_is_part_of_the_prior_where_there_is_one() {
    let toy = middle();
    let law = law_at(&toy, &last("qalign", json!({ "beta": toy.beta })), 0.8);
    assert_law("qalign", &law, &tilted(&toy, 0.8, toy.beta), STATIONARY);
    assert!(total_variation(&law, &tilted(&toy, 1.0, toy.beta)) > 0.02);
    let law = law_at(&toy, &last("quest", json!({ "beta": toy.beta })), 0.8);
    assert_law("quest", &law, &normalised(toy.rewards.iter().map(|r| (r / toy.beta).exp())), STATIONARY);
    for temperature in [0.7, 2.5] {
        let law = law_at(&toy, &last("power", json!({ "alpha": 2.5 })), temperature);
        assert_law("power", &law, &powered(&toy, 2.5), STATIONARY);
    }
}

#[test]
fn a_ladder_has_the_product_of_its_targets() {
    let toy = small();
    let sequences = toy.sequences();
    let pairs: Vec<Vec<Ids>> =
        sequences.iter().flat_map(|a| sequences.iter().map(|b| vec![a.clone(), b.clone()])).collect();
    let check = |config: &MethodConfig, low: &[f64], high: &[f64]| {
        let row = |starts: &Vec<Ids>| {
            let law = Exhaustive::law(|draw| one_move(&toy, config, 1.0, starts, draw)).expect("finite");
            let law: BTreeMap<Vec<Ids>, f64> = law.into_iter().collect();
            pairs.iter().map(|pair| law.get(pair).copied().unwrap_or(0.0)).collect::<Vec<f64>>()
        };
        let rows: Vec<Vec<f64>> = pairs.iter().map(row).collect();
        let want: Vec<f64> = low.iter().flat_map(|a| high.iter().map(move |b| a * b)).collect();
        let name = config.info().name;
        assert_law(name, &stationary(&rows).expect("irreducible"), &want, STATIONARY);
    };
    let qalign = method(json!({ "qalign": { "steps": 1, "beta": 0.4, "ladder": [1.5], "answer": "last" } }));
    check(&qalign, &tilted(&toy, 1.0, 0.4), &tilted(&toy, 1.0, 1.5));
    let power = method(json!({ "power": { "steps": 1, "alpha": 3.0, "ladder": [1.0] } }));
    check(&power, &powered(&toy, 3.0), &powered(&toy, 1.0));
}

#[test]
fn a_budget_freezes_the_kernel_of_its_beta() {
    let toy = middle();
    let config = |settings: Value| last("qalign", settings);
    let budget = config(json!({ "beta": 0.05, "kl_budget": 0.3, "pilot": 3 }));
    let sequences = toy.sequences();
    for start in [0, 4, 9] {
        let starts: Vec<Ids> = [start, 7, 12].map(|place: usize| sequences[place].clone()).to_vec();
        let rewards: Vec<f64> = [start, 7, 12].map(|place| toy.rewards[place]).to_vec();
        // A slow and obvious search for the least beta of this pilot.
        let kl = |beta: f64| inference::selection::importance(&rewards, beta).expect("rewards").1.kl;
        let beta = (0..400_000).map(|i| 0.05 + f64::from(i) * 1e-5).find(|beta| kl(*beta) <= 0.3);
        let plain = config(json!({ "beta": beta.expect("a beta") }));
        let law = |config: &MethodConfig, starts: &[Ids]| {
            let law = Exhaustive::law(|draw| one_move(&toy, config, 1.0, starts, draw).remove(0));
            toy.align(law.expect("finite"))
        };
        assert_law("frozen", &law(&budget, &starts), &law(&plain, &starts[..1]), 1e-4);
    }
}
