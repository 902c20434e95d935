//! Objectives trained on the tabular policy by exact gradients reach the laws that they name, and wrong variants do not.

mod common;

use common::{World, distance, items, moved, numeric_gradient, train, train_natural, worlds};
use objective::advantage::rloo;
use objective::draw::Exhaustive;
use objective::law::{RankMasses, expectation, kl, tilt, total_variation};
use objective::losses::{Dpo, DpoVariant, Preference, SequenceLogProbs, Vbon, VbonForm, reinforce};
use objective::numeric::{mean, sigmoid};
use objective::rank::{CachedRewards, LogCdf, Ties};
use objective::{bon, numeric};

impl World {
    fn tie_share(&self, y: usize) -> f64 {
        self.masses.class[y] / self.masses.at_most[y]
    }

    /// Exact policy gradient of vBoN with the given KL coefficient, as coefficients of the log-probabilities.
    fn vbon_gradient(&self, vbon: Vbon, kl_coefficient: f64, log_law: &[f64]) -> Vec<f64> {
        let returns: Vec<f64> = (0..self.p.len())
            .map(|y| {
                let reward = vbon.reward(self.masses.at_most[y].ln(), self.tie_share(y));
                reward - kl_coefficient * (log_law[y] - self.log_p[y])
            })
            .collect();
        let law: Vec<f64> = log_law.iter().map(|l| l.exp()).collect();
        let baseline = expectation(&law, &returns);
        (0..law.len()).map(|y| law[y] * reinforce(log_law[y], returns[y] - baseline).gradient).collect()
    }

    fn best_of(&self, n: f64) -> Vec<f64> {
        bon::law(&self.p, &self.r, n).expect("law")
    }
}

#[test]
fn vbon_exact_reaches_best_of_n_and_the_public_coefficient_does_not() {
    for world in worlds() {
        for n in [2.0, 4.0] {
            let vbon = Vbon { n, form: VbonForm::Exact };
            let target = world.best_of(n);
            let trained = |coefficient: f64| {
                let gradient = |l: &[f64]| world.vbon_gradient(vbon, coefficient, l);
                train_natural(&world.base, 60, 0.5 / coefficient, gradient)
            };
            let right = trained(vbon.kl_coefficient());
            assert!(kl(&right, &target) < 1e-12, "N = {n}: {}", kl(&right, &target));
            let public = trained(1.0 / (n - 1.0));
            let away = total_variation(&public, &target);
            assert!(away > 0.02, "N = {n}: {away}");
            // Where it goes instead: the log-ratio of best-of-N shrunk by (N-1)/N.
            let ratio = bon::log_ratio(&world.masses, n).expect("N");
            let shrunk = tilt(&world.p, &ratio.iter().map(|w| w * (n - 1.0) / n).collect::<Vec<_>>());
            assert!(kl(&public, &shrunk.expect("law").law) < 1e-12);
        }
    }
}

#[test]
fn vbon_bound_reaches_its_tilt_near_best_of_n() {
    for world in worlds() {
        for n in [2.0, 4.0] {
            let vbon = Vbon { n, form: VbonForm::Bound };
            let coefficient = vbon.kl_coefficient();
            let gradient = |l: &[f64]| world.vbon_gradient(vbon, coefficient, l);
            let trained = train_natural(&world.base, 60, 0.5 / coefficient, gradient);
            let log_f: Vec<f64> = world.masses.at_most.iter().map(|f| (n - 1.0) * f.ln()).collect();
            let optimum = tilt(&world.p, &log_f).expect("law").law;
            assert!(kl(&trained, &optimum) < 1e-12);
            // The bound is tight up to log N.
            let target = world.best_of(n);
            let gap = kl(&trained, &target);
            assert!(gap > 1e-4 && gap < n.ln());
            // Strict counts instead of non-strict ones, and the wrong sign, end far from it.
            let strict: Vec<f64> = world.masses.below.iter().map(|f| (n - 1.0) * f.ln()).collect();
            let strict = total_variation(&tilt(&world.p, &strict).expect("law").law, &optimum);
            assert!(strict > 0.02, "N = {n}: {strict}");
            let sign: Vec<f64> = log_f.iter().map(|w| -w).collect();
            assert!(total_variation(&tilt(&world.p, &sign).expect("law").law, &optimum) > 0.2);
        }
    }
}

#[test]
fn on_a_fine_grid_both_forms_are_best_of_n_and_the_public_coefficient_is_another_n() {
    let size = 20_000;
    let p = vec![1.0 / f64::from(size); size as usize];
    let r: Vec<f64> = (0..size).map(f64::from).collect();
    let masses = RankMasses::new(&p, &r).expect("law");
    for n in [2.0, 5.0, 7.5] {
        let law = |n| bon::law(&p, &r, n).expect("law");
        let optimum = |vbon: Vbon, coefficient: f64| {
            let w: Vec<f64> = (0..p.len())
                .map(|y| {
                    vbon.reward(masses.at_most[y].ln(), masses.class[y] / masses.at_most[y]) / coefficient
                })
                .collect();
            tilt(&p, &w).expect("law").law
        };
        let (bound, exact) = (Vbon { n, form: VbonForm::Bound }, Vbon { n, form: VbonForm::Exact });
        assert!(total_variation(&optimum(bound, bound.kl_coefficient()), &law(n)) < 1e-3);
        assert!(total_variation(&optimum(exact, exact.kl_coefficient()), &law(n)) < 1e-12);
        let public = optimum(exact, 1.0 / (n - 1.0));
        assert!(total_variation(&public, &law(1.0 + (n - 1.0).powi(2) / n)) < 1e-3);
        assert!(total_variation(&public, &law(n)) > 0.03);
    }
}

#[test]
fn backward_kl_to_best_of_n_has_the_gradient_of_reinforce() {
    // BOND, Eq. 15: -(N-1) E[grad log pi (r_B - (log pi - log ref)/(N-1))].
    for world in worlds() {
        for n in [2.0, 5.0] {
            let policy = moved(&world.base);
            let log_law = policy.log_law().expect("law");
            let target = world.best_of(n);
            let reward = bon::equivalent_reward(&world.masses, n).expect("N");
            let coefficients: Vec<f64> = (0..log_law.len())
                .map(|y| {
                    let r = reward[y] - (log_law[y] - world.log_p[y]) / (n - 1.0);
                    (n - 1.0) * log_law[y].exp() * reinforce(log_law[y], r).gradient
                })
                .collect();
            let exact = policy.backward(&coefficients).expect("aligned");
            let numeric = numeric_gradient(&policy, |law| kl(law, &target));
            assert!(distance(&exact, &numeric) < 1e-9, "{}", distance(&exact, &numeric));
            // The exact form of vBoN is the same gradient divided by N.
            let vbon = Vbon { n, form: VbonForm::Exact };
            let ours = policy
                .backward(&world.vbon_gradient(vbon, vbon.kl_coefficient(), &log_law))
                .expect("aligned");
            let scaled: Vec<f64> = ours.iter().map(|g| g * n).collect();
            assert!(distance(&scaled, &exact) < 1e-13);
        }
    }
}

#[test]
fn the_sampled_rloo_estimator_is_unbiased() {
    let world = items();
    let policy = moved(&world.base);
    let log_law = policy.log_law().expect("law");
    let vbon = Vbon { n: 3.0, form: VbonForm::Bound };
    let cached = CachedRewards::new(vec![0.0, 1.0, 1.0, 2.0, 0.0, 1.0]).expect("finite");
    let log_f: Vec<f64> = world
        .r
        .iter()
        .map(|r| {
            let rank = cached.rank(*r).expect("finite");
            LogCdf::HarmonicDifference.estimate(rank.count(Ties::NonStrict), rank.total)
        })
        .collect();
    let law: Vec<f64> = log_law.iter().map(|l| l.exp()).collect();
    let objective = |law: &[f64]| expectation(law, &log_f) - vbon.kl_coefficient() * kl(law, &world.p);
    let want: Vec<f64> = numeric_gradient(&policy, objective).into_iter().map(|g| -g).collect();
    let estimator = |baseline: bool| {
        Exhaustive::mean(|draw| {
            let samples: Vec<usize> = (0..3).map(|_| draw.pick(&log_law)).collect();
            let returns: Vec<f64> = samples
                .iter()
                .map(|&y| vbon.sequence_return(log_f[y], 0.0, log_law[y] - world.log_p[y]))
                .collect();
            let advantages = if baseline { rloo(&returns).expect("group") } else { returns };
            let mut coefficients = vec![0.0; law.len()];
            for (&y, a) in samples.iter().zip(&advantages) {
                coefficients[y] += reinforce(log_law[y], *a).gradient / samples.len() as f64;
            }
            let gradient = policy.backward(&coefficients).expect("aligned");
            let square: f64 = gradient.iter().map(|g| g * g).sum();
            [gradient, vec![square]].concat()
        })
        .expect("finite")
    };
    let (with, without) = (estimator(true), estimator(false));
    assert!(distance(&with[..4], &want) < 1e-9);
    assert!(distance(&without[..4], &want) < 1e-9);
    assert!(with[4] < without[4], "the baseline lowers the second moment");
}

/// Sum over pairs `y`, `y'`, weighted by `weight`, of the loss with `y` chosen with probability `preference(y, y')`.
fn pair_gradient(
    size: usize,
    weight: impl Fn(usize, usize) -> f64,
    preference: impl Fn(usize, usize) -> f64,
    pair: impl Fn(usize, usize) -> objective::losses::PairLoss,
) -> Vec<f64> {
    let mut gradient = vec![0.0; size];
    for y in 0..size {
        for z in (0..size).filter(|z| *z != y) {
            let (loss, w) = (pair(y, z), weight(y, z) * preference(y, z));
            gradient[y] += w * loss.grad_chosen;
            gradient[z] += w * loss.grad_rejected;
        }
    }
    gradient
}

#[test]
fn the_arm_loss_learns_the_reward_up_to_a_constant() {
    for (world, beta) in worlds().into_iter().zip([0.5, 1.0, 0.8]) {
        let size = world.p.len();
        let loss = Preference::new(beta);
        let bradley_terry = |y: usize, z: usize| sigmoid(world.r[y] - world.r[z]);
        let gradient = |log_law: &[f64]| {
            pair_gradient(size, |_, _| 1.0, bradley_terry, |y, z| loss.pair(log_law[y], log_law[z]))
        };
        let trained = train(&world.base, 4000, gradient);
        let offsets: Vec<f64> = (0..size).map(|y| beta * trained[y].ln() - world.r[y]).collect();
        let centre = mean(&offsets);
        let spread = offsets.iter().map(|o| (o - centre).abs()).fold(0.0, f64::max);
        assert!(spread < 1e-3, "beta = {beta}: spread {spread}");
        // No base in it: relative to the base, the offsets are far from constant.
        let relative: Vec<f64> = (0..size).map(|y| offsets[y] - beta * world.log_p[y]).collect();
        let centre = mean(&relative);
        assert!(relative.iter().any(|o| (o - centre).abs() > 0.3));
    }
}

fn against_reference(world: &World, log_law: &[f64], y: usize) -> SequenceLogProbs {
    SequenceLogProbs { policy: log_law[y], reference: world.log_p[y], tokens: 1 }
}

#[test]
fn dpo_reaches_the_tilted_reference() {
    for world in worlds() {
        let (size, beta) = (world.p.len(), 0.7);
        let loss = Dpo::new(beta);
        let bradley_terry = |y: usize, z: usize| sigmoid(world.r[y] - world.r[z]);
        let gradient = |log_law: &[f64]| {
            let at = |y| against_reference(&world, log_law, y);
            pair_gradient(size, |y, z| world.p[y] * world.p[z], bradley_terry, |y, z| loss.pair(at(y), at(z)))
        };
        let trained = train(&world.base, 3000, gradient);
        let optimum = tilt(&world.p, &world.r.iter().map(|r| r / beta).collect::<Vec<_>>()).expect("law").law;
        assert!(total_variation(&trained, &optimum) < 1e-4, "{}", total_variation(&trained, &optimum));
        // The reference-free loss ends elsewhere.
        let uniform = vec![1.0 / size as f64; size];
        let free = tilt(&uniform, &world.r.iter().map(|r| r / beta).collect::<Vec<_>>()).expect("law").law;
        assert!(total_variation(&trained, &free) > 0.05);
    }
}

#[test]
fn ipo_is_stationary_at_the_tilt_of_the_calibrated_reward() {
    // Pairs from the reference, the larger reward chosen, ties by a coin: the optimum is ref exp(C / tau).
    for world in worlds() {
        let (size, tau) = (world.p.len(), 0.4);
        let loss = Dpo { beta: tau, variant: DpoVariant::IpoSum };
        let preference = |y: usize, z: usize| match world.r[y].total_cmp(&world.r[z]) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        let gradient_at = |sign: f64| {
            let phi: Vec<f64> = world.masses.mid_rank().iter().map(|c| sign * c / tau).collect();
            let log_law: Vec<f64> = tilt(&world.p, &phi).expect("law").law.iter().map(|p| p.ln()).collect();
            let at = |y| against_reference(&world, &log_law, y);
            pair_gradient(size, |y, z| world.p[y] * world.p[z], preference, |y, z| loss.pair(at(y), at(z)))
        };
        assert!(gradient_at(1.0).iter().all(|g| g.abs() < 1e-13));
        assert!(gradient_at(-1.0).iter().any(|g| g.abs() > 0.1));
    }
}

#[test]
fn sft_on_the_best_of_n_reaches_best_of_n() {
    // The forward half of BOND: cross-entropy under the law of best-of-N.
    for world in worlds() {
        let target = world.best_of(3.0);
        let trained = train(&world.base, 2000, |_| target.iter().map(|p| -p).collect());
        assert!(total_variation(&trained, &target) < 1e-5);
        assert!((numeric::sum(trained) - 1.0).abs() < 1e-12);
    }
}
