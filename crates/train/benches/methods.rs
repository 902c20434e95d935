//! Speed of test-time methods: what guidance costs beside the base alone, and what reuse of prefixes saves a chain. The items
//! of a run are tokens (of QAlign: chain steps), so that divan's throughput column reads as tokens (steps) per second.

mod work;

use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::ItemsCount;
use generate::{Engine, Sampling, Source, Step};
use model::{Decoder, Policy};
use work::{MODEL, PATH, rewarded, sample, with_adapters};

#[global_allocator]
static ALLOCATOR: kernels::memory::Allocator = kernels::memory::Allocator;

/// The packed weights that a base and its adapters share.
static BACKBONE: LazyLock<Decoder> = LazyLock::new(|| MODEL.frozen());
static ADAPTED: LazyLock<Decoder> =
    LazyLock::new(|| with_adapters(MODEL.clone(), &["q_proj", "k_proj", "v_proj"]));
static BASE: LazyLock<Policy> = LazyLock::new(|| Policy::new("base", &BACKBONE));
static ADAPTER: LazyLock<Policy> =
    LazyLock::new(|| Policy::new("adapter", &BACKBONE.with_adapter_of(&ADAPTED)));
static COPY: LazyLock<Policy> = LazyLock::new(|| Policy::new("copy", &ADAPTED));

#[allow(clippy::print_stdout, reason = "the table below it is of this model")]
fn main() {
    println!("model: {}", PATH.display());
    kernels::memory::keep();
    divan::main();
}

/// Decoding of 8 rows: by the base alone (`none`), guided by an adapter of rank 16 on its weights (`adapter`), and by the same
/// model with weights of its own (`copy`). Prompts of 64 tokens, whose keys and values are cached before the clock starts, and 32 new tokens.
#[divan::bench(args = ["none", "adapter", "copy"], sample_count = 5, sample_size = 1)]
fn genarm(bencher: Bencher<'_, '_>, by: &str) {
    const ROWS: usize = 8;
    const NEW: usize = 32;
    let filled = || {
        let base = Source { policy: &*BASE as &dyn Step, weight: 1.0 };
        let sources = match by {
            "none" => vec![base],
            "adapter" => vec![base, Source { policy: &*ADAPTER, weight: 1.0 }],
            _ => vec![base, Source { policy: &*COPY, weight: 1.0 }],
        };
        let mut engine = Engine::product(sources, 0, Sampling::default()).expect("settings");
        sample(&mut engine, ROWS, 64, 1);
        engine
    };
    bencher.counter(ItemsCount::new(ROWS * NEW)).with_inputs(filled).bench_local_values(|mut engine| {
        sample(&mut engine, ROWS, 64, NEW);
        engine
    });
}

/// Steps of chains of QAlign, with a sequence reward model of the policy's size; policy and reward model both reuse prefixes, or neither.
fn qalign(
    bencher: Bencher<'_, '_>,
    (chains, steps): (usize, usize),
    (prompt, tokens): (usize, usize),
    reuse: bool,
) {
    let method = work::qalign(steps);
    bencher
        .counter(ItemsCount::new(chains * steps))
        .bench_local(|| rewarded(method.clone(), chains, (prompt, tokens), reuse));
}

#[divan::bench(args = [true, false], sample_count = 3, sample_size = 1)]
fn qalign_32_tokens_reusing_prefixes(bencher: Bencher<'_, '_>, reuse: bool) {
    qalign(bencher, (16, 4), (64, 32), reuse);
}

/// Chains, and whether they reuse prefixes.
const CHAINS: [(usize, bool); 4] = [(8, true), (8, false), (16, true), (16, false)];

#[divan::bench(args = CHAINS, sample_count = 1, sample_size = 1)]
fn qalign_256_tokens_reusing_prefixes(bencher: Bencher<'_, '_>, (chains, reuse): (usize, bool)) {
    qalign(bencher, (chains, 8), (64, 256), reuse);
}

#[divan::bench(args = CHAINS, sample_count = 1, sample_size = 1)]
fn qalign_256_tokens_behind_256_reusing_prefixes(bencher: Bencher<'_, '_>, (chains, reuse): (usize, bool)) {
    qalign(bencher, (chains, 8), (256, 256), reuse);
}
