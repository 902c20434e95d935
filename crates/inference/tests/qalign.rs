//! QAlign on tabular policies: the exact kernel from every state, its stationary law, and the machine that runs it.

mod common;

use common::{Toy, assert_law, method, numbers, small, toys};
use generate::tabular::end_of;
use generate::{Chance, Engine, Sample, Sampling, TokenId};
use inference::methods::qalign::{Kernel, Scored};
use objective::draw::{Draw, Exhaustive};
use objective::law::total_variation;
use objective::tabular::stationary;
use serde_json::json;

/// One move from `state`, by the parts that the machine is made of; `accept` decides.
fn proposal(toy: &Toy, state: &[TokenId], draw: &mut dyn Draw) -> Vec<TokenId> {
    let kernel = Kernel { horizon: toy.horizon(), beta: toy.beta };
    let prompt = toy.base.prompt();
    let (mut stream, mut chance) = (common::stream(0), Chance::Replay(draw));
    let cut = kernel.propose(&prompt.ids, state, &mut stream, &mut chance);
    let mut engine = Engine::new(&toy.base, Sampling::default()).expect("settings");
    let suffix = engine.sample(vec![cut.ask], &mut chance).expect("the toy fits").remove(0);
    [&state[..cut.at], &suffix.ids].concat()
}

fn scored(toy: &Toy, ids: &[TokenId]) -> Scored {
    let place = toy.sequences().iter().position(|sequence| sequence == ids).expect("complete");
    Scored { len: ids.len(), reward: toy.rewards[place] }
}

/// The transition matrix under an acceptance rule, and the rates of accepted and of changed states from each state.
fn transition(toy: &Toy, log_alpha: impl Fn(Scored, Scored) -> f64) -> (Vec<Vec<f64>>, Vec<[f64; 2]>) {
    let mut rows = Vec::new();
    let mut rates = Vec::new();
    for state in toy.sequences() {
        let step = |draw: &mut dyn Draw| {
            let new = proposal(toy, &state, draw);
            let accepted = new == state || draw.accept(log_alpha(scored(toy, &state), scored(toy, &new)));
            (if accepted { new } else { state.clone() }, accepted)
        };
        let mut rate = [0.0; 2];
        let law = Exhaustive::law(step).expect("finite");
        let mut row = vec![0.0; toy.sequences().len()];
        for ((to, accepted), p) in law {
            rate[0] += if accepted { p } else { 0.0 };
            rate[1] += if to == state { 0.0 } else { p };
            row[toy.sequences().iter().position(|sequence| *sequence == to).expect("complete")] += p;
        }
        rows.push(row);
        rates.push(rate);
    }
    (rows, rates)
}

#[test]
fn the_kernel_from_every_state_is_exact_and_its_law_is_the_target() {
    for toy in toys() {
        let kernel = Kernel { horizon: toy.horizon(), beta: toy.beta };
        let (rows, rates) = transition(&toy, |current, new| kernel.log_alpha(current, new));
        let fixture = &toy.case["chains"]["qalign"];
        for (row, want) in rows.iter().zip(fixture["transition"].as_array().expect("a matrix")) {
            assert_law(&toy.name, row, &numbers(want), 2e-6);
        }
        let law = stationary(&rows).expect("irreducible");
        assert_law(&toy.name, &law, &toy.law("tilted"), 1e-5);
        for (k, key) in ["acceptance_rate", "changed_state_rate"].into_iter().enumerate() {
            let rate: f64 = law.iter().zip(&rates).map(|(p, rate)| p * rate[k]).sum();
            let want = fixture[key].as_f64().expect("a number");
            assert!((rate - want).abs() < 1e-5, "{} {key}: {rate} against {want}", toy.name);
        }
    }
}

#[test]
fn without_the_length_ratio_the_law_is_another() {
    for toy in toys() {
        let target = toy.law("tilted");
        let distance = |power: f64| {
            let (rows, _) = transition(&toy, |current, new| {
                (new.reward - current.reward) / toy.beta + power * (current.len as f64 / new.len as f64).ln()
            });
            total_variation(&stationary(&rows).expect("irreducible"), &target)
        };
        assert!(distance(1.0) < 1e-5, "{}", toy.name);
        let (none, inverted) = (distance(0.0), distance(-1.0));
        assert!(none > 0.05 && inverted > 0.05, "{}: {none} without, {inverted} inverted", toy.name);
    }
}

/// `law · P^steps` with the reference kernel.
fn after(toy: &Toy, steps: usize) -> Vec<f64> {
    let kernel =
        objective::tabular::Chain::QAlign.kernel(toy.base.lm(), &toy.rewards, toy.beta).expect("a kernel");
    let mut law = toy.base.lm().law().expect("a law");
    for _ in 0..steps {
        law = (0..law.len())
            .map(|to| law.iter().zip(&kernel.transition).map(|(p, row)| p * row[to]).sum())
            .collect();
    }
    law
}

#[test]
fn the_machine_moves_by_the_kernel() {
    let last = |toy: &Toy, steps: usize| {
        toy.law_of(&method(json!({ "qalign": { "steps": steps, "beta": toy.beta, "answer": "last" } })))
    };
    for toy in toys() {
        assert_law(&toy.name, &last(&toy, 1), &after(&toy, 1), 2e-6);
    }
    let toy = small();
    assert_law(&toy.name, &last(&toy, 2), &after(&toy, 2), 2e-6);
}

#[test]
fn chains_of_a_prompt_add_independent_votes() {
    let toy = small();
    let moments = |chains: usize| {
        let chain = method(json!({ "qalign": { "steps": 1, "beta": toy.beta, "chains": chains } }));
        let votes_for_zero = |draw: &mut dyn Draw| {
            let votes = toy.replay(&chain, draw).trace["votes"].as_array().expect("votes").clone();
            let x = votes
                .iter()
                .find(|vote| vote[0] == "0")
                .map_or(0.0, |vote| vote[1].as_f64().expect("a weight"));
            vec![x, x * x]
        };
        let mean = Exhaustive::mean(votes_for_zero).expect("finite");
        (mean[0], mean[1] - mean[0] * mean[0])
    };
    let (one, two) = (moments(1), moments(2));
    assert!((two.0 - 2.0 * one.0).abs() < 1e-9 && (two.1 - 2.0 * one.1).abs() < 1e-9, "{one:?} {two:?}");
    // A chain votes by its first draw and by its state after one move.
    let states = after(&toy, 0).into_iter().zip(after(&toy, 1));
    let zeros = toy.sequences().into_iter().zip(states).filter(|(ids, _)| common::answer(ids) == "0");
    let want: f64 = zeros.map(|(_, (first, second))| first + second).sum();
    assert!((one.0 - want).abs() < 1e-5, "{} against {want}", one.0);
}

#[test]
fn rao_blackwell_votes_have_the_same_mean_and_less_variance() {
    let toy = small();
    let moments = |rao_blackwell: bool| {
        let chain = method(
            json!({ "qalign": { "steps": 2, "beta": toy.beta, "burn_in": 1, "rao_blackwell": rao_blackwell } }),
        );
        let zero = |draw: &mut dyn Draw| {
            let trace = toy.replay(&chain, draw).trace;
            let votes = trace["votes"].as_array().expect("votes").clone();
            let total: f64 = votes.iter().map(|vote| vote[1].as_f64().expect("a weight")).sum();
            assert!((total - 2.0).abs() < 1e-12, "one vote for each state after the burn-in");
            let x = votes
                .iter()
                .find(|vote| vote[0] == "0")
                .map_or(0.0, |vote| vote[1].as_f64().expect("a weight"));
            vec![x, x * x]
        };
        let mean = Exhaustive::mean(zero).expect("finite");
        (mean[0], mean[1] - mean[0] * mean[0])
    };
    let (plain, rao) = (moments(false), moments(true));
    assert!((plain.0 - rao.0).abs() < 1e-12, "{plain:?} {rao:?}");
    assert!(rao.1 < plain.1 - 1e-3, "{plain:?} {rao:?}");
}

#[test]
fn completions_end_as_they_should() {
    let toy = toys().remove(0);
    for row in 0..50 {
        let prompt = generate::Prompt::from_ids(row, vec![2]);
        let chain = method(json!({ "qalign": { "steps": 5, "answer": "last" } }));
        let given = toy.answers(&chain, &[prompt], &mut Chance::Streams).remove(0);
        assert!(given.ids.len() <= toy.horizon() && toy.base.lm().space().is_complete(&given.ids));
        assert_eq!(given.end, end_of(&given.ids, 2));
    }
}
