//! Stop strings end the samples of pools too, and no reward or judge sees them.

use std::path::Path;

use burn::tensor::Device;
use generate::engine::Limits;
use generate::{Candidate, End, Prompt, Sampling};
use inference::setup::{
    self, AnswerForm, CompletionText, Loaded, Places, PoolPlan, RewardTable, answer_of, build, decode_of,
};
use serde_json::{Value, json};

fn tiny() -> Loaded {
    setup::load(&Places::default(), &"tiny".parse().expect("a name"), &Device::flex())
        .expect("the shipped model")
}

fn table(value: Value) -> RewardTable {
    serde_json::from_value(value).expect("a reward")
}

#[test]
fn a_pool_ends_its_samples_at_stop_strings() {
    let loaded = tiny();
    let text =
        "Question: Ada had 12 apples. She bought 7 apples. How many apples did Ada have in the end?\nAnswer:";
    let ids = loaded.tokenizer.encode(text, false).expect("text");
    let prompts = [Prompt { text: text.into(), ..Prompt::from_ids(0, ids) }];
    let sampling = Sampling { stop: vec!["=".into()], ..Sampling::default() };
    let (policy, decode) = (loaded.policy(loaded.hash.clone()), decode_of(&loaded));
    let draw = |folder: &Path, sampling: &Sampling| {
        let plan = PoolPlan {
            folder,
            policy: &policy,
            policy_hash: &loaded.hash,
            tokenizer_hash: loaded.tokenizer.hash(),
            decode: &decode,
            reference: None,
            prompts: &prompts,
            sampling,
            budget: 40,
            samples: 16,
            seed: 3,
            limits: Limits::default(),
        };
        setup::pool(&plan, &mut |_| true).expect("a pool").expect("not stopped")
    };
    let folder = tempfile::tempdir().expect("a folder");
    let pool = draw(folder.path(), &sampling);
    let shown = CompletionText::new(&loaded, &sampling.stop);
    let mut stopped = 0;
    for sample in pool.samples(0) {
        let whole = loaded.tokenizer.decode(&sample.ids, true).expect("text");
        assert_eq!(whole.contains('='), sample.end == End::Stop, "{whole}");
        assert!(!shown.of(&sample.ids).contains('='));
        stopped += usize::from(sample.end == End::Stop);
    }
    assert!(stopped > 8, "only {stopped} of 16");
    let free = draw(folder.path(), &Sampling::default());
    assert!(free.samples(0).iter().all(|sample| sample.end != End::Stop));
}

#[test]
fn rewards_and_answers_see_the_text_before_the_stop_string() {
    let loaded = tiny();
    let stop = ["= 19 p".to_owned()];
    let shown = CompletionText::new(&loaded, &stop);
    let ids = loaded.tokenizer.encode(" 12 + 7 = 19 pens", false).expect("text");
    assert_eq!(shown.of(&ids), " 12 + 7 ");
    let seen = shown.ids(&ids).into_owned();
    assert_eq!(loaded.tokenizer.decode(&seen, true).expect("text"), " 12 + 7 ");
    assert_eq!(shown.ids(&seen).into_owned(), seen, "what has no stop string stays");
    assert_eq!(shown.so_far(&loaded.tokenizer.encode(" 12 + 7 = 1", false).expect("text")), " 12 + 7 ");
    assert_eq!(shown.so_far(&loaded.tokenizer.encode(" 12 + 7 = 8", false).expect("text")), " 12 + 7 = 8");

    let prompt = Prompt::from_ids(0, vec![5]);
    let candidate = [Candidate { prompt: &prompt, ids: &ids, end: End::Stop }];
    let score = |value: Value, stop: &[String]| {
        let set = build(&table(value), &Places::default(), &loaded, &Device::flex()).expect("a reward");
        let set = set.with_stop(&loaded, stop);
        let scores = set.open().expect("a reward").rewards(&candidate).expect("a score");
        scores[0]
    };
    let pattern = json!({ "pattern": { "pattern": "19" } });
    assert_eq!((score(pattern.clone(), &[]), score(pattern.clone(), &stop)), (1.0, 0.0));
    let sum = json!({ "sum": [{ "weight": 1.0, "reward": pattern }, { "weight": 0.5, "reward": { "brevity": {} } }] });
    assert_eq!(score(sum, &stop), -0.5 * seen.len() as f64, "each part of a sum");
    assert_eq!(score(json!({ "brevity": {} }), &[]), -(ids.len() as f64));
    let likely = json!({ "arm": { "path": "tiny", "beta": 1.0 } });
    let alone = [Candidate { prompt: &prompt, ids: &seen, end: End::Stop }];
    let set = build(&table(likely.clone()), &Places::default(), &loaded, &Device::flex()).expect("a reward");
    let want = set.open().expect("a reward").rewards(&alone).expect("a score")[0];
    assert_eq!(score(likely, &stop), want, "a model reads the tokens of that text");

    assert_eq!(answer_of(&loaded, AnswerForm::LastNumber, &stop)(&prompt, &ids), "7");
    assert_eq!(answer_of(&loaded, AnswerForm::LastNumber, &[])(&prompt, &ids), "19");
}
