//! GenARM with particles, and settings that are refused.

use super::*;

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
    let estimate = mean(&|answer| trace(answer).kl_target.expect("estimated"));
    assert!((estimate - divergence).abs() < 0.03, "{estimate} against {divergence}");
    for answer in &answers[..50] {
        assert_eq!(answer.kl, None, "the target's divergence is not that of the answer");
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
