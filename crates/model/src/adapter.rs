//! Adapters as PEFT's files have them: settings, which maps they change, with which rank and scale.

use std::path::{Path, PathBuf};

use regex::Regex;
use serde_json::{Map, Value};

use crate::config::read_json;
use crate::error::Error;

/// The file of an adapter's settings.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// The file of an adapter's weights.
const WEIGHTS: &str = "adapter_model.safetensors";

/// Adapter settings, as PEFT's `adapter_config.json` has them.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterConfig {
    /// Rank.
    pub r: usize,
    /// `lora_alpha`: the product is scaled by alpha / r, or alpha / √r.
    pub alpha: f64,
    /// Scale by alpha / √r (rank-stabilised LoRA, arXiv 2312.03732).
    pub use_rslora: bool,
    /// Last parts of the names of the adapted maps, such as `q_proj`.
    pub targets: Vec<String>,
    /// The base model's name: a directory, `hf://org/name[@revision]`, or another name of a recipe.
    pub base: String,
    /// The part that depends on weights of objectives (PBLoRA), where there is one; [`AdapterConfig::r`] is
    /// then the rank of
    /// the shared part alone.
    pub bilinear: Option<BilinearConfig>,
}

/// The part of an adapter that depends on weights of objectives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BilinearConfig {
    /// Its rank.
    pub r: usize,
    /// The objectives, in the order of their matrices.
    pub objectives: Vec<String>,
}

impl AdapterConfig {
    /// Factor of the product `B A`.
    pub fn scaling(&self) -> f64 {
        // PBLoRA divides by the rank of the part that depends on the weights, as its public code does.
        let r = self.bilinear.as_ref().map_or(self.r, |bilinear| bilinear.r) as f64;
        self.alpha / if self.use_rslora { r.sqrt() } else { r }
    }

    /// Rows of `A`.
    pub(crate) fn rank(&self) -> usize {
        self.r + self.bilinear.as_ref().map_or(0, |bilinear| bilinear.r)
    }

    /// The settings of the ordinary adapter that this is once its weights of objectives are chosen.
    #[must_use]
    pub fn folded(&self) -> Self {
        let r = self.rank();
        Self { r, alpha: self.scaling() * r as f64, use_rslora: false, bilinear: None, ..self.clone() }
    }

    /// Whether the map at `path` is one of its targets.
    pub(crate) fn applies_to(&self, path: &str) -> bool {
        self.targets.iter().any(|target| is_end(path, target))
    }

    /// `base_model_name_or_path` and `revision` of its file: a model of the hub by the id that other programs
    /// know.
    pub(crate) fn base_fields(&self) -> (&str, Option<&str>) {
        match self.base.strip_prefix("hf://") {
            None => (&self.base, None),
            Some(rest) => {
                rest.split_once('@').map_or((rest, None), |(repo, revision)| (repo, Some(revision)))
            }
        }
    }
}

/// Whether `path` is `end`, or ends with it behind a point.
fn is_end(path: &str, end: &str) -> bool {
    path.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a directory holds an adapter rather than a whole model.
pub fn is_adapter(directory: &Path) -> bool {
    directory.join(CONFIG).exists()
}

/// The weight file of an adapter.
///
/// # Errors
/// There is none.
pub fn weights_path(directory: &Path) -> Result<PathBuf, Error> {
    let path = directory.join(WEIGHTS);
    if path.try_exists().unwrap_or(false) {
        return Ok(path);
    }
    let message = if directory.join("adapter_model.bin").exists() {
        format!(
            "no {WEIGHTS}: adapter_model.bin is a pickle, which is not read; save it again with PEFT, which writes safetensors"
        )
    } else {
        format!("no {WEIGHTS}: the adapter was copied or downloaded in part")
    };
    Err(Error::Missing { path: directory.into(), message })
}

/// Which maps a setting names.
#[derive(Debug)]
enum Names {
    /// Those whose paths end with one of these.
    Ends(Vec<String>),
    /// Those whose whole path this is.
    Pattern(Regex),
    /// All but the head.
    AllLinear,
}

impl Names {
    fn contain(&self, path: &str, head: bool) -> bool {
        match self {
            Self::Ends(ends) => ends.iter().any(|end| is_end(path, end)),
            Self::Pattern(pattern) => pattern.is_match(path),
            Self::AllLinear => !head,
        }
    }
}

/// The settings of an adapter's file: those that hold for all its maps, and those of single ones.
#[derive(Debug)]
pub(crate) struct Settings {
    /// What holds for all maps; its targets are empty where the file names them by a pattern.
    pub(crate) config: AdapterConfig,
    targets: Names,
    excluded: Option<Names>,
    /// The layers, where not all of them are adapted, and what stands before their numbers.
    layers: Option<(Vec<u64>, Vec<Regex>)>,
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
    /// Modules that are saved whole beside the factors.
    pub(crate) saved: Vec<String>,
    /// Whether a head that was the embedding stays it where the embedding is saved whole.
    pub(crate) keeps_tied: bool,
}

impl Settings {
    /// Whether the map at `path` is adapted; `head` says that it is the head over the vocabulary or of
    /// scores.
    pub(crate) fn adapts(&self, path: &str, head: bool) -> bool {
        let saved = self.saved.iter().any(|name| is_end(path, name));
        let excluded = self.excluded.as_ref().is_some_and(|names| names.contain(path, false));
        if saved || excluded || !self.targets.contain(path, head) {
            return false;
        }
        // Only names are of some layers; a pattern says which by itself.
        match &self.layers {
            Some((numbers, before)) if matches!(&self.targets, Names::Ends(ends) if !ends.iter().any(|end| end == path)) =>
            {
                let index =
                    before.iter().find_map(|before| before.captures(path)?.get(1)?.as_str().parse().ok());
                index.is_some_and(|index: u64| numbers.contains(&index))
            }
            _ => true,
        }
    }

    /// Rank and factor of the map at `path`.
    pub(crate) fn rank_and_scale(&self, path: &str) -> (usize, f64) {
        let config = &self.config;
        if config.bilinear.is_some() {
            return (config.rank(), config.scaling());
        }
        let r = self.ranks.iter().find(|(key, _)| key.is_match(path)).map_or(config.r, |(_, r)| *r);
        let alpha =
            self.alphas.iter().find(|(key, _)| key.is_match(path)).map_or(config.alpha, |(_, alpha)| *alpha);
        (r, alpha / if config.use_rslora { (r as f64).sqrt() } else { r as f64 })
    }
}

/// Reads `adapter_config.json`.
pub fn adapter_config(directory: &Path) -> Result<AdapterConfig, Error> {
    Ok(settings(directory)?.config)
}

/// Settings that change nothing of what a trained adapter computes.
const NO_EFFECT: &[&str] = &[
    "auto_mapping",
    "base_model_class",
    // The name of the weights says how the base's are found; what an adapter adds does not depend on it.
    "fan_in_fan_out",
    // Of initialisations, which `init_lora_weights` names.
    "corda_config",
    "eva_config",
    "loftq_config",
    "lora_ga_config",
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "objectives",
    "parent_library",
    "peft_type",
    "peft_version",
    "qalora_group_size",
    "runtime_config",
    "task_type",
];

/// Settings that are read.
const READ: &[&str] = &[
    "alpha_pattern",
    "base_model_name_or_path",
    "bias",
    "ensure_weight_tying",
    "exclude_modules",
    "init_lora_weights",
    "layers_pattern",
    "layers_to_transform",
    "lora_alpha",
    "modules_to_save",
    "obj_num",
    "r",
    "r1",
    "r2",
    "rank_pattern",
    "revision",
    "target_modules",
    "use_rslora",
];

/// Reads `adapter_config.json` with what it says of single maps.
///
/// # Errors
/// A setting changes what the adapter computes and is not run; the error names it.
pub(crate) fn settings(directory: &Path) -> Result<Settings, Error> {
    let path = directory.join(CONFIG);
    let map = read_json(&path)?;
    let file = File { path, map };
    file.check()?;
    let layers = match file.get("layers_to_transform") {
        None => None,
        Some(value) => {
            let numbers = match value {
                Value::Array(list) => list.iter().map(Value::as_u64).collect(),
                one => one.as_u64().map(|one| vec![one]),
            };
            let numbers: Vec<u64> =
                numbers.ok_or_else(|| file.unsupported("layers_to_transform", "numbers of layers"))?;
            let before = file.texts("layers_pattern")?;
            let before: Vec<String> = if before.is_empty() { vec![r"[^.]*".into()] } else { before };
            let before = before
                .iter()
                .map(|name| file.regex("layers_pattern", &format!(r"^(?:.*?\.)??(?:{name})\.(\d+)\.")));
            (!numbers.is_empty()).then_some((numbers, before.collect::<Result<_, _>>()?))
        }
    };
    let targets = file.names("target_modules")?.ok_or_else(|| {
        file.unsupported(
            "target_modules",
            "a list of names, a regular expression or \"all-linear\" is supported",
        )
    })?;
    let patterns = |field: &str| -> Result<Vec<(Regex, f64)>, Error> {
        let Some(patterns) = file.get(field).and_then(Value::as_object) else { return Ok(Vec::new()) };
        let one = |(key, value): (&String, &Value)| {
            let number = value.as_f64().filter(|number| *number > 0.0);
            let number = number.ok_or_else(|| file.unsupported(field, "a number above 0 for each key"))?;
            Ok((file.regex(field, &format!(r"^(?:.*\.)?(?:{key})$"))?, number))
        };
        patterns.iter().map(one).collect()
    };
    Ok(Settings {
        config: file.config(&targets)?,
        targets,
        excluded: file.names("exclude_modules")?,
        layers,
        ranks: patterns("rank_pattern")?.into_iter().map(|(key, r)| (key, r as usize)).collect(),
        alphas: patterns("alpha_pattern")?,
        saved: file.texts("modules_to_save")?,
        keeps_tied: file.is("ensure_weight_tying"),
    })
}

/// An `adapter_config.json`.
struct File {
    path: PathBuf,
    map: Map<String, Value>,
}

impl File {
    /// A setting that is there and holds something.
    fn get(&self, field: &str) -> Option<&Value> {
        self.map.get(field).filter(|value| match value {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            Value::String(text) => !text.is_empty(),
            _ => true,
        })
    }

    fn is(&self, field: &str) -> bool {
        self.get(field).and_then(Value::as_bool) == Some(true)
    }

    fn unsupported(&self, field: &str, hint: &str) -> Error {
        Error::Unsupported {
            path: self.path.clone(),
            field: field.into(),
            value: self.map.get(field).cloned().unwrap_or_default().to_string(),
            hint: hint.into(),
        }
    }

    /// Refuses what changes the sums and is not run.
    fn check(&self) -> Result<(), Error> {
        const MERGE: &str =
            "merge it into its base with PEFT (`merge_and_unload`, `save_pretrained`) and name that model";
        let kind = self.map.get("peft_type").and_then(Value::as_str);
        if !matches!(kind, Some("LORA" | "PBLORA")) {
            return Err(self.unsupported("peft_type", &format!("LORA and PBLORA are supported; {MERGE}")));
        }
        let plain = match self.get("init_lora_weights") {
            None | Some(Value::Bool(_)) => true,
            // EVA begins with other factors of rank, and the base stays as it is.
            Some(Value::String(name)) => {
                matches!(name.to_lowercase().as_str(), "gaussian" | "eva" | "orthogonal" | "true" | "false")
            }
            Some(_) => false,
        };
        if !plain {
            let hint = format!(
                "this initialisation changes the weights of the base, which are not in the adapter; save it with \
                 `path_initial_model_for_weight_conversion` of PEFT, or {MERGE}"
            );
            return Err(self.unsupported("init_lora_weights", &hint));
        }
        if self.get("bias").is_some_and(|bias| bias.as_str() != Some("none")) {
            return Err(self.unsupported("bias", &format!("\"none\" is supported; {MERGE}")));
        }
        let known = |key: &str| READ.contains(&key) || NO_EFFECT.contains(&key);
        let neutral = |value: &Value| value.as_bool() == Some(false);
        for key in self.map.keys().filter(|key| !known(key)) {
            if self.get(key).is_some_and(|value| !neutral(value)) {
                return Err(self.unsupported(key, &format!("adapters without it are supported; {MERGE}")));
            }
        }
        Ok(())
    }

    /// The texts of a list, or of one text.
    fn texts(&self, field: &str) -> Result<Vec<String>, Error> {
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::String(one)) => Ok(vec![one.clone()]),
            Some(Value::Array(list)) => {
                let texts = list.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<_>>();
                texts.ok_or_else(|| self.unsupported(field, "a list of names is supported"))
            }
            Some(_) => Err(self.unsupported(field, "a list of names is supported")),
        }
    }

    fn regex(&self, field: &str, pattern: &str) -> Result<Regex, Error> {
        Regex::new(pattern).map_err(|_| {
            self.unsupported(field, "regular expressions without look-around and back references are supported; give a list of names")
        })
    }

    /// The maps that a setting names by a list, a regular expression, or `all-linear`.
    fn names(&self, field: &str) -> Result<Option<Names>, Error> {
        Ok(match self.get(field) {
            None => None,
            Some(Value::String(all))
                if field == "target_modules" && all.eq_ignore_ascii_case("all-linear") =>
            {
                Some(Names::AllLinear)
            }
            Some(Value::String(pattern)) => {
                Some(Names::Pattern(self.regex(field, &format!("^(?:{pattern})$"))?))
            }
            Some(_) => Some(Names::Ends(self.texts(field)?)),
        })
    }

    /// What holds for all maps.
    fn config(&self, targets: &Names) -> Result<AdapterConfig, Error> {
        let rank = |field: &str| {
            let r = self.map.get(field).and_then(Value::as_u64).filter(|r| *r > 0);
            r.map(|r| r as usize).ok_or_else(|| self.unsupported(field, "a rank of at least 1"))
        };
        let (r, bilinear) = if self.map.get("peft_type").and_then(Value::as_str) == Some("PBLORA") {
            let count = self.map.get("obj_num").and_then(Value::as_u64).filter(|count| *count > 0);
            let count = count.ok_or_else(|| self.unsupported("obj_num", "a number of objectives"))? as usize;
            // Public code knows objectives by their places only.
            let names = self.map.get("objectives").and_then(Value::as_array).map(|names| {
                names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect::<Vec<_>>()
            });
            let objectives = names.unwrap_or_else(|| (0..count).map(|place| place.to_string()).collect());
            if objectives.len() != count {
                return Err(self.unsupported("objectives", "one name for each of `obj_num`"));
            }
            (rank("r1")?, Some(BilinearConfig { r: rank("r2")?, objectives }))
        } else {
            (rank("r")?, None)
        };
        let alpha = match self.get("lora_alpha") {
            None => 8.0,
            Some(alpha) => alpha.as_f64().ok_or_else(|| self.unsupported("lora_alpha", "a number"))?,
        };
        Ok(AdapterConfig {
            r,
            alpha,
            use_rslora: self.is("use_rslora"),
            targets: if let Names::Ends(ends) = targets { ends.clone() } else { Vec::new() },
            base: self.base(),
            bilinear,
        })
    }

    /// The base model, as a recipe names it.
    fn base(&self) -> String {
        let text = self.map.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default();
        let local = text.is_empty() || text == "tiny" || text.contains("://") || text.starts_with("stage:");
        if local || Path::new(text).is_dir() {
            return text.to_owned();
        }
        if !is_hub_id(text) {
            // Where it was trained, the base lay in a folder; it may have been moved with the adapter.
            return self.moved(text).map_or_else(|| text.to_owned(), |moved| moved.display().to_string());
        }
        match self.map.get("revision").and_then(Value::as_str) {
            Some(revision) if !revision.is_empty() => format!("hf://{text}@{revision}"),
            _ => format!("hf://{text}"),
        }
    }

    /// A base that is not where it was: its last two parts beside the run folder of this adapter, or its last
    /// beside the adapter.
    fn moved(&self, base: &str) -> Option<PathBuf> {
        let base = Path::new(base);
        let folder = self.path.parent()?;
        let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let last = base.file_name()?;
        let stage = base.parent().and_then(Path::file_name).map(|stage| Path::new(stage).join(last));
        let runs = folder.parent().and_then(Path::parent);
        let candidates =
            [runs.zip(stage).map(|(runs, stage)| runs.join(stage)), Some(folder.join("..").join(last))];
        candidates.into_iter().flatten().find(|place| place.join("config.json").is_file())
    }
}

/// Whether a text is the id of a model on the hub: `name` or `org/name`.
pub(crate) fn is_hub_id(text: &str) -> bool {
    let part = |part: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !part.is_empty()
            && part.chars().all(allowed)
            && !part.starts_with(['.', '-'])
            && !part.ends_with(['.', '-'])
    };
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() == 2 && parts.into_iter().all(part) && !text.contains("..") && !text.contains("--")
}
