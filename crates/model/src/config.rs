//! The `config.json` of a Hugging Face model directory.

use std::path::{Path, PathBuf};

use kernels::AttentionRule;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::rope::Scaling;

/// What a model gives for a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// Logits of the next token (`…ForCausalLM`).
    Language,
    /// One score (`…ForSequenceClassification` with one label, `score.weight`).
    Score,
    /// A value of every next token (`score.weight` of `vocab_size + 1` rows): that of token `z` is output `z` plus the last
    /// output, which belongs to the text so far.
    Vocabulary,
    /// Numbers of a law of rewards, read at the last token of a prompt (`score.weight`).
    Quantile {
        /// How many.
        outputs: usize,
    },
}

/// The field of `config.json` that says which of the heads `score.weight` is, where it is not a plain score.
const HEAD: &str = "plumb_head";

impl Head {
    /// Whether it is `score.weight` and not a language model's.
    pub fn is_score(self) -> bool {
        self != Self::Language
    }

    /// Outputs for each token of a model of `vocab` tokens.
    pub fn outputs(self, vocab: usize) -> usize {
        match self {
            Self::Language => vocab,
            Self::Score => 1,
            Self::Vocabulary => vocab + 1,
            Self::Quantile { outputs } => outputs,
        }
    }

    /// What `name` in [`HEAD`] and a number of labels make.
    fn named(name: &str, labels: usize) -> Option<Self> {
        match name {
            "vocabulary" => Some(Self::Vocabulary),
            "quantile" => Some(Self::Quantile { outputs: labels }),
            _ => None,
        }
    }
}

/// A decoder's shape, resolved: every default filled in.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the fields of the file")]
pub struct Config {
    /// `model_type` of the file: `llama`, `qwen2`, `qwen3`, `mistral` or `gemma2`.
    pub model_type: String,
    /// Number of token embeddings.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Of each layer, the most keys that a position sees, its own with them; `None` for all of its past.
    pub windows: Vec<Option<usize>>,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Number of key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// The most positions.
    pub max_position_embeddings: usize,
    /// Epsilon of the RMS norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies for long contexts.
    pub rope_scaling: Scaling,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// What a Gemma 2 has of its own.
    pub gemma: Option<Gemma>,
    /// RMS norms on every head of queries and keys (`q_norm`, `k_norm`).
    pub head_norms: bool,
    /// Biases on `q_proj`, `k_proj`, `v_proj`.
    pub qkv_bias: bool,
    /// Bias on `o_proj`.
    pub o_bias: bool,
    /// Biases in the feed-forward block.
    pub mlp_bias: bool,
    /// What comes out.
    pub head: Head,
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
    /// The file's own fields, written back on save.
    pub raw: Map<String, Value>,
}

/// What a Gemma 2 has of its own (arXiv 2408.00118, section 2), beside GeGLU, norms behind both blocks, norms by one plus their weight, and
/// embeddings times the root of their width.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gemma {
    /// Scores are divided by its root (`query_pre_attn_scalar`).
    pub query_scalar: f64,
    /// Soft cap of scores (`attn_logit_softcapping`).
    pub attention_cap: Option<f64>,
    /// Soft cap of logits (`final_logit_softcapping`).
    pub logit_cap: Option<f64>,
}

struct Fields<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl Fields<'_> {
    fn get<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<Option<T>, Error> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value.clone()).map(Some).map_err(|source| {
                let message = format!("{key} = {value}: {source}");
                Error::Weights { path: self.path.into(), message }
            }),
        }
    }

    fn need(&self, key: &str) -> Result<usize, Error> {
        match self.get(key)? {
            Some(0) => Err(self.unsupported(key, "0", "a number of at least 1")),
            Some(value) => Ok(value),
            None => Err(Error::Missing {
                path: self.path.into(),
                message: format!("no field {key}: is this the config.json of a llama-family model?"),
            }),
        }
    }

    /// The fields of a Gemma 2. A cap of `null` is none.
    fn gemma(&self) -> Result<Gemma, Error> {
        let activation = self.get("hidden_activation")?.unwrap_or_else(|| "gelu_pytorch_tanh".to_owned());
        if activation != "gelu_pytorch_tanh" {
            let hint = "gelu_pytorch_tanh is supported for gemma2";
            return Err(self.unsupported("hidden_activation", activation, hint));
        }
        let cap = |key: &str, default: f64| match self.get(key)? {
            Some(cap) if cap > 0.0 => Ok(Some(cap)),
            Some(cap) => Err(self.unsupported(key, cap, "a cap above 0, or null for none")),
            None => Ok((!self.map.contains_key(key)).then_some(default)),
        };
        let query_scalar = self.get("query_pre_attn_scalar")?.unwrap_or(256.0);
        if query_scalar <= 0.0 {
            return Err(self.unsupported("query_pre_attn_scalar", query_scalar, "a number above 0"));
        }
        Ok(Gemma {
            query_scalar,
            attention_cap: cap("attn_logit_softcapping", 50.0)?,
            logit_cap: cap("final_logit_softcapping", 30.0)?,
        })
    }

    /// The window of each layer: those that `layer_types` names slide; where it is not given, all of Mistral's, every second of
    /// Gemma 2 from the first on, and Qwen's from `max_window_layers` on, if its `use_sliding_window` wants it.
    fn windows(&self, model_type: &str, layers: usize) -> Result<Vec<Option<usize>>, Error> {
        let qwen = model_type.starts_with("qwen");
        let used = !qwen || self.get("use_sliding_window")?.unwrap_or(false);
        let gemma = model_type == "gemma2";
        let window: Option<usize> = match self.get("sliding_window")? {
            Some(window) if used && model_type != "llama" => Some(window),
            // The default of all these families in transformers.
            None if used && model_type != "llama" && !self.map.contains_key("sliding_window") => Some(4096),
            _ => None,
        };
        if window == Some(0) {
            return Err(self.unsupported("sliding_window", 0, "a window of at least 1, or null for none"));
        }
        let slides: Vec<bool> = match self.get::<Vec<String>>("layer_types")? {
            Some(types) if types.len() != layers => {
                let hint = format!("one for each of num_hidden_layers = {layers}");
                return Err(self.unsupported("layer_types", format!("{} entries", types.len()), &hint));
            }
            Some(types) => types
                .iter()
                .map(|name| match name.as_str() {
                    "sliding_attention" => Ok(true),
                    "full_attention" => Ok(false),
                    other => {
                        let hint = "sliding_attention and full_attention are supported";
                        Err(self.unsupported("layer_types", other, hint))
                    }
                })
                .collect::<Result<_, _>>()?,
            None => {
                let first = if qwen { self.get("max_window_layers")?.unwrap_or(28) } else { 0 };
                (0..layers).map(|layer| layer >= first && !(gemma && layer % 2 == 1)).collect()
            }
        };
        Ok(slides.into_iter().map(|slides| window.filter(|_| slides)).collect())
    }

    fn unsupported(&self, field: &str, value: impl ToString, hint: &str) -> Error {
        Error::Unsupported {
            path: self.path.into(),
            field: field.into(),
            value: value.to_string(),
            hint: hint.into(),
        }
    }
}

impl Config {
    /// Reads `config.json` (the layout of the hub and that of transformers 5) and `generation_config.json` beside it.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join("config.json");
        if !path.exists() {
            let message =
                "no config.json: name a Hugging Face model directory, `tiny`, or hf://org/name".into();
            return Err(Error::Missing { path: directory.into(), message });
        }
        let raw = read_json(&path)?;
        let mut config = Self::from_json(raw, &path)?;
        let generation = directory.join("generation_config.json");
        if generation.exists() {
            let generation = read_json(&generation)?;
            for id in token_ids(generation.get("eos_token_id")) {
                if !config.eos.contains(&id) {
                    config.eos.push(id);
                }
            }
        }
        Ok(config)
    }

    /// Resolves the fields of a `config.json`; `path` is for errors.
    pub fn from_json(raw: Map<String, Value>, path: &Path) -> Result<Self, Error> {
        let fields = Fields { map: &raw, path };
        let model_type: String = fields.get("model_type")?.unwrap_or_default();
        if !matches!(model_type.as_str(), "llama" | "qwen2" | "qwen3" | "mistral" | "gemma2") {
            return Err(fields.unsupported(
                "model_type",
                &model_type,
                "llama, qwen2, qwen3, mistral and gemma2 are supported",
            ));
        }
        let (qwen2, qwen3) = (model_type == "qwen2", model_type == "qwen3");
        let gemma = if model_type == "gemma2" { Some(fields.gemma()?) } else { None };
        let positions = if gemma.is_some() { 8192 } else { 2048 };
        let max_position_embeddings = fields.get("max_position_embeddings")?.unwrap_or(positions);
        let activation: String = fields.get("hidden_act")?.unwrap_or_else(|| "silu".into());
        if gemma.is_none() && activation != "silu" {
            return Err(fields.unsupported("hidden_act", activation, "silu is supported"));
        }
        let architecture: String = fields
            .get::<Vec<String>>("architectures")?
            .and_then(|list| list.into_iter().next())
            .unwrap_or_default();
        let head = if architecture.ends_with("ForSequenceClassification") {
            let labels = fields.get::<Map<String, Value>>("id2label")?.map(|labels| labels.len());
            let labels = fields.get("num_labels")?.or(labels).unwrap_or(2);
            match fields.get::<String>(HEAD)? {
                Some(name) => Head::named(&name, labels)
                    .ok_or_else(|| fields.unsupported(HEAD, name, "`vocabulary` and `quantile` are known"))?,
                None if labels == 1 => Head::Score,
                None => return Err(fields.unsupported("num_labels", labels, "a reward model has one label")),
            }
        } else {
            Head::Language
        };
        let hidden_size = fields.need("hidden_size")?;
        let vocab_size = fields.need("vocab_size")?;
        if head == Head::Vocabulary {
            let labels = fields.need("num_labels")?;
            if labels != head.outputs(vocab_size) {
                let hint = format!("a value of every token has vocab_size + 1 = {}", vocab_size + 1);
                return Err(fields.unsupported("num_labels", labels, &hint));
            }
        }
        let (layers, heads) = (fields.need("num_hidden_layers")?, fields.need("num_attention_heads")?);
        let key_value_heads = fields.get("num_key_value_heads")?.unwrap_or(heads);
        let head_dim = match fields.get("head_dim")? {
            Some(width) => width,
            // The defaults of transformers' Qwen3Config and Gemma2Config, whatever the width.
            None if qwen3 => 128,
            None if gemma.is_some() => 256,
            None if hidden_size % heads == 0 => hidden_size / heads,
            None => {
                let hint = format!("it does not divide hidden_size = {hidden_size}; give head_dim");
                return Err(fields.unsupported("num_attention_heads", heads, &hint));
            }
        };
        if key_value_heads == 0 || heads % key_value_heads != 0 {
            let hint = format!("it must divide num_attention_heads = {heads}");
            return Err(fields.unsupported("num_key_value_heads", key_value_heads, &hint));
        }
        if head_dim == 0 || head_dim % 2 != 0 {
            return Err(fields.unsupported("head_dim", head_dim, "rotary positions need an even number"));
        }
        // transformers 5 keeps all rotary fields in one table, older files have them at the top.
        let parameters: Map<String, Value> = fields.get("rope_parameters")?.unwrap_or_default();
        let rope_theta = match parameters.get("rope_theta").and_then(Value::as_f64) {
            Some(theta) => theta,
            None => fields.get("rope_theta")?.unwrap_or(10_000.0),
        };
        let scaling = match fields.get::<Map<String, Value>>("rope_scaling")? {
            Some(scaling) => scaling,
            None => parameters,
        };
        let rope_scaling = Scaling::from_json(&scaling, max_position_embeddings)
            .map_err(|(value, hint)| fields.unsupported("rope_scaling", value, &hint))?;
        let attention_bias: bool = fields.get("attention_bias")?.unwrap_or(false);
        Ok(Self {
            vocab_size,
            hidden_size,
            intermediate_size: fields.need("intermediate_size")?,
            num_hidden_layers: layers,
            windows: fields.windows(&model_type, layers)?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: fields.get("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: fields.get("tie_word_embeddings")?.unwrap_or(gemma.is_some()),
            gemma,
            head_norms: qwen3,
            qkv_bias: qwen2 || attention_bias,
            o_bias: !qwen2 && attention_bias,
            mlp_bias: fields.get("mlp_bias")?.unwrap_or(false),
            head,
            eos: token_ids(raw.get("eos_token_id")),
            model_type,
            raw,
        })
    }

    /// A llama of a given shape, as pre-training makes it.
    pub fn llama(shape: &Shape) -> Self {
        let raw = json!({
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": false,
            "bos_token_id": shape.eos,
            "eos_token_id": shape.eos,
            "pad_token_id": shape.pad,
            "head_dim": shape.hidden_size / shape.num_attention_heads.max(1),
            "hidden_act": "silu",
            "hidden_size": shape.hidden_size,
            "initializer_range": 0.02,
            "intermediate_size": shape.intermediate_size,
            "max_position_embeddings": shape.max_position_embeddings,
            "mlp_bias": false,
            "model_type": "llama",
            "num_attention_heads": shape.num_attention_heads,
            "num_hidden_layers": shape.num_hidden_layers,
            "num_key_value_heads": shape.num_key_value_heads,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10_000.0,
            "tie_word_embeddings": true,
            "torch_dtype": "float32",
            "vocab_size": shape.vocab_size,
        });
        let raw = raw.as_object().cloned().unwrap_or_default();
        Self {
            model_type: "llama".into(),
            vocab_size: shape.vocab_size,
            hidden_size: shape.hidden_size,
            intermediate_size: shape.intermediate_size,
            num_hidden_layers: shape.num_hidden_layers,
            windows: vec![None; shape.num_hidden_layers],
            num_attention_heads: shape.num_attention_heads,
            num_key_value_heads: shape.num_key_value_heads,
            head_dim: shape.hidden_size / shape.num_attention_heads.max(1),
            max_position_embeddings: shape.max_position_embeddings,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: Scaling::None,
            tie_word_embeddings: true,
            gemma: None,
            head_norms: false,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            head: Head::Language,
            eos: vec![shape.eos],
            raw,
        }
    }

    /// How a layer's scores become weights.
    pub fn attention_rule(&self, layer: usize) -> AttentionRule {
        let window = self.windows.get(layer).copied().flatten();
        let divisor = self.gemma.map_or(self.head_dim as f64, |gemma| gemma.query_scalar);
        let soft_cap = self.gemma.and_then(|gemma| gemma.attention_cap).map(|cap| cap as f32);
        AttentionRule { window, soft_cap, ..AttentionRule::scaled(divisor.powf(-0.5)) }
    }

    /// The soft cap of the logits over the vocabulary.
    pub(crate) fn logit_cap(&self) -> Option<f64> {
        self.gemma.and_then(|gemma| gemma.logit_cap).filter(|_| self.head == Head::Language)
    }

    /// The same decoder with another head; the fields of the file follow.
    #[must_use]
    pub fn with_head(mut self, head: Head, pad: Option<u32>) -> Self {
        self.head = head;
        let family = match self.model_type.as_str() {
            "qwen2" => "Qwen2",
            "qwen3" => "Qwen3",
            "gemma2" => "Gemma2",
            "mistral" => "Mistral",
            _ => "Llama",
        };
        let suffix = match head {
            Head::Language => "ForCausalLM",
            Head::Score | Head::Vocabulary | Head::Quantile { .. } => "ForSequenceClassification",
        };
        self.raw.insert("architectures".into(), json!([format!("{family}{suffix}")]));
        for key in ["id2label", "label2id", "num_labels", HEAD] {
            self.raw.remove(key);
        }
        let name = match head {
            Head::Language => None,
            Head::Score => {
                self.raw.insert("id2label".into(), json!({"0": "LABEL_0"}));
                self.raw.insert("label2id".into(), json!({"LABEL_0": 0}));
                None
            }
            Head::Vocabulary => Some("vocabulary"),
            Head::Quantile { .. } => Some("quantile"),
        };
        if let Some(name) = name {
            self.raw.insert("num_labels".into(), json!(head.outputs(self.vocab_size)));
            self.raw.insert(HEAD.into(), json!(name));
        }
        if head.is_score() {
            // transformers finds the last token of a padded row by this id.
            if let Some(pad) = pad {
                self.raw.insert("pad_token_id".into(), json!(pad));
            }
        }
        self
    }

    /// The fields that say what `score.weight` is, where it is not a plain score: what an adapter has to bring beside it.
    pub fn head_fields(&self) -> Map<String, Value> {
        if matches!(self.head, Head::Language | Head::Score) {
            return Map::new();
        }
        let own = |key: &str| key == "num_labels" || key.starts_with("plumb_");
        self.raw.iter().filter(|(key, _)| own(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// The head that the fields of [`Config::head_fields`] describe; `None` where they describe none.
    pub fn head_of_fields(fields: &Map<String, Value>) -> Option<Head> {
        let labels = fields.get("num_labels").and_then(Value::as_u64)? as usize;
        Head::named(fields.get(HEAD).and_then(Value::as_str)?, labels)
    }

    /// Number of weights, heads included.
    pub fn parameters(&self) -> usize {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let mut layer = d * (2 * q + 2 * kv) + 3 * d * f + 2 * d;
        if self.qkv_bias {
            layer += q + 2 * kv;
        }
        if self.o_bias {
            layer += d;
        }
        if self.head_norms {
            layer += 2 * self.head_dim;
        }
        if self.gemma.is_some() {
            layer += 2 * d;
        }
        if self.mlp_bias {
            layer += 2 * f + d;
        }
        let head = match self.head {
            Head::Score | Head::Vocabulary | Head::Quantile { .. } => self.head.outputs(self.vocab_size) * d,
            Head::Language if self.tie_word_embeddings => 0,
            Head::Language => self.vocab_size * d,
        };
        self.vocab_size * d + self.num_hidden_layers * layer + d + head
    }
}

/// The shape of a new llama.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Number of token embeddings.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward block.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads; divides `hidden_size`.
    pub num_attention_heads: usize,
    /// Number of key and value heads; divides `num_attention_heads`.
    pub num_key_value_heads: usize,
    /// The most positions.
    pub max_position_embeddings: usize,
    /// The token that begins and ends a text.
    pub eos: u32,
    /// The token that fills rows up.
    pub pad: u32,
}

/// Reads a JSON object.
pub(crate) fn read_json(path: &Path) -> Result<Map<String, Value>, Error> {
    let text = fs_err::read_to_string(path)?;
    serde_json::from_str(&text).map_err(|source| Error::Json { path: PathBuf::from(path), source })
}

fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().map(|id| id as u32);
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}
