//! WIND: its equilibrium, its rounds, and its noise-contrastive loss.

use objective::algebra::{AnchorSample, Group, Objective, TermLoss};
use objective::draw::Exhaustive;
use objective::game::{Game, Payoff, Preference, Wind, WindLoss};
use objective::law::kl;
use objective::tabular::TabularPolicy;

use super::common::{self, items, moved, worlds};
use super::mean_gradient;

#[test]
fn wind_is_stationary_at_the_equilibrium_and_its_rounds_go_there() {
    let world = items();
    let game = Game { beta: 0.4, eta: 0.5 };
    let preference: Vec<Vec<f64>> = world
        .r
        .iter()
        .map(|r| world.r.iter().map(|other| Preference::Rank.of(*r, *other)).collect())
        .collect();
    let mut equilibrium = world.p.clone();
    for _ in 0..2000 {
        equilibrium = game.step(Payoff::WinRate, &equilibrium, &world.p, &preference).expect("laws");
    }
    let residual = game.residual(Payoff::WinRate, &equilibrium, &world.p, &preference).expect("laws");
    assert!(residual < 1e-12, "{residual}");
    let objective = Wind { loss: WindLoss::Squared, game, preference: Preference::Rank, samples: 3 };
    // The sampled gradient at the round's own policy, over all draws: zero at the equilibrium, and only there.
    let gradient_at = |law: &[f64]| {
        let mut policy = TabularPolicy::from_lm(&world.base).expect("full support");
        let logits: Vec<f64> = law.iter().map(|p| p.ln()).collect();
        policy.logits_mut().copy_from_slice(&logits);
        mean_gradient(&objective, None, &world, &policy, &logits)
    };
    assert!(gradient_at(&equilibrium).iter().all(|g| g.abs() < 1e-12));
    assert!(gradient_at(&world.p).iter().any(|g| g.abs() > 1e-2));
    // Rounds: the anchor is the policy that the round began with.
    let rounds = |objective: &Wind, count: usize, steps: usize, rate: f64| -> Vec<f64> {
        let mut policy = TabularPolicy::from_lm(&world.base).expect("full support");
        for _ in 0..count {
            let anchor = policy.log_law().expect("law");
            for _ in 0..steps {
                let gradient = mean_gradient(objective, None, &world, &policy, &anchor);
                for (logit, g) in policy.logits_mut().iter_mut().zip(&gradient) {
                    *logit -= rate * g;
                }
            }
        }
        policy.log_law().expect("law").iter().map(|l| l.exp()).collect()
    };
    let off = kl(&equilibrium, &rounds(&objective, 60, 8, 0.8));
    assert!(off < 1e-3, "{off}");
    // The weighted likelihood goes there too.
    let weighted = Wind { loss: WindLoss::Kl, samples: 4, ..objective };
    let (off, from_reference) =
        (kl(&equilibrium, &rounds(&weighted, 40, 12, 1.5)), kl(&equilibrium, &world.p));
    assert!(off < 1e-3 * from_reference.max(1.0), "{off} of {from_reference}");
    // And so does the noise-contrastive loss.
    let contrastive = Wind { loss: WindLoss::Nce, ..weighted };
    let off = kl(&equilibrium, &rounds(&contrastive, 40, 12, 3.0));
    assert!(off < 1e-3, "{off} of {from_reference}");
    // SPPO, the same without regularisation, has gone further from the reference than the equilibrium is.
    let sppo = Game { beta: 0.0, ..game };
    let mut law = world.p.clone();
    for _ in 0..200 {
        law = sppo.step(Payoff::WinRate, &law, &world.p, &preference).expect("laws");
    }
    assert!(kl(&law, &world.p) > kl(&equilibrium, &world.p) + 0.1);
}

#[test]
fn the_noise_contrastive_loss_of_a_round_is_least_at_the_exact_iterate() {
    for world in worlds() {
        let game = Game { beta: 0.3, eta: 2.0 };
        let preference: Vec<Vec<f64>> = world
            .r
            .iter()
            .map(|r| world.r.iter().map(|other| Preference::Rank.of(*r, *other)).collect())
            .collect();
        // A round that does not begin at the reference.
        let current: Vec<f64> =
            moved(&world.base).log_law().expect("law").into_iter().map(f64::exp).collect();
        let next = game.step(Payoff::WinRate, &current, &world.p, &preference).expect("laws");
        // The mean over answers of the round's policy of the loss of each, with its exact weight up to a factor.
        let trained = |sign: f64, factor: f64| {
            let mut start = TabularPolicy::from_lm(&world.base).expect("full support");
            start.logits_mut().copy_from_slice(moved(&world.base).logits());
            common::train(&start.to_lm().expect("model"), 3000, |log_law| {
                (0..current.len())
                    .map(|y| {
                        let weight = factor * (next[y] / current[y]).powf(sign);
                        current[y] * TermLoss::Contrast { noise: current[y].ln(), weight }.at(log_law[y]).1
                    })
                    .collect()
            })
        };
        let reached = trained(1.0, 1.0);
        assert!(kl(&next, &reached) < 1e-6, "{}", kl(&next, &reached));
        assert!(kl(&next, &current) > 1e-2, "the round moves");
        // Answers that lose weighted as data that win.
        assert!(kl(&next, &trained(-1.0, 1.0)) > 1e-2, "the wrong sign must miss");
        // The half in the place of the normaliser, as samples have it.
        let payoff = |y: usize| preference[y].iter().zip(&current).map(|(w, p)| w * p).sum::<f64>();
        let factor = (game.target(current[0].ln(), world.p[0].ln(), payoff(0)) - next[0].ln()).exp();
        assert!((factor - 1.0).abs() > 1e-3);
        let sampled = trained(1.0, factor);
        assert!(kl(&next, &sampled) < 1e-3, "{}", kl(&next, &sampled));
    }
    // Its derivative, and where it vanishes.
    for (noise, weight) in [(-2.0, 0.3), (-1.0, 1.0), (-7.0, 20.0_f64)] {
        let loss = TermLoss::Contrast { noise, weight };
        for l in [-9.0, -2.5, -0.1] {
            let numeric = (loss.at(l + 1e-5).0 - loss.at(l - 1e-5).0) / 2e-5;
            assert!((numeric - loss.at(l).1).abs() < 1e-8);
        }
        assert!(loss.at(noise + weight.ln()).1.abs() < 1e-12);
    }
}

#[test]
fn the_weights_of_the_noise_contrastive_loss_are_on_average_the_ratio_of_the_iterate() {
    let (world, game) = (items(), Game { beta: 0.4, eta: 0.5 });
    let (_, c, d) = game.exponents();
    let samples = 4;
    for loss in [WindLoss::Nce, WindLoss::Kl] {
        let objective = Wind { loss, game, preference: Preference::Rank, samples };
        for y in 0..world.p.len() {
            // An answer among three others of the base, over all draws of them.
            let mean = Exhaustive::mean(|draw| {
                let others: Vec<usize> = (1..samples).map(|_| draw.pick(&world.log_p)).collect();
                let mut group = Group::default();
                for one in std::iter::once(y).chain(others) {
                    let (log_anchor, log_reference) = (-1.5, world.log_p[one]);
                    group.anchor.push(AnchorSample { reward: world.r[one], log_anchor, log_reference });
                }
                let terms = objective.terms(&[group], &mut |_, _, _| {}).expect("drawn");
                vec![match terms[0].anchor[0].expect("a term").loss {
                    TermLoss::Contrast { noise, weight } => {
                        assert_eq!(noise, -1.5);
                        weight
                    }
                    TermLoss::Linear(coefficient) => -coefficient,
                    TermLoss::Squared { .. } => f64::NAN,
                }]
            });
            let rate: f64 =
                (0..world.p.len()).map(|z| world.p[z] * Preference::Rank.of(world.r[y], world.r[z])).sum();
            let want = (c * (world.log_p[y] + 1.5) + d * (rate - 0.5)).exp();
            let mean = mean.expect("finite")[0];
            assert!((mean / want - 1.0).abs() < 1e-3, "{loss:?}, answer {y}: {mean} and not {want}");
            assert!((game.target(-1.5, world.log_p[y], rate) + 1.5 - want.ln()).abs() < 1e-12);
        }
    }
}
