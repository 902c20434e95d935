//! Recipes of this binary on the shipped model.

use burn::tensor::Device;
use generate::{Candidate, End, Reward};
use inference::setup::{self, Answers, Places, Recipe};
use recipe::Source;

fn load(text: &str) -> Recipe {
    let source = Source::from_text("recipe.toml", text).set_default("run.name", "test");
    source.load::<Recipe>().unwrap_or_else(|errors| panic!("{errors}")).value
}

const DATA: &str = "[data]\npath = \"wordmath\"\nlimit = 3\n[sampling]\nmax_new_tokens = 24\n";

fn answers(text: &str) -> Answers {
    let recipe = load(text);
    let (places, device) = (Places::default(), Device::flex());
    let loaded = setup::load(&places, &recipe.model.path, &device).expect("the shipped model");
    let prompts = setup::prompts(&recipe.data, &places, &loaded, 0, 400).expect("prompts").rows;
    setup::answer(&recipe, &loaded, &prompts, &device, None, &mut |_| true, &mut |_| Ok(true))
        .expect("answers")
        .expect("not stopped")
}

#[test]
fn the_shipped_recipe_loads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../recipes/qalign.toml");
    let loaded = Source::read(path).and_then(Source::load::<Recipe>);
    assert!(loaded.is_ok(), "{}", loaded.err().map(|errors| errors.to_string()).unwrap_or_default());
}

#[test]
fn a_draft_gives_the_same_greedy_texts_in_fewer_passes() {
    let plain = answers(&format!("{DATA}[method.greedy]\n"));
    for guided in [false, true] {
        let drafted = answers(&format!(
            "{DATA}[draft]\npath = \"tiny\"\ntokens = 3\nguided = {guided}\n[method.greedy]\n"
        ));
        let texts = |answers: &Answers| answers.answers.iter().map(|a| a.ids.clone()).collect::<Vec<_>>();
        assert_eq!(texts(&plain), texts(&drafted));
        assert_eq!(plain.ledger.acceptance(), None);
        assert!(drafted.ledger.drafted_tokens > 20);
        assert_eq!(drafted.ledger.acceptance(), Some(1.0), "a model agrees with itself, bit for bit");
    }
}

#[test]
fn a_draft_serves_every_method() {
    let drafted =
        answers(&format!("{DATA}[draft]\npath = \"tiny\"\n[reward.answer]\n[method.best-of-n]\nn = 4\n"));
    assert_eq!(drafted.answers.len(), 3);
    assert!(drafted.ledger.accepted_tokens > 0);
    let wrong = Source::from_text(
        "recipe.toml",
        format!("{DATA}[draft]\npath = \"tiny\"\ntokens = 0\n[method.greedy]\n"),
    );
    let refused = wrong.set_default("run.name", "test").load::<Recipe>().expect_err("no token");
    assert!(refused.to_string().contains("draft.tokens"), "{refused}");
}

#[test]
fn a_sum_of_rewards_is_their_weighted_sum() {
    let recipe = load(&format!(
        "{DATA}[[reward.sum]]\nweight = 2.0\nreward = {{ pattern = {{ pattern = \"[0-9]\", count = true }} }}\n\
         [[reward.sum]]\nweight = 0.5\nreward = {{ brevity = {{}} }}\n[method.sample]\n"
    ));
    let (places, device) = (Places::default(), Device::flex());
    let loaded = setup::load(&places, &recipe.model.path, &device).expect("the shipped model");
    let prompts = setup::prompts(&recipe.data, &places, &loaded, 0, 400).expect("prompts").rows;
    let set = setup::build(recipe.reward.as_ref().expect("given"), &places, &loaded, &device).expect("parts");
    let mut reward = set.open().expect("a reward");
    let ids = loaded.tokenizer.encode("12 and 3", false).expect("text");
    let candidate = Candidate { prompt: &prompts[0], ids: &ids, end: End::Budget };
    let given = reward.rewards(&[candidate]).expect("a score");
    assert_eq!(given, [2.0 * 3.0 - 0.5 * ids.len() as f64]);
    for (text, says) in [
        ("[reward]\nsum = []\n", "a weight other than 0"),
        ("[[reward.sum]]\nweight = 1.0\nreward = { lexicon = {} }\n", "positive"),
    ] {
        let source = Source::from_text("recipe.toml", format!("{DATA}{text}[method.sample]\n"));
        let refused = source.set_default("run.name", "test").load::<Recipe>().expect_err("refused");
        assert!(refused.to_string().contains(says), "{refused}");
    }
}
