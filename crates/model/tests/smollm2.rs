//! A real model against figures of transformers: greedy tokens and their log-probabilities. Skips visibly where the model is absent.

use burn::tensor::Device;
use generate::{Chance, Engine, Purpose, Sample, SampleAsk, Sampling, Score, Stream};
use model::Policy;
use model::files::load;
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn smollm2_agrees_with_transformers() {
    let Some(directory) = testkit::smollm2() else { return };
    let Some(path) = testkit::shared("data/reference/smollm2_135m_instruct_bf16.json") else { return };
    let want: Value = serde_json::from_str(&fs_err::read_to_string(path).expect("the file")).expect("JSON");
    let policy = Policy::new("smollm2", &load(&directory, &Device::flex()).expect("a model"));
    let cases = want["generation"].as_array().expect("cases");
    assert!(!cases.is_empty());
    let asks = cases
        .iter()
        .map(|case| {
            let prefix = ids(&case["prompt_ids"]);
            let budget = ids(&case["greedy_ids"]).len();
            let stream = Stream::new(0, Purpose::Sample, 0, 0);
            SampleAsk { prompt_len: prefix.len(), prefix, budget, stream }
        })
        .collect();
    let mut engine = Engine::new(&policy, Sampling::greedy()).expect("settings");
    let given = engine.sample(asks, &mut Chance::Streams).expect("room");
    for (case, completion) in cases.iter().zip(given) {
        let (prompt, theirs) = (ids(&case["prompt_ids"]), ids(&case["greedy_ids"]));
        assert_eq!(completion.ids, theirs, "{}", case["user"]);
        let scores = policy.score(&[(&prompt[..], &theirs[..])]).expect("scores");
        for (ours, theirs) in scores[0].iter().zip(case["greedy_logprobs"].as_array().expect("numbers")) {
            let theirs = theirs.as_f64().expect("a number");
            assert!((f64::from(*ours) - theirs).abs() < 1e-3, "{ours} against {theirs}");
        }
    }
}
