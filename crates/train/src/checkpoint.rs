//! Checkpoints: Hugging Face directories with what a run needs to go on beside them.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use data::tokenizer::Tokenizer;
use model::decoder::VALUE_HEAD;
use model::files::{AdapterConfig, adapter_files, model_files, named};
use model::params::Slot;
use model::weights::{Float, Weights, serialize};
use model::{Config, Decoder};
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::error::Error;
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
    /// Fingerprint of the recipe.
    pub recipe: String,
    /// The best value of the metric that `best` is chosen by, and its step.
    pub best: Option<(f64, usize)>,
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
    write(folder, state.step, &files)
}

/// Writes a model that no run goes on from, as the checkpoint of step 0, and points `latest` to it.
pub fn export(folder: &Path, learner: &Learner, card: &str) -> Result<PathBuf, Error> {
    write(folder, 0, &model_folder(learner, card)?)
}

fn write(folder: &Path, step: usize, files: &[(String, Vec<u8>)]) -> Result<PathBuf, Error> {
    let name = step_name(step);
    let path = folder.join(&name);
    atomic::write_folder(&path, files)?;
    atomic::point(&folder.join("latest"), &name)?;
    Ok(path)
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

/// Drops checkpoints beyond the last `keep`; `best` stays.
pub fn prune(folder: &Path, keep: usize, best: Option<usize>) -> Result<(), Error> {
    let mut steps = steps(folder)?;
    steps.sort_unstable();
    let excess = steps.len().saturating_sub(keep.max(1));
    for step in steps.into_iter().take(excess).filter(|step| Some(*step) != best) {
        fs_err::remove_dir_all(folder.join(step_name(step)))?;
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
        if let Some(step) = name.to_string_lossy().strip_prefix("step-").and_then(|step| step.parse().ok()) {
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
    let refuse = |message: String| Error::Checkpoint { path: path.clone(), message };
    let text = fs_err::read_to_string(path.join("state/trainer.json"))?;
    let state: TrainerState = serde_json::from_str(&text).map_err(|error| {
        refuse(format!(
            "state/trainer.json: {error}\n  hint: remove this checkpoint to resume from the one before"
        ))
    })?;

    load_weights(&path, learner, device)?;
    let optimizer = Weights::of_files(&[path.join("state/optimizer.safetensors")])?;
    let names: Vec<String> = optimizer.names().map(str::to_owned).collect();
    let moments = Moments::load(step, names, device, |name| optimizer.read_vector(name))?;
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
