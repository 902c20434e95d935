//! Chains on tabular policies: the exact law of one move of the shipped machine from every state, its stationary law
//! against the target for every option, and the wrong variants of public code, which miss it.

mod common;

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
        let total = settings.weights(&mut logits, &mut Vec::new());
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

#[test]
fn kernels_from_every_state_are_exact_and_their_laws_are_the_targets() {
    for toy in toys() {
        for (name, target) in [("qalign", "tilted"), ("quest", "quest_target")] {
            let rows = kernel_of(&toy, &last(name, json!({ "beta": toy.beta })), 1.0);
            let fixture = &toy.case["chains"][name];
            for (row, want) in rows.iter().zip(fixture["transition"].as_array().expect("a matrix")) {
                assert_law(&format!("{} {name}", toy.name), row, &numbers(want), 5e-6);
            }
            let law = stationary(&rows).expect("irreducible");
            assert_law(&format!("{} {name}", toy.name), &law, &toy.law(target), STATIONARY);
        }
        let base = toy.law("base");
        let power = law_at(&toy, &last("power", json!({ "alpha": 3.0 })), 1.0);
        assert_law("power", &power, &powered(&toy, 3.0), STATIONARY);
        let alone = law_at(&toy, &last("independence-mh", json!({ "beta": toy.beta })), 1.0);
        assert_law("independence-mh", &alone, &toy.law("tilted"), STATIONARY);
        let walk = law_at(&toy, &last("random-cut", json!({})), 1.0);
        let lengths = toy.sequences().into_iter().zip(&base).map(|(ids, p)| ids.len() as f64 * p);
        assert_law("random-cut", &walk, &normalised(lengths), STATIONARY);
    }
}

#[test]
fn every_law_of_cuts_and_number_of_tries_has_the_target() {
    for toy in [small(), middle()] {
        let quest = normalised(toy.rewards.iter().map(|r| (r / toy.beta).exp()));
        for cut in ["uniform", "step-boundaries", "early"] {
            // Every pair of suffixes from every state of the larger toy is too many to run for all.
            let most = if toy.name == "small" || cut == "step-boundaries" { 2 } else { 1 };
            for tries in 1..=most {
                let settings = |key: &str, value: f64| json!({ key: value, "cut": cut, "tries": tries });
                let what = format!("{} {cut} {tries}", toy.name);
                let law = law_at(&toy, &last("qalign", settings("beta", toy.beta)), 1.0);
                assert_law(&what, &law, &tilted(&toy, 1.0, toy.beta), STATIONARY);
                let law = law_at(&toy, &last("quest", settings("beta", toy.beta)), 1.0);
                assert_law(&what, &law, &quest, STATIONARY);
                let law = law_at(&toy, &last("power", settings("alpha", 2.5)), 1.0);
                assert_law(&what, &law, &powered(&toy, 2.5), STATIONARY);
            }
        }
        let alone = last("independence-mh", json!({ "beta": toy.beta, "tries": 2 }));
        assert_law(&toy.name, &law_at(&toy, &alone, 1.0), &tilted(&toy, 1.0, toy.beta), STATIONARY);
    }
    let three = last("qalign", json!({ "beta": 0.7, "tries": 3 }));
    assert_law("three tries", &law_at(&small(), &three, 1.0), &tilted(&small(), 1.0, 0.7), STATIONARY);
}

#[test]
fn the_temperature_is_part_of_the_prior_where_there_is_one() {
    let toy = middle();
    let law = law_at(&toy, &last("qalign", json!({ "beta": toy.beta })), 0.8);
    assert_law("qalign", &law, &tilted(&toy, 0.8, toy.beta), STATIONARY);
    assert!(total_variation(&law, &tilted(&toy, 1.0, toy.beta)) > 0.02);
    let law = law_at(&toy, &last("quest", json!({ "beta": toy.beta })), 0.8);
    assert_law("quest", &law, &normalised(toy.rewards.iter().map(|r| (r / toy.beta).exp())), STATIONARY);
    for temperature in [0.7, 2.5] {
        let law = law_at(&toy, &last("power", json!({ "alpha": 2.5 })), temperature);
        assert_law("power", &law, &powered(&toy, 2.5), STATIONARY);
    }
}

#[test]
fn a_ladder_has_the_product_of_its_targets() {
    let toy = small();
    let sequences = toy.sequences();
    let pairs: Vec<Vec<Ids>> =
        sequences.iter().flat_map(|a| sequences.iter().map(|b| vec![a.clone(), b.clone()])).collect();
    let check = |config: &MethodConfig, low: &[f64], high: &[f64]| {
        let row = |starts: &Vec<Ids>| {
            let law = Exhaustive::law(|draw| one_move(&toy, config, 1.0, starts, draw)).expect("finite");
            let law: BTreeMap<Vec<Ids>, f64> = law.into_iter().collect();
            pairs.iter().map(|pair| law.get(pair).copied().unwrap_or(0.0)).collect::<Vec<f64>>()
        };
        let rows: Vec<Vec<f64>> = pairs.iter().map(row).collect();
        let want: Vec<f64> = low.iter().flat_map(|a| high.iter().map(move |b| a * b)).collect();
        let name = config.info().name;
        assert_law(name, &stationary(&rows).expect("irreducible"), &want, STATIONARY);
    };
    let qalign = method(json!({ "qalign": { "steps": 1, "beta": 0.4, "ladder": [1.5], "answer": "last" } }));
    check(&qalign, &tilted(&toy, 1.0, 0.4), &tilted(&toy, 1.0, 1.5));
    let power = method(json!({ "power": { "steps": 1, "alpha": 3.0, "ladder": [1.0] } }));
    check(&power, &powered(&toy, 3.0), &powered(&toy, 1.0));
}

#[test]
fn a_budget_freezes_the_kernel_of_its_beta() {
    let toy = middle();
    let config = |settings: Value| last("qalign", settings);
    let budget = config(json!({ "beta": 0.05, "kl_budget": 0.3, "pilot": 3 }));
    let sequences = toy.sequences();
    for start in [0, 4, 9] {
        let starts: Vec<Ids> = [start, 7, 12].map(|place: usize| sequences[place].clone()).to_vec();
        let rewards: Vec<f64> = [start, 7, 12].map(|place| toy.rewards[place]).to_vec();
        // A slow and obvious search for the least beta of this pilot.
        let kl = |beta: f64| inference::selection::importance(&rewards, beta).expect("rewards").1.kl;
        let beta = (0..400_000).map(|i| 0.05 + f64::from(i) * 1e-5).find(|beta| kl(*beta) <= 0.3);
        let plain = config(json!({ "beta": beta.expect("a beta") }));
        let law = |config: &MethodConfig, starts: &[Ids]| {
            let law = Exhaustive::law(|draw| one_move(&toy, config, 1.0, starts, draw).remove(0));
            toy.align(law.expect("finite"))
        };
        assert_law("frozen", &law(&budget, &starts), &law(&plain, &starts[..1]), 1e-4);
    }
}

/// What a rule of public code looks at.
struct Seen {
    ids: Ids,
    reward: f64,
    /// Log-probability of the tokens from the cut on, at temperature 1.
    suffix: Vec<f64>,
}

impl Seen {
    fn len(&self) -> f64 {
        self.ids.len() as f64
    }

    fn mean(&self) -> f64 {
        self.suffix.iter().sum::<f64>() / self.suffix.len() as f64
    }

    fn sum(&self) -> f64 {
        self.suffix.iter().sum()
    }

    /// Tokens without the end symbol, at least one.
    fn without_eos(&self) -> usize {
        self.ids.iter().filter(|id| **id != 2).count().max(1)
    }
}

fn seen(toy: &Toy, ids: &[TokenId], cut: usize) -> Seen {
    let place = toy.sequences().iter().position(|sequence| sequence == ids).expect("complete");
    let logs = &completion(toy, 1.0, ids).log_probs[cut..];
    let suffix = logs.iter().map(|log| f64::from(*log)).collect();
    Seen { ids: ids.to_vec(), reward: toy.rewards[place], suffix }
}

/// The kernel of a variant: its cuts, its tries, and `ln v` of an old and a new text relative to each other; with
/// `accepted_only`, the law of the accepted proposals.
struct Variant<'a> {
    temperature: f32,
    cuts: &'a dyn Fn(&Seen) -> usize,
    tries: usize,
    log_alpha: &'a dyn Fn(&Seen, &Seen, usize) -> f64,
}

impl Variant<'_> {
    fn kernel(&self, toy: &Toy) -> (Vec<Vec<f64>>, Vec<Vec<f64>>) {
        let place = |ids: &Ids| toy.sequences().iter().position(|s| s == ids).expect("complete");
        let (mut all, mut moves) = (Vec::new(), Vec::new());
        for state in toy.sequences() {
            let step = |draw: &mut dyn Draw| {
                let at = draw.below((self.cuts)(&seen(toy, &state, 0)));
                let sampling = Sampling { temperature: self.temperature, ..Sampling::default() };
                let mut engine = Engine::new(&toy.base, sampling).expect("settings");
                let ask = |_| SampleAsk {
                    prefix: [&toy.base.prompt().ids[..], &state[..at]].concat(),
                    prompt_len: 1,
                    budget: toy.horizon() - at,
                    stream: common::stream(0),
                };
                let asks = (0..self.tries).map(ask).collect();
                let drawn = engine.sample(asks, &mut Chance::Replay(draw)).expect("the toy fits");
                let old = seen(toy, &state, at);
                let news: Vec<Ids> = drawn.iter().map(|new| [&state[..at], &new.ids].concat()).collect();
                let odds: Vec<f64> =
                    news.iter().map(|new| (self.log_alpha)(&old, &seen(toy, new, at), at)).collect();
                let chosen = if self.tries == 1 { 0 } else { draw.pick(&odds) };
                let total: f64 = odds.iter().map(|odds| odds.exp()).sum();
                let log_alpha = (total / (total - odds[chosen].exp() + 1.0)).ln();
                let accepted = draw.accept(if self.tries == 1 { odds[0] } else { log_alpha });
                (if accepted { news[chosen].clone() } else { state.clone() }, accepted)
            };
            let (mut to, mut accepts) = (vec![0.0; toy.sequences().len()], vec![0.0; toy.sequences().len()]);
            for ((ids, accepted), p) in Exhaustive::law(step).expect("finite") {
                to[place(&ids)] += p;
                accepts[place(&ids)] += if accepted { p } else { 0.0 };
            }
            all.push(to);
            moves.push(accepts);
        }
        (all, moves)
    }

    /// Distance of the stationary law to `target`.
    fn misses(&self, toy: &Toy, target: &[f64]) -> f64 {
        total_variation(&stationary(&self.kernel(toy).0).expect("irreducible"), target)
    }
}

#[test]
fn variants_of_public_code_miss_the_target_of_qalign() {
    let mut worst = [0.0_f64; 4];
    for toy in toys() {
        let (beta, target) = (toy.beta, toy.law("tilted"));
        let all = |old: &Seen| old.ids.len();
        let gain = |old: &Seen, new: &Seen| (new.reward - old.reward) / beta;
        let one = |cuts: &dyn Fn(&Seen) -> usize, log_alpha: &dyn Fn(&Seen, &Seen, usize) -> f64| {
            Variant { temperature: 1.0, cuts, tries: 1, log_alpha }.misses(&toy, &target)
        };
        let right = |old: &Seen, new: &Seen, _: usize| gain(old, new) + (old.len() / new.len()).ln();
        assert!(one(&all, &right) < STATIONARY, "{}", toy.name);
        let none = one(&all, &|old, new, _| gain(old, new));
        let inverted = one(&all, &|old, new, _| gain(old, new) + (new.len() / old.len()).ln());
        let short = |seen: &Seen| seen.without_eos();
        let ratio = |old: &Seen, new: &Seen| (short(old) as f64 / short(new) as f64).ln();
        let no_eos = one(&short, &|old, new, _| gain(old, new) + ratio(old, new));
        let checked = one(&short, &|old, new, at| {
            if at < short(new) { gain(old, new) + ratio(old, new) } else { f64::NEG_INFINITY }
        });
        assert!(checked < STATIONARY, "{}: {checked} with the support checked", toy.name);
        // Averages over accepted proposals forget how long a state is kept.
        let variant = Variant { temperature: 1.0, cuts: &all, tries: 1, log_alpha: &right };
        let moves = variant.kernel(&toy).1;
        let entered = (0..target.len()).map(|to| target.iter().zip(&moves).map(|(p, row)| p * row[to]).sum());
        let accepted = total_variation(&normalised(entered), &target);
        let missed = [none, inverted, no_eos, accepted];
        assert!(missed.iter().all(|distance| *distance > MISSED), "{}: {missed:?}", toy.name);
        worst = std::array::from_fn(|k| worst[k].max(missed[k]));
    }
    assert!(worst.iter().all(|distance| *distance > WORST), "{worst:?}");
    let toy = middle();
    let several = |power: f64| {
        let log_alpha = |old: &Seen, new: &Seen, _: usize| {
            (new.reward - old.reward) / toy.beta + power * (old.len() / new.len()).ln()
        };
        let all = |old: &Seen| old.ids.len();
        let variant = Variant { temperature: 1.0, cuts: &all, tries: 2, log_alpha: &log_alpha };
        variant.misses(&toy, &tilted(&toy, 1.0, toy.beta))
    };
    assert!(
        several(1.0) < STATIONARY && several(0.0) > MISSED,
        "two tries without the length: {}",
        several(0.0)
    );
}

#[test]
fn variants_of_public_code_miss_the_targets_of_quest_and_power() {
    let mut worst = [0.0_f64; 3];
    for toy in toys() {
        let all = |old: &Seen| old.ids.len();
        let base =
            |old: &Seen, new: &Seen| (new.reward - old.reward) / toy.beta + (old.len() / new.len()).ln();
        let quest = toy.law("quest_target");
        let misses = |temperature: f32, log_alpha: &dyn Fn(&Seen, &Seen, usize) -> f64| {
            Variant { temperature, cuts: &all, tries: 1, log_alpha }.misses(&toy, &quest)
        };
        let summed = |old: &Seen, new: &Seen, _: usize| base(old, new) + old.sum() - new.sum();
        assert!(misses(1.0, &summed) < STATIONARY, "{}", toy.name);
        let mean = misses(1.0, &|old, new, _| base(old, new) + old.mean() - new.mean());
        let untempered = misses(0.8, &summed);
        // Power sampling without the length ratio, drawing at temperature 1.
        let alpha = 3.0;
        let rule = |old: &Seen, new: &Seen, power: f64| {
            (alpha - 1.0) * (new.sum() - old.sum()) + power * (old.len() / new.len()).ln()
        };
        let misses = |power: f64| {
            let log_alpha = |old: &Seen, new: &Seen, _: usize| rule(old, new, power);
            Variant { temperature: 1.0, cuts: &all, tries: 1, log_alpha: &log_alpha }
                .misses(&toy, &powered(&toy, alpha))
        };
        assert!(misses(1.0) < STATIONARY, "{}", toy.name);
        let missed = [mean, untempered, misses(0.0)];
        assert!(missed.iter().all(|distance| *distance > MISSED), "{}: {missed:?}", toy.name);
        worst = std::array::from_fn(|k| worst[k].max(missed[k]));
    }
    assert!(worst.iter().all(|distance| *distance > WORST), "{worst:?}");
}

#[test]
fn several_tries_move_the_chain_faster() {
    // From any start, the distance to the target after a move is less on average.
    let toy = middle();
    let target = tilted(&toy, 1.0, toy.beta);
    let far = |tries: usize| {
        let rows = kernel_of(&toy, &last("qalign", json!({ "beta": toy.beta, "tries": tries })), 1.0);
        rows.iter().zip(&target).map(|(row, p)| p * total_variation(row, &target)).sum::<f64>()
    };
    let (one, two) = (far(1), far(2));
    assert!(two < one - 0.03, "{one} with one try, {two} with two");
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
fn the_machine_moves_by_the_kernel_from_its_first_draw() {
    let last = |toy: &Toy, steps: usize| {
        toy.law_of(&method(json!({ "qalign": { "steps": steps, "beta": toy.beta, "answer": "last" } })))
    };
    for toy in toys() {
        assert_law(&toy.name, &last(&toy, 1), &after(&toy, 1), TOLERANCE);
    }
    let toy = small();
    assert_law(&toy.name, &last(&toy, 2), &after(&toy, 2), TOLERANCE);
}

/// Total weight and weight of the answer "0" in a vote.
fn zero_of(trace: &Value) -> (f64, f64) {
    let votes = trace["votes"].as_array().expect("votes");
    let weight = |vote: &Value| vote[1].as_f64().expect("a weight");
    let zero = votes.iter().find(|vote| vote[0] == "0").map_or(0.0, weight);
    (votes.iter().map(weight).sum(), zero)
}

/// Mean and variance of the votes for "0".
fn moments(toy: &Toy, config: &MethodConfig, total: f64) -> (f64, f64) {
    let votes = |draw: &mut dyn Draw| {
        let (all, zero) = zero_of(&toy.replay(config, draw).trace);
        assert!((all - total).abs() < 1e-12, "one vote for each state that counts");
        vec![zero, zero * zero]
    };
    let mean = Exhaustive::mean(votes).expect("finite");
    (mean[0], mean[1] - mean[0] * mean[0])
}

#[test]
fn chains_of_a_prompt_add_independent_votes() {
    let toy = small();
    let of = |chains: usize| {
        let chain = method(json!({ "qalign": { "steps": 1, "beta": toy.beta, "chains": chains } }));
        moments(&toy, &chain, 2.0 * chains as f64)
    };
    let (one, two) = (of(1), of(2));
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
    for (name, steps, tries) in
        [("qalign", 2, 1), ("qalign", 1, 2), ("quest", 1, 2), ("independence-mh", 1, 2)]
    {
        let of = |rao_blackwell: bool| {
            let settings = json!({
                "steps": steps, "beta": toy.beta, "burn_in": 1, "tries": tries, "answer": "vote",
                "rao_blackwell": rao_blackwell
            });
            moments(&toy, &method(json!({ name: settings })), f64::from(steps))
        };
        let (plain, rao) = (of(false), of(true));
        assert!((plain.0 - rao.0).abs() < 1e-12, "{name}: {plain:?} {rao:?}");
        assert!(rao.1 < plain.1 - 1e-3, "{name}: {plain:?} {rao:?}");
    }
}

#[test]
fn a_decided_vote_stops_with_the_answer_of_the_whole_run() {
    let toy = small();
    let config =
        |stop: bool| method(json!({ "qalign": { "steps": 2, "beta": toy.beta, "stop_when_decided": stop } }));
    assert_law("law", &toy.law_of(&config(true)), &toy.law_of(&config(false)), 1e-12);
    let toy = toys().remove(0);
    let (mut stopped, mut drawn) = (0, (0, 0));
    for index in 0..60 {
        let run = |stop: bool, rao_blackwell: bool| {
            let chain = method(json!({ "qalign": {
                "steps": 20, "beta": 0.3, "chains": 2, "at": [5, 15], "stop_when_decided": stop,
                "rao_blackwell": rao_blackwell
            } }));
            let answer =
                toy.answers(&chain, &[Prompt::from_ids(index, vec![2])], &mut Chance::Streams).remove(0);
            (answer.ids, serde_json::from_value::<Trace>(answer.trace).expect("a trace"))
        };
        for rao_blackwell in [false, true] {
            let ((whole, long), (early, short)) = (run(false, rao_blackwell), run(true, rao_blackwell));
            assert_eq!(whole, early, "prompt {index}");
            assert_eq!(short.steps < 20, short.decided_at.is_some());
            assert_eq!(long.decided_at, None);
            let steps = |trace: &Trace| trace.curve.iter().map(|point| point.steps).collect::<Vec<_>>();
            assert_eq!((steps(&long), steps(&short)), (vec![5, 15, 20], vec![5, 15, 20]));
            stopped += usize::from(short.decided_at.is_some());
            drawn.0 += long.curve[2].drawn_tokens;
            drawn.1 += short.curve[2].drawn_tokens;
        }
    }
    assert!(stopped > 60 && drawn.1 * 10 < drawn.0 * 9, "{stopped} of 120 stopped, {drawn:?} tokens");
}

#[test]
fn weighted_votes_of_a_walk_estimate_the_target_of_qalign() {
    let toy = toys().remove(0);
    let walk =
        method(json!({ "random-cut": { "steps": 400, "chains": 64, "answer": "vote", "beta": toy.beta } }));
    let prompt = Prompt::from_ids(0, vec![2]);
    let trace = toy.answers(&walk, &[prompt], &mut Chance::Streams).remove(0).trace;
    let (all, zero) = zero_of(&trace);
    let of_zero = toy.sequences().into_iter().zip(toy.law("tilted"));
    let want: f64 = of_zero.filter(|(ids, _)| common::answer(ids) == "0").map(|(_, p)| p).sum();
    assert!((zero / all - want).abs() < 0.03, "{} against {want}", zero / all);
}

#[test]
fn moves_are_recorded_as_they_were_made() {
    let toy = toys().remove(0);
    let chain = method(json!({ "qalign": {
        "steps": 12, "chains": 2, "ladder": [1.0, 3.0], "tries": 2, "answer": "last", "record_moves": true
    } }));
    let plain =
        method(json!({ "qalign": { "steps": 12, "chains": 2, "answer": "last", "record_moves": true } }));
    let prompt = Prompt::from_ids(3, vec![2]);
    let answer = toy.answers(&chain, std::slice::from_ref(&prompt), &mut Chance::Streams).remove(0);
    let trace: Trace = serde_json::from_value(answer.trace).expect("a trace");
    assert_eq!(trace.moves.len(), 12 * 6);
    assert_eq!(trace.rungs.iter().map(|rung| rung.parameter).collect::<Vec<_>>(), [0.5, 1.0, 3.0]);
    for (number, rung) in trace.rungs.iter().enumerate() {
        let of = trace.moves.iter().filter(|step| step.rung == number);
        assert_eq!(rung.rates.proposals, 24);
        assert_eq!(rung.rates.accepted, of.filter(|step| step.accepted).count() as u64);
        assert_eq!(rung.swaps.map(|swaps| swaps.proposals), (number < 2).then_some(24));
    }
    assert_eq!(trace.curve[0].samples, 6 + 12 * 6 * 2);
    let answer = toy.answers(&plain, &[prompt], &mut Chance::Streams).remove(0);
    let trace: Trace = serde_json::from_value(answer.trace).expect("a trace");
    let mut accepted = trace.moves.iter().filter(|step| step.chain == 0 && step.accepted);
    assert_eq!(accepted.next_back().map(|step| &step.proposal), Some(&answer.ids));
    assert!(trace.moves.iter().all(|step| step.cut < step.length && step.log_alpha.is_finite()));
}

#[test]
fn completions_end_as_they_should() {
    let toy = toys().remove(0);
    for row in 0..50 {
        let prompt = Prompt::from_ids(row, vec![2]);
        let chain = method(json!({ "qalign": { "steps": 5, "answer": "last" } }));
        let given = toy.answers(&chain, &[prompt], &mut Chance::Streams).remove(0);
        assert!(given.ids.len() <= toy.horizon() && toy.base.lm().space().is_complete(&given.ids));
        assert_eq!(given.end, end_of(&given.ids, 2));
    }
}

#[test]
fn the_parts_are_those_of_the_machine() {
    // The public kernel, by itself: the same acceptance as in the machine.
    let kernel = Kernel { horizon: 4, law: Law::Gibbs { beta: 0.5 }, cut: CutLaw::Uniform, tries: 1 };
    let old = Scored { len: 4, steps: 1, reward: 0.0, log_drawn: -3.0, log_raw: -3.0 };
    let new = Scored { len: 2, steps: 1, reward: 0.5, log_drawn: -1.0, log_raw: -1.0 };
    assert!((kernel.log_alpha(0, &old, &new) - (1.0 + 2_f64.ln() - 2.0)).abs() < 1e-15);
    assert_eq!(kernel.odds(0, &old, &[new]).0, [kernel.log_alpha(0, &old, &new)]);
}

/// A policy that answers without log-probabilities, as an endpoint may.
struct Mute<'a>(RefCell<Engine<'a>>);

impl Sample for Mute<'_> {
    fn sample(
        &mut self,
        asks: Vec<SampleAsk>,
        chance: &mut Chance<'_>,
    ) -> Result<Vec<Completion>, generate::Error> {
        let given = self.0.borrow_mut().sample(asks, chance)?;
        let mute = |one: Completion| Completion { log_probs: Vec::new(), raw_log_probs: Vec::new(), ..one };
        Ok(given.into_iter().map(mute).collect())
    }

    fn ledger(&self) -> &generate::Ledger {
        const NONE: &generate::Ledger = &generate::Ledger {
            decode_tokens: 0,
            prefill_tokens: 0,
            reward_tokens: 0,
            forward_passes: 0,
            reward_calls: 0,
            cached_tokens: 0,
            seconds: 0.0,
        };
        NONE
    }
}

#[test]
fn log_probabilities_are_asked_for_where_they_decide() {
    let toy = toys().remove(0);
    let attempt = |name: &str| {
        let chain = last(name, json!({ "steps": 3 }));
        let mut policy = Mute(RefCell::new(Engine::new(&toy.base, Sampling::default()).expect("settings")));
        let mut reward = toy.reward();
        let mut services = generate::schedule::Services::new(&mut policy).with_reward(Some(&mut reward));
        let machine = chain.machine(&toy.tools()).expect("a machine");
        let (prompts, streams) = ([toy.base.prompt()], [common::stream(0)]);
        generate::schedule::run(
            &*machine,
            &prompts,
            &streams,
            &mut services,
            &mut Chance::Streams,
            &mut |_| true,
        )
    };
    for name in ["quest", "power"] {
        let refusal = attempt(name).expect_err("nothing to weigh by").to_string();
        assert!(refusal.contains("without log-probabilities"), "{refusal}");
    }
    for name in ["qalign", "independence-mh", "random-cut"] {
        let given = attempt(name).expect("text is enough").expect("nothing stops it");
        assert!(matches!(given[0].end, End::Eos | End::Budget));
    }
}
