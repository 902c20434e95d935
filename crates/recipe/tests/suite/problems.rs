//! What a user is told about a recipe with mistakes.

use crate::sample::{Method, Sample, VALID, load, problems, with};
use recipe::{Place, ProblemKind, Source};

#[test]
fn a_recipe_with_mistakes_of_every_kind_reports_them_all_at_once() {
    let text = "\
model = \"hf://nobody\"
colour = 3

[run]
name = \"a/b\"

[optim]
lerning_rate = 1e-3
batch_size = \"many\"
beta1 = 1.5
schedule = \"cosin\"
steps = 10
warmup_steps = 10

[method.genarm]
bta = 2
";
    assert_eq!(
        problems(text, &["log.samples=-1"]),
        "\
r.toml:1:9: `model`: the model name `hf://nobody` does not name a repository as org/name
  hint: write hf://org/name or hf://org/name@revision
r.toml:2:1: unknown key `colour` at the top level
  hint: valid keys: run, model, data, optim, lora, save, log, sampling, method, weights
r.toml:5:8: `run.name`: the name \"a/b\" holds '/'
  hint: use letters, digits, `.`, `_` and `-`
r.toml:8:1: unknown key `lerning_rate` in [optim]
  hint: did you mean `learning_rate`?
r.toml:9:14: `optim.batch_size`: expected an integer, found the string \"many\"
r.toml:10:9: `optim.beta1` = 1.5: must be less than 1
r.toml:11:12: `optim.schedule`: unknown value `cosin`
  hint: did you mean `cosine`? (one of: constant, linear, cosine)
r.toml:13:16: `optim.warmup_steps`: 10 warm-up steps do not end within 10 steps
  hint: at most 9
r.toml:16:1: unknown key `bta` in [method.genarm]
  hint: did you mean `beta`? (valid keys: beta, arms, grid, short)
--set log.samples=-1: `log.samples` = -1: must be at least 0"
    );
}

#[test]
fn a_malformed_required_value_does_not_hide_the_rules_of_others_nor_report_itself_twice() {
    // `model` is taken out as malformed, and then missing: that is no news.
    assert_eq!(
        problems("model = ''\nmethod = 'greedy'\noptim.steps = 1\nrun.device = 'gpu'\n", &[]),
        "\
r.toml:1:9: `model`: the model name `` is empty
  hint: write `tiny`, a directory, hf://org/name or stage:NAME
r.toml:4:14: `run.device`: unknown device `gpu`
  hint: did you mean `cpu`? (one of: auto, cpu, cuda, wgpu, vulkan, metal, rocm)"
    );
}

#[test]
fn a_temperature_that_logits_cannot_be_divided_by_is_refused() {
    assert_eq!(
        problems("model = 'tiny'\nmethod = 'greedy'\noptim.steps = 1\nsampling.temperature = 1e-9\n", &[]),
        "\
r.toml:4:24: `sampling.temperature`: 1e-9 is below 1e-6: logits divided by it may be infinite
  hint: 0 takes the likeliest token"
    );
}

#[test]
fn a_typo_of_a_key_does_not_break_the_rule_that_needs_it() {
    assert_eq!(
        problems("model = 'tiny'\nmethod = 'greedy'\n[optim]\nstep = 10\n", &[]),
        "r.toml:4:1: unknown key `step` in [optim]\n  hint: did you mean `steps`?"
    );
}

#[test]
fn variants_are_checked_by_name_and_number() {
    let head = "model = 'tiny'\noptim.steps = 1\n";
    let said = |tail: &str| problems(&format!("{head}{tail}"), &[]);
    let all = "(one of: genarm, vbon, greedy)";
    assert_eq!(
        said("[method.genram]\nbeta = 1\n"),
        format!("r.toml:3:9: unknown name `genram` in [method]\n  hint: did you mean `genarm`? {all}")
    );
    assert_eq!(
        said("[method.genarm]\n[method.vbon]\nn = 70000\n"),
        "r.toml:4:9: [method] takes one table, found 2: `genarm`, `vbon`\n  \
         hint: keep [method.genarm] or [method.vbon]\n\
         r.toml:5:5: `method.vbon.n` = 70000: must be at most 65535"
    );
    assert_eq!(
        said("[method]\n"),
        "r.toml:3:2: [method] is empty: it takes one table that names the variant\n  \
         hint: write [method.NAME] with one of: genarm, vbon, greedy"
    );
    assert_eq!(
        said("method = 'greddy'\n"),
        format!("r.toml:3:10: `method`: unknown value `greddy`\n  hint: did you mean `greedy`? {all}")
    );
    assert_eq!(
        said("method = 'vbon'\n"),
        "r.toml:3:10: `method`: `vbon` is a table, not a string\n  hint: write [method.vbon]"
    );
    assert_eq!(
        said("method = 3\n"),
        "r.toml:3:10: `method`: expected a table or a string, found the integer 3"
    );
    assert_eq!(
        said(""),
        "r.toml:1:1: missing key `method` at the top level\n  hint: one of: genarm, vbon, greedy"
    );
    assert_eq!(said("[method.greedy]\nn = 1\n"), "r.toml:3:9: [method.greedy] takes no settings");
    // A variant without settings is a name or an empty table; one with defaults is an empty table.
    assert_eq!(load(&format!("{head}method = 'greedy'"), &[]).method, Method::Greedy);
    assert_eq!(load(&format!("{head}[method.greedy]"), &[]).method, Method::Greedy);
    assert_eq!(load(&format!("{head}[method.vbon]"), &[]).method, Method::Vbon { n: 4 });
}

#[test]
fn arrays_are_checked_to_their_depth() {
    let text = "\
model = 'tiny'
optim.steps = 1
lora.targets = []
[method.genarm]
grid = [
  [1, 2],
  [3, 256, 'x'],
  4,
]
[[method.genarm.arms]]
name = 'a'
model = 'tiny'
weight = 0
[[method.genarm.arms]]
name = 'b'
wieght = 1
";
    assert_eq!(
        problems(text, &[]),
        "\
r.toml:3:16: `lora.targets`: has 0, must have at least 1 item
r.toml:7:7: `method.genarm.grid.1.1` = 256: must be at most 255
r.toml:7:12: `method.genarm.grid.1.2`: expected an integer, found the string \"x\"
r.toml:8:3: `method.genarm.grid.2`: expected an array, found the integer 4
r.toml:13:10: `method.genarm.arms.0.weight`: an arm without weight does nothing
  hint: remove it
r.toml:14:1: missing key `model` in [method.genarm.arms.1]
  hint: it takes a string
r.toml:16:1: unknown key `wieght` in [method.genarm.arms.1]
  hint: did you mean `weight`? (valid keys: name, model, weight)"
    );
}

#[test]
fn integers_are_floats_and_floats_are_not_integers() {
    let sample = load(&with("optim.learning_rate = 1\nweights = { a = 2 }\n"), &[]);
    assert_eq!((sample.optim.learning_rate, sample.weights["a"]), (1.0, 2.0));
    assert_eq!(
        problems(&with("optim.batch_size = 1e2\n"), &[]),
        "r.toml:4:20: `optim.batch_size`: expected an integer, found the float 100.0\n  hint: write 100"
    );
    assert_eq!(
        problems(&with("run.seed = '7'\nrun.name = 7\n"), &[]),
        "r.toml:4:12: `run.seed`: expected an integer, found the string \"7\"\n  hint: write it without quotes\n\
         r.toml:5:12: `run.name`: expected a string, found the integer 7\n  hint: write it in quotes"
    );
}

#[test]
fn numbers_have_limits_at_both_ends_of_their_type() {
    let digits = "9".repeat(60);
    assert_eq!(
        problems(
            &with(&format!(
                "run.seed = -1\noptim.learning_rate = nan\noptim.eps = 0\nlog.samples = {digits}\n"
            )),
            &[]
        ),
        format!(
            "r.toml:4:12: `run.seed` = -1: must be at least 0\n\
             r.toml:5:23: `optim.learning_rate` = NaN: must be a finite number\n\
             r.toml:6:13: `optim.eps` = 0: must be greater than 0\n\
             r.toml:7:15: `log.samples` = {}: must be at most {}",
            i128::MAX,
            1 << 20
        )
    );
    assert_eq!(load(&with(&format!("run.seed = {}", u64::MAX)), &[]).run.seed, u64::MAX);
    assert_eq!(load(&with("run.seed = 0xff_ff"), &[]).run.seed, 0xffff);
    assert_eq!(load(&with("optim.learning_rate = 1_0.5e-1"), &[]).optim.learning_rate, 1.05);
}

#[test]
fn a_key_in_the_wrong_table_is_told_its_place() {
    assert_eq!(
        problems(&with("[run]\nlearning_rate = 1\nsave = 2\n"), &[]),
        "r.toml:5:1: unknown key `learning_rate` in [run]\n  hint: `learning_rate` belongs in [optim]\n\
         r.toml:6:1: unknown key `save` in [run]\n  hint: `save` belongs at the top level"
    );
}

#[test]
fn columns_count_characters_whatever_the_line_ends() {
    let text = with("weights = { \"é漢字\" = 'x' }\nweights2 = 1\n");
    let expected = "\
r.toml:4:21: `weights.\"é漢字\"`: expected a number, found the string \"x\"
r.toml:5:1: unknown key `weights2` at the top level
  hint: did you mean `weights`?";
    assert_eq!(problems(&text, &[]), expected);
    assert_eq!(problems(&text.replace('\n', "\r\n"), &[]), expected);
    assert_eq!(problems(&format!("\u{feff}{text}"), &[]), expected);
}

#[test]
fn syntax_errors_are_one_problem_per_line() {
    assert_eq!(
        problems("model = \n[run\nname == 'x'\n", &[]).lines().map(position).collect::<Vec<_>>(),
        ["r.toml:1:9", "r.toml:2:5", "r.toml:3:7"]
    );
    // Nothing else can be said of a text that is not TOML.
    let errors = Source::from_text("r.toml", "oops").set("run.seed=x").load::<Sample>().unwrap_err();
    assert_eq!(errors.problems().len(), 1, "{errors}");
    assert_eq!(errors.problems()[0].kind, ProblemKind::Syntax);
}

/// `FILE:LINE:COLUMN` of a printed problem.
fn position(line: &str) -> String {
    line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":")
}

#[test]
fn a_duplicate_key_does_not_hide_other_problems() {
    assert_eq!(
        problems(&with("[run]\nseed = 1\nseed = 2\nsede = 3\n"), &[]),
        "r.toml:6:1: duplicate key\n\
         r.toml:7:1: unknown key `sede` in [run]\n  \
         hint: did you mean `seed`? (valid keys: name, seed, out, device, threads)"
    );
}

#[test]
fn files_that_cannot_be_read_are_problems_too() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("absent.toml");
    let errors = Source::read(&missing).unwrap_err();
    assert_eq!(errors.problems()[0].place, Place::File { file: missing.display().to_string() });
    assert!(errors.to_string().starts_with(&format!("{}: cannot read the recipe: ", missing.display())));

    let binary = folder.path().join("binary.toml");
    fs_err::write(&binary, b"a = 1\nb = \"\xff\"\n").unwrap();
    let errors = Source::read(&binary).unwrap_err();
    assert_eq!(
        errors.to_string(),
        format!("{}:2:6: the text is not UTF-8\n  hint: save the file as UTF-8", binary.display())
    );
}

#[test]
fn a_rule_on_a_default_says_so() {
    assert_eq!(
        problems("model = 'tiny'\nmethod = 'greedy'\n", &[]),
        "r.toml:(default): `optim.steps`: the length of the training is not given\n  hint: set `steps` or `epochs`"
    );
}

#[test]
fn problems_are_readable_by_programs() {
    let errors =
        Source::from_text("r.toml", with("colour = 1")).set("run.seed=x").load::<Sample>().unwrap_err();
    let json = errors.to_json();
    assert_eq!(
        json[0]["place"],
        serde_json::json!({ "kind": "at", "file": "r.toml", "line": 4, "column": 1 })
    );
    assert_eq!(json[0]["kind"], "unknown_key");
    assert_eq!(json[0]["key"], "colour");
    assert_eq!(json[1]["place"], serde_json::json!({ "kind": "override", "text": "run.seed=x" }));
    assert_eq!(json[1]["message"], errors.problems()[1].message);
}

#[test]
fn a_valid_recipe_loads_with_its_values() {
    let sample = load(VALID, &[]);
    assert_eq!(sample.optim.learning_rate, 5e-7);
    assert_eq!(sample.run.seed, u64::MAX);
    assert_eq!(sample.lora.map(|lora| lora.r), Some(16));
    assert_eq!(sample.weights["é"], -0.5);
    let Method::Genarm(genarm) = sample.method else { panic!("another method") };
    assert_eq!(genarm.grid, [vec![1, 2], vec![3]]);
    assert_eq!(genarm.arms[1].weight, Some(0.5));
    let loaded = Source::from_text("r.toml", VALID).load::<Sample>().unwrap();
    assert_eq!(loaded.stage_references(), ["arm"]);
}
