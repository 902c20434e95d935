//! `--set`.

use crate::sample::{Method, Sample, VALID, load, problems, with};
use recipe::Source;

#[test]
fn values_are_toml_or_else_bare_strings() {
    let sample = load(
        VALID,
        &[
            "run.seed=3",
            "run.name=other",
            "run.out=a b/c=d",
            "optim.learning_rate = 2e-4 ",
            "sampling.stop=[\"a\", 'b']",
            "data=rows.jsonl",
            "weights.\"a.b\"=7",
            "lora.use_rslora=true",
        ],
    );
    assert_eq!(sample.run.seed, 3);
    assert_eq!(sample.run.name, "other");
    assert_eq!(sample.run.out.to_str(), Some("a b/c=d"));
    assert_eq!(sample.optim.learning_rate, 2e-4);
    assert_eq!(sample.sampling.stop, ["a", "b"]);
    assert_eq!(sample.data.as_str(), "rows.jsonl");
    assert_eq!(sample.weights["a.b"], 7.0);
    assert!(sample.lora.is_some_and(|lora| lora.use_rslora && lora.r == 16));
}

#[test]
fn tables_are_made_and_items_are_found_by_index_or_name() {
    let sample = load(&with(""), &["lora.r=2", "save.keep_last=5"]);
    assert_eq!((sample.lora.map(|lora| lora.r), sample.save.keep_last), (Some(2), 5));
    let sample = load(
        VALID,
        &[
            "method.genarm.arms.0.weight=0.25",
            "method.genarm.arms.harmless.weight=2",
            "method.genarm.grid.0.1=9",
        ],
    );
    let Method::Genarm(genarm) = sample.method else { panic!("another method") };
    assert_eq!(genarm.arms.iter().map(|arm| arm.weight).collect::<Vec<_>>(), [Some(0.25), Some(2.0)]);
    assert_eq!(genarm.grid, [vec![1, 9], vec![3]]);
}

#[test]
fn the_last_override_of_a_key_wins() {
    assert_eq!(load(VALID, &["run.seed=1", "run.seed=2"]).run.seed, 2);
}

#[test]
fn what_is_wrong_with_an_override_is_reported_at_it() {
    assert_eq!(
        problems(
            VALID,
            &["run.sede=1", "optim.steps=ten", "run.seed.x=1", "nonsense", "a..b=1", "method.vbon.n=2"]
        ),
        "\
--set run.seed.x=1: `run.seed` is the integer 18446744073709551615, which has no key `x`
  hint: set `run.seed` itself, or another key
--set nonsense: `nonsense` has no `=`
  hint: write KEY=VALUE, such as optim.steps=100
--set a..b=1: `a..b` is not a dotted key
  hint: write KEY=VALUE, such as optim.steps=100
--set run.sede=1: unknown key `sede` in [run]
  hint: did you mean `seed`? (valid keys: name, seed, out, device, threads)
--set optim.steps=ten: `optim.steps`: expected an integer, found the string \"ten\"
--set method.vbon.n=2: [method] takes one table, found 2: `genarm`, `vbon`
  hint: keep [method.genarm] or [method.vbon]"
    );
    assert_eq!(
        problems(VALID, &["method.genarm.arms.2.weight=1", "method.genarm.arms.helpfull.weight=1"]),
        "\
--set method.genarm.arms.2.weight=1: `method.genarm.arms` has no item `2` (2 items)
  hint: items are 0 to 1
--set method.genarm.arms.helpfull.weight=1: `method.genarm.arms` has no item `helpfull` (2 items)
  hint: did you mean `helpful`? (items: helpful, harmless)"
    );
}

#[test]
fn rules_see_overrides_and_are_reported_at_them() {
    assert_eq!(
        problems(VALID, &["optim.warmup_steps=100"]),
        "--set optim.warmup_steps=100: `optim.warmup_steps`: 100 warm-up steps do not end within 100 steps\n  hint: at most 99"
    );
}

#[test]
fn overrides_cannot_smuggle_in_other_keys() {
    let said = problems(VALID, &["run.seed\n[log]\nx=1"]);
    assert!(said.contains("is not a dotted key"), "{said}");
    let said = problems(VALID, &["run.seed=1\nsampling.top_k=2"]);
    assert!(said.contains("expected an integer, found the string"), "{said}");
}

#[test]
fn defaults_fill_only_what_is_left_out() {
    let name = |text: &str| {
        let source = Source::from_text("recipes/quick.v2.toml", text);
        let stem = source.stem();
        source.set_default("run.name", &stem).load::<Sample>().unwrap().value.run.name
    };
    assert_eq!(name(&with("")), "quick.v2");
    assert_eq!(name(&with("run.name = 'mine'")), "mine");
    let errors =
        Source::from_text("a b.toml", with("")).set_default("run.name", "a b").load::<Sample>().unwrap_err();
    assert_eq!(
        errors.to_string(),
        "a b.toml:(default): `run.name`: the name \"a b\" holds ' '\n  hint: use letters, digits, `.`, `_` and `-`"
    );
}
