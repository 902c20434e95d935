//! What Plumb saves opens in transformers and peft with equal outputs. Skips visibly where Python does not have them;
//! `PLUMB_PYTHON` names the interpreter (default: `python3`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use burn::tensor::Device;
use generate::{Purpose, Step, Stream};
use model::files::{AdapterConfig, adapter_files, attach, load, load_adapter, load_for_score, model_files};
use model::weights::Float;
use model::{Config, Decoder, Head, Policy};
use serde_json::{Value, json};

/// Outputs after the last token of each row, by `open.py`; `None`, with a visible line, where Python cannot.
fn theirs(arguments: &[&Path], kind: &str, rows: &[Vec<u32>]) -> Option<Vec<Vec<f64>>> {
    let python = std::env::var("PLUMB_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/open.py");
    let mut command = Command::new(&python);
    command.arg(script).arg(kind).args(arguments);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: no {python} here (set PLUMB_PYTHON)");
        return None;
    };
    let ids = serde_json::to_vec(rows).expect("numbers");
    // A script that ends early closes its input; what it has to say is in its exit code.
    let _ = child.stdin.take().expect("piped").write_all(&ids);
    let output = child.wait_with_output().expect("it ran");
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(3) {
        eprintln!("skipped: {python} lacks a library: {}", said.trim());
        return None;
    }
    assert!(output.status.success(), "{said}");
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

fn ours(decoder: &Decoder, rows: &[Vec<u32>]) -> Vec<Vec<f32>> {
    let policy = Policy::new("ours", decoder);
    let mut session = policy.session();
    let open: Vec<_> = rows.iter().map(|_| session.open()).collect();
    let batch: Vec<_> = open.iter().copied().zip(rows.iter().map(Vec::as_slice)).collect();
    let given = session.extend(&batch).expect("room");
    (0..rows.len()).map(|row| given.row(row).to_vec()).collect()
}

fn saved(files: Vec<(String, Vec<u8>)>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in files {
        fs_err::write(folder.path().join(name), bytes).expect("written");
    }
    folder
}

fn assert_equal(what: &str, ours: &[Vec<f32>], theirs: &[Vec<f64>], limit: f64) {
    assert_eq!(ours.len(), theirs.len());
    for (row, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        assert_eq!(ours.len(), theirs.len(), "{what}, row {row}");
        for (id, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
            let difference = (f64::from(*ours) - theirs).abs();
            assert!(difference < limit, "{what}, row {row}, output {id}: {ours} against {theirs}");
        }
    }
}

fn rows(vocab: u64) -> Vec<Vec<u32>> {
    let mut stream = Stream::new(11, Purpose::Sample, 0, 0);
    [1, 5, 40].map(|n| (0..n).map(|_| (stream.bits() % vocab) as u32).collect()).to_vec()
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../checkpoints/tiny")
}

#[test]
fn models_open_in_transformers_with_equal_logits() {
    for directory in [Some(shipped()), testkit::smollm2()].into_iter().flatten() {
        a_model_opens_with_equal_logits(&directory);
    }
}

#[test]
fn families_open_in_transformers_with_equal_logits() {
    for name in ["qwen3", "gemma2", "mistral_swa", "gpt_neox", "gpt2", "gpt2_hubkeys"] {
        let Some(directory) = testkit::shared(&format!("fixtures/models/{name}")) else { return };
        a_model_opens_with_equal_logits(&directory);
    }
}

fn a_model_opens_with_equal_logits(directory: &Path) {
    let decoder = load(directory, &Device::flex()).expect("a model");
    let rows = rows(decoder.config.vocab_size as u64);
    let folder = saved(model_files(&decoder, Float::F32).expect("files"));
    let Some(theirs) = theirs(&[folder.path()], "causal", &rows) else { return };
    assert_equal(&directory.display().to_string(), &ours(&decoder, &rows), &theirs, 1e-3);
}

/// What fields of a GPT change, beside the fixtures: weights that are all drawn, saved by us and opened there.
#[test]
fn variants_of_a_gpt_open_in_transformers_with_equal_logits() {
    for fields in [
        json!({ "model_type": "gpt_neox", "use_parallel_residual": false, "rotary_pct": 1.0 }),
        json!({ "model_type": "gpt_neox", "attention_bias": false, "hidden_act": "gelu_fast" }),
        json!({ "model_type": "gpt_neox", "tie_word_embeddings": true, "rotary_emb_base": 100 }),
        json!({
            "model_type": "gpt_neox", "rotary_pct": 0.5, "layer_norm_eps": 0.1, "hidden_act": "gelu_new",
            "rope_scaling": { "type": "linear", "factor": 2.0 },
        }),
        json!({ "model_type": "gpt2", "scale_attn_weights": false, "n_inner": 40, "activation_function": "gelu" }),
        json!({
            "model_type": "gpt2", "scale_attn_by_inverse_layer_idx": true, "tie_word_embeddings": false,
            "layer_norm_epsilon": 0.1,
        }),
    ] {
        let mut map = json!({
            "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 4, "max_position_embeddings": 64,
        });
        let (Value::Object(map), Value::Object(own)) = (&mut map, &fields) else { panic!("fields") };
        map.extend(own.clone());
        let config = Config::from_json(map.clone(), Path::new("config.json")).expect("a config");
        let config = config.with_head(Head::Language, None);
        let mut stream = Stream::new(7, Purpose::Init, 0, 0);
        let mut draw = |_: &str, shape: &[usize]| {
            Ok::<_, String>((0..shape.iter().product()).map(|_| 0.4 * stream.normal() as f32).collect())
        };
        let decoder = Decoder::build(config, &Device::flex(), &mut draw).expect("drawn");
        let rows = rows(60);
        let folder = saved(model_files(&decoder, Float::F32).expect("files"));
        let Some(theirs) = theirs(&[folder.path()], "causal", &rows) else { return };
        assert_equal(&fields.to_string(), &ours(&decoder, &rows), &theirs, 1e-4);
    }
}

#[test]
fn reward_models_open_as_for_sequence_classification() {
    let family = |name: &str| testkit::shared(&format!("fixtures/models/{name}"));
    for base in [Some(shipped()), family("gpt_neox"), family("gpt2")].into_iter().flatten() {
        let mut stream = Stream::new(2, Purpose::Init, 0, 0);
        let mut draw = || 0.1 * stream.normal();
        let decoder = load_for_score(&base, Head::Score, Some(0), &Device::flex(), &mut draw);
        let decoder = decoder.expect("a reward model");
        let rows = rows(decoder.config.vocab_size as u64);
        let folder = saved(model_files(&decoder, Float::F32).expect("files"));
        let Some(theirs) = theirs(&[folder.path()], "score", &rows) else { return };
        assert_equal("reward head", &ours(&decoder, &rows), &theirs, 1e-3);
    }
}

#[test]
fn adapters_of_families_open_in_peft() {
    for (family, targets) in [
        ("qwen3", ["q_proj", "o_proj"]),
        ("gpt_neox", ["query_key_value", "dense_4h_to_h"]),
        ("gpt2", ["c_attn", "c_proj"]),
    ] {
        let Some(base) = testkit::shared(&format!("fixtures/models/{family}")) else { return };
        adapters_open_in_peft(&base, &targets);
    }
}

fn adapters_open_in_peft(base: &Path, targets: &[&str]) {
    let mut stream = Stream::new(4, Purpose::Init, 0, 0);
    let mut decoder = load(base, &Device::flex()).expect("a model");
    let rows = rows(decoder.config.vocab_size as u64);
    let plain = ours(&decoder, &rows);
    let config = AdapterConfig {
        r: 3,
        alpha: 6.0,
        use_rslora: false,
        targets: targets.iter().map(|target| (*target).to_owned()).collect(),
        base: base.display().to_string(),
        bilinear: None,
    };
    attach(&mut decoder, &config, &mut || stream.uniform()).expect("targets");
    decoder.each_linear(&mut |_, linear| {
        if let Some(lora) = &mut linear.lora {
            lora.b = lora.a.clone().narrow(1, 0, 1).transpose().expand(lora.b.dims()) * 0.1;
        }
    });
    assert_ne!(plain, ours(&decoder, &rows), "the adapter does something");
    let folder = saved(adapter_files(&decoder, &config).expect("files"));
    let Some(theirs) = theirs(&[folder.path(), base], "adapter", &rows) else { return };
    assert_equal(&format!("adapter of {targets:?}"), &ours(&decoder, &rows), &theirs, 1e-4);
}

#[test]
fn adapters_open_in_peft_with_equal_logits() {
    let Some(adapter) = testkit::shared("fixtures/adapters/llama_lora") else { return };
    let Some(base) = testkit::shared("fixtures/models/llama_gqa") else { return };
    let mut decoder = load(&base, &Device::flex()).expect("a model");
    let plain = ours(&decoder, &rows(decoder.config.vocab_size as u64));
    let config = load_adapter(&mut decoder, &adapter).expect("an adapter");
    let rows = rows(decoder.config.vocab_size as u64);
    let folder = saved(adapter_files(&decoder, &config).expect("files"));
    let Some(theirs) = theirs(&[folder.path(), &base], "adapter", &rows) else { return };
    assert_ne!(plain, ours(&decoder, &rows), "the adapter does something");
    assert_equal("adapter", &ours(&decoder, &rows), &theirs, 1e-4);
}
