//! Fields of a `config.json`, with what each family leaves out.

use std::path::{Path, PathBuf};

use kernels::Gelu;
use serde_json::{Map, Value};

use super::head::HEAD;
use super::keys::{self, MOST_LAYERS};
use super::{Config, Gemma, Gpt, Head};
use crate::error::Error;
use crate::family::{FAMILIES, Family};
use crate::rope::{Refused, Scaling};

struct Fields<'a> {
    map: &'a Map<String, Value>,
    family: &'static Family,
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

    /// A size, or what the family takes where it is left out.
    fn size(&self, key: &'static str) -> Result<Option<usize>, Error> {
        let own = self.family.field(key);
        match self.get(own)?.or(self.get(key)?).or(self.family.default(key)) {
            Some(0) => Err(self.unsupported(own, "0", "a number of at least 1")),
            size => Ok(size),
        }
    }

    /// [`Fields::size`] of a field that has to be there.
    fn need(&self, key: &'static str) -> Result<usize, Error> {
        let own = self.family.field(key);
        match self.size(key)? {
            Some(size) => Ok(size),
            None => Err(Error::Missing {
                path: self.path.into(),
                message: format!(
                    "no field {own}: is this the config.json of a {} model?",
                    self.family.model_type
                ),
            }),
        }
    }

    /// The activation of a feed-forward block that has no gate.
    fn gelu(&self, default: &str) -> Result<Gelu, Error> {
        let key = self.family.field("hidden_act");
        let name: String = self.get(key)?.unwrap_or_else(|| default.to_owned());
        match name.as_str() {
            "gelu" | "gelu_python" => Ok(Gelu::Exact),
            // All of them are the form by tanh.
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
                Ok(Gelu::Tanh)
            }
            _ => {
                let hint = "gelu, gelu_new, gelu_pytorch_tanh and gelu_fast are supported";
                Err(self.unsupported(key, name, hint))
            }
        }
    }

    /// The fields of a GPT-NeoX.
    fn gpt_neox(&self) -> Result<Gpt, Error> {
        let parallel_residual = self.get("use_parallel_residual")?.unwrap_or(true);
        Ok(Gpt { gelu: self.gelu("gelu")?, parallel_residual, scaled: true, scaled_by_layer: false })
    }

    /// The fields of a GPT-2.
    fn gpt2(&self) -> Result<Gpt, Error> {
        if self.get("add_cross_attention")?.unwrap_or(false) {
            return Err(self.unsupported(
                "add_cross_attention",
                true,
                "a decoder without an encoder is supported",
            ));
        }
        Ok(Gpt {
            gelu: self.gelu("gelu_new")?,
            parallel_residual: false,
            scaled: self.get("scale_attn_weights")?.unwrap_or(true),
            scaled_by_layer: self.get("scale_attn_by_inverse_layer_idx")?.unwrap_or(false),
        })
    }

    /// The head that `architectures` names.
    fn head(&self) -> Result<Head, Error> {
        let architecture: String = self
            .get::<Vec<String>>("architectures")?
            .and_then(|list| list.into_iter().next())
            .unwrap_or_default();
        let (class, family) = (architecture.as_str(), self.family);
        let language =
            ["ForCausalLM", "LMHeadModel", "ForCausalLMWithValueHead"].iter().any(|end| class.ends_with(end));
        if class.is_empty() || language || class == format!("{}Model", family.class) {
            return Ok(Head::Language);
        }
        if !class.ends_with("ForSequenceClassification") {
            let hint = format!(
                "{0}{1} (next tokens) and {0}ForSequenceClassification (one score) are supported",
                family.class, family.causal
            );
            return Err(self.unsupported("architectures", class, &hint));
        }
        let labels = self.get::<Map<String, Value>>("id2label")?.map(|labels| labels.len());
        let labels = self.get("num_labels")?.or(labels).unwrap_or(2);
        match self.get::<String>(HEAD)? {
            Some(name) => Head::named(&name, labels)
                .ok_or_else(|| self.unsupported(HEAD, name, "`vocabulary` and `quantile` are known")),
            None if labels == 1 => Ok(Head::Score),
            None => Err(self.unsupported("num_labels", labels, "a reward model has one label")),
        }
    }

    /// Base and scaling of the rotary frequencies, and the table that they are from. transformers 5 keeps all
    /// rotary fields in
    /// `rope_parameters`; older files have `rope_scaling`, which goes before it, and the base beside it.
    fn rotary(&self, context: usize) -> Result<(f64, Scaling, Map<String, Value>), Error> {
        if self.family.names.positions.is_some() {
            return Ok((10_000.0, Scaling::None, Map::new()));
        }
        let table = |key: &str| Ok::<_, Error>(self.get::<Map<String, Value>>(key)?.unwrap_or_default());
        let (field, mut table) = match (table("rope_scaling")?, table("rope_parameters")?) {
            (scaling, parameters) if scaling.is_empty() => ("rope_parameters", parameters),
            (scaling, _) => ("rope_scaling", scaling),
        };
        if let Some((kind, Value::Object(first))) = table.iter().find(|(_, value)| value.is_object()) {
            // A table for each kind of layer.
            if table.values().any(|other| other.as_object() != Some(first)) {
                let hint = "one table for all layers is supported";
                return Err(self.unsupported(field, format!("a table of its own for {kind}"), hint));
            }
            table = first.clone();
        }
        let neox = self.family.model_type == "gpt_neox";
        let beside: Option<f64> = self.get(if neox { "rotary_emb_base" } else { "rope_theta" })?;
        let theta = table.get("rope_theta").and_then(Value::as_f64).or(beside).unwrap_or(10_000.0);
        // It says the same in files that have both; what it means alone, versions of transformers differ in.
        if let Some(other) = self.get::<f64>("rope_theta")?.filter(|other| neox && *other != theta) {
            let hint = format!("the base of a gpt_neox is rotary_emb_base, here {theta}: give both alike");
            return Err(self.unsupported("rope_theta", other, &hint));
        }
        let share = table.get("partial_rotary_factor").and_then(Value::as_f64);
        if let Some(share) = share.filter(|share| !neox && *share != 1.0) {
            let hint = format!("all of a head is rotated in a {}", self.family.model_type);
            return Err(self.unsupported(&format!("{field}.partial_rotary_factor"), share, &hint));
        }
        let original = self.get::<f64>("original_max_position_embeddings")?;
        let scaling =
            Scaling::from_json(&table, context, original).map_err(|Refused { key, value, hint }| {
                self.unsupported(&format!("{field}.{key}"), value, &hint)
            })?;
        Ok((theta, scaling, table))
    }

    /// How many dimensions of a GPT-NeoX's heads are rotated; `parameters` is its `rope_parameters`.
    fn rotary_dims(&self, head_dim: usize, parameters: &Map<String, Value>) -> Result<usize, Error> {
        let (field, factor) = match parameters.get("partial_rotary_factor").and_then(Value::as_f64) {
            Some(factor) => ("partial_rotary_factor", factor),
            None => ("rotary_pct", self.get("rotary_pct")?.unwrap_or(0.25)),
        };
        let dims = (head_dim as f64 * factor) as usize;
        if factor <= 0.0 || factor > 1.0 || dims == 0 || !dims.is_multiple_of(2) {
            let hint = format!("a share of head_dim = {head_dim} that is an even number of dimensions");
            return Err(self.unsupported(field, factor, &hint));
        }
        Ok(dims)
    }

    /// Tokens that end a sequence.
    fn eos(&self, vocab_size: usize) -> Vec<u32> {
        let default = self.family.default("eos_token_id").filter(|id| *id < vocab_size);
        match (self.map.get("eos_token_id"), default) {
            (None, Some(id)) => vec![id as u32],
            (given, _) => token_ids(given),
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
    fn windows(&self, layers: usize) -> Result<Vec<Option<usize>>, Error> {
        let model_type = self.family.model_type;
        let (qwen, gemma) = (model_type.starts_with("qwen"), model_type == "gemma2");
        let used = match model_type {
            "mistral" | "gemma2" => true,
            _ => qwen && self.get("use_sliding_window")?.unwrap_or(false),
        };
        let window: Option<usize> = match self.get("sliding_window")? {
            Some(window) if used => Some(window),
            // The default of all these families in transformers.
            None if used && !self.map.contains_key("sliding_window") => Some(4096),
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
        if !path.try_exists().unwrap_or(false) {
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
        let mut fields = Fields { map: &raw, path, family: &FAMILIES[0] };
        let model_type: String = fields.get("model_type")?.unwrap_or_default();
        fields.family = Family::of(&model_type).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().map(|family| family.model_type).collect();
            fields.unsupported("model_type", &model_type, &format!("one of: {}", known.join(", ")))
        })?;
        let notes = keys::audit(&model_type, &raw)
            .map_err(|(field, value, hint)| fields.unsupported(&field, value, &hint))?;
        let (qwen2, qwen3) = (model_type == "qwen2", model_type == "qwen3");
        let gemma = if model_type == "gemma2" { Some(fields.gemma()?) } else { None };
        let gpt = match model_type.as_str() {
            "gpt_neox" => Some(fields.gpt_neox()?),
            "gpt2" => Some(fields.gpt2()?),
            _ => None,
        };
        // Positions are added to the embeddings, and no head is rotated.
        let learned = fields.family.names.positions.is_some();
        let max_position_embeddings = fields.need("max_position_embeddings")?;
        let activation: String = fields.get("hidden_act")?.unwrap_or_else(|| "silu".into());
        if gemma.is_none() && gpt.is_none() && activation != "silu" {
            return Err(fields.unsupported("hidden_act", activation, "silu is supported"));
        }
        let head = fields.head()?;
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
        if layers > MOST_LAYERS {
            let hint = format!("a model has at most {MOST_LAYERS}: is the file damaged?");
            return Err(fields.unsupported(fields.family.field("num_hidden_layers"), layers, &hint));
        }
        // The heads of a GPT are the hidden states in parts, and all have keys and values of their own.
        let key_value_heads =
            if gpt.is_some() { heads } else { fields.get("num_key_value_heads")?.unwrap_or(heads) };
        let given = if gpt.is_some() { None } else { fields.get("head_dim")? };
        let head_dim = match given.or(fields.family.default("head_dim")) {
            Some(width) => width,
            None if hidden_size % heads == 0 => hidden_size / heads,
            None => {
                let other = if gpt.is_some() { "" } else { "; give head_dim" };
                let hint = format!("it does not divide hidden_size = {hidden_size}{other}");
                return Err(fields.unsupported(fields.family.field("num_attention_heads"), heads, &hint));
            }
        };
        if key_value_heads == 0 || heads % key_value_heads != 0 {
            let hint = format!("it must divide num_attention_heads = {heads}");
            return Err(fields.unsupported("num_key_value_heads", key_value_heads, &hint));
        }
        if head_dim == 0 || (head_dim % 2 != 0 && !learned) {
            return Err(fields.unsupported("head_dim", head_dim, "rotary positions need an even number"));
        }
        let (rope_theta, rope_scaling, table) = fields.rotary(max_position_embeddings)?;
        let rotary_dims = match gpt {
            _ if learned => 0,
            Some(_) => fields.rotary_dims(head_dim, &table)?,
            None => head_dim,
        };
        let attention_bias: bool = fields.get("attention_bias")?.unwrap_or(gpt.is_some());
        let epsilon = fields.family.field("norm_eps");
        let norm_eps = fields.get(epsilon)?.unwrap_or(if gpt.is_some() { 1e-5 } else { 1e-6 });
        if norm_eps < 0.0 {
            return Err(fields.unsupported(epsilon, norm_eps, "a number of at least 0"));
        }
        let intermediate_size = if model_type == "gpt2" {
            fields.size("n_inner")?.unwrap_or(4 * hidden_size)
        } else {
            fields.need("intermediate_size")?
        };
        Ok(Self {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers: layers,
            windows: fields.windows(layers)?,
            num_attention_heads: heads,
            num_key_value_heads: key_value_heads,
            head_dim,
            max_position_embeddings,
            norm_eps,
            rotary_dims,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: fields.get("tie_word_embeddings")?.unwrap_or(fields.family.tied),
            gemma,
            gpt,
            head_norms: qwen3,
            qkv_bias: qwen2 || attention_bias,
            o_bias: !qwen2 && attention_bias,
            mlp_bias: gpt.is_some() || fields.get("mlp_bias")?.unwrap_or(false),
            head,
            eos: fields.eos(vocab_size),
            notes,
            model_type,
            raw,
        })
    }
}

/// Reads a JSON object.
pub(crate) fn read_json(path: &Path) -> Result<Map<String, Value>, Error> {
    regular(path)?;
    let text = fs_err::read_to_string(path)?;
    serde_json::from_str(&text).map_err(|source| Error::Json { path: PathBuf::from(path), source })
}

/// Refuses what is there and is no file: reading a pipe would wait for ever.
pub(crate) fn regular(path: &Path) -> Result<(), Error> {
    match fs_err::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            let message = "it is no regular file (a folder, a pipe or a device)".into();
            Err(Error::Missing { path: path.into(), message })
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let one = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}
