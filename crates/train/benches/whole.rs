//! Speed of whole steps: decoding, prefill, a training step, a step of QAlign with and without reuse of prefixes. The items
//! of a run are tokens (of QAlign: chain steps), so that divan's throughput column reads as tokens (steps) per second.
//!
//! `PLUMB_BENCH_MODEL` names the model's directory; without it SmolLM2-135M-Instruct is taken where it is, else the
//! shipped tiny model.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use burn::tensor::Device;
use divan::Bencher;
use divan::counter::ItemsCount;
use generate::engine::Limits;
use generate::schedule::{self, Services};
use generate::{Chance, Engine, Prompt, Purpose, Reward, Sample, SampleAsk, Sampling, Step, Stream};
use inference::{Method, MethodConfig, Tools};
use model::learn::{Row, log_probs};
use model::{Decoder, Policy};
use reward::{Brevity, Verifier};
use serde_json::json;
use train::lanes;
use train::optimizer::{AdamW, Moments, clip};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

static MODEL: LazyLock<(PathBuf, Decoder)> = LazyLock::new(|| {
    let named = std::env::var_os("PLUMB_BENCH_MODEL").map(PathBuf::from);
    let path = named
        .or_else(testkit::smollm2)
        .unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../checkpoints/tiny"));
    let mut decoder = model::files::load(&path, &Device::flex()).expect("a model");
    // Every row runs to its budget.
    decoder.config.eos.clear();
    (path, decoder)
});
static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy::new("model", &MODEL.1));

#[allow(clippy::print_stdout, reason = "the table below it is of this model")]
fn main() {
    println!("model: {}", MODEL.0.display());
    divan::main();
}

const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0 };

fn text(seed: u64, tokens: usize) -> Vec<u32> {
    let mut stream = Stream::new(seed, Purpose::Sample, 0, 0);
    let vocab = MODEL.1.config.vocab_size as u64;
    (0..tokens).map(|_| (stream.bits() % vocab) as u32).collect()
}

/// A step of decoding: every row grows by a token, sampled at temperature 1; prompts of 64 tokens, 32 new ones.
#[divan::bench(args = [1, 8, 32], sample_count = 5, sample_size = 1)]
fn decode(bencher: Bencher<'_, '_>, rows: usize) {
    const NEW: usize = 32;
    bencher.counter(ItemsCount::new(rows * NEW)).bench_local(|| {
        let asks = (0..rows as u64).map(|row| SampleAsk {
            prefix: text(row, 64),
            prompt_len: 64,
            budget: NEW,
            stream: Stream::new(1, Purpose::Sample, 0, row),
        });
        let mut engine = Engine::new(&*POLICY, Sampling::default()).expect("settings");
        engine.sample(asks.collect(), &mut Chance::Streams).expect("room")
    });
}

/// The last logits of 8 rows of 128 tokens.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn prefill(bencher: Bencher<'_, '_>) {
    let rows: Vec<Vec<u32>> = (0..8).map(|row| text(row, 128)).collect();
    bencher.counter(ItemsCount::new(8_usize * 128)).bench_local(|| {
        let mut session = POLICY.session();
        let open: Vec<_> = rows.iter().map(|_| session.open()).collect();
        let batch: Vec<_> = open.iter().copied().zip(rows.iter().map(Vec::as_slice)).collect();
        session.extend(&batch).expect("room").row(0)[0]
    });
}

/// Forward, backward, clipping and AdamW on 4 rows of 128 tokens.
fn training(bencher: Bencher<'_, '_>, mut decoder: Decoder, trained: fn(&str) -> bool) {
    decoder.visit(&mut |name, mut slot| slot.set_trained(trained(name)));
    decoder.pack_frozen();
    let rows: Vec<Vec<u32>> = (0..4).map(|row| text(row, 128)).collect();
    let loss: Vec<bool> = (0..128).map(|at| at > 0).collect();
    let mut moments = Moments::default();
    bencher.counter(ItemsCount::new(4_usize * 128)).bench_local(|| {
        let batch: Vec<Row<'_>> = rows.iter().map(|ids| Row { ids, loss: &loss }).collect();
        let (mut grads, _) = lanes::run(&decoder, &batch, |decoder, batch| {
            let forward = log_probs(decoder, batch, false);
            let coefficients = vec![-1.0 / (4.0 * 127.0); forward.values.len()];
            (forward.backward(decoder, &coefficients), ())
        });
        clip(&mut grads, 1.0);
        moments.update(&ADAMW, 1e-6, &grads, &mut |visitor| decoder.visit(visitor));
    });
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn training_step_full(bencher: Bencher<'_, '_>) {
    training(bencher, MODEL.1.clone(), |_| true);
}

#[divan::bench(sample_count = 5, sample_size = 1)]
fn training_step_lora(bencher: Bencher<'_, '_>) {
    let mut decoder = MODEL.1.clone();
    let targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    let config = model::files::AdapterConfig {
        r: 16,
        alpha: 32.0,
        use_rslora: false,
        targets: targets.map(str::to_owned).to_vec(),
        base: "model".into(),
    };
    let mut stream = Stream::new(0, Purpose::Init, 0, 0);
    model::files::attach(&mut decoder, &config, &mut || stream.uniform()).expect("targets");
    training(bencher, decoder, |name| name.contains("lora_"));
}

/// Steps of 16 chains of QAlign with 32 new tokens; the reward costs nothing.
#[divan::bench(args = [true, false], sample_count = 3, sample_size = 1)]
fn qalign_step_reusing_prefixes(bencher: Bencher<'_, '_>, reuse: bool) {
    const CHAINS: usize = 16;
    const STEPS: usize = 4;
    let method: MethodConfig = serde_json::from_value(
        json!({ "qalign": { "steps": STEPS, "chains": 1, "beta": 1.0, "answer": "last" } }),
    )
    .expect("a method");
    let machine = method.machine(&Tools::new(32).with_reward()).expect("settings");
    let prompts: Vec<Prompt> = (0..CHAINS).map(|row| Prompt::from_ids(row, text(row as u64, 64))).collect();
    let streams: Vec<Stream> =
        (0..CHAINS as u64).map(|row| Stream::new(0, Purpose::Method, 0, row)).collect();
    let kept_tokens = if reuse { Limits::default().kept_tokens } else { 0 };
    bencher.counter(ItemsCount::new(CHAINS * STEPS)).bench_local(|| {
        let mut engine = Engine::new(&*POLICY, Sampling::default())
            .expect("settings")
            .with_limits(Limits { kept_tokens, ..Limits::default() });
        let mut reward = Verifier::new(Brevity::tokens(), std::sync::Arc::new(|_: &[u32]| String::new()));
        let mut services = Services {
            sampler: &mut engine,
            scorer: Some(&*POLICY),
            reward: Some(&mut reward as &mut dyn Reward),
        };
        let mut chance = Chance::Streams;
        schedule::run(&*machine, &prompts, &streams, &mut services, &mut chance, &mut |_| true).expect("room")
    });
}
