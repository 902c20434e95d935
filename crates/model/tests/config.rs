//! What `config.json` says about windows and caps, and what it must not say.

use std::path::Path;

use kernels::Gelu;
use model::Config;
use serde_json::{Value, json};

/// A small model of a family with further fields.
fn config(family: &str, fields: Value) -> Result<Config, String> {
    let mut map = json!({
        "model_type": family,
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 30,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
    });
    let Value::Object(fields) = fields else { panic!("fields") };
    map.as_object_mut().expect("a map").extend(fields);
    let Value::Object(map) = map else { panic!("a map") };
    Config::from_json(map, Path::new("config.json")).map_err(|error| error.to_string())
}

fn windows(family: &str, fields: Value) -> Vec<Option<usize>> {
    config(family, fields).expect("a config").windows
}

#[test]
fn each_family_says_in_its_own_way_which_layers_have_a_window() {
    let (no, five) = (None, Some(5));
    assert_eq!(windows("llama", json!({ "sliding_window": 5 })), [no; 4]);
    assert_eq!(windows("mistral", json!({ "sliding_window": 5 })), [five; 4]);
    assert_eq!(windows("mistral", json!({ "sliding_window": null })), [no; 4]);
    assert_eq!(windows("mistral", json!({})), [Some(4096); 4]);
    assert_eq!(windows("qwen2", json!({ "sliding_window": 5, "max_window_layers": 1 })), [no; 4]);
    let used = json!({ "sliding_window": 5, "max_window_layers": 1, "use_sliding_window": true });
    assert_eq!(windows("qwen2", used.clone()), [no, five, five, five]);
    assert_eq!(windows("qwen3", used), [no, five, five, five]);
    assert_eq!(windows("gemma2", json!({ "sliding_window": 5 })), [five, no, five, no]);
    let types = ["full_attention", "sliding_attention", "full_attention", "full_attention"];
    assert_eq!(windows("gemma2", json!({ "sliding_window": 5, "layer_types": types })), [no, five, no, no]);
}

#[test]
fn a_cap_of_null_is_none_and_a_missing_one_is_the_familys() {
    let gemma = |fields| config("gemma2", fields).expect("a config").gemma.expect("a gemma");
    let usual = gemma(json!({}));
    assert_eq!((usual.attention_cap, usual.logit_cap, usual.query_scalar), (Some(50.0), Some(30.0), 256.0));
    let own =
        json!({ "attn_logit_softcapping": null, "final_logit_softcapping": 6, "query_pre_attn_scalar": 20 });
    let own = gemma(own);
    assert_eq!((own.attention_cap, own.logit_cap, own.query_scalar), (None, Some(6.0), 20.0));
    assert_eq!(config("llama", json!({})).expect("a config").gemma, None);
}

#[test]
fn a_neox_says_how_much_of_a_head_is_rotated_and_what_it_leaves_out_is_the_familys() {
    let neox = |fields| config("gpt_neox", fields).expect("a config");
    let usual = neox(json!({}));
    let gpt = usual.gpt.expect("a GPT");
    assert_eq!((usual.rotary_dims, usual.head_dim, usual.rope_theta), (2, 8, 10_000.0));
    assert_eq!((gpt.gelu, gpt.parallel_residual), (Gelu::Exact, true));
    assert_eq!((usual.norm_eps, usual.tie_word_embeddings, usual.eos.as_slice()), (1e-5, false, &[2][..]));
    assert!(usual.qkv_bias && usual.o_bias && usual.mlp_bias);
    let own = neox(json!({
        "rotary_pct": 0.5, "rotary_emb_base": 500, "use_parallel_residual": false, "hidden_act": "gelu_fast",
        "layer_norm_eps": 1e-3, "attention_bias": false, "tie_word_embeddings": true, "eos_token_id": null,
    }));
    let gpt = own.gpt.expect("a GPT");
    assert_eq!((own.rotary_dims, own.rope_theta), (4, 500.0));
    assert_eq!((gpt.gelu, gpt.parallel_residual), (Gelu::Tanh, false));
    assert_eq!((own.norm_eps, own.tie_word_embeddings, own.eos.len()), (1e-3, true, 0));
    assert!(!own.qkv_bias && !own.o_bias && own.mlp_bias);
    // The table of transformers 5 goes before what older files have.
    let table = json!({ "partial_rotary_factor": 1.0, "rope_theta": 300, "rope_type": "default" });
    let both = neox(json!({ "rope_parameters": table, "rotary_pct": 0.5, "rotary_emb_base": 500 }));
    assert_eq!((both.rotary_dims, both.rope_theta), (8, 300.0));
}

#[test]
fn a_gpt2_has_its_own_names_for_sizes_and_ways_to_scale() {
    let read = |fields: Value| {
        let Value::Object(map) = fields else { panic!("fields") };
        Config::from_json(map, Path::new("config.json")).expect("a config")
    };
    let usual = read(json!({ "model_type": "gpt2" }));
    assert_eq!((usual.vocab_size, usual.hidden_size, usual.intermediate_size), (50257, 768, 3072));
    assert_eq!((usual.num_hidden_layers, usual.num_attention_heads, usual.head_dim), (12, 12, 64));
    assert_eq!((usual.max_position_embeddings, usual.rotary_dims, usual.norm_eps), (1024, 0, 1e-5));
    assert_eq!((usual.tie_word_embeddings, usual.eos.as_slice()), (true, &[50256][..]));
    // What the hub says of this model.
    assert_eq!(usual.parameters(), 124_439_808);
    let scale = |config: &Config, layer: usize| config.attention_rule(layer).scale;
    assert_eq!((scale(&usual, 0), scale(&usual, 3)), (0.125, 0.125));
    let own = read(json!({
        "model_type": "gpt2", "vocab_size": 90, "n_embd": 12, "n_head": 4, "n_layer": 2, "n_positions": 20, "n_inner": 7,
        "activation_function": "gelu", "layer_norm_epsilon": 1e-3, "scale_attn_weights": false,
        "scale_attn_by_inverse_layer_idx": true,
    }));
    assert_eq!((own.hidden_size, own.intermediate_size, own.head_dim), (12, 7, 3));
    assert_eq!((own.max_position_embeddings, own.norm_eps, own.eos.len()), (20, 1e-3, 0));
    assert_eq!((scale(&own, 0), scale(&own, 1)), (1.0, 0.5));
    assert_eq!(own.gpt.expect("a GPT").gelu, Gelu::Exact);
}

#[test]
fn what_cannot_be_is_refused_by_field_and_value() {
    for (family, fields, expected) in [
        ("mistral", json!({ "sliding_window": 0 }), ["sliding_window", "at least 1"]),
        ("gemma2", json!({ "layer_types": ["full_attention"] }), ["layer_types", "num_hidden_layers = 4"]),
        (
            "gemma2",
            json!({ "layer_types": ["full_attention", "full_attention", "chunked_attention", "full_attention"] }),
            ["chunked_attention", "sliding_attention and full_attention"],
        ),
        ("gemma2", json!({ "final_logit_softcapping": -1.0 }), ["final_logit_softcapping", "above 0"]),
        ("gemma2", json!({ "query_pre_attn_scalar": 0 }), ["query_pre_attn_scalar", "above 0"]),
        ("gemma2", json!({ "hidden_activation": "silu" }), ["hidden_activation", "gelu_pytorch_tanh"]),
        ("phi", json!({}), ["phi", "gemma2, gpt_neox, gpt2"]),
        ("gpt_neox", json!({ "hidden_act": "quick_gelu" }), ["hidden_act = quick_gelu", "gelu_pytorch_tanh"]),
        ("gpt_neox", json!({ "rotary_pct": 1.5 }), ["rotary_pct = 1.5", "head_dim = 8"]),
        ("gpt_neox", json!({ "rotary_pct": 0.4 }), ["rotary_pct = 0.4", "even"]),
        (
            "gpt_neox",
            json!({ "rope_parameters": { "partial_rotary_factor": 0.1 } }),
            ["partial_rotary_factor = 0.1", "even"],
        ),
        ("gpt_neox", json!({ "num_attention_heads": 3 }), ["num_attention_heads = 3", "hidden_size = 16"]),
        ("gpt_neox", json!({ "layer_norm_eps": -1.0 }), ["layer_norm_eps = -1", "at least 0"]),
        ("gpt_neox", json!({ "use_parallel_residual": 3 }), ["use_parallel_residual = 3", "boolean"]),
        ("gpt2", json!({ "activation_function": "relu" }), ["activation_function = relu", "gelu_new"]),
        ("gpt2", json!({ "n_head": 3 }), ["n_head = 3", "hidden_size = 16"]),
        ("gpt2", json!({ "n_positions": 0 }), ["n_positions = 0", "at least 1"]),
        ("gpt2", json!({ "n_inner": 0 }), ["n_inner = 0", "at least 1"]),
        ("gpt2", json!({ "n_inner": "wide" }), ["n_inner = \"wide\"", "invalid type"]),
        ("gpt2", json!({ "layer_norm_epsilon": -1.0 }), ["layer_norm_epsilon = -1", "at least 0"]),
        (
            "gpt2",
            json!({ "add_cross_attention": true }),
            ["add_cross_attention = true", "without an encoder"],
        ),
        ("gpt_neox", json!({ "vocab_size": 0 }), ["vocab_size = 0", "at least 1"]),
    ] {
        let error = config(family, fields).expect_err("refused");
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
}
