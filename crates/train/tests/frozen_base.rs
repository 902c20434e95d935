//! Adapters beside a base in any number format: reference, policy and training are one law, bit for bit, and what is saved is read.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use recipe::Source;
use serde_json::Value;
use train::pipeline::{self, Before};
use train::recipe::Recipe;
use train::stage::Ended;

const DPO: &str = "[data]\npath = \"wordmath\"\nlimit = 12\nskip = 2000000\n[method.dpo]\n";

const RL: &str = "[data]\npath = \"wordmath\"\nlimit = 4\n[sampling]\nmax_new_tokens = 12\n\
    [reward.answer]\n[method.rl]\nrollouts = 2\n";

fn recipe(rest: &str, model: &str, steps: usize) -> Recipe {
    let text = format!(
        "[model]\nlora = {{ r = 2 }}\n{model}\n\
         [optim]\nsteps = {steps}\nbatch_size = 4\nlearning_rate = 0.01\n[log]\nevery_steps = 1\n{rest}"
    );
    let source = Source::from_text("recipe.toml", text).set_default("run.name", "test");
    source.load::<Recipe>().unwrap_or_else(|errors| panic!("{errors}")).value.clone()
}

/// Runs a method beside a base for some steps, and gives what was logged at each.
fn run(folder: &Path, rest: &str, dtype: &str, steps: usize) -> Vec<Value> {
    let recipe = recipe(rest, &format!("dtype = \"{dtype}\""), steps);
    let jobs = pipeline::jobs(folder, &[("test".into(), recipe)]);
    let ended = pipeline::run(&jobs, &folder.join("pools"), Before::default(), &AtomicBool::new(false));
    assert_eq!(ended.expect("it runs"), Ended::Done);
    let lines = fs_err::read_to_string(folder.join("test/metrics.jsonl")).expect("metrics");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn number(line: &Value, name: &str) -> f64 {
    line[name].as_f64().unwrap_or_else(|| panic!("{name} in {line}"))
}

#[test]
fn the_reference_is_the_law_that_training_begins_at() {
    for dtype in ["f32", "bf16", "int8"] {
        let folder = tempfile::tempdir().expect("a folder");
        let dpo = run(&folder.path().join("dpo"), DPO, dtype, 2);
        assert_eq!(number(&dpo[0], "rewards/chosen"), 0.0, "{dtype}");
        assert_eq!(number(&dpo[0], "loss"), std::f64::consts::LN_2, "{dtype}");
        assert_ne!(number(&dpo[1], "rewards/chosen"), 0.0, "{dtype}: it learns");
        let rl = run(&folder.path().join("rl"), RL, dtype, 1);
        let kl = number(&rl[0], "objective/kl");
        assert!(kl.abs() < 1e-5, "{dtype}: {kl}");
    }
}

#[test]
fn what_was_trained_beside_fewer_bits_is_an_adapter_of_the_same_base() {
    use burn::tensor::Device;
    use generate::Score;
    use inference::setup::{Places, load};
    use model::Policy;

    let scores = ["f32", "bf16", "int8"].map(|dtype| {
        let folder = tempfile::tempdir().expect("a folder");
        run(folder.path(), DPO, dtype, 3);
        let stages = [("dpo".to_owned(), folder.path().join("test"))].into();
        let places = Places { stages, ..Places::default() };
        let name = "stage:dpo".parse().expect("a name");
        let device: Device = model::DeviceName::cpu().open().expect("a CPU");
        let loaded = load(&places, &name, &device).expect("an adapter");
        let items: [(&[u32], &[u32]); 1] = [(&[5, 6, 7], &[8, 9, 10, 11])];
        let score = |policy: &Policy| policy.score(&items).expect("tokens of the vocabulary").concat();
        let base = score(&Policy::new("base", &loaded.decoder.without_adapter()));
        let adapted = score(&Policy::new("adapted", &loaded.decoder));
        assert_ne!(adapted, base, "{dtype}");
        adapted
    });
    let [exact, half, quarter] = scores;
    let distance = |other: &[f32]| exact.iter().zip(other).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(distance(&half) > 0.0 && distance(&half) < 0.1, "bf16: {}", distance(&half));
    assert!(distance(&quarter) < 0.5, "int8: {}", distance(&quarter));
}

#[test]
fn an_adapter_on_an_adapter_is_refused_before_its_samples_are_drawn() {
    let folder = tempfile::tempdir().expect("a folder");
    let (folder, pools) = (folder.path(), folder.path().join("pools"));
    let pooled = RL.replace("[method.rl]\nrollouts = 2\n", "[method.qrpo]\n");
    let stages = [
        ("first".to_owned(), recipe(DPO, "", 1)),
        ("second".to_owned(), recipe(&pooled, "path = \"stage:first\"", 1)),
    ];
    let jobs = pipeline::jobs(folder, &stages);
    let error =
        pipeline::run(&jobs, &pools, Before::default(), &AtomicBool::new(false)).expect_err("refused");
    assert!(error.to_string().contains("stage:first: it is an adapter itself"), "{error}");
    assert!(!pools.exists(), "a pool was drawn");
}
