//! The command line of the program, where nothing is trained.

use std::path::Path;
use std::process::{Command, Output};

fn train(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_train")).current_dir(folder).args(arguments).output().expect("it runs")
}

fn texts(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn methods_of_test_time_are_sent_to_the_other_program() {
    let folder = tempfile::tempdir().expect("a folder");
    fs_err::write(folder.path().join("case.toml"), "[data]\nlimit = 1\n[method.qalign]\n").expect("room");
    let (code, _, err) = texts(&train(folder.path(), &["case.toml", "--dry-run"]));
    assert!(code == Some(2) && err.contains("`qalign` is a method of the program `inference`"), "{err}");
}

#[test]
fn schemas_and_the_version_need_no_recipe() {
    let folder = tempfile::tempdir().expect("a folder");
    let (alone, with) =
        (train(folder.path(), &["--pipeline"]), train(folder.path(), &["--schema", "--pipeline"]));
    let (code, out, err) = texts(&alone);
    assert!(code == Some(0) && out.contains("\"stages\""), "{err}");
    assert_eq!(alone.stdout, with.stdout);
    let (_, version, _) = texts(&train(folder.path(), &["--version"]));
    assert!(version.starts_with("train ") && version.contains("commit ") && version.contains("features "));
    let (code, _, _) = texts(&train(folder.path(), &["--no-such-switch"]));
    assert_eq!(code, Some(2));
}

#[test]
fn right_answers_that_cannot_be_compared_with_are_refused_by_the_dry_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let rows = "{\"prompt\": \"1 + 1?\", \"answer\": 2}\n{\"prompt\": \"1 - 1?\", \"answer\": \"p - q\"}\n";
    fs_err::write(folder.path().join("rows.jsonl"), rows).expect("room");
    let methods = [
        "[reward.answer]\n[method.pool]\nsamples = 2\n",
        "[method.compare]\nsamples = 2\nn = [1, 2]\n[method.compare.gold.answer]\n[[method.compare.policies]]\nname = \"base\"\n",
    ];
    for method in methods {
        let recipe = format!("[data]\npath = \"rows.jsonl\"\n{method}");
        fs_err::write(folder.path().join("case.toml"), recipe).expect("room");
        for arguments in [&["case.toml", "--dry-run"][..], &["case.toml"]] {
            let (code, _, err) = texts(&train(folder.path(), arguments));
            assert_eq!(code, Some(1), "{err}");
            assert!(err.contains("rows.jsonl:2: reward answer: column `answer` is \"p - q\""), "{err}");
        }
    }
}
