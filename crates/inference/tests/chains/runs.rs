//! What runs of the machine do: votes, stops, records.

use super::*;

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
            drafted_tokens: 0,
            accepted_tokens: 0,
            parameter_tokens: 0.0,
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
