//! What the files of each family call things, and what they leave out.

use crate::maps::{Fusion, Maps, Qkv, Up};

/// Names and defaults of a `model_type`.
#[derive(Debug)]
pub(crate) struct Family {
    /// `model_type` of its `config.json`.
    pub(crate) model_type: &'static str,
    /// How the names of its classes in transformers begin.
    pub(crate) class: &'static str,
    /// How that of its language model ends.
    pub(crate) causal: &'static str,
    /// Names in its weight files.
    pub(crate) names: Names,
    /// Fields of its `config.json` whose names are not those of [`Config`](crate::Config): `(ours, its own)`.
    pub(crate) fields: &'static [(&'static str, &'static str)],
    /// Fields that its files may leave out, as transformers fills them in.
    pub(crate) defaults: &'static [(&'static str, usize)],
    /// `tie_word_embeddings`, where its files leave that out.
    pub(crate) tied: bool,
    /// The maps that get an adapter where nobody says which.
    pub(crate) adapted: &'static [&'static str],
}

/// Names of parameters. Those of a layer stand behind the layer's own, those of the whole behind `base`.
#[derive(Debug)]
pub(crate) struct Names {
    /// The decoder without its head.
    pub(crate) base: &'static str,
    /// Token embeddings.
    pub(crate) embedding: &'static str,
    /// Embeddings of positions, where they are learned.
    pub(crate) positions: Option<&'static str>,
    /// The layers.
    pub(crate) layers: &'static str,
    /// The last norm.
    pub(crate) norm: &'static str,
    /// The head over the vocabulary; all names that it has in files, the one that is written first.
    pub(crate) heads: &'static [&'static str],
    /// Norm before attention.
    pub(crate) input_norm: &'static str,
    /// Norm behind attention.
    pub(crate) post_norm: &'static str,
    /// The linear maps.
    pub(crate) maps: Maps<&'static str>,
    /// Whether the linear maps of the layers are stored `[in, out]`.
    pub(crate) transposed: bool,
}

/// Where the norms of the heads of queries and keys are, in a layer that has them.
pub(crate) const HEAD_NORMS: [&str; 2] = ["self_attn.q_norm", "self_attn.k_norm"];

/// Where the norms around the feed-forward block are, in a layer that has both.
pub(crate) const FEEDFORWARD_NORMS: [&str; 2] = ["pre_feedforward_layernorm", "post_feedforward_layernorm"];

const LLAMA: Names = Names {
    base: "model",
    embedding: "embed_tokens",
    positions: None,
    layers: "layers",
    norm: "norm",
    heads: &["lm_head"],
    input_norm: "input_layernorm",
    post_norm: "post_attention_layernorm",
    maps: Maps {
        qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
        output: "self_attn.o_proj",
        up: Up::Gated(["mlp.gate_proj", "mlp.up_proj"]),
        down: "mlp.down_proj",
    },
    transposed: false,
};

const GPT_NEOX: Names = Names {
    base: "gpt_neox",
    embedding: "embed_in",
    positions: None,
    layers: "layers",
    norm: "final_layer_norm",
    heads: &["embed_out", "lm_head"],
    input_norm: "input_layernorm",
    post_norm: "post_attention_layernorm",
    maps: Maps {
        qkv: Qkv::Fused("attention.query_key_value", Fusion::ByHead),
        output: "attention.dense",
        up: Up::Plain("mlp.dense_h_to_4h"),
        down: "mlp.dense_4h_to_h",
    },
    transposed: false,
};

const GPT2: Names = Names {
    base: "transformer",
    embedding: "wte",
    positions: Some("wpe"),
    layers: "h",
    norm: "ln_f",
    heads: &["lm_head"],
    input_norm: "ln_1",
    post_norm: "ln_2",
    maps: Maps {
        qkv: Qkv::Fused("attn.c_attn", Fusion::ByPart),
        output: "attn.c_proj",
        up: Up::Plain("mlp.c_fc"),
        down: "mlp.c_proj",
    },
    transposed: true,
};

const ALL: &[&str] = &["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

const fn llama(model_type: &'static str, class: &'static str) -> Family {
    Family {
        model_type,
        class,
        causal: "ForCausalLM",
        names: LLAMA,
        fields: &[("norm_eps", "rms_norm_eps")],
        defaults: &[("max_position_embeddings", 2048)],
        tied: false,
        adapted: ALL,
    }
}

/// The families that are run.
pub(crate) static FAMILIES: [Family; 7] = [
    llama("llama", "Llama"),
    llama("qwen2", "Qwen2"),
    Family { defaults: &[("max_position_embeddings", 2048), ("head_dim", 128)], ..llama("qwen3", "Qwen3") },
    llama("mistral", "Mistral"),
    Family {
        defaults: &[("max_position_embeddings", 8192), ("head_dim", 256)],
        tied: true,
        ..llama("gemma2", "Gemma2")
    },
    Family {
        names: GPT_NEOX,
        defaults: &[
            ("vocab_size", 50432),
            ("hidden_size", 6144),
            ("num_hidden_layers", 44),
            ("num_attention_heads", 64),
            ("intermediate_size", 24576),
            ("max_position_embeddings", 2048),
            ("eos_token_id", 2),
        ],
        fields: &[("norm_eps", "layer_norm_eps")],
        adapted: &["query_key_value"],
        ..llama("gpt_neox", "GPTNeoX")
    },
    Family {
        causal: "LMHeadModel",
        names: GPT2,
        fields: &[
            ("hidden_size", "n_embd"),
            ("num_hidden_layers", "n_layer"),
            ("num_attention_heads", "n_head"),
            ("max_position_embeddings", "n_positions"),
            ("hidden_act", "activation_function"),
            ("norm_eps", "layer_norm_epsilon"),
        ],
        defaults: &[
            ("vocab_size", 50257),
            ("hidden_size", 768),
            ("num_hidden_layers", 12),
            ("num_attention_heads", 12),
            ("max_position_embeddings", 1024),
            ("eos_token_id", 50256),
        ],
        tied: true,
        adapted: &["c_attn"],
        ..llama("gpt2", "GPT2")
    },
];

impl Family {
    /// That of a `model_type`.
    pub(crate) fn of(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.model_type == model_type)
    }

    /// What its files call a field of `config.json`.
    pub(crate) fn field(&self, name: &'static str) -> &'static str {
        self.fields.iter().find(|(ours, _)| *ours == name).map_or(name, |(_, own)| own)
    }

    /// The value of a field that a file leaves out.
    pub(crate) fn default(&self, name: &str) -> Option<usize> {
        self.defaults.iter().find(|(field, _)| *field == name).map(|(_, value)| *value)
    }
}

impl Names {
    /// The path of a part of the whole.
    pub(crate) fn top(&self, part: &str) -> String {
        format!("{}.{part}", self.base)
    }

    /// The path of a part of a layer.
    pub(crate) fn layer(&self, index: usize, part: &str) -> String {
        format!("{}.{}.{index}.{part}", self.base, self.layers)
    }

    /// The path of the head over the vocabulary.
    pub(crate) fn head(&self) -> &'static str {
        self.heads[0]
    }

    /// Whether a parameter is the weight of a linear map of a layer.
    pub(crate) fn is_map(&self, name: &str) -> bool {
        self.maps.iter().any(|map| is_weight(name, map))
    }

    /// Whether a parameter is the weight of a map back to the residual stream.
    pub(crate) fn is_residual(&self, name: &str) -> bool {
        [self.maps.output, self.maps.down].iter().any(|map| is_weight(name, map))
    }

    /// Whether a parameter is the weight of a norm.
    pub(crate) fn is_norm(&self, name: &str) -> bool {
        let own = [self.norm, self.input_norm, self.post_norm];
        own.iter().chain(&HEAD_NORMS).chain(&FEEDFORWARD_NORMS).any(|norm| is_weight(name, norm))
    }
}

/// Whether `name` is the weight of the part that `path` names.
fn is_weight(name: &str, path: &str) -> bool {
    name.strip_suffix(".weight")
        .and_then(|name| name.strip_suffix(path))
        .is_some_and(|rest| rest.ends_with('.'))
}
