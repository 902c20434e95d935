//! Models as Hugging Face directories: loading, saving, adapters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value, json};

use crate::bilinear::Bilinear;
use crate::config::{Config, Head, MapShape, read_json};
use crate::decoder::{Decoder, VALUE_HEAD};
use crate::error::Error;
use crate::linear::{Lora, tensor};
use crate::params::Slot;
use crate::weights::{Float, Named, Weights, serialize};

/// The largest weight file; larger models are written in shards.
const SHARD_BYTES: usize = 5_000_000_000;

/// What an adapter says about a head that is no plain score, which PEFT has no field for.
const HEAD_FILE: &str = "head.json";

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
    /// The base model's name.
    pub base: String,
    /// The part that depends on weights of objectives (PBLoRA), where there is one; [`AdapterConfig::r`] is then the rank of
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
    fn rank(&self) -> usize {
        self.r + self.bilinear.as_ref().map_or(0, |bilinear| bilinear.r)
    }

    /// The settings of the ordinary adapter that this is once its weights of objectives are chosen.
    #[must_use]
    pub fn folded(&self) -> Self {
        let r = self.rank();
        Self { r, alpha: self.scaling() * r as f64, use_rslora: false, bilinear: None, ..self.clone() }
    }

    fn applies_to(&self, path: &str) -> bool {
        self.targets.iter().any(|target| path == target || path.ends_with(&format!(".{target}")))
    }
}

/// Loads a model directory. A directory that holds an adapter is loaded with its base: a path beside it or as given.
pub fn load(directory: &Path, device: &Device) -> Result<Decoder, Error> {
    let config = Config::read(directory)?;
    let weights = Weights::open(directory)?;
    let names = config.names();
    // A bare decoder is stored without the prefix of the causal model.
    let prefix = format!("{}.", names.base);
    let embedding = format!("{}.weight", names.embedding);
    let bare = weights.has(&embedding) && !weights.has(&format!("{prefix}{embedding}"));
    let heads = || names.heads.iter().map(|head| format!("{head}.weight"));
    let stored_head = heads().find(|head| weights.has(head));
    Decoder::build(config, device, &mut |name, shape| {
        let name = match name.strip_prefix(&prefix) {
            Some(rest) if bare => rest,
            None if heads().any(|head| head == name) => stored_head.as_deref().unwrap_or(name),
            _ => name,
        };
        match shape {
            [out, inn] if names.transposed && names.is_map(name) => {
                Ok(transposed(&weights.read(name, &[*inn, *out])?, *out))
            }
            _ => weights.read(name, shape),
        }
    })
}

/// The values of a matrix of so many columns, column after column.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| values.iter().skip(column).step_by(columns)).copied().collect()
}

/// Loads a language model's body for a model with the head `head`: it is taken if the directory has one such, else it is new.
pub fn load_for_score(
    directory: &Path,
    head: Head,
    pad: Option<u32>,
    device: &Device,
    draw: &mut dyn FnMut() -> f64,
) -> Result<Decoder, Error> {
    let decoder = load(directory, device)?;
    if decoder.config.head == head { Ok(decoder) } else { Ok(decoder.with_head(head, pad, draw)) }
}

/// Whether a directory holds an adapter rather than a whole model.
pub fn is_adapter(directory: &Path) -> bool {
    directory.join("adapter_config.json").exists()
}

/// A head, and the fields of `config.json` that describe it.
pub type AdapterHead = (Head, Map<String, Value>);

/// The head that an adapter brings, and the fields that describe it; `None` where it brings none.
pub fn adapter_head(directory: &Path) -> Result<Option<AdapterHead>, Error> {
    let weights = Weights::of_files(&[directory.join("adapter_model.safetensors")])?;
    if !weights.has("base_model.model.score.weight") {
        return Ok(None);
    }
    let path = directory.join(HEAD_FILE);
    if !path.exists() {
        return Ok(Some((Head::Score, Map::new())));
    }
    let fields = read_json(&path)?;
    let Some(head) = Config::head_of_fields(&fields) else {
        let message = "it describes no head: `plumb_head` and `num_labels` are needed".into();
        return Err(Error::Missing { path, message });
    };
    Ok(Some((head, fields)))
}

/// Reads `adapter_config.json`.
pub fn adapter_config(directory: &Path) -> Result<AdapterConfig, Error> {
    let path = directory.join("adapter_config.json");
    let map = read_json(&path)?;
    let unsupported = |field: &str, hint: &str| Error::Unsupported {
        path: path.clone(),
        field: field.into(),
        value: map.get(field).cloned().unwrap_or_default().to_string(),
        hint: hint.into(),
    };
    let kind = map.get("peft_type").and_then(Value::as_str);
    if !matches!(kind, Some("LORA" | "PBLORA")) {
        return Err(unsupported("peft_type", "LORA and PBLORA are supported"));
    }
    // `fan_in_fan_out` says how PEFT finds the base's weights; what an adapter adds does not depend on it.
    for field in ["use_dora", "lora_bias"] {
        if map.get(field).and_then(Value::as_bool) == Some(true) {
            return Err(unsupported(field, "false is supported"));
        }
    }
    for field in ["rank_pattern", "alpha_pattern"] {
        if map.get(field).and_then(Value::as_object).is_some_and(|pattern| !pattern.is_empty()) {
            return Err(unsupported(field, "one rank and one alpha for all maps are supported"));
        }
    }
    let targets = match map.get("target_modules") {
        Some(Value::Array(names)) => {
            names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect()
        }
        _ => return Err(unsupported("target_modules", "a list of names is supported")),
    };
    let rank = |field: &str| {
        let r = map.get(field).and_then(Value::as_u64).filter(|r| *r > 0);
        r.map(|r| r as usize).ok_or_else(|| unsupported(field, "a rank of at least 1"))
    };
    let (r, bilinear) = if kind == Some("PBLORA") {
        let count = map.get("obj_num").and_then(Value::as_u64).filter(|count| *count > 0);
        let count = count.ok_or_else(|| unsupported("obj_num", "a number of objectives"))? as usize;
        // Public code knows objectives by their places only.
        let names = map.get("objectives").and_then(Value::as_array).map(|names| {
            names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect::<Vec<_>>()
        });
        let objectives = names.unwrap_or_else(|| (0..count).map(|place| place.to_string()).collect());
        if objectives.len() != count {
            return Err(unsupported("objectives", "one name for each of `obj_num`"));
        }
        (rank("r1")?, Some(BilinearConfig { r: rank("r2")?, objectives }))
    } else {
        (rank("r")?, None)
    };
    Ok(AdapterConfig {
        r,
        alpha: map.get("lora_alpha").and_then(Value::as_f64).unwrap_or(8.0),
        use_rslora: map.get("use_rslora").and_then(Value::as_bool).unwrap_or(false),
        targets,
        base: map.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default().to_owned(),
        bilinear,
    })
}

/// Attaches the adapter of a directory to a loaded base.
pub fn load_adapter(decoder: &mut Decoder, directory: &Path) -> Result<AdapterConfig, Error> {
    let config = adapter_config(directory)?;
    let weights = Weights::of_files(&[directory.join("adapter_model.safetensors")])?;
    let device = decoder.device();
    let mut failure = None;
    let mut used = 0;
    decoder.each_linear(&mut |path, linear| {
        if failure.is_some() || !config.applies_to(path) {
            return;
        }
        let [out, width] = linear.weight.dims();
        let read = |part: &str, shape: [usize; 2]| {
            let values = weights.read(&format!("base_model.model.{path}.{part}"), &shape)?;
            Ok::<_, Error>(tensor(values, shape, &device))
        };
        match read_lora(&config, [out, width], read) {
            Ok(lora) => linear.lora = Some(lora),
            Err(error) => failure = Some(error),
        }
        used += if config.bilinear.is_some() { 4 } else { 2 };
    });
    // PEFT keeps the whole head of a reward model beside the factors.
    if let Some(head) = &mut decoder.head {
        let name = "base_model.model.score.weight";
        if weights.has(name) {
            let shape = head.weight.dims();
            head.weight = tensor(weights.read(name, &shape)?, shape, &device);
            head.unpack();
            used += 1;
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    let held = weights.names().count();
    if used != held {
        let message =
            format!("{held} tensors, of which {used} belong to target_modules {:?}", config.targets);
        return Err(Error::Weights { path: directory.join("adapter_model.safetensors"), message });
    }
    Ok(config)
}

/// Reads the parts of a map's adapter.
fn read_lora(
    config: &AdapterConfig,
    [out, width]: [usize; 2],
    read: impl Fn(&str, [usize; 2]) -> Result<Tensor<2>, Error>,
) -> Result<Lora, Error> {
    let (r, scaling) = (config.rank(), config.scaling());
    let Some(bilinear) = &config.bilinear else {
        return Ok(Lora::new(read("lora_A.weight", [r, width])?, read("lora_B.weight", [out, r])?, scaling));
    };
    let shared = read("pblora_W1", [config.r, config.r])?;
    let own = read("pblora_W2", [bilinear.objectives.len(), bilinear.r * bilinear.r])?;
    let lora = Lora::new(read("pblora_A", [r, width])?, read("pblora_B", [out, r])?, scaling);
    Ok(Lora { bilinear: Some(Bilinear::new(shared, own)), ..lora })
}

/// Attaches new adapters; the error names a target that matches nothing.
pub fn attach(
    decoder: &mut Decoder,
    config: &AdapterConfig,
    uniform: &mut dyn FnMut() -> f64,
) -> Result<(), Error> {
    let adapted = adapted(&decoder.config, &config.targets)?;
    decoder.each_linear(&mut |path, linear| {
        if !adapted.contains_key(path) {
            return;
        }
        match &config.bilinear {
            None => linear.attach(config.r, config.scaling(), uniform),
            Some(bilinear) => linear.attach_bilinear(
                (config.r, bilinear.r),
                bilinear.objectives.len(),
                config.scaling(),
                uniform,
            ),
        }
    });
    Ok(())
}

/// The linear maps that `targets` name by the ends of their paths, by path.
///
/// # Errors
/// A target is the end of none; the error names those that a family has.
pub fn adapted(config: &Config, targets: &[String]) -> Result<BTreeMap<String, MapShape>, Error> {
    let (names, maps) = (config.names(), config.maps());
    let all = (0..config.num_hidden_layers)
        .flat_map(|index| maps.iter().map(move |map| (names.layer(index, map.name), *map)));
    let all: Vec<_> = all.collect();
    let mut adapted = BTreeMap::new();
    for target in targets {
        let end = format!(".{target}");
        let mut named = all.iter().filter(|(path, _)| path.ends_with(&end)).peekable();
        if named.peek().is_none() {
            let mut known: Vec<&str> = Vec::new();
            for map in maps.iter() {
                let last = last_part(map.name);
                if !known.contains(&last) {
                    known.push(last);
                }
            }
            return Err(Error::Unsupported {
                path: PathBuf::from("lora"),
                field: "targets".into(),
                value: target.clone(),
                hint: format!("{} has {}", config.model_type, known.join(", ")),
            });
        }
        adapted.extend(named.cloned());
    }
    Ok(adapted)
}

/// What a path ends with.
fn last_part(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

/// The files of a whole model, by name: `config.json`, `generation_config.json`, weights. A value head is left out.
pub fn model_files(decoder: &Decoder, float: Float) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut merged = decoder.clone();
    merged.each_linear(&mut |_, linear| linear.merge());
    let mut tensors = named(&mut merged, &|name| !name.starts_with(VALUE_HEAD));
    let names = decoder.config.names();
    for tensor in tensors.iter_mut().filter(|tensor| names.transposed && names.is_map(&tensor.name)) {
        tensor.values = transposed(&tensor.values, tensor.shape[1]);
        tensor.shape.reverse();
    }
    let mut config = decoder.config.raw.clone();
    let dtype = match float {
        Float::F32 => "float32",
        Float::Bf16 => "bfloat16",
        Float::F16 => "float16",
    };
    config.remove("dtype");
    config.insert("torch_dtype".into(), json!(dtype));
    let mut files = vec![("config.json".into(), pretty(&Value::Object(config)))];
    if decoder.config.head == Head::Language && !decoder.config.eos.is_empty() {
        let eos = match decoder.config.eos.as_slice() {
            [one] => json!(one),
            many => json!(many),
        };
        let mut generation = Map::new();
        for key in ["bos_token_id", "pad_token_id"] {
            if let Some(value) = decoder.config.raw.get(key).filter(|value| !value.is_null()) {
                generation.insert(key.into(), value.clone());
            }
        }
        generation.insert("eos_token_id".into(), eos);
        files.push(("generation_config.json".into(), pretty(&Value::Object(generation))));
    }
    files.extend(weight_files(tensors, float, SHARD_BYTES)?);
    Ok(files)
}

/// The files of an adapter, by name. A reward model's head goes with it whole.
pub fn adapter_files(decoder: &Decoder, config: &AdapterConfig) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let mut copy = decoder.clone();
    let score = decoder.config.head.is_score();
    let mut tensors = named(&mut copy, &|name| name.contains("lora_") || (score && name == "score.weight"));
    for tensor in &mut tensors {
        tensor.name = format!("base_model.model.{}", tensor.name);
    }
    let mut fields = json!({
        "base_model_name_or_path": config.base,
        "bias": "none",
        "fan_in_fan_out": decoder.config.names().transposed,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": if score { json!(["score"]) } else { Value::Null },
        "peft_type": "LORA",
        "r": config.r,
        "target_modules": config.targets,
        "task_type": if score { "SEQ_CLS" } else { "CAUSAL_LM" },
        "use_dora": false,
        "use_rslora": config.use_rslora,
    });
    if let (Some(bilinear), Some(fields)) = (&config.bilinear, fields.as_object_mut()) {
        // The names of the public code's fork of PEFT, and the objectives' own beside them.
        for field in ["r", "use_dora", "use_rslora"] {
            fields.remove(field);
        }
        fields.insert("peft_type".into(), json!("PBLORA"));
        fields.insert("r1".into(), json!(config.r));
        fields.insert("r2".into(), json!(bilinear.r));
        fields.insert("obj_num".into(), json!(bilinear.objectives.len()));
        fields.insert("objectives".into(), json!(bilinear.objectives));
    }
    let mut files = vec![
        ("adapter_config.json".into(), pretty(&fields)),
        ("adapter_model.safetensors".into(), serialize(&tensors, Float::F32)?),
    ];
    let head = decoder.config.head_fields();
    if !head.is_empty() {
        files.push((HEAD_FILE.into(), pretty(&Value::Object(head))));
    }
    Ok(files)
}

/// The values of the parameters that `wanted` picks, in the order of their names.
pub fn named(decoder: &mut Decoder, wanted: &dyn Fn(&str) -> bool) -> Vec<Named> {
    let mut tensors = Vec::new();
    decoder.visit(&mut |name, slot: Slot<'_>| {
        if wanted(name) {
            let values = crate::cache::host(slot.flat());
            tensors.push(Named { name: name.to_owned(), shape: slot.shape(), values });
        }
    });
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    tensors
}

fn weight_files(tensors: Vec<Named>, float: Float, limit: usize) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let width = if float == Float::F32 { 4 } else { 2 };
    let total: usize = tensors.iter().map(|tensor| tensor.values.len() * width).sum();
    if total <= limit {
        return Ok(vec![("model.safetensors".into(), serialize(&tensors, float)?)]);
    }
    let mut shards: Vec<Vec<Named>> = vec![Vec::new()];
    let mut size = 0;
    for tensor in tensors {
        let bytes = tensor.values.len() * width;
        if size > 0 && size + bytes > limit {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(tensor);
        }
    }
    let count = shards.len();
    let mut map = Map::new();
    let mut files = Vec::new();
    for (index, shard) in shards.into_iter().enumerate() {
        let name = format!("model-{:05}-of-{count:05}.safetensors", index + 1);
        for tensor in &shard {
            map.insert(tensor.name.clone(), json!(name));
        }
        files.push((name, serialize(&shard, float)?));
    }
    let index = json!({"metadata": {"total_size": total}, "weight_map": map});
    files.push(("model.safetensors.index.json".into(), pretty(&index)));
    Ok(files)
}

fn pretty(value: &Value) -> Vec<u8> {
    let mut text = format!("{value:#}");
    text.push('\n');
    text.into_bytes()
}
