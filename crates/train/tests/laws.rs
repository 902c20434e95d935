//! The offline methods' own losses, rows and targets, on policies small enough to write down: where their optimum is what
//! they name, and where a variant of public code ends elsewhere.

use std::collections::BTreeMap;

use generate::{Purpose, Stream};
use objective::bon;
use objective::draw::Exhaustive;
use objective::law::{RankMasses, kl, tilt, total_variation};
use objective::losses::{PairLoss, QuantileTilt, SequenceLogProbs, log_mean_exp, squared_ratio};
use objective::tabular::{Space, Symbol, TabularLm, TabularPolicy, TabularTable};
use serde::Deserialize;
use serde_json::Value;
use testkit::assert_close;
use train::methods::bon_sft::{BonSft, Choose};
use train::methods::bonbon::Bonbon;
use train::methods::dpo::{Dpo, PairwiseLoss};
use train::methods::ipo::Ipo;
use train::methods::prefix_scorer::{Form, PrefixScorer};
use train::methods::qrpo::{Partition, Qrpo, Tilt};
use train::methods::sppo::{Normaliser, Preference, Sppo};
use train::pairs::PairMethod;

/// A base model, its law, its strings, rewards and rank masses.
struct World {
    base: TabularLm,
    strings: Vec<Vec<Symbol>>,
    p: Vec<f64>,
    log_p: Vec<f64>,
    r: Vec<f64>,
    masses: RankMasses,
}

impl World {
    fn new(base: TabularLm, r: Vec<f64>) -> Self {
        let log_p = base.log_law().expect("law");
        let p: Vec<f64> = log_p.iter().map(|l| l.exp()).collect();
        let masses = RankMasses::new(&p, &r).expect("law");
        Self { strings: base.space().sequences(), base, p, log_p, r, masses }
    }

    /// Strings of one symbol.
    fn items(p: &[f64], r: &[f64]) -> Self {
        let count = p.len() as Symbol;
        let space = Space::new(count, count - 1, 1).expect("space");
        Self::new(TabularLm::from_law(space, p).expect("law"), r.to_vec())
    }

    fn against_reference(&self, log_law: &[f64], y: usize) -> SequenceLogProbs {
        SequenceLogProbs { policy: log_law[y], reference: self.log_p[y], tokens: self.strings[y].len() }
    }
}

/// The three toys: distinct rewards, ties, two values.
fn worlds() -> Vec<World> {
    #[derive(Deserialize)]
    struct Toy {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        horizon: usize,
        vocab: Symbol,
        eos: Symbol,
        base_conditionals: BTreeMap<String, Vec<f64>>,
        rewards: Vec<f64>,
    }
    let toy: Toy =
        serde_json::from_str(include_str!("../../objective/tests/fixtures/toy.json")).expect("the fixture");
    let world = |case: Case| {
        let Case { horizon, vocab, eos, base_conditionals: conditionals, rewards } = case;
        World::new(TabularTable { vocab, eos, horizon, conditionals }.try_into().expect("table"), rewards)
    };
    toy.cases.into_iter().map(world).collect()
}

/// Minimises a loss whose gradient with respect to the log-probabilities of all strings is `gradient(log_law)`: Adam with a
/// cosine schedule. Returns the trained law.
fn train(start: &TabularLm, steps: usize, gradient: impl Fn(&[f64]) -> Vec<f64>) -> Vec<f64> {
    let mut policy = TabularPolicy::from_lm(start).expect("full support");
    let mut first = vec![0.0; policy.logits().len()];
    let mut second = first.clone();
    for step in 1..=steps {
        let g = policy.backward(&gradient(&policy.log_law().expect("law"))).expect("aligned");
        let rate = 0.05 * (1.0 + (std::f64::consts::PI * step as f64 / steps as f64).cos());
        let (c1, c2) = (1.0 - 0.9_f64.powi(step as i32), 1.0 - 0.999_f64.powi(step as i32));
        for (i, logit) in policy.logits_mut().iter_mut().enumerate() {
            first[i] = 0.9 * first[i] + 0.1 * g[i];
            second[i] = 0.999 * second[i] + 0.001 * g[i] * g[i];
            *logit -= rate * (first[i] / c1) / ((second[i] / c2).sqrt() + 1e-12);
        }
    }
    policy.log_law().expect("law").into_iter().map(f64::exp).collect()
}

/// The gradient of the mean loss over pairs, each with its weight.
fn pair_gradient(
    size: usize,
    weight: impl Fn(usize, usize) -> f64,
    pair: impl Fn(usize, usize) -> PairLoss,
) -> Vec<f64> {
    let mut gradient = vec![0.0; size];
    for y in 0..size {
        for z in (0..size).filter(|z| *z != y) {
            let w = weight(y, z);
            if w > 0.0 {
                let loss = pair(y, z);
                gradient[y] += w * loss.grad_chosen;
                gradient[z] += w * loss.grad_rejected;
            }
        }
    }
    gradient
}

/// The better of two is chosen, equals by a coin.
fn preferred(r: &[f64], y: usize, z: usize) -> f64 {
    match r[y].total_cmp(&r[z]) {
        std::cmp::Ordering::Greater => 1.0,
        std::cmp::Ordering::Equal => 0.5,
        std::cmp::Ordering::Less => 0.0,
    }
}

#[test]
fn every_loss_of_the_recipes_is_that_of_the_reference_values() {
    let file: Value = serde_json::from_str(include_str!("../../objective/tests/fixtures/losses.json"))
        .expect("the fixture parses");
    let data = &file["pairwise"];
    let rows = |name: &str| -> Vec<Vec<f64>> { serde_json::from_value(data[name].clone()).expect("rows") };
    let (pc, pr) = (rows("policy_chosen_logps"), rows("policy_rejected_logps"));
    let (rc, rr) = (rows("reference_chosen_logps"), rows("reference_rejected_logps"));
    let sequence = |policy: &[f64], reference: &[f64], used: bool| SequenceLogProbs {
        policy: policy.iter().sum(),
        reference: if used { reference.iter().sum() } else { 0.0 },
        tokens: policy.len(),
    };
    let mut seen = 0;
    for case in data["cases"].as_array().expect("cases") {
        let number = |key: &str| case["params"].get(key).and_then(Value::as_f64);
        let beta = number("beta").or(number("tau")).expect("a scale");
        let (gamma, label_smoothing) =
            (number("gamma").unwrap_or(0.0), number("label_smoothing").unwrap_or(0.0));
        let dpo = |loss| Dpo { beta, loss, label_smoothing, ..Dpo::default() };
        let name = case["name"].as_str().expect("a name");
        let method = match name {
            "dpo" | "ipo_sum" => dpo(PairwiseLoss::Sigmoid),
            // Without a reference and with a margin it is the method `arm`.
            "dpo_reference_free" if gamma == 0.0 => {
                Dpo { reference_free: true, ..dpo(PairwiseLoss::Sigmoid) }
            }
            "dpo_reference_free" => continue,
            "dpo_robust" => dpo(PairwiseLoss::Robust),
            "dpo_hinge" => dpo(PairwiseLoss::Hinge),
            "simpo" => Dpo { gamma, ..dpo(PairwiseLoss::Simpo) },
            "ipo_mean" => dpo(PairwiseLoss::Ipo),
            other => panic!("unknown loss {other}"),
        };
        for index in 0..pc.len() {
            let used = name == "ipo_sum" || method.uses_reference();
            let (c, r) = (sequence(&pc[index], &rc[index], used), sequence(&pr[index], &rr[index], used));
            let pair = if name == "ipo_sum" { Ipo { tau: beta }.pair(c, r) } else { method.pair(c, r) };
            let want = |key: &str| case[key][index].as_f64().expect("a number");
            assert_close(name, pair.loss, want("per_pair"), 1e-10, 1e-9);
            assert_close(name, pair.grad_chosen, want("grad_chosen"), 1e-10, 1e-9);
            assert_close(name, pair.grad_rejected, want("grad_rejected"), 1e-10, 1e-9);
        }
        seen += 1;
    }
    assert_eq!(seen, 15);
}

#[test]
fn ipo_trains_to_ctrl_with_the_identity_and_means_over_tokens_do_not() {
    for world in worlds() {
        let (size, tau) = (world.p.len(), 0.4);
        let trained = |pair: &dyn Fn(SequenceLogProbs, SequenceLogProbs) -> PairLoss| {
            train(&world.base, 3000, |log_law| {
                let at = |y| world.against_reference(log_law, y);
                let weight = |y, z| world.p[y] * world.p[z] * preferred(&world.r, y, z);
                pair_gradient(size, weight, |y, z| pair(at(y), at(z)))
            })
        };
        // CTRL with the identity: the reference tilted by the calibrated reward over beta = tau.
        let phi: Vec<f64> = world.masses.mid_rank().iter().map(|c| c / tau).collect();
        let ctrl = tilt(&world.p, &phi).expect("law").law;
        let ipo = Ipo { tau };
        let sums = trained(&|c, r| ipo.pair(c, r));
        assert!(total_variation(&sums, &ctrl) < 1e-4, "{}", total_variation(&sums, &ctrl));
        let dpo = Dpo { beta: tau, loss: PairwiseLoss::Ipo, ..Dpo::default() };
        let means = trained(&|c, r| dpo.pair(c, r));
        assert!(total_variation(&means, &ctrl) > 0.02, "{}", total_variation(&means, &ctrl));
    }
}

#[test]
fn samples_of_bon_sft_follow_best_of_n_and_training_on_them_reaches_it() {
    let (p, r) = ([0.4, 0.1, 0.2, 0.3], [0.0, 2.0, 1.0, 1.0]);
    let log_p = p.map(f64::ln);
    for (n, pool_samples, choose) in
        [(2, 2, Choose::Groups), (2, 4, Choose::Groups), (2, 4, Choose::Subsets), (3, 4, Choose::Subsets)]
    {
        let method = BonSft { n, pool_samples, choose };
        let law = |rank_first: bool| {
            Exhaustive::mean(|draw| {
                let pool: Vec<usize> = (0..pool_samples).map(|_| draw.pick(&log_p)).collect();
                let rewards: Vec<f64> = pool.iter().map(|y| r[*y]).collect();
                let weights = method.weights(&rewards, draw).expect("weights");
                let total: f64 = weights.iter().sum();
                let mut chosen = vec![0.0; p.len()];
                for (y, weight) in pool.iter().zip(&weights) {
                    chosen[*y] += weight / total;
                }
                if rank_first {
                    // The best of the whole pool, whatever n is.
                    let best =
                        (0..p.len()).filter(|y| pool.contains(y)).max_by(|a, b| r[*a].total_cmp(&r[*b]));
                    chosen = (0..p.len()).map(|y| f64::from(u8::from(Some(y) == best))).collect();
                }
                chosen
            })
            .expect("finite")
        };
        let target = bon::law(&p, &r, n as f64).expect("law");
        let ours = law(false);
        assert!(total_variation(&ours, &target) < 1e-14, "{method:?}: {ours:?} and not {target:?}");
        // The best of the whole pool without a fair draw among equals is another law.
        assert!(total_variation(&law(true), &target) > 0.01);

        // The gradient of the rows' mean loss is that of the cross-entropy to this law.
        let world = World::items(&p, &r);
        let trained = train(&world.base, 2000, |_| ours.iter().map(|q| -q).collect());
        assert!(total_variation(&trained, &target) < 1e-5);
    }
}

#[test]
fn pairs_of_bonbon_are_best_and_worst_of_the_same_samples() {
    let (p, r): ([f64; 3], _) = ([0.5, 0.3, 0.2], [1.0, 0.0, 1.0]);
    let log_p = p.map(f64::ln);
    let method = Bonbon { n: 3, pool_samples: 3, ..Bonbon::default() };
    let drawn = Exhaustive::mean(|draw| {
        let pool: Vec<usize> = (0..3).map(|_| draw.pick(&log_p)).collect();
        let rewards: Vec<f64> = pool.iter().map(|y| r[*y]).collect();
        let mut law = vec![0.0; 9];
        for (best, worst) in method.pairs(&rewards, draw) {
            law[pool[best] * 3 + pool[worst]] += 1.0;
        }
        law
    })
    .expect("finite");
    // The worst is item 1 unless no sample is; among the two best items a fair draw follows their probabilities.
    let some = 1.0 - 0.7_f64.powi(3) - 0.3_f64.powi(3);
    let want = [0.0, some * 0.5 / 0.7, 0.0, 0.0, 0.0, 0.0, 0.0, some * 0.2 / 0.7, 0.0];
    for (got, want) in drawn.iter().zip(want) {
        assert!((got - want).abs() < 1e-14, "{drawn:?}");
    }
    // Equal rewards give no pair.
    let mut stream = generate::Stream::new(0, generate::Purpose::Order, 0, 0);
    assert!(method.pairs(&[1.0, 1.0, 1.0], &mut stream).is_empty());
}

/// The law of best and worst of `n` among `size` equally likely items ordered by reward.
fn best_and_worst(size: usize, n: i32) -> Vec<Vec<f64>> {
    let within = |low: i64, high: i64| ((high - low + 1).max(0) as f64 / size as f64).powi(n);
    let law = |i: i64, j: i64| within(j, i) - within(j, i - 1) - within(j + 1, i) + within(j + 1, i - 1);
    let row = |i: i64| (0..size as i64).map(|j| if j < i { law(i, j) } else { 0.0 }).collect();
    (0..size as i64).map(row).collect()
}

#[test]
fn the_sum_of_bonbon_nears_best_of_n_as_the_likelihood_weighs_more_and_its_square_alone_does_not() {
    let size = 16;
    let p = vec![1.0 / size as f64; size];
    let r: Vec<f64> = (0..size).map(|y| y as f64).collect();
    let world = World::items(&p, &r);
    let optimum = |n: usize, alpha: f64| {
        let method = Bonbon { n, pool_samples: n, alpha };
        let pairs = best_and_worst(size, n as i32);
        let target = bon::law(&p, &r, n as f64).expect("law");
        let best: Vec<f64> = pairs.iter().map(|row| row.iter().sum()).collect();
        train(&world.base, 6000, |log_law| {
            let at = |y| world.against_reference(log_law, y);
            let mut gradient = pair_gradient(size, |y, z| pairs[y][z], |y, z| method.pair(at(y), at(z)));
            // Groups of one item n times have no pair; their share of the likelihood is added for the comparison of laws.
            for (y, g) in gradient.iter_mut().enumerate() {
                *g -= alpha * (target[y] - best[y]);
            }
            gradient
        })
    };
    // With n = 2 the square alone is IPO with tau = 1/2: the tilt exp(2u), and not best-of-2.
    let two = bon::law(&p, &r, 2.0).expect("law");
    let square = optimum(2, 0.0);
    let line: Vec<f64> = world.masses.mid_rank().iter().map(|u| 2.0 * u).collect();
    assert!(total_variation(&square, &tilt(&p, &line).expect("law").law) < 1e-5);
    assert!(kl(&two, &square) > 0.01, "{}", kl(&two, &square));
    // The more the likelihood weighs, the closer; at the paper's weight hardly at all.
    let eight = bon::law(&p, &r, 8.0).expect("law");
    let gaps: Vec<f64> =
        [0.0, 0.005, 0.5, 0.9, 0.999].iter().map(|alpha| kl(&eight, &optimum(8, *alpha))).collect();
    assert!(gaps.windows(2).all(|pair| pair[1] < pair[0]), "{gaps:?}");
    assert!(gaps[0] > 0.2 && gaps[0] - gaps[1] < 0.01 && gaps[4] < 0.01, "{gaps:?}");
}

/// The optimum of the regression of log-ratios on `targets` under the reference.
fn regress(world: &World, targets: &[f64]) -> Vec<f64> {
    train(&world.base, 4000, |log_law| {
        let slope = |y: usize| world.p[y] * squared_ratio(log_law[y] - world.log_p[y], targets[y], 1.0).1;
        (0..targets.len()).map(slope).collect()
    })
}

#[test]
fn qrpo_trains_to_the_tilt_of_the_calibrated_reward_and_other_partition_functions_do_not() {
    let tilts =
        [QuantileTilt::Identity, QuantileTilt::Power(2.0), QuantileTilt::Exp(3.0), QuantileTilt::Exp(-3.0)];
    let worlds = worlds();
    for (world, tilt_of) in worlds.iter().cycle().zip(tilts) {
        let beta: f64 = 0.5;
        let phi: Vec<f64> = world.masses.mid_rank().iter().map(|c| tilt_of.phi(*c) / beta).collect();
        let optimum = tilt(&world.p, &phi).expect("law");
        let log_z = |z: f64| phi.iter().map(|phi| phi - z).collect::<Vec<f64>>();
        // With the reference's own mean of exp(Phi/beta), as the samples of a pool estimate it.
        let mean: f64 = world.p.iter().zip(&phi).map(|(p, phi)| p * phi.exp()).sum();
        let ours = regress(world, &log_z(mean.ln()));
        assert!(total_variation(&ours, &optimum.law) < 1e-4, "{}", total_variation(&ours, &optimum.law));
        // Public code's approximation for small beta, at a beta that is not small.
        let dropped = regress(world, &log_z(beta.ln() + 1.0 / beta));
        assert!(tilt_of != QuantileTilt::Identity || total_variation(&dropped, &optimum.law) > 1e-3);
    }
    // Two values of the reward: the integral over quantiles is not the partition function.
    let world = &worlds[2];
    let phi: Vec<f64> = world.masses.mid_rank().iter().map(|c| c / 0.1).collect();
    let optimum = tilt(&world.p, &phi).expect("law").law;
    let closed = QuantileTilt::Identity.log_partition(0.1);
    let missed = regress(world, &phi.iter().map(|phi| phi - closed).collect::<Vec<_>>());
    assert!(total_variation(&missed, &optimum) > 0.01, "{}", total_variation(&missed, &optimum));
}

#[test]
fn the_quantile_of_qrpo_is_unbiased_and_a_sample_among_its_own_references_is_not() {
    let (p, r) = ([0.4, 0.1, 0.2, 0.3], [0.0, 2.0, 1.0, 1.0]);
    let log_p = p.map(f64::ln);
    let masses = RankMasses::new(&p, &r).expect("law");
    let method = Qrpo { beta: 0.3, partition: Partition::ClosedForm, pool_samples: 4, ..Qrpo::default() };
    let mean = |own: bool| {
        let mut sums = Exhaustive::mean(|draw| {
            let pool: Vec<usize> = (0..4).map(|_| draw.pick(&log_p)).collect();
            let rewards: Vec<f64> = pool.iter().map(|y| r[*y]).collect();
            let mut targets = method.targets(&rewards).expect("targets");
            if own {
                // The count of public code: the sample itself and all its equals.
                for (target, reward) in targets.iter_mut().zip(&rewards) {
                    let count = rewards.iter().filter(|other| *other <= reward).count();
                    *target = count as f64 / 4.0 / 0.3 - QuantileTilt::Identity.log_partition(0.3);
                }
            }
            let mut by_item = vec![0.0; 4];
            for (y, target) in pool.iter().zip(&targets) {
                by_item[*y] += target / 4.0;
            }
            by_item
        })
        .expect("finite");
        for (sum, p) in sums.iter_mut().zip(&p) {
            *sum /= p;
        }
        sums
    };
    let want: Vec<f64> =
        masses.mid_rank().iter().map(|c| c / 0.3 - QuantileTilt::Identity.log_partition(0.3)).collect();
    for (got, want) in mean(false).iter().zip(&want) {
        assert!((got - want).abs() < 1e-12, "{got} and not {want}");
    }
    assert!(mean(true).iter().zip(&want).any(|(got, want)| (got - want).abs() > 0.3));
}

#[test]
fn targets_of_qrpo_see_ranks_alone() {
    let rewards = [0.5, -1.0, 2.0, 0.5, 3.0, -2.0];
    for (tilt, t) in [(Tilt::Identity, 1.0), (Tilt::Log, 1.0), (Tilt::Power, 2.0), (Tilt::Exp, -5.0)] {
        let method = Qrpo { tilt, t, beta: 0.2, ..Qrpo::default() };
        let targets = method.targets(&rewards).expect("targets");
        assert!(targets.iter().all(|t| t.is_finite()));
        let mapped: Vec<f64> = rewards.iter().map(|r| (3.0 * r).exp()).collect();
        assert_eq!(method.targets(&mapped).expect("targets"), targets);
        assert!(targets[4] > targets[2] && targets[2] > targets[0] && targets[0] == targets[3]);
    }
    // Best-of-N by the logarithm: the closed form is best-of-(1 + 1/beta) where no two rewards are equal.
    let closed = QuantileTilt::Log.log_partition(0.25);
    assert!((closed - (0.25_f64 / 1.25).ln()).abs() < 1e-12);
    // Equal rewards say nothing: the policy is held at the reference.
    assert!(Qrpo::default().targets(&[1.0; 4]).expect("targets").iter().all(|t| t.abs() < 1e-12));
}

#[test]
fn targets_from_pools_are_on_average_those_of_the_exact_normaliser() {
    // Without ties the ranks are 0, 1/(M-1), ..., 1 whatever the samples are: their mean at a quantile is the
    // quantile, so that the
    // normaliser alone decides. The mean of exp(Phi/beta) over those ranks is too large by the last column.
    for (beta, samples, too_large) in
        [(0.1, 8, 0.497), (0.2, 8, 0.206), (0.5, 4, 0.101), (0.1, 64, 0.063), (0.1, 5, 0.779)]
    {
        let rewards: Vec<f64> = (0..samples).map(|k| f64::from(k * k)).collect();
        let exact = QuantileTilt::Identity.log_partition(beta);
        let rank = |k: i32| f64::from(k) / f64::from(samples - 1) / beta;
        let ranks: Vec<f64> = (0..samples).map(rank).collect();
        assert!((log_mean_exp(&ranks) - exact - too_large).abs() < 6e-4, "{beta} {samples}");
        for partition in [Partition::Pool, Partition::ClosedForm] {
            let method = Qrpo { beta, partition, pool_samples: samples as usize, ..Qrpo::default() };
            for (k, target) in (0..).zip(method.targets(&rewards).expect("targets")) {
                assert!((target - (rank(k) - exact)).abs() < 1e-9, "{partition:?} {beta} {samples}");
            }
        }
        let eta = 1.0 / beta;
        let (preference, normaliser) = (Preference::Ranks, Normaliser::Pool);
        let round = Sppo { eta, preference, normaliser, pool_samples: samples as usize };
        for (k, target) in (0..).zip(round.targets(&rewards).expect("targets")) {
            assert!((target - (rank(k) - exact)).abs() < 1e-9, "a round of {samples} at {eta}");
        }
    }
}

#[test]
fn the_normaliser_of_a_pool_is_right_with_ties_too() {
    // Three values of the reward: the mean over pools of log Z goes to that of the law.
    let masses: [f64; 3] = [0.5, 0.3, 0.2];
    let middles = [0.25_f64, 0.65, 0.9];
    let beta = 0.2;
    let exact: f64 = masses.iter().zip(middles).map(|(p, c)| p * (c / beta).exp()).sum::<f64>().ln();
    let mut stream = Stream::new(3, Purpose::Sample, 0, 0);
    let mut pool = || {
        let one = |u: f64| {
            if u < 0.5 {
                0.0
            } else if u < 0.8 {
                1.0
            } else {
                2.0
            }
        };
        (0..64).map(|_| one(stream.uniform())).collect::<Vec<f64>>()
    };
    let pools = 400;
    let mean = |of: &dyn Fn(&[f64]) -> f64, pools: &[Vec<f64>]| {
        pools.iter().map(|p| of(p)).sum::<f64>() / pools.len() as f64
    };
    let drawn: Vec<Vec<f64>> = (0..pools).map(|_| pool()).collect();
    let log_z = |rewards: &[f64]| {
        let all = objective::rank::CachedRewards::new(rewards.to_vec()).expect("finite");
        QuantileTilt::Identity.log_partition_of(beta, &all)
    };
    let got = mean(&log_z, &drawn);
    assert!((got - exact).abs() < 0.02, "{got} and not {exact}");
    // The logistic preference: win rates among all samples, oneself one half.
    let sppo =
        Sppo { eta: 10.0, preference: Preference::Logistic, normaliser: Normaliser::Pool, pool_samples: 64 };
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let rate = |a: usize| (0..3).map(|b| masses[b] * sigmoid(a as f64 - b as f64)).sum::<f64>();
    let exact: f64 = (0..3).map(|a| masses[a] * (10.0 * rate(a)).exp()).sum::<f64>().ln();
    let of_sppo = |rewards: &[f64]| {
        let target = sppo.targets(rewards).expect("targets")[0];
        10.0 * sppo.win_rates(rewards)[0] - target
    };
    let got = mean(&of_sppo, &drawn);
    assert!((got - exact).abs() < 0.05, "{got} and not {exact}");
}

#[test]
fn a_round_of_sppo_is_a_step_of_multiplicative_weights() {
    let rewards = [0.5, -1.0, 2.0, 0.5, 3.0];
    let exact =
        Sppo { eta: 4.0, preference: Preference::Ranks, normaliser: Normaliser::Pool, pool_samples: 5 };
    let qrpo = Qrpo { beta: 0.25, pool_samples: 5, ..Qrpo::default() };
    for (a, b) in
        exact.targets(&rewards).expect("targets").iter().zip(qrpo.targets(&rewards).expect("targets"))
    {
        assert!((a - b).abs() < 1e-12, "with ranks it is QRPO with beta = 1/eta");
    }
    let logistic = Sppo { preference: Preference::Logistic, ..exact.clone() };
    let by_hand = [-1.0, 2.0, 0.5, 3.0].map(|r: f64| 1.0 / (1.0 + (r - 0.5).exp())).iter().sum::<f64>() / 4.0;
    assert!((logistic.win_rates(&rewards)[0] - by_hand).abs() < 1e-15);
    // Win rates of a pool against itself add up to half of it.
    assert!((logistic.win_rates(&rewards).iter().sum::<f64>() - 2.5).abs() < 1e-14);

    // One half for log Z / eta is right for small steps only.
    let world = worlds().swap_remove(0);
    let wins = world.masses.mid_rank();
    let away = |eta: f64| {
        let step = tilt(&world.p, &wins.iter().map(|w| eta * w).collect::<Vec<_>>()).expect("law").law;
        let half: Vec<f64> = wins.iter().map(|w| eta * (w - 0.5)).collect();
        total_variation(&regress(&world, &half), &step)
    };
    assert!(away(0.2) < 1e-3 && away(8.0) > 0.02, "{} {}", away(0.2), away(8.0));
}

#[test]
fn both_prefix_scorers_have_the_value_of_the_base_as_their_fixed_point() {
    for world in worlds() {
        let mut exact: BTreeMap<&[Symbol], (f64, f64)> = BTreeMap::new();
        for (y, p) in world.strings.iter().zip(&world.p) {
            let reward = world.r[world.strings.iter().position(|x| x == y).expect("there")];
            for t in 1..=y.len() {
                let entry = exact.entry(&y[..t]).or_default();
                *entry = (entry.0 + p * reward, entry.1 + p);
            }
        }
        let exact: BTreeMap<&[Symbol], f64> = exact.into_iter().map(|(s, (sum, p))| (s, sum / p)).collect();
        // Regression on the mean target of every prefix, under samples of a law, until nothing changes.
        let fixed_point = |method: &PrefixScorer, law: &[f64]| {
            let mut value: BTreeMap<&[Symbol], f64> = exact.keys().map(|s| (*s, 0.0)).collect();
            for _ in 0..60 {
                let mut sums: BTreeMap<&[Symbol], (f64, f64)> = BTreeMap::new();
                for ((y, p), r) in world.strings.iter().zip(law).zip(&world.r) {
                    let values: Vec<f64> = (1..=y.len()).map(|t| value[&y[..t]]).collect();
                    for (t, target) in method.targets(&values, *r).into_iter().enumerate() {
                        let entry = sums.entry(&y[..=t]).or_default();
                        *entry = (entry.0 + p * target, entry.1 + p);
                    }
                }
                value = sums.into_iter().map(|(s, (sum, p))| (s, sum / p)).collect();
            }
            value.iter().map(|(s, v)| (v - exact[s]).abs()).fold(0.0, f64::max)
        };
        let uniform = vec![1.0 / world.p.len() as f64; world.p.len()];
        for (form, lambda) in [(Form::Fudge, 0.0), (Form::Q, 0.0), (Form::Q, 0.6), (Form::Q, 1.0)] {
            let method = PrefixScorer { form, lambda, ..PrefixScorer::default() };
            let away = fixed_point(&method, &world.p);
            assert!(away < 1e-12, "{form:?} {lambda}: {away}");
            // Samples of another policy have another value.
            assert!(fixed_point(&method, &uniform) > 0.01);
        }
    }
}
