//! Properties over many recipes.

use crate::sample::{Arm, Genarm, Method, Sample, VALID};
use proptest::prelude::*;
use recipe::{
    DataName, Log, Lora, ModelName, Optim, Pipeline, RecipeErrors, Run, Sampling, Save, Schedule, Source,
    fingerprint,
};

fn positive() -> impl Strategy<Value = f64> {
    prop_oneof![Just(1e-300), Just(5e-7), 1e-12_f64..1e12]
}

fn optim() -> impl Strategy<Value = Optim> {
    let length = prop_oneof![
        (21_usize..=100_000_000).prop_map(|steps| (Some(steps), None)),
        positive().prop_map(|epochs| (None, Some(epochs)))
    ];
    let warmup = prop_oneof![(0_usize..20).prop_map(|w| (w, None)), (0.0..0.99).prop_map(|r| (0, Some(r)))];
    let schedule = prop_oneof![Just(Schedule::Constant), Just(Schedule::Linear), Just(Schedule::Cosine)];
    (positive(), length, warmup, schedule, 1_usize..64, any::<bool>(), 0.0..1.0).prop_map(
        |(
            learning_rate,
            (steps, epochs),
            (warmup_steps, warmup_ratio),
            schedule,
            batch_size,
            flag,
            share,
        )| Optim {
            learning_rate,
            weight_decay: learning_rate * 0.1,
            beta1: share,
            beta2: share,
            eps: learning_rate,
            max_grad_norm: share,
            schedule,
            warmup_steps,
            warmup_ratio,
            min_lr_ratio: share,
            steps,
            epochs,
            batch_size,
            micro_batch_size: flag.then_some(batch_size.div_ceil(2)),
            gradient_checkpointing: flag,
        },
    )
}

fn method() -> impl Strategy<Value = Method> {
    let arm = ("\\PC*", proptest::option::of(positive())).prop_map(|(name, weight)| Arm {
        name,
        model: ModelName::tiny(),
        weight,
    });
    let genarm = (
        -1e12_f64..=1e12,
        proptest::collection::vec(arm, 0..3),
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3), 0..3),
        -9e11_f32..=9e11,
    )
        .prop_map(|(beta, arms, grid, short)| Method::Genarm(Genarm { beta, arms, grid, short }));
    prop_oneof![Just(Method::Greedy), any::<u16>().prop_map(|n| Method::Vbon { n }), genarm]
}

fn recipes() -> impl Strategy<Value = Sample> {
    let run = ("[A-Za-z0-9_-]{0,12}", any::<u64>(), "[^\u{0}]{0,12}", proptest::option::of(1_usize..99))
        .prop_map(|(name, seed, out, threads)| Run {
            name,
            seed,
            out: out.into(),
            device: if seed % 2 == 0 {
                "cuda:1".parse().expect("a device")
            } else {
                recipe::Device::default()
            },
            threads,
        });
    let lora = proptest::option::of((1_usize..512, positive()).prop_map(|(r, alpha)| Lora {
        r,
        alpha,
        targets: Some(vec!["q_proj".into()]),
        use_rslora: r % 2 == 0,
    }));
    let sampling = (proptest::collection::vec("(?s).{1,6}", 0..3), 1_usize..9999, 0.0..4.0).prop_map(
        |(stop, max_new_tokens, temperature)| Sampling {
            temperature,
            max_new_tokens,
            stop,
            ..Sampling::default()
        },
    );
    let weights = proptest::collection::btree_map("(?s).{0,6}", -1e9..1e9, 0..4);
    (run, optim(), lora, sampling, method(), weights).prop_map(
        |(run, optim, lora, sampling, method, weights)| Sample {
            run,
            model: "hf://org/name@rev".parse().expect("a name"),
            data: DataName::wordmath(),
            optim,
            lora,
            save: Save::default(),
            log: Log::default(),
            sampling,
            method,
            weights,
        },
    )
}

/// One edit of a text: cut, double, swap or insert, at places given as shares of its length.
#[derive(Debug, Clone)]
enum Edit {
    Cut(f64, f64),
    Double(f64, f64),
    Insert(f64, String),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let tokens = prop_oneof![
        Just("\n".to_owned()),
        Just("[".to_owned()),
        Just("]]".to_owned()),
        Just("=".to_owned()),
        Just("\"\"\"".to_owned()),
        Just("[method.vbon]\n".to_owned()),
        Just("[[stages]]\n".to_owned()),
        Just("inf".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("é\u{301}\u{feff}".to_owned()),
        "\\PC{0,4}",
        "(?s).{0,2}",
    ];
    let edit = prop_oneof![
        (0.0..1.0, 0.0..0.1).prop_map(|(at, len)| Edit::Cut(at, len)),
        (0.0..1.0, 0.0..0.2).prop_map(|(at, len)| Edit::Double(at, len)),
        (0.0..=1.0, tokens).prop_map(|(at, token)| Edit::Insert(at, token)),
    ];
    proptest::collection::vec(edit, 1..6)
}

fn mutate(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for edit in edits {
        let place = |share: f64, length: usize| ((share * length as f64) as usize).min(length);
        let range = |at: f64, len: f64, length: usize| {
            let start = place(at, length);
            start..(start + place(len, length)).min(length)
        };
        let length = chars.len();
        match edit {
            Edit::Cut(at, len) => drop(chars.drain(range(*at, *len, length))),
            Edit::Double(at, len) => {
                let span = range(*at, *len, length);
                let copy = chars[span.clone()].to_vec();
                chars.splice(span.end..span.end, copy);
            }
            Edit::Insert(at, token) => {
                let at = place(*at, length);
                drop(chars.splice(at..at, token.chars()));
            }
        }
    }
    chars.into_iter().collect()
}

/// Problems are never none, never outside the text, and sorted.
fn check_errors(errors: &RecipeErrors, text: &str) -> Result<(), TestCaseError> {
    prop_assert!(!errors.problems().is_empty());
    let lines: Vec<&str> = text.split('\n').collect();
    let mut last = (0, 0);
    for problem in errors.problems() {
        if let recipe::Place::At { line, column, .. } = problem.place {
            prop_assert!((1..=lines.len()).contains(&line), "{}", problem);
            prop_assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "{}", problem);
            prop_assert!((line, column) >= last, "{}", errors);
            last = (line, column);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_resolved_recipe_loads_as_the_equal_value(sample in recipes()) {
        let text = recipe::resolved(&sample).unwrap();
        let loaded = Source::from_text("r.toml", text.as_str()).load::<Sample>();
        prop_assert!(loaded.is_ok(), "{}\n{}", loaded.unwrap_err(), text);
        let loaded = loaded.unwrap();
        prop_assert_eq!(&loaded.value, &sample);
        prop_assert_eq!(loaded.resolved().unwrap(), text);
        prop_assert_eq!(fingerprint(&loaded.value).unwrap(), fingerprint(&sample).unwrap());
    }

    #[test]
    fn no_text_makes_loading_panic(edits in edits()) {
        let text = mutate(VALID, &edits);
        let source = Source::from_text("r.toml", text.as_str());
        if let Err(errors) = source.clone().load::<Sample>() {
            check_errors(&errors, &text)?;
        }
        if let Err(errors) = source.load_pipeline::<Sample>() {
            check_errors(&errors, &text)?;
        }
    }

    #[test]
    fn no_override_makes_loading_panic(texts in proptest::collection::vec("[a-z.0\"'=\\[\\] {}\n-]{0,12}|(?s).{0,8}", 1..4)) {
        let source = Source::from_text("r.toml", VALID).set_all(&texts);
        if let Err(errors) = source.load::<Sample>() {
            prop_assert!(!errors.problems().is_empty());
        }
    }

    #[test]
    fn a_pipeline_of_resolved_stages_loads_as_the_equal_value(mut samples in proptest::collection::vec(recipes(), 1..3)) {
        let stages = samples.iter_mut().enumerate().map(|(index, sample)| {
            let name = format!("s{index}");
            sample.run.name.clone_from(&name);
            if let Method::Genarm(genarm) = &mut sample.method {
                genarm.arms.clear();
            }
            recipe::Stage { name, recipe: sample.clone() }
        });
        let pipeline = Pipeline { run: Run { name: "p".into(), ..Run::default() }, stages: stages.collect() };
        let text = recipe::resolved(&pipeline).unwrap();
        let loaded = Source::from_text("p.toml", text.as_str()).load_pipeline::<Sample>();
        prop_assert!(loaded.is_ok(), "{}\n{}", loaded.unwrap_err(), text);
        prop_assert_eq!(loaded.unwrap().value, pipeline);
    }
}
