//! A GPU against the CPU: log-probabilities, gradients, a step of AdamW, decoding with a cache, scores. Compiled with a feature of a
//! GPU only; `benches/gpu/run` builds it and runs it on a device in software.
#![cfg(any(feature = "wgpu", feature = "vulkan", feature = "metal", feature = "cuda", feature = "rocm"))]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use burn::tensor::{Device, Tensor, TensorData};
use generate::engine::{Drawn, Limits};
use generate::mix::{Difference, Differences, Mix};
use generate::{
    Chance, Completion, Engine, Purpose, Sample, SampleAsk, Sampling, Score, Source, Step, Stream,
};
use model::cache::reads;
use model::learn::{Row, log_probs};
use model::{Decoder, DeviceName, Policy, Precision};
use train::optimizer::{AdamW, Moments};

/// The device that `PLUMB_GPU` names, `wgpu` unless it does.
fn gpu() -> Device {
    let name = std::env::var("PLUMB_GPU").unwrap_or_else(|_| "wgpu".into());
    name.parse::<DeviceName>().and_then(DeviceName::open).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// How often a device is waited for is counted for the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../checkpoints/tiny")
}

fn load(device: &Device) -> Decoder {
    model::files::load(&tiny(), device).expect("the shipped model")
}

fn texts() -> Vec<Vec<u32>> {
    let mut stream = Stream::new(7, Purpose::Sample, 0, 0);
    let mut texts: Vec<Vec<u32>> =
        [12, 5, 20].map(|length| (0..length).map(|_| 5 + (stream.bits() % 400) as u32).collect()).to_vec();
    // One begins as another does.
    let sharing: Vec<u32> = texts[2][..14].iter().copied().chain([9, 8, 7]).collect();
    texts.push(sharing);
    texts
}

fn near(what: &str, got: &[f32], want: &[f32], tolerance: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-3_f32, |most, value| most.max(value.abs()));
    for (place, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= tolerance * scale, "{what}, element {place}: {got} and not {want}");
    }
}

/// Learning rate of the step.
const RATE: f64 = 1e-3;

/// The model beside adapters of which neither factor is zero; a CPU holds its weights packed.
fn adapted(device: &Device) -> Decoder {
    let mut decoder = load(device);
    decoder.hold(Precision::F32);
    let mut stream = Stream::new(3, Purpose::Init, 0, 0);
    decoder.each_linear(&mut |_, linear| linear.attach(4, 0.5, &mut || stream.uniform()));
    decoder.visit(&mut |name, mut slot| {
        if name.contains("lora_B") {
            let count = slot.shape().iter().product();
            let values: Vec<f32> = (0..count).map(|_| 0.05 * stream.normal() as f32).collect();
            slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), device));
        }
    });
    decoder
}

/// Log-probabilities, then gradients and how far a step of AdamW moves what is trained, by name.
fn step(device: &Device, adapters: bool, checkpointing: bool) -> (Vec<f32>, BTreeMap<String, [Vec<f32>; 2]>) {
    let mut decoder = if adapters { adapted(device) } else { load(device) };
    decoder.visit(&mut |name, mut slot| slot.set_trained(!adapters || name.contains("lora_")));
    let texts = texts();
    let wanted: Vec<Vec<bool>> =
        texts.iter().map(|text| (0..text.len()).map(|at| at > 0).collect()).collect();
    let rows: Vec<Row<'_>> = texts.iter().zip(&wanted).map(|(ids, loss)| Row { ids, loss }).collect();
    let forward = log_probs(&decoder, &rows, checkpointing);
    let values = forward.values.clone();
    let grads = forward.backward(&mut decoder, &vec![-1.0; values.len()]);
    let mut before: BTreeMap<String, Vec<f32>> = BTreeMap::new();
    decoder.visit(&mut |name, slot| {
        before.insert(name.to_owned(), slot.flat().to_data().iter::<f32>().collect());
    });
    let mut seen: BTreeMap<String, [Vec<f32>; 2]> = grads
        .iter()
        .map(|(name, gradient)| (name.to_owned(), [gradient.to_data().iter::<f32>().collect(), Vec::new()]))
        .collect();
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };
    Moments::default().update(&adamw, RATE, &grads, &mut |visitor| decoder.visit(visitor));
    decoder.visit(&mut |name, slot| {
        if let Some([_, moved]) = seen.get_mut(name) {
            let after = slot.flat().to_data();
            *moved = after.iter::<f32>().zip(&before[name]).map(|(after, before)| after - before).collect();
        }
    });
    (values, seen)
}

#[test]
fn a_training_step_is_that_of_the_cpu() {
    let _alone = ALONE.lock();
    for (adapters, checkpointing) in [(false, false), (false, true), (true, false), (true, true)] {
        let (values, parameters) = step(&Device::flex(), adapters, false);
        let (got, moved) = step(&gpu(), adapters, checkpointing);
        near("log-probabilities", &got, &values, 1e-4);
        assert_eq!(moved.len(), parameters.len());
        for ((name, [gradient, want]), (other, [got, got_moved])) in parameters.iter().zip(&moved) {
            assert_eq!(name, other);
            near(&format!("gradient of {name}"), got, gradient, 1e-3);
            // The first step moves each weight by the learning rate against its gradient; where that is no larger than the
            // difference of the devices its sign is anyone's.
            let largest = gradient.iter().fold(0.0_f32, |most, g| most.max(g.abs()));
            let clear = |place: &usize| gradient[*place].abs() > 1e-2 * largest;
            let mut moves = 0;
            for place in (0..want.len()).filter(clear) {
                let (got, want) = (got_moved[place], want[place]);
                assert!(want.abs() > 0.5 * RATE as f32, "{name}, element {place} moved by {want} on the CPU");
                assert!(
                    (got - want).abs() < 0.05 * RATE as f32,
                    "{name}, element {place}: {got} and not {want}"
                );
                moves += 1;
            }
            assert!(moves > 0, "{name} has a gradient");
        }
    }
}

/// Texts of a device under some settings, with what each token's law says of it, and whether the device was waited for once a pass.
fn decoded(engine: Engine<'_>, models: u64, device_draws: bool) -> Vec<Completion> {
    let limits = Limits { rows: 2, ..Limits::default() };
    let mut passes = 0;
    let mut watch = |drawn: Drawn<'_>| {
        passes = drawn.ledger.forward_passes;
        true
    };
    let mut engine = engine.with_limits(limits).with_watch(&mut watch);
    // More rows than places, so that rows come and go; two of one prompt.
    let texts = texts().into_iter().chain(texts().pop());
    let asks = texts.enumerate().map(|(row, prefix)| SampleAsk {
        prompt_len: prefix.len(),
        prefix,
        budget: 24,
        stream: Stream::new(1, Purpose::Sample, 0, row as u64),
    });
    let before = reads();
    let drawn = engine.sample(asks.collect(), &mut Chance::Streams).expect("room");
    drop(engine);
    if models == 1 || device_draws {
        assert_eq!((reads() - before) * models, passes, "one read a pass of all models");
    }
    drawn
}

#[test]
fn decoding_with_a_cache_and_scoring_are_those_of_the_cpu() {
    let _alone = ALONE.lock();
    let raw = Sampling::default;
    let settings = [
        raw(),
        Sampling::greedy(),
        Sampling { temperature: 0.7, ..raw() },
        Sampling { top_k: 20, ..raw() },
        Sampling { top_p: 0.8, temperature: 1.2, ..raw() },
        Sampling { min_p: 0.05, ..raw() },
    ];
    let run = |device: &Device| {
        let policy = Policy::new("tiny", &load(device));
        let texts = texts();
        let long = texts.concat();
        // Of one prefix there are several, which is run once.
        let shared = [45, 48, 50].map(|end| (&long[..40], &long[40..end]));
        let items: Vec<(&[u32], &[u32])> = texts.iter().map(|text| text.split_at(3)).chain(shared).collect();
        let scores = policy.score(&items).expect("room").concat();
        let guide = Policy::new("guide", &adapted(device));
        let plain = |settings: &Sampling| Engine::new(&policy, settings.clone()).expect("settings");
        let guided = |settings: &Sampling| {
            let source = |policy, weight| Source { policy, weight };
            let sources = vec![source(&policy as &dyn Step, 1.0), source(&guide, 0.7)];
            Engine::product(sources, 0, settings.clone()).expect("one vocabulary")
        };
        // Away from the second model, among the tokens that the first finds likely.
        let contrast = |settings: &Sampling| {
            let rule = Box::new(Differences { terms: vec![Difference { plus: 0, minus: 1, weight: 0.5 }] });
            let mix = Mix { models: vec![&policy, &guide], rule, reference: 0, tokens: None };
            let mix = mix.masked(Sampling { min_p: 0.02, top_k: 30, ..raw() });
            Engine::mix(mix, settings.clone()).expect("one vocabulary")
        };
        let on_gpu = !kernels::packs(device);
        let all = || settings.iter();
        let drawn = all().map(|settings| decoded(plain(settings), 1, on_gpu));
        let guided_here = all().take(1).map(|settings| decoded(guided(settings).with_log_z(), 2, on_gpu));
        let guided = all().map(|settings| decoded(guided(settings), 2, on_gpu));
        let contrast = all().take(3).map(|settings| decoded(contrast(settings), 2, on_gpu));
        (drawn.chain(guided).chain(contrast).chain(guided_here).collect::<Vec<_>>(), scores)
    };
    let ((drawn, scores), (got, got_scores)) = (run(&Device::flex()), run(&gpu()));
    let count = settings.len();
    assert!(drawn[0] != drawn[count] && drawn[0] != drawn[2 * count], "guidance and contrast change texts");
    for (place, (drawn, got)) in drawn.iter().zip(&got).enumerate() {
        for (drawn, got) in drawn.iter().zip(got) {
            assert_eq!(got.ids, drawn.ids, "engine and settings {place}");
            near("log-probabilities", &got.log_probs, &drawn.log_probs, 1e-3);
            near("raw log-probabilities", &got.raw_log_probs, &drawn.raw_log_probs, 1e-3);
            let [got, want] = [got.kl, drawn.kl].map(|kl| kl.expect("always counted") as f32);
            near("divergence", &[got], &[want], 1e-3);
        }
    }
    near("scores", &got_scores, &scores, 1e-4);
}
