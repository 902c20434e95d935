//! On-policy methods on the tabular policy: sampled terms have the gradient of the named objective, exact gradients reach the
//! named optimum, and the wrong variants of public code do not.

#[path = "../common/mod.rs"]
mod common;
mod wind;

use common::{World, distance, items, moved, numeric_gradient, train_natural, worlds};
use objective::algebra::{
    AnchorSample, BonAware, BonEstimator, Composition, Draws, Estimator, Group, Objective, Rollout, TermLoss,
    Terms, Value, Weights,
};
use objective::bon;
use objective::draw::{Draw, Exhaustive};
use objective::game::{Game, Preference, Wind, WindLoss};
use objective::law::{expectation, kl, tilt};
use objective::losses::{Vbon, VbonForm};
use objective::rank::{CachedRewards, Ties};
use objective::tabular::TabularPolicy;
use objective::tilt::Tilt;

/// Draws what a method asks for one prompt, from a policy and an anchor.
fn draw_group<'a>(
    draws: Draws,
    cached: Option<&'a CachedRewards>,
    world: &World,
    policy: &[f64],
    anchor: &[f64],
    draw: &mut dyn Draw,
) -> (Group<'a>, Vec<usize>, Vec<usize>) {
    let mut group = Group { cached, ..Group::default() };
    let own: Vec<usize> = (0..draws.policy).map(|_| draw.pick(policy)).collect();
    let others: Vec<usize> = (0..draws.anchor).map(|_| draw.pick(anchor)).collect();
    for y in &own {
        let (log_policy, log_anchor) = (policy[*y], anchor[*y]);
        group.policy.push(Rollout { reward: world.r[*y], log_policy, log_anchor });
    }
    for y in &others {
        let (log_anchor, log_reference) = (anchor[*y], world.log_p[*y]);
        group.anchor.push(AnchorSample { reward: world.r[*y], log_anchor, log_reference });
    }
    (group, own, others)
}

/// Terms as coefficients of the log-probabilities of all answers.
fn coefficients(terms: &Terms, own: &[usize], others: &[usize], log_law: &[f64]) -> Vec<f64> {
    let mut coefficients = vec![0.0; log_law.len()];
    for (y, term) in own.iter().zip(&terms.policy).chain(others.iter().zip(&terms.anchor)) {
        if let Some(term) = term {
            coefficients[*y] += term.loss.at(log_law[*y]).1 / term.divisor;
        }
    }
    coefficients
}

/// The exact mean over everything that a method may draw of the gradient of its terms with respect to the logits.
fn mean_gradient(
    objective: &dyn Objective,
    cached: Option<&CachedRewards>,
    world: &World,
    policy: &TabularPolicy,
    anchor: &[f64],
) -> Vec<f64> {
    let log_law = policy.log_law().expect("law");
    let mean = Exhaustive::mean(|draw| {
        let (group, own, others) = draw_group(objective.draws(), cached, world, &log_law, anchor, draw);
        let terms = objective.terms(&[group], &mut |_, _, _| {}).expect("drawn");
        coefficients(&terms[0], &own, &others, &log_law)
    });
    policy.backward(&mean.expect("finite")).expect("aligned")
}

fn pool() -> CachedRewards {
    CachedRewards::new(vec![0.0, 1.0, 1.0, 2.0, 0.0, 1.0, 0.0]).expect("finite")
}

/// `E[H_K - H_k]` for `K ~ Binomial(k, f)`: `log f` cut after `k` terms.
fn truncated_log(f: f64, k: i32) -> f64 {
    -(1..=k).map(|j| (1.0 - f).powi(j) / f64::from(j)).sum::<f64>()
}

fn bond(n: f64, b: f64, samples: usize, ties: Ties) -> Composition {
    Composition {
        value: Value::LogQuantile { ties },
        weights: Weights::jeffreys(b, 1.0 / (n - 1.0), 0.0).expect("in range"),
        estimator: Estimator::Reinforce,
        rollouts: 1,
        anchor_samples: samples,
        best_of: n as usize,
    }
}

fn j_bond(b: f64, gamma: f64) -> Composition {
    Composition {
        value: Value::WorstOfThree,
        weights: Weights::jeffreys(b, 1.0, gamma).expect("in range"),
        estimator: Estimator::Reinforce,
        rollouts: 1,
        anchor_samples: 2,
        best_of: 2,
    }
}

/// Minus the likelihood of the best of `n`, with weight, as a function of the law.
fn likelihood(world: &World, anchor: &[f64], n: f64, weight: f64, law: &[f64]) -> f64 {
    let best = bon::law(anchor, &world.r, n).expect("law");
    -weight * best.iter().zip(law).map(|(q, p)| q * p.ln()).sum::<f64>()
}

#[test]
fn sampled_terms_have_the_gradient_of_their_objective() {
    let world = items();
    let policy = moved(&world.base);
    // The anchor is neither the policy nor the reference.
    let anchor = [0.25, 0.3, 0.35, 0.1];
    let log_anchor = anchor.map(f64::ln);
    let at_most = objective::law::RankMasses::new(&anchor, &world.r).expect("law").at_most;
    let pool = pool();
    let check = |what: &str, objective: &dyn Objective, cached, loss: &dyn Fn(&[f64]) -> f64| {
        let got = mean_gradient(objective, cached, &world, &policy, &log_anchor);
        let want = numeric_gradient(&policy, loss);
        assert!(distance(&got, &want) < 1e-9, "{what}: {}", distance(&got, &want));
    };
    for estimator in [Estimator::Reinforce, Estimator::Rloo] {
        let weights = Weights::regularised(0.3);
        let rl = Composition::policy_gradient(Value::Raw, weights, estimator, 3);
        check("rl", &rl, None, &|law| -(expectation(law, &world.r) - 0.3 * kl(law, &anchor)));
        for tilt in [
            Tilt::Identity,
            Tilt::Log,
            Tilt::Power { exponent: 2.0 },
            Tilt::Exponential { t: 3.0 },
            Tilt::Exponential { t: -3.0 },
        ] {
            let phi: Vec<f64> =
                world.r.iter().map(|r| tilt.of_rank(pool.rank(*r).expect("finite")) / 0.4).collect();
            let value = Value::Calibrated(tilt.clone());
            let ctrl = Composition::policy_gradient(value, Weights::backward(0.4), estimator, 3);
            check("ctrl", &ctrl, Some(&pool), &|law| -(expectation(law, &phi) - kl(law, &anchor)));
        }
    }
    for (n, b) in [(2.0, 0.5), (3.0, 0.25), (2.0, 1.0), (3.0, 0.0)] {
        let log_f: Vec<f64> = at_most.iter().map(|f| truncated_log(*f, 3)).collect();
        let loss = |law: &[f64]| {
            let backward = (n - 1.0) * expectation(law, &log_f) - kl(law, &anchor);
            likelihood(&world, &anchor, n, 1.0 - b, law) - b * backward
        };
        check("bond", &bond(n, b, 3, Ties::NonStrict), None, &loss);
        if b > 0.0 {
            let strict = mean_gradient(&bond(n, b, 3, Ties::Strict), None, &world, &policy, &log_anchor);
            assert!(distance(&strict, &numeric_gradient(&policy, loss)) > 0.01, "strict ranks must miss");
        }
    }
    for (b, gamma) in [(0.5, 0.0), (0.5, 2.0), (1.0, 0.3), (0.0, 1.0)] {
        let r_j: Vec<f64> = at_most.iter().map(|f| -16.0_f64.ln() * (1.0 - f).powi(2)).collect();
        let loss = |law: &[f64]| {
            let backward = expectation(law, &r_j) - kl(law, &anchor);
            likelihood(&world, &anchor, 2.0, 1.0 - b, law) - b * backward + gamma * kl(law, &anchor)
        };
        check("j-bond", &j_bond(b, gamma), None, &loss);
        // The printed sign of the regulariser.
        if gamma > 0.0 {
            let mut printed = j_bond(b, gamma);
            printed.weights.kl = b - gamma;
            let got = mean_gradient(&printed, None, &world, &policy, &log_anchor);
            assert!(distance(&got, &numeric_gradient(&policy, loss)) > 0.01, "the printed sign must miss");
        }
    }
}

#[test]
fn one_rollout_a_prompt_takes_its_baseline_from_the_batch_without_bias() {
    let world = items();
    let policy = moved(&world.base);
    let log_law = policy.log_law().expect("law");
    let objective = Composition { estimator: Estimator::Rloo, ..j_bond(0.5, 0.5) };
    let mean = Exhaustive::mean(|draw| {
        let mut groups = Vec::new();
        let mut places = Vec::new();
        for _ in 0..2 {
            let (group, own, others) =
                draw_group(objective.draws(), None, &world, &log_law, &world.log_p, draw);
            groups.push(group);
            places.push((own, others));
        }
        let terms = objective.terms(&groups, &mut |_, _, _| {}).expect("drawn");
        let mut sum = vec![0.0; log_law.len()];
        for (terms, (own, others)) in terms.iter().zip(&places) {
            for (sum, c) in sum.iter_mut().zip(coefficients(terms, own, others, &log_law)) {
                *sum += c;
            }
        }
        sum
    });
    let with = policy.backward(&mean.expect("finite")).expect("aligned");
    let without = mean_gradient(&j_bond(0.5, 0.5), None, &world, &policy, &world.log_p);
    assert!(distance(&with, &without) < 1e-12, "{}", distance(&with, &without));
}

/// Trains on exact gradients.
fn optimum(world: &World, weights: Weights, phi: &[f64], target: &[f64]) -> Vec<f64> {
    let gradient = |log_law: &[f64]| {
        let law: Vec<f64> = log_law.iter().map(|l| l.exp()).collect();
        weights.exact(&law, &world.p, phi, target)
    };
    // The likelihood pulls on what the policy rarely reaches, so steps are short where it has a part.
    let (steps, rate) =
        if weights.likelihood > 0.0 { (3000, 0.04 / (weights.kl + 1.0)) } else { (80, 0.5 / weights.kl) };
    train_natural(&world.base, steps, rate, gradient)
}

#[test]
fn exact_gradients_reach_the_tilts_of_rl_and_ctrl() {
    for world in worlds() {
        let beta = 0.6;
        let rl = optimum(&world, Weights::regularised(beta), &world.r, &world.p);
        let want = tilt(&world.p, &world.r.iter().map(|r| r / beta).collect::<Vec<_>>()).expect("law").law;
        assert!(kl(&rl, &want) < 1e-9, "{}", kl(&rl, &want));
        for tilt_of in
            [Tilt::Identity, Tilt::Log, Tilt::Exponential { t: 2.0 }, Tilt::Exponential { t: -2.0 }]
        {
            let phi: Vec<f64> = world.masses.mid_rank().iter().map(|c| tilt_of.at(*c)).collect();
            let ctrl = optimum(&world, Weights::backward(beta), &phi, &world.p);
            let want = tilt(&world.p, &phi.iter().map(|v| v / beta).collect::<Vec<_>>()).expect("law");
            assert!(kl(&ctrl, &want.law) < 1e-9, "{tilt_of:?}: {}", kl(&ctrl, &want.law));
            assert!(kl(&rl, &want.law) > 1e-3, "and the raw reward goes elsewhere");
        }
    }
}

#[test]
fn every_weight_of_bond_reaches_best_of_n() {
    for world in worlds() {
        for n in [2.0, 4.0] {
            let target = bon::law(&world.p, &world.r, n).expect("law");
            let phi = bon::equivalent_reward(&world.masses, n).expect("N");
            for b in [0.25, 0.5, 1.0] {
                let weights = Weights::jeffreys(b, 1.0 / (n - 1.0), 0.0).expect("in range");
                let trained = optimum(&world, weights, &phi, &target);
                assert!(kl(&trained, &target) < 1e-3, "N = {n}, b = {b}: {}", kl(&trained, &target));
            }
            // Counting strictly, as the public code of vBoN does, ends elsewhere.
            let strict: Vec<f64> = world.masses.below.iter().map(|f| f.max(1e-3).ln()).collect();
            let weights = Weights::jeffreys(1.0, 1.0 / (n - 1.0), 0.0).expect("in range");
            let missed = optimum(&world, weights, &strict, &target);
            assert!(kl(&missed, &target) > 1e-2, "N = {n}: {}", kl(&missed, &target));
        }
    }
}

/// `E[r_J]` of every answer against a law.
fn expected_r_j(at_most: &[f64]) -> Vec<f64> {
    at_most.iter().map(|f| -16.0_f64.ln() * (1.0 - f).powi(2)).collect()
}

#[test]
fn the_binary_reward_of_j_bond_has_its_mean_and_meets_the_logarithm() {
    for world in [items(), worlds().remove(1)] {
        let objective = j_bond(1.0, 0.0);
        let mut squares = Vec::new();
        for y in 0..world.p.len() {
            // The policy surely gives y, and the log-ratio is zero: the return is r_J.
            let mean = Exhaustive::mean(|draw| {
                let mut group = Group::default();
                group.policy.push(Rollout { reward: world.r[y], log_policy: 0.0, log_anchor: 0.0 });
                for _ in 0..2 {
                    let other = draw.pick(&world.log_p);
                    let (log_anchor, log_reference) = (world.log_p[other], world.log_p[other]);
                    group.anchor.push(AnchorSample { reward: world.r[other], log_anchor, log_reference });
                }
                let terms = objective.terms(&[group], &mut |_, _, _| {}).expect("drawn");
                let TermLoss::Linear(c) = terms[0].policy[0].expect("a term").loss else { panic!("linear") };
                vec![-c]
            });
            squares.push(mean.expect("finite")[0]);
        }
        let want = expected_r_j(&world.masses.at_most);
        assert!(distance(&squares, &want) < 1e-12, "{}", distance(&squares, &want));
    }
    let meets = expected_r_j(&[0.5, 1.0]);
    assert!((meets[0] - 0.5_f64.ln()).abs() < 1e-15 && meets[1] == 0.0);
    // A third of the answers is the worst of three where nothing ties: the rate that is to be seen at the start.
    let size = 3000;
    let mean: f64 =
        (1..=size).map(|k| (1.0 - f64::from(k) / f64::from(size)).powi(2)).sum::<f64>() / f64::from(size);
    assert!((mean - 1.0 / 3.0).abs() < 1e-3);
}

#[test]
fn the_regulariser_of_j_bond_lowers_the_distance_to_the_anchor_and_its_printed_sign_raises_it() {
    for world in worlds() {
        let phi = expected_r_j(&world.masses.at_most);
        let target = bon::law(&world.p, &world.r, 2.0).expect("law");
        let away = |weights: Weights| kl(&optimum(&world, weights, &phi, &target), &world.p);
        let at = |gamma: f64| Weights::jeffreys(0.5, 1.0, gamma).expect("in range");
        let right: Vec<f64> = [0.0, 0.5, 2.0].map(|gamma| away(at(gamma))).to_vec();
        assert!(right[0] > right[1] + 1e-3 && right[1] > right[2] + 1e-3, "{right:?}");
        let printed = away(Weights { kl: 0.5 - 0.3, ..at(0.0) });
        assert!(printed > right[0] + 1e-2, "{printed} against {}", right[0]);
        // Without it the optimum is near best-of-2.
        let near = kl(&optimum(&world, at(0.0), &phi, &target), &target);
        assert!(near < 0.02, "{near}");
    }
}

#[test]
fn without_ties_j_bond_is_within_two_thousandths_of_best_of_two() {
    // Four hundred answers of equal probability, trained through the law of its fixed point: the optimum solves
    // b (Phi - log f) + (1-b) target / f = const, found by bisection in f for every answer.
    let size = 400;
    let p = vec![1.0 / size as f64; size];
    let r: Vec<f64> = (0..size).map(|y| y as f64).collect();
    let masses = objective::law::RankMasses::new(&p, &r).expect("law");
    let (phi, target) = (expected_r_j(&masses.at_most), bon::law(&p, &r, 2.0).expect("law"));
    let law_at = |constant: f64| -> Vec<f64> {
        (0..size)
            .map(|y| {
                let slope = |q: f64| 0.5 * (phi[y] - (q / p[y]).ln()) + 0.5 * target[y] / q - constant;
                let (mut low, mut high) = (1e-12_f64, 1.0_f64);
                for _ in 0..200 {
                    let middle = (low * high).sqrt();
                    if slope(middle) > 0.0 { low = middle } else { high = middle }
                }
                low
            })
            .collect()
    };
    let (mut low, mut high) = (-5.0, 5.0);
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if law_at(middle).iter().sum::<f64>() > 1.0 { low = middle } else { high = middle }
    }
    let law = law_at(low);
    let away = kl(&law, &target);
    assert!((0.0005..0.0025).contains(&away), "{away}");
    // It is stationary for the shipped weights: the derivative by the logits of a softmax vanishes.
    let weights = Weights::jeffreys(0.5, 1.0, 0.0).expect("in range");
    let coefficients = weights.exact(&law, &p, &phi, &target);
    let total: f64 = coefficients.iter().sum();
    assert!(coefficients.iter().zip(&law).all(|(c, q)| (c - total * q).abs() < 1e-9));
}

#[test]
fn a_moving_average_of_logits_multiplies_n() {
    // Exact best-of-n of the anchor, averaged in logits: u^m stays u^m with m <- m (1 + (n-1) eta).
    let size = 2000;
    let reference = vec![1.0 / size as f64; size];
    let r: Vec<f64> = (0..size).map(|y| y as f64).collect();
    let (n, eta) = (2.0, 0.02);
    let mut anchor = reference.clone();
    let mut m = 1.0;
    for _ in 0..100 {
        let policy = bon::law(&anchor, &r, n).expect("law");
        let mixed: Vec<f64> = anchor
            .iter()
            .zip(&policy)
            .map(|(a, p)| ((1.0 - eta) * a.max(1e-300).ln() + eta * p.max(1e-300).ln()).exp())
            .collect();
        let total: f64 = mixed.iter().sum();
        anchor = mixed.iter().map(|q| q / total).collect();
        m *= 1.0 + (n - 1.0) * eta;
    }
    assert!((m - 7.245).abs() < 1e-3);
    let away = kl(&anchor, &reference);
    assert!((away - bon::kl_bound(m)).abs() < 2e-3, "{away} against {}", bon::kl_bound(m));
}

#[test]
fn rank_based_methods_do_not_see_increasing_maps_of_the_reward() {
    let world = items();
    let policy = moved(&world.base).log_law().expect("law");
    let vbon = |form| {
        let target = Vbon { n: 3.5, form };
        let value = Value::Vbon { target, ties: Ties::NonStrict };
        Composition::policy_gradient(value, Weights::regularised(target.kl_coefficient()), Estimator::Rloo, 3)
    };
    let ctrl = |tilt| {
        Composition::policy_gradient(Value::Calibrated(tilt), Weights::backward(0.3), Estimator::Grpo, 3)
    };
    let wind = Wind {
        loss: WindLoss::Squared,
        game: Game { beta: 0.2, eta: 1.0 },
        preference: Preference::Rank,
        samples: 4,
    };
    let blind: Vec<Box<dyn Objective>> = vec![
        Box::new(vbon(VbonForm::Bound)),
        Box::new(vbon(VbonForm::Exact)),
        Box::new(ctrl(Tilt::Log)),
        Box::new(ctrl(Tilt::Exponential { t: 5.0 })),
        Box::new(bond(2.0, 0.5, 4, Ties::NonStrict)),
        Box::new(j_bond(0.5, 0.3)),
        Box::new(wind),
        Box::new(Wind { loss: WindLoss::Kl, ..wind }),
        Box::new(Wind { loss: WindLoss::Nce, ..wind }),
    ];
    let raw: Box<dyn Objective> =
        Box::new(Composition::policy_gradient(Value::Raw, Weights::regularised(0.1), Estimator::Rloo, 3));
    let logistic: Box<dyn Objective> =
        Box::new(Wind { preference: Preference::Logistic { scale: 1.0 }, ..wind });
    let maps: [fn(f64) -> f64; 3] = [|r| r.exp(), |r| r.powi(3), |r| 7.0 * r - 2.0];
    let terms = |objective: &dyn Objective, map: &dyn Fn(f64) -> f64, picks: [usize; 7]| {
        let cached = CachedRewards::new(pool().sorted().iter().map(|r| map(*r)).collect()).expect("finite");
        let mut picks = picks.into_iter().cycle();
        let mut group = Group { cached: Some(&cached), ..Group::default() };
        for _ in 0..objective.draws().policy {
            let y = picks.next().expect("a cycle");
            let (log_policy, log_anchor) = (policy[y], world.log_p[y]);
            group.policy.push(Rollout { reward: map(world.r[y]), log_policy, log_anchor });
        }
        for _ in 0..objective.draws().anchor {
            let y = picks.next().expect("a cycle");
            let (log_anchor, log_reference) = (world.log_p[y], world.log_p[y]);
            group.anchor.push(AnchorSample { reward: map(world.r[y]), log_anchor, log_reference });
        }
        objective.terms(&[group], &mut |_, _, _| {}).expect("drawn")
    };
    for picks in [[0, 1, 2, 3, 0, 2, 1], [3, 2, 2, 1, 0, 3, 3], [1, 1, 0, 0, 2, 3, 1]] {
        for map in maps {
            for objective in &blind {
                assert_eq!(terms(objective.as_ref(), &|r| r, picks), terms(objective.as_ref(), &map, picks));
            }
        }
    }
    // What sees the reward itself does see them.
    let picks = [0, 1, 2, 3, 0, 2, 1];
    for seeing in [raw, logistic] {
        for map in maps {
            assert_ne!(terms(seeing.as_ref(), &|r| r, picks), terms(seeing.as_ref(), &map, picks));
        }
    }
}

#[test]
fn best_minus_second_has_the_gradient_of_best_of_n_at_less_variance_than_the_plain_estimator() {
    let world = items();
    let policy = moved(&world.base);
    let log_law = policy.log_law().expect("law");
    for (n, rollouts) in [(2, 2), (3, 3), (2, 4)] {
        let beta = 0.2;
        let objective = BonAware { n, rollouts, beta, estimator: BonEstimator::BestMinusSecond };
        let got = mean_gradient(&objective, None, &world, &policy, &world.log_p);
        let want = numeric_gradient(&policy, |law| {
            let best = bon::law(law, &world.r, n as f64).expect("law");
            -(expectation(&best, &world.r) - beta * kl(law, &world.p))
        });
        assert!(distance(&got, &want) < 1e-9, "N = {n}: {}", distance(&got, &want));
    }
    // `R(best) sum_i grad log pi(y_i)` has the same mean and a larger second moment.
    let n = 3;
    let second_moment = |objective: Option<&BonAware>| {
        Exhaustive::mean(|draw| {
            let draws = Draws { policy: n, anchor: 0 };
            let (group, own, others) = draw_group(draws, None, &world, &log_law, &world.log_p, draw);
            let mut plain = vec![0.0; log_law.len()];
            let best = group.policy.iter().map(|rollout| rollout.reward).fold(f64::NEG_INFINITY, f64::max);
            for y in &own {
                plain[*y] -= best;
            }
            let chosen = objective.map(|objective| {
                let terms = objective.terms(&[group], &mut |_, _, _| {}).expect("drawn");
                coefficients(&terms[0], &own, &others, &log_law)
            });
            let gradient = policy.backward(&chosen.unwrap_or(plain)).expect("aligned");
            let square: f64 = gradient.iter().map(|g| g * g).sum();
            [gradient, vec![square]].concat()
        })
        .expect("finite")
    };
    let free = BonAware { n, rollouts: n, beta: 0.0, estimator: BonEstimator::BestMinusSecond };
    let (lead, plain) = (second_moment(Some(&free)), second_moment(None));
    assert!(distance(&lead[..4], &plain[..4]) < 1e-12);
    assert!(lead[4] < 0.5 * plain[4], "{} against {}", lead[4], plain[4]);
}
