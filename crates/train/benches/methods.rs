//! Speed of test-time methods: what guidance costs beside the base alone, and what reuse of prefixes saves a chain. The items
//! of a run are tokens (of QAlign: chain steps), so that divan's throughput column reads as tokens (steps) per second.

mod work;

use std::sync::LazyLock;

use divan::Bencher;
use divan::counter::ItemsCount;
use generate::engine::Limits;
use generate::schedule::{self, Services};
use generate::{Chance, Engine, Prompt, Purpose, Reward, Sampling, Source, Step, Stream};
use inference::{Method, MethodConfig, Tools};
use model::{Decoder, Head, Policy};
use reward::SequenceModel;
use serde_json::json;
use work::{MODEL, POLICY, engine, sample, text, with_adapters};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The packed weights that a base and its adapters share.
static BACKBONE: LazyLock<Decoder> = LazyLock::new(|| MODEL.1.frozen());
static ADAPTED: LazyLock<Decoder> = LazyLock::new(|| with_adapters(&["q_proj", "k_proj", "v_proj"]));
static BASE: LazyLock<Policy> = LazyLock::new(|| Policy::new("base", &BACKBONE));
static ADAPTER: LazyLock<Policy> =
    LazyLock::new(|| Policy::new("adapter", &BACKBONE.with_adapter_of(&ADAPTED)));
static COPY: LazyLock<Policy> = LazyLock::new(|| Policy::new("copy", &ADAPTED));

#[allow(clippy::print_stdout, reason = "the table below it is of this model")]
fn main() {
    println!("model: {}", MODEL.0.display());
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
    let method: MethodConfig = serde_json::from_value(
        json!({ "qalign": { "steps": steps, "chains": 1, "beta": 1.0, "answer": "last" } }),
    )
    .expect("a method");
    let machine = method.machine(&Tools::new(tokens).with_reward()).expect("settings");
    let prompts: Vec<Prompt> =
        (0..chains).map(|row| Prompt::from_ids(row, text(row as u64, prompt))).collect();
    let streams: Vec<Stream> =
        (0..chains as u64).map(|row| Stream::new(0, Purpose::Method, 0, row)).collect();
    let mut stream = Stream::new(0, Purpose::Init, 0, 0);
    let judge = MODEL.1.clone().with_head(Head::Score, None, &mut || stream.normal());
    let judge = Policy::new("judge", &judge);
    let kept = |kept: usize| if reuse { kept } else { 0 };
    bencher.counter(ItemsCount::new(chains * steps)).bench_local(|| {
        let limits = Limits::default();
        let limits = Limits { kept_tokens: kept(limits.kept_tokens), ..limits };
        let mut engine = engine(&POLICY, 64).with_limits(limits);
        let limits = reward::Limits::default();
        let limits = reward::Limits { kept_tokens: kept(limits.kept_tokens), ..limits };
        let mut reward = SequenceModel::new(&judge).expect("a score").with_limits(limits);
        let mut services = Services::new(&mut engine)
            .with_scorer(&*POLICY)
            .with_reward(Some(&mut reward as &mut dyn Reward));
        let mut chance = Chance::Streams;
        schedule::run(&*machine, &prompts, &streams, &mut services, &mut chance, &mut |_| true).expect("room")
    });
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
