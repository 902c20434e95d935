//! PPO on the tabular policy, token by token: its first update has the gradient of the named objective, its updates reach the
//! named optimum, and where it is biased is shown to be where it is said to be.

mod common;

use common::{World, distance, moved, numeric_gradient, worlds};
use objective::algebra::{
    Composition, Estimator, Group, Objective, Ppo, Rollout, TokenTerm, Trajectory, Value, Weights,
};
use objective::law::{expectation, kl, tilt};
use objective::losses::{Clip, Vbon, VbonForm};
use objective::rank::{CachedRewards, Ties};
use objective::tabular::{Symbol, TabularPolicy};
use objective::tilt::Tilt;

/// One update, no whitening, no discount: what is exact.
const EXACT: Ppo = Ppo {
    gamma: 1.0,
    lambda: 1.0,
    clip: Clip { low: 0.2, high: 0.2 },
    value_clip: 0.0,
    value_coefficient: 0.5,
    whiten: false,
};

/// Log-probabilities of the symbols of every sequence.
fn tokens(policy: &TabularPolicy) -> Vec<Vec<f64>> {
    let lm = policy.to_lm().expect("model");
    let of = |y: Vec<Symbol>| lm.token_log_probs(&[], &y).expect("in space");
    policy.space().sequences().into_iter().map(of).collect()
}

/// The terms of every sequence, each drawn once, with a value for each of its prefixes.
fn terms(
    ppo: &Ppo,
    method: &Composition,
    cached: Option<&CachedRewards>,
    world: &World,
    policy: &TabularPolicy,
    value: &dyn Fn(&[Symbol]) -> f64,
) -> Vec<Vec<TokenTerm>> {
    let (own, anchor) = (tokens(policy), tokens(&TabularPolicy::from_lm(&world.base).expect("full support")));
    let group = |y: usize| {
        let sum = |row: &[f64]| row.iter().sum();
        let rollout = Rollout { reward: world.r[y], log_policy: sum(&own[y]), log_anchor: sum(&anchor[y]) };
        Group { cached, policy: vec![rollout], ..Group::default() }
    };
    let groups: Vec<Group<'_>> = (0..own.len()).map(group).collect();
    let paid = method.payments(&groups, &mut |_, _, _| {}).expect("drawn").expect("a payment less a KL");
    let sequences = policy.space().sequences();
    let values: Vec<Vec<f64>> =
        sequences.iter().map(|y| (0..y.len()).map(|t| value(&y[..t])).collect()).collect();
    let answers: Vec<Trajectory<'_>> = (0..own.len())
        .map(|y| Trajectory {
            log_policy: &own[y],
            log_anchor: &anchor[y],
            values: &values[y],
            end: paid.ends[y][0],
        })
        .collect();
    ppo.terms(&answers, paid.kl).expect("aligned")
}

/// The exact mean over answers drawn from `drawn` of the gradient of the surrogate at `policy`.
fn mean_gradient(ppo: &Ppo, drawn: &[f64], terms: &[Vec<TokenTerm>], policy: &TabularPolicy) -> Vec<f64> {
    let now = tokens(policy);
    let coefficients: Vec<Vec<f64>> = terms
        .iter()
        .zip(&now)
        .zip(drawn)
        .map(|((terms, now), p)| {
            terms.iter().zip(now).map(|(term, l)| p * ppo.loss(term, *l, 0.0).policy.gradient).collect()
        })
        .collect();
    policy.backward_tokens(&coefficients).expect("aligned")
}

fn law(policy: &TabularPolicy) -> Vec<f64> {
    policy.log_law().expect("law").into_iter().map(f64::exp).collect()
}

/// The mean return to come after each prefix of a policy: the values that are right.
fn right_values(
    method: &Composition,
    world: &World,
    policy: &TabularPolicy,
) -> impl Fn(&[Symbol]) -> f64 + use<> {
    let returns = terms(&EXACT, method, None, world, policy, &|_| 0.0);
    let law = law(policy);
    let sequences = policy.space().sequences();
    move |prefix: &[Symbol]| {
        let (mut sum, mut reached) = (0.0, 0.0);
        for ((y, p), terms) in sequences.iter().zip(&law).zip(&returns) {
            if y.len() > prefix.len() && y.starts_with(prefix) {
                sum += p * terms[prefix.len()].advantage;
                reached += p;
            }
        }
        sum / reached
    }
}

fn rl(beta: f64) -> Composition {
    Composition::policy_gradient(Value::Raw, Weights::regularised(beta), Estimator::Reinforce, 1)
}

#[test]
fn the_first_update_has_the_gradient_of_the_objective() {
    let pool = CachedRewards::new(vec![-1.0, 0.0, 0.5, 1.0, 1.0, 2.0, 3.0]).expect("finite");
    for world in worlds() {
        let policy = moved(&world.base);
        let drawn = law(&policy);
        let methods: Vec<(&str, Composition)> = vec![
            ("rl", rl(0.3)),
            (
                "ctrl",
                Composition::policy_gradient(
                    Value::Calibrated(Tilt::Exponential { t: 2.0 }),
                    Weights::backward(0.4),
                    Estimator::Reinforce,
                    1,
                ),
            ),
            (
                "vbon",
                Composition::policy_gradient(
                    Value::Vbon { target: Vbon { n: 4.0, form: VbonForm::Bound }, ties: Ties::NonStrict },
                    Weights::regularised(1.0 / 3.0),
                    Estimator::Reinforce,
                    1,
                ),
            ),
        ];
        for (name, method) in &methods {
            // What each answer earns, from the method itself; the rest of the objective is written out.
            let groups: Vec<Group<'_>> = world
                .r
                .iter()
                .map(|r| Group {
                    cached: Some(&pool),
                    policy: vec![Rollout { reward: *r, log_policy: 0.0, log_anchor: 0.0 }],
                    ..Group::default()
                })
                .collect();
            let paid = method.payments(&groups, &mut |_, _, _| {}).expect("drawn").expect("payments");
            let earned: Vec<f64> = paid.ends.concat();
            let want =
                numeric_gradient(&policy, |law| -(expectation(law, &earned) - paid.kl * kl(law, &world.p)));
            let got = |ppo: &Ppo, value: &dyn Fn(&[Symbol]) -> f64| {
                let terms = terms(ppo, method, Some(&pool), &world, &policy, value);
                mean_gradient(ppo, &drawn, &terms, &policy)
            };
            let zero = got(&EXACT, &|_| 0.0);
            assert!(distance(&zero, &want) < 1e-9, "{name}: {}", distance(&zero, &want));
            // Any value of the text before a token is a baseline; lambda < 1 makes it a part of the estimate.
            let wild = |prefix: &[Symbol]| 1.0 + prefix.iter().map(|s| f64::from(*s)).sum::<f64>().sin();
            assert!(distance(&got(&EXACT, &wild), &want) < 1e-9, "{name}: values are no baseline");
            let blurred = got(&Ppo { lambda: 0.5, ..EXACT }, &wild);
            assert!(distance(&blurred, &want) > 1e-3, "{name}: wrong values must bias lambda < 1");
            // Tokens that pay with the wrong sign, or for themselves alone, are another objective.
            let mut wrong = method.clone();
            wrong.weights.kl = -method.weights.kl;
            let terms_of =
                |method: &Composition| terms(&EXACT, method, Some(&pool), &world, &policy, &|_| 0.0);
            let misses =
                |terms: &[Vec<TokenTerm>]| distance(&mean_gradient(&EXACT, &drawn, terms, &policy), &want);
            assert!(misses(&terms_of(&wrong)) > 1e-3, "{name}: the sign of the KL");
            let mut alone = terms_of(method);
            let (own, anchor) =
                (tokens(&policy), tokens(&TabularPolicy::from_lm(&world.base).expect("full support")));
            for (y, terms) in alone.iter_mut().enumerate() {
                for (t, term) in terms.iter_mut().enumerate() {
                    term.advantage = earned[y] - paid.kl * (own[y][t] - anchor[y][t]);
                }
            }
            let horizon = world.base.space().horizon();
            assert!(horizon < 2 || misses(&alone) > 1e-4, "{name}: tokens that pay for themselves alone");
        }
    }
}

#[test]
fn with_right_values_every_lambda_is_unbiased_and_values_a_token_late_are_not() {
    for world in worlds() {
        let (policy, method) = (moved(&world.base), rl(0.3));
        let drawn = law(&policy);
        let want = numeric_gradient(&policy, |law| -(expectation(law, &world.r) - 0.3 * kl(law, &world.p)));
        let value = right_values(&method, &world, &policy);
        for lambda in [0.0, 0.5, 0.95, 1.0] {
            let ppo = Ppo { lambda, ..EXACT };
            let terms = terms(&ppo, &method, None, &world, &policy, &value);
            let got = mean_gradient(&ppo, &drawn, &terms, &policy);
            assert!(distance(&got, &want) < 1e-9, "lambda {lambda}: {}", distance(&got, &want));
            // The values are those that their own loss asks for: its mean gradient vanishes.
            let mut slope = std::collections::BTreeMap::<Vec<Symbol>, f64>::new();
            for ((y, p), terms) in policy.space().sequences().iter().zip(&drawn).zip(&terms) {
                for (t, term) in terms.iter().enumerate() {
                    *slope.entry(y[..t].to_vec()).or_default() +=
                        p * ppo.loss(term, term.log_policy, term.value).value.gradient;
                }
            }
            assert!(slope.values().all(|g| g.abs() < 1e-12), "lambda {lambda}: {slope:?}");
        }
        // The value of the text *with* the token, in the place of that before it, takes the token's own part away.
        let sequences = policy.space().sequences();
        let mut late = terms(&EXACT, &method, None, &world, &policy, &|_| 0.0);
        for (y, terms) in sequences.iter().zip(&mut late) {
            for (t, term) in terms.iter_mut().enumerate() {
                term.advantage -= if t + 1 < y.len() { value(&y[..=t]) } else { 0.0 };
            }
        }
        let got = mean_gradient(&EXACT, &drawn, &late, &policy);
        assert!(distance(&got, &want) > 1e-2, "{}", distance(&got, &want));
    }
}

#[test]
fn answers_of_an_older_policy_need_the_ratio_of_answers_and_that_of_tokens_is_biased() {
    for world in worlds() {
        let (old, method) = (TabularPolicy::from_lm(&world.base).expect("full support"), rl(0.0));
        let policy = moved(&world.base);
        let want = numeric_gradient(&policy, |law| -expectation(law, &world.r));
        let (drawn, now) = (law(&old), law(&policy));
        // Whole answers: pi/pi_old before the return of each.
        let weighed: Vec<f64> =
            drawn.iter().zip(&now).zip(&world.r).map(|((old, new), r)| -old * (new / old) * r).collect();
        let answers = policy.backward(&weighed).expect("aligned");
        assert!(distance(&answers, &want) < 1e-9, "{}", distance(&answers, &want));
        let open = Ppo { clip: Clip { low: 1.0, high: 1e9 }, ..EXACT };
        for ppo in [open, EXACT] {
            let terms = terms(&ppo, &method, None, &world, &old, &|_| 0.0);
            let got = mean_gradient(&ppo, &drawn, &terms, &policy);
            assert!(distance(&got, &want) > 1e-3, "{ppo:?}: {}", distance(&got, &want));
        }
    }
}

/// Rounds of PPO with exact expectations: values by their clipped loss, tokens by the clipped surrogate, several updates on the
/// answers of one policy. A step is divided by the probability to reach it, so that rare texts learn as fast as the others.
fn train(
    world: &World,
    method: &Composition,
    ppo: &Ppo,
    rounds: usize,
    updates: usize,
    rate: f64,
) -> Vec<f64> {
    let mut policy = TabularPolicy::from_lm(&world.base).expect("full support");
    let space = *policy.space();
    let (sequences, prefixes, vocab) = (space.sequences(), space.prefixes(), space.vocab() as usize);
    let row = |prefix: &[Symbol]| prefixes.binary_search_by(|p| p[..].cmp(prefix)).expect("a prefix");
    let mut values = vec![0.0; prefixes.len()];
    for _ in 0..rounds {
        let drawn = law(&policy);
        let terms = terms(ppo, method, None, world, &policy, &|prefix| values[row(prefix)]);
        let mut reached = vec![0.0; prefixes.len()];
        for (y, p) in sequences.iter().zip(&drawn) {
            (0..y.len()).for_each(|t| reached[row(&y[..t])] += p);
        }
        for _ in 0..updates {
            let mut slopes = vec![0.0; prefixes.len()];
            for ((y, p), terms) in sequences.iter().zip(&drawn).zip(&terms) {
                for (t, term) in terms.iter().enumerate() {
                    let place = row(&y[..t]);
                    slopes[place] += p * ppo.loss(term, term.log_policy, values[place]).value.gradient;
                }
            }
            for ((value, slope), reached) in values.iter_mut().zip(slopes).zip(&reached) {
                *value -= ppo.value_coefficient * slope / reached;
            }
            let gradient = mean_gradient(ppo, &drawn, &terms, &policy);
            for (index, (logit, g)) in policy.logits_mut().iter_mut().zip(gradient).enumerate() {
                // Where the rarest symbols stand, the probability of the symbol scales the advantage.
                *logit -= rate * g / reached[index / vocab];
            }
        }
    }
    law(&policy)
}

#[test]
fn clipped_updates_with_learned_values_reach_the_tilt_that_the_other_estimators_reach() {
    for world in worlds() {
        let beta = 0.6;
        let want = tilt(&world.p, &world.r.iter().map(|r| r / beta).collect::<Vec<_>>()).expect("law").law;
        let begun = kl(&world.p, &want);
        for (lambda, updates) in [(0.95, 1), (0.95, 3), (1.0, 2)] {
            let ppo = Ppo { lambda, value_clip: 0.2, ..EXACT };
            let trained = train(&world, &rl(beta), &ppo, 4000, updates, 1.0);
            assert!(
                kl(&trained, &want) < 1e-3,
                "lambda {lambda}, {updates} updates: {} of {begun}",
                kl(&trained, &want)
            );
        }
        // Tokens that pay nothing do not stop there.
        let free = train(&world, &rl(0.0), &EXACT, 400, 1, 1.0);
        assert!(kl(&free, &want) > 1e-2, "{}", kl(&free, &want));
    }
}

#[test]
fn methods_that_are_no_payment_for_own_answers_have_none() {
    let world = common::items();
    let group = || Group {
        cached: None,
        policy: vec![Rollout { reward: 1.0, log_policy: 0.0, log_anchor: 0.0 }],
        ..Group::default()
    };
    let likelihood = Composition { weights: Weights::jeffreys(0.5, 1.0, 0.0).expect("in range"), ..rl(0.1) };
    assert_eq!(likelihood.payments(&[group()], &mut |_, _, _| {}).expect("drawn"), None);
    let paid = rl(0.1).payments(&[group()], &mut |_, _, _| {}).expect("drawn").expect("payments");
    assert_eq!((paid.ends, paid.kl), (vec![vec![1.0]], 0.1));
    assert_eq!(world.r.len(), 4);
}
