//! A run that is saved between two rounds goes on as if nothing had happened, bit for bit.

mod common;

use common::{Toy, method, stream, toys};
use generate::schedule::{Answer, Saved, SavedPrompt, Services, resume};
use generate::{Chance, Prompt, Sampling};
use inference::{Method, MethodConfig, Parts};
use serde_json::json;

const PROMPTS: usize = 3;

/// Runs from `saved`; stops after `rounds`, giving what it saved as JSON.
fn run(toy: &Toy, config: &MethodConfig, saved: Option<Saved>, rounds: usize) -> Result<Vec<Answer>, String> {
    let prompts: Vec<Prompt> = (0..PROMPTS).map(|index| Prompt::from_ids(index, vec![2])).collect();
    let streams: Vec<_> = (0..PROMPTS).map(stream).collect();
    let parts = Parts { arms: vec![("arm", &toy.arm)], ..Parts::new(&toy.base) };
    let mut engine = config.engine(&parts, Sampling::default()).expect("an engine");
    let mut reward = toy.reward();
    let mut services = Services::new(&mut engine).with_scorer(&toy.base).with_reward(Some(&mut reward));
    let machine = config.machine(&toy.tools()).expect("a machine");
    let (mut seen, mut kept) = (0, String::new());
    let given =
        resume(&*machine, &prompts, &streams, &mut services, &mut Chance::Streams, saved, &mut |progress| {
            if seen == rounds {
                kept = serde_json::to_string(&progress.save()?).expect("plain data");
                return Ok(false);
            }
            seen += 1;
            Ok(true)
        })
        .expect("the toy fits");
    given.ok_or(kept)
}

fn restored(text: &str) -> Saved {
    serde_json::from_str(text).expect("it was written by us")
}

#[test]
fn saved_at_any_round_it_ends_with_the_same_bits() {
    let toy = toys().remove(0);
    let configs = [
        json!({ "qalign": { "steps": 9, "chains": 2, "at": [3], "rao_blackwell": true } }),
        json!({ "qalign": { "steps": 7, "tries": 3, "cut": "step-boundaries", "stop_when_decided": true } }),
        json!({ "qalign": { "steps": 6, "ladder": [1.0, 4.0], "kl_budget": 0.5, "pilot": 9, "beta": 0.01,
                            "cut": "early", "answer": "best", "record_moves": true } }),
        json!({ "quest": { "steps": 6, "chains": 2, "beta": 0.7 } }),
        json!({ "power": { "steps": 6, "ladder": [2.0] } }),
        json!({ "independence-mh": { "steps": 6, "tries": 2 } }),
        json!({ "random-cut": { "steps": 6 } }),
        json!({ "best-of-n": { "n": 4 } }),
    ];
    for config in configs {
        let config = method(config);
        let whole = run(&toy, &config, None, usize::MAX).expect("nothing stops it");
        let mut rounds = 0;
        while let Err(text) = run(&toy, &config, None, rounds) {
            let again = run(&toy, &config, Some(restored(&text)), usize::MAX).expect("nothing stops it");
            assert_eq!(again, whole, "{config:?} saved after {rounds} rounds");
            // Saved twice, at the first possible time after it went on.
            let twice = run(&toy, &config, Some(restored(&text)), 0).expect_err("stopped at once");
            assert_eq!(restored(&twice), restored(&text), "{config:?}");
            rounds += 1;
        }
        assert!(rounds >= 2, "{config:?} has {rounds} rounds");
    }
}

#[test]
fn prompts_that_are_done_stay_as_they_are() {
    let toy = toys().remove(0);
    let chain =
        method(json!({ "qalign": { "steps": 30, "chains": 2, "stop_when_decided": true, "beta": 0.3 } }));
    let whole = run(&toy, &chain, None, usize::MAX).expect("nothing stops it");
    let mut rounds = 0;
    let mut seen = 0;
    while let Err(text) = run(&toy, &chain, None, rounds) {
        let saved = restored(&text);
        let done = |one: &&SavedPrompt| matches!(one, SavedPrompt::Done(_));
        let some = saved.prompts.iter().filter(done).count();
        if some > 0 && some < PROMPTS {
            seen += 1;
            for (one, answer) in saved.prompts.iter().zip(&whole) {
                if let SavedPrompt::Done(kept) = one {
                    assert_eq!(kept, answer);
                }
            }
            assert_eq!(run(&toy, &chain, Some(saved), usize::MAX).expect("nothing stops it"), whole);
        }
        rounds += 1;
    }
    assert!(seen > 0, "some prompts are decided before others");
}

#[test]
fn a_state_of_other_settings_is_refused() {
    let toy = toys().remove(0);
    let chain = |chains: usize| method(json!({ "qalign": { "steps": 4, "chains": chains } }));
    let text = run(&toy, &chain(2), None, 2).expect_err("stopped");
    let config = chain(3);
    let machine = config.machine(&toy.tools()).expect("a machine");
    let SavedPrompt::Waiting { machine: state, .. } = restored(&text).prompts.remove(0) else {
        panic!("it waits");
    };
    let refused = |value| machine.restore(&toy.base.prompt(), value).err().expect("refused").to_string();
    assert!(refused(state).contains("a saved state is of other settings"));
    assert!(refused(json!({ "step": 1 })).contains("a saved state cannot be read"));
    let best = method(json!({ "best-of-n": { "n": 4 } })).machine(&toy.tools()).expect("a machine");
    assert!(best.restore(&toy.base.prompt(), json!({})).is_err());
}
