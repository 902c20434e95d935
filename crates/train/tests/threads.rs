//! What a run computes does not depend on how many threads there are, nor on what they happen to do at the same time.

use std::path::Path;
use std::process::Command;

#[test]
fn weights_of_an_on_policy_run_are_the_same_bits_with_any_number_of_threads() {
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes/rl.toml");
    let folder = tempfile::tempdir().expect("a folder");
    let weights = |threads: usize, seed: u64| {
        let out = folder.path().join(format!("{threads}-{seed}"));
        let set = |key: &str, value: String| ["--set".to_owned(), format!("{key}={value}")];
        let run = Command::new(env!("CARGO_BIN_EXE_train"))
            .arg(&recipe)
            .args(set("run.out", format!("{:?}", out.display().to_string())))
            .args(set("run.seed", seed.to_string()))
            .args(set("optim.steps", "3".into()))
            .args(set("optim.warmup_steps", "0".into()))
            .env("RAYON_NUM_THREADS", threads.to_string())
            .output()
            .expect("the program");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        fs_err::read(out.join("rl/latest/model.safetensors")).expect("the last checkpoint")
    };
    let one = weights(1, 0);
    assert!(one == weights(2, 0) && one == weights(5, 0));
    assert!(one != weights(2, 1), "another seed draws other answers");
}
