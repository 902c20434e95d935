//! Agreement with transformers and peft on the reference fixtures: logits, log-probabilities, greedy continuations, reward
//! heads, adapters; and what they must not depend on: batches, caches, how a row was filled.

use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use generate::{Chance, Engine, Purpose, Sample, SampleAsk, Sampling, Score, Step, Stream};
use model::files::{adapter_files, attach, load, load_adapter, model_files};
use model::weights::Float;
use model::{Config, Decoder, Policy};
use serde_json::{Value, json};

const MODELS: [&str; 12] = [
    "llama_gqa",
    "llama_tied",
    "llama3_rope",
    "qwen2",
    "qwen2_bf16",
    "qwen3",
    "mistral_nowindow",
    "mistral_swa",
    "gemma2",
    "gpt_neox",
    "gpt2",
    "gpt2_hubkeys",
];

fn expected(path: &Path) -> Value {
    let text = fs_err::read_to_string(path.join("expected.json")).expect("expected.json");
    serde_json::from_str(&text).expect("JSON")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("numbers").iter().map(|x| x.as_f64().expect("a number")).collect()
}

/// Logits after every token of a row, by extending a session `step` tokens at a time.
fn logits(policy: &Policy, row: &[u32], step: usize) -> Vec<Vec<f32>> {
    let mut session = policy.session();
    let id = session.open();
    let mut all = Vec::new();
    for part in row.chunks(step) {
        let given = session.extend(&[(id, part)]).expect("the row fits");
        all.push(given.row(0).to_vec());
    }
    all
}

#[test]
fn logits_and_scores_agree_with_transformers() {
    for name in MODELS {
        let Some(path) = testkit::shared(&format!("fixtures/models/{name}")) else { return };
        let want = expected(&path);
        for config in ["config.json", "config.v5.json"] {
            let folder = tempfile::tempdir().expect("a folder");
            for entry in fs_err::read_dir(&path).expect("the fixture").flatten() {
                fs_err::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
            }
            fs_err::copy(path.join(config), folder.path().join("config.json")).expect("copied");
            let decoder = load(folder.path(), &Device::flex()).expect("a model");
            let policy = Policy::new(name, &decoder);
            for (s, sequence) in want["sequences"].as_array().expect("sequences").iter().enumerate() {
                let row = ids(sequence);
                for (t, ours) in logits(&policy, &row, 1).iter().enumerate() {
                    for (v, theirs) in floats(&want["logits"][s][t]).iter().enumerate() {
                        let difference = (f64::from(ours[v]) - theirs).abs();
                        assert!(
                            difference < 1e-4,
                            "{name} {config} sequence {s} position {t} id {v}: off by {difference}"
                        );
                    }
                }
                let scores = policy.score(&[(&row[..1], &row[1..])]).expect("scores");
                for (ours, theirs) in scores[0].iter().zip(floats(&want["token_logprobs"][s])) {
                    assert!((f64::from(*ours) - theirs).abs() < 1e-4, "{name}: {ours} against {theirs}");
                }
            }
        }
    }
}

#[test]
fn scalings_biases_and_widths_agree_with_transformers() {
    for name in ["llama_yarn", "llama_yarn_mscale", "llama_linear", "llama_biases", "llama_head_dim"] {
        let Some(path) = testkit::shared(&format!("fixtures/models2/decoders/{name}")) else { return };
        let want = expected(&path);
        for config in ["config.json", "config.v5.json"] {
            let folder = tempfile::tempdir().expect("a folder");
            for file in ["model.safetensors", "generation_config.json"] {
                fs_err::copy(path.join(file), folder.path().join(file)).expect("copied");
            }
            fs_err::copy(path.join(config), folder.path().join("config.json")).expect("copied");
            let policy = Policy::new(name, &load(folder.path(), &Device::flex()).expect("a model"));
            assert_logits(&format!("{name} {config}"), &policy, &want);
        }
    }
}

/// Compares the logits of all sequences of a fixture.
fn assert_logits(what: &str, policy: &Policy, want: &Value) {
    for (s, sequence) in want["sequences"].as_array().expect("sequences").iter().enumerate() {
        for (t, ours) in logits(policy, &ids(sequence), 1).iter().enumerate() {
            for (v, theirs) in floats(&want["logits"][s][t]).iter().enumerate() {
                let off = (f64::from(ours[v]) - theirs).abs();
                assert!(off < 1e-4, "{what} sequence {s} position {t} id {v}: off by {off}");
            }
        }
    }
}

#[test]
fn adapters_of_every_kind_agree_with_peft_or_are_refused_by_name() {
    let Some(base) = testkit::shared("fixtures/models2/adapters/base_lm") else { return };
    for name in ["lora", "rslora", "patterns", "all_linear", "regex"] {
        let Some(path) = testkit::shared(&format!("fixtures/models2/adapters/{name}")) else { return };
        let mut decoder = load(&base, &Device::flex()).expect("a model");
        load_adapter(&mut decoder, &path).expect("an adapter");
        assert_logits(name, &Policy::new(name, &decoder), &expected(&path));
    }
    for (name, field) in [("dora", "use_dora"), ("modules_to_save", "score.weight")] {
        let Some(path) = testkit::shared(&format!("fixtures/models2/adapters/{name}")) else { return };
        let mut decoder = load(&base, &Device::flex()).expect("a model");
        let error = load_adapter(&mut decoder, &path).expect_err("refused").to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn greedy_continuations_agree_with_transformers() {
    for name in MODELS {
        let Some(path) = testkit::shared(&format!("fixtures/models/{name}")) else { return };
        let want = expected(&path);
        let mut decoder = load(&path, &Device::flex()).expect("a model");
        decoder.config.eos.clear();
        let policy = Policy::new(name, &decoder);
        let asks = |batch: &[usize]| -> Vec<SampleAsk> {
            batch
                .iter()
                .map(|s| SampleAsk {
                    prefix: ids(&want["sequences"][*s]),
                    prompt_len: 1,
                    budget: 16,
                    stream: Stream::new(0, Purpose::Sample, 0, 0),
                })
                .collect()
        };
        let mut engine = Engine::new(&policy, Sampling::greedy()).expect("settings");
        let given = engine.sample(asks(&[0, 1]), &mut Chance::Streams).expect("room");
        for (s, completion) in given.iter().enumerate() {
            let theirs = &want["greedy"][s];
            let theirs = if theirs.is_array() { ids(theirs) } else { ids(&theirs["tokens"]) };
            assert_eq!(completion.ids, theirs, "{name} sequence {s}");
        }
    }
}

#[test]
fn reward_heads_agree_with_transformers() {
    let Some(path) = testkit::shared("fixtures/reward/llama_rm") else { return };
    let want = expected(&path);
    let policy = Policy::new("llama_rm", &load(&path, &Device::flex()).expect("a model"));
    for (sequence, score) in
        want["sequences"].as_array().expect("sequences").iter().zip(floats(&want["scores"]))
    {
        let row = ids(sequence);
        let ours = logits(&policy, &row, row.len());
        assert!((f64::from(ours[0][0]) - score).abs() < 1e-4, "{} against {score}", ours[0][0]);
    }
}

#[test]
fn adapters_agree_with_peft_and_merging_changes_nothing() {
    let Some(adapter) = testkit::shared("fixtures/adapters/llama_lora") else { return };
    let Some(base) = testkit::shared("fixtures/models/llama_gqa") else { return };
    let want = expected(&adapter);
    let mut decoder = load(&base, &Device::flex()).expect("a model");
    let config = load_adapter(&mut decoder, &adapter).expect("an adapter");
    let mut merged = decoder.clone();
    merged.each_linear(&mut |_, linear| linear.merge());
    for (name, decoder) in [("adapter", &decoder), ("merged", &merged)] {
        let policy = Policy::new(name, decoder);
        for (s, sequence) in want["sequences"].as_array().expect("sequences").iter().enumerate() {
            for (t, ours) in logits(&policy, &ids(sequence), 1).iter().enumerate() {
                for (ours, theirs) in ours.iter().zip(floats(&want["logits"][s][t])) {
                    assert!(
                        (f64::from(*ours) - theirs).abs() < 1e-4,
                        "{name} {s} {t}: {ours} against {theirs}"
                    );
                }
            }
        }
    }
    // Saved and loaded again it is the same adapter.
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in adapter_files(&decoder, &config).expect("files") {
        fs_err::write(folder.path().join(name), bytes).expect("written");
    }
    let mut again = load(&base, &Device::flex()).expect("a model");
    assert_eq!(load_adapter(&mut again, folder.path()).expect("an adapter"), config);
    let row = ids(&want["sequences"][0]);
    assert_eq!(logits(&Policy::new("a", &decoder), &row, 1), logits(&Policy::new("b", &again), &row, 1));
}

/// Small random decoders with adapters, which need no fixture: some with queries, keys and values apart and a gate, others with
/// one map for them and without.
fn randoms() -> Vec<Decoder> {
    let llama = json!({ "model_type": "llama", "num_key_value_heads": 2, "tie_word_embeddings": true });
    let neox = json!({ "model_type": "gpt_neox", "rotary_pct": 0.5 });
    let apart = json!({ "model_type": "gpt_neox", "use_parallel_residual": false });
    let gemma = json!({
        "model_type": "gemma2", "num_key_value_heads": 2, "head_dim": 8, "sliding_window": 11,
        "query_pre_attn_scalar": 6.0, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
    });
    let windowed = json!({ "model_type": "mistral", "num_key_value_heads": 3, "sliding_window": 11 });
    vec![
        random(llama, &["q_proj", "down_proj"]),
        random(windowed, &["k_proj", "up_proj"]),
        random(gemma, &["v_proj", "gate_proj"]),
        random(neox, &["query_key_value", "dense_4h_to_h"]),
        random(apart, &["dense", "dense_h_to_4h"]),
        random(
            json!({ "model_type": "gpt2", "n_inner": 80, "scale_attn_by_inverse_layer_idx": true }),
            &["c_attn", "c_proj"],
        ),
    ]
}

fn random(fields: Value, targets: &[&str]) -> Decoder {
    let mut map = json!({
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "max_position_embeddings": 128,
        "eos_token_id": 1,
        "pad_token_id": 0,
    });
    let (Value::Object(map), Value::Object(fields)) = (&mut map, fields) else { panic!("fields") };
    map.extend(fields);
    let config = Config::from_json(map.clone(), Path::new("config.json")).expect("a config");
    let mut stream = Stream::new(3, Purpose::Init, 0, 0);
    let mut decoder = Decoder::random(config, &Device::flex(), &mut || 4.0 * stream.normal());
    // Biases are new too, and so nothing yet.
    decoder.visit(&mut |name, mut slot| {
        if name.ends_with("bias") {
            let values: Vec<f32> =
                (0..slot.shape().iter().product()).map(|_| 0.1 * stream.normal() as f32).collect();
            slot.set_flat(tensor(values));
        }
    });
    let config = model::files::AdapterConfig {
        r: 3,
        alpha: 6.0,
        use_rslora: false,
        targets: targets.iter().map(|target| (*target).to_owned()).collect(),
        base: "random".into(),
        bilinear: None,
    };
    attach(&mut decoder, &config, &mut || stream.uniform()).expect("targets");
    decoder
}

fn tensor(values: Vec<f32>) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &Device::flex())
}

fn texts() -> Vec<Vec<u32>> {
    let mut stream = Stream::new(5, Purpose::Sample, 0, 0);
    [1, 2, 15, 16, 17, 33, 70]
        .iter()
        .map(|n| (0..*n).map(|_| (stream.bits() % 97) as u32).collect())
        .collect()
}

#[test]
fn cached_equals_recomputed_and_batched_equals_single_bit_for_bit() {
    for decoder in randoms() {
        cached_equals_recomputed_and_batched_equals_single(&Policy::new("random", &decoder));
    }
}

fn cached_equals_recomputed_and_batched_equals_single(policy: &Policy) {
    let rows = texts();
    for row in &rows {
        let whole: Vec<Vec<f32>> = (1..=row.len()).map(|n| logits(policy, &row[..n], n)[0].clone()).collect();
        assert_eq!(logits(policy, row, 1), whole, "token by token, {} tokens", row.len());
        let by_seven = logits(policy, row, 7);
        assert_eq!(by_seven.last(), whole.last(), "seven by seven");
    }
    let mut session = policy.session();
    let open: Vec<_> = rows.iter().map(|_| session.open()).collect();
    let batch: Vec<_> = open.iter().copied().zip(rows.iter().map(Vec::as_slice)).collect();
    let together = session.extend(&batch).expect("room");
    for (place, row) in rows.iter().enumerate() {
        assert_eq!(together.row(place), logits(policy, row, row.len())[0], "row {place} alone");
    }
    // Forks, cuts and reuse of pages change nothing either.
    let long = open[6];
    for cut in [1, 15, 16, 17, 40] {
        let fork = session.fork(long, cut);
        let suffix = &rows[4][..9];
        let forked = session.extend(&[(fork, suffix)]).expect("room");
        let text = [&rows[6][..cut], suffix].concat();
        assert_eq!(forked.row(0), logits(policy, &text, text.len())[0], "forked at {cut}");
        session.truncate(fork, 0);
        session.close(fork);
    }
    session.truncate(long, 20);
    let cut = session.extend(&[(long, &rows[3])]).expect("room");
    let text = [&rows[6][..20], &rows[3]].concat();
    assert_eq!(cut.row(0), logits(policy, &text, text.len())[0], "cut at 20");
}

#[test]
fn training_sees_the_log_probabilities_of_decoding() {
    use model::learn::{Row, log_probs};
    let rows: Vec<Vec<u32>> = texts().into_iter().filter(|row| row.len() > 1).collect();
    let masks: Vec<Vec<bool>> = rows.iter().map(|row| (0..row.len()).map(|at| at > 0).collect()).collect();
    let batch: Vec<Row<'_>> = rows.iter().zip(&masks).map(|(ids, loss)| Row { ids, loss }).collect();
    let items: Vec<(&[u32], &[u32])> = rows.iter().map(|row| row.split_at(1)).collect();
    for decoder in randoms() {
        let forward = log_probs(&decoder, &batch, false);
        let scores = Policy::new("random", &decoder).score(&items).expect("room");
        for (ours, theirs) in forward.rows().zip(&scores) {
            assert_eq!(ours, theirs, "bit for bit, whatever the padding");
        }
    }
}

#[test]
fn gradients_do_not_depend_on_checkpointing_or_on_accumulation() {
    for decoder in randoms() {
        gradients_do_not_depend_on_checkpointing(decoder);
    }
}

fn gradients_do_not_depend_on_checkpointing(mut decoder: Decoder) {
    use model::learn::{Row, log_probs};
    decoder.visit(&mut |_, mut slot| slot.set_trained(true));
    let rows: Vec<Vec<u32>> = texts().into_iter().filter(|row| row.len() > 1).collect();
    let masks: Vec<Vec<bool>> = rows.iter().map(|row| (0..row.len()).map(|at| at > 0).collect()).collect();
    let batch: Vec<Row<'_>> = rows.iter().zip(&masks).map(|(ids, loss)| Row { ids, loss }).collect();
    let gradient = |decoder: &mut Decoder, parts: usize, checkpointing: bool| {
        let mut sum = model::Grads::default();
        for part in batch.chunks(batch.len().div_ceil(parts)) {
            let forward = log_probs(decoder, part, checkpointing);
            let coefficients: Vec<f32> =
                (0..forward.values.len()).map(|i| 0.01 * (1.0 + (i % 5) as f32)).collect();
            // The same coefficient for a token, wherever the batch is cut.
            let coefficients = if parts == 1 { coefficients } else { vec![0.01; forward.values.len()] };
            sum.merge(forward.backward(decoder, &coefficients));
        }
        sum
    };
    let close = |a: &model::Grads, b: &model::Grads| {
        let names: Vec<&str> = a.iter().map(|(name, _)| name).collect();
        assert!(names.len() > 20 && names == b.iter().map(|(name, _)| name).collect::<Vec<_>>());
        for (name, left) in a.iter() {
            let left: Vec<f32> = left.to_data().iter::<f32>().collect();
            let right: Vec<f32> = b.get(name).expect("there").to_data().iter::<f32>().collect();
            for (left, right) in left.iter().zip(right) {
                assert!((left - right).abs() < 1e-4 * (1.0 + left.abs()), "{name}: {left} against {right}");
            }
        }
    };
    let plain = gradient(&mut decoder, 1, false);
    close(&plain, &gradient(&mut decoder, 1, true));
    close(&gradient(&mut decoder, 2, false), &gradient(&mut decoder, 6, false));
}

#[test]
fn saved_models_load_with_equal_logits() {
    for decoder in randoms() {
        a_saved_model_loads_with_equal_logits(&decoder);
    }
}

fn a_saved_model_loads_with_equal_logits(decoder: &Decoder) {
    let row = &texts()[5];
    let mut merged = decoder.clone();
    merged.each_linear(&mut |_, linear| linear.merge());
    let before = logits(&Policy::new("before", &merged), row, row.len());
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in model_files(decoder, Float::F32).expect("files") {
        fs_err::write(folder.path().join(name), bytes).expect("written");
    }
    let again = load(folder.path(), &Device::flex()).expect("a model");
    assert_eq!(logits(&Policy::new("after", &again), row, row.len()), before);
    let error = |change: &dyn Fn(&Path)| {
        change(folder.path());
        load(folder.path(), &Device::flex()).expect_err("damaged").to_string()
    };
    let shorter = error(&|folder| {
        let bytes = fs_err::read(folder.join("model.safetensors")).expect("there");
        fs_err::write(folder.join("model.safetensors"), &bytes[..bytes.len() - 10]).expect("written");
    });
    assert!(shorter.contains("damaged"), "{shorter}");
    let missing = error(&|folder| fs_err::remove_file(folder.join("model.safetensors")).expect("removed"));
    assert!(missing.contains("no model.safetensors"), "{missing}");
}

#[test]
fn every_family_may_have_any_head() {
    use model::Head;
    use model::learn::{Row, actor_critic, log_probs, scores};
    let row = [3, 9, 4, 22, 7];
    for decoder in randoms() {
        for head in [Head::Score, Head::Vocabulary, Head::Quantile { outputs: 6 }] {
            let mut stream = Stream::new(8, Purpose::Init, 0, 0);
            let decoder = decoder.clone().without_adapter();
            let decoder = decoder.with_head(head, Some(0), &mut || stream.normal());
            let folder = tempfile::tempdir().expect("a folder");
            for (name, bytes) in model_files(&decoder, Float::F32).expect("files") {
                fs_err::write(folder.path().join(name), bytes).expect("written");
            }
            let again = load(folder.path(), &Device::flex()).expect("a model");
            assert_eq!(again.config.head, head);
            let outputs = |decoder: &Decoder| scores(decoder, &[&row], false).values;
            assert_eq!(outputs(&decoder).len(), head.outputs(97));
            assert_eq!(outputs(&again), outputs(&decoder), "{}", decoder.config.model_type);
        }
        // A value head says nothing at first, and its gradient reaches its weights through what the language head gets.
        let mut decoder = decoder.with_value_head();
        decoder.visit(&mut |_, mut slot| slot.set_trained(true));
        let rows = [Row { ids: &row, loss: &[false, true, true, true, true] }];
        let both = actor_critic(&decoder, &rows, false);
        assert_eq!(both.log_probs(), log_probs(&decoder, &rows, false).values);
        assert_eq!(both.values(), [0.0; 4]);
        let grads = both.forward.backward(&mut decoder, &[0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
        let gradient = grads.get("v_head.summary.weight").expect("a leaf").to_data();
        assert!(gradient.iter::<f32>().any(|g| g.abs() > 0.1));
    }
}

#[test]
fn rows_end_where_learned_positions_do() {
    let Some(path) = testkit::shared("fixtures/models/gpt2") else { return };
    let policy = Policy::new("gpt2", &load(&path, &Device::flex()).expect("a model"));
    let mut session = policy.session();
    let row = session.open();
    session.extend(&[(row, &[3; 48])]).expect("as many as were learned");
    let error = session.extend(&[(row, &[3])]).expect_err("one more").to_string();
    assert!(error.contains("48") && error.contains("49"), "{error}");
}

/// What families have beside llama: norms of heads, windows, norms behind blocks, GeGLU and soft caps; LayerNorms, fused maps,
/// GELU, heads rotated in part, learned positions.
#[test]
fn saved_families_are_the_same_and_their_own_parts_have_gradients() {
    let families: [(&str, &[&str]); 5] = [
        ("qwen3", &["model.layers.0.self_attn.q_norm.weight", "model.layers.1.self_attn.k_norm.weight"]),
        (
            "mistral_swa",
            &["model.layers.0.self_attn.k_proj.weight", "model.layers.2.self_attn.q_proj.weight"],
        ),
        (
            "gemma2",
            &[
                "model.embed_tokens.weight",
                "model.layers.0.input_layernorm.weight",
                "model.layers.0.self_attn.k_proj.weight",
                "model.layers.1.self_attn.q_proj.weight",
                "model.layers.1.pre_feedforward_layernorm.weight",
                "model.layers.1.post_feedforward_layernorm.weight",
                "model.layers.2.mlp.gate_proj.weight",
                "model.norm.weight",
            ],
        ),
        (
            "gpt_neox",
            &[
                "gpt_neox.embed_in.weight",
                "gpt_neox.layers.0.input_layernorm.weight",
                "gpt_neox.layers.0.attention.query_key_value.weight",
                "gpt_neox.layers.1.attention.query_key_value.bias",
                "gpt_neox.layers.1.attention.dense.bias",
                "gpt_neox.layers.1.post_attention_layernorm.bias",
                "gpt_neox.layers.1.mlp.dense_h_to_4h.weight",
                "gpt_neox.final_layer_norm.weight",
                "embed_out.weight",
            ],
        ),
        (
            "gpt2",
            &[
                "transformer.wte.weight",
                "transformer.wpe.weight",
                "transformer.h.0.ln_1.bias",
                "transformer.h.0.attn.c_attn.weight",
                "transformer.h.1.attn.c_attn.bias",
                "transformer.h.1.attn.c_proj.weight",
                "transformer.h.1.mlp.c_fc.weight",
                "transformer.h.1.mlp.c_proj.bias",
                "transformer.ln_f.weight",
            ],
        ),
    ];
    for (family, parts) in families {
        let Some(path) = testkit::shared(&format!("fixtures/models/{family}")) else { return };
        a_saved_family_is_the_same_and_its_parts_have_gradients(&path, parts);
    }
}

fn a_saved_family_is_the_same_and_its_parts_have_gradients(path: &Path, parts: &[&str]) {
    use model::learn::{Row, log_probs};
    let decoder = load(path, &Device::flex()).expect("a model");
    let values = |decoder: &Decoder| model::files::named(&mut decoder.clone(), &|_| true);
    let count: usize = values(&decoder).iter().map(|tensor| tensor.values.len()).sum();
    assert_eq!(count, decoder.config.parameters());

    // Saved and loaded again: the same names, shapes and bits.
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in model_files(&decoder, Float::F32).expect("files") {
        fs_err::write(folder.path().join(name), bytes).expect("written");
    }
    let again = load(folder.path(), &Device::flex()).expect("a model");
    for (a, b) in values(&decoder).iter().zip(values(&again)) {
        assert_eq!((&a.name, &a.shape, &a.values), (&b.name, &b.shape, &b.values));
    }
    let stored = |path: &Path| -> Vec<String> {
        let weights = model::weights::Weights::open(path).expect("weights");
        // Masks and frequencies that old versions of transformers stored are no parameters.
        let buffer = |name: &&str| {
            [".attention.bias", ".attn.bias", ".masked_bias", ".inv_freq"]
                .iter()
                .any(|end| name.ends_with(end))
        };
        weights.names().filter(|name| !buffer(name)).map(str::to_owned).collect()
    };
    assert_eq!(stored(folder.path()), stored(path), "the hub's own names");

    // The gradients against a change of the weight with the largest.
    let row = ids(&expected(path)["sequences"][0]);
    let wanted: Vec<bool> = (0..row.len()).map(|at| at > 0).collect();
    let rows = [Row { ids: &row, loss: &wanted }];
    let mut trained = decoder.clone();
    trained.visit(&mut |_, mut slot| slot.set_trained(true));
    for checkpointing in [false, true] {
        let forward = log_probs(&trained, &rows, checkpointing);
        let ones = vec![1.0; forward.values.len()];
        let grads = forward.backward(&mut trained, &ones);
        for part in parts {
            let name = *part;
            let gradient: Vec<f32> = grads.get(name).expect(name).to_data().iter::<f32>().collect();
            let place = (0..gradient.len())
                .max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs()))
                .expect("values");
            let at = |by: f32| -> f64 {
                let mut moved = decoder.clone();
                moved.visit(&mut |other, mut slot| {
                    if other == name {
                        let mut values: Vec<f32> = slot.flat().to_data().iter::<f32>().collect();
                        values[place] += by;
                        slot.set_flat(tensor(values));
                    }
                });
                log_probs(&moved, &rows, false).values.into_iter().map(f64::from).sum()
            };
            let numeric = (at(1e-2) - at(-1e-2)) / 2e-2;
            let want = f64::from(gradient[place]);
            assert!((numeric - want).abs() < 2e-2 * want.abs().max(1e-2), "{name}: {want}, {numeric}");
        }
    }
}
