//! Chains on tabular policies: the exact law of one move of the shipped machine from every state, its stationary law
//! against the target for every option, and the wrong variants of public code, which miss it.

#[path = "../common/mod.rs"]
mod common;
mod kernels;
mod runs;
mod variants;

use std::cell::RefCell;
use std::collections::BTreeMap;

use common::{Toy, assert_law, method, middle, numbers, small, toys};
use generate::completion::End;
use generate::schedule::Machine;
use generate::tabular::end_of;
use generate::{
    Ask, Chance, Completion, Engine, Prompt, Reply, Reward, Sample, SampleAsk, Sampling, Score, TokenId,
};
use inference::chain::{CutLaw, Kernel, Law, Scored, Trace};
use inference::{Method, MethodConfig, Parts};
use objective::draw::{Draw, Exhaustive};
use objective::law::total_variation;
use objective::tabular::stationary;
use serde_json::{Value, json};

/// Logits are `f32`.
const TOLERANCE: f64 = 2e-6;
/// A stationary law amplifies errors of its kernel.
const STATIONARY: f64 = 1e-5;
/// What misses a target on a toy misses it by more than this; on the toy that shows it best, by more than [`WORST`].
const MISSED: f64 = 3e-3;
const WORST: f64 = 0.02;

type Ids = Vec<TokenId>;

/// `ids` as a policy at `temperature` would have drawn them.
fn completion(toy: &Toy, temperature: f32, ids: &[TokenId]) -> Completion {
    let settings = Sampling { temperature, ..Sampling::default() };
    let (mut row, mut log_probs) = (toy.base.prompt().ids, Vec::new());
    let raw = toy.base.score(&[(&row, ids)]).expect("in the table").remove(0);
    for id in ids {
        let symbols: Vec<[TokenId; 1]> = (0..3).map(|id| [id]).collect();
        let items: Vec<(&[TokenId], &[TokenId])> = symbols.iter().map(|id| (&row[..], &id[..])).collect();
        let mut logits: Vec<f32> =
            toy.base.score(&items).expect("in the table").into_iter().map(|one| one[0]).collect();
        let total = settings.weights(&mut logits);
        log_probs.push((f64::from(logits[*id as usize]) / total).ln() as f32);
        row.push(*id);
    }
    Completion {
        ids: ids.to_vec(),
        end: end_of(ids, 2),
        log_probs,
        raw_log_probs: raw,
        kl: Some(0.0),
        log_z: Vec::new(),
    }
}

/// The states of all rungs that a saved machine is in.
fn states(machine: &dyn Machine) -> Vec<Ids> {
    let state = machine.save().expect("plain data").expect("chains save");
    let slot = |walker: &Value| {
        let slot = walker["state"].as_u64().expect("a number") as usize;
        serde_json::from_value(state["slots"]["all"][slot]["ids"].clone()).expect("ids")
    };
    state["walkers"].as_array().expect("walkers").iter().map(slot).collect()
}

/// Runs the method's own machine: its first draws are `starts`, everything after them is drawn. Gives the states of all
/// rungs after the first move.
fn one_move(
    toy: &Toy,
    config: &MethodConfig,
    temperature: f32,
    starts: &[Ids],
    draw: &mut dyn Draw,
) -> Vec<Ids> {
    let parts = Parts::new(&toy.base);
    let sampling = Sampling { temperature, ..Sampling::default() };
    let drawn_at = config.sampling(sampling.clone()).temperature;
    let mut engine = config.engine(&parts, sampling).expect("an engine");
    let mut reward = toy.reward();
    let prompt = toy.base.prompt();
    let mut machine = config.machine(&toy.tools()).expect("a machine").start(&prompt, common::stream(0));
    let mut chance = Chance::Replay(draw);
    let mut reply = Reply::Start;
    let mut rounds = 0;
    loop {
        reply = match machine.advance(reply, &mut chance).expect("the toy fits") {
            Ask::Sample(asks) if rounds == 0 => {
                rounds += 1;
                assert_eq!(asks.len(), starts.len());
                Reply::Samples(starts.iter().map(|ids| completion(toy, drawn_at, ids)).collect())
            }
            Ask::Sample(asks) if rounds == 1 => {
                rounds += 1;
                Reply::Samples(engine.sample(asks, &mut chance).expect("the toy fits"))
            }
            Ask::Reward(items) => {
                let candidates: Vec<generate::Candidate<'_>> = items
                    .iter()
                    .map(|(ids, end)| generate::Candidate { prompt: &prompt, ids, end: *end })
                    .collect();
                Reply::Rewards(reward.rewards(&candidates).expect("complete strings"))
            }
            Ask::Done(answer) => {
                let states = states(&*machine);
                assert_eq!(states[0], answer.ids);
                return states;
            }
            _ => panic!("one move needs one proposal"),
        };
    }
}

/// The exact kernel of a chain of one step, whose answer is its last state.
fn kernel_of(toy: &Toy, config: &MethodConfig, temperature: f32) -> Vec<Vec<f64>> {
    let row = |state: Ids| {
        let starts = [state];
        let law = Exhaustive::law(|draw| one_move(toy, config, temperature, &starts, draw).remove(0));
        toy.align(law.expect("finite"))
    };
    toy.sequences().into_iter().map(row).collect()
}

fn law_at(toy: &Toy, config: &MethodConfig, temperature: f32) -> Vec<f64> {
    stationary(&kernel_of(toy, config, temperature)).expect("irreducible")
}

fn normalised(weights: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let weights: Vec<f64> = weights.into_iter().collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|w| w / total).collect()
}

/// `p(y) exp(r / beta) / Z` with the policy at `temperature`.
fn tilted(toy: &Toy, temperature: f32, beta: f64) -> Vec<f64> {
    let weight = |(ids, r): (Ids, &f64)| {
        let drawn = completion(toy, temperature, &ids);
        drawn.log_probs.iter().map(|log| f64::from(*log)).sum::<f64>() + r / beta
    };
    normalised(toy.sequences().into_iter().zip(&toy.rewards).map(weight).map(f64::exp))
}

fn powered(toy: &Toy, alpha: f64) -> Vec<f64> {
    normalised(toy.base.lm().law().expect("a law").into_iter().map(|p| p.powf(alpha)))
}

/// A method with one step, whose answer is the last state.
fn last(name: &str, settings: Value) -> MethodConfig {
    let mut table = json!({ "steps": 1, "answer": "last" });
    for (key, value) in settings.as_object().expect("a table") {
        table[key] = value.clone();
    }
    method(json!({ name: table }))
}
