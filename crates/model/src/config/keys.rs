//! The keys of a `config.json`: which are read, which change nothing, and which change a model in a way that
//! is not run.
//!
//! A key that none of the lists has is said where it holds something: transformers does not read it in this
//! family either, and
//! a model that came with code of its own may need it.

use serde_json::{Map, Value};

/// What is wrong with a key: the key, its value, and what is supported.
pub(super) type Refusal = (String, String, String);

/// The most layers of a model: more are a damaged file.
pub(super) const MOST_LAYERS: usize = 10_000;

/// Keys that change nothing of what a model computes in any family: names, versions, training, generation.
const NO_EFFECT: &[&str] = &[
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_commit_hash",
    "_experts_implementation",
    "_flash_attn_2_enabled",
    "_name_or_path",
    "_num_labels",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bad_words_ids",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "compression_config",
    "classifier_dropout",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "eos_token_id",
    "experts_implementation",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "is_decoder",
    "is_llama_config",
    "keys_to_ignore_at_inference",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "model_type",
    "name_or_path",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_past",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    // Checked by itself.
    "quantization",
    "quantization_config",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "typical_p",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_bfloat16",
    "use_cache",
];

/// Keys that all families with rotary positions read.
const ROTARY: &[&str] = &[
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "original_max_position_embeddings",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
];

/// Keys of a family that are read, and those of it that change nothing.
fn own(model_type: &str) -> &'static [&'static str] {
    match model_type {
        "llama" => &["attention_bias", "head_dim", "mlp_bias", "num_key_value_heads", "rms_norm_eps"],
        // The windows of a layer are those of all layers.
        "mistral" => &["head_dim", "num_key_value_heads", "rms_norm_eps", "sliding_window"],
        "qwen2" => &[
            "head_dim",
            "layer_types",
            "max_window_layers",
            "num_key_value_heads",
            "rms_norm_eps",
            "sliding_window",
            "use_sliding_window",
        ],
        "qwen3" => &[
            "attention_bias",
            "head_dim",
            "layer_types",
            "max_window_layers",
            "num_key_value_heads",
            "rms_norm_eps",
            "sliding_window",
            "use_sliding_window",
        ],
        // `hidden_act` is there in older files, and `hidden_activation` is what counts.
        "gemma2" => &[
            "attention_bias",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "head_dim",
            "hidden_activation",
            "layer_types",
            "num_key_value_heads",
            "query_pre_attn_scalar",
            "rms_norm_eps",
            "sliding_window",
        ],
        "gpt_neox" => &[
            "attention_bias",
            "hidden_dropout",
            "layer_norm_eps",
            "rotary_emb_base",
            "rotary_pct",
            "use_parallel_residual",
        ],
        // `n_ctx` is the context of older files; scores that are scaled before they are widened are the same
        // in f32.
        "gpt2" => &[
            "activation_function",
            "add_cross_attention",
            "attn_pdrop",
            "embd_pdrop",
            "layer_norm_epsilon",
            "n_ctx",
            "n_embd",
            "n_head",
            "n_inner",
            "n_layer",
            "n_positions",
            "reorder_and_upcast_attn",
            "resid_pdrop",
            "scale_attn_by_inverse_layer_idx",
            "scale_attn_weights",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
            "tie_word_embeddings",
            "vocab_size",
            // Names of the other families for its sizes, which a file may have beside them.
            "hidden_size",
            "max_position_embeddings",
            "num_attention_heads",
            "num_hidden_layers",
        ],
        _ => &[],
    }
}

/// Keys that change a model where a family or its code reads them, with the number at which they change
/// nothing.
const CHANGING: &[(&str, Option<f64>)] = &[
    ("activation_sparsity_pattern", None),
    ("add_cross_attention", None),
    ("alibi", None),
    ("attention_bias", None),
    ("attention_chunk_size", None),
    ("attention_logit_cap", None),
    ("attention_multiplier", None),
    ("attn_logit_softcapping", None),
    ("clip_qkv", None),
    ("cross_attention_layers", None),
    ("decoder_sparse_step", None),
    ("embedding_multiplier", Some(1.0)),
    ("embedding_scale", Some(1.0)),
    ("final_logit_softcapping", None),
    ("first_k_dense_replace", None),
    ("is_encoder_decoder", None),
    ("kv_lora_rank", None),
    ("layer_norm_eps", None),
    ("layer_types", None),
    ("lm_head_bias", None),
    ("lm_head_multiplier", Some(1.0)),
    ("logit_cap", None),
    ("logit_scale", Some(1.0)),
    ("logit_softcapping", None),
    ("logits_scaling", Some(1.0)),
    ("mlp_bias", None),
    ("mlp_only_layers", None),
    ("moe_intermediate_size", None),
    ("mrope_section", None),
    ("n_routed_experts", None),
    ("no_rope_layer_interval", None),
    ("no_rope_layers", None),
    ("norm_after", None),
    ("num_experts", None),
    ("num_experts_per_tok", None),
    ("num_local_experts", None),
    ("parallel_attn", None),
    ("partial_rotary_factor", Some(1.0)),
    ("per_layer_config", None),
    ("position_embedding_type", None),
    ("pruned_heads", None),
    ("q_lora_rank", None),
    ("qk_layernorm", None),
    ("qk_norm", None),
    ("qkv_bias", None),
    ("query_pre_attn_scalar", None),
    ("residual_multiplier", Some(1.0)),
    ("residual_scale", Some(1.0)),
    ("rope_interleave", None),
    ("rope_interleaved", None),
    ("rope_local_base_freq", None),
    ("rotary_emb_base", None),
    ("rotary_pct", Some(1.0)),
    ("scale_depth", None),
    ("scale_emb", Some(1.0)),
    ("sliding_window_pattern", None),
    ("use_alibi", None),
    ("use_bias", None),
    ("use_bidirectional_attention", None),
    ("use_mrope", None),
    ("use_parallel_residual", None),
    ("use_qk_norm", None),
    ("use_qkv_bias", None),
    ("use_sinks", None),
];

/// Whether a value says that there is nothing.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

/// Goes over all keys of a file of the family `model_type`: refuses what changes the model and is not run,
/// and returns what
/// nobody here reads, a sentence for each.
pub(super) fn audit(model_type: &str, map: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    quantization(map)?;
    let rotary = if model_type == "gpt2" { &[][..] } else { ROTARY };
    let read = |key: &str| {
        own(model_type).contains(&key)
            || rotary.contains(&key)
            || NO_EFFECT.contains(&key)
            || key.starts_with("plumb_")
    };
    let mut notes = Vec::new();
    for (key, value) in map.iter().filter(|(key, value)| !read(key) && !is_empty(value)) {
        match CHANGING.iter().find(|(known, _)| known == key) {
            Some((_, Some(neutral))) if value.as_f64() == Some(*neutral) => {}
            Some(_) => {
                let hint = format!("it changes a model, and a {model_type} is run without it: take another model");
                return Err((key.clone(), brief(value), hint));
            }
            None if key == "auto_map" => notes.push(format!(
                "auto_map names code of its own, which is not run: the model is taken for the {model_type} of transformers"
            )),
            None => notes.push(format!(
                "{key} = {} is not read, by the {model_type} of transformers neither: where the model came with code of its own, it may change it",
                brief(value)
            )),
        }
    }
    Ok(notes)
}

/// Refuses weights that are stored quantized.
fn quantization(map: &Map<String, Value>) -> Result<(), Refusal> {
    let fields = ["quantization_config", "compression_config", "quantization"];
    let Some((field, value)) = fields.iter().find_map(|field| Some((*field, map.get(*field)?))) else {
        return Ok(());
    };
    let flag = |key: &str| value.get(key).and_then(Value::as_bool);
    let said = |key: &str| value.get(key).and_then(Value::as_str);
    let bits = flag("load_in_4bit") == Some(true) || flag("load_in_8bit") == Some(true);
    // What transformers takes for no quantization at all.
    let off = ["load_in_4bit", "load_in_8bit"].iter().any(|key| flag(key).is_some()) && !bits;
    let bitsandbytes = matches!(said("quant_method"), None | Some("bitsandbytes"));
    if value.is_null() || (off && bitsandbytes) {
        return Ok(());
    }
    let method = match said("quant_method").or(said("quant_algo")).or(said("format")) {
        Some("compressed-tensors") => {
            said("format").map_or("compressed-tensors".into(), |f| format!("compressed-tensors, {f}"))
        }
        Some(method) => method.to_owned(),
        None if bits => "bitsandbytes".to_owned(),
        None => brief(value),
    };
    let hint = "weights in f32, bf16 and f16 are read: take the model that it was quantized from, or write one with \
                `dequantize()` of transformers; `dtype` of [model] quantizes here";
    Err((field.into(), method, hint.into()))
}

/// A value as an error shows it.
fn brief(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn audit_of(model_type: &str, value: Value) -> Result<Vec<String>, Refusal> {
        audit(model_type, value.as_object().expect("a map"))
    }

    #[test]
    fn every_kind_of_quantized_weights_is_refused_by_its_method() {
        for (config, method) in [
            (json!({ "quant_method": "bitsandbytes", "load_in_4bit": true }), "bitsandbytes"),
            (json!({ "load_in_8bit": true }), "bitsandbytes"),
            (json!({ "quant_method": "gptq", "bits": 4 }), "gptq"),
            (json!({ "quant_method": "awq" }), "awq"),
            (json!({ "quant_method": "fp8", "activation_scheme": "dynamic" }), "fp8"),
            (json!({ "quant_method": "mxfp4" }), "mxfp4"),
            (
                json!({ "quant_method": "compressed-tensors", "format": "pack-quantized" }),
                "compressed-tensors, pack-quantized",
            ),
            (json!({ "quant_algo": "FP8" }), "FP8"),
        ] {
            let error = audit_of("llama", json!({ "quantization_config": config })).expect_err("refused");
            assert_eq!((error.0.as_str(), error.1.as_str()), ("quantization_config", method));
            assert!(error.2.contains("quantized from"), "{}", error.2);
        }
        let mlx = audit_of("llama", json!({ "quantization": { "group_size": 64, "bits": 4 } }))
            .expect_err("refused");
        assert!(mlx.1.contains("\"bits\":4"), "{}", mlx.1);
        for none in [
            Value::Null,
            json!({ "quant_method": "bitsandbytes", "load_in_4bit": false, "load_in_8bit": false }),
        ] {
            assert_eq!(audit_of("llama", json!({ "quantization_config": none })), Ok(vec![]));
        }
    }

    #[test]
    fn keys_that_change_a_model_are_refused_unless_they_change_nothing() {
        for (family, key, value) in [
            ("llama", "residual_multiplier", json!(0.22)),
            ("llama", "logit_scale", json!(0.0625)),
            ("llama", "clip_qkv", json!(8)),
            ("llama", "partial_rotary_factor", json!(0.5)),
            ("llama", "num_local_experts", json!(8)),
            ("llama", "final_logit_softcapping", json!(30.0)),
            ("llama", "no_rope_layers", json!([1, 0])),
            ("llama", "rope_interleaved", json!(true)),
            ("mistral", "attention_bias", json!(true)),
            ("mistral", "layer_types", json!(["full_attention"])),
            ("qwen2", "use_mrope", json!(true)),
            ("qwen2", "mlp_bias", json!(true)),
            ("gemma2", "use_bidirectional_attention", json!(true)),
            ("gpt2", "pruned_heads", json!({ "0": [1] })),
            ("gpt_neox", "partial_rotary_factor", json!(0.5)),
            ("qwen3", "is_encoder_decoder", json!(true)),
        ] {
            let error = audit_of(family, json!({ key: value })).expect_err(key);
            assert_eq!(error.0, key);
        }
        let neutral = json!({
            "residual_multiplier": 1.0, "logit_scale": 1, "clip_qkv": null, "partial_rotary_factor": 1.0, "rope_interleaved": false,
            "use_mrope": false, "pruned_heads": {}, "num_experts": 0, "attention_bias": false,
        });
        assert_eq!(audit_of("mistral", neutral), Ok(vec![]));
    }

    #[test]
    fn a_key_that_nobody_knows_is_said_where_it_holds_something() {
        let notes =
            audit_of("llama", json!({ "wobble": 3, "empty": null, "off": false })).expect("no refusal");
        assert!(matches!(&notes[..], [note] if note.contains("wobble = 3")), "{notes:?}");
        let notes =
            audit_of("llama", json!({ "auto_map": { "AutoModel": "code.Model" } })).expect("no refusal");
        assert!(notes[0].contains("code of its own"), "{notes:?}");
    }
}
