//! Recipes of stages.

use crate::sample::{Genarm, Method, Sample, with};
use recipe::{Loaded, Pipeline, Source, fingerprint};

const FILE: &str = "\
model = 'tiny'
[run]
name = 'alone'
seed = 5
out = 'alone'
[optim]
steps = 50
[method.vbon]
n = 2
";

const PIPELINE: &str = "\
[run]
name = 'whole'
seed = 9

[[stages]]
name = 'pool'
recipe = 'pool.toml'
set = ['optim.steps=7', 'optim.batch_size=3']
optim.batch_size = 4

[[stages]]
name = 'arm'
model = 'stage:pool'
optim.epochs = 1
[stages.run]
seed = 1
[stages.method.genarm]
beta = 0.5
";

/// Loads a pipeline that lies in a folder beside other files. The error is its printed form, without the folder.
fn load(
    files: &[(&str, &str)],
    pipeline: &str,
    overrides: &[&str],
) -> Result<Loaded<Pipeline<Sample>>, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs_err::write(folder.path().join(name), text).unwrap();
    }
    let path = folder.path().join("p.toml");
    fs_err::write(&path, pipeline).unwrap();
    let source = Source::read(&path).unwrap().set_all(overrides);
    assert!(source.is_pipeline());
    source
        .load_pipeline::<Sample>()
        .map_err(|errors| errors.to_string().replace(&format!("{}/", folder.path().display()), ""))
}

fn problems(files: &[(&str, &str)], pipeline: &str, overrides: &[&str]) -> String {
    load(files, pipeline, overrides).expect_err("a pipeline with mistakes")
}

#[test]
fn layers_lie_over_each_other_in_the_order_told() {
    let loaded = load(&[("pool.toml", FILE)], PIPELINE, &[]).unwrap();
    let Pipeline { run, stages } = loaded.value;
    assert_eq!((run.name.as_str(), run.seed), ("whole", 9));
    let pool = &stages[0].recipe;
    // File, then the pipeline's run, then `set`, then the stage's own tables.
    assert_eq!((pool.run.name.as_str(), pool.run.seed), ("pool", 9));
    assert_eq!(pool.run.out.to_str(), Some("alone"));
    assert_eq!((pool.optim.steps, pool.optim.batch_size), (Some(7), 4));
    assert_eq!(pool.method, Method::Vbon { n: 2 });
    let arm = &stages[1].recipe;
    assert_eq!((arm.run.name.as_str(), arm.run.seed), ("arm", 1));
    assert_eq!(arm.optim.epochs, Some(1.0));
}

#[test]
fn the_command_line_has_the_last_word() {
    let overrides = ["stages.pool.optim.steps=8", "stages.1.model=tiny", "run.out=elsewhere"];
    let stages = load(&[("pool.toml", FILE)], PIPELINE, &overrides).unwrap().value.stages;
    assert_eq!(stages[0].recipe.optim.steps, Some(8));
    assert_eq!(stages[1].recipe.model.as_str(), "tiny");
    assert_eq!(stages[0].recipe.run.out.to_str(), Some("elsewhere"));
}

#[test]
fn problems_of_all_stages_are_reported_with_their_own_files_and_lines() {
    let file = FILE.replace("steps = 50", "stpes = 50").replace("n = 2", "n = -2");
    let pipeline = PIPELINE
        .replace("'stage:pool'", "'stage:pol'")
        .replace("optim.steps=7", "log.samples=x")
        .replace("seed = 9", "sed = 9")
        .replace("beta = 0.5", "beta = true");
    assert_eq!(
        problems(&[("pool.toml", &file)], &pipeline, &["stages.arm.optim.eps=0"]),
        "\
p.toml:3:1: unknown key `sed` in [run]
  hint: did you mean `seed`? (valid keys: name, seed, out, device, threads)
p.toml:8:8: stage `pool`: `log.samples`: expected an integer, found the string \"x\"
p.toml:13:9: stage `arm`: `model`: no earlier stage is called `pol`
  hint: did you mean `pool`? (earlier stages: pool)
p.toml:18:8: stage `arm`: `method.genarm.beta`: expected a number, found the boolean true
pool.toml:7:1: stage `pool`: unknown key `stpes` in [optim]
  hint: did you mean `steps`?
pool.toml:9:5: stage `pool`: `method.vbon.n` = -2: must be at least 0
--set stages.arm.optim.eps=0: stage `arm`: `optim.eps` = 0: must be greater than 0"
    );
}

#[test]
fn stages_have_names_and_files_that_exist() {
    let pipeline = "\
[[stages]]
name = 'a'
recipe = 'absent.toml'
[[stages]]
nam = 'a'
model = 'tiny'
method = 'greedy'
optim.steps = 1
[[stages]]
name = 'a'
model = 'stage:a'
optim.steps = 1
[[stages]]
name = 'b c'
recipe = 'p.toml'
[[stages]]
name = 'd'
recipe = 'broken.toml'
";
    let said = problems(&[("broken.toml", "x = ")], pipeline, &[]);
    let expected = [
        "broken.toml:1:5: stage `d`: ",
        "p.toml:3:10: stage `a`: `absent.toml`: cannot read the recipe: ",
        "  hint: `recipe` is relative to the file it is written in",
        "p.toml:4:1: missing key `name` of the stage",
        "  hint: it takes a string",
        "p.toml:5:1: unknown key `nam` of the stage",
        "  hint: did you mean `name`?",
        "p.toml:9:1: stage `a`: missing key `method` of the stage",
        "  hint: one of: genarm, vbon, greedy",
        "p.toml:10:8: stage `a`: two stages are called `a`",
        "  hint: rename one of them",
        "p.toml:14:8: stage `b c`: the name \"b c\" holds ' '",
        "  hint: use letters, digits, `.`, `_` and `-`",
        "p.toml:15:10: stage `b c`: `p.toml` is a pipeline itself",
        "  hint: list its stages here",
    ];
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "{line}\n  should start with\n{expected}");
    }
}

#[test]
fn the_outline_of_a_pipeline_is_checked() {
    assert_eq!(
        problems(&[], "stages = []\nstage = 1\n", &[]),
        "p.toml:1:10: `stages`: has 0, must have at least 1 item\n\
         p.toml:2:1: unknown key `stage` at the top level\n  hint: did you mean `stages`? (valid keys: run, stages, defaults, smoke)"
    );
    assert_eq!(
        problems(&[], "stages = [3]\n", &[]),
        "p.toml:1:11: `stages.0`: expected a table, found the integer 3"
    );
}

#[test]
fn defaults_lie_under_every_stage() {
    let with_defaults =
        format!("{PIPELINE}\n[defaults]\nmodel = 'given'\noptim = {{ eps = 1e-5, batch_size = 9 }}\n");
    let plain = load(&[("pool.toml", FILE)], PIPELINE, &[]).unwrap().value;
    let stages = load(&[("pool.toml", FILE)], &with_defaults, &[]).unwrap().value.stages;
    // What a stage, its file or its overrides say stays.
    assert_eq!(stages[0].recipe.model, plain.stages[0].recipe.model);
    assert_eq!(stages[1].recipe.model, plain.stages[1].recipe.model);
    assert_eq!(stages[0].recipe.optim.batch_size, 4);
    assert_eq!(stages[0].recipe.optim.steps, Some(7));
    // What they leave out is the defaults'.
    assert_eq!(stages[1].recipe.optim.batch_size, 9);
    assert_eq!((stages[0].recipe.optim.eps, stages[1].recipe.optim.eps), (1e-5, 1e-5));
    let set = load(&[("pool.toml", FILE)], &with_defaults, &["defaults.optim.eps=1e-4"]).unwrap().value;
    assert_eq!(set.stages[1].recipe.optim.eps, 1e-4);
    // A mistake in them is one mistake, where it stands.
    let wrong = with_defaults.replace("eps = 1e-5", "epz = 1e-5");
    let said = problems(&[("pool.toml", FILE)], &wrong, &[]);
    assert!(said.starts_with("p.toml:22:") && said.contains("unknown key `epz`"), "{said}");
    assert_eq!(said.matches("epz").count(), 1, "{said}");
}

#[test]
fn a_resolved_pipeline_needs_no_other_file_and_is_equal() {
    let loaded = load(&[("pool.toml", FILE)], PIPELINE, &[]).unwrap();
    let again = load(&[], &loaded.resolved().unwrap(), &[]).unwrap();
    assert_eq!(again.value, loaded.value);
    // A stage's own recipe stands alone as well.
    let pool = &loaded.value.stages[0].recipe;
    let text = recipe::resolved(pool).unwrap();
    assert_eq!(&Source::from_text("pool.toml", text).load::<Sample>().unwrap().value, pool);
}

#[test]
fn a_change_of_one_stage_changes_its_fingerprint_alone() {
    let prints = |overrides: &[&str]| -> Vec<String> {
        let stages = load(&[("pool.toml", FILE)], PIPELINE, overrides).unwrap().value.stages;
        stages.iter().map(|stage| fingerprint(stage).unwrap()).collect()
    };
    let before = prints(&[]);
    assert_eq!(before, prints(&[]));
    let after = prints(&["stages.arm.optim.eps=1e-6"]);
    assert_eq!(before[0], after[0]);
    assert_ne!(before[1], after[1]);
}

#[test]
fn an_ordinary_recipe_is_no_pipeline() {
    assert!(!Source::from_text("r.toml", with("")).is_pipeline());
}

const SWEEP: &str = "\
[run]
name = 'whole'

[[stages]]
name = 'arm'
model = 'tiny'
optim.steps = 1
[stages.method.genarm]
[stages.sweep]
method.genarm.beta = [0.5, 1]
optim.schedule = [{ label = 'flat', value = 'constant' }, 'cosine']
run.seed = [3, 4]

[[stages]]
name = 'last'
model = 'stage:arm-beta1-cosine-seed4'
optim.steps = 1
[stages.method.genarm]
beta = 1.0
";

#[test]
fn a_sweep_is_one_stage_for_each_combination_the_last_key_running_fastest() {
    let stages = load(&[], SWEEP, &[]).unwrap().value.stages;
    let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    assert_eq!(names[..3], ["arm-beta0.5-flat-seed3", "arm-beta0.5-flat-seed4", "arm-beta0.5-cosine-seed3"]);
    assert_eq!((names.len(), names[7], names[8]), (9, "arm-beta1-cosine-seed4", "last"));
    assert_eq!(stages[7].recipe.method, Method::Genarm(Genarm { beta: 1.0, ..Genarm::default() }));
    assert_eq!((stages[6].recipe.run.seed, stages[7].recipe.run.seed), (3, 4));
    assert_eq!(stages[7].recipe.run.name, "arm-beta1-cosine-seed4");
    assert_eq!(stages[8].recipe.model.as_str(), "stage:arm-beta1-cosine-seed4");
    // The command line reaches the sweep itself.
    let fewer = load(&[], SWEEP, &["stages.arm.sweep.run.seed=[9]", "stages.last.model=tiny"]).unwrap();
    assert_eq!(fewer.value.stages.len(), 5);
    assert_eq!(fewer.value.stages[0].recipe.run.seed, 9);
    // What is written out is plain stages.
    assert!(!fewer.resolved().unwrap().contains("sweep"));
}

#[test]
fn a_mistake_in_a_sweep_is_told_once_at_its_place() {
    let beta = SWEEP.replace("[0.5, 1]", "[0.5, true]");
    let told = problems(&[], &beta, &["stages.last.model=tiny"]);
    assert!(
        told.starts_with("p.toml:10:28: stage `arm-beta-true-flat-seed3`: `method.genarm.beta`"),
        "{told}"
    );
    assert_eq!(told.matches("p.toml").count(), 1, "{told}");
    let elsewhere = SWEEP.replace("[stages.sweep]", "[stages.sweep]\noptim.stpes = [1]");
    let told = problems(&[], &elsewhere, &["stages.last.model=tiny"]);
    assert!(
        told.starts_with("p.toml:10:16: stage `arm-stpes1-flat-beta0.5-seed3`: unknown key `stpes`"),
        "{told}"
    );
    assert_eq!(told.matches("p.toml").count(), 1, "{told}");
    for (values, told) in [
        ("[]", "expected an array of values, found an array"),
        ("3", "`sweep.method.genarm.beta`: expected an array of values, found the integer 3"),
        ("[0.5, 0.5]", "`beta0.5` is there twice"),
        ("[{ value = 1 }]", "a table has no name of its own"),
    ] {
        let text = problems(&[], &SWEEP.replace("[0.5, 1]", values), &["stages.last.model=tiny"]);
        assert!(text.contains(told), "{values}: {text}");
    }
    let whole = SWEEP.replace("stage:arm-beta1-cosine-seed4", "stage:arm");
    assert!(
        problems(&[], &whole, &[]).contains("name one of its stages, such as `stage:arm-beta0.5-flat-seed3`")
    );
}

#[test]
fn a_smoke_run_is_short_and_has_a_name_of_its_own() {
    let load = |text: &str, set: &[&str]| {
        let source = Source::from_text("p.toml", text).smoke("stem").set_all(set);
        source.load_pipeline::<Sample>().map_err(|errors| errors.to_string())
    };
    let smoke =
        format!("{SWEEP}[smoke]\nset = ['stages.arm.sweep.run.seed=[1]', 'stages.arm.optim.steps=2']\n")
            .replace("seed4", "seed1");
    let pipeline = load(&smoke, &[]).unwrap().value;
    assert_eq!((pipeline.run.name.as_str(), pipeline.stages.len()), ("whole-smoke", 5));
    assert_eq!(pipeline.stages[0].recipe.optim.steps, Some(2));
    assert_eq!(
        load(&smoke, &["stages.arm.optim.steps=3"]).unwrap().value.stages[0].recipe.optim.steps,
        Some(3)
    );
    assert!(load(SWEEP, &[]).unwrap_err().contains("does not say how it is made short"));
    let unknown = format!("{SWEEP}[smoke]\nsets = ['a=1']\n");
    assert!(problems(&[], &unknown, &[]).contains("did you mean `set`?"));
}
