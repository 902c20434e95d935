//! Where models are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use data::chat::Clock;
use model::{Config, files, hub, weights};
use recipe::{ModelLocation, ModelName};

use super::Error;

/// Where the outputs of earlier stages are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Places {
    /// Run folders by stage name.
    pub stages: BTreeMap<String, PathBuf>,
    /// The time that chat templates print: of a run, when it began, so that a run that goes on another day
    /// reads the same.
    pub clock: Clock,
}

/// Where a model is, before anything of it is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// In this directory, all its files.
    Here(PathBuf),
    /// On the hub, and not in the cache of this machine.
    Hub,
    /// It is the output of an earlier stage, which has none yet.
    Stage,
}

impl Places {
    /// The file of a run folder that says how long its run took, all sittings together.
    pub const TIME: &str = "time.json";

    /// The file of a run folder with the alarms of its training: metrics that were where they should not be,
    /// a text for each.
    pub const ALARMS: &str = "alarms.json";

    /// The alarms of a stage's training.
    pub fn alarms(&self, stage: &str) -> Vec<String> {
        let text =
            self.stages.get(stage).and_then(|folder| fs_err::read_to_string(folder.join(Self::ALARMS)).ok());
        text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
    }

    /// The seconds that a stage took, where its folder says so.
    pub fn seconds(&self, stage: &str) -> Option<f64> {
        seconds_in(self.stages.get(stage)?)
    }

    /// The run folder of a stage.
    pub fn stage(&self, name: &str) -> Result<&Path, Error> {
        self.stages.get(name).map(PathBuf::as_path).ok_or_else(|| Error::Stage {
            name: name.into(),
            hint: format!("stages before this one: {:?}", self.stages.keys().collect::<Vec<_>>()),
        })
    }

    /// The directory of a model; files of the hub are downloaded when they are not cached and `download` is
    /// set.
    /// `None` where it is not on this machine.
    pub fn model(&self, name: &ModelName, download: bool) -> Result<Option<PathBuf>, Error> {
        let directory = match name.location() {
            ModelLocation::Tiny => tiny(),
            ModelLocation::Dir(path) => return directory(path, download),
            ModelLocation::Hub { repo, revision } => {
                let revision = revision.as_deref().unwrap_or("main");
                if download {
                    let (directory, notes) = hub::model(repo, revision)?;
                    for note in &notes {
                        warn(note);
                    }
                    return Ok(Some(directory));
                }
                return Ok(hub::cached_model(repo, revision));
            }
            ModelLocation::Stage(name) => match self.stages.get(name) {
                Some(folder) => folder.join("latest"),
                None => self.stage(name)?.to_path_buf(),
            },
        };
        if directory.is_dir() {
            if download && matches!(name.location(), ModelLocation::Stage(_)) {
                intact(name, &directory)?;
            }
            return Ok(Some(directory));
        }
        if !download {
            return Ok(None);
        }
        let message = match name.location() {
            ModelLocation::Stage(_) => {
                "the stage has no checkpoint yet: run the pipeline from its first stage"
            }
            _ => "the shipped model is not here: run from the checkout",
        };
        Err(Error::Model(model::Error::Missing { path: directory, message: message.into() }))
    }

    /// Looks for a model as loading would, and at its settings and files, without reading its weights.
    ///
    /// # Errors
    /// It is not there, lacks a file, or its settings are not supported: loading it would fail.
    pub fn find(&self, name: &ModelName) -> Result<Found, Error> {
        self.find_below(name, 0)
    }

    fn find_below(&self, name: &ModelName, depth: usize) -> Result<Found, Error> {
        let directory = match name.location() {
            ModelLocation::Hub { repo, revision } => {
                match hub::cached_model(repo, revision.as_deref().unwrap_or("main")) {
                    Some(directory) => directory,
                    None if hub::is_offline() => return self.model(name, true).map(|_| Found::Hub),
                    None => return Ok(Found::Hub),
                }
            }
            ModelLocation::Stage(stage) => match self.model(name, false)? {
                Some(directory) => directory,
                None => return self.stage(stage).map(|_| Found::Stage),
            },
            _ => self.model(name, true)?.unwrap_or_default(),
        };
        if files::is_adapter(&directory) {
            let base = base_of(&directory)?;
            files::adapter_weights(&directory)?;
            if depth > 0 {
                return Err(adapter_of_adapter(&directory, name));
            }
            return Ok(
                match self.find_below(&base, depth + 1).map_err(|error| of_base(&directory, error))? {
                    Found::Here(_) => Found::Here(directory),
                    other => other,
                },
            );
        }
        Config::read(&directory)?;
        weights::weight_paths(&directory)?;
        if !directory.join("tokenizer.json").is_file() {
            let message = "no tokenizer.json: a model is run with its tokenizer".into();
            return Err(Error::Model(model::Error::Missing { path: directory, message }));
        }
        Ok(Found::Here(directory))
    }
}

/// Refuses the checkpoint of a stage whose files are not those that the stage wrote.
fn intact(name: &ModelName, directory: &Path) -> Result<(), Error> {
    io::checksums::verify(directory).map_err(|damage| Error::Data {
        what: name.to_string(),
        message: format!("{damage}\n  hint: remove the folder of the stage to make it again"),
    })
}

/// The base of an adapter, as a recipe names it.
pub(super) fn base_of(directory: &Path) -> Result<ModelName, Error> {
    let config = files::adapter_config(directory)?;
    config.base.parse().map_err(|error| Error::Data {
        what: directory.join("adapter_config.json").display().to_string(),
        message: format!("base_model_name_or_path = {:?}: {error}", config.base),
    })
}

/// Says of an error that it is about the base of an adapter.
pub(super) fn of_base(directory: &Path, error: Error) -> Error {
    let what = format!("{}: its base (base_model_name_or_path)", directory.display());
    Error::Data { what, message: error.to_string() }
}

/// Refuses an adapter whose base is one.
pub(super) fn adapter_of_adapter(directory: &Path, base: &ModelName) -> Error {
    let message = format!(
        "its base {base} is an adapter itself\n  hint: merge that into its base first, with the method `soup` or with PEFT"
    );
    Error::Data { what: directory.display().to_string(), message }
}

/// The directory that a path means: itself, or where it is the folder of a run, its best checkpoint, else its
/// latest.
fn directory(path: &Path, wanted: bool) -> Result<Option<PathBuf>, Error> {
    let missing = |message: String| Err(Error::Model(model::Error::Missing { path: path.into(), message }));
    let holds =
        |folder: &Path| ["config.json", "adapter_config.json"].iter().any(|name| folder.join(name).exists());
    if !path.is_dir() {
        if !wanted {
            return Ok(None);
        }
        let text = path.display().to_string();
        let hint = match text.split('/').collect::<Vec<_>>()[..] {
            [org, name] if !org.is_empty() && !org.starts_with('.') && !name.is_empty() => {
                format!("check the path, or name hf://{text} for a model of the hub")
            }
            _ => "check the path, or name hf://org/name".to_owned(),
        };
        let what = if path.exists() { "it is no directory" } else { "there is no such directory" };
        return missing(format!("{what}: {hint}"));
    }
    if holds(path) {
        return Ok(Some(path.into()));
    }
    for pointer in ["best", "latest"] {
        let checkpoint = path.join(pointer);
        if holds(&checkpoint) {
            let step =
                checkpoint.canonicalize().ok().and_then(|step| Some(step.file_name()?.display().to_string()));
            let step = step.map(|step| format!(" ({step})")).unwrap_or_default();
            note(&format!("{}: a run's folder; its {pointer} checkpoint{step} is used", path.display()));
            return Ok(Some(checkpoint));
        }
    }
    let entries = fs_err::read_dir(path).map_err(model::Error::Io)?.flatten().map(|entry| entry.path());
    let mut stages: Vec<String> = entries
        .filter(|stage| holds(&stage.join("latest")))
        .map(|stage| stage.display().to_string())
        .collect();
    stages.sort();
    if !stages.is_empty() {
        return missing(format!("it is the folder of several stages: name one of {}", stages.join(", ")));
    }
    if path.join("recipe.toml").is_file() {
        return missing(
            "it is a run's folder without a checkpoint: train it to its end, or to a step that is saved"
                .into(),
        );
    }
    // What else is missing, whoever reads it says.
    Ok(Some(path.into()))
}

/// The name of a model for files that other programs read: as it is named where it is on the hub, else the
/// absolute path of its
/// directory, with checkpoints by their own names.
pub(super) fn portable_name(name: &ModelName, directory: &Path) -> String {
    match name.location() {
        ModelLocation::Hub { .. } => name.to_string(),
        _ => directory.canonicalize().unwrap_or_else(|_| directory.to_path_buf()).display().to_string(),
    }
}

/// The seconds that a run folder's [`Places::TIME`] says.
pub fn seconds_in(folder: &Path) -> Option<f64> {
    let text = fs_err::read_to_string(folder.join(Places::TIME)).ok()?;
    serde_json::from_str::<serde_json::Value>(&text).ok()?.get("seconds")?.as_f64()
}

/// The shipped model: beside the current directory, else where this program was built.
fn tiny() -> PathBuf {
    let here = PathBuf::from("checkpoints/tiny");
    if here.is_dir() { here } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("../../checkpoints/tiny") }
}

/// Warns the person at the terminal, once of each thing.
pub(super) fn warn(text: &str) {
    note(&format!("warning: {text}"));
}

/// Tells the person at the terminal, each thing once. Control characters of files are shown and not obeyed.
#[allow(clippy::print_stderr, reason = "messages are for the person at the terminal")]
fn note(text: &str) {
    static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Ok(mut said) = SAID.lock() else { return };
    if said.insert(text.to_owned()) {
        let plain: String = text
            .chars()
            .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.into() })
            .collect();
        eprintln!("{plain}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(path: &Path) -> ModelName {
        path.display().to_string().parse().expect("a name")
    }

    fn error(path: &Path) -> String {
        Places::default().model(&name(path), true).expect_err("refused").to_string()
    }

    #[test]
    fn the_folder_of_a_run_is_its_best_checkpoint_or_else_its_latest() {
        let folder = tempfile::tempdir().expect("a folder");
        let run = folder.path().join("run");
        fs_err::create_dir_all(run.join("latest")).expect("a folder");
        fs_err::write(run.join("recipe.toml"), "").expect("written");
        assert!(error(&run).contains("without a checkpoint"));
        assert!(error(folder.path().join("none").as_path()).contains("no such directory"));
        fs_err::write(run.join("latest/adapter_config.json"), "{}").expect("written");
        let found = || Places::default().model(&name(&run), true).expect("a model");
        assert_eq!(found(), Some(run.join("latest")));
        fs_err::create_dir_all(run.join("best")).expect("a folder");
        fs_err::write(run.join("best/config.json"), "{}").expect("written");
        assert_eq!(found(), Some(run.join("best")));
        // A folder of several runs is none, and a model's own folder is itself.
        let message = error(folder.path());
        assert!(message.contains("several stages") && message.contains("run"), "{message}");
        assert_eq!(
            Places::default().model(&name(&run.join("best")), true).expect("a model"),
            Some(run.join("best"))
        );
    }

    #[test]
    fn what_loading_would_refuse_is_found_before() {
        let places = Places::default();
        assert!(matches!(places.find(&ModelName::tiny()), Ok(Found::Here(_))));
        let folder = tempfile::tempdir().expect("a folder");
        let copy = folder.path().join("copy");
        fs_err::create_dir(&copy).expect("a folder");
        for file in ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"] {
            fs_err::copy(tiny().join(file), copy.join(file)).expect("copied");
        }
        let find = || places.find(&name(&copy));
        assert_eq!(find().expect("a model"), Found::Here(copy.clone()));
        let refused = |text: &str| {
            let error = find().expect_err("refused").to_string();
            assert!(error.contains(text), "{error} lacks {text}");
        };
        fs_err::remove_file(copy.join("tokenizer.json")).expect("removed");
        refused("tokenizer.json");
        fs_err::remove_file(copy.join("model.safetensors")).expect("removed");
        refused("model.safetensors");
        fs_err::write(copy.join("config.json"), r#"{"model_type": "mystery"}"#).expect("written");
        refused("mystery");
        let bare: ModelName = "org/name".parse().expect("a name");
        let error = places.find(&bare).expect_err("refused").to_string();
        assert!(error.contains("hf://org/name"), "{error}");
        let stage: ModelName = "stage:sft".parse().expect("a name");
        assert!(places.find(&stage).is_err());
        let stages = BTreeMap::from([("sft".to_owned(), folder.path().join("sft"))]);
        let places = Places { stages, ..Places::default() };
        assert_eq!(places.find(&stage).expect("a stage"), Found::Stage);
    }

    #[test]
    fn an_adapter_is_found_with_its_base() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = folder.path().join("adapter");
        fs_err::create_dir(&own).expect("a folder");
        let write = |base: &str| {
            let text = format!(
                r#"{{"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "base_model_name_or_path": "{base}"}}"#
            );
            fs_err::write(own.join("adapter_config.json"), text).expect("written");
        };
        write("tiny");
        let error = Places::default().find(&name(&own)).expect_err("refused").to_string();
        assert!(error.contains("adapter_model.safetensors"), "{error}");
        fs_err::write(own.join("adapter_model.safetensors"), "").expect("written");
        assert_eq!(Places::default().find(&name(&own)).expect("an adapter"), Found::Here(own.clone()));
        write("/no/such/base");
        let error = Places::default().find(&name(&own)).expect_err("refused").to_string();
        assert!(error.contains("base_model_name_or_path") && error.contains("/no/such/base"), "{error}");
    }
}
