//! A run that was stopped and resumed ends bit-identical to one that was not; a small batch accumulated equals the large.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use data::wordmath::Config as Difficulty;
use generate::{Candidate, Ledger, Prompt, Purpose, Reward, Stream};
use model::files::{AdapterConfig, attach};
use model::{Grads, Policy};
use recipe::{Log, Optim, Save};
use train::Error;
use train::checkpoint::Learner;
use train::identity::Identity;
use train::meters::Meters;
use train::methods::j_bond::JBond;
use train::methods::pretrain::{Pretrain, PretrainTask, Source};
use train::methods::rl::Rl;
use train::on_policy::{Compose, EstimatorName, OnPolicy, Parts, Ppo, PpoTask};
use train::trainer::{Outcome, Phases, Plan, Task, run};

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
struct Interrupted<'a, T> {
    task: T,
    at: usize,
    stop: &'a AtomicBool,
    nan_at: usize,
}

impl<T: Task> Task for Interrupted<'_, T> {
    fn total_steps(&self) -> usize {
        self.task.total_steps()
    }

    fn updated(&mut self, learner: &Learner, step: usize) -> Result<(), Error> {
        self.task.updated(learner, step)
    }

    fn done(&self) -> Option<String> {
        self.task.done()
    }

    fn phases(&mut self) -> Phases {
        self.task.phases()
    }

    fn alarms(&self) -> Vec<String> {
        self.task.alarms()
    }

    fn state(&mut self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        self.task.state()
    }

    fn restore(&mut self, learner: &Learner, checkpoint: &Path, device: &Device) -> Result<(), Error> {
        self.task.restore(learner, checkpoint, device)
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

fn wordmath() -> Source {
    Source::Wordmath(Difficulty::default())
}

/// Rows of a file, fewer than the steps visit.
fn read_rows() -> Source {
    let text = |row: usize| (format!("row {row}:"), format!(" {} is its square.", row * row));
    Source::Rows { name: "rows.jsonl".into(), texts: (0..9).map(text).collect() }
}

fn train(folder: &Path, resume: bool, at: usize, nan_at: usize) -> Result<Outcome, Error> {
    train_on(&wordmath(), folder, resume, at, nan_at)
}

fn train_on(
    source: &Source,
    folder: &Path,
    resume: bool,
    at: usize,
    nan_at: usize,
) -> Result<Outcome, Error> {
    let tokenizer = settings().tokenizer(source)?;
    let decoder = settings().decoder(&tokenizer, 7, &Device::flex());
    let task = PretrainTask::new(&settings(), &optim(), source, 2, &tokenizer, 7)?;
    let learner = Learner { decoder, adapter: None, tokenizer, base: "test".into() };
    run_task(folder, resume, at, nan_at, learner, task)
}

fn run_task(
    folder: &Path,
    resume: bool,
    at: usize,
    nan_at: usize,
    learner: Learner,
    task: impl Task,
) -> Result<Outcome, Error> {
    let save = Save { every_steps: 2, keep_last: 9, ..Save::default() };
    let log = Log { every_steps: 1, tensorboard: false, samples: 0 };
    run_as(folder, resume, at, nan_at, learner, task, &save, &log)
}

#[expect(clippy::too_many_arguments, reason = "each is what a test varies")]
fn run_as(
    folder: &Path,
    resume: bool,
    at: usize,
    nan_at: usize,
    mut learner: Learner,
    task: impl Task,
    save: &Save,
    log: &Log,
) -> Result<Outcome, Error> {
    let adapters = learner.adapter.is_some();
    learner.decoder.visit(&mut |name, mut slot| {
        slot.set_trained(!adapters || name.contains("lora_") || name.starts_with("v_head."));
    });
    let stop = AtomicBool::new(false);
    let plan = Plan {
        folder,
        title: "test",
        optim: &optim(),
        save,
        log,
        identity: &Identity::default(),
        resume,
        stop: &stop,
        card: "# Test\n",
    };
    run(&plan, &mut learner, &mut Interrupted { task, at, stop: &stop, nan_at }, &Device::flex())
}

/// A reward that tells most texts apart.
struct Hash {
    ledger: Ledger,
}

impl Reward for Hash {
    fn name(&self) -> &'static str {
        "hash"
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, generate::Error> {
        let of = |ids: &[u32]| ids.iter().fold(7_u32, |hash, id| hash.wrapping_mul(31).wrapping_add(*id));
        Ok(candidates.iter().map(|candidate| f64::from(of(candidate.ids) % 1000)).collect())
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}

/// J-BOND on a new model: its anchor is a moving average, so that it must be a part of the checkpoint.
fn j_bond(
    folder: &Path,
    resume: bool,
    at: usize,
    lora: bool,
    kl_limit: Option<f64>,
) -> Result<Outcome, Error> {
    let tokenizer = settings().tokenizer(&wordmath())?;
    let mut decoder = settings().decoder(&tokenizer, 7, &Device::flex());
    let reference = Policy::new("reference", &decoder);
    let prompts = (0..4).map(|index| Prompt::from_ids(index, vec![5 + index as u32, 9, 3])).collect();
    let method = JBond { eta: 0.3, gamma: 0.1, kl_limit, ..JBond::default() };
    let parts = Parts {
        prompts,
        cached: Vec::new(),
        laws: Vec::new(),
        reference: &reference,
        reward: Box::new(Hash { ledger: Ledger::default() }),
        budget: 6,
        limits: generate::engine::Limits::default(),
        decode: Box::new(|_| String::new()),
    };
    let task = OnPolicy::new(method.compose(&[])?, &optim(), parts, 11);
    let config = AdapterConfig {
        r: 2,
        alpha: 4.0,
        use_rslora: false,
        targets: vec!["q_proj".into(), "up_proj".into()],
        base: "test".into(),
        bilinear: None,
    };
    if lora {
        let mut stream = Stream::new(1, Purpose::Init, 1, 0);
        attach(&mut decoder, &config, &mut || stream.uniform())?;
    }
    let learner = Learner { decoder, adapter: lora.then_some(config), tokenizer, base: "test".into() };
    run_task(folder, resume, at, 99, learner, task)
}

/// PPO on a new model, its batches of four answers used for two epochs of two updates.
fn ppo(folder: &Path, resume: bool, at: usize, lora: bool) -> Result<Outcome, Error> {
    let tokenizer = settings().tokenizer(&wordmath())?;
    let mut decoder = settings().decoder(&tokenizer, 7, &Device::flex());
    let reference = Policy::new("reference", &decoder);
    let prompts = (0..4).map(|index| Prompt::from_ids(index, vec![5 + index as u32, 9, 3])).collect();
    let ppo = Ppo { mini_batches: 2, ..Ppo::default() };
    let estimator = EstimatorName::Ppo;
    let method = Rl { beta: 0.1, rollouts: 1, estimator, ppo: Some(ppo.clone()), ..Rl::default() };
    let parts = Parts {
        prompts,
        cached: Vec::new(),
        laws: Vec::new(),
        reference: &reference,
        reward: Box::new(Hash { ledger: Ledger::default() }),
        budget: 6,
        limits: generate::engine::Limits::default(),
        decode: Box::new(|_| String::new()),
    };
    let task = PpoTask::new(method.compose(&[])?, ppo, &optim(), parts, 11)?;
    let config = AdapterConfig {
        bilinear: None,
        r: 2,
        alpha: 4.0,
        use_rslora: false,
        targets: vec!["q_proj".into(), "up_proj".into()],
        base: "test".into(),
    };
    if lora {
        let mut stream = Stream::new(1, Purpose::Init, 1, 0);
        attach(&mut decoder, &config, &mut || stream.uniform())?;
    }
    let decoder = decoder.with_value_head();
    let learner = Learner { decoder, adapter: lora.then_some(config), tokenizer, base: "test".into() };
    run_task(folder, resume, at, 99, learner, task)
}

fn weights(folder: &Path) -> Vec<u8> {
    fs_err::read(folder.join("latest/model.safetensors")).expect("a checkpoint")
}

fn metrics(folder: &Path) -> Vec<String> {
    let text = fs_err::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
    let without_time = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        if let Some(fields) = line.as_object_mut() {
            fields.retain(|name, _| !name.ends_with("tokens_per_second") && !name.starts_with("time/"));
        }
        line.to_string()
    };
    text.lines().map(without_time).collect()
}

#[test]
fn stopped_and_resumed_equals_never_stopped_bit_for_bit() {
    for source in [wordmath(), read_rows()] {
        let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        assert!(matches!(train_on(&source, whole.path(), false, 0, 99), Ok(Outcome::Done(_))));
        let stopped = train_on(&source, parts.path(), false, 3, 99).expect("it saves and stops");
        assert_eq!(stopped, Outcome::Interrupted(parts.path().join("step-000003")));
        assert_ne!(weights(whole.path()), weights(parts.path()));
        assert!(matches!(train_on(&source, parts.path(), true, 0, 99), Ok(Outcome::Done(_))));
        assert_eq!(weights(whole.path()), weights(parts.path()));
        assert_eq!(metrics(whole.path()), metrics(parts.path()));
        let state = ["state/optimizer.safetensors", "state/trainer.json"];
        for file in ["config.json", "tokenizer.json", "README.md"].into_iter().chain(state) {
            assert!(whole.path().join("latest").join(file).exists(), "{file}");
        }
    }
}

/// Names of all that lies in a run folder, but for what lies within checkpoints.
fn contents(folder: &Path) -> Vec<String> {
    let entries =
        fs_err::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").file_name());
    let mut names: Vec<String> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_run_that_was_stopped_leaves_what_an_undisturbed_one_leaves() {
    // Stopped between two checkpoints and two lines of metrics, and where both are due.
    for at in [3, 4] {
        let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let sparse = |folder: &Path, resume: bool, at: usize| {
            let tokenizer = settings().tokenizer(&wordmath())?;
            let decoder = settings().decoder(&tokenizer, 7, &Device::flex());
            let task = PretrainTask::new(&settings(), &optim(), &wordmath(), 2, &tokenizer, 7)?;
            let learner = Learner { decoder, adapter: None, tokenizer, base: "test".into() };
            let save = Save { every_steps: 4, keep_last: 2, ..Save::default() };
            let log = Log { every_steps: 2, tensorboard: false, samples: 0 };
            run_as(folder, resume, at, 99, learner, task, &save, &log)
        };
        sparse(whole.path(), false, 0).expect("it ends");
        sparse(parts.path(), false, at).expect("it stops");
        assert!(matches!(sparse(parts.path(), true, 0), Ok(Outcome::Done(_))));
        assert_eq!(contents(whole.path()), contents(parts.path()), "{at}");
        assert_eq!(metrics(whole.path()).len(), 3);
        assert_eq!(metrics(whole.path()), metrics(parts.path()), "{at}");
        for file in ["model.safetensors", "state/trainer.json", "state/optimizer.safetensors"] {
            let read = |folder: &Path| fs_err::read(folder.join("latest").join(file)).expect("a checkpoint");
            assert_eq!(read(whole.path()), read(parts.path()), "{file}");
        }
    }
}

#[test]
fn a_kill_between_a_checkpoint_and_what_points_to_it_is_put_right() {
    let folder = tempfile::tempdir().expect("a folder");
    train(folder.path(), false, 0, 99).expect("it ends");
    let link = folder.path().join("latest");
    let points = || fs_err::read_link(&link).expect("a link").to_string_lossy().into_owned();
    for stale in [Some("step-000004"), None] {
        fs_err::remove_file(&link).expect("there");
        if let Some(stale) = stale {
            io::atomic::point(&link, stale).expect("linked");
        }
        assert!(matches!(train(folder.path(), true, 0, 99), Ok(Outcome::Done(_))));
        assert_eq!(points(), "step-000006");
    }
}

#[test]
fn a_flipped_bit_in_any_file_of_a_checkpoint_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    train(folder.path(), false, 0, 99).expect("it ends");
    let step = folder.path().join("step-000006");
    let state = ["state/optimizer.safetensors", "state/trainer.json", "state/checksums.json"];
    for file in ["model.safetensors", "config.json", "tokenizer.json"].into_iter().chain(state) {
        let whole = fs_err::read(step.join(file)).expect("there");
        let mut flipped = whole.clone();
        let place = flipped.len() * 2 / 3;
        flipped[place] ^= 4;
        fs_err::write(step.join(file), flipped).expect("written");
        let error = train(folder.path(), true, 0, 99).expect_err("damaged").to_string();
        assert!(
            error.contains("step-000006") && error.contains("hint: remove this checkpoint"),
            "{file}: {error}"
        );
        fs_err::write(step.join(file), whole).expect("written");
    }
    assert!(matches!(train(folder.path(), true, 0, 99), Ok(Outcome::Done(_))));
}

#[test]
fn rows_that_cannot_be_learned_are_named() {
    let refused = |texts: Vec<(String, String)>, held_out| {
        let source = Source::Rows { name: "rows.jsonl".into(), texts };
        let tokenizer = settings().tokenizer(&source).expect("a tokenizer");
        let task = PretrainTask::new(&settings(), &optim(), &source, held_out, &tokenizer, 7);
        task.expect_err("it is refused").to_string()
    };
    let long = ("é ø ".repeat(400), " a".to_owned());
    let error = refused(vec![("a".into(), " b".into()), long], 0);
    assert!(error.contains("rows.jsonl") && error.contains("row 2") && error.contains("context"), "{error}");
    let error = refused(vec![("a".into(), " b".into())], 1);
    assert!(error.contains("1 rows, of which 1") && error.contains("held_out"), "{error}");
}

#[test]
fn an_anchor_that_moves_is_resumed_bit_for_bit() {
    for lora in [false, true] {
        let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        assert!(matches!(j_bond(whole.path(), false, 0, lora, None), Ok(Outcome::Done(_))));
        let stopped = j_bond(parts.path(), false, 3, lora, None).expect("it saves and stops");
        assert_eq!(stopped, Outcome::Interrupted(parts.path().join("step-000003")));
        assert!(matches!(j_bond(parts.path(), true, 0, lora, None), Ok(Outcome::Done(_))));
        assert_eq!(metrics(whole.path()), metrics(parts.path()));
        let weights = if lora { "adapter_model.safetensors" } else { "model.safetensors" };
        for file in [weights, "state/anchor.safetensors"] {
            let read = |folder: &Path| fs_err::read(folder.join("latest").join(file)).expect("a checkpoint");
            assert_eq!(read(whole.path()), read(parts.path()), "{file}");
        }
        // The anchor has moved, and lags behind the policy.
        let anchor = |step: &str| {
            fs_err::read(whole.path().join(step).join("state/anchor.safetensors")).expect("a checkpoint")
        };
        assert_ne!(anchor("step-000002"), anchor("step-000006"));
        let last: serde_json::Value = serde_json::from_str(&metrics(whole.path())[STEPS - 1]).expect("JSON");
        assert!(last["anchor/kl"].is_number() && last["j-bond/firing_rate"].is_number(), "{last}");
        // Without the anchor's file there is nothing to go on from.
        fs_err::remove_file(parts.path().join("step-000006/state/anchor.safetensors")).expect("it is there");
        let error = j_bond(parts.path(), true, 0, lora, None).expect_err("it is missing").to_string();
        assert!(error.contains("anchor") && error.contains("hint"), "{error}");
    }
}

#[test]
fn ppo_is_resumed_bit_for_bit_between_two_updates_on_the_same_answers() {
    for lora in [false, true] {
        let (whole, parts) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        assert!(matches!(ppo(whole.path(), false, 0, lora), Ok(Outcome::Done(_))));
        // Three of the four updates on the first batch are made.
        let stopped = ppo(parts.path(), false, 3, lora).expect("it saves and stops");
        assert_eq!(stopped, Outcome::Interrupted(parts.path().join("step-000003")));
        assert!(parts.path().join("latest/state/rollouts.json").exists());
        assert!(matches!(ppo(parts.path(), true, 0, lora), Ok(Outcome::Done(_))));
        assert_eq!(metrics(whole.path()), metrics(parts.path()));
        let weights = if lora { "adapter_model.safetensors" } else { "model.safetensors" };
        for file in [weights, "state/value_head.safetensors", "state/optimizer.safetensors", "README.md"] {
            let read = |folder: &Path| fs_err::read(folder.join("latest").join(file)).expect("a checkpoint");
            assert_eq!(read(whole.path()), read(parts.path()), "{file}");
        }
        // What others read is a plain language model; the values have learned something.
        let names = |file: &str| {
            let path = whole.path().join("latest").join(file);
            let weights = model::weights::Weights::of_files(&[path]).expect("weights");
            weights.names().map(str::to_owned).collect::<Vec<_>>()
        };
        assert!(names(weights).iter().all(|name| !name.contains("v_head")));
        assert_eq!(names("state/value_head.safetensors"), ["v_head.summary.bias", "v_head.summary.weight"]);
        let head = |step: &str| {
            fs_err::read(whole.path().join(step).join("state/value_head.safetensors")).expect("a checkpoint")
        };
        assert_ne!(head("step-000002"), head("step-000006"));
        // On the first update of a batch the policy is the one that drew it, to the last bit; on the others it is not.
        let lines: Vec<serde_json::Value> =
            metrics(whole.path()).iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for (step, line) in lines.iter().enumerate() {
            let moved = line["policy/approxkl_avg"].as_f64().expect("a number");
            let first = step % 4 == 0;
            assert_eq!(first, line.get("objective/scores").is_some(), "step {step}: {line}");
            assert!(!first || (moved == 0.0 && line["val/ratio"] == 1.0), "step {step}: {line}");
            // The warm-up begins with a rate of zero.
            assert!(first || step == 1 || moved > 0.0, "step {step}: {line}");
            assert!(line["policy/entropy_avg"].as_f64().expect("a number") > 0.0);
            for name in ["loss/policy_avg", "loss/value_avg", "policy/clipfrac_avg", "val/clipfrac_avg"] {
                assert!(line[name].is_number(), "{name}: {line}");
            }
        }
        // What the interruption left is gone with the next checkpoint that is due.
        assert!(!parts.path().join("step-000003").exists() && parts.path().join("step-000004").exists());
        // Without the answers there is nothing to go on from.
        let parts = tempfile::tempdir().expect("a folder");
        ppo(parts.path(), false, 3, lora).expect("it saves and stops");
        fs_err::remove_file(parts.path().join("step-000003/state/rollouts.json")).expect("it is there");
        let error = ppo(parts.path(), true, 0, lora).expect_err("they are missing").to_string();
        assert!(error.contains("rollouts.json") && error.contains("hint"), "{error}");
    }
}

#[test]
fn a_step_says_how_its_time_was_spent() {
    let folder = tempfile::tempdir().expect("a folder");
    assert!(matches!(ppo(folder.path(), false, 0, false), Ok(Outcome::Done(_))));
    let text = fs_err::read_to_string(folder.path().join("metrics.jsonl")).expect("metrics");
    let first: serde_json::Value = serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
    let share = |name: &str| first[name].as_f64().expect("a number");
    let sum = share("time/generation") + share("time/scoring") + share("time/stepping");
    assert!((sum - 1.0).abs() < 1e-6 && share("time/generation") > 0.0, "{first}");
    assert!(share("generated_tokens_per_second") > 0.0);
}

#[test]
fn a_kl_limit_ends_the_run_and_resuming_does_not_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    // The least positive distance: the first step that has one ends the run.
    let ended = j_bond(folder.path(), false, 0, false, Some(1e-9)).expect("it ends");
    let Outcome::Done(saved) = ended else { panic!("it is done, not interrupted") };
    assert_ne!(saved, folder.path().join("step-000006"), "before its last step");
    assert_eq!(j_bond(folder.path(), true, 0, false, Some(1e-9)).expect("it stays"), Outcome::Done(saved));
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
