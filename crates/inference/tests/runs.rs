//! Runs with random streams: what an answer may and may not depend on, and what a trace says.

mod common;

use std::cell::RefCell;

use common::{answer, method, stream, toys};
use generate::schedule::{Services, run};
use generate::{
    Candidate, Chance, Completion, Engine, Error, Ledger, Prompt, Reward, Sample, SampleAsk, Sampling,
};
use inference::chain::Trace;
use inference::selection::{majority, mbr, rouge1_f1, weighted_majority};
use inference::{Access, METHODS, Method, MethodConfig};
use serde_json::{Value, json};

fn prompts(indices: impl IntoIterator<Item = usize>) -> Vec<Prompt> {
    indices.into_iter().map(|index| Prompt::from_ids(index, vec![(index % 3) as u32])).collect()
}

#[test]
fn an_answer_does_not_depend_on_the_other_prompts() {
    let toy = toys().remove(0);
    let mut methods: Vec<MethodConfig> =
        METHODS.iter().map(|info| MethodConfig::named(info.name).expect("listed")).collect();
    methods.push(method(
        json!({ "qalign": { "steps": 9, "chains": 3, "answer": "mbr", "rao_blackwell": true } }),
    ));
    for method in &methods {
        let together = toy.answers(method, &prompts(0..7), &mut Chance::Streams);
        assert_eq!(together, toy.answers(method, &prompts(0..7), &mut Chance::Streams), "{method:?} twice");
        let mut reversed = toy.answers(method, &prompts((0..7).rev()), &mut Chance::Streams);
        reversed.reverse();
        assert_eq!(together, reversed, "{method:?} in another order");
        for (index, want) in together.iter().enumerate() {
            let alone = toy.answers(method, &prompts([index]), &mut Chance::Streams);
            assert_eq!(alone[0], *want, "{method:?}, prompt {index} alone");
        }
    }
}

#[test]
fn how_many_prompts_run_together_changes_nothing() {
    let toy = toys().remove(0);
    for name in ["cbs", "cd", "twisted-smc", "best-of-n"] {
        let method = MethodConfig::named(name).expect("listed");
        let want = toy.answers(&method, &prompts(0..7), &mut Chance::Streams);
        for at_once in [1, 3] {
            let parts = inference::Parts::new(&toy.base);
            let mut engine = method.engine(&parts, Sampling::default()).expect("an engine");
            let (mut reward, mut value) = (toy.reward(), toy.value.clone());
            let mut services = Services::new(&mut engine)
                .with_reward(Some(&mut reward))
                .with_value(Some(&mut value))
                .at_once(at_once);
            let machine = method.machine(&toy.tools()).expect("a machine");
            let streams: Vec<_> = (0..7).map(stream).collect();
            let mut seen = Vec::new();
            let given =
                run(&*machine, &prompts(0..7), &streams, &mut services, &mut Chance::Streams, &mut |done| {
                    seen.push(done);
                    true
                });
            assert_eq!(given.expect("the toy fits").expect("nothing stops it"), want, "{name} {at_once}");
            assert!(seen.windows(2).all(|pair| pair[1] - pair[0] <= at_once), "{seen:?}");
        }
    }
}

/// An engine of which only the texts are given, as by a policy behind a network interface.
struct Texts<'a>(Engine<'a>);

impl Sample for Texts<'_> {
    fn sample(&mut self, asks: Vec<SampleAsk>, chance: &mut Chance<'_>) -> Result<Vec<Completion>, Error> {
        self.0.sample(asks, chance)
    }
    fn ledger(&self) -> &Ledger {
        self.0.ledger()
    }
}

#[test]
fn methods_of_text_access_run_on_a_policy_that_gives_texts_alone() {
    let toy = toys().remove(0);
    let mut of_text = 0;
    for info in METHODS {
        let method = MethodConfig::named(info.name).expect("listed");
        let further = method.further();
        let engine = method.engine(&toy.parts(&further), Sampling::default()).expect("an engine");
        let (mut sampler, mut reward, mut value) = (Texts(engine), toy.reward(), toy.value.clone());
        let mut ahead = Engine::new(&toy.arm, Sampling::default()).expect("settings");
        let mut services = Services::new(&mut sampler)
            .with_scorer(&toy.base)
            .with_reward(Some(&mut reward))
            .with_value(Some(&mut value))
            .with_rollout(Some(&mut ahead));
        let machine = method.machine(&toy.tools()).expect("a machine");
        let streams: Vec<_> = (0..3).map(stream).collect();
        let given =
            run(&*machine, &prompts(0..3), &streams, &mut services, &mut Chance::Streams, &mut |_| true);
        match given {
            Ok(given) => {
                let want = toy.answers(&method, &prompts(0..3), &mut Chance::Streams);
                assert_eq!(given.expect("nothing stops it"), want, "{}", info.name);
                of_text += usize::from(info.access == Access::Text);
            }
            Err(Error::NoLogits { .. }) => {
                assert_eq!(info.access, Access::Logits, "{} declares {}", info.name, info.access);
            }
            Err(error) => panic!("{}: {error}", info.name),
        }
    }
    assert!(of_text > 15, "{of_text}");
}

fn trace(toy: &common::Toy, method: &MethodConfig, index: usize) -> Trace {
    let answer = toy.answers(method, &prompts([index]), &mut Chance::Streams).remove(0);
    serde_json::from_value(answer.trace).expect("a trace")
}

#[test]
fn one_run_gives_the_answers_of_all_shorter_ones() {
    for toy in toys() {
        for answer in ["vote", "mbr", "last"] {
            let chain = |steps: usize, at: &[usize]| {
                method(json!({ "qalign": { "steps": steps, "chains": 2, "answer": answer, "at": at } }))
            };
            for index in 0..5 {
                let long = trace(&toy, &chain(40, &[0, 4, 16]), index);
                assert_eq!(long.curve.iter().map(|point| point.steps).collect::<Vec<_>>(), [0, 4, 16, 40]);
                for point in &long.curve[1..] {
                    let short = trace(&toy, &chain(point.steps, &[]), index);
                    assert_eq!(short.curve, std::slice::from_ref(point));
                    assert_eq!(short.rewards, long.rewards[..=point.steps]);
                }
            }
        }
    }
}

#[test]
fn chains_start_at_the_samples_of_a_pool() {
    let toy = toys().remove(0);
    let chain = method(json!({ "qalign": { "steps": 3, "chains": 4, "at": [0] } }));
    let vote = method(json!({ "majority": { "n": 4 } }));
    for index in 0..9 {
        let pooled = toy.answers(&vote, &prompts([index]), &mut Chance::Streams).remove(0);
        let first = &trace(&toy, &chain, index).curve[0];
        assert_eq!(first.ids, pooled.ids);
        assert!(first.reward_calls <= 4 && first.drawn_tokens >= 4);
    }
}

#[test]
fn a_chain_does_not_depend_on_its_neighbours() {
    let toy = toys().remove(0);
    let at: Vec<usize> = (0..=20).collect();
    let first = |chains: usize| {
        let chain = json!({ "qalign": { "steps": 20, "chains": chains, "answer": "last", "at": at } });
        let trace = trace(&toy, &method(chain), 5);
        trace.curve.into_iter().map(|point| point.ids).collect::<Vec<_>>()
    };
    assert_eq!(first(1), first(3));
}

#[test]
fn answers_are_those_of_the_plain_rules_on_all_states() {
    for toy in toys() {
        let at: Vec<usize> = (0..=30).collect();
        let points = |index: usize, answer: &str| {
            let chain = json!({ "qalign": { "steps": 30, "beta": toy.beta, "answer": answer, "at": at } });
            trace(&toy, &method(chain), index).curve
        };
        for index in 0..6 {
            // The last state after every number of steps: the chain, repeats and all.
            let states: Vec<Vec<u32>> = points(index, "last").into_iter().map(|point| point.ids).collect();
            let texts: Vec<String> = states.iter().map(|ids| answer(ids)).collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            let (votes, alike) = (points(index, "vote"), points(index, "mbr"));
            for n in 1..=states.len() {
                let vote = majority(&texts[..n]).expect("states");
                assert_eq!(votes[n - 1].answer.as_deref(), Some(vote.answer.as_str()));
                assert_eq!(votes[n - 1].ids, states[vote.index]);
                let best = mbr(&vec![1.0; n], |i, j| rouge1_f1(&states[i], &states[j])).expect("states");
                let score = |ids: &[u32]| best.scores[states.iter().position(|s| s == ids).expect("a state")];
                assert!((score(&alike[n - 1].ids) - best.scores[best.index]).abs() < 1e-12);
            }
        }
    }
}

/// Refuses to score a completion twice.
struct Once<'a> {
    inner: generate::tabular::TabularReward,
    seen: &'a RefCell<Vec<Vec<u32>>>,
}

impl Reward for Once<'_> {
    fn name(&self) -> &'static str {
        "once"
    }
    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        for candidate in candidates {
            let ids = candidate.ids.to_vec();
            assert!(!self.seen.borrow().contains(&ids), "{ids:?} was scored before");
            self.seen.borrow_mut().push(ids);
        }
        self.inner.rewards(candidates)
    }
    fn ledger(&self) -> &Ledger {
        self.inner.ledger()
    }
}

#[test]
fn a_completion_is_scored_once() {
    let toy = toys().remove(2);
    let seen = RefCell::new(Vec::new());
    let mut reward = Once { inner: toy.reward(), seen: &seen };
    let mut engine = Engine::new(&toy.base, Sampling::default()).expect("settings");
    let chain = method(json!({ "qalign": { "steps": 50, "chains": 3 } }));
    let machine = chain.machine(&toy.tools()).expect("a machine");
    let mut services = Services::new(&mut engine).with_reward(Some(&mut reward));
    let given =
        run(&*machine, &prompts([0]), &[stream(0)], &mut services, &mut Chance::Streams, &mut |_| true)
            .expect("the toy fits")
            .expect("nothing stops it");
    let trace: Trace = serde_json::from_value(given[0].trace.clone()).expect("a trace");
    let calls = trace.curve[trace.curve.len() - 1].reward_calls;
    assert_eq!(calls as usize, seen.borrow().len());
    assert!(calls < 31, "151 completions were proposed, and there are only 31 different ones");
    assert_eq!(trace.rates.proposals, 150);
    assert!(trace.rates.accepted > trace.rates.changed, "proposals that change nothing are accepted");
}

#[test]
fn long_chains_and_weighted_votes_estimate_one_thing() {
    for toy in toys() {
        let chain = method(json!({ "qalign": { "steps": 300, "chains": 64, "beta": toy.beta } }));
        let trace = trace(&toy, &chain, 0);
        let mut truth = std::collections::BTreeMap::<String, f64>::new();
        for (ids, p) in toy.sequences().iter().zip(toy.law("tilted")) {
            *truth.entry(answer(ids)).or_default() += p;
        }
        let total: f64 = trace.votes.iter().map(|(_, weight)| weight).sum();
        assert_eq!(total, 64.0 * 301.0);
        // All sequences in proportion to their probability stand for an infinite pool.
        let (ids, base) = (toy.sequences(), toy.law("base"));
        let texts: Vec<String> = ids.iter().map(|ids| answer(ids)).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let shifted: Vec<f64> = toy.rewards.iter().zip(&base).map(|(r, p)| r + toy.beta * p.ln()).collect();
        let weighted = weighted_majority(&texts, &shifted, toy.beta).expect("a pool");
        for (answer, p) in &truth {
            let share =
                trace.votes.iter().find(|(a, _)| a == answer).map_or(0.0, |(_, weight)| weight / total);
            assert!((share - p).abs() < 0.03, "{} {answer:?}: {share} against {p}", toy.name);
            let exact = weighted.totals.iter().find(|(a, _)| a == answer).expect("an answer").1;
            assert!((exact - p).abs() < 1e-9);
        }
        let kl = toy.case["summary"]["tilted"]["kl_to_base"].as_f64().expect("a number");
        let importance = trace.importance.expect("many base samples");
        assert!(importance.samples > 1000 && (importance.kl - kl).abs() < 0.1, "{importance:?} against {kl}");
        let acceptance = toy.case["chains"]["qalign"]["acceptance_rate"].as_f64().expect("a number");
        assert!((trace.rates.acceptance().expect("proposals") - acceptance).abs() < 0.03, "{}", toy.name);
        assert!(
            trace.rhat.value.expect("defined") < 1.1 && trace.warnings.is_empty(),
            "{:?}",
            trace.warnings
        );
        let by_cut: u64 = trace.by_cut.iter().map(|rates| rates.proposals).sum();
        assert_eq!(by_cut, trace.rates.proposals);
        assert_eq!(trace.rewards.len(), 301);
        assert!(trace.rewards[300] > trace.rewards[0], "the mean reward rises from the base's");
    }
}

#[test]
fn chains_that_cannot_have_mixed_say_so() {
    let toy = toys().remove(0);
    let cold = trace(&toy, &method(json!({ "qalign": { "steps": 3, "chains": 8, "beta": 0.01 } })), 1);
    assert!(cold.warnings.iter().any(|w| w.contains("cannot have mixed")), "{:?}", cold.warnings);
    assert!(cold.importance.expect("eight first draws").ess < 2.0);
    let short = trace(&toy, &method(json!({ "qalign": { "steps": 2 } })), 3);
    assert_eq!(short.rhat.value, None);
    assert!(short.rhat.reason.expect("a reason").contains("too short"));
}

#[test]
fn one_base_sample_says_nothing_of_the_target() {
    let toy = toys().remove(0);
    let mut seen = 0;
    for index in 0..20 {
        let answer = toy
            .answers(&method(json!({ "qalign": { "steps": 1 } })), &prompts([index]), &mut Chance::Streams)
            .remove(0);
        let trace: Trace = serde_json::from_value(answer.trace).expect("a trace");
        assert!(answer.kl.is_none() && trace.kl_reason.is_some());
        seen += usize::from(trace.importance.is_none());
    }
    assert!(seen > 0 && seen < 20, "a move that keeps nothing is a second base sample");
}

#[test]
fn no_divergence_of_another_law_is_given_for_the_answer_of_a_chain() {
    let toy = toys().remove(0);
    let reasons: [(Value, &str); 6] = [
        (json!({ "qalign": { "steps": 8 } }), "an answer, not a text"),
        (json!({ "qalign": { "steps": 8, "answer": "mbr" } }), "compares samples"),
        (json!({ "qalign": { "steps": 8, "answer": "best" } }), "no draw from the target"),
        (json!({ "independence-mh": { "steps": 8, "answer": "last" } }), "nearly the target"),
        (json!({ "random-cut": { "steps": 8, "answer": "vote", "beta": 0.5 } }), "an answer, not a text"),
        (json!({ "power": { "steps": 8, "answer": "last" } }), "nearly the target"),
    ];
    for (settings, why) in reasons {
        let answer = toy.answers(&method(settings.clone()), &prompts([0]), &mut Chance::Streams).remove(0);
        let trace: Trace = serde_json::from_value(answer.trace).expect("a trace");
        assert_eq!(answer.kl, None, "{settings}");
        assert!(trace.kl_reason.expect("a reason").contains(why), "{settings}");
        assert!(trace.target.is_some(), "{settings}");
    }
}

/// A reward with an infinity.
struct Infinite(Ledger);

impl Reward for Infinite {
    fn name(&self) -> &'static str {
        "infinite"
    }
    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        Ok(vec![f64::NEG_INFINITY; candidates.len()])
    }
    fn ledger(&self) -> &Ledger {
        &self.0
    }
}

#[test]
fn infinite_rewards_are_refused_where_they_make_no_law() {
    let toy = toys().remove(0);
    let attempt = |value| {
        let mut reward = Infinite(Ledger::default());
        let mut engine = Engine::new(&toy.base, Sampling::default()).expect("settings");
        let machine = method(value).machine(&toy.tools()).expect("a machine");
        let mut services = Services::new(&mut engine).with_reward(Some(&mut reward));
        run(&*machine, &prompts([4]), &[stream(4)], &mut services, &mut Chance::Streams, &mut |_| true)
    };
    let refusal = attempt(json!({ "qalign": {} })).expect_err("no law").to_string();
    assert!(refusal.starts_with("method qalign: prompt 4: a reward is -inf"), "{refusal}");
    let refusal = attempt(json!({ "weighted-majority": {} })).expect_err("no law").to_string();
    assert!(refusal.contains("prompt 4"), "{refusal}");
    assert!(attempt(json!({ "best-of-n": {} })).is_ok(), "ranks are all that best-of-n needs");
}

#[test]
fn states_before_the_burn_in_count_nowhere() {
    let toy = toys().remove(0);
    let run = |burn_in: usize| {
        trace(&toy, &method(json!({ "qalign": { "steps": 5, "chains": 2, "burn_in": burn_in } })), 0)
    };
    for burn_in in [0, 3, 5] {
        let trace = run(burn_in);
        let votes: f64 = trace.votes.iter().map(|(_, weight)| weight).sum();
        assert_eq!(votes, 2.0 * (6 - burn_in) as f64);
        assert_eq!(trace.rewards, run(0).rewards, "the reward trace shows all states");
    }
    assert_eq!(
        run(3).rhat.reason.expect("too short"),
        "chains of 3 states are too short; at least 4 are needed"
    );
    assert_eq!(run(3).answer_ess.expect("a vote").reason, run(3).rhat.reason);
}
