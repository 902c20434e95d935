//! Writes a report of made-up numbers into the folder given: what the pages and figures look like.
//!
//! `cargo run -p evaluate --example synthetic_report -- FOLDER`

use std::error::Error;
use std::path::PathBuf;

use evaluate::report::{Comparison, Cost, RowInput, Section, metric, table, write};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

const PROMPTS: usize = 200;

/// A method's law: accuracy, gold and proxy reward, win rate, KL, length; and its cost per prompt.
struct Law {
    method: &'static str,
    policy: &'static str,
    params: &'static [(&'static str, f64)],
    n: usize,
    values: [Option<f64>; 6],
    decode: u64,
    reward: u64,
}

#[allow(clippy::print_stdout, reason = "an example shows its result")]
fn main() -> Result<(), Box<dyn Error>> {
    let folder =
        std::env::args_os().nth(1).map_or_else(|| std::env::temp_dir().join("report"), PathBuf::from);
    let mut generator = ChaCha8Rng::seed_from_u64(0);
    let mut uniform = move || generator.next_u64() as f64 / 2_f64.powi(64) - 0.5;
    let difficulty: Vec<f64> = (0..PROMPTS).map(|_| uniform()).collect();
    let mut comparison = Comparison::new("quickstart", 0, PROMPTS, 0)?;
    comparison.title("Trained against test-time alignment on made-up numbers");
    for law in laws() {
        let mut row = RowInput {
            method: law.method.to_owned(),
            policy: law.policy.to_owned(),
            n: law.n,
            params: law.params.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect(),
            cost: Cost {
                decode_tokens: law.decode * PROMPTS as u64,
                prefill_tokens: 42 * PROMPTS as u64,
                reward_tokens: law.reward * PROMPTS as u64,
                forward_passes: law.decode * 4,
                reward_calls: law.reward / 40 * PROMPTS as u64,
                seconds: (law.decode + law.reward) as f64 * 0.013,
                parameter_tokens: 0.0,
            },
            ..RowInput::default()
        };
        let spread = [1.0, 0.8, 2.2, 0.7, 0.5, 30.0];
        for ((name, mean), spread) in metric::STANDARD.into_iter().zip(law.values).zip(spread) {
            let Some(mean) = mean else {
                row.reasons.insert(name.to_owned(), "the rule picks an answer, not a text".to_owned());
                continue;
            };
            let values = difficulty.iter().map(|hard| {
                let raw = mean + spread * (0.8 * hard + 0.5 * uniform());
                let value = match name {
                    metric::ACCURACY => f64::from(raw > 0.5),
                    metric::WIN_RATE => raw.clamp(0.0, 1.0),
                    metric::KL => raw.max(0.0) * f64::from(mean > 0.0),
                    _ => raw,
                };
                Some(value)
            });
            row.per_prompt.insert(name.to_owned(), values.collect());
        }
        if law.method == "qalign" {
            row.diagnostics.insert("ess".to_owned(), 37.2 / law.n as f64 * 16.0);
            row.diagnostics.insert("acceptance".to_owned(), 0.61);
        }
        comparison.add(row)?;
    }
    comparison.note(
        "KL of qalign (n=64): the importance weights of 128 samples have an effective sample size of 9.3, below 10: read \
         it as a lower bound, or draw more samples.",
    );
    comparison.section(Section {
        title: "Held-out pairwise accuracy".to_owned(),
        columns: ["model", "pairs", "accuracy"].map(str::to_owned).to_vec(),
        rows: vec![["reward", "400", "0.781 [0.738, 0.819]"].map(str::to_owned).to_vec()],
        text: vec!["The reward model orders held-out pairs better than chance.".to_owned()],
    });
    comparison.setting("policy", "made up");
    comparison.setting("device", "none");
    let report = comparison.finish()?;
    println!("{}", table(&report));
    for path in write(&folder, &report)? {
        println!("{}", path.display());
    }
    Ok(())
}

fn laws() -> Vec<Law> {
    let mut laws = vec![
        Law {
            method: "sample",
            policy: "tiny",
            params: &[],
            n: 1,
            values: [Some(0.48), Some(0.0), Some(0.0), Some(0.5), Some(0.0), Some(41.0)],
            decode: 41,
            reward: 0,
        },
        Law {
            method: "greedy",
            policy: "tiny",
            params: &[],
            n: 1,
            values: [Some(0.55), Some(0.12), Some(0.2), Some(0.54), None, Some(40.0)],
            decode: 40,
            reward: 0,
        },
    ];
    for (step, n) in [2_usize, 4, 8, 16, 32].into_iter().enumerate() {
        let s = step as f64;
        let kl = (n as f64).ln() - (n as f64 - 1.0) / n as f64;
        let tokens = 41 * n as u64;
        laws.push(Law {
            method: "best-of-n",
            policy: "tiny",
            params: &[],
            n,
            values: [
                Some(0.52 + 0.055 * s),
                Some(0.17 + 0.14 * s - 0.012 * s * s),
                Some(0.4 + 0.36 * s),
                Some(0.5 + 0.5 * (n as f64 - 1.0) / (n as f64 + 1.0)),
                Some(kl),
                Some(41.0 - s),
            ],
            decode: tokens,
            reward: tokens,
        });
        laws.push(Law {
            method: "majority",
            policy: "tiny",
            params: &[],
            n,
            values: [Some(0.49 + 0.06 * s), None, None, None, None, None],
            decode: tokens,
            reward: 0,
        });
        laws.push(Law {
            method: "weighted-majority",
            policy: "tiny",
            params: &[("beta", 0.5)],
            n,
            values: [Some(0.52 + 0.065 * s), None, None, None, None, None],
            decode: tokens,
            reward: tokens,
        });
    }
    for (n, s) in [(16_usize, 1.0), (64, 2.0)] {
        laws.push(Law {
            method: "qalign",
            policy: "tiny",
            params: &[("beta", 0.5)],
            n,
            values: [
                Some(0.58 + 0.07 * s),
                Some(0.2 + 0.17 * s),
                Some(0.4 + 0.4 * s),
                Some(0.6 + 0.08 * s),
                Some(0.5 * s + 0.1),
                Some(43.0),
            ],
            decode: 22 * n as u64,
            reward: 42 * n as u64,
        });
    }
    for alpha in [1.0, 2.0] {
        laws.push(Law {
            method: "genarm",
            policy: "tiny",
            params: if alpha == 1.0 { &[("alpha", 1.0)] } else { &[("alpha", 2.0)] },
            n: 1,
            values: [
                Some(0.53 + 0.03 * alpha),
                Some(0.17 * alpha),
                Some(0.35 * alpha),
                Some(0.55 + 0.06 * alpha),
                Some(0.32 * alpha * alpha),
                Some(44.0),
            ],
            decode: 88,
            reward: 0,
        });
    }
    laws.push(Law {
        method: "sample",
        policy: "vbon",
        params: &[],
        n: 1,
        values: [Some(0.6), Some(0.33), Some(0.9), Some(0.75), Some(0.95), Some(39.0)],
        decode: 39,
        reward: 0,
    });
    for (step, n) in [2_usize, 4, 8].into_iter().enumerate() {
        let s = step as f64;
        laws.push(Law {
            method: "best-of-n",
            policy: "vbon",
            params: &[],
            n,
            values: [
                Some(0.63 + 0.04 * s),
                Some(0.42 + 0.06 * s),
                Some(1.2 + 0.3 * s),
                Some(0.8 + 0.04 * s),
                Some(1.2 + 0.42 * s),
                Some(38.0),
            ],
            decode: 39 * n as u64,
            reward: 39 * n as u64,
        });
    }
    laws
}
