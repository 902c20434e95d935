//! The shipped recipes of on-policy methods are valid, and what would bias them is refused with the reason.

use recipe::Source;
use train::recipe::{METHODS, Recipe};

const NAMES: [&str; 8] = ["vbon", "rl", "ctrl", "bond", "j-bond", "wind", "bon-aware", "parl"];

fn load(name: &str, changes: &[&str]) -> Result<Recipe, String> {
    let path = format!("{}/../../recipes/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let source = Source::read(path).map_err(|errors| errors.to_string())?.set_all(changes);
    source.load::<Recipe>().map(|loaded| loaded.value.clone()).map_err(|errors| errors.to_string())
}

#[test]
fn the_shipped_recipes_load_and_compose() {
    for name in NAMES {
        let recipe = load(name, &[]).unwrap_or_else(|message| panic!("{name}: {message}"));
        assert_eq!(recipe.method.name(), name);
        assert!(METHODS.iter().any(|info| info.name == name), "{name} is not listed");
        let settings = recipe.method.on_policy().expect("on-policy");
        let cached: Vec<_> = (0..3)
            .map(|_| {
                let rewards = (0..settings.pool_samples().max(1)).map(|r| r as f64).collect();
                objective::rank::CachedRewards::new(rewards).expect("finite")
            })
            .collect();
        let plan = settings.compose(&cached).unwrap_or_else(|error| panic!("{name}: {error}"));
        let draws = plan.objective.draws();
        assert!(draws.policy + draws.anchor >= 2, "{name}: {draws:?}");
    }
}

#[test]
fn defaults_of_methods_and_of_the_batch_work_together() {
    for name in NAMES {
        let n = if name == "ctrl" { "kl = 0.5" } else { "" };
        let text = format!("[data]\nlimit = 8\n[optim]\nsteps = 1\n[reward.answer]\n[method.{name}]\n{n}\n");
        let source = Source::from_text("recipe.toml", text).set_default("run.name", "test");
        source.load::<Recipe>().unwrap_or_else(|errors| panic!("{name}: {errors}"));
    }
}

#[test]
fn what_would_bias_ratios_or_cannot_be_is_refused_with_a_remedy() {
    for name in NAMES {
        for (change, key) in [
            ("sampling.temperature=0.7", "temperature = 1"),
            ("sampling.top_p=0.9", "top_p = 1"),
            ("sampling.top_k=50", "top_k = 0"),
        ] {
            let message = load(name, &[change]).expect_err("refused");
            assert!(message.contains("biases") && message.contains(key), "{name}: {message}");
        }
    }
    for (name, changes, part) in [
        ("rl", &["optim.batch_size=66"][..], "multiple of `method.rl.rollouts`"),
        ("wind", &["method.wind.samples=5"], "multiple of `method.wind.samples`"),
        (
            "wind",
            &["method.wind.loss=\"nce\"", "method.wind.eta=1000.0", "method.wind.beta=0.0"],
            "take the squared loss",
        ),
        ("rl", &["method.rl.ppo={}"], "set `estimator = \"ppo\"`"),
        ("rl", &["method.rl.rollouts=1"], "raise `rollouts` to 2"),
        (
            "rl",
            &["method.rl.estimator=\"ppo\"", "method.rl.ppo={mini_batches=3}"],
            "multiple of `mini_batches`",
        ),
        ("vbon", &["method.vbon.estimator=\"grpo\"", "method.vbon.rollouts=1"], "raise `rollouts` to 2"),
        ("ctrl", &["method.ctrl.ppo={lambda=0.5}"], "leave `ppo` out"),
        ("ctrl", &["method.ctrl.beta=0.1"], "keep `beta`, or `kl`"),
        ("ctrl", &["method.ctrl.tilt={exponential={t=0.0}}"], "prefers nothing"),
        ("ctrl", &["method.ctrl.tilt={exponential={t=20.0}}"], "raise `pool_samples` to 100"),
        ("bond", &["method.bond.n=2.5"], "round `n`"),
        ("bond", &["method.bond.n=16.0"], "raise `samples`"),
        ("bon-aware", &["method.bon-aware.form=\"rlb\"", "method.bon-aware.n=9"], "raise `rollouts` to 9"),
        ("vbon", &["method.vbon.n=100"], "raise `pool_samples`"),
        (
            "vbon",
            &["method.vbon.form=\"exact\"", "method.vbon.ties=\"strict\""],
            "set `ties = \"non-strict\"`",
        ),
        (
            "vbon",
            &["method.vbon.form=\"exact\"", "method.vbon.ties=\"mid-rank\""],
            "set `ties = \"non-strict\"`",
        ),
        ("wind", &["method.wind.loss=\"kl\"", "method.wind.samples=2"], "raise `samples` to 3"),
        ("wind", &["method.wind.loss=\"nce\"", "method.wind.samples=2"], "raise `samples` to 3"),
        (
            "wind",
            &["method.wind.loss=\"kl\"", "method.wind.beta=0.05", "method.wind.eta=20.0"],
            "weights of exp(10.00 w)",
        ),
        (
            "bond",
            &["method.bond.rollouts=1", "optim.batch_size=1", "optim.micro_batch_size=1"],
            "to 2 at least",
        ),
        (
            "j-bond",
            &["method.j-bond.rollouts=1", "optim.batch_size=1", "optim.micro_batch_size=1"],
            "to 2 at least",
        ),
    ] {
        let message = load(name, changes).expect_err("refused");
        assert!(message.contains(part), "{name} {changes:?}: {message}");
    }
    for name in ["rl", "ctrl", "vbon"] {
        let ppo = [
            format!("method.{name}.estimator=\"ppo\""),
            format!("method.{name}.rollouts=1"),
            format!("method.{name}.ppo={{epochs=3, mini_batches=4}}"),
        ];
        let recipe = load(name, &ppo.each_ref().map(String::as_str)).expect("it is whole");
        let settings = recipe.method.on_policy().expect("on-policy");
        assert_eq!(settings.ppo().expect("PPO").updates(), 12);
        assert!(load(name, &[]).expect("whole").method.on_policy().expect("on-policy").ppo().is_none());
    }
    let head = "method.ctrl.quantile=\"stage:quantile\"";
    let exponential = "method.ctrl.tilt={exponential={t=20.0}}";
    let recipe = load("ctrl", &[head, exponential]).expect("a head's law resolves any tilt");
    let settings = recipe.method.on_policy().expect("on-policy");
    assert_eq!(settings.pool_samples(), 0, "no samples are cached");
    // The strength is that of the limit without ties, with no pool to solve it on.
    let note = settings.compose(&[]).expect("composed").note.expect("a note");
    assert!(note.contains("spends 0.25 nats without ties"), "{note}");
    let head = "method.vbon.quantile=\"stage:quantile\"";
    assert!(load("vbon", &[head, "method.vbon.n=100"]).is_ok());
    let message = load("vbon", &[head, "method.vbon.form=\"exact\""]).expect_err("refused");
    assert!(message.contains("mass of ties") && message.contains("form = \"bound\""), "{message}");
    assert!(load("bond", &["method.bond.n=2.5", "method.bond.b=1.0"]).is_ok(), "backward alone takes any N");
    for fine in [
        &["method.bon-aware.form=\"rlb\"", "method.bon-aware.n=8"][..],
        &["method.bon-aware.form=\"rlb\"", "method.bon-aware.n=4"],
    ] {
        load("bon-aware", fine).expect("as many rollouts as N are enough");
    }
    for loss in ["kl", "nce", "squared"] {
        load("wind", &[&format!("method.wind.loss=\"{loss}\"")]).expect("the defaults serve each loss");
    }
}
