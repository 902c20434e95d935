//! Times work for another program: reads lines such as `generate 32 64 64` (rows, tokens of a prompt, new tokens), `prefill 8 512`
//! (`generate-bf16`, `prefill-int8` and so on with weights in fewer bits), `temperature`, `top-k`, `top-p` and `min-p` as `generate` at a temperature of 0.8,
//! of the 50 likeliest tokens, of 0.95 of the law and of tokens a twentieth as likely as the likeliest, `train 8 256`, `lora 8 256` (rows, tokens; `lora-bf16` and `lora-int8` beside weights in
//! fewer bits; `train-checkpointed`, `lora-checkpointed`, `lora-bf16-checkpointed` with gradient checkpointing), `train-answers 8 128 128 4` and `lora-answers`
//! (rows, tokens of a prompt, of an answer, answers of each prompt), `best-of 64 200 64` (samples, tokens of the prompt, new
//! tokens), `qalign 16 200 128 32` (chains, tokens of a prompt, of an answer, steps) from standard input, does each once, and answers with its seconds. `benches/peers/peers.py` runs it beside others.

#[path = "../benches/work/mod.rs"]
mod work;

use std::io::{BufRead, Write};
use std::sync::LazyLock;
use std::time::Instant;

use generate::Sampling;
use kernels::Precision;
use model::Policy;
use work::{
    BF16, INT8, JUDGE, PATH, POLICY, Training, engine, engine_with, prefill, qalign, rewarded, sample,
};

#[global_allocator]
static ALLOCATOR: kernels::memory::Allocator = kernels::memory::Allocator;

fn main() -> std::io::Result<()> {
    kernels::memory::keep();
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", PATH.display())?;
    let (mut full, mut lora) = (None, [None, None, None]);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let numbers: Vec<usize> = words.iter().skip(1).filter_map(|word| word.parse().ok()).collect();
        let seconds = match (words.first(), numbers.as_slice()) {
            (Some(kind @ &("generate" | "generate-bf16" | "generate-int8")), &[rows, prompt, new]) => {
                let policy = held(kind);
                let mut engine = engine(policy, rows);
                time(|| sample(&mut engine, rows, prompt, new))
            }
            (Some(kind @ &("temperature" | "top-k" | "top-p" | "min-p")), &[rows, prompt, new]) => {
                let settings = match *kind {
                    "temperature" => Sampling { temperature: 0.8, ..Sampling::default() },
                    "top-k" => Sampling { top_k: 50, ..Sampling::default() },
                    "top-p" => Sampling { top_p: 0.95, ..Sampling::default() },
                    _ => Sampling { min_p: 0.05, ..Sampling::default() },
                };
                let mut engine = engine_with(&POLICY, rows, settings);
                time(|| sample(&mut engine, rows, prompt, new))
            }
            (Some(kind @ &("prefill" | "prefill-bf16" | "prefill-int8")), &[rows, tokens]) => {
                let policy = held(kind);
                time(|| {
                    prefill(policy, rows, tokens);
                })
            }
            (Some(&"best-of"), &[n, prompt, new]) => {
                LazyLock::force(&JUDGE);
                let method = serde_json::json!({ "best-of-n": { "n": n } });
                time(|| rewarded(method, 1, (prompt, new), true))
            }
            (Some(&"qalign"), &[chains, prompt, new, steps]) => {
                LazyLock::force(&JUDGE);
                time(|| rewarded(qalign(steps), chains, (prompt, new), true))
            }
            (Some(kind @ &("train" | "train-checkpointed")), &[rows, tokens]) => {
                let training = full.get_or_insert_with(Training::full);
                time(|| training.step((rows, tokens), kind.ends_with("checkpointed")))
            }
            (Some(&"train-answers"), &[rows, prompt, new, each]) if each > 0 => {
                let training = full.get_or_insert_with(Training::full);
                time(|| training.answers(rows, (prompt, new), each))
            }
            (Some(&"lora-answers"), &[rows, prompt, new, each]) if each > 0 => {
                let training = lora[0].get_or_insert_with(|| Training::lora(Precision::F32));
                time(|| training.answers(rows, (prompt, new), each))
            }
            (
                Some(
                    kind @ &("lora"
                    | "lora-bf16"
                    | "lora-int8"
                    | "lora-checkpointed"
                    | "lora-bf16-checkpointed"
                    | "lora-int8-checkpointed"),
                ),
                &[rows, tokens],
            ) => {
                let place = ["f32", "bf16", "int8"].iter().position(|bits| kind.contains(bits)).unwrap_or(0);
                let precision = [Precision::F32, Precision::Bf16, Precision::Int8][place];
                let training = lora[place].get_or_insert_with(|| Training::lora(precision));
                time(|| training.step((rows, tokens), kind.ends_with("checkpointed")))
            }
            _ => {
                writeln!(
                    out,
                    "error: {line:?} is not `generate ROWS PROMPT NEW`, `prefill`, `train` or `lora ROWS TOKENS`, `train-answers` or `lora-answers ROWS PROMPT NEW EACH`, `best-of N PROMPT NEW` or `qalign CHAINS PROMPT NEW STEPS`"
                )?;
                continue;
            }
        };
        writeln!(out, "{seconds}")?;
        out.flush()?;
    }
    Ok(())
}

/// The policy whose weights are in the number format that a kind of work names, loaded.
fn held(kind: &str) -> &'static Policy {
    match kind.split_once('-') {
        None => &POLICY,
        Some((_, "bf16")) => &BF16,
        Some(_) => &INT8,
    }
}

fn time(work: impl FnOnce()) -> f64 {
    let started = Instant::now();
    work();
    started.elapsed().as_secs_f64()
}
