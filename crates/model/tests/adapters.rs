//! Adapters as PEFT writes them: which maps they change, with which rank and scale, what they hold whole, and
//! what is refused.

use std::path::Path;

use burn::tensor::Device;
use generate::{Purpose, Score, Stream};
use model::files::{AdapterConfig, adapter_config, adapter_files, attach, load, load_adapter, model_files};
use model::weights::{Float, Named, Weights, serialize};
use model::{Config, Decoder, Policy, Shape};
use serde_json::{Value, json};
use tempfile::TempDir;

const VOCAB: usize = 30;

fn base() -> Decoder {
    let mut stream = Stream::new(3, Purpose::Init, 0, 0);
    Decoder::random(Config::llama(&Shape::small(VOCAB)), &Device::flex(), &mut || 4.0 * stream.normal())
}

/// The files of an adapter of `q_proj` and `down_proj` whose factors are away from zero.
fn adapter() -> TempDir {
    let mut decoder = base();
    let config = AdapterConfig {
        r: 2,
        alpha: 4.0,
        use_rslora: false,
        targets: vec!["q_proj".into(), "down_proj".into()],
        base: "base".into(),
        bilinear: None,
    };
    let mut stream = Stream::new(4, Purpose::Init, 0, 0);
    attach(&mut decoder, &config, &mut || stream.uniform()).expect("targets");
    decoder.each_linear(&mut |_, linear| {
        if let Some(lora) = &mut linear.lora {
            lora.b = lora.b.clone() + 0.3;
        }
    });
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in adapter_files(&decoder, &config).expect("files") {
        fs_err::write(folder.path().join(name), bytes).expect("written");
    }
    folder
}

fn change(folder: &Path, fields: Value) {
    let path = folder.join("adapter_config.json");
    let mut map: Value = serde_json::from_str(&fs_err::read_to_string(&path).expect("a file")).expect("JSON");
    let (Some(map_of), Value::Object(fields)) = (map.as_object_mut(), fields) else { panic!("fields") };
    map_of.extend(fields);
    fs_err::write(path, map.to_string()).expect("written");
}

/// The adapter's tensors by name, changed.
fn rewrite(
    folder: &Path,
    edit: impl Fn(&str, Vec<f32>, Vec<usize>) -> Option<(Vec<f32>, Vec<usize>)>,
    more: Vec<Named>,
) {
    let path = folder.join("adapter_model.safetensors");
    let weights = Weights::of_files(std::slice::from_ref(&path)).expect("weights");
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let mut tensors = more;
    for name in names {
        let values = weights.read_vector(&name);
        let shape = if name.contains("lora_A") { vec![2, 0] } else { vec![0, 2] };
        let values = values.expect("a tensor");
        let other = values.len() / 2;
        let shape: Vec<usize> = shape.into_iter().map(|n| if n == 0 { other } else { n }).collect();
        if let Some((values, shape)) = edit(&name, values, shape) {
            tensors.push(Named { name, shape, values });
        }
    }
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    fs_err::write(path, serialize(&tensors, Float::F32).expect("bytes")).expect("written");
}

fn loaded(folder: &Path) -> Decoder {
    let mut decoder = base();
    load_adapter(&mut decoder, folder).expect("an adapter");
    decoder
}

fn refusal(folder: &Path) -> String {
    load_adapter(&mut base(), folder).expect_err("refused").to_string()
}

fn scores(decoder: &Decoder) -> Vec<f32> {
    let policy = Policy::new("model", decoder);
    policy.score(&[(&[3, 9, 4], &[22, 7, 5, 1])]).expect("scores").remove(0)
}

/// Paths, ranks and factors of the adapted maps.
fn adapted(decoder: &mut Decoder) -> Vec<(String, usize, f64)> {
    let mut found = Vec::new();
    decoder.each_linear(&mut |path, linear| {
        found.extend(linear.lora.as_ref().map(|lora| (path.to_owned(), lora.a.dims()[0], lora.scaling)));
    });
    found
}

#[test]
fn a_regular_expression_and_a_list_that_name_the_same_maps_are_the_same_adapter() {
    let folder = adapter();
    let want = scores(&loaded(folder.path()));
    assert_ne!(want, scores(&base()));
    for targets in [
        json!(r".*\.(q_proj|down_proj)"),
        json!(["self_attn.q_proj", "down_proj"]),
        json!(["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "mlp.down_proj"]),
    ] {
        change(folder.path(), json!({ "target_modules": targets }));
        assert_eq!(scores(&loaded(folder.path())), want, "{targets}");
    }
    change(folder.path(), json!({ "target_modules": r"(?!.*mlp).*_proj" }));
    assert!(refusal(folder.path()).contains("target_modules"), "look-around");
    change(
        folder.path(),
        json!({ "target_modules": ["q_proj", "down_proj", "k_proj"], "exclude_modules": ["k_proj"] }),
    );
    assert_eq!(scores(&loaded(folder.path())), want);
    change(folder.path(), json!({ "exclude_modules": null }));
    assert!(refusal(folder.path()).contains("k_proj.lora_A.weight"), "a target without factors");
    change(folder.path(), json!({ "target_modules": ["q_proj"] }));
    assert!(refusal(folder.path()).contains("down_proj"), "factors without a target");
}

#[test]
fn only_the_layers_that_are_named_are_adapted() {
    let folder = adapter();
    rewrite(
        folder.path(),
        |name, values, shape| name.contains("layers.1").then_some((values, shape)),
        Vec::new(),
    );
    assert!(refusal(folder.path()).contains("layers.0"), "factors of a layer are missing");
    for layers in [
        json!({ "layers_to_transform": [1] }),
        json!({ "layers_to_transform": 1, "layers_pattern": "layers" }),
        json!({ "layers_to_transform": [1], "layers_pattern": ["h", "layers"] }),
    ] {
        change(folder.path(), layers);
        let mut decoder = loaded(folder.path());
        let paths: Vec<String> = adapted(&mut decoder).into_iter().map(|(path, ..)| path).collect();
        assert_eq!(paths, ["model.layers.1.self_attn.q_proj", "model.layers.1.mlp.down_proj"]);
        // It is no adapter whose settings a sum could have.
        let config = adapter_config(folder.path()).expect("settings");
        let part = model::merge::Part { name: "a", decoder: &decoder, adapter: Some(&config), weight: 0.5 };
        let error = model::merge::concatenate(&[part]).expect_err("refused").to_string();
        assert!(error.contains("layers of their own"), "{error}");
    }
}

#[test]
fn ranks_and_alphas_of_single_maps_are_obeyed() {
    let folder = adapter();
    // One of two rows of A and columns of B is left out, which is rank 1.
    let cut = |name: &str, values: Vec<f32>, shape: Vec<usize>| {
        if !name.contains("layers.0.self_attn.q_proj") {
            return Some((values, shape));
        }
        if name.contains("lora_A") {
            return Some((values[..shape[1]].to_vec(), vec![1, shape[1]]));
        }
        Some((values.iter().step_by(2).copied().collect(), vec![shape[0], 1]))
    };
    rewrite(folder.path(), cut, Vec::new());
    change(
        folder.path(),
        json!({ "rank_pattern": { "layers.0.self_attn.q_proj": 1 }, "alpha_pattern": { "down_proj": 3, ".*q_proj": 10 } }),
    );
    let mut decoder = loaded(folder.path());
    let found: Vec<(usize, f64)> =
        adapted(&mut decoder).into_iter().map(|(_, r, scale)| (r, scale)).collect();
    assert_eq!(found, [(1, 10.0), (2, 1.5), (2, 5.0), (2, 1.5)]);
    change(folder.path(), json!({ "use_rslora": true }));
    let (_, r, scale) = adapted(&mut loaded(folder.path())).remove(1);
    assert_eq!((r, scale), (2, 3.0 / 2.0_f64.sqrt()));
}

#[test]
fn what_changes_the_sums_and_is_not_run_is_refused_by_its_name() {
    for (field, value) in [
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("bias", json!("all")),
        ("bias", json!("lora_only")),
        ("init_lora_weights", json!("pissa")),
        ("init_lora_weights", json!("pissa_niter_16")),
        ("init_lora_weights", json!("olora")),
        ("init_lora_weights", json!("corda")),
        ("init_lora_weights", json!("loftq")),
        ("init_lora_weights", json!("lora_ga")),
        ("init_lora_weights", json!("mica")),
        ("layer_replication", json!([[0, 2], [1, 2]])),
        ("trainable_token_indices", json!([3])),
        ("target_parameters", json!(["mlp.experts"])),
        ("use_qalora", json!(true)),
        ("alora_invocation_tokens", json!([1, 2])),
        ("modules_to_save", json!(["norm"])),
        ("something_new", json!(3)),
        ("peft_type", json!("IA3")),
    ] {
        let folder = adapter();
        change(folder.path(), json!({ field: value }));
        let error = refusal(folder.path());
        assert!(error.contains(field), "{field}: {error}");
    }
    // What begins otherwise and leaves the base as it is, is an adapter as any.
    for value in [json!(true), json!(false), json!("gaussian"), json!("eva"), json!(null)] {
        let folder = adapter();
        change(
            folder.path(),
            json!({ "init_lora_weights": value, "modules_to_save": ["classifier", "score"] }),
        );
        loaded(folder.path());
    }
}

fn matrix(name: &str, rows: usize, width: usize, seed: u64) -> Named {
    let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
    let values = (0..rows * width).map(|_| stream.normal() as f32).collect();
    Named { name: format!("base_model.model.{name}.weight"), shape: vec![rows, width], values }
}

#[test]
fn embeddings_and_head_that_an_adapter_holds_whole_take_the_place_of_the_bases() {
    let folder = adapter();
    let width = base().config.hidden_size;
    let more =
        vec![matrix("model.embed_tokens", VOCAB + 2, width, 1), matrix("lm_head", VOCAB + 2, width, 2)];
    let tensors = [more[0].values.clone(), more[1].values.clone()];
    rewrite(folder.path(), |_, values, shape| Some((values, shape)), more);
    change(folder.path(), json!({ "modules_to_save": ["embed_tokens", "lm_head"] }));
    let mut decoder = loaded(folder.path());
    assert_eq!((decoder.config.vocab_size, decoder.config.tie_word_embeddings), (VOCAB + 2, false));
    assert!(scores(&decoder).iter().all(|score| score.is_finite()));
    let policy = Policy::new("model", &decoder);
    let new = policy.score(&[(&[3, 31], &[30, 4])]).expect("new tokens have scores");
    assert!(new[0].iter().all(|score| score.is_finite()));
    // Saved as a whole model it is the same one.
    let whole = tempfile::tempdir().expect("a folder");
    for (name, bytes) in model_files(&decoder, Float::F32).expect("files") {
        fs_err::write(whole.path().join(name), bytes).expect("written");
    }
    let again = load(whole.path(), &Device::flex()).expect("a model");
    for (a, b) in scores(&again).iter().zip(scores(&decoder)) {
        assert!((a - b).abs() < 1e-4, "{a} and {b}");
    }
    let mut held = Vec::new();
    decoder.visit(&mut |name, slot| {
        if name == "model.embed_tokens.weight" || name == "lm_head.weight" {
            held.push(slot.flat().to_data().iter::<f32>().collect::<Vec<_>>());
        }
    });
    held.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let mut tensors = tensors.to_vec();
    tensors.sort_by(|a, b| a[0].total_cmp(&b[0]));
    assert_eq!(held, tensors);
}

#[test]
fn the_head_of_a_tied_base_stays_what_it_was_where_only_the_embedding_is_held() {
    let folder = adapter();
    let width = base().config.hidden_size;
    rewrite(folder.path(), |_, v, s| Some((v, s)), vec![matrix("model.embed_tokens", VOCAB, width, 1)]);
    change(folder.path(), json!({ "modules_to_save": ["embed_tokens"] }));
    let apart = loaded(folder.path());
    assert!(!apart.config.tie_word_embeddings);
    change(folder.path(), json!({ "ensure_weight_tying": true }));
    let together = loaded(folder.path());
    assert!(together.config.tie_word_embeddings);
    assert_ne!(scores(&apart), scores(&together));
    // More tokens need a head of as many.
    change(folder.path(), json!({ "ensure_weight_tying": false }));
    rewrite_embedding(folder.path(), VOCAB + 1, width);
    assert!(refusal(folder.path()).contains("has to hold both"));
}

fn rewrite_embedding(folder: &Path, rows: usize, width: usize) {
    fs_err::remove_file(folder.join("adapter_model.safetensors")).expect("removed");
    let fresh = adapter();
    fs_err::copy(fresh.path().join("adapter_model.safetensors"), folder.join("adapter_model.safetensors"))
        .expect("copied");
    rewrite(folder, |_, v, s| Some((v, s)), vec![matrix("model.embed_tokens", rows, width, 1)]);
}

#[test]
fn the_base_of_an_adapter_is_the_id_that_other_programs_know() {
    let folder = adapter();
    let decoder = loaded(folder.path());
    for (base, stored, revision) in [
        ("hf://org/name", "org/name", Value::Null),
        ("hf://org/name@v1", "org/name", json!("v1")),
        ("some/folder", "some/folder", Value::Null),
    ] {
        let config = AdapterConfig { base: base.into(), ..adapter_config(folder.path()).expect("settings") };
        let again = tempfile::tempdir().expect("a folder");
        for (name, bytes) in adapter_files(&decoder, &config).expect("files") {
            fs_err::write(again.path().join(name), bytes).expect("written");
        }
        let text = fs_err::read_to_string(again.path().join("adapter_config.json")).expect("a file");
        let fields: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&fields["base_model_name_or_path"], &fields["revision"]), (&json!(stored), &revision));
    }
    let read = |fields: Value| {
        change(folder.path(), fields);
        adapter_config(folder.path()).expect("settings").base
    };
    assert_eq!(read(json!({ "base_model_name_or_path": "org/name", "revision": null })), "hf://org/name");
    assert_eq!(read(json!({ "base_model_name_or_path": "org/name", "revision": "v1" })), "hf://org/name@v1");
    assert_eq!(read(json!({ "base_model_name_or_path": "hf://org/name" })), "hf://org/name");
    assert_eq!(read(json!({ "base_model_name_or_path": "tiny" })), "tiny");
    assert_eq!(
        read(json!({ "base_model_name_or_path": "/no/such/folder/at/all" })),
        "/no/such/folder/at/all"
    );
    // A folder of that name is a folder.
    let here = folder.path().join("base/model");
    fs_err::create_dir_all(&here).expect("a folder");
    let here = here.display().to_string();
    assert_eq!(read(json!({ "base_model_name_or_path": here.clone() })), here);
}

#[test]
fn a_base_that_was_moved_with_its_run_is_found_beside_it() {
    let runs = tempfile::tempdir().expect("a folder");
    let (base, own) = (runs.path().join("sft/step-000002"), runs.path().join("dpo/latest"));
    for folder in [&base, &own] {
        fs_err::create_dir_all(folder).expect("a folder");
    }
    fs_err::write(base.join("config.json"), "{}").expect("written");
    let fresh = adapter();
    fs_err::copy(fresh.path().join("adapter_config.json"), own.join("adapter_config.json")).expect("copied");
    change(&own, json!({ "base_model_name_or_path": "/before/it/was/moved/sft/step-000002" }));
    let found = adapter_config(&own).expect("settings").base;
    assert_eq!(Path::new(&found).canonicalize().expect("there"), base.canonicalize().expect("there"));
}
