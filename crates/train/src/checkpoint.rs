//! Checkpoints: Hugging Face directories with what a run needs to go on beside them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use data::tokenizer::Tokenizer;
use io::{atomic, checksums};
use model::decoder::VALUE_HEAD;
use model::files::{AdapterConfig, adapter_files, model_files, named};
use model::params::Slot;
use model::weights::{Float, Weights, serialize};
use model::{Config, Decoder};
use recipe::Save;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::identity::Identity;
use crate::optimizer::Moments;

/// Where a value head is kept, beside the model that others read.
const VALUE_FILE: &str = "state/value_head.safetensors";

/// A decoder in training and what belongs to it.
#[derive(Debug)]
pub struct Learner {
    /// The decoder, on the differentiating device.
    pub decoder: Decoder,
    /// Settings of its adapter, where one is trained.
    pub adapter: Option<AdapterConfig>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The name of the model it began as.
    pub base: String,
}

/// What a run needs beside weights and moments. All else follows from the step: random streams and orders have no state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// Updates made.
    pub step: usize,
    /// Updates in all.
    pub total_steps: usize,
    /// Tokens trained on.
    pub tokens: u64,
    /// What decides the run's results.
    #[serde(default)]
    pub identity: Identity,
    /// The best value of the metric that `best` is chosen by, and its step.
    pub best: Option<(f64, usize)>,
    /// Whether the checkpoint is there only because the run was stopped at its step.
    #[serde(default)]
    pub interrupted: bool,
    /// What was observed since the last line of metrics.
    #[serde(default)]
    pub window: Window,
}

/// What a line of metrics is made of, as far as it has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Window {
    /// Sums and counts, as [`crate::meters::Meters::kept`] gives them.
    pub meters: BTreeMap<String, (Option<f64>, Option<f64>)>,
    /// Seconds since the line before.
    pub seconds: f64,
    /// Tokens trained on since then.
    pub tokens: u64,
}

/// The name of a step's folder.
pub fn step_name(step: usize) -> String {
    format!("step-{step:06}")
}

/// Writes a checkpoint and points `latest` to it. `more` are files of the task, named from the checkpoint's folder.
pub fn save(
    folder: &Path,
    learner: &Learner,
    moments: &Moments,
    more: Vec<(String, Vec<u8>)>,
    state: &TrainerState,
    card: &str,
) -> Result<PathBuf, Error> {
    let mut files = model_folder(learner, card)?;
    let state_json = serde_json::to_vec_pretty(state).map_err(Error::other)?;
    files.push(("state/trainer.json".into(), state_json));
    files.push(("state/optimizer.safetensors".into(), serialize(&moments.save(), Float::F32)?));
    if learner.decoder.value.is_some() {
        let head = named(&mut learner.decoder.clone(), &|name| name.starts_with(VALUE_HEAD));
        files.push((VALUE_FILE.into(), serialize(&head, Float::F32)?));
    }
    files.extend(more);
    write(folder, state.step, files)
}

/// Writes a model that no run goes on from, as the checkpoint of step 0, and points `latest` to it.
pub fn export(folder: &Path, learner: &Learner, card: &str) -> Result<PathBuf, Error> {
    write(folder, 0, model_folder(learner, card)?)
}

fn write(folder: &Path, step: usize, mut files: Vec<(String, Vec<u8>)>) -> Result<PathBuf, Error> {
    let path = folder.join(step_name(step));
    files.push((checksums::FILE.to_owned(), checksums::list(&files).map_err(Error::other)?));
    atomic::write_folder(&path, &files)?;
    point(folder, "latest", step)?;
    Ok(path)
}

/// Points `latest` or `best` to the checkpoint of a step, unless it does already.
fn point(folder: &Path, link: &str, step: usize) -> Result<(), Error> {
    if pointed(folder, link) != Some(step) {
        atomic::point(&folder.join(link), &step_name(step))?;
    }
    Ok(())
}

/// The step that `latest` or `best` points to.
pub(crate) fn pointed(folder: &Path, link: &str) -> Option<usize> {
    let target = fs_err::read_link(folder.join(link)).ok()?;
    step_of(target.to_str()?)
}

fn step_of(name: &str) -> Option<usize> {
    name.strip_prefix("step-")?.parse().ok()
}

/// Brings what stands beside the checkpoints into agreement with the newest one, whose state is `state`:
/// `latest`, `best`, and which of
/// the older ones are still there. A run that was killed between two of these writes is put right by it.
pub fn settle(folder: &Path, state: &TrainerState, save: &Save) -> Result<(), Error> {
    point(folder, "latest", state.step)?;
    let best = state.best.map(|(_, step)| step).filter(|_| save.keep_best);
    if let Some(best) = best.filter(|best| folder.join(step_name(*best)).is_dir()) {
        point(folder, "best", best)?;
    }
    prune(folder, save, best)
}

/// What the newest checkpoint of a folder says of its run; `None` where there is none.
pub(crate) fn newest(folder: &Path) -> Result<Option<TrainerState>, Error> {
    let Some(step) = steps(folder)?.into_iter().max() else { return Ok(None) };
    state_of(&folder.join(step_name(step))).map(Some)
}

fn state_of(checkpoint: &Path) -> Result<TrainerState, Error> {
    let read = || -> Result<TrainerState, String> {
        let text = fs_err::read_to_string(checkpoint.join("state/trainer.json"))
            .map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("state/trainer.json: {error}"))
    };
    read().map_err(|message| unusable(checkpoint, &message))
}

/// A checkpoint that nothing can go on from.
fn unusable(checkpoint: &Path, message: &str) -> Error {
    let older =
        checkpoint.parent().and_then(|folder| steps(folder).ok()).is_some_and(|steps| steps.len() > 1);
    let remedy = if older {
        "remove this checkpoint to resume from the one before"
    } else {
        "there is no other one: begin anew with --overwrite, or under another run.name"
    };
    Error::Checkpoint { path: checkpoint.into(), message: format!("{message}\n  hint: {remedy}") }
}

/// The files of a model, its tokenizer and its card.
pub(crate) fn model_folder(learner: &Learner, card: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut files = match &learner.adapter {
        Some(adapter) => adapter_files(&learner.decoder, adapter)?,
        None => model_files(&learner.decoder, Float::F32)?,
    };
    files.push(("README.md".into(), card.as_bytes().to_vec()));
    for (name, bytes) in learner.tokenizer.files() {
        // The model's own generation_config.json is the one that was just made.
        if !files.iter().any(|(there, _)| there == name) {
            files.push((name.to_owned(), bytes.to_vec()));
        }
    }
    Ok(files)
}

/// Drops checkpoints beyond the last that `save` keeps; `best` stays. One that an interruption left does not
/// count, and goes once there
/// is a newer one, so that a run that was stopped has what an undisturbed one has.
fn prune(folder: &Path, save: &Save, best: Option<usize>) -> Result<(), Error> {
    let mut steps = steps(folder)?;
    steps.sort_unstable_by(|a, b| b.cmp(a));
    let planned =
        |step: &usize| !state_of(&folder.join(step_name(*step))).is_ok_and(|state| state.interrupted);
    let mut kept: Vec<usize> = steps.iter().copied().filter(planned).take(save.keep_last.max(1)).collect();
    kept.extend(steps.first().copied().into_iter().chain(best));
    for step in steps.iter().filter(|step| !kept.contains(step)) {
        atomic::remove_folder(&folder.join(step_name(*step)))?;
    }
    Ok(())
}

/// The steps that have a whole checkpoint.
pub fn steps(folder: &Path) -> Result<Vec<usize>, Error> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let name = entry?.file_name();
        if let Some(step) = name.to_str().and_then(step_of) {
            steps.push(step);
        }
    }
    Ok(steps)
}

/// Puts weights, moments and state of the newest checkpoint into `learner`. `None` where there is none.
pub fn resume(
    folder: &Path,
    learner: &mut Learner,
    device: &Device,
) -> Result<Option<(Moments, TrainerState)>, Error> {
    let Some(step) = steps(folder)?.into_iter().max() else { return Ok(None) };
    let path = folder.join(step_name(step));
    checksums::verify(&path).map_err(|damage| unusable(&path, &damage.to_string()))?;
    let state = state_of(&path)?;
    load_weights(&path, learner, device)?;
    let moments = || -> Result<Moments, model::Error> {
        let optimizer = Weights::of_files(&[path.join("state/optimizer.safetensors")])?;
        let names: Vec<String> = optimizer.names().map(str::to_owned).collect();
        Moments::load(step, names, device, |name| optimizer.read_vector(name))
    };
    let moments = moments().map_err(|error| unusable(&path, &error.to_string()))?;
    Ok(Some((moments, state)))
}

/// Puts what is trained, as the folder `path` has it, into `learner`.
pub(crate) fn load_weights(path: &Path, learner: &mut Learner, device: &Device) -> Result<(), Error> {
    let (weights, prefix) = if learner.adapter.is_some() {
        (Weights::of_files(&[path.join("adapter_model.safetensors")])?, "base_model.model.")
    } else {
        let config = Config::read(path)?;
        if config.parameters() != learner.decoder.config.parameters() {
            return Err(Error::Checkpoint {
                path: path.into(),
                message: "it holds a model of another shape than the recipe's".into(),
            });
        }
        (Weights::open(path)?, "")
    };
    let head = match learner.decoder.value {
        Some(_) => Some(Weights::of_files(&[path.join(VALUE_FILE)])?),
        None => None,
    };
    let mut failure = None;
    learner.decoder.visit(&mut |name, mut slot: Slot<'_>| {
        if !slot.is_trained() || failure.is_some() {
            return;
        }
        let read = match &head {
            Some(head) if name.starts_with(VALUE_HEAD) => head.read(name, &slot.shape()),
            _ => weights.read(&format!("{prefix}{name}"), &slot.shape()),
        };
        match read {
            Ok(values) => {
                let count = values.len();
                let data = burn::tensor::TensorData::new(values, [count]);
                slot.set_flat(burn::tensor::Tensor::from_data(data, device));
            }
            Err(error) => failure = Some(error),
        }
    });
    failure.map_or(Ok(()), |error| Err(error.into()))
}
