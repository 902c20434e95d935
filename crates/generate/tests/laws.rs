//! The engine's exact output laws on the tabular policies of `toy.json`, by exhaustive replay.

use std::collections::BTreeMap;

use generate::engine::Limits;
use generate::tabular::Tabular;
use generate::{
    Chance, Completion, End, Engine, NextAsk, Purpose, Sample, SampleAsk, Sampling, Source, Step, Stream,
};
use objective::draw::{Draw, Exhaustive};
use objective::tabular::{TabularLm, TabularTable};
use serde_json::Value;

fn toys() -> Vec<Value> {
    let toy: Value = serde_json::from_str(include_str!("fixtures/toy.json")).expect("the fixture is JSON");
    toy["cases"].as_array().expect("cases").clone()
}

fn lm(case: &Value, conditionals: &str) -> Tabular {
    let number = |key: &str| case[key].as_u64().expect("a number");
    let table = TabularTable {
        vocab: number("vocab") as _,
        eos: number("eos") as _,
        horizon: number("horizon") as usize,
        conditionals: serde_json::from_value(case[conditionals].clone()).expect("a table"),
    };
    Tabular::new(TabularLm::try_from(table).expect("a law"))
}

fn sequence(value: &Value) -> Vec<u32> {
    if let Some(text) = value.as_str() {
        return text.chars().map(|c| c.to_digit(10).expect("a digit")).collect();
    }
    value.as_array().expect("a list").iter().map(|x| x.as_u64().expect("a symbol") as u32).collect()
}

fn asks(n: usize, budget: usize) -> Vec<SampleAsk> {
    let row = |row| SampleAsk {
        prefix: vec![2],
        prompt_len: 1,
        budget,
        stream: Stream::new(0, Purpose::Sample, 0, row as u64),
    };
    (0..n).map(row).collect()
}

fn assert_law(got: Vec<(Vec<u32>, f64)>, case: &Value, name: &str) {
    let got: BTreeMap<Vec<u32>, f64> = got.into_iter().collect();
    let sequences = case["sequences"].as_array().expect("sequences");
    let law = case["distributions"][name].as_array().expect("a law");
    for (ids, p) in sequences.iter().zip(law) {
        let (ids, p) = (sequence(ids), p.as_f64().expect("a probability"));
        let ours = got.get(&ids).copied().unwrap_or(0.0);
        assert!((ours - p).abs() < 2e-6, "{name} {ids:?}: {ours} against {p}");
    }
}

fn one(engine: &mut Engine<'_>, draw: &mut dyn Draw) -> Completion {
    let mut given = engine.sample(asks(1, 4), &mut Chance::Replay(draw)).expect("the toy fits");
    given.remove(0)
}

#[test]
fn sampling_follows_the_base() {
    for case in toys() {
        let base = lm(&case, "base_conditionals");
        let law = Exhaustive::law(|draw| {
            let mut engine = Engine::new(&base, Sampling::default()).expect("settings");
            one(&mut engine, draw).ids
        });
        assert_law(law.expect("finite"), &case, "base");
    }
}

/// Normalisers are asked for, so that the engine draws itself, from the model's outputs.
#[test]
fn what_a_model_draws_is_what_is_drawn_from_its_outputs() {
    let raw = Sampling::default;
    let settings = [
        raw(),
        Sampling::greedy(),
        Sampling { temperature: 0.6, ..raw() },
        Sampling { top_k: 2, ..raw() },
        Sampling { top_p: 0.7, temperature: 1.3, ..raw() },
        Sampling { min_p: 0.4, ..raw() },
    ];
    for (case, settings) in toys().iter().flat_map(|case| settings.each_ref().map(|one| (case, one))) {
        let base = lm(case, "base_conditionals");
        let engine = || Engine::new(&base, settings.clone()).expect("settings");
        let sample = |engine: Engine<'_>| {
            let mut engine = engine.with_limits(Limits { rows: 7, ..Limits::default() });
            engine.sample(asks(60, 4), &mut Chance::Streams).expect("the toy fits")
        };
        let (within, mut here) = (sample(engine()), sample(engine().with_log_z()));
        for completion in &mut here {
            completion.log_z.clear();
        }
        assert_eq!(within, here, "{settings:?}");
        assert!(settings.temperature == 0.0 || within.iter().any(|one| one.ids != within[0].ids));
    }
}

#[test]
fn a_product_follows_genarm_token_by_token() {
    for case in toys() {
        let (base, arm) = (lm(&case, "base_conditionals"), lm(&case, "arm_conditionals"));
        let alpha = case["alpha"].as_f64().expect("alpha");
        let guided = |alphas: &[f64]| {
            Exhaustive::law(|draw| {
                let mut sources = vec![Source { policy: &base as &dyn Step, weight: 1.0 }];
                sources.extend(
                    alphas.iter().map(|weight| Source { policy: &arm as &dyn Step, weight: *weight }),
                );
                let mut engine = Engine::product(sources, 0, Sampling::default()).expect("settings");
                one(&mut engine, draw).ids
            })
            .expect("finite")
        };
        assert_law(guided(&[alpha]), &case, "genarm_tokenwise");
        assert_law(guided(&[alpha / 2.0, alpha / 2.0]), &case, "genarm_tokenwise");
        assert_law(guided(&[0.0]), &case, "base");
    }
}

#[test]
fn the_kl_of_completions_is_the_kl_of_the_law() {
    for case in toys() {
        let (base, arm) = (lm(&case, "base_conditionals"), lm(&case, "arm_conditionals"));
        let alpha = case["alpha"].as_f64().expect("alpha");
        let mean = Exhaustive::mean(|draw| {
            let sources = vec![
                Source { policy: &base as &dyn Step, weight: 1.0 },
                Source { policy: &arm, weight: alpha },
            ];
            let mut engine = Engine::product(sources, 0, Sampling::default()).expect("settings");
            let given = one(&mut engine, draw);
            let k1: f64 =
                given.log_probs.iter().zip(&given.raw_log_probs).map(|(q, p)| f64::from(q - p)).sum();
            vec![given.kl.expect("asked for"), k1]
        })
        .expect("finite");
        let expected = case["summary"]["genarm_tokenwise"]["kl"]
            .as_f64()
            .or(case["summary"]["genarm_tokenwise"]["kl_to_base"].as_f64())
            .expect("a number");
        assert!((mean[0] - expected).abs() < 1e-5, "Rao–Blackwell: {} against {expected}", mean[0]);
        assert!((mean[1] - expected).abs() < 1e-5, "k1: {} against {expected}", mean[1]);
    }
}

#[test]
fn normalisers_of_steps_turn_the_product_into_the_sequence_level_optimum() {
    for case in toys() {
        let (base, arm) = (lm(&case, "base_conditionals"), lm(&case, "arm_conditionals"));
        let alpha = case["alpha"].as_f64().expect("alpha");
        for temperature in [1.0_f32, 0.6] {
            let mut weighted: BTreeMap<Vec<u32>, f64> = BTreeMap::new();
            Exhaustive::default()
                .visit(
                    |draw| {
                        let sources = vec![
                            Source { policy: &base as &dyn Step, weight: 1.0 },
                            Source { policy: &arm, weight: alpha },
                        ];
                        let settings = Sampling { temperature, ..Sampling::default() };
                        let mut engine =
                            Engine::product(sources, 0, settings).expect("settings").with_log_z();
                        let given = one(&mut engine, draw);
                        assert_eq!(given.log_z.len(), given.ids.len());
                        (given.ids, given.log_z.iter().sum::<f64>())
                    },
                    |(ids, log_z), p| *weighted.entry(ids).or_default() += p * log_z.exp(),
                )
                .expect("finite");
            // E[Π Z_t 1{y}] is the unnormalised target, so E[Π Z_t] is its sum Z.
            for (ids, weight) in weighted {
                let ids: Vec<_> = ids.iter().map(|id| *id as _).collect();
                let log = |lm: &Tabular| lm.lm().log_prob(&ids).expect("a sequence");
                let want = ((log(&base) + alpha * log(&arm)) / f64::from(temperature)).exp();
                assert!((weight - want).abs() < 2e-6, "{ids:?}: {weight} against {want}");
            }
        }
    }
}

#[test]
fn text_does_not_depend_on_batch_limits_or_order() {
    let case = &toys()[0];
    let (base, arm) = (lm(case, "base_conditionals"), lm(case, "arm_conditionals"));
    let run = |asks: Vec<SampleAsk>, limits: Limits| {
        let sources =
            vec![Source { policy: &base as &dyn Step, weight: 1.0 }, Source { policy: &arm, weight: 0.7 }];
        let mut engine =
            Engine::product(sources, 0, Sampling::default()).expect("settings").with_limits(limits);
        engine.sample(asks, &mut Chance::Streams).expect("the toy fits")
    };
    let together = run(asks(23, 4), Limits::default());
    for limits in [
        Limits { rows: 1, prefill_tokens: 1, kept_tokens: 0, memory: None },
        Limits { rows: 3, prefill_tokens: 2, kept_tokens: 9, memory: None },
    ] {
        assert_eq!(together, run(asks(23, 4), limits));
    }
    let mut reversed = run(asks(23, 4).into_iter().rev().collect(), Limits::default());
    reversed.reverse();
    assert_eq!(together, reversed);
    for (row, ask) in asks(23, 4).into_iter().enumerate() {
        assert_eq!(together[row], run(vec![ask], Limits::default())[0], "row {row} alone");
    }
}

#[test]
fn the_ledger_counts_what_runs() {
    let case = &toys()[0];
    let base = lm(case, "base_conditionals");
    let mut engine = Engine::new(&base, Sampling::default()).expect("settings");
    let given = engine.sample(asks(8, 4), &mut Chance::Streams).expect("the toy fits");
    let drawn: usize = given.iter().map(|completion| completion.ids.len()).sum();
    let ledger = *engine.ledger();
    assert_eq!(ledger.prefill_tokens, 1, "one prompt is filled once for eight rows");
    // The first token of each row comes out of the prefill; the last is never run.
    assert_eq!(ledger.decode_tokens as usize, drawn - 8);
    let continued = SampleAsk {
        prefix: vec![2, given[0].ids[0]],
        prompt_len: 1,
        budget: 3,
        stream: Stream::new(0, Purpose::Sample, 1, 0),
    };
    if given[0].ids.len() > 1 {
        engine.sample(vec![continued], &mut Chance::Streams).expect("the toy fits");
        assert_eq!(engine.ledger().cached_tokens, 1, "all but the last token of the prefix was cached");
    }
}

#[test]
fn next_tokens_are_those_that_are_drawn() {
    let case = &toys()[0];
    let (base, arm) = (lm(case, "base_conditionals"), lm(case, "arm_conditionals"));
    let ask = |completion: &[u32], k| NextAsk { prefix: [&[2], completion].concat(), prompt_len: 1, k };
    let settings = [Sampling::default(), Sampling { temperature: 0.6, top_k: 2, ..Sampling::default() }];
    for settings in settings {
        let sources =
            || vec![Source { policy: &base as &dyn Step, weight: 1.0 }, Source { policy: &arm, weight: 0.5 }];
        let mut engine = Engine::product(sources(), 0, settings.clone()).expect("settings");
        for completion in [vec![], vec![0], vec![1, 0]] {
            let next = engine.next(vec![ask(&completion, 0)]).expect("the toy fits").remove(0);
            let law = Exhaustive::law(|draw| {
                let mut engine = Engine::product(sources(), 0, settings.clone()).expect("settings");
                let stream = Stream::new(0, Purpose::Sample, 0, 0);
                let prefix = ask(&completion, 0).prefix;
                let asks = vec![SampleAsk { prefix, prompt_len: 1, budget: 1, stream }];
                engine.sample(asks, &mut Chance::Replay(draw)).expect("the toy fits").remove(0).ids[0]
            });
            let law: BTreeMap<u32, f64> = law.expect("finite").into_iter().collect();
            assert_eq!(next.len(), law.len(), "what the settings exclude is no candidate");
            for token in &next {
                assert!((token.log_prob.exp() - law[&token.id]).abs() < 1e-6);
                let raw = base.lm().next(&completion).expect("a row")[token.id as usize];
                assert!((token.raw_log_prob - raw).abs() < 1e-6);
                assert_eq!(token.end, (token.id == 2).then_some(End::Eos));
            }
            assert!(next.windows(2).all(|pair| pair[0].log_prob >= pair[1].log_prob), "the likeliest first");
            let fewer = engine.next(vec![ask(&completion, 1)]).expect("the toy fits").remove(0);
            assert_eq!(fewer, next[..1]);
        }
    }
}

#[test]
fn a_longer_prefix_costs_its_new_token() {
    let case = &toys()[0];
    let base = lm(case, "base_conditionals");
    let mut engine = Engine::new(&base, Sampling::default()).expect("settings");
    let mut cost = |completions: &[&[u32]]| {
        let before = *engine.ledger();
        let ask = |ids: &&[u32]| NextAsk { prefix: [&[2][..], ids].concat(), prompt_len: 1, k: 0 };
        engine.next(completions.iter().map(ask).collect()).expect("the toy fits");
        let cost = *engine.ledger() - before;
        (cost.prefill_tokens, cost.decode_tokens, cost.cached_tokens)
    };
    assert_eq!(cost(&[&[]]), (1, 0, 0));
    assert_eq!(cost(&[&[0], &[1]]), (0, 2, 2));
    assert_eq!(cost(&[&[0, 1], &[0, 1], &[1, 1]]), (0, 2, 4), "equal prefixes run once");
}

#[test]
fn rows_pause_behind_a_text() {
    let case = &toys()[0];
    let base = lm(case, "base_conditionals");
    let text = |ids: &[u32]| ids.iter().map(ToString::to_string).collect::<String>();
    let mut engine =
        Engine::new(&base, Sampling::default()).expect("settings").with_decode(text).with_pause("1".into());
    let mut seen = [0; 2];
    for done in engine.sample(asks(60, 4), &mut Chance::Streams).expect("the toy fits") {
        let place = done.ids.iter().position(|id| *id == 1 || *id == 2);
        if let Some(place) = place {
            assert_eq!(place + 1, done.ids.len(), "{done:?}");
            assert_eq!(done.end, if done.ids[place] == 1 { End::Budget } else { End::Eos });
            seen[usize::from(done.ids[place] == 1)] += 1;
        }
    }
    assert!(seen[0] > 5 && seen[1] > 5, "{seen:?}");
    // What lies before the ask does not pause it.
    let stream = Stream::new(0, Purpose::Sample, 0, 3);
    let ask = SampleAsk { prefix: vec![2, 1], prompt_len: 1, budget: 3, stream };
    let more = engine.sample(vec![ask], &mut Chance::Streams).expect("the toy fits").remove(0);
    assert!(!more.ids.is_empty() && more.ids[..more.ids.len() - 1].iter().all(|id| *id != 1));
}

#[test]
fn refusals_name_what_is_wrong() {
    let case = &toys()[0];
    let base = lm(case, "base_conditionals");
    let mut engine = Engine::new(&base, Sampling::default()).expect("settings");
    let mut refused = |prefix: Vec<u32>, budget| {
        let stream = Stream::new(0, Purpose::Sample, 0, 0);
        let ask = SampleAsk { prefix, prompt_len: 1, budget, stream };
        engine.sample(vec![ask], &mut Chance::Streams).expect_err("a bad ask").to_string()
    };
    assert!(refused(vec![], 1).contains("empty prefix"));
    assert!(refused(vec![9], 1).contains("token id 9 at position 0"));
    assert!(refused(vec![2], 9).contains("needs 10 tokens of context, but tabular has 5"));
    assert!(refused(vec![2], 0).contains("budget = 0"));
}

#[test]
fn a_draft_changes_no_law_however_good_or_bad_it_is() {
    for case in toys() {
        let (base, arm) = (lm(&case, "base_conditionals"), lm(&case, "arm_conditionals"));
        let alpha = case["alpha"].as_f64().expect("alpha");
        let product = |settings: Sampling| {
            let sources = vec![
                Source { policy: &base as &dyn Step, weight: 1.0 },
                Source { policy: &arm, weight: alpha },
            ];
            Engine::product(sources, 0, settings).expect("settings")
        };
        let of_arm = |settings: Sampling| Engine::new(&arm, settings).expect("settings");
        let hot = Sampling { temperature: 0.7, ..Sampling::default() };
        let narrow = Sampling { top_k: 2, ..Sampling::default() };
        for settings in [Sampling::default(), hot, narrow, Sampling::greedy()] {
            let plain = Exhaustive::law(|draw| {
                let mut engine = product(settings.clone());
                let given = one(&mut engine, draw);
                (given.ids, given.end)
            })
            .expect("finite");
            for tokens in 1..=3 {
                for drafted_by_arm in [true, false] {
                    let mut accepted = 0;
                    let drafted = Exhaustive::law(|draw| {
                        let draft =
                            if drafted_by_arm { of_arm(settings.clone()) } else { product(settings.clone()) };
                        let mut engine =
                            product(settings.clone()).with_draft(draft, tokens).expect("one vocabulary");
                        let given = one(&mut engine, draw);
                        let ledger = engine.ledger();
                        assert!(drafted_by_arm || ledger.accepted_tokens == ledger.drafted_tokens);
                        accepted += ledger.accepted_tokens;
                        (given.ids, given.end)
                    })
                    .expect("finite");
                    assert!(accepted > 0 || settings == Sampling::greedy());
                    let plain: BTreeMap<_, _> = plain.iter().cloned().collect();
                    let drafted: BTreeMap<_, _> = drafted.into_iter().collect();
                    for (text, p) in &plain {
                        let got = drafted.get(text).copied().unwrap_or(0.0);
                        assert!((got - p).abs() < 2e-6, "{text:?}, {tokens} drafted: {got} and not {p}");
                    }
                    let strange: f64 =
                        drafted.iter().filter(|(text, _)| !plain.contains_key(*text)).map(|(_, p)| p).sum();
                    assert!(strange < 2e-6, "{strange}");
                }
            }
        }
    }
}

#[test]
fn what_a_draft_reports_of_each_token_is_what_the_engine_reports_without() {
    for case in toys() {
        let (base, arm) = (lm(&case, "base_conditionals"), lm(&case, "arm_conditionals"));
        let settings = Sampling { temperature: 0.8, ..Sampling::default() };
        let sources =
            || vec![Source { policy: &base as &dyn Step, weight: 1.0 }, Source { policy: &arm, weight: 0.7 }];
        let draft = Engine::new(&arm, settings.clone()).expect("settings");
        let mut engine = Engine::product(sources(), 0, settings.clone())
            .and_then(|engine| engine.with_log_z().with_draft(draft, 2))
            .expect("settings");
        let given = engine.sample(asks(6, 4), &mut Chance::Streams).expect("room");
        // Alone, a row is drawn as in the batch.
        for (row, together) in given.iter().enumerate() {
            let draft = Engine::new(&arm, settings.clone()).expect("settings");
            let mut engine = Engine::product(sources(), 0, settings.clone())
                .and_then(|engine| engine.with_log_z().with_draft(draft, 2))
                .expect("settings");
            let ask = asks(6, 4).remove(row);
            assert_eq!(engine.sample(vec![ask], &mut Chance::Streams).expect("room")[0], *together);
        }
        for completion in &given {
            let mut prefix = vec![2];
            let (mut kl, mut plain) =
                (0.0, Engine::product(sources(), 0, settings.clone()).expect("settings"));
            for (at, id) in completion.ids.iter().enumerate() {
                let ask = NextAsk { prefix: prefix.clone(), prompt_len: 1, k: 0 };
                let next = plain.next(vec![ask]).expect("room").remove(0);
                let token = next.iter().find(|next| next.id == *id).expect("a token that can be drawn");
                assert!((token.log_prob - f64::from(completion.log_probs[at])).abs() < 1e-5);
                assert!((token.raw_log_prob - f64::from(completion.raw_log_probs[at])).abs() < 1e-5);
                kl += next.iter().map(|t| t.log_prob.exp() * (t.log_prob - t.raw_log_prob)).sum::<f64>();
                prefix.push(*id);
            }
            assert!((completion.kl.expect("asked for") - kl).abs() < 1e-5);
            assert_eq!(completion.log_z.len(), completion.ids.len());
        }
    }
}

/// The probability of a string when every token is drawn from what `settings` make of the row and of the
/// tokens before it.
fn penalised(policy: &Tabular, settings: &Sampling, ids: &[u32]) -> f64 {
    let prompt = 2_u32;
    let mut p = 1.0;
    for at in 0..ids.len() {
        let mut logits: Vec<f32> =
            policy.lm().next(&ids[..at]).expect("a row").iter().map(|log| *log as f32).collect();
        let text = [&[prompt], &ids[..at]].concat();
        let (before, size) = (&text, settings.no_repeat_ngram_size);
        for (id, logit) in logits.iter_mut().enumerate() {
            if before.contains(&(id as u32)) {
                let penalty = settings.repetition_penalty;
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
            let ngram = [&before[..], &[id as u32]].concat();
            let repeats = size > 0 && ngram.len() > size && {
                let last = &ngram[ngram.len() - size..];
                before.windows(size).any(|earlier| earlier == last)
            };
            if repeats {
                *logit = f32::NEG_INFINITY;
            }
        }
        let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
        p *= f64::from(logits[ids[at] as usize]).exp() / total;
    }
    p
}

#[test]
fn penalties_of_the_text_make_the_distribution_that_transformers_would_draw_from() {
    let toy = toys().remove(0);
    let base = lm(&toy, "base_conditionals");
    for settings in [
        Sampling { repetition_penalty: 1.7, ..Sampling::default() },
        Sampling { repetition_penalty: 0.6, ..Sampling::default() },
        Sampling { no_repeat_ngram_size: 2, ..Sampling::default() },
        Sampling { repetition_penalty: 1.3, no_repeat_ngram_size: 3, ..Sampling::default() },
    ] {
        let engine = || Engine::new(&base, settings.clone()).expect("settings");
        let check = |law: Vec<(Vec<u32>, f64)>, what: &str| {
            let law: BTreeMap<Vec<u32>, f64> = law.into_iter().collect();
            let mut total = 0.0;
            for ids in base.lm().space().sequences() {
                let (got, want) = (law.get(&ids).copied().unwrap_or(0.0), penalised(&base, &settings, &ids));
                assert!((got - want).abs() < 2e-6, "{what} {settings:?} {ids:?}: {got} against {want}");
                total += want;
            }
            assert!((total - 1.0).abs() < 1e-5, "{total}");
        };
        check(Exhaustive::law(|draw| one(&mut engine(), draw).ids).expect("finite"), "the engine");
        // A draft of another distribution changes nothing.
        let other = lm(&toy, "arm_conditionals");
        let drafted = || {
            let draft = Engine::new(&other, Sampling::default()).expect("settings");
            engine().with_draft(draft, 2).expect("a draft")
        };
        check(Exhaustive::law(|draw| one(&mut drafted(), draw).ids).expect("finite"), "with a draft");
        // `next` gives the distribution that is sampled from.
        let ask = NextAsk { prefix: vec![2, 0, 1], prompt_len: 1, k: 0 };
        for next in engine().next(vec![ask]).expect("candidates").remove(0) {
            let ratio = penalised(&base, &settings, &[0, 1, next.id]) / penalised(&base, &settings, &[0, 1]);
            assert!((next.log_prob.exp() - ratio).abs() < 1e-5, "{settings:?} {next:?}");
        }
    }
}

#[test]
fn the_divergence_of_penalised_draws_is_to_the_model_itself() {
    let base = lm(&toys()[0], "base_conditionals");
    let settings = Sampling { repetition_penalty: 1.7, ..Sampling::default() };
    let mut engine = Engine::new(&base, settings.clone()).expect("settings");
    let drawn = engine.sample(asks(3, 4), &mut Chance::Streams).expect("the toy fits");
    for completion in drawn {
        let sum = |logs: &[f32]| logs.iter().map(|log| f64::from(*log)).sum::<f64>();
        let raw = penalised(&base, &Sampling::default(), &completion.ids).ln();
        assert!((sum(&completion.raw_log_probs) - raw).abs() < 1e-5);
        assert!(
            (sum(&completion.log_probs) - penalised(&base, &settings, &completion.ids).ln()).abs() < 1e-5
        );
        assert!(completion.kl.is_some_and(|kl| kl > 0.0));
    }
}

#[test]
fn stop_strings_without_a_decoder_are_refused() {
    let base = lm(&toys()[0], "base_conditionals");
    let settings = Sampling { stop: vec!["=".into()], ..Sampling::default() };
    let mut engine = Engine::new(&base, settings.clone()).expect("settings");
    let refused = engine.sample(asks(1, 4), &mut Chance::Streams).expect_err("no decoder").to_string();
    assert!(refused.contains("\"=\"") && refused.contains("decoder"), "{refused}");
    let ask = NextAsk { prefix: vec![2], prompt_len: 1, k: 0 };
    assert!(engine.next(vec![ask]).is_err());
    let mut engine = Engine::new(&base, settings).expect("settings").with_decode(|_| String::new());
    assert!(engine.sample(asks(1, 4), &mut Chance::Streams).is_ok());
}
