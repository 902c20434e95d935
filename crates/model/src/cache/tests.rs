//! The one call of a layer against the same layers operation by operation, for every family.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use kernels::Precision;
use serde_json::{Value, json};

use super::*;
use crate::config::Config;

const VOCAB: usize = 70;

/// What each family has of its own, and where the second of two users has an adapter.
fn families() -> Vec<(Value, &'static [&'static str])> {
    let gemma = json!({
        "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 6, "sliding_window": 9,
        "query_pre_attn_scalar": 5.0, "attn_logit_softcapping": 1.5, "final_logit_softcapping": 3.0,
    });
    let inverse = json!({ "model_type": "gpt2", "scale_attn_by_inverse_layer_idx": true });
    vec![
        (json!({ "model_type": "llama", "num_key_value_heads": 2 }), &["q_proj", "up_proj"]),
        (json!({ "model_type": "qwen2", "num_key_value_heads": 2 }), &["k_proj"]),
        (json!({ "model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 10 }), &["v_proj", "o_proj"]),
        (json!({ "model_type": "mistral", "sliding_window": 9 }), &["down_proj"]),
        (gemma, &["q_proj", "gate_proj", "down_proj"]),
        (json!({ "model_type": "gpt_neox", "rotary_pct": 0.5 }), &["query_key_value", "dense_4h_to_h"]),
        (json!({ "model_type": "gpt_neox", "use_parallel_residual": false }), &["dense", "dense_h_to_4h"]),
        (json!({ "model_type": "gpt_neox", "hidden_act": "gelu_new", "rotary_pct": 1.0 }), &[]),
        (json!({ "model_type": "gpt2" }), &["c_attn"]),
        (inverse, &["c_proj", "c_fc"]),
    ]
}

/// A decoder all of whose parameters are drawn, and the same with an adapter.
fn decoders(fields: &Value, targets: &[&str]) -> [Decoder; 2] {
    let all = json!({
        "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 72, "num_hidden_layers": 3,
        "num_attention_heads": 4, "max_position_embeddings": 64, "eos_token_id": 1,
    });
    let mut map = all.as_object().cloned().expect("a map");
    map.extend(fields.as_object().cloned().expect("a map"));
    let config = Config::from_json(map, Path::new("config.json")).expect("a config");
    let device = Device::flex();
    let mut state = 0.0_f64;
    let mut draw = || {
        state += 1.0;
        4.0 * (state * 12.9898).sin()
    };
    let mut base = Decoder::random(config, &device, &mut draw);
    let mut some = |decoder: &mut Decoder, wanted: &dyn Fn(&str) -> bool| {
        decoder.visit(&mut |name, mut slot| {
            let count = slot.shape().iter().product();
            if wanted(name) {
                let values: Vec<f32> = (0..count).map(|_| 0.2 * draw() as f32).collect();
                slot.set_flat(Tensor::from_data(TensorData::new(values, [count]), &device));
            }
        });
    };
    some(&mut base, &|name| name.ends_with("bias") || name.contains("norm") || name.contains("ln_"));
    let mut adapted = base.clone();
    adapted.each_linear(&mut |path, linear| {
        if targets.iter().any(|target| path.ends_with(target)) {
            linear.attach(3, 0.7, &mut || 0.3);
        }
    });
    some(&mut adapted, &|name| name.contains("lora_"));
    [base, adapted]
}

fn bits(rows: Tensor<2>) -> Vec<u32> {
    let [count, width] = rows.dims();
    host(rows.reshape([count * width])).iter().map(|x| x.to_bits()).collect()
}

#[test]
fn one_call_of_a_layer_gives_what_its_operations_give_bit_for_bit() {
    for ((fields, targets), precision) in families()
        .into_iter()
        .flat_map(|family| [Precision::F32, Precision::Bf16, Precision::Int8].map(|p| (family.clone(), p)))
    {
        let [base, adapted] = decoders(&fields, targets);
        let backbone = base.frozen_as(precision);
        let users = [backbone.with_adapter_of(&base), backbone.with_adapter_of(&adapted)];
        assert!(users[0].shares_weights(&users[1]), "{fields}");
        let mut planned = CacheSession::of(users.iter().map(|user| ("planned", user)).collect());
        assert!(planned.plan.is_some(), "{fields}");
        let mut composed = users.each_ref().map(|user| CacheSession::new(user, "composed"));
        for session in &mut composed {
            session.plan = None;
        }

        // Rows of the one, then of the other; of each its row in the session of both and in its own.
        let mut rows: [Vec<(RowId, RowId)>; 2] = [0, 1].map(|user: usize| {
            let mut row = || (planned.open(), composed[user].open());
            vec![row(), row()]
        });
        let mut state = 1_u32;
        let mut text = |len: usize| -> Vec<TokenId> {
            (0..len)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 8) % VOCAB as u32
                })
                .collect()
        };
        // Two texts are begun; others fork off them in the midst of pages and go on at different lengths; then one token each.
        for lengths in [&[20, 33][..], &[1, 2, 17, 5, 3], &[1; 5], &[1; 5]] {
            for (user, own) in rows.iter_mut().enumerate() {
                while own.len() < lengths.len() {
                    let (from, cut) = (own[own.len() % 2], [20, 16, 7][own.len() - 2]);
                    own.push((planned.fork(from.0, cut), composed[user].fork(from.1, cut)));
                }
            }
            // Both users continue by the same texts, so that what differs is the adapter's.
            let texts: Vec<Vec<TokenId>> = lengths.iter().map(|len| text(*len)).collect();
            let items = |user: usize| rows[user].iter().zip(&texts);
            let both: Vec<(RowId, &[TokenId])> =
                (0..2).flat_map(items).map(|(row, text)| (row.0, &text[..])).collect();
            let new = planned.append(&both).expect("room");
            let count = new.ids.len();
            let together =
                planned.run_planned(&new, &[0..count / 2, count / 2..count]).expect("a plan of both");
            let apart: Vec<Vec<u32>> = (0..2)
                .map(|user| {
                    let own: Vec<(RowId, &[TokenId])> =
                        items(user).map(|(row, text)| (row.1, &text[..])).collect();
                    bits(composed[user].run(&own).expect("room"))
                })
                .collect();
            assert_eq!(bits(together), apart.concat(), "{fields}, {precision:?}, {lengths:?}");
            assert_eq!(targets.is_empty(), apart[0] == apart[1], "{fields}: the adapter's change");
        }
    }
}
