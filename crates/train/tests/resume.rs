//! A run that was stopped and resumed ends bit-identical to one that was not; a small batch accumulated equals the large.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use data::wordmath::Config as Difficulty;
use model::Grads;
use recipe::{Log, Optim, Save};
use train::Error;
use train::checkpoint::Learner;
use train::meters::Meters;
use train::methods::pretrain::{Pretrain, PretrainTask};
use train::trainer::{Outcome, Plan, Task, run};

const STEPS: usize = 6;

fn settings() -> Pretrain {
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
        weight_decay: 0.01,
        warmup_steps: 2,
        ..Optim::default()
    }
}

/// A task that asks to stop after a step, as Ctrl-C does, or that gives a loss that is no number.
struct Interrupted<'a> {
    task: PretrainTask,
    at: usize,
    stop: &'a AtomicBool,
    nan_at: usize,
}

impl Task for Interrupted<'_> {
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
        if step == self.nan_at {
            meters.add("loss", f64::NAN);
        }
        self.task.gradient(learner, step, meters)
    }
}

fn train(folder: &Path, resume: bool, at: usize, nan_at: usize) -> Result<Outcome, Error> {
    let device = Device::flex();
    let difficulty = Difficulty::default();
    let tokenizer = settings().tokenizer(&difficulty)?;
    let mut decoder = settings().decoder(&tokenizer, 7, &device);
    decoder.visit(&mut |_, mut slot| slot.set_trained(true));
    let task = PretrainTask::new(&settings(), &optim(), &difficulty, 2, &tokenizer)?;
    let mut learner = Learner { decoder, adapter: None, tokenizer, base: "test".into() };
    let stop = AtomicBool::new(false);
    let plan = Plan {
        folder,
        title: "test",
        optim: &optim(),
        save: &Save { every_steps: 2, keep_last: 9, ..Save::default() },
        log: &Log { every_steps: 1, tensorboard: false, samples: 0 },
        recipe: "print",
        resume,
        stop: &stop,
        card: "# Test\n",
    };
    run(&plan, &mut learner, &mut Interrupted { task, at, stop: &stop, nan_at }, &device)
}

fn weights(folder: &Path) -> Vec<u8> {
    fs_err::read(folder.join("latest/model.safetensors")).expect("a checkpoint")
}

fn metrics(folder: &Path) -> Vec<String> {
    let text = fs_err::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
    let without_time = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        if let Some(fields) = line.as_object_mut() {
            fields.remove("tokens_per_second");
            // Measured at checkpoints, and the interrupted run has one more.
            fields.remove("eval_loss");
        }
        line.to_string()
    };
    text.lines().map(without_time).collect()
}

#[test]
fn stopped_and_resumed_equals_never_stopped_bit_for_bit() {
    let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    assert!(matches!(train(whole.path(), false, 0, 99), Ok(Outcome::Done(_))));
    let stopped = train(parts.path(), false, 3, 99).expect("it saves and stops");
    assert_eq!(stopped, Outcome::Interrupted(parts.path().join("step-000003")));
    assert_ne!(weights(whole.path()), weights(parts.path()));
    assert!(matches!(train(parts.path(), true, 0, 99), Ok(Outcome::Done(_))));
    assert_eq!(weights(whole.path()), weights(parts.path()));
    assert_eq!(metrics(whole.path()), metrics(parts.path()));
    for file in
        ["config.json", "tokenizer.json", "README.md", "state/optimizer.safetensors", "state/trainer.json"]
    {
        assert!(whole.path().join("latest").join(file).exists(), "{file}");
    }
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_and_keeps_the_last_checkpoint() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = train(folder.path(), false, 0, 4).expect_err("it diverges").to_string();
    assert!(error.starts_with("step 4: the loss is NaN"), "{error}");
    assert!(error.contains("learning_rate"), "{error}");
    assert!(folder.path().join("latest/model.safetensors").exists());
    assert!(matches!(train(folder.path(), true, 0, 99), Ok(Outcome::Done(_))), "and it can be resumed");
}
