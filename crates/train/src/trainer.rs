//! The loop that all training methods share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::tensor::Device;
use inference::setup::Places;
use io::atomic;
use model::Grads;
use recipe::{Log, Optim, Save};
use serde_json::{Value, json};

use crate::card;
use crate::checkpoint::{self, Learner, TrainerState, Window};
use crate::error::Error;
use crate::identity::{Change, Identity, Verdict};
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

    /// Whether a [`Task::gradient`] that failed has left the task as it was before, so that the steps made
    /// until then may be saved.
    fn outlives_failure(&self) -> bool {
        true
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
    /// What decides the run's results.
    pub identity: &'a Identity,
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
    let mut state = TrainerState {
        step: 0,
        total_steps: total,
        tokens: 0,
        identity: plan.identity.clone(),
        best: None,
        interrupted: false,
        window: Window::default(),
    };
    if plan.resume
        && let Some((found, at)) = checkpoint::resume(plan.folder, learner, device)?
    {
        let path = plan.folder.join(checkpoint::step_name(at.step));
        if let Verdict::Changed(changes) = plan.identity.since(&at.identity) {
            let message = format!(
                "it was made by another recipe or from other inputs:{}\n  hint: run without --resume under another run.name, or put back what has changed",
                listed(&changes)
            );
            return Err(Error::Checkpoint { path, message });
        }
        task.restore(learner, &path, device)?;
        (moments, state) =
            (found, TrainerState { total_steps: total, identity: plan.identity.clone(), ..at });
        checkpoint::settle(plan.folder, &state, plan.save)?;
    }
    let settings = AdamW {
        beta1: plan.optim.beta1,
        beta2: plan.optim.beta2,
        eps: plan.optim.eps,
        weight_decay: plan.optim.weight_decay,
    };
    let warmup = plan.optim.warmup(total);
    let mut sinks = Sinks::open(plan.folder, plan.title, plan.log.tensorboard, state.step, total)?;
    let mut meters = Meters::restored(&state.window.meters);
    let mut window = (Instant::now(), std::mem::take(&mut state.window));
    let mut saved = plan.folder.join(checkpoint::step_name(state.step));
    while state.step < total && task.done().is_none() {
        let step = state.step;
        let begun = Instant::now();
        let before = meters.clone();
        let (mut grads, tokens) = match task.gradient(learner, step, &mut meters) {
            Ok(done) => done,
            Err(error) => {
                state.window = kept(&window, &before);
                return Err(rescue(plan, learner, task, &moments, state, error));
            }
        };
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
        window.1.tokens += tokens;
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
        // What is due at a step is done whether or not the run stops there: it ends as if it had never been
        // stopped.
        let due = last || (plan.save.every_steps > 0 && state.step.is_multiple_of(plan.save.every_steps));
        if due {
            task.evaluate(learner, &mut meters)?;
        }
        let mut measured = None;
        if due || state.step.is_multiple_of(plan.log.every_steps) {
            let seconds = window.1.seconds + window.0.elapsed().as_secs_f64();
            meters.add("tokens_per_second", window.1.tokens as f64 / seconds.max(1e-9));
            meters.add("num_tokens", state.tokens as f64);
            if let Some(epoch) = task.epoch(state.step) {
                meters.add("epoch", epoch);
            }
            window = (Instant::now(), Window::default());
            let line = meters.take();
            sinks.log(state.step, &line)?;
            measured = Some(line);
        }
        if due || stopping {
            let metric = measured.as_ref().and_then(|line| line.mean(&plan.save.metric));
            if let Some(value) = better(plan.save, metric, state.best).filter(|_| due) {
                state.best = Some((value, state.step));
            }
            if due && plan.log.samples > 0 {
                let samples = task.samples(learner, plan.log.samples, state.step)?;
                write_samples(plan.folder, state.step, samples)?;
            }
            state.interrupted = !due;
            state.window = kept(&window, &meters);
            saved = save(plan, learner, task, &moments, &state)?;
            if due && plan.save.keep_best && metric.is_none() {
                return Err(not_measured(plan.save, measured.as_ref()));
            }
        }
        if stopping && !last {
            sinks.finish();
            return Ok(Outcome::Interrupted(saved));
        }
    }
    sinks.finish();
    // A run that was killed after its last checkpoint, and has no step left, is put right here.
    if state.step > 0 {
        checkpoint::settle(plan.folder, &state, plan.save)?;
    }
    keep_alarms(plan.folder, &task.alarms())?;
    for alarm in task.alarms() {
        Progress::say(&format!("{}: {alarm}", plan.title));
    }
    Ok(Outcome::Done(saved))
}

/// Writes a checkpoint, and all that follows from it.
fn save(
    plan: &Plan<'_>,
    learner: &Learner,
    task: &mut dyn Task,
    moments: &Moments,
    state: &TrainerState,
) -> Result<PathBuf, Error> {
    let alarms = task.alarms();
    let card = card::with_alarms(plan.card, &alarms);
    let saved = checkpoint::save(plan.folder, learner, moments, task.state()?, state, &card)?;
    keep_alarms(plan.folder, &alarms)?;
    checkpoint::settle(plan.folder, state, plan.save)?;
    Ok(saved)
}

/// Saves what was done before a step that failed, where the task is still what it was then, and says so with
/// the error.
fn rescue(
    plan: &Plan<'_>,
    learner: &Learner,
    task: &mut dyn Task,
    moments: &Moments,
    mut state: TrainerState,
    error: Error,
) -> Error {
    let step = state.step;
    state.interrupted = true;
    let there = plan.folder.join(checkpoint::step_name(step)).exists();
    if step == 0 || there || !task.outlives_failure() {
        return error;
    }
    match save(plan, learner, task, moments, &state) {
        Ok(_) => Error::Saved { error: Box::new(error), step },
        // What went wrong first is what there is to say.
        Err(_) => error,
    }
}

/// The window of a line of metrics that is not written yet, for the checkpoint.
fn kept(window: &(Instant, Window), meters: &Meters) -> Window {
    let meters = meters.kept();
    if meters.is_empty() {
        return Window::default();
    }
    Window { meters, seconds: window.1.seconds + window.0.elapsed().as_secs_f64(), tokens: window.1.tokens }
}

fn not_measured(save: &Save, measured: Option<&Meters>) -> Error {
    let names: Vec<&str> = measured.into_iter().flat_map(Meters::means).map(|(name, _)| name).collect();
    Error::Data {
        what: "save.metric".into(),
        message: format!(
            "`{}` was not measured, and `save.keep_best` needs it\n  hint: measured were {}",
            save.metric,
            names.join(", ")
        ),
    }
}

/// Changes, a line each.
pub(crate) fn listed(changes: &[Change]) -> String {
    let mut lines = String::new();
    for change in changes {
        lines.push_str("\n  ");
        lines.push_str(&change.to_string());
    }
    lines
}

fn finite(step: usize, what: &'static str, value: f64) -> Result<(), Error> {
    if value.is_finite() { Ok(()) } else { Err(Error::Diverged { step, what, value }) }
}

/// Keeps the alarms in the run folder, where comparisons find them; no file where there are none.
fn keep_alarms(folder: &Path, alarms: &[String]) -> Result<(), Error> {
    if alarms.is_empty() {
        return Ok(());
    }
    atomic::write(&folder.join(Places::ALARMS), format!("{}\n", json!(alarms)).as_bytes())?;
    Ok(())
}

/// The metric's value, if it is the best so far and `best` is kept.
fn better(save: &Save, value: Option<f64>, best: Option<(f64, usize)>) -> Option<f64> {
    let value = value.filter(|value| save.keep_best && value.is_finite())?;
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
    atomic::write(&folder.join(name), text.as_bytes())?;
    Ok(())
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
