//! Models as Hugging Face directories: loading, saving, adapters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value, json};

use crate::adapter::{self, Settings};
pub use crate::adapter::{
    AdapterConfig, BilinearConfig, adapter_config, is_adapter, weights_path as adapter_weights,
};
use crate::bilinear::Bilinear;
use crate::config::{Config, Head, MapShape, read_json};
use crate::decoder::{Decoder, VALUE_HEAD};
use crate::error::Error;
use crate::linear::{Linear, Lora, tensor};
use crate::params::Slot;
use crate::weights::{Float, Named, Weights, serialize};

/// The largest weight file; larger models are written in shards.
const SHARD_BYTES: usize = 5_000_000_000;

/// What an adapter says about a head that is no plain score, which PEFT has no field for.
const HEAD_FILE: &str = "head.json";

/// Loads a model directory. A directory that holds an adapter is loaded with its base: a path beside it or as given.
pub fn load(directory: &Path, device: &Device) -> Result<Decoder, Error> {
    let mut config = Config::read(directory)?;
    let weights = Weights::open(directory)?;
    let names = config.names();
    // A bare decoder is stored without the prefix of the causal model.
    let prefix = format!("{}.", names.base);
    let embedding = format!("{}.weight", names.embedding);
    let bare = weights.has(&embedding) && !weights.has(&format!("{prefix}{embedding}"));
    let heads = || names.heads.iter().map(|head| format!("{head}.weight"));
    let stored_head = heads().find(|head| weights.has(head));
    let language = config.head == Head::Language;
    if let Some(head) = stored_head.as_deref().filter(|_| language && config.tie_word_embeddings) {
        let tied = if bare { embedding.clone() } else { format!("{prefix}{embedding}") };
        if !weights.equal(head, &tied) {
            config.notes.push(format!(
                "tie_word_embeddings is true, and {head} is not the embedding: the stored head is used, as transformers 5 does"
            ));
            config.tie_word_embeddings = false;
            config.raw.insert("tie_word_embeddings".into(), json!(false));
        }
    }
    let mut decoder = Decoder::build(config, device, &mut |name, shape| {
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
    })?;
    // A reward model has no use for the head of the language model that it was made of.
    let mut unread = weights.unread();
    unread.retain(|name| language || !heads().any(|head| head == *name));
    if let [first, ..] = unread.as_slice() {
        let more = if unread.len() == 1 { String::new() } else { format!(" and {} more", unread.len() - 1) };
        decoder.config.notes.push(format!(
            "{first}{more} of the weight files: not read, config.json says nothing of such tensors"
        ));
    }
    Ok(decoder)
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

/// A head, and the fields of `config.json` that describe it.
pub type AdapterHead = (Head, Map<String, Value>);

/// The head that an adapter brings, and the fields that describe it; `None` where it brings none.
pub fn adapter_head(directory: &Path) -> Result<Option<AdapterHead>, Error> {
    let weights = Weights::of_files(&[adapter::weights_path(directory)?])?;
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

/// Attaches the adapter of a directory to a loaded base. What it holds whole (the head of a reward model,
/// embeddings, the head
/// over the vocabulary) takes the place of the base's.
///
/// # Errors
/// A setting is not supported, a tensor is missing, or one belongs to nothing.
pub fn load_adapter(decoder: &mut Decoder, directory: &Path) -> Result<AdapterConfig, Error> {
    let settings = adapter::settings(directory)?;
    let path = adapter::weights_path(directory)?;
    let weights = Weights::of_files(std::slice::from_ref(&path))?;
    let device = decoder.device();
    let (mut failure, mut adapted) = (None, Vec::new());
    let head_names = decoder.config.names().heads;
    decoder.each_linear(&mut |path, linear| {
        let head = path == "score" || head_names.contains(&path);
        if failure.is_some() || !settings.adapts(path, head) {
            return;
        }
        let [out, width] = linear.weight.dims();
        let read = |part: &str, shape: [usize; 2]| {
            let values = weights.read(&format!("{PREFIX}{path}.{part}"), &shape)?;
            Ok::<_, Error>(tensor(values, shape, &device))
        };
        match read_lora(&settings.config, settings.rank_and_scale(path), [out, width], read) {
            Ok(lora) => linear.lora = Some(lora),
            Err(error) => failure = Some(error),
        }
        adapted.push(last_part(path).to_owned());
    });
    if let Some(error) = failure {
        return Err(error);
    }
    // PEFT keeps the whole head of a reward model beside the factors.
    if let Some(head) = decoder.head.as_mut().filter(|_| decoder.config.head.is_score()) {
        let name = format!("{PREFIX}score.weight");
        if weights.has(&name) {
            let shape = head.weight.dims();
            head.weight = tensor(weights.read(&name, &shape)?, shape, &device);
            head.unpack();
        }
    }
    saved_embeddings(decoder, &settings, &weights, &path)?;
    if let [first, ..] = weights.unread().as_slice() {
        let message = format!("{first} belongs to no map that adapter_config.json names");
        return Err(Error::Weights { path, message });
    }
    let mut config = settings.config;
    if config.targets.is_empty() {
        adapted.sort();
        adapted.dedup();
        config.targets = adapted;
    }
    Ok(config)
}

/// Whether an adapter holds embeddings or a head over the vocabulary whole, so that it is more than a change
/// of its base's maps.
pub fn holds_embeddings(directory: &Path) -> Result<bool, Error> {
    let weights = Weights::of_files(&[adapter::weights_path(directory)?])?;
    let factors =
        ["lora_A.weight", "lora_B.weight", "score.weight", "pblora_A", "pblora_B", "pblora_W1", "pblora_W2"];
    Ok(weights.names().any(|name| !factors.iter().any(|end| name.ends_with(end))))
}

/// What PEFT puts before the names of the base.
const PREFIX: &str = "base_model.model.";

/// Puts embeddings and the head over the vocabulary that an adapter holds whole (`modules_to_save`) in the
/// place of the base's.
fn saved_embeddings(
    decoder: &mut Decoder,
    settings: &Settings,
    weights: &Weights,
    path: &Path,
) -> Result<(), Error> {
    let names = decoder.config.names();
    let embedding = format!("{}.weight", names.top(names.embedding));
    let stored_embedding = Some(format!("{PREFIX}{embedding}")).filter(|name| weights.has(name));
    let mut heads = names.heads.iter().map(|head| format!("{PREFIX}{head}.weight"));
    let stored_head = heads.find(|name| weights.has(name)).filter(|_| decoder.config.head == Head::Language);
    let unknown = |name: &&String| {
        let own = [names.embedding, "score", "classifier"];
        !own.iter().chain(names.heads).any(|known| name == known || name.ends_with(&format!(".{known}")))
    };
    if let Some(name) = settings.saved.iter().find(unknown) {
        return Err(Error::Unsupported {
            path: path.with_file_name(adapter::CONFIG),
            field: "modules_to_save".into(),
            value: name.clone(),
            hint: format!(
                "the embedding, the head and `score` are supported, here {}, {}",
                names.embedding,
                names.head()
            ),
        });
    }
    if stored_embedding.is_none() && stored_head.is_none() {
        return Ok(());
    }
    let (width, device) = (decoder.config.hidden_size, decoder.device());
    let matrix = |name: &str| {
        let rows = weights.rows(name).unwrap_or(decoder.config.vocab_size);
        Ok::<_, Error>(tensor(weights.read(name, &[rows, width])?, [rows, width], &device))
    };
    let (new_embedding, new_head) = (
        stored_embedding.as_deref().map(matrix).transpose()?,
        stored_head.as_deref().map(matrix).transpose()?,
    );
    let tied = decoder.config.tie_word_embeddings && decoder.config.head == Head::Language;
    // The head of a tied model is the base's embedding, unless the adapter has one or says that both stay
    // one.
    let head = match (new_head, &new_embedding) {
        (Some(head), _) => Some(head),
        (None, Some(_)) if tied && !settings.keeps_tied => Some(decoder.embed_tokens.clone()),
        (None, _) => None,
    };
    if let Some(embedding) = new_embedding {
        decoder.config.vocab_size = embedding.dims()[0];
        decoder.embed_tokens = embedding;
    }
    if let Some(head) = head {
        decoder.config.tie_word_embeddings = false;
        let lora = decoder.head.take().and_then(|head| head.lora);
        let head = decoder.head.insert(Linear::new(head, None));
        head.lora = lora;
    }
    decoder.tied = None;
    let vocab = decoder.config.vocab_size;
    let rows = decoder
        .head
        .as_ref()
        .filter(|_| decoder.config.head == Head::Language)
        .map_or(vocab, |head| head.weight.dims()[0]);
    if rows != vocab {
        let message = format!(
            "{vocab} embeddings and a head of {rows} tokens: an adapter that adds tokens has to hold both"
        );
        return Err(Error::Weights { path: path.into(), message });
    }
    let raw = &mut decoder.config.raw;
    raw.insert("vocab_size".into(), json!(vocab));
    raw.insert("tie_word_embeddings".into(), json!(decoder.config.tie_word_embeddings));
    Ok(())
}

/// Reads the parts of a map's adapter.
fn read_lora(
    config: &AdapterConfig,
    (r, scaling): (usize, f64),
    [out, width]: [usize; 2],
    read: impl Fn(&str, [usize; 2]) -> Result<Tensor<2>, Error>,
) -> Result<Lora, Error> {
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
    let (base, revision) = config.base_fields();
    let mut fields = json!({
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": decoder.config.names().transposed,
        "inference_mode": true,
        "init_lora_weights": true,
        "lora_alpha": config.alpha,
        "lora_dropout": 0.0,
        "modules_to_save": if score { json!(["score"]) } else { Value::Null },
        "peft_type": "LORA",
        "r": config.r,
        "revision": revision,
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
