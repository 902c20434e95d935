//! The work that is timed: by `benches/whole.rs` and `benches/methods.rs`, and by `examples/speed.rs` for comparisons with other programs.
//!
//! `PLUMB_BENCH_MODEL` names the model's directory; without it SmolLM2-135M-Instruct is taken where it is, else the
//! shipped tiny model.

#![allow(dead_code, reason = "each program uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use burn::tensor::Device;
use generate::engine::Limits;
use generate::schedule::{self, Services};
use generate::{Chance, Engine, Prompt, Purpose, Reward, Sample, SampleAsk, Sampling, Step, Stream};
use inference::{Method, MethodConfig, Tools};
use kernels::Precision;
use model::learn::{Row, log_probs};
use model::{Decoder, Head, Policy};
use reward::SequenceModel;
use serde_json::{Value, json};
use train::lanes;
use train::optimizer::{AdamW, Moments, clip};

/// Where the model is.
pub(crate) static PATH: LazyLock<PathBuf> = LazyLock::new(|| {
    let named = std::env::var_os("PLUMB_BENCH_MODEL").map(PathBuf::from);
    named
        .or_else(testkit::smollm2)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../checkpoints/tiny"))
});

static VOCABULARY: LazyLock<u64> =
    LazyLock::new(|| model::Config::read(&PATH).expect("a model").vocab_size as u64);

/// The model.
pub(crate) static MODEL: LazyLock<Decoder> = LazyLock::new(load);

/// The model, of weights of its own, without end-of-sequence tokens, so that every row runs to its budget.
fn load() -> Decoder {
    let mut decoder = model::files::load(&PATH, &Device::flex()).expect("a model");
    decoder.config.eos.clear();
    decoder
}

/// It as a policy.
pub(crate) static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy::new("model", &MODEL));

/// The same with weights in bf16.
pub(crate) static BF16: LazyLock<Policy> =
    LazyLock::new(|| Policy::with_precision("model", &MODEL, Precision::Bf16));

/// The same with weights in 8 bits.
pub(crate) static INT8: LazyLock<Policy> =
    LazyLock::new(|| Policy::with_precision("model", &MODEL, Precision::Int8));

/// A sequence reward model of the model's size, with a head that is not trained.
pub(crate) static JUDGE: LazyLock<Policy> = LazyLock::new(|| {
    let mut stream = Stream::new(0, Purpose::Init, 0, 0);
    Policy::new("judge", &MODEL.clone().with_head(Head::Score, None, &mut || stream.normal()))
});

const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };

/// Tokens drawn at random.
pub(crate) fn text(seed: u64, tokens: usize) -> Vec<u32> {
    let mut stream = Stream::new(seed, Purpose::Sample, 0, 0);
    (0..tokens).map(|_| (stream.bits() % *VOCABULARY) as u32).collect()
}

/// Completions of `rows` different prompts of `prompt` tokens, sampled at temperature 1.
pub(crate) fn sample(engine: &mut Engine<'_>, rows: usize, prompt: usize, new: usize) {
    let asks = (0..rows as u64).map(|row| SampleAsk {
        prefix: text(row, prompt),
        prompt_len: prompt,
        budget: new,
        stream: Stream::new(1, Purpose::Sample, 0, row),
    });
    engine.sample(asks.collect(), &mut Chance::Streams).expect("room");
}

/// An engine without anything cached, for so many rows at once.
pub(crate) fn engine(policy: &'static Policy, rows: usize) -> Engine<'static> {
    engine_with(policy, rows, Sampling::default())
}

/// The same with settings of its own.
pub(crate) fn engine_with(policy: &'static Policy, rows: usize, settings: Sampling) -> Engine<'static> {
    let limits = Limits { rows, ..Limits::default() };
    Engine::new(policy, settings).expect("settings").with_limits(limits)
}

/// Chains of QAlign of so many steps.
pub(crate) fn qalign(steps: usize) -> Value {
    json!({ "qalign": { "steps": steps, "chains": 1, "beta": 1.0, "answer": "last" } })
}

/// A method's answers to `prompts` different prompts, judged by a reward model of the policy's size. Policy and reward model both reuse
/// prefixes, or neither.
pub(crate) fn rewarded(method: Value, prompts: usize, (prompt, tokens): (usize, usize), reuse: bool) {
    let method: MethodConfig = serde_json::from_value(method).expect("a method");
    let machine = method.machine(&Tools::new(tokens).with_reward()).expect("settings");
    let asked: Vec<Prompt> =
        (0..prompts).map(|row| Prompt::from_ids(row, text(row as u64, prompt))).collect();
    let streams: Vec<Stream> =
        (0..prompts as u64).map(|row| Stream::new(0, Purpose::Method, 0, row)).collect();
    let kept = |kept: usize| if reuse { kept } else { 0 };
    let limits = Limits { rows: 64, ..Limits::default() };
    let limits = Limits { kept_tokens: kept(limits.kept_tokens), ..limits };
    let mut engine = engine(&POLICY, 64).with_limits(limits);
    let limits = reward::Limits::default();
    let limits = reward::Limits { kept_tokens: kept(limits.kept_tokens), ..limits };
    let mut judge = SequenceModel::new(&*JUDGE).expect("a score").with_limits(limits);
    let mut services =
        Services::new(&mut engine).with_scorer(&*POLICY).with_reward(Some(&mut judge as &mut dyn Reward));
    let mut chance = Chance::Streams;
    schedule::run(&*machine, &asked, &streams, &mut services, &mut chance, &mut |_| true).expect("room");
}

/// The last logits of `rows` rows of `tokens` tokens.
pub(crate) fn prefill(policy: &Policy, rows: usize, tokens: usize) -> f32 {
    let rows: Vec<Vec<u32>> = (0..rows as u64).map(|row| text(row, tokens)).collect();
    let mut session = policy.session();
    let open: Vec<_> = rows.iter().map(|_| session.open()).collect();
    let batch: Vec<_> = open.iter().copied().zip(rows.iter().map(Vec::as_slice)).collect();
    session.extend(&batch).expect("room").row(0)[0]
}

/// A model with adapters of rank 16 on some of its maps.
pub(crate) fn with_adapters(mut decoder: Decoder, targets: &[&str]) -> Decoder {
    let config = model::files::AdapterConfig {
        r: 16,
        alpha: 32.0,
        use_rslora: false,
        targets: targets.iter().map(|target| (*target).to_owned()).collect(),
        base: "model".into(),
        bilinear: None,
    };
    let mut stream = Stream::new(0, Purpose::Init, 0, 0);
    model::files::attach(&mut decoder, &config, &mut || stream.uniform()).expect("targets");
    decoder
}

/// A model in training.
pub(crate) struct Training {
    decoder: Decoder,
    moments: Moments,
}

impl Training {
    /// All weights are trained. Nobody else holds them, so that memory is that of training.
    pub(crate) fn full() -> Self {
        Self::of(load(), |_| true)
    }

    /// Adapters of rank 16 on all projections are trained, beside weights in a number format.
    pub(crate) fn lora(precision: Precision) -> Self {
        let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
        let mut decoder = load();
        decoder.hold(precision);
        Self::of(with_adapters(decoder, &targets), |name| name.contains("lora_"))
    }

    fn of(mut decoder: Decoder, trained: fn(&str) -> bool) -> Self {
        decoder.visit(&mut |name, mut slot| slot.set_trained(trained(name)));
        Self { decoder, moments: Moments::default() }
    }

    /// Forward, backward, clipping and AdamW on `rows` rows of `tokens` tokens.
    pub(crate) fn step(&mut self, (rows, tokens): (usize, usize), checkpointing: bool) {
        let texts = (0..rows as u64).map(|row| text(row, tokens)).collect();
        self.on(texts, 1, checkpointing);
    }

    /// The same on answers of `new` tokens, so many to each prompt of `prompt` tokens; these are not learned.
    pub(crate) fn answers(&mut self, rows: usize, (prompt, new): (usize, usize), each: usize) {
        let answer = |row: u64| [text(row / each as u64, prompt), text(rows as u64 + row, new)].concat();
        self.on((0..rows as u64).map(answer).collect(), prompt.max(1), false);
    }

    fn on(&mut self, texts: Vec<Vec<u32>>, given: usize, checkpointing: bool) {
        if checkpointing {
            kernels::memory::keep_briefly();
        } else {
            kernels::memory::keep();
        }
        let (rows, tokens) = (texts.len(), texts[0].len());
        let loss: Vec<bool> = (0..tokens).map(|at| at >= given).collect();
        let batch: Vec<Row<'_>> = texts.iter().map(|ids| Row { ids, loss: &loss }).collect();
        let share = -1.0 / (rows * (tokens - given)) as f32;
        let (mut grads, _) = lanes::run(
            &self.decoder,
            &batch,
            |row| row.ids.len(),
            |decoder, batch| {
                let forward = log_probs(decoder, batch, checkpointing);
                let coefficients = vec![share; forward.values.len()];
                (forward.backward(decoder, &coefficients), ())
            },
        );
        clip(&mut grads, 1.0);
        let decoder = &mut self.decoder;
        self.moments.update(&ADAMW, 1e-6, &grads, &mut |visitor| decoder.visit(visitor));
    }
}
