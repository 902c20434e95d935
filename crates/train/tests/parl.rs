//! PARL: the law of its labels, the optimum that its turns have on a policy small enough to write down, and a run that is
//! stopped and resumed.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use data::wordmath::Config as Difficulty;
use generate::{Candidate, Ledger, Prompt, Purpose, Reward, Stream};
use model::files::{AdapterConfig, attach};
use model::{Decoder, Grads, Policy};
use objective::algebra::Weights;
use objective::draw::Exhaustive;
use objective::law::{kl, tilt};
use objective::losses::BradleyTerry;
use objective::numeric::{sigmoid, softmax};
use recipe::{Log, Optim, Save};
use train::Error;
use train::checkpoint::Learner;
use train::identity::Identity;
use train::meters::Meters;
use train::methods::parl::{Parl, ParlTask, Turns, prefers_first};
use train::methods::pretrain::{Pretrain, Source};
use train::on_policy::Parts;
use train::trainer::{Outcome, Plan, Task, run};

/// The probability that the first answer is labelled better, `None` where no label is given.
fn label(first: f64, second: f64, temperature: f64) -> Option<f64> {
    let law = Exhaustive::law(|draw| prefers_first(first, second, temperature, draw)).expect("finite");
    let p = |wanted| law.iter().find(|(label, _)| *label == Some(wanted)).map_or(0.0, |(_, p)| *p);
    law.iter().all(|(label, _)| label.is_some()).then(|| p(true))
}

#[test]
fn labels_follow_bradley_terry_and_at_temperature_zero_the_order() {
    for (first, second, temperature) in [(1.0, 0.0, 1.0), (-2.0, 1.0, 0.5), (3.0, 3.0, 2.0)] {
        let p = label(first, second, temperature).expect("a label");
        assert!((p - sigmoid((first - second) / temperature)).abs() < 1e-12, "{p}");
    }
    assert_eq!(label(1.0, 0.0, 0.0), Some(1.0));
    assert_eq!(label(0.0, 1.0, 0.0), Some(0.0));
    assert_eq!(label(1.0, 1.0, 0.0), None);
}

/// Turns with exact expectations: a reward for each answer, fitted to the labels of pairs of the current policy, and a policy
/// that follows it. `right` is whether labels are read the right way.
fn turns(p: &[f64], r: &[f64], temperature: f64, beta: f64, right: bool) -> Vec<f64> {
    let loss = BradleyTerry { center_coefficient: 0.0 };
    let size = p.len();
    let mut logits: Vec<f64> = p.iter().map(|p| p.ln()).collect();
    let mut learned = vec![0.0; size];
    for _ in 0..60 {
        let law = softmax(&logits);
        for _ in 0..200 {
            let mut gradient = vec![0.0; size];
            for y in 0..size {
                for z in (0..size).filter(|z| *z != y) {
                    let first = label(r[y], r[z], temperature).expect("a label");
                    let (chosen, rejected) = if right { (y, z) } else { (z, y) };
                    let pair = loss.pair(learned[chosen], learned[rejected], 0.0);
                    // Each pair comes in both orders, so that the first being better says it all.
                    gradient[chosen] += law[y] * law[z] * first * pair.grad_chosen;
                    gradient[rejected] += law[y] * law[z] * first * pair.grad_rejected;
                }
            }
            for ((value, g), p) in learned.iter_mut().zip(&gradient).zip(&law) {
                *value -= g / p;
            }
        }
        for _ in 0..10 {
            let law = softmax(&logits);
            let coefficients = Weights::regularised(beta).exact(&law, p, &learned, p);
            let total: f64 = coefficients.iter().sum();
            for ((logit, c), p) in logits.iter_mut().zip(&coefficients).zip(&law) {
                *logit -= 0.5 / beta * (c - total * p) / p;
            }
        }
    }
    softmax(&logits)
}

#[test]
fn turns_on_fresh_preferences_reach_the_tilt_of_the_reward_that_labels() {
    let (p, r) = ([0.4, 0.1, 0.2, 0.3], [0.0, 2.0, 1.0, 1.0]);
    for (temperature, beta) in [(1.0, 0.8), (2.0, 0.5)] {
        let scaled: Vec<f64> = r.iter().map(|r| r / (temperature * beta)).collect();
        let want = tilt(&p, &scaled).expect("law").law;
        let reached = turns(&p, &r, temperature, beta, true);
        assert!(kl(&reached, &want) < 1e-3, "{reached:?} and not {want:?}");
        assert!(kl(&p, &want) > 0.1, "it is elsewhere than the reference");
        let missed = turns(&p, &r, temperature, beta, false);
        assert!(kl(&missed, &want) > 0.1, "labels read the wrong way must miss: {missed:?}");
    }
}

const STEPS: usize = 6;

fn model_settings() -> Pretrain {
    Pretrain {
        vocab_size: 300,
        tokenizer_problems: 200,
        hidden_size: 32,
        intermediate_size: 48,
        layers: 2,
        heads: 2,
        kv_heads: 1,
        context: 256,
        prompt_weight: 0.1,
    }
}

fn optim() -> Optim {
    Optim {
        steps: Some(STEPS),
        batch_size: 4,
        micro_batch_size: Some(2),
        learning_rate: 1e-3,
        ..Optim::default()
    }
}

/// A reward that counts one token, or that tells nothing apart.
struct Counts {
    of: Option<u32>,
    ledger: Ledger,
}

impl Reward for Counts {
    fn name(&self) -> &'static str {
        "counts"
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, generate::Error> {
        let count = |ids: &[u32]| ids.iter().map(|id| self.of.map_or(0.0, |of| f64::from(id % of))).sum();
        Ok(candidates.iter().map(|candidate| count(candidate.ids)).collect())
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// Stops after a step, as Ctrl-C does.
struct Stopping<'a, T> {
    task: T,
    at: usize,
    stop: &'a AtomicBool,
}

impl<T: Task> Task for Stopping<'_, T> {
    fn total_steps(&self) -> usize {
        self.task.total_steps()
    }

    fn gradient(
        &mut self,
        learner: &mut Learner,
        step: usize,
        meters: &mut Meters,
    ) -> Result<(Grads, u64), Error> {
        if step + 1 == self.at {
            self.stop.store(true, Ordering::Relaxed);
        }
        self.task.gradient(learner, step, meters)
    }

    fn state(&mut self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        self.task.state()
    }

    fn restore(&mut self, learner: &Learner, checkpoint: &Path, device: &Device) -> Result<(), Error> {
        self.task.restore(learner, checkpoint, device)
    }
}

fn parl(
    folder: &Path,
    resume: bool,
    at: usize,
    lora: bool,
    of: Option<u32>,
    temperature: f64,
) -> Result<Outcome, Error> {
    let tokenizer = model_settings().tokenizer(&Source::Wordmath(Difficulty::default()))?;
    let base: Decoder = model_settings().decoder(&tokenizer, 7, &Device::flex());
    let reference = Policy::new("reference", &base);
    let parts = || Parts {
        prompts: (0..4).map(|index| Prompt::from_ids(index, vec![5 + index as u32, 9, 3])).collect(),
        cached: Vec::new(),
        laws: Vec::new(),
        reference: &reference,
        reward: Box::new(Counts { of, ledger: Ledger::default() }),
        budget: 6,
        limits: generate::engine::Limits::default(),
        decode: Box::new(|_| String::new()),
    };
    let config = AdapterConfig {
        bilinear: None,
        r: 2,
        alpha: 4.0,
        use_rslora: false,
        targets: vec!["q_proj".into(), "up_proj".into()],
        base: "test".into(),
    };
    let learner = |mut decoder: Decoder| {
        if lora {
            let mut stream = Stream::new(1, Purpose::Init, 1, 0);
            attach(&mut decoder, &config, &mut || stream.uniform())?;
        }
        decoder.visit(&mut |name, mut slot| {
            slot.set_trained(!lora || name.contains("lora_") || name == "score.weight");
        });
        let (adapter, tokenizer) = (lora.then(|| config.clone()), tokenizer.clone());
        Ok::<_, Error>(Learner { decoder, adapter, tokenizer, base: "test".into() })
    };
    let mut head = Stream::new(2, Purpose::Init, 0, 0);
    let judge = learner(base.clone().with_score_head(Some(0), &mut || head.normal()))?;
    let method = Parl {
        rollouts: 2,
        policy_steps: 2,
        reward_steps: 3,
        pairs: 4,
        reward_batch_size: 3,
        reward_learning_rate: 1e-3,
        temperature,
        ..Parl::default()
    };
    let turns = Turns { labels: parts(), policy: parts(), judge };
    let task = ParlTask::new(&method, &optim(), turns, 11)?;
    let stop = AtomicBool::new(false);
    let plan = Plan {
        folder,
        title: "test",
        optim: &optim(),
        save: &Save { every_steps: 2, keep_last: 9, ..Save::default() },
        log: &Log { every_steps: 1, tensorboard: false, samples: 0 },
        identity: &Identity::default(),
        resume,
        stop: &stop,
        card: "# Test\n",
    };
    run(&plan, &mut learner(base)?, &mut Stopping { task, at, stop: &stop }, &Device::flex())
}

fn metrics(folder: &Path) -> Vec<serde_json::Value> {
    let text = fs_err::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
    let without_time = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        if let Some(fields) = line.as_object_mut() {
            fields.retain(|name, _| !name.ends_with("tokens_per_second") && !name.starts_with("time/"));
        }
        line
    };
    text.lines().map(without_time).collect()
}

#[test]
fn both_models_are_resumed_bit_for_bit_within_and_between_rounds() {
    for (lora, at) in [(false, 3), (true, 4)] {
        let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        assert!(matches!(parl(whole.path(), false, 0, lora, Some(7), 1.0), Ok(Outcome::Done(_))));
        let stopped = parl(parts.path(), false, at, lora, Some(7), 1.0).expect("it saves and stops");
        assert!(matches!(stopped, Outcome::Interrupted(_)));
        assert!(matches!(parl(parts.path(), true, 0, lora, Some(7), 1.0), Ok(Outcome::Done(_))));
        assert_eq!(metrics(whole.path()), metrics(parts.path()));
        let weights = if lora { "adapter_model.safetensors" } else { "model.safetensors" };
        let reward = format!("reward/{weights}");
        for file in [weights, &reward, "state/reward_optimizer.safetensors", "state/pairs.json"] {
            let read = |folder: &Path| fs_err::read(folder.join("latest").join(file)).expect("a checkpoint");
            assert_eq!(read(whole.path()), read(parts.path()), "{file}");
        }
        // A round begins with the reward's updates, and changes the reward alone until then.
        let lines = metrics(whole.path());
        for (step, line) in lines.iter().enumerate() {
            let begins = step % 2 == 0;
            for name in ["reward/loss", "reward/accuracy", "reward/fresh_accuracy", "parl/gold_score"] {
                assert_eq!(line.get(name).is_some(), begins, "{name} at step {step}: {line}");
            }
            assert!(line["objective/scores"].is_number() && line["loss"].is_number());
        }
        let judge = |step: &str| fs_err::read(whole.path().join(step).join(&reward)).expect("a checkpoint");
        assert_ne!(judge("step-000002"), judge("step-000006"));
        // One earlier round is kept.
        let pairs = fs_err::read_to_string(whole.path().join("latest/state/pairs.json")).expect("pairs");
        assert!(pairs.contains("\"round\":1") && pairs.contains("\"round\":2"));
        assert!(!pairs.contains("\"round\":0"));
        fs_err::remove_file(parts.path().join("step-000006/state/pairs.json")).expect("it is there");
        let error = parl(parts.path(), true, 0, lora, Some(7), 1.0).expect_err("missing").to_string();
        assert!(error.contains("pairs.json") && error.contains("hint"), "{error}");
    }
}

#[test]
fn rewards_that_tell_nothing_apart_teach_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = parl(folder.path(), false, 0, false, None, 0.0).expect_err("no label").to_string();
    assert!(error.contains("round 0") && error.contains("raise `pairs`"), "{error}");
}
