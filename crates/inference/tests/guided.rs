//! Methods that weigh every next token, and particles, on tabular policies: exact laws.

mod common;

use common::{Toy, assert_law, method, small, toys};
use generate::tabular::Tabular;
use generate::{Chance, Prompt, Sampling, TokenId};
use inference::{Method, Parts};
use objective::draw::Exhaustive;
use objective::law::{kl, tilt};
use objective::numeric::softmax;
use objective::tabular::TabularLm;
use serde_json::{Value, json};

/// Logits are `f32`.
const TOLERANCE: f64 = 2e-6;

/// `p(y) exp(r(y) / β) / Z`.
fn tilted(toy: &Toy) -> Vec<f64> {
    let logs: Vec<f64> = toy.rewards.iter().map(|r| r / toy.beta).collect();
    tilt(&toy.base.lm().law().expect("a law"), &logs).expect("a law").law
}

/// The law that takes each symbol by `softmax(scores)`, or the greatest, where `scores` maps a prefix to them.
fn stepwise(toy: &Toy, greedy: bool, scores: &dyn Fn(&[TokenId]) -> Vec<f64>) -> Vec<f64> {
    let law = |prefix: &[TokenId]| {
        let scores = scores(prefix);
        if !greedy {
            return softmax(&scores);
        }
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        scores.iter().map(|score| f64::from(u8::from(*score == most))).collect()
    };
    let one = |ids: &Vec<TokenId>| (0..ids.len()).map(|t| law(&ids[..t])[ids[t] as usize]).product();
    toy.sequences().iter().map(one).collect()
}

/// `ln p(v | s) + w V(s, v)` for all v.
fn weighed(toy: &Toy, prefix: &[TokenId], weight: f64, value: &dyn Fn(&[TokenId]) -> f64) -> Vec<f64> {
    let next = toy.base.lm().next(prefix).expect("a row");
    let with = |symbol: usize| [prefix, &[symbol as TokenId]].concat();
    next.iter().enumerate().map(|(symbol, log)| log + weight * value(&with(symbol))).collect()
}

fn answers(toy: &Toy, value: Value, count: usize) -> Vec<Vec<TokenId>> {
    let prompts: Vec<Prompt> = (0..count).map(|index| Prompt::from_ids(index, vec![2])).collect();
    let given = toy.answers(&method(value), &prompts, &mut Chance::Streams);
    given.into_iter().map(|answer| answer.ids).collect()
}

#[test]
fn soft_values_as_guidance_give_the_tilted_law() {
    for toy in toys().into_iter().map(|toy| toy.judged_by(Toy::soft_value)) {
        let guided = method(json!({ "cd": { "k": 0, "lambda": 1.0 / toy.beta } }));
        assert_law(&toy.name, &toy.law_of(&guided), &tilted(&toy), TOLERANCE);
        // The policy's own value gives another law: decoding by it is not the sequence-level optimum.
        let toy = toy.judged_by(Toy::mean_value);
        let own: f64 = toy.law_of(&guided).iter().zip(tilted(&toy)).map(|(a, b)| (a - b).abs()).sum();
        assert!(own > 0.01, "{}: {own}", toy.name);
    }
}

#[test]
fn controlled_decoding_has_its_stepwise_law_and_knows_its_divergence() {
    for toy in toys() {
        for lambda in [0.0, 0.7, -1.0] {
            let guided = method(json!({ "cd": { "k": 0, "lambda": lambda } }));
            let got = toy.law_of(&guided);
            let want = stepwise(&toy, false, &|s| weighed(&toy, s, lambda, &|s| toy.mean_value(s)));
            assert_law(&toy.name, &got, &want, TOLERANCE);
            let base = toy.base.lm().law().expect("a law");
            if lambda == 0.0 {
                assert_law("no guidance", &got, &base, TOLERANCE);
            }
            let mean = Exhaustive::mean(|draw| vec![toy.replay(&guided, draw).kl.expect("known")]);
            let divergence = mean.expect("finite")[0];
            assert!((divergence - kl(&want, &base)).abs() < 1e-5, "{} {divergence}", toy.name);
        }
    }
}

#[test]
fn candidates_are_the_likeliest_tokens() {
    for toy in toys() {
        let guided = method(json!({ "cd": { "k": 2, "lambda": 0.7 } }));
        let want = stepwise(&toy, false, &|s| {
            let next = toy.base.lm().next(s).expect("a row");
            let mut order: Vec<usize> = (0..next.len()).collect();
            order.sort_by(|a, b| next[*b].total_cmp(&next[*a]));
            let mut scores = weighed(&toy, s, 0.7, &|s| toy.mean_value(s));
            order[2..].iter().for_each(|symbol| scores[*symbol] = f64::NEG_INFINITY);
            scores
        });
        assert_law(&toy.name, &toy.law_of(&guided), &want, TOLERANCE);
    }
}

#[test]
fn reward_guided_search_follows_its_scores() {
    for toy in toys() {
        let greedy = toy.law_of(&method(json!({ "greedy": {} })));
        let args = |settings: Value| toy.law_of(&method(json!({ "args": settings })));
        assert_eq!(args(json!({ "weight": 0.0, "k": 0 })), greedy, "{}", toy.name);
        assert_eq!(args(json!({ "weight": 50.0, "k": 1 })), greedy, "{}", toy.name);
        assert_eq!(args(json!({ "weight": 50.0, "k": 1, "decode": "sample" })), greedy, "{}", toy.name);
        let scores = |w: f64| move |toy: &Toy, s: &[TokenId]| weighed(toy, s, w, &|s| toy.mean_value(s));
        let want = stepwise(&toy, true, &|s| scores(1.5)(&toy, s));
        assert_law(&toy.name, &args(json!({ "weight": 1.5, "k": 0 })), &want, TOLERANCE);
        let want = stepwise(&toy, false, &|s| scores(1.5)(&toy, s));
        let settings = json!({ "weight": 1.5, "k": 0, "decode": "sample", "temperature": 1.0 });
        let got = args(settings.clone());
        assert_law(&toy.name, &got, &want, TOLERANCE);
        let cold = stepwise(&toy, false, &|s| scores(1.5)(&toy, s).iter().map(|x| x / 0.5).collect());
        let settings_cold = json!({ "weight": 1.5, "k": 0, "decode": "sample", "temperature": 0.5 });
        assert_law(&toy.name, &args(settings_cold), &cold, TOLERANCE);
        // A constant added to the reward changes nothing.
        let shifted = toy.judged_by(|toy, s| toy.mean_value(s) + 3.0);
        assert_law("shifted", &shifted.law_of(&method(json!({ "args": settings }))), &got, 1e-12);
    }
}

#[test]
fn weighing_needs_more_than_one_token() {
    let toy = small();
    let parts = Parts::new(&toy.base);
    for name in ["args", "cd", "transfer-q"] {
        let refused = method(json!({ name: {} })).engine(&parts, Sampling::greedy()).err().expect("refused");
        assert!(refused.to_string().contains("temperature 0 leaves it only one"), "{refused}");
    }
    let twisted = method(json!({ "twisted-smc": { "proposal": "twisted", "particles": 1 } }));
    assert!(twisted.engine(&parts, Sampling::greedy()).is_err());
}

/// The law of Transfer Q* by enumeration of all continuations, for any estimate of a token's value from the rewards and
/// the other rewards of its continuations.
fn lookahead(
    toy: &Toy,
    rollouts: usize,
    other: &dyn Fn(&[TokenId]) -> f64,
    q: &dyn Fn(&[f64], &[f64]) -> f64,
) -> Vec<f64> {
    let space = *toy.base.lm().space();
    let step = |prefix: &[TokenId]| -> Vec<f64> {
        let next = toy.base.lm().next(prefix).expect("a row");
        // Laws of the value of each candidate.
        let values: Vec<Vec<(f64, f64)>> = (0..next.len())
            .map(|symbol| {
                let s = [prefix, &[symbol as TokenId]].concat();
                if space.is_complete(&s) {
                    return vec![(q(&[toy.mean_value(&s)], &[other(&s)]), 1.0)];
                }
                let ends: Vec<(Vec<TokenId>, f64)> = space
                    .extensions(&s)
                    .into_iter()
                    .map(|ids| {
                        let logs = (s.len()..ids.len())
                            .map(|t| toy.arm.lm().next(&ids[..t]).expect("a row")[ids[t] as usize]);
                        let p = logs.sum::<f64>().exp();
                        (ids, p)
                    })
                    .collect();
                (0..ends.len().pow(rollouts as u32))
                    .map(|code| {
                        let drawn: Vec<&(Vec<TokenId>, f64)> = (0..rollouts as u32)
                            .map(|i| &ends[code / ends.len().pow(i) % ends.len()])
                            .collect();
                        let rewards: Vec<f64> = drawn.iter().map(|(ids, _)| toy.mean_value(ids)).collect();
                        let others: Vec<f64> = drawn.iter().map(|(ids, _)| other(ids)).collect();
                        (q(&rewards, &others), drawn.iter().map(|(_, p)| p).product())
                    })
                    .collect()
            })
            .collect();
        let mut law = vec![0.0; next.len()];
        let count: usize = values.iter().map(Vec::len).product();
        for code in 0..count {
            let (mut rest, mut p, mut scores) = (code, 1.0, Vec::new());
            for (log, values) in next.iter().zip(&values) {
                let (value, probability) = values[rest % values.len()];
                rest /= values.len();
                p *= probability;
                scores.push(log + value);
            }
            for (total, share) in law.iter_mut().zip(softmax(&scores)) {
                *total += p * share;
            }
        }
        law
    };
    let one = |ids: &Vec<TokenId>| (0..ids.len()).map(|t| step(&ids[..t])[ids[t] as usize]).product();
    toy.sequences().iter().map(one).collect()
}

/// Another reward, which the rollout policy was aligned to.
fn aligned_to(ids: &[TokenId]) -> f64 {
    ids.iter().filter(|id| **id == 1).count() as f64 * 0.8 - 0.1 * ids.len() as f64
}

/// The small toy with a rollout policy aligned to [`aligned_to`], which judges by it.
fn aligned() -> Toy {
    let mut toy = small();
    let space = *toy.base.lm().space();
    let logs: Vec<f64> = space.sequences().iter().map(|ids| aligned_to(ids) / toy.beta).collect();
    let law = tilt(&toy.base.lm().law().expect("a law"), &logs).expect("a law").law;
    toy.arm = Tabular::new(TabularLm::from_law(space, &law).expect("a table"));
    toy.judged_by(|_, ids| aligned_to(ids))
}

fn self_normalised(b: f64) -> impl Fn(&[f64], &[f64]) -> f64 {
    move |rewards, others| {
        let weights: Vec<f64> = rewards.iter().zip(others).map(|(r, o)| ((r - o) / b).exp()).collect();
        rewards.iter().zip(&weights).map(|(r, w)| r * w).sum::<f64>() / weights.iter().sum::<f64>()
    }
}

#[test]
fn transfer_q_has_the_law_of_its_lookahead() {
    let toy = aligned();
    let mean = |rewards: &[f64], _: &[f64]| rewards.iter().sum::<f64>() / rewards.len() as f64;
    let run = |toy: &Toy, settings: Value| {
        let mut all = json!({ "k": 0, "decode": "sample", "rollout_tokens": 0 });
        let table = all.as_object_mut().expect("a table");
        table.extend(settings.as_object().expect("a table").clone());
        toy.law_of(&method(json!({ "transfer-q": all })))
    };
    for rollouts in [1, 2] {
        let got = run(&toy, json!({ "rollouts": rollouts }));
        assert_law("direct", &got, &lookahead(&toy, rollouts, &aligned_to, &mean), TOLERANCE);
    }
    let got = run(&toy, json!({ "rollouts": 2, "indirect": toy.beta }));
    let want = lookahead(&toy, 2, &aligned_to, &self_normalised(toy.beta));
    assert_law("indirect", &got, &want, TOLERANCE);
    // Aligned to the reward itself, indirect is direct.
    let same = aligned().judged_by(Toy::mean_value);
    let direct = run(&same, json!({ "rollouts": 2 }));
    assert_law("equal rewards", &run(&same, json!({ "rollouts": 2, "indirect": 0.3 })), &direct, 1e-12);
    // Enough for the 20 tokens of the public code, and for the horizon.
    assert_law("cut", &run(&same, json!({ "rollouts": 2, "rollout_tokens": 20 })), &direct, 1e-12);
}

#[test]
fn the_divergence_given_the_lookahead_is_an_upper_bound_and_called_one() {
    let toy = aligned();
    for decode in ["sample", "greedy"] {
        let settings = json!({ "k": 0, "decode": decode, "rollout_tokens": 0 });
        let lookahead = method(json!({ "transfer-q": settings }));
        let mean = Exhaustive::mean(|draw| {
            let answer = toy.replay(&lookahead, draw);
            assert_eq!(answer.kl, None);
            assert!(answer.trace["kl_reason"].as_str().expect("a reason").contains("upper bound"));
            vec![answer.trace["kl_at_most"].as_f64().expect("a bound")]
        });
        let (bound, base) = (mean.expect("finite")[0], toy.base.lm().law().expect("a law"));
        let exact = kl(&toy.law_of(&lookahead), &base);
        assert!(bound > exact + 1e-3, "{decode}: {bound} bounds {exact}");
    }
}

#[test]
fn self_normalised_weights_do_not_see_offsets() {
    // So large that the weights do not decide everything.
    const SCALE: f64 = 2.0;
    let law = |offset: f64| {
        let mut toy = aligned();
        toy.rewards.iter_mut().for_each(|r| *r += offset);
        let settings = json!({ "k": 0, "decode": "sample", "rollouts": 2, "indirect": SCALE });
        let wrong = |rewards: &[f64], others: &[f64]| {
            let weights = rewards.iter().zip(others).map(|(r, o)| ((r - o) / SCALE).exp());
            rewards.iter().zip(weights).map(|(r, w)| r * w).sum::<f64>() / rewards.len() as f64
        };
        (toy.law_of(&method(json!({ "transfer-q": settings }))), lookahead(&toy, 2, &aligned_to, &wrong))
    };
    let ((ours, theirs), (ours_moved, theirs_moved)) = (law(0.0), law(1.0));
    assert_law("offset", &ours_moved, &ours, 1e-9);
    let moved: f64 = theirs.iter().zip(&theirs_moved).map(|(a, b)| (a - b).abs()).sum();
    assert!(moved > 0.05, "without normalisation an offset moves the law: {moved}");
    // An offset of the other reward alone cancels too.
    let toy = aligned().judged_by(|_, ids| aligned_to(ids) + 4.0);
    let settings = json!({ "k": 0, "decode": "sample", "rollouts": 2, "indirect": SCALE });
    assert_law("other", &toy.law_of(&method(json!({ "transfer-q": settings }))), &ours, 1e-9);
}

/// The value under the rollout policy.
fn exact(toy: &Toy, s: &[TokenId]) -> f64 {
    if toy.base.lm().space().is_complete(s) {
        return toy.mean_value(s);
    }
    let next = toy.arm.lm().next(s).expect("a row");
    let below = |(v, log): (usize, &f64)| log.exp() * exact(toy, &[s, &[v as TokenId]].concat());
    next.iter().enumerate().map(below).sum()
}

#[test]
fn many_rollouts_find_the_greatest_value() {
    // Greedy choices with many lookaheads are those of the exact value under the rollout policy.
    let toy = aligned();
    let want = stepwise(&toy, true, &|s| weighed(&toy, s, 2.0, &|s| exact(&toy, s)));
    let place = want.iter().position(|p| *p == 1.0).expect("one string");
    let settings = json!({ "k": 0, "weight": 2.0, "rollouts": 4000, "rollout_tokens": 0 });
    for ids in answers(&toy, json!({ "transfer-q": settings }), 3) {
        assert_eq!(ids, toy.sequences()[place]);
    }
}

fn log_z(toy: &Toy) -> f64 {
    let logs: Vec<f64> = toy.rewards.iter().map(|r| r / toy.beta).collect();
    tilt(&toy.base.lm().law().expect("a law"), &logs).expect("a law").log_partition
}

#[test]
fn exact_twists_make_all_weights_equal_and_one_particle_enough() {
    for toy in toys().into_iter().map(|toy| toy.judged_by(Toy::soft_value)) {
        let beta = toy.beta;
        let smc = |particles: usize, k: usize| {
            method(json!({ "twisted-smc": {
                "particles": particles, "beta": beta, "proposal": "twisted", "k": k, "ess": 0.9,
            } }))
        };
        assert_law(&toy.name, &toy.law_of(&smc(1, 0)), &tilted(&toy), TOLERANCE);
        let prompts: Vec<Prompt> = (0..20).map(|index| Prompt::from_ids(index, vec![2])).collect();
        for answer in toy.answers(&smc(8, 0), &prompts, &mut Chance::Streams) {
            let z = answer.trace["log_z"].as_f64().expect("a number");
            assert!((z - log_z(&toy)).abs() < 1e-5, "{}: {z} against {}", toy.name, log_z(&toy));
            assert_eq!(answer.trace["resampled"].as_array().map(Vec::len), Some(0));
        }
        // Neither another twist nor a look at part of the tokens has that law with one particle.
        let far = |toy: &Toy, k: usize| -> f64 {
            toy.law_of(&smc(1, k)).iter().zip(tilted(toy)).map(|(a, b)| (a - b).abs()).sum()
        };
        assert!(far(&toy, 1) > 0.01);
        assert!(far(&toy.judged_by(Toy::mean_value), 0) > 0.01);
    }
}

#[test]
fn the_estimate_of_the_normaliser_is_unbiased() {
    let crooked = |_: &Toy, ids: &[TokenId]| (ids.iter().sum::<u32>() as f64 * 2.3 + ids.len() as f64).sin();
    for toy in [small(), small().judged_by(crooked), small().judged_by(Toy::soft_value)] {
        let z = log_z(&toy).exp();
        for (particles, proposal, k, ess, block) in [
            (1, "base", 0, 0.5, 1),
            (2, "base", 0, 0.0, 1),
            (2, "base", 0, 1.0, 1),
            (2, "base", 0, 1.0, 2),
            (1, "twisted", 0, 0.5, 1),
            (2, "twisted", 0, 1.0, 1),
            (2, "twisted", 1, 1.0, 1),
            (2, "twisted", 2, 0.9, 1),
        ] {
            let smc = method(json!({ "twisted-smc": {
                "particles": particles, "beta": toy.beta, "proposal": proposal, "k": k, "ess": ess, "block": block,
            } }));
            let mean = Exhaustive::mean(|draw| {
                vec![toy.replay(&smc, draw).trace["log_z"].as_f64().expect("a number").exp()]
            });
            let mean = mean.expect("finite")[0];
            assert!((mean - z).abs() < 5e-6, "{particles} {proposal} {k} {ess}: {mean} against {z}");
        }
    }
}

#[test]
fn particles_tend_to_the_target() {
    let toy = small();
    let far = |particles: usize| -> f64 {
        let smc = method(
            json!({ "twisted-smc": { "particles": particles, "beta": toy.beta, "block": 1, "ess": 1.0 } }),
        );
        toy.law_of(&smc).iter().zip(tilted(&toy)).map(|(a, b)| (a - b).abs()).sum()
    };
    let base = toy.base.lm().law().expect("a law");
    let smc = method(json!({ "twisted-smc": { "particles": 1, "block": 1 } }));
    assert_law("one particle of the policy is the policy", &toy.law_of(&smc), &base, TOLERANCE);
    let (one, two, three) = (far(1), far(2), far(3));
    assert!(three < two && two < one && one > 0.1, "{one} {two} {three}");
}

#[test]
fn no_method_lies_above_the_frontier() {
    // For every law p and every b: E_p[r] − b KL(p ‖ base) ≤ b ln E_base[e^{r/b}].
    let toy = small();
    let base = toy.base.lm().law().expect("a law");
    for settings in [
        json!({ "cd": { "k": 0, "lambda": 3.0 } }),
        json!({ "args": { "k": 2, "weight": 2.0, "decode": "sample" } }),
        json!({ "transfer-q": { "weight": 2.0, "decode": "sample" } }),
        json!({ "cd-blockwise": { "k": 3, "block": 1 } }),
        json!({ "cbs": { "beams": 2, "successors": 2, "chunk": 1 } }),
        json!({ "treebon": { "n": 4, "layers": 2, "children": 2 } }),
        json!({ "speculative-rejection": { "n": 4, "every": 1 } }),
        json!({ "twisted-smc": { "particles": 3, "block": 1 } }),
    ] {
        let law = toy.law_of(&method(settings.clone()));
        let mean: f64 = law.iter().zip(&toy.rewards).map(|(p, r)| p * r).sum();
        let start: f64 = base.iter().zip(&toy.rewards).map(|(p, r)| p * r).sum();
        assert!(mean > start, "{settings} raises the reward");
        for b in [0.05, 0.2, 0.5, 1.0, 3.0] {
            let logs: Vec<f64> = toy.rewards.iter().map(|r| r / b).collect();
            let frontier = b * tilt(&base, &logs).expect("a law").log_partition;
            let point = mean - b * kl(&law, &base);
            assert!(point <= frontier + 1e-6, "{settings} at {b}: {point} above {frontier}");
        }
    }
}
