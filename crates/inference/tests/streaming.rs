//! The running answer of every method, and runs that are stopped within a round.

mod common;

use common::{method, stream, toys};
use generate::schedule::{Progress, Services, run};
use generate::{Chance, Engine, Prompt, Sampling, TokenId};
use inference::{METHODS, Method, MethodConfig};
use serde_json::json;

/// What a method would have answered between its rounds.
fn running(toy: &common::Toy, method: &MethodConfig) -> (Vec<Option<Vec<TokenId>>>, Vec<TokenId>) {
    let mut seen = Vec::new();
    let prompts = [Prompt::from_ids(0, vec![0])];
    let mut watch = |progress: &Progress<'_>| seen.push(progress.running(0));
    let answer = toy.watched(method, &prompts, &mut Chance::Streams, &mut watch).remove(0);
    (seen, answer.ids)
}

#[test]
fn every_method_has_a_running_answer_that_ends_as_its_answer() {
    for toy in toys() {
        for info in METHODS {
            let method = MethodConfig::named(info.name).expect("listed");
            let (seen, answer) = running(&toy, &method);
            assert_eq!(seen.last(), Some(&Some(answer)), "{}: the last is the answer", info.name);
            let sequences = toy.sequences();
            // Once there is an answer there always is one, and it is a text or the beginning of one.
            let texts: Vec<&Vec<TokenId>> = seen.iter().skip_while(|text| text.is_none()).flatten().collect();
            let none = seen.iter().take_while(|text| text.is_none()).count();
            assert_eq!(none + texts.len(), seen.len(), "{}: an answer is lost", info.name);
            for text in texts {
                let begins = |sequence: &Vec<TokenId>| sequence.starts_with(text);
                assert!(!text.is_empty() && sequences.iter().any(begins), "{}: {text:?}", info.name);
            }
        }
    }
}

#[test]
fn methods_that_choose_each_token_only_add_to_it() {
    let mut rounds = 0;
    for toy in toys() {
        for name in ["args", "cd", "transfer-q"] {
            let (seen, _) = running(&toy, &MethodConfig::named(name).expect("listed"));
            let texts: Vec<Vec<TokenId>> = seen.into_iter().flatten().collect();
            rounds += texts.len();
            assert!(texts.windows(2).all(|pair| pair[1].starts_with(&pair[0])), "{name}: {texts:?}");
            assert_eq!(texts[0].len(), 1, "{name}: token by token");
        }
    }
    assert!(rounds > 20, "{rounds}");
}

#[test]
fn chains_and_searches_answer_before_they_end() {
    let toy = toys().remove(0);
    let mut methods: Vec<MethodConfig> = ["qalign", "quest", "power", "independence-mh", "random-cut"]
        .iter()
        .map(|name| MethodConfig::named(name).expect("listed"))
        .collect();
    // Blocks shorter than the toy's texts.
    methods.push(method(json!({ "cbs": { "chunk": 1 } })));
    methods.push(method(json!({ "twisted-smc": { "block": 1 } })));
    methods.push(method(json!({ "genarm-smc": { "alpha": [1.0], "block": 1 } })));
    for method in methods {
        let (seen, _) = running(&toy, &method);
        let early = seen[..seen.len() - 1].iter().flatten().count();
        assert!(early > 0, "{method:?} shows nothing before its end, in {} rounds", seen.len());
    }
}

#[test]
fn a_watch_that_wants_no_more_stops_the_run_within_its_round() {
    let toy = toys().remove(0);
    let method = MethodConfig::named("best-of-n").expect("listed");
    let prompts: Vec<Prompt> = (0..5).map(|index| Prompt::from_ids(index, vec![0])).collect();
    let want = toy.answers(&method, &prompts, &mut Chance::Streams);
    let (mut drawn, mut most) = (0, 3);
    let limit = std::cell::Cell::new(most);
    let mut engine = Engine::new(&toy.base, Sampling::default()).expect("settings").with_watch(|_| {
        drawn += 1;
        drawn < limit.get()
    });
    for stops in [true, false] {
        let mut reward = toy.reward();
        let mut services = Services::new(&mut engine).with_reward(Some(&mut reward));
        let machine = method.machine(&toy.tools()).expect("a machine");
        let streams: Vec<_> = (0..5).map(stream).collect();
        let given = run(&*machine, &prompts, &streams, &mut services, &mut Chance::Streams, &mut |_| true);
        let given = given.expect("the toy fits");
        assert_eq!(given, (!stops).then(|| want.clone()));
        most = usize::MAX;
        limit.set(most);
    }
}
