//! The `config.json` of a Hugging Face model directory.

mod head;
mod keys;
mod read;

use kernels::{AttentionRule, Gate, Gelu};
use serde_json::{Map, Value, json};

use crate::family::{FAMILIES, Family, Names};
use crate::maps::{Maps, Qkv, Up};
use crate::rope::Scaling;
use head::HEAD;
pub use head::Head;
pub(crate) use read::{read_json, regular};

/// A decoder's shape, resolved: every default filled in.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "they are the fields of the file")]
pub struct Config {
    /// `model_type` of the file: `llama`, `qwen2`, `qwen3`, `mistral`, `gemma2`, `gpt_neox` or `gpt2`.
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
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Dimensions of a head that are rotated, its first ones: all but in a GPT-NeoX, and none where positions
    /// are learned.
    pub rotary_dims: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Change of the rotary frequencies for long contexts.
    pub rope_scaling: Scaling,
    /// Whether the output matrix is the embedding.
    pub tie_word_embeddings: bool,
    /// What a Gemma 2 has of its own.
    pub gemma: Option<Gemma>,
    /// What a GPT-NeoX or a GPT-2 has of its own.
    pub gpt: Option<Gpt>,
    /// RMS norms on every head of queries and keys (`q_norm`, `k_norm`).
    pub head_norms: bool,
    /// Biases on the maps to queries, keys and values.
    pub qkv_bias: bool,
    /// Bias on the map from attention's outputs.
    pub o_bias: bool,
    /// Biases in the feed-forward block.
    pub mlp_bias: bool,
    /// What comes out.
    pub head: Head,
    /// Tokens that end a sequence.
    pub eos: Vec<u32>,
    /// What its files say that is not read and may matter, a sentence for each.
    pub notes: Vec<String>,
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

/// What a GPT-NeoX (arXiv 2204.06745, section 2) or a GPT-2 has of its own, beside LayerNorms, one map for queries, keys and values, and
/// a feed-forward block without a gate. Of a GPT-NeoX's heads a part is rotated; a GPT-2 adds embeddings of positions to those of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gpt {
    /// The activation of the feed-forward block.
    pub gelu: Gelu,
    /// Whether the feed-forward block gets what attention gets and not what attention made of it (`use_parallel_residual`).
    pub parallel_residual: bool,
    /// Whether scores are divided by the root of the width of a head (`scale_attn_weights`).
    pub scaled: bool,
    /// Whether scores are divided by the number of their layer, from 1 on (`scale_attn_by_inverse_layer_idx`).
    pub scaled_by_layer: bool,
}

/// A linear map of every layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapShape {
    /// Its name in a layer, such as `self_attn.q_proj`.
    pub name: &'static str,
    /// Its outputs.
    pub out: usize,
    /// Its inputs.
    pub inn: usize,
    /// Whether it has a bias, `[out]`.
    pub bias: bool,
}

impl Config {
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
            norm_eps: 1e-5,
            rotary_dims: shape.hidden_size / shape.num_attention_heads.max(1),
            rope_theta: 10_000.0,
            rope_scaling: Scaling::None,
            tie_word_embeddings: true,
            gemma: None,
            gpt: None,
            head_norms: false,
            qkv_bias: false,
            o_bias: false,
            mlp_bias: false,
            head: Head::Language,
            eos: vec![shape.eos],
            notes: Vec::new(),
            raw,
        }
    }

    /// What the files of its family call things; those of a llama, where the family is not known.
    pub(crate) fn family(&self) -> &'static Family {
        Family::of(&self.model_type).unwrap_or(&FAMILIES[0])
    }

    /// What its weight files call things.
    pub(crate) fn names(&self) -> &'static Names {
        &self.family().names
    }

    /// The linear maps of a layer: their shapes, by their names.
    pub fn maps(&self) -> Maps<MapShape> {
        let (d, f) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        let map = |name, [out, inn]: [usize; 2], bias| MapShape { name, out, inn, bias };
        let names = &self.names().maps;
        Maps {
            qkv: match names.qkv {
                Qkv::Separate([of_q, of_k, of_v]) => {
                    let map = |name, out| map(name, [out, d], self.qkv_bias);
                    Qkv::Separate([map(of_q, q), map(of_k, kv), map(of_v, kv)])
                }
                Qkv::Fused(name, fusion) => Qkv::Fused(map(name, [q + 2 * kv, d], self.qkv_bias), fusion),
            },
            output: map(names.output, [d, q], self.o_bias),
            up: match names.up {
                Up::Gated(names) => Up::Gated(names.map(|name| map(name, [f, d], self.mlp_bias))),
                Up::Plain(name) => Up::Plain(map(name, [f, d], self.mlp_bias)),
            },
            down: map(names.down, [d, f], self.mlp_bias),
        }
    }

    /// The maps that get an adapter where nobody says which, by the last part of their names: all of a llama's, and those that PEFT
    /// takes in families whose queries, keys and values come from one map.
    pub fn adapted(&self) -> Vec<String> {
        self.family().adapted.iter().map(|name| (*name).to_owned()).collect()
    }

    /// The activation of a feed-forward block that has a gate.
    pub(crate) fn gate(&self) -> Gate {
        if self.gemma.is_some() { Gate::Gelu(Gelu::Tanh) } else { Gate::Silu }
    }

    /// The activation of a feed-forward block that has none.
    pub(crate) fn gelu(&self) -> Gelu {
        self.gpt.map_or(Gelu::Exact, |gpt| gpt.gelu)
    }

    /// Whether the feed-forward block gets what attention gets.
    pub(crate) fn parallel_residual(&self) -> bool {
        self.gpt.is_some_and(|gpt| gpt.parallel_residual)
    }

    /// How a layer's scores become weights.
    pub fn attention_rule(&self, layer: usize) -> AttentionRule {
        let window = self.windows.get(layer).copied().flatten();
        let divisor = match (self.gemma, self.gpt) {
            (Some(gemma), _) => gemma.query_scalar,
            (_, Some(Gpt { scaled: false, .. })) => 1.0,
            _ => self.head_dim as f64,
        };
        let by_layer = self.gpt.is_some_and(|gpt| gpt.scaled_by_layer);
        let scale = divisor.powf(-0.5) / if by_layer { layer as f64 + 1.0 } else { 1.0 };
        let soft_cap = self.gemma.and_then(|gemma| gemma.attention_cap).map(|cap| cap as f32);
        AttentionRule { window, soft_cap, ..AttentionRule::scaled(scale) }
    }

    /// The soft cap of the logits over the vocabulary.
    pub(crate) fn logit_cap(&self) -> Option<f64> {
        self.gemma.and_then(|gemma| gemma.logit_cap).filter(|_| self.head == Head::Language)
    }

    /// The same decoder with another head; the fields of the file follow.
    #[must_use]
    pub fn with_head(mut self, head: Head, pad: Option<u32>) -> Self {
        self.head = head;
        let family = self.family();
        let suffix = match head {
            Head::Language => family.causal,
            Head::Score | Head::Vocabulary | Head::Quantile { .. } => "ForSequenceClassification",
        };
        self.raw.insert("architectures".into(), json!([format!("{}{suffix}", family.class)]));
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
        let d = self.hidden_size;
        let norm = if self.gpt.is_some() { 2 * d } else { d };
        let maps = self.maps();
        let mut layer: usize = maps.iter().map(|map| map.out * (map.inn + usize::from(map.bias))).sum();
        layer += if self.gemma.is_some() { 4 * norm } else { 2 * norm };
        if self.head_norms {
            layer += 2 * self.head_dim;
        }
        let head = match self.head {
            Head::Score | Head::Vocabulary | Head::Quantile { .. } => self.head.outputs(self.vocab_size) * d,
            Head::Language if self.tie_word_embeddings => 0,
            Head::Language => self.vocab_size * d,
        };
        let positions = if self.names().positions.is_some() { self.max_position_embeddings } else { 0 };
        (self.vocab_size + positions) * d + self.num_hidden_layers * layer + norm + head
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

impl Shape {
    /// Fifteen thousand weights beside the embeddings of `vocab_size` tokens, with grouped queries: for tests and trials.
    pub fn small(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            max_position_embeddings: 64,
            eos: 1,
            pad: 0,
        }
    }
}
