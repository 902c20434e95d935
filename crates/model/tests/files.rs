//! Which files of a directory are a model's, and what of them is said or refused.

use std::path::Path;

use burn::tensor::Device;
use generate::{Purpose, Score, Stream};
use model::files::{load, model_files};
use model::weights::{Float, Named, Weights, serialize};
use model::{Config, Decoder, Policy, Shape};
use serde_json::{Value, json};
use tempfile::TempDir;

fn directory(seed: u64) -> TempDir {
    let mut stream = Stream::new(seed, Purpose::Init, 0, 0);
    let decoder =
        Decoder::random(Config::llama(&Shape::small(30)), &Device::flex(), &mut || 4.0 * stream.normal());
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in model_files(&decoder, Float::F32).expect("files") {
        fs_err::write(folder.path().join(name), bytes).expect("written");
    }
    folder
}

fn scores(directory: &Path) -> Vec<f32> {
    let policy = Policy::new("model", &load(directory, &Device::flex()).expect("a model"));
    policy.score(&[(&[3, 9, 4], &[22, 7, 5, 1])]).expect("scores").remove(0)
}

fn refusal(directory: &Path) -> String {
    load(directory, &Device::flex()).expect_err("refused").to_string()
}

fn change(directory: &Path, fields: Value) {
    let path = directory.join("config.json");
    let mut map: Value = serde_json::from_str(&fs_err::read_to_string(&path).expect("a file")).expect("JSON");
    let (Some(map_of), Value::Object(fields)) = (map.as_object_mut(), fields) else { panic!("fields") };
    map_of.extend(fields);
    fs_err::write(path, map.to_string()).expect("written");
}

fn names(directory: &Path) -> Vec<String> {
    let weights = Weights::open(directory).expect("weights");
    weights.names().map(str::to_owned).collect()
}

fn index(directory: &Path, shard: &str) {
    let map: serde_json::Map<String, Value> =
        names(directory).into_iter().map(|name| (name, json!(shard))).collect();
    let text = json!({ "metadata": {}, "weight_map": map }).to_string();
    fs_err::write(directory.join("model.safetensors.index.json"), text).expect("written");
}

/// Adds tensors to `model.safetensors`.
fn add(directory: &Path, more: Vec<Named>) {
    let path = directory.join("model.safetensors");
    let weights = Weights::open(directory).expect("weights");
    let config = Config::read(directory).expect("a config");
    let mut tensors = more;
    let mut decoder = load(directory, &Device::flex()).expect("a model");
    let _ = config;
    decoder.visit(&mut |name, slot| {
        let values = weights.read(name, &slot.shape()).expect("a tensor");
        tensors.push(Named { name: name.to_owned(), shape: slot.shape(), values });
    });
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    fs_err::write(path, serialize(&tensors, Float::F32).expect("bytes")).expect("written");
}

#[test]
fn a_single_file_goes_before_an_index_beside_it() {
    let (own, old) = (directory(1), directory(2));
    let want = scores(own.path());
    index(own.path(), "model-00001-of-00001.safetensors");
    assert_eq!(scores(own.path()), want, "the shards are not even there");
    fs_err::copy(old.path().join("model.safetensors"), own.path().join("model-00001-of-00001.safetensors"))
        .expect("copied");
    assert_eq!(scores(own.path()), want);
    // Without it the index counts.
    fs_err::remove_file(own.path().join("model.safetensors")).expect("removed");
    assert_eq!(scores(own.path()), scores(old.path()));
    fs_err::remove_file(own.path().join("model-00001-of-00001.safetensors")).expect("removed");
    let error = refusal(own.path());
    assert!(error.contains("model-00001-of-00001.safetensors") && error.contains("in part"), "{error}");
}

#[test]
fn an_index_names_files_of_its_folder_only() {
    let own = directory(1);
    for shard in ["../model.safetensors", "/etc/passwd", "..", "a\\b", ""] {
        index(own.path(), shard);
        let single = own.path().join("model.safetensors");
        fs_err::rename(&single, own.path().join("aside")).expect("renamed");
        let error = refusal(own.path());
        assert!(error.contains("is not a file name"), "{error}");
        fs_err::rename(own.path().join("aside"), single).expect("renamed");
    }
}

#[test]
fn a_pickle_is_refused_by_its_name() {
    let own = directory(1);
    fs_err::rename(own.path().join("model.safetensors"), own.path().join("pytorch_model.bin"))
        .expect("renamed");
    let error = refusal(own.path());
    assert!(error.contains("pytorch_model.bin") && error.contains("safetensors"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_pipe_or_a_folder_in_the_place_of_a_file_is_refused_and_not_waited_for() {
    for name in ["config.json", "model.safetensors"] {
        let own = directory(1);
        let path = own.path().join(name);
        fs_err::remove_file(&path).expect("removed");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        let error = refusal(own.path());
        assert!(error.contains(name) && error.contains("no regular file"), "{error}");
        fs_err::remove_file(&path).expect("removed");
        fs_err::create_dir(&path).expect("a folder");
        assert!(refusal(own.path()).contains("no regular file"));
    }
}

#[test]
fn absurd_numbers_of_layers_are_refused_before_anything_is_made() {
    let own = directory(1);
    for layers in [u64::MAX >> 1, 4_000_000_000, 10_001] {
        change(own.path(), json!({ "num_hidden_layers": layers }));
        let error = refusal(own.path());
        assert!(error.contains("num_hidden_layers") && error.contains("10000"), "{error}");
    }
}

#[test]
fn tensors_that_nobody_reads_are_said_by_name_and_buffers_are_not() {
    let own = directory(1);
    let tensor = |name: &str| Named { name: name.into(), shape: vec![1], values: vec![1.0] };
    add(own.path(), vec![tensor("model.layers.0.self_attn.rotary_emb.inv_freq")]);
    assert_eq!(load(own.path(), &Device::flex()).expect("a model").config.notes, [""; 0]);
    add(own.path(), vec![tensor("v_head.summary.weight"), tensor("v_head.summary.bias")]);
    let notes = load(own.path(), &Device::flex()).expect("a model").config.notes;
    assert!(matches!(&notes[..], [note] if note.contains("v_head.summary.bias and 1 more")), "{notes:?}");
}

#[test]
fn a_stored_head_that_is_not_the_embedding_is_used_and_said() {
    let own = directory(1);
    let tied = scores(own.path());
    let width = Config::read(own.path()).expect("a config").hidden_size;
    let head = |values: Vec<f32>| Named { name: "lm_head.weight".into(), shape: vec![30, width], values };
    let weights = Weights::open(own.path()).expect("weights");
    let embedding = weights.read("model.embed_tokens.weight", &[30, width]).expect("the embedding");
    let whole = fs_err::read(own.path().join("model.safetensors")).expect("a file");
    add(own.path(), vec![head(embedding.clone())]);
    let same = load(own.path(), &Device::flex()).expect("a model");
    assert_eq!((same.config.notes.len(), scores(own.path())), (0, tied.clone()));
    fs_err::write(own.path().join("model.safetensors"), whole).expect("written");
    add(own.path(), vec![head(embedding.iter().map(|value| -value).collect())]);
    let other = load(own.path(), &Device::flex()).expect("a model");
    assert!(
        other.config.notes[0].contains("tie_word_embeddings")
            && other.config.notes[0].contains("lm_head.weight")
    );
    assert_ne!(scores(own.path()), tied);
}

#[test]
fn quantized_weights_are_refused_by_their_method() {
    let own = directory(1);
    change(
        own.path(),
        json!({ "quantization_config": { "quant_method": "bitsandbytes", "load_in_4bit": true } }),
    );
    let error = refusal(own.path());
    assert!(
        error.contains("quantization_config = bitsandbytes") && error.contains("quantized from"),
        "{error}"
    );
    // Also where config.json says nothing of it.
    change(own.path(), json!({ "quantization_config": null }));
    let name = "model.layers.0.self_attn.q_proj";
    add(own.path(), vec![Named { name: format!("{name}.weight_scale"), shape: vec![1], values: vec![1.0] }]);
    change(own.path(), json!({ "num_attention_heads": 2, "head_dim": 8 }));
    let error = refusal(own.path());
    assert!(error.contains("stored quantized"), "{error}");
}

#[test]
fn models_for_other_tasks_are_refused_by_their_class() {
    let own = directory(1);
    for class in ["LlamaForTokenClassification", "LlamaForQuestionAnswering", "LlamaForRewardModel"] {
        change(own.path(), json!({ "architectures": [class] }));
        let error = refusal(own.path());
        assert!(error.contains(class) && error.contains("LlamaForSequenceClassification"), "{error}");
    }
}
