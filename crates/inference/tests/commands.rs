//! The program as users call it, on the shipped model.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const PROMPT: &str =
    "Question: Ada had 12 apples. She bought 7 apples. How many apples did Ada have in the end?\nAnswer:";

struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn ran(given: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Ran { code: given.status.code(), out: text(given.stdout), err: text(given.stderr) }
}

fn program(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inference"));
    command.current_dir(folder).args(arguments);
    command
}

fn inference(folder: &Path, arguments: &[&str]) -> Ran {
    ran(program(folder, arguments).output().expect("the program runs"))
}

/// A folder with a recipe of greedy decoding and its rows.
fn case(rows: &[Value], more: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let rows: Vec<String> = rows.iter().map(ToString::to_string).collect();
    let rows = rows.join("\n");
    let recipe = format!(
        "[run]\nname = \"case\"\nout = \"out\"\n[model]\npath = \"tiny\"\n[data]\npath = \"rows.jsonl\"\n{more}"
    );
    fs_err::write(folder.path().join("rows.jsonl"), rows).expect("room");
    fs_err::write(folder.path().join("case.toml"), recipe).expect("room");
    folder
}

fn answers(folder: &Path) -> Vec<Value> {
    let text = fs_err::read_to_string(folder.join("out/case/answers.jsonl")).expect("answers");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

const GREEDY: &str = "[sampling]\nmax_new_tokens = 24\ntemperature = 0.0\n[method.greedy]\n";

#[test]
fn the_stop_text_and_what_came_with_it_is_not_part_of_the_completion() {
    let more = "[sampling]\nmax_new_tokens = 24\ntemperature = 0.0\nstop = [\"= 19 p\"]\n[reward.pattern]\npattern = \"19 p\"\n[method.greedy]\n";
    let folder = case(&[json!({ "prompt": PROMPT })], more);
    let run = inference(folder.path(), &["case.toml"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let row = answers(folder.path()).remove(0);
    assert_eq!(
        (&row["completion"], &row["reward"], &row["end"]),
        (&json!(" 12 + 7 "), &json!(0.0), &json!("stop"))
    );
    let prompt = ["--prompt", PROMPT, "--raw", "--method", "greedy"];
    let stop = ["--set", "sampling.stop=[\"= 19 p\"]"];
    let run = inference(folder.path(), &[&["generate", "--model", "tiny"], &prompt[..], &stop[..]].concat());
    assert_eq!(run.out.lines().next(), Some(" 12 + 7 "), "{}", run.err);
    let stream = inference(
        folder.path(),
        &[&["generate", "--model", "tiny", "--stream"], &prompt[..], &stop[..]].concat(),
    );
    for line in stream.out.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(!line["text"].as_str().expect("a text").contains('='), "{line}");
    }
}

#[test]
fn votes_and_candidates_are_in_the_rows_and_end_before_stop_strings() {
    let more = "[sampling]\nmax_new_tokens = 40\nstop = [\"\\n####\"]\n[reward.answer]\nform = \"last-number\"\n[method.majority]\nn = 6\n";
    let folder = case(&[json!({ "prompt": PROMPT, "answer": "19" })], more);
    let run = inference(folder.path(), &["case.toml"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let row = answers(folder.path()).remove(0);
    assert_eq!((&row["row"], &row["gold"]), (&json!(0), &json!("19")));
    let candidates = row["candidates"].as_array().expect("candidates");
    assert_eq!(candidates.len(), 6);
    for candidate in candidates {
        let text = candidate["text"].as_str().expect("a text");
        assert!(!text.contains("####"), "{text}");
        assert_eq!(candidate["answer"], json!(reward::Form::LastNumber.read(text)));
    }
    assert_eq!(row["vote"], row["answer"], "the voted answer is that of the completion");
    assert!(run.out.contains("accuracy") && run.out.contains('['), "{}", run.out);
}

#[test]
fn chains_list_their_states() {
    let more = "[sampling]\nmax_new_tokens = 24\n[reward.answer]\nform = \"last-number\"\n[method.qalign]\nsteps = 5\n";
    let folder = case(&[json!({ "prompt": PROMPT, "answer": "19" })], more);
    let run = inference(folder.path(), &["case.toml"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let row = answers(folder.path()).remove(0);
    let candidates = row["candidates"].as_array().expect("candidates");
    let weight: f64 = candidates.iter().map(|one| one["weight"].as_f64().expect("a weight")).sum();
    assert_eq!(weight, 6.0, "the first draw and five steps");
    assert!(candidates.iter().all(|one| one["text"].is_string() && one["reward"].is_number()));
}

#[test]
fn numbers_are_right_by_their_value() {
    let rows = [json!(19), json!(19.0), json!("19.00"), json!("so it is\n#### 19"), json!("20")];
    let rows: Vec<Value> = rows.into_iter().map(|gold| json!({ "prompt": PROMPT, "answer": gold })).collect();
    let folder = case(&rows, &format!("[reward.answer]\n{GREEDY}"));
    let run = inference(folder.path(), &["case.toml"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    let rewards: Vec<Value> = answers(folder.path()).iter().map(|row| row["reward"].clone()).collect();
    assert_eq!(rewards, [json!(1.0), json!(1.0), json!(1.0), json!(1.0), json!(0.0)]);
    assert!(run.out.contains("mean reward 0.8000 [0.3755, 0.9638] of 5 prompts: accuracy"), "{}", run.out);
}

#[test]
fn right_answers_that_the_form_cannot_compare_with_are_refused_before_anything_is_drawn() {
    for gold in [
        json!([19]),
        json!("\\frac{14}{19}"),
        json!("(3, 19)"),
        json!("19%"),
        json!("p - q"),
        json!("nineteen"),
    ] {
        let good = json!({ "prompt": PROMPT, "answer": 19 });
        let rows = [good.clone(), good, json!({ "prompt": PROMPT, "answer": gold })];
        for form in ["marked", "last-number"] {
            let folder = case(&rows, &format!("[reward.answer]\nform = \"{form}\"\n{GREEDY}"));
            for arguments in [&["case.toml"][..], &["case.toml", "--dry-run"]] {
                let run = inference(folder.path(), arguments);
                assert_eq!(run.code, Some(1), "{gold} {form}: {}", run.out);
                assert!(run.err.contains("rows.jsonl:3: reward answer: column `answer` is"), "{}", run.err);
                assert!(run.err.contains("hint: ") && !run.err.contains("final-answer"), "{}", run.err);
                assert!(!folder.path().join("out").exists());
            }
        }
    }
    let folder = case(&[json!({ "prompt": PROMPT })], &format!("[reward.answer]\n{GREEDY}"));
    let run = inference(folder.path(), &["case.toml", "--dry-run"]);
    assert!(run.err.contains("there is no column `answer`"), "{}", run.err);
}

#[test]
fn a_dry_run_shows_the_first_prompt_and_fails_where_the_run_would() {
    let folder = case(&[json!({ "prompt": PROMPT })], GREEDY);
    let plan = inference(folder.path(), &["case.toml", "--dry-run"]);
    assert_eq!(plan.code, Some(0), "{}", plan.err);
    assert!(plan.out.contains("1 prompts") && plan.out.contains("| Question: Ada"), "{}", plan.out);
    for (key, what) in [("model.path", "/no/such/model"), ("data.path", "none.jsonl")] {
        let set = format!("{key}={what}");
        let run = inference(folder.path(), &["case.toml", "--dry-run", "--set", &set]);
        assert_eq!(run.code, Some(1), "{set}: {}", run.out);
        assert!(run.err.contains(what), "{}", run.err);
    }
}

#[test]
fn what_the_model_s_generation_config_says_holds_where_the_recipe_is_silent() {
    let folder = case(&[json!({ "prompt": PROMPT })], "[sampling]\ntop_k = 7\n[method.sample]\n");
    let model = folder.path().join("model");
    fs_err::create_dir(&model).expect("room");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../checkpoints/tiny");
    for entry in fs_err::read_dir(tiny).expect("the shipped model") {
        let path = entry.expect("an entry").path();
        fs_err::copy(&path, model.join(path.file_name().expect("a name"))).expect("room");
    }
    let own = json!({
        "eos_token_id": 0, "do_sample": true, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": null,
        "repetition_penalty": 1.05, "no_repeat_ngram_size": 3, "max_new_tokens": 9,
    });
    fs_err::write(model.join("generation_config.json"), own.to_string()).expect("room");
    let run = inference(
        folder.path(),
        &["case.toml", "--set", "model.path=model", "--set", "sampling.temperature=1.0"],
    );
    assert_eq!(run.code, Some(0), "{}", run.err);
    let resolved = fs_err::read_to_string(folder.path().join("out/case/recipe.toml")).expect("a recipe");
    for line in [
        "temperature = 1.0",
        "top_k = 7",
        "top_p = 0.9",
        "repetition_penalty = 1.05",
        "no_repeat_ngram_size = 3",
        "max_new_tokens = 9",
    ] {
        assert!(resolved.contains(line), "{line}\n{resolved}");
    }
    let plan = inference(
        folder.path(),
        &["case.toml", "--dry-run", "--set", "model.path=model", "--set", "run.name=other"],
    );
    assert!(plan.out.contains("temperature = 0.6, top_p = 0.9"), "{}", plan.out);
    assert!(plan.out.contains("at most 9 new tokens"), "{}", plan.out);
}

#[test]
fn the_end_is_scored_only_where_it_is_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let row = json!({ "prompt": "Question: 3 + 4?\nAnswer:", "completion": " 7" });
    let scored = |end: &str| -> Value {
        let arguments = ["score", "--model", "tiny", "--input", "-", "--output", "-", "--end", end];
        let mut child = program(folder.path(), &arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program runs");
        writeln!(child.stdin.take().expect("a pipe"), "{row}").expect("it reads");
        let run = ran(child.wait_with_output().expect("it ends"));
        assert_eq!(run.code, Some(0), "{}", run.err);
        serde_json::from_str(run.out.trim()).expect("a line of JSON")
    };
    let (with, without) = (scored("true"), scored("false"));
    let logs = |row: &Value| row["token_log_probs"].as_array().expect("a list").clone();
    assert_eq!(logs(&with).len(), logs(&without).len() + 1);
    assert_eq!(logs(&with)[..logs(&without).len()], logs(&without));
    let sum: f64 = logs(&without).iter().map(|log| log.as_f64().expect("a number")).sum();
    assert!((without["log_prob"].as_f64().expect("a number") - sum).abs() < 1e-6);
}

#[test]
fn prompts_come_from_files_and_standard_input_too() {
    let folder = tempfile::tempdir().expect("a folder");
    fs_err::write(folder.path().join("prompt.txt"), format!("{PROMPT}\n")).expect("room");
    let greedy = ["generate", "--model", "tiny", "--method", "greedy", "--raw"];
    let first = |run: Ran| {
        assert_eq!(run.code, Some(0), "{}", run.err);
        run.out.lines().next().map(str::to_owned)
    };
    let of_line = first(inference(folder.path(), &[&greedy[..], &["--prompt", PROMPT]].concat()));
    let of_file = first(inference(folder.path(), &[&greedy[..], &["--prompt-file", "prompt.txt"]].concat()));
    let mut child = program(folder.path(), &[&greedy[..], &["--prompt-file", "-"]].concat())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program runs");
    writeln!(child.stdin.take().expect("a pipe"), "{PROMPT}").expect("it reads");
    let of_stream = first(ran(child.wait_with_output().expect("it ends")));
    assert!(of_line.is_some() && of_line == of_file && of_line == of_stream);
    let neither = inference(folder.path(), &greedy);
    assert_eq!(neither.code, Some(2));
}

#[test]
fn mistakes_of_the_command_line_are_told_apart_from_failures() {
    let folder = case(&[json!({ "prompt": PROMPT })], "[method.dpo]\n");
    let wrong = ["generate", "--model", "tiny", "--prompt", "x", "--method"];
    let run = inference(folder.path(), &[&wrong[..], &["best-of"]].concat());
    assert_eq!(run.code, Some(2));
    let run = inference(folder.path(), &[&wrong[..], &["dpo"]].concat());
    assert!(run.code == Some(2) && run.err.contains("`train`"), "{}", run.err);
    let run = inference(folder.path(), &["case.toml"]);
    assert!(
        run.code == Some(2) && run.err.contains("`dpo` is a method of the program `train`"),
        "{}",
        run.err
    );
    let system =
        inference(folder.path(), &["generate", "--model", "tiny", "--prompt", "x", "--system", "be brief"]);
    assert!(system.code == Some(2) && system.err.contains("no chat template"), "{}", system.err);
    let version = inference(folder.path(), &["--version"]).out;
    assert!(version.contains("commit ") && version.contains("features "), "{version}");
    fs_err::write(folder.path().join("csv.toml"), "[data]\npath = \"rows.unknown\"\n[method.sample]\n")
        .expect("room");
    let run = inference(folder.path(), &["csv.toml"]);
    assert!(!run.err.contains("wordmath has no end"), "{}", run.err);
}

#[test]
fn messages_can_be_left_out_or_read_by_programs() {
    let folder = case(&[json!({ "prompt": PROMPT })], GREEDY);
    let quiet = inference(folder.path(), &["case.toml", "--quiet"]);
    assert_eq!((quiet.code, quiet.err.as_str()), (Some(0), ""));
    let json = inference(folder.path(), &["case.toml", "--log", "json", "--set", "run.name=again"]);
    assert!(!json.err.is_empty());
    for line in json.err.lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(line["time"].is_number() && line["level"] == "info" && line["message"].is_string());
    }
}

#[test]
fn a_dry_run_says_that_finished_answers_are_of_another_recipe() {
    let folder = case(&[json!({ "prompt": PROMPT })], GREEDY);
    assert_eq!(inference(folder.path(), &["case.toml"]).code, Some(0));
    let other = ["case.toml", "--set", "sampling.max_new_tokens=23"];
    let run = inference(folder.path(), &other);
    let plan = inference(folder.path(), &[&other[..], &["--dry-run"]].concat());
    assert_eq!((run.code, plan.code), (Some(1), Some(1)), "{}", plan.out);
    assert_eq!(run.err, plan.err);
    assert_eq!(
        inference(folder.path(), &["case.toml", "--dry-run"]).code,
        Some(0),
        "the same recipe goes on"
    );
}
