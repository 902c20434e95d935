//! Models by name.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use burn::tensor::Device;
use data::chat::{ChatTemplate, Clock};
use data::render::Renderer;
use data::tokenizer::Tokenizer;
use generate::{Prompt, Purpose, Stream, TokenId};
use model::files::{self, AdapterConfig, BilinearConfig};
use model::{Decoder, Head, Policy, Precision};
use recipe::{Lora, ModelName, Rules, Validate};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Error;
use super::places::{Places, adapter_of_adapter, base_of, of_base, portable_name, warn};
use super::reader::same_tokens;

/// `[model]`: which model, and whether adapters are trained on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelTable {
    /// `tiny`, a directory, `hf://org/name[@revision]`, or `stage:NAME`.
    pub path: ModelName,
    /// Train low-rank adapters instead of all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// Number format of weights that stay as they are: of models that are only run, those of a comparison and of guidance among
    /// them, and of a model that adapters are trained beside.
    #[serde(skip_serializing_if = "Dtype::is_default")]
    pub dtype: Dtype,
}

/// The number format of weights that stay as they are, on a CPU. Fewer bits are read faster and take less memory, and change the
/// law a little; sums, adapters and their gradients are in f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits with the range of f32; keys and values too, where the model is only run. Where the processor's own products of bf16
    /// (AVX512-BF16) are faster than those of widened weights, which is measured, they are used, and what weights are multiplied with is rounded.
    Bf16,
    /// 8 bits, with a scale for every 128 weights; keys and values in bf16, where the model is only run.
    Int8,
}

impl Dtype {
    /// Whether weights stay as they are.
    pub fn is_default(&self) -> bool {
        *self == Self::F32
    }

    /// Its name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    /// Bytes that a weight takes, its share of a scale among them.
    pub fn bytes(self) -> f64 {
        match self {
            Self::F32 => 4.0,
            Self::Bf16 => 2.0,
            Self::Int8 => 1.0 + 4.0 / 128.0,
        }
    }

    /// It as the kernels have it.
    pub fn precision(self) -> Precision {
        match self {
            Self::F32 => Precision::F32,
            Self::Bf16 => Precision::Bf16,
            Self::Int8 => Precision::Int8,
        }
    }
}

impl Default for ModelTable {
    fn default() -> Self {
        Self { path: ModelName::tiny(), lora: None, dtype: Dtype::F32 }
    }
}

impl Validate for ModelTable {
    fn validate(&self, rules: &mut Rules) {
        if let Some(lora) = &self.lora {
            rules.within("lora", lora);
        }
    }
}

/// How far the law of a model in fewer bits is from its own in f32: `KL(f32 ‖ rounded)` of the next-token laws on some tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounding {
    /// The number format.
    pub dtype: Dtype,
    /// Tokens after which the laws were compared.
    pub tokens: usize,
    /// Mean, in nats.
    pub mean: f64,
    /// Largest, in nats.
    pub largest: f64,
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dtype, tokens, mean, largest } = self;
        if *largest == 0.0 {
            return write!(
                f,
                "weights in {}: the next-token laws of f32, over {tokens} tokens of the prompts",
                dtype.name()
            );
        }
        write!(
            f,
            "weights in {}: KL(f32 ‖ {0}) of the next token {mean:.2e} nats on average, {largest:.2e} at most, over {tokens} tokens of the prompts",
            dtype.name()
        )
    }
}

/// A model and what belongs to it.
#[derive(Debug)]
pub struct Loaded {
    /// The name it was asked for by.
    pub name: String,
    /// The name by which other programs find it: the hub's, or an absolute path.
    pub portable: String,
    /// The decoder, its adapter attached.
    pub decoder: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Settings of the adapter that was loaded.
    pub adapter: Option<AdapterConfig>,
    /// Hash of the weights, which pools are addressed by; with the number format, where that is not f32.
    pub hash: String,
    /// The number format that policies made of it run in.
    pub dtype: Dtype,
    /// The time that its chat template prints.
    clock: Clock,
    /// Hash of the weights without the adapter.
    weights: String,
    /// The weights without the adapter, packed when they are first run: shared by what stands on the same ones.
    backbone: Rc<OnceCell<Decoder>>,
}

impl Loaded {
    /// The model whose policies run in another number format, which only CPUs have.
    pub fn with_dtype(mut self, dtype: Dtype) -> Result<Self, Error> {
        if dtype.is_default() {
            return Ok(self);
        }
        if !self.decoder.packs() {
            let message = format!(
                "dtype = \"{}\" needs a CPU\n  hint: leave `dtype` out, or set run.device to \"cpu\"",
                dtype.name()
            );
            return Err(Error::Data { what: self.name, message });
        }
        self.hash = format!("{}-{}", self.hash, dtype.name());
        self.dtype = dtype;
        self.backbone = Rc::default();
        Ok(self)
    }

    /// It as a policy, named so in errors.
    pub fn policy(&self, name: impl Into<String>) -> Policy {
        let packed = self.backbone().with_adapter_of(&self.decoder);
        Policy::with_precision(name, &packed, self.dtype.precision())
    }

    /// The weights that its policies multiply by, which are all that they hold.
    fn backbone(&self) -> &Decoder {
        self.backbone.get_or_init(|| {
            let mut packed = self.decoder.without_adapter().frozen_as(self.dtype.precision());
            packed.release();
            packed
        })
    }

    /// Lets go of the weights that its policies do not read, where all that is still to come are policies: a model that is only run
    /// is then in memory once, in its number format.
    pub fn release(&mut self) {
        self.backbone();
        self.decoder.release();
    }

    /// What its number format costs on the first tokens of `prompts`; `None` in f32, and where there is nothing to compare.
    pub fn rounding(&self, prompts: &[Prompt]) -> Result<Option<Rounding>, Error> {
        const TOKENS: usize = 256;
        if self.dtype.is_default() {
            return Ok(None);
        }
        let mut left = TOKENS;
        let texts = prompts.iter().map_while(|prompt| {
            let text = &prompt.ids[..prompt.ids.len().min(left)];
            left -= text.len();
            (!text.is_empty()).then_some(text)
        });
        let texts: Vec<&[TokenId]> = texts.collect();
        let exact = Policy::new("f32", &self.decoder);
        let kl = exact.kl_to(&self.policy(self.dtype.name()), &texts)?;
        Ok(kl.filter(|kl| !kl.is_empty()).map(|kl| Rounding {
            dtype: self.dtype,
            tokens: kl.len(),
            mean: kl.iter().map(|kl| f64::from(*kl)).sum::<f64>() / kl.len() as f64,
            largest: kl.iter().fold(0.0, |most, kl| f64::from(*kl).max(most)),
        }))
    }

    /// The same model on the weights of `other`, where both are language models on the same ones, with adapters or without:
    /// they are then held once, and rows of the two run as one batch.
    #[must_use]
    pub fn beside(mut self, other: &Self) -> Self {
        let language = |loaded: &Self| loaded.decoder.config.head == Head::Language;
        if self.weights == other.weights && self.dtype == other.dtype && language(&self) && language(other) {
            self.decoder = other.decoder.with_adapter_of(&self.decoder);
            self.backbone = other.backbone.clone();
        }
        self
    }

    /// Whether its token ids mean what those of `other` mean: every token that both have has one id and one
    /// text. Tokens that one of
    /// them has more (padding that was added, rows that fill a vocabulary up) take nothing away.
    pub fn reads_tokens_of(&self, other: &Self) -> bool {
        same_tokens(&self.tokenizer, &other.tokenizer)
    }

    /// The renderer of its tokenizer and chat template, for what its weights can read.
    pub fn renderer(&self) -> Result<Renderer<'_>, Error> {
        let template = match self.tokenizer.chat_template() {
            Some(_) => Some(ChatTemplate::of(&self.tokenizer, self.clock.clone())?),
            None => None,
        };
        let config = &self.decoder.config;
        Ok(Renderer::new(&self.tokenizer, template)
            .with_vocabulary(config.vocab_size)
            .with_context(config.max_position_embeddings))
    }
}

/// Loads a model that next tokens are drawn from or trained on.
///
/// # Errors
/// Its head gives as many numbers as a language model's, or more, and they are no logits.
pub fn load(places: &Places, name: &ModelName, device: &Device) -> Result<Loaded, Error> {
    let loaded = load_any(places, name, device)?;
    let (what, hint) = match loaded.decoder.config.head {
        Head::Language | Head::Score => return Ok(loaded),
        Head::Vocabulary => {
            ("values of next tokens (`prefix-scorer`)", "name it in [value.model], or in [reward.model]")
        }
        Head::Quantile { .. } => {
            ("laws of rewards (`quantile`)", "name it as `quantile` of a method that calibrates")
        }
    };
    let message = format!("it gives {what} and no next-token law\n  hint: {hint}");
    Err(Error::Data { what: loaded.name, message })
}

/// Loads a model whatever its head gives.
pub fn load_any(places: &Places, name: &ModelName, device: &Device) -> Result<Loaded, Error> {
    load_with(places, name, None, &mut |directory| Ok(files::load(directory, device)?))
}

/// Loads a language model whose adapter depends on weights of objectives, as it is under these: by name, those that are not
/// named 0; no weights at all are equal weights.
pub fn load_preferring(
    places: &Places,
    name: &ModelName,
    device: &Device,
    weights: &BTreeMap<String, f64>,
) -> Result<Loaded, Error> {
    load_with(places, name, Some(weights), &mut |directory| Ok(files::load(directory, device)?))
}

/// Loads a model with the head `head`; a model with another gets a new one, drawn from `seed`.
pub fn load_for_score(
    places: &Places,
    name: &ModelName,
    head: Head,
    device: &Device,
    seed: u64,
) -> Result<Loaded, Error> {
    let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
    load_with(places, name, None, &mut |directory| {
        let pad = Tokenizer::from_dir(directory)?.pad_id();
        Ok(files::load_for_score(directory, head, Some(pad), device, &mut || stream.normal())?)
    })
}

fn load_with(
    places: &Places,
    name: &ModelName,
    preference: Option<&BTreeMap<String, f64>>,
    read: &mut dyn FnMut(&Path) -> Result<Decoder, Error>,
) -> Result<Loaded, Error> {
    let Some(directory) = places.model(name, true)? else {
        return Err(Error::Data { what: name.to_string(), message: "there is no such model".into() });
    };
    let say = |decoder: &Decoder| {
        for note in &decoder.config.notes {
            warn(&format!("{name}: {note}"));
        }
    };
    if !files::is_adapter(&directory) {
        if preference.is_some() {
            return Err(no_preference(name));
        }
        let decoder = read(&directory)?;
        say(&decoder);
        let tokenizer = Tokenizer::from_dir(&directory)?;
        padding(name, &decoder, &tokenizer);
        let hash = hash_of(&[&directory])?.remove(0);
        return Ok(Loaded {
            name: name.to_string(),
            portable: portable_name(name, &directory),
            decoder,
            tokenizer,
            adapter: None,
            weights: hash.clone(),
            hash,
            dtype: Dtype::F32,
            clock: places.clock.clone(),
            backbone: Rc::default(),
        });
    }
    // An adapter names its base the way a recipe does, or by the hub's id.
    let base = base_of(&directory)?;
    let found = places.model(&base, true).map_err(|error| of_base(&directory, error))?;
    let Some(base_directory) = found else {
        return Err(Error::Data { what: base.to_string(), message: "there is no such model".into() });
    };
    if files::is_adapter(&base_directory) {
        return Err(adapter_of_adapter(&directory, &base));
    }
    let mut decoder = read(&base_directory)?;
    say(&decoder);
    if let Some((head, fields)) = files::adapter_head(&directory)? {
        if decoder.config.head != head {
            let pad = Tokenizer::from_dir(&base_directory)?.pad_id();
            decoder = decoder.with_head(head, Some(pad), &mut || 0.0);
        }
        decoder.config.raw.extend(fields);
    }
    let adapter = files::load_adapter(&mut decoder, &directory)?;
    let weights = chosen(name, adapter.bilinear.as_ref(), preference)?;
    let adapter = if weights.is_empty() { adapter } else { adapter.folded() };
    decoder.each_linear(&mut |_, linear| linear.fold(&weights));
    let own = Tokenizer::is_in(&directory);
    let tokenizer = Tokenizer::from_dir(if own { &directory } else { &base_directory })?;
    let mut hashes = hash_of(&[&base_directory, &directory])?;
    let mut hash = hashes.remove(1);
    if !weights.is_empty() {
        hash = format!("{hash}-{weights:?}");
    }
    // With embeddings of its own it has no weights in common with others of its base.
    let weights = if files::holds_embeddings(&directory)? { hash.clone() } else { hashes.remove(0) };
    Ok(Loaded {
        name: name.to_string(),
        portable: portable_name(name, &directory),
        decoder,
        tokenizer,
        adapter: Some(adapter),
        hash,
        dtype: Dtype::F32,
        clock: places.clock.clone(),
        weights,
        backbone: Rc::default(),
    })
}

/// Says of a reward model whose padding is what its texts end with that it is read otherwise elsewhere.
fn padding(name: &ModelName, decoder: &Decoder, tokenizer: &Tokenizer) {
    let pad = decoder.config.raw.get("pad_token_id").and_then(serde_json::Value::as_u64);
    let ends = pad.is_some_and(|pad| tokenizer.stop_ids().iter().any(|id| u64::from(*id) == pad));
    if ends && decoder.config.head == Head::Score {
        warn(&format!(
            "{name}: its pad_token_id is the token that ends a text, which transformers skips: it reads the score before that token, and here it is read at it"
        ));
    }
}

fn no_preference(name: &ModelName) -> Error {
    let message = "it does not depend on weights of objectives\n  hint: guide by it with `genarm`, or name a model that the training method `parm` made";
    Error::Data { what: name.to_string(), message: message.into() }
}

/// The weights of the objectives of an adapter, in their order; none where it does not depend on any.
fn chosen(
    name: &ModelName,
    bilinear: Option<&BilinearConfig>,
    preference: Option<&BTreeMap<String, f64>>,
) -> Result<Vec<f64>, Error> {
    let (objectives, weights) = match (bilinear, preference) {
        (None, None) => return Ok(Vec::new()),
        (None, Some(_)) => return Err(no_preference(name)),
        (Some(bilinear), Some(weights)) => (&bilinear.objectives, weights),
        (Some(bilinear), None) => {
            let message = format!(
                "it depends on the weights of {}, and none are given\n  hint: guide by it with `parm`",
                bilinear.objectives.join(", ")
            );
            return Err(Error::Data { what: name.to_string(), message });
        }
    };
    if let Some(unknown) = weights.keys().find(|named| !objectives.contains(named)) {
        let message =
            format!("it has no objective {unknown:?}\n  hint: give weights of {}", objectives.join(", "));
        return Err(Error::Data { what: name.to_string(), message });
    }
    if weights.is_empty() {
        return Ok(vec![1.0 / objectives.len() as f64; objectives.len()]);
    }
    Ok(objectives.iter().map(|objective| weights.get(objective).copied().unwrap_or(0.0)).collect())
}

/// Files that decide what a model computes and reads, beside its weights.
const DECIDING: [&str; 8] = [
    "adapter_config.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "head.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// Fields of those that decide nothing: names and versions. The base of an adapter is hashed itself.
const NAMES: [&str; 8] = [
    "_name_or_path",
    "base_model_name_or_path",
    "inference_mode",
    "name_or_path",
    "peft_version",
    "revision",
    "transformers_version",
    "use_cache",
];

/// For each of some directories, the hash of what decides about it and those before it: weights, and settings
/// whatever the order of
/// their keys.
fn hash_of(directories: &[&Path]) -> Result<Vec<String>, Error> {
    let mut hasher = blake3::Hasher::new();
    let mut hashes = Vec::new();
    for directory in directories {
        let entries = fs_err::read_dir(directory).map_err(model::Error::Io)?;
        let mut paths: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
        paths.sort();
        for path in &paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let weights = path.extension().is_some_and(|ext| ext == "safetensors");
            if !weights && !DECIDING.contains(&name.as_ref()) {
                continue;
            }
            let mut bytes = fs_err::read(path).map_err(model::Error::Io)?;
            if path.extension().is_some_and(|ext| ext == "json")
                && let Ok(mut value) = serde_json::from_slice::<serde_json::Value>(&bytes)
            {
                if let Some(map) = value.as_object_mut() {
                    map.retain(|key, _| !NAMES.contains(&key.as_str()));
                }
                value.sort_all_objects();
                bytes = value.to_string().into_bytes();
            }
            hasher.update(name.as_bytes());
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes);
        }
        hashes.push(hasher.finalize().to_hex()[..32].to_owned());
    }
    Ok(hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_model_is_of_its_settings_too_whatever_their_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs_err::write(folder.path().join(name), text).expect("written");
        let hash = || hash_of(&[folder.path()]).expect("a hash").remove(0);
        write("model.safetensors", "weights");
        write("config.json", r#"{"rope_theta": 10000, "nested": {"a": 1, "b": 2}}"#);
        let first = hash();
        write(
            "config.json",
            r#"{"nested": {"b": 2, "a": 1}, "rope_theta": 10000, "transformers_version": "5"}"#,
        );
        assert_eq!(hash(), first);
        write("config.json", r#"{"rope_theta": 20, "nested": {"a": 1, "b": 2}}"#);
        assert_ne!(hash(), first);
        write("config.json", r#"{"rope_theta": 10000, "nested": {"a": 1, "b": 2}}"#);
        write("README.md", "nothing");
        assert_eq!(hash(), first);
        for (name, text) in [
            ("adapter_config.json", r#"{"lora_alpha": 8}"#),
            ("adapter_config.json", r#"{"lora_alpha": 16}"#),
            ("head.json", r#"{"num_labels": 3}"#),
            ("chat_template.jinja", "{{ messages }}"),
            ("tokenizer_config.json", r#"{"pad_token": "x"}"#),
            ("model.safetensors", "weights2"),
        ] {
            let before = hash();
            write(name, text);
            assert_ne!(hash(), before, "{name}");
        }
    }
}
