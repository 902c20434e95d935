//! A base that is held as packed weights alone is the model of its rounded weights: run, beside adapters in training, merged, saved.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use generate::Score;
use model::files::{load, model_files};
use model::learn::{Row, log_probs, prefix_scores};
use model::weights::Float;
use model::{Config, Decoder, Grads, Head, Policy, Precision, Shape};
use serde_json::json;

const PRECISIONS: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::Int8];

fn noise() -> impl FnMut() -> f64 {
    let mut state = 0.0;
    move || {
        state += 1.0;
        4.0 * f64::sin(state * 12.9898)
    }
}

/// A base of two layers, biases on its first maps.
fn base(tied: bool) -> Decoder {
    let shape = Shape { intermediate_size: 150, ..Shape::small(70) };
    let mut fields = Config::llama(&shape).raw;
    fields.extend([("tie_word_embeddings".into(), json!(tied)), ("attention_bias".into(), json!(true))]);
    let config = Config::from_json(fields, Path::new("config.json")).expect("a config");
    let mut decoder = Decoder::random(config, &Device::flex(), &mut noise());
    fill(&mut decoder, "bias");
    decoder
}

/// Puts numbers where zeros were.
fn fill(decoder: &mut Decoder, named: &str) {
    let mut draw = noise();
    decoder.visit(&mut |name, mut slot| {
        if name.ends_with(named) {
            let count = slot.shape().iter().product();
            let values: Vec<f32> = (0..count).map(|_| 0.1 * draw() as f32).collect();
            slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &Device::flex()));
        }
    });
}

/// Puts adapters on some of the maps, and marks them as what is trained.
fn adapted(mut decoder: Decoder) -> Decoder {
    let mut draw = noise();
    decoder.each_linear(&mut |path, linear| {
        if ["q_proj", "o_proj", "gate_proj", "down_proj"].iter().any(|target| path.ends_with(target)) {
            linear.attach(3, 0.7, &mut || draw().rem_euclid(1.0));
        }
    });
    fill(&mut decoder, "lora_B.weight");
    decoder.visit(&mut |name, mut slot| {
        slot.set_trained(name.contains("lora_") || name == "score.weight");
    });
    decoder
}

fn values(grads: &Grads) -> Vec<(String, Vec<f32>)> {
    grads.iter().map(|(name, g)| (name.to_owned(), g.to_data().iter::<f32>().collect())).collect()
}

const TEXTS: [&[u32]; 2] = [&[3, 9, 4, 22, 7, 60], &[8, 5, 2]];

fn rows() -> [Row<'static>; 2] {
    const LOSS: [&[bool]; 2] = [&[false, true, true, true, true, true], &[false, false, true]];
    [0, 1].map(|row| Row { ids: TEXTS[row], loss: LOSS[row] })
}

/// Asserts that they are equal; where products round what they are multiplied with, that they are as near as a sum of such roundings.
fn assert_same(precision: Precision, got: &[f32], want: &[f32], what: &str) {
    if !precision.rounds_inputs() {
        assert_eq!(got, want, "{precision:?}: {what}");
    }
    let norm = |values: &mut dyn Iterator<Item = f32>| values.map(|x| x * x).sum::<f32>().sqrt();
    let apart = norm(&mut got.iter().zip(want).map(|(got, want)| got - want));
    assert_eq!(got.len(), want.len());
    assert!(apart <= 0.05 * norm(&mut want.iter().copied()), "{precision:?}: {what}: {apart} apart");
}

#[test]
fn adapters_beside_it_get_the_gradients_that_they_get_beside_its_rounded_weights() {
    for precision in PRECISIONS {
        let mut held = base(false);
        held.hold(precision);
        let mut rounded = held.clone();
        rounded.visit(&mut |_, mut slot| slot.set_flat(slot.flat()));
        let [mut held, mut rounded] = [held, rounded].map(adapted);
        for checkpointing in [false, true] {
            let forward = log_probs(&held, &rows(), checkpointing);
            let plain = log_probs(&rounded, &rows(), checkpointing);
            assert_same(precision, &forward.values, &plain.values, "log-probabilities");
            assert!(forward.values.iter().all(|value| value.is_finite()));
            let coefficients: Vec<f32> = (0..forward.values.len()).map(|i| 0.3 - 0.2 * i as f32).collect();
            let got = values(&forward.backward(&mut held, &coefficients));
            let want = values(&plain.backward(&mut rounded, &coefficients));
            assert_eq!(got.len(), want.len());
            for ((name, got), (of, want)) in got.iter().zip(&want) {
                assert_eq!(name, of);
                assert_same(precision, got, want, name);
            }
            assert_eq!(got.len(), 2 * 4 * 2, "factors of four maps of two layers");
            assert!(got.iter().all(|(_, gradient)| gradient.iter().any(|g| *g != 0.0)));
        }
    }
}

#[test]
fn a_policy_made_of_it_draws_from_the_law_that_training_sees() {
    for (tied, precision) in PRECISIONS.into_iter().flat_map(|p| [(true, p), (false, p)]) {
        let exact = base(tied);
        let mut held = exact.clone();
        held.hold(precision);
        let items = [(&TEXTS[0][..1], &TEXTS[0][1..]), (&TEXTS[1][..2], &TEXTS[1][2..])];
        let score = |policy: &Policy| policy.score(&items).expect("tokens of the vocabulary").concat();
        let got = score(&Policy::new("held", &held));
        let rounded = score(&Policy::with_precision("rounded", &exact, precision));
        // Keys and values of a policy that is only run are rounded too.
        let rounding = match precision {
            Precision::F32 => 0.0,
            _ if precision.rounds_inputs() => 2e-2,
            _ => 2e-3,
        };
        for (got, want) in got.iter().zip(&rounded) {
            assert!((got - want).abs() <= rounding, "{precision:?}: {got} against {want}");
        }
        let mut learner = adapted(held);
        assert_eq!(score(&Policy::new("policy", &learner.without_adapter())), got, "the reference");
        let seen = log_probs(&learner, &rows(), false);
        assert_eq!(score(&Policy::new("policy", &learner)), seen.values, "{precision:?}, tied {tied}");
        learner.visit(&mut |_, mut slot| slot.set_trained(false));
        assert_eq!(log_probs(&learner, &rows(), true).values, seen.values);
    }
}

#[test]
fn a_new_head_of_scores_is_trained_beside_it() {
    let mut draw = noise();
    let mut decoder = base(false).with_head(Head::Score, Some(0), &mut || draw());
    decoder.hold(Precision::Int8);
    let mut decoder = adapted(decoder);
    let forward = prefix_scores(&decoder, &rows(), false);
    let ones = vec![1.0; forward.values.len()];
    let grads = values(&forward.backward(&mut decoder, &ones));
    assert_eq!(grads.iter().filter(|(name, _)| name == "score.weight").count(), 1);
    assert!(grads.iter().all(|(_, gradient)| gradient.iter().all(|g| g.is_finite())));
}

#[test]
fn it_is_merged_saved_and_trained_as_the_weights_that_it_holds() {
    for precision in PRECISIONS {
        let mut held = base(false);
        held.hold(precision);
        let mut decoder = adapted(held.clone());
        let adapted = log_probs(&decoder, &rows(), false).values;
        decoder.visit(&mut |_, mut slot| slot.freeze());
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in model_files(&decoder, Float::F32).expect("files") {
            fs_err::write(folder.path().join(name), bytes).expect("room");
        }
        let saved = load(folder.path(), &Device::flex()).expect("the files");
        decoder.each_linear(&mut |_, linear| linear.merge());
        for merged in [&decoder, &saved] {
            let got = log_probs(merged, &rows(), false).values;
            let bound = if precision.rounds_inputs() { 2e-2 } else { 2e-5 };
            for (got, want) in got.iter().zip(&adapted) {
                assert!((got - want).abs() <= bound, "{precision:?}: {got} against {want}");
            }
        }
        held.visit(&mut |_, mut slot| slot.set_trained(true));
        let forward = log_probs(&held, &rows(), false);
        let ones = vec![1.0; forward.values.len()];
        let mut count = 0;
        held.visit(&mut |_, _| count += 1);
        assert_eq!(forward.backward(&mut held, &ones).iter().count(), count, "all of them get gradients");
    }
}
