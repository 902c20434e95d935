//! The loop that all training methods share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use inference::setup::Places;
use model::Grads;
use recipe::{Log, Optim, Save};
use serde_json::{Value, json};

use crate::atomic;
use crate::card;
use crate::checkpoint::{self, Learner, TrainerState};
use crate::error::Error;
use crate::meters::Meters;
use crate::optimizer::{AdamW, Moments, clip};
use crate::progress::Progress;
use crate::schedule::learning_rate;
use crate::sinks::Sinks;

/// What a method adds to the loop: the gradient of a step, and what is measured beside.
///
/// A step is a function of the weights, of its index, and of what the task itself keeps ([`Task::state`]): data order and
/// random streams are addressed by the index. That is why a resumed run needs no more than these and the moments.
pub trait Task {
    /// Updates in all.
    fn total_steps(&self) -> usize;

    /// The gradient of update `step`, and metrics of it; `loss` among them. Also returns the number of tokens run.
    fn gradient(
        &mut self,
        learner: &mut Learner,
        step: usize,
        meters: &mut Meters,
    ) -> Result<(Grads, u64), Error>;

    /// Called when the weights have moved; `step` updates are made.
    fn updated(&mut self, learner: &Learner, step: usize) -> Result<(), Error> {
        let _ = (learner, step);
        Ok(())
    }

    /// Why the run is to end before its last step, if it is.
    fn done(&self) -> Option<String> {
        None
    }

    /// Files that the task needs to go on, beside weights and moments; named from the checkpoint's folder.
    fn state(&mut self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        Ok(Vec::new())
    }

    /// Takes up what [`Task::state`] left in `checkpoint`; the learner has its weights already.
    fn restore(&mut self, learner: &Learner, checkpoint: &Path, device: &Device) -> Result<(), Error> {
        let _ = (learner, checkpoint, device);
        Ok(())
    }

    /// Metrics on data held out, with names that begin with `eval_`.
    fn evaluate(&mut self, learner: &Learner, meters: &mut Meters) -> Result<(), Error> {
        let _ = (learner, meters);
        Ok(())
    }

    /// A few samples to look at.
    fn samples(&mut self, learner: &Learner, count: usize, step: usize) -> Result<Vec<Value>, Error> {
        let _ = (learner, count, step);
        Ok(Vec::new())
    }

    /// Seconds of the last [`Task::gradient`] that were no forward and backward pass of training.
    fn phases(&mut self) -> Phases {
        Phases::default()
    }

    /// What was not as it should be so far, a line each; it stands in the checkpoint's README.md.
    fn alarms(&self) -> Vec<String> {
        Vec::new()
    }

    /// Epochs of the data that `step` updates make.
    fn epoch(&self, step: usize) -> Option<f64> {
        let _ = step;
        None
    }
}

/// Seconds of parts of a step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Phases {
    /// Drawing answers.
    pub generation: f64,
    /// Rewards, and log-probabilities of what was drawn under other models.
    pub scoring: f64,
}

impl Phases {
    /// Adds each part's share of a step of `seconds`; what is left is training itself. Nothing where nothing is drawn.
    fn observe(self, seconds: f64, meters: &mut Meters) {
        if self == Self::default() {
            return;
        }
        let stepping = (seconds - self.generation - self.scoring).max(0.0);
        for (name, part) in [
            ("time/generation", self.generation),
            ("time/scoring", self.scoring),
            ("time/stepping", stepping),
        ] {
            meters.add_sum(name, part, seconds);
        }
    }
}

/// Where and how a run goes.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The run folder.
    pub folder: &'a Path,
    /// What the console calls the run.
    pub title: &'a str,
    /// `[optim]`.
    pub optim: &'a Optim,
    /// `[save]`.
    pub save: &'a Save,
    /// `[log]`.
    pub log: &'a Log,
    /// Fingerprint of the recipe.
    pub recipe: &'a str,
    /// Whether a run that is there goes on.
    pub resume: bool,
    /// Set by Ctrl-C.
    pub stop: &'a AtomicBool,
    /// Text of the model card.
    pub card: &'a str,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All steps are done; the folder of the last checkpoint.
    Done(PathBuf),
    /// It was interrupted after a checkpoint; the folder of that.
    Interrupted(PathBuf),
}

/// Trains `learner` on `task`.
pub fn run(
    plan: &Plan<'_>,
    learner: &mut Learner,
    task: &mut dyn Task,
    device: &Device,
) -> Result<Outcome, Error> {
    // Who checkpoints gradients has little memory.
    if plan.optim.gradient_checkpointing {
        kernels::memory::keep_briefly();
    } else {
        kernels::memory::keep();
    }
    let total = task.total_steps();
    let mut moments = Moments::default();
    let mut state =
        TrainerState { step: 0, total_steps: total, tokens: 0, recipe: plan.recipe.to_owned(), best: None };
    if plan.resume
        && let Some((found, at)) = checkpoint::resume(plan.folder, learner, device)?
    {
        if at.recipe != plan.recipe {
            return Err(Error::Checkpoint {
                    path: plan.folder.join(checkpoint::step_name(at.step)),
                    message: "it was made by another recipe\n  hint: run without --resume under another run.name, or with the recipe.toml of the run folder".into(),
                });
        }
        task.restore(learner, &plan.folder.join(checkpoint::step_name(at.step)), device)?;
        (moments, state) = (found, at);
    }
    let settings = AdamW {
        beta1: plan.optim.beta1,
        beta2: plan.optim.beta2,
        eps: plan.optim.eps,
        weight_decay: plan.optim.weight_decay,
    };
    let warmup = plan.optim.warmup(total);
    let mut sinks = Sinks::open(plan.folder, plan.title, plan.log.tensorboard, state.step, total)?;
    let mut meters = Meters::default();
    let mut saved = plan.folder.join(checkpoint::step_name(state.step));
    let mut since = (Instant::now(), state.tokens);
    while state.step < total && task.done().is_none() {
        let step = state.step;
        let begun = Instant::now();
        let (mut grads, tokens) = task.gradient(learner, step, &mut meters)?;
        finite(step, "the loss", meters.mean("loss").unwrap_or(0.0))?;
        let norm = clip(&mut grads, plan.optim.max_grad_norm);
        finite(step, "the norm of the gradient", norm)?;
        let rate = learning_rate(
            plan.optim.schedule,
            plan.optim.learning_rate,
            plan.optim.min_lr_ratio,
            warmup,
            total,
            step,
        );
        moments.update(&settings, rate, &grads, &mut |visitor| learner.decoder.visit(visitor));
        state.step += 1;
        state.tokens += tokens;
        task.updated(learner, state.step)?;
        task.phases().observe(begun.elapsed().as_secs_f64(), &mut meters);
        meters.add("grad_norm", norm);
        meters.add("learning_rate", rate);
        sinks.tick(state.step);

        let ends = task.done();
        if let Some(reason) = &ends {
            Progress::say(&format!("{}: step {}: {reason}", plan.title, state.step));
        }
        let last = state.step == total || ends.is_some();
        let stopping = plan.stop.load(Ordering::Relaxed);
        let save_due = last
            || stopping
            || (plan.save.every_steps > 0 && state.step.is_multiple_of(plan.save.every_steps));
        if save_due && !stopping {
            task.evaluate(learner, &mut meters)?;
        }
        if last || state.step.is_multiple_of(plan.log.every_steps) || save_due {
            let (started, tokens_before) = since;
            let seconds = started.elapsed().as_secs_f64();
            meters.add("tokens_per_second", (state.tokens - tokens_before) as f64 / seconds.max(1e-9));
            meters.add("num_tokens", state.tokens as f64);
            if let Some(epoch) = task.epoch(state.step) {
                meters.add("epoch", epoch);
            }
            since = (Instant::now(), state.tokens);
            let measured = meters.take();
            sinks.log(state.step, &measured)?;
            if save_due {
                let better = better(plan.save, measured.mean(&plan.save.metric), state.best);
                if let Some(value) = better {
                    state.best = Some((value, state.step));
                }
                let card = card::with_alarms(plan.card, &task.alarms());
                saved = checkpoint::save(plan.folder, learner, &moments, task.state()?, &state, &card)?;
                keep_alarms(plan.folder, &task.alarms())?;
                if better.is_some() {
                    atomic::point(&plan.folder.join("best"), &checkpoint::step_name(state.step))?;
                }
                let best = state.best.filter(|_| plan.save.keep_best).map(|(_, step)| step);
                checkpoint::prune(plan.folder, plan.save.keep_last, best)?;
                if plan.log.samples > 0 && !stopping {
                    write_samples(
                        plan.folder,
                        state.step,
                        task.samples(learner, plan.log.samples, state.step)?,
                    )?;
                }
            }
        }
        if stopping && !last {
            sinks.finish();
            return Ok(Outcome::Interrupted(saved));
        }
    }
    sinks.finish();
    for alarm in task.alarms() {
        Progress::say(&format!("{}: {alarm}", plan.title));
    }
    Ok(Outcome::Done(saved))
}

fn finite(step: usize, what: &'static str, value: f64) -> Result<(), Error> {
    if value.is_finite() { Ok(()) } else { Err(Error::Diverged { step, what, value }) }
}

/// Keeps the alarms in the run folder, where comparisons find them; no file where there are none.
fn keep_alarms(folder: &Path, alarms: &[String]) -> Result<(), Error> {
    if alarms.is_empty() {
        return Ok(());
    }
    atomic::write(&folder.join(Places::ALARMS), format!("{}\n", json!(alarms)).as_bytes())
}

/// The metric's value, if it is the best so far and `best` is kept.
fn better(save: &Save, value: Option<f64>, best: Option<(f64, usize)>) -> Option<f64> {
    let value = value.filter(|_| save.keep_best)?;
    let improves =
        best.is_none_or(|(before, _)| if save.greater_is_better { value > before } else { value < before });
    improves.then_some(value)
}

fn write_samples(folder: &Path, step: usize, samples: Vec<Value>) -> Result<(), Error> {
    if samples.is_empty() {
        return Ok(());
    }
    let mut text = String::new();
    for sample in samples {
        text.push_str(&sample.to_string());
        text.push('\n');
    }
    let name = format!("samples/{}.jsonl", checkpoint::step_name(step));
    atomic::write(&folder.join(name), text.as_bytes())
}

/// A row of a sample table.
pub fn sample_row(prompt: &str, completion: &str, numbers: &[(&str, f64)]) -> Value {
    let mut row = json!({"prompt": prompt, "completion": completion});
    for (name, value) in numbers {
        row[*name] = json!(value);
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_time_add_to_one_and_are_weighed_by_the_length_of_steps() {
        let mut meters = Meters::default();
        Phases { generation: 1.0, scoring: 0.5 }.observe(2.0, &mut meters);
        Phases { generation: 5.0, scoring: 0.5 }.observe(6.0, &mut meters);
        let share = |name: &str| meters.mean(name).expect("observed");
        assert!((share("time/generation") - 6.0 / 8.0).abs() < 1e-12);
        assert!((share("time/scoring") - 1.0 / 8.0).abs() < 1e-12);
        assert!((share("time/stepping") - 1.0 / 8.0).abs() < 1e-12);
        let mut none = Meters::default();
        Phases::default().observe(2.0, &mut none);
        assert_eq!(none, Meters::default());
    }
}
