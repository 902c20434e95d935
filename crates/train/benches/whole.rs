//! Speed of whole steps: decoding, prefill, a training step, a step of QAlign with and without reuse of prefixes. The items
//! of a run are tokens (of QAlign: chain steps), so that divan's throughput column reads as tokens (steps) per second.

mod work;

use divan::Bencher;
use divan::counter::ItemsCount;
use generate::engine::Limits;
use generate::schedule::{self, Services};
use generate::{Chance, Prompt, Purpose, Reward, Stream};
use inference::{Method, MethodConfig, Tools};
use model::Policy;
use reward::{Brevity, Verifier};
use serde_json::json;
use work::{BF16, MODEL, POLICY, Training, engine, sample, text};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(clippy::print_stdout, reason = "the table below it is of this model")]
fn main() {
    println!("model: {}", MODEL.0.display());
    divan::main();
}

/// A step of decoding: every row grows by a token, sampled at temperature 1; prompts of 64 tokens, whose keys and values
/// are cached before the clock starts, and 32 new ones.
fn decoding(bencher: Bencher<'_, '_>, policy: &'static Policy, rows: usize) {
    const NEW: usize = 32;
    let filled = || {
        let mut engine = engine(policy, rows);
        sample(&mut engine, rows, 64, 1);
        engine
    };
    bencher.counter(ItemsCount::new(rows * NEW)).with_inputs(filled).bench_local_values(|mut engine| {
        sample(&mut engine, rows, 64, NEW);
        engine
    });
}

#[divan::bench(args = [1, 8, 32, 128], sample_count = 5, sample_size = 1)]
fn decode(bencher: Bencher<'_, '_>, rows: usize) {
    decoding(bencher, &POLICY, rows);
}

#[divan::bench(args = [1, 8, 32, 128], sample_count = 5, sample_size = 1)]
fn decode_bf16(bencher: Bencher<'_, '_>, rows: usize) {
    decoding(bencher, &BF16, rows);
}

/// The last logits of 8 rows of 128 tokens.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn prefill(bencher: Bencher<'_, '_>) {
    bencher.counter(ItemsCount::new(8_usize * 128)).bench_local(|| work::prefill(8, 128));
}

/// Forward, backward, clipping and AdamW on 4 rows of 128 tokens.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn training_step_full(bencher: Bencher<'_, '_>) {
    let mut training = Training::full();
    bencher.counter(ItemsCount::new(4_usize * 128)).bench_local(|| training.step(4, 128));
}

/// The same with adapters.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn training_step_lora(bencher: Bencher<'_, '_>) {
    let mut training = Training::lora();
    bencher.counter(ItemsCount::new(4_usize * 128)).bench_local(|| training.step(4, 128));
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
        let mut engine = engine(&POLICY, 64).with_limits(Limits { kept_tokens, ..Limits::default() });
        let mut reward = Verifier::new(Brevity::tokens(), std::sync::Arc::new(|_: &[u32]| String::new()));
        let mut services = Services::new(&mut engine)
            .with_scorer(&*POLICY)
            .with_reward(Some(&mut reward as &mut dyn Reward));
        let mut chance = Chance::Streams;
        schedule::run(&*machine, &prompts, &streams, &mut services, &mut chance, &mut |_| true).expect("room")
    });
}
