//! Speed of whole steps: decoding, prefill, a training step. The items of a run are tokens, so that divan's throughput column
//! reads as tokens per second.

mod work;

use divan::Bencher;
use divan::counter::ItemsCount;
use kernels::Precision;
use model::Policy;
use work::{BF16, PATH, POLICY, Training, engine, sample};

#[global_allocator]
static ALLOCATOR: kernels::memory::Allocator = kernels::memory::Allocator;

#[allow(clippy::print_stdout, reason = "the table below it is of this model")]
fn main() {
    println!("model: {}", PATH.display());
    kernels::memory::keep();
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
    bencher.counter(ItemsCount::new(8_usize * 128)).bench_local(|| work::prefill(&POLICY, 8, 128));
}

/// Forward, backward, clipping and AdamW on 4 rows of 128 tokens.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn training_step_full(bencher: Bencher<'_, '_>) {
    let mut training = Training::full();
    bencher.counter(ItemsCount::new(4_usize * 128)).bench_local(|| training.step((4, 128), false));
}

/// The same with adapters.
#[divan::bench(sample_count = 5, sample_size = 1)]
fn training_step_lora(bencher: Bencher<'_, '_>) {
    let mut training = Training::lora(Precision::F32);
    bencher.counter(ItemsCount::new(4_usize * 128)).bench_local(|| training.step((4, 128), false));
}
