//! Methods that learn from a pool, on a small model: losses fall, and a run that was stopped goes on as if it had not been.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use data::wordmath::{Config as Difficulty, Generator, Split};
use generate::{End, Purpose, Score, Stream};
use model::{Decoder, Grads, Policy};
use recipe::{Log, Optim, Save, Schedule};
use reward::PoolSample;
use train::Error;
use train::checkpoint::Learner;
use train::identity::Identity;
use train::meters::Meters;
use train::methods::bon_sft::{BonSft, Choose};
use train::methods::bonbon::Bonbon;
use train::methods::prefix_scorer::{Form, PrefixScorer, Scorer};
use train::methods::pretrain::{Pretrain, Source};
use train::methods::qrpo::Qrpo;
use train::methods::sppo::Sppo;
use train::pooled::{Pooled, Scored};
use train::supervised::Supervised;
use train::trainer::{Outcome, Plan, Task, run};

const SAMPLES: usize = 4;

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

fn model(score: bool) -> (Decoder, data::tokenizer::Tokenizer) {
    let tokenizer = settings().tokenizer(&Source::Wordmath(Difficulty::default())).expect("a tokenizer");
    let decoder = settings().decoder(&tokenizer, 7, &Device::flex());
    if !score {
        return (decoder, tokenizer);
    }
    let mut stream = Stream::new(1, Purpose::Init, 0, 0);
    (decoder.with_score_head(Some(tokenizer.pad_id()), &mut || stream.normal()), tokenizer)
}

/// Rows of some problems: random tokens as samples, whose reward is the share of even ones.
fn rows<M: Pooled>(method: &M) -> Vec<M::Row> {
    let (decoder, tokenizer) = model(false);
    let policy = Policy::new("base", &decoder);
    let generator = Generator::new(Difficulty::default()).expect("settings");
    let mut rows = Vec::new();
    for index in 0..8 {
        let prompt =
            tokenizer.encode(&generator.problem(Split::Train, index).prompt(), false).expect("encoded");
        let mut stream = Stream::new(5, Purpose::Sample, 0, index);
        let ids: Vec<Vec<u32>> =
            (0..SAMPLES).map(|k| (0..3 + k).map(|_| 3 + (stream.bits() % 200) as u32).collect()).collect();
        let items: Vec<(&[u32], &[u32])> =
            ids.iter().map(|ids| (prompt.as_slice(), ids.as_slice())).collect();
        let scores = policy.score(&items).expect("scored");
        let sample = |(ids, scores): (&Vec<u32>, &Vec<f32>)| {
            let log_prob = scores.iter().map(|x| f64::from(*x)).sum();
            PoolSample { ids: ids.clone(), end: End::Eos, log_prob, raw_log_prob: log_prob, kl: None }
        };
        let samples: Vec<PoolSample> = ids.iter().zip(&scores).map(sample).collect();
        let even = |ids: &Vec<u32>| ids.iter().filter(|id| *id % 2 == 0).count() as f64 / ids.len() as f64;
        let rewards: Vec<f64> = ids.iter().map(even).collect();
        let scored = Scored { prompt: &prompt, samples: &samples, rewards: &rewards };
        rows.extend(method.rows(scored, &mut stream).expect("rows"));
    }
    rows
}

/// A task that asks to stop before a step, as Ctrl-C does.
struct Stopped<'a, T> {
    task: T,
    at: usize,
    stop: &'a AtomicBool,
}

impl<T: Task> Task for Stopped<'_, T> {
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

fn train<M: Pooled>(method: M, score: bool, steps: usize, folder: &Path, resume: bool, at: usize) -> Outcome {
    try_train(method, score, steps, folder, resume, at).expect("it runs")
}

fn try_train<M: Pooled>(
    method: M,
    score: bool,
    steps: usize,
    folder: &Path,
    resume: bool,
    at: usize,
) -> Result<Outcome, Error> {
    let optim = Optim {
        steps: Some(steps),
        batch_size: 8,
        micro_batch_size: Some(4),
        learning_rate: 3e-3,
        schedule: Schedule::Constant,
        ..Optim::default()
    };
    let rows = rows(&method);
    let task = Supervised::new(method, rows, Vec::new(), &optim, 3).expect("rows");
    let (mut decoder, tokenizer) = model(score);
    decoder.visit(&mut |_, mut slot| slot.set_trained(true));
    let mut learner = Learner { decoder, adapter: None, tokenizer, base: "test".into() };
    let stop = AtomicBool::new(false);
    let plan = Plan {
        folder,
        title: "test",
        optim: &optim,
        save: &Save { every_steps: 0, keep_last: 9, ..Save::default() },
        log: &Log { every_steps: 1, tensorboard: false, samples: 0 },
        identity: &Identity::default(),
        resume,
        stop: &stop,
        card: "# Test\n",
    };
    run(&plan, &mut learner, &mut Stopped { task, at, stop: &stop }, &Device::flex())
}

fn losses(folder: &Path) -> Vec<f64> {
    let text = fs_err::read_to_string(folder.join("metrics.jsonl")).expect("metrics");
    let loss = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        line["loss"].as_f64()
    };
    text.lines().filter_map(loss).collect()
}

/// The sum of the gradients of the batches of an epoch, all parameters one after the other.
fn epoch_gradient(method: BonSft, batch_size: usize) -> Vec<f64> {
    let rows = rows(&method);
    let (count, optim) = (rows.len(), Optim { batch_size, steps: Some(1), ..Optim::default() });
    let mut task = Supervised::new(method, rows, Vec::new(), &optim, 3).expect("rows");
    let (mut decoder, tokenizer) = model(false);
    decoder.visit(&mut |_, mut slot| slot.set_trained(true));
    let mut learner = Learner { decoder, adapter: None, tokenizer, base: "test".into() };
    let mut whole: std::collections::BTreeMap<String, Vec<f64>> = std::collections::BTreeMap::new();
    let batches = count / batch_size;
    for step in 0..batches {
        let (grads, _) = task.gradient(&mut learner, step, &mut Meters::default()).expect("a gradient");
        for (name, gradient) in grads.iter() {
            let gradient = gradient.to_data();
            let gradient = gradient.iter::<f32>().map(|g| f64::from(g) / batches as f64);
            match whole.get_mut(name) {
                Some(sum) => sum.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += g),
                None => {
                    whole.insert(name.to_owned(), gradient.collect());
                }
            }
        }
    }
    whole.into_values().flatten().collect()
}

#[test]
fn batches_of_weighted_rows_have_the_gradient_of_all_rows_on_average() {
    let subsets = || BonSft { n: 2, pool_samples: SAMPLES, choose: Choose::Subsets };
    let count = rows(&subsets()).len();
    let all = epoch_gradient(subsets(), count);
    let size = all.iter().map(|g| g * g).sum::<f64>().sqrt();
    for batch_size in [1, 2] {
        assert!(count.is_multiple_of(batch_size), "{count} rows");
        let mean = epoch_gradient(subsets(), batch_size);
        let off = mean.iter().zip(&all).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
        assert!(off < 1e-4 * size, "batches of {batch_size}: {off} of {size}");
    }
}

#[test]
fn losses_fall() {
    let falls = |name: &str, go: &dyn Fn(&Path)| {
        let folder = tempfile::tempdir().expect("a folder");
        go(folder.path());
        let losses = losses(folder.path());
        let (first, last) =
            (losses[..3].iter().sum::<f64>() / 3.0, losses[losses.len() - 3..].iter().sum::<f64>() / 3.0);
        assert!(last < 0.7 * first, "{name}: from {first} to {last}");
    };
    let (n, pool_samples) = (SAMPLES, SAMPLES);
    falls("bon-sft", &|folder| {
        train(BonSft { n, pool_samples, ..BonSft::default() }, false, 25, folder, false, 0);
    });
    falls("bonbon", &|folder| {
        train(Bonbon { n, pool_samples, ..Bonbon::default() }, false, 25, folder, false, 0);
    });
    falls("qrpo", &|folder| {
        train(Qrpo { pool_samples, ..Qrpo::default() }, false, 25, folder, false, 0);
    });
    falls("sppo", &|folder| {
        train(Sppo { eta: 10.0, pool_samples, ..Sppo::default() }, false, 25, folder, false, 0);
    });
    falls("fudge", &|folder| {
        train(Scorer::new(&PrefixScorer::default()), true, 25, folder, false, 0);
    });
}

#[test]
fn a_target_network_is_kept_with_the_checkpoint_so_that_resumed_equals_never_stopped() {
    let scorer = || Scorer::new(&PrefixScorer { form: Form::Q, target_every: 4, ..PrefixScorer::default() });
    let weights =
        |folder: &Path| fs_err::read(folder.join("latest/model.safetensors")).expect("a checkpoint");
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let [whole, parts, forgetful] = folders.each_ref().map(tempfile::TempDir::path);
    assert!(matches!(train(scorer(), true, 7, whole, false, 0), Outcome::Done(_)));
    for folder in [parts, forgetful] {
        // After six of seven updates: the target network is that of the fourth.
        let stopped = train(scorer(), true, 7, folder, false, 6);
        assert_eq!(stopped, Outcome::Interrupted(folder.join("step-000006")));
        assert!(folder.join("latest/state/method.safetensors").exists());
    }
    assert!(matches!(train(scorer(), true, 7, parts, true, 0), Outcome::Done(_)));
    assert_eq!(weights(whole), weights(parts));
    assert_eq!(losses(whole), losses(parts));
    // Without it, the run would go on with another target.
    let target = "latest/state/method.safetensors";
    fs_err::remove_file(forgetful.join(target)).expect("removed");
    let refused = try_train(scorer(), true, 7, forgetful, true, 0).expect_err("refused").to_string();
    assert!(refused.contains("state/method.safetensors"), "{refused}");
}
