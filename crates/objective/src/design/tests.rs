//! Tests of procedure and tilt designs.

use super::*;

fn close(what: &str, got: f64, want: f64) {
    assert!((got - want).abs() < 1e-3, "{what}: {got} and not {want}");
}

#[test]
fn win_rates_at_matched_kl_are_those_of_the_published_table() {
    let exponential = |t| Tilt::Exponential { t };
    let none = f64::NAN;
    let table = [
        (Tilt::Identity, [0.7737, 0.7998, 0.8860, 0.8646, 0.8770, 0.9745]),
        (Tilt::Log, [0.7682, 0.7682, 0.9270, 0.8631, 0.8631, 0.9859]),
        (Tilt::Power { exponent: 2.0 }, [0.7691, 0.8239, 0.8302, 0.8616, 0.8920, 0.9419]),
        (exponential(5.0), [0.7461, 0.8566, 0.7465, 0.8390, 0.9192, 0.8572]),
        (exponential(10.0), [0.7117, 0.8715, none, 0.8010, 0.9351, none]),
        (exponential(-5.0), [0.7539, 0.7230, 0.9439, 0.8567, 0.8352, 0.9912]),
        (exponential(-10.0), [0.7358, 0.6859, 0.9476, 0.8479, 0.8095, 0.9927]),
    ];
    for (tilt, row) in table {
        for (kl, want) in [0.5, 1.0].into_iter().zip(row.chunks_exact(3)) {
            let design = Design::of_budget(tilt.clone(), kl, 4.0).expect("in range");
            assert!((design.kl - kl).abs() < 1e-9);
            let got = [design.win_rate, design.best_of, design.worst_of];
            for (got, want) in got.into_iter().zip(want).filter(|(_, want)| !want.is_nan()) {
                close(&format!("{tilt:?} at {kl}"), got, *want);
            }
        }
    }
}

#[test]
fn fixed_points_win_most_under_their_procedure() {
    for (procedure, kl, want) in [
        (Procedure::BestOfN, 0.5, 0.8733),
        (Procedure::BestOfN, 1.0, 0.9411),
        (Procedure::WorstOfN, 0.5, 0.9479),
        (Procedure::WorstOfN, 1.0, 0.9929),
    ] {
        let design = fixed_point(procedure, 4.0, kl).expect("in range");
        assert!((design.kl - kl).abs() < 1e-6, "{procedure:?}: {}", design.kl);
        let got = if procedure == Procedure::BestOfN { design.best_of } else { design.worst_of };
        close(&format!("{procedure:?} at {kl}"), got, want);
        for t in [5.0, 10.0, -5.0, -10.0] {
            let other = Design::of_budget(Tilt::Exponential { t }, kl, 4.0).expect("in range");
            let other = if procedure == Procedure::BestOfN { other.best_of } else { other.worst_of };
            assert!(got > other, "{procedure:?} at {kl} against t = {t}");
        }
    }
}

#[test]
fn the_fixed_point_of_one_answer_is_the_identity() {
    let design = fixed_point(Procedure::BestOfN, 1.0, 0.5).expect("in range");
    let identity = Design::of_budget(Tilt::Identity, 0.5, 1.0).expect("in range");
    assert!((design.win_rate - identity.win_rate).abs() < 1e-6);
    assert!((design.best_of - design.win_rate).abs() < 1e-6);
}

#[test]
fn best_of_n_distilled_gains_nothing_more_from_best_of_n() {
    for a in [1.0_f64, 2.5, 8.0] {
        let weights: Vec<f64> =
            (0..GRID).map(|at| (a - 1.0) * ((at as f64 + 0.5) / GRID as f64).ln()).collect();
        let law = QuantileLaw::from_log_weights(&weights);
        for n in [1.0, 2.0, 4.0, 7.5] {
            let got = law.win_rate_under(Procedure::BestOfN, n);
            assert!((got - a / (a + 1.0)).abs() < 1e-4, "a = {a}, N = {n}: {got}");
        }
        let beta = 0.4;
        let log = QuantileLaw::of(&Tilt::Log, beta).expect("in range");
        assert!((log.kl() - crate::bon::kl_bound(1.0 + 1.0 / beta)).abs() < 1e-3);
    }
}

#[test]
fn the_reference_wins_half_and_slopes_are_derivatives() {
    let reference = QuantileLaw::from_log_weights(&vec![0.0; GRID]);
    assert!((reference.win_rate() - 0.5).abs() < 1e-12 && reference.kl().abs() < 1e-12);
    let law = QuantileLaw::of(&Tilt::Identity, 0.3).expect("in range");
    // A little mass moved towards a quantile: the win rate changes by the slope there less the mean slope.
    for procedure in [Procedure::BestOfN, Procedure::WorstOfN] {
        assert!((reference.win_rate_under(procedure, 4.0) - 0.5).abs() < 1e-4);
        let slope = law.slope(procedure, 4.0);
        for at in [400, 2000, 3600] {
            let epsilon = 1e-4;
            let moved: Vec<f64> = law
                .log_density
                .iter()
                .enumerate()
                .map(|(i, l)| {
                    let bump = if i == at { GRID as f64 } else { 0.0 };
                    ((1.0 - epsilon) * l.exp() + epsilon * bump).ln()
                })
                .collect();
            let moved = QuantileLaw::from_log_weights(&moved);
            let change =
                (moved.win_rate_under(procedure, 4.0) - law.win_rate_under(procedure, 4.0)) / epsilon;
            let mean = law.integral(|i| law.log_density[i].exp() * slope[i]);
            assert!((change - (slope[at] - mean)).abs() < 3e-3 * (1.0 + change.abs()), "{procedure:?} {at}");
        }
    }
}

#[test]
fn the_identity_has_its_closed_form() {
    for beta in [0.2_f64, 0.5, 2.0] {
        let design = Design::new(Tilt::Identity, beta, 1.0).expect("in range");
        let want = 1.0 / (1.0 - (-1.0 / beta).exp()) - beta;
        assert!((design.win_rate - want).abs() < 1e-6, "beta = {beta}");
    }
}

#[test]
fn a_budget_on_pools_reckons_with_ties() {
    let distinct = CachedRewards::new((0..512).map(f64::from).collect()).expect("finite");
    let halves = CachedRewards::new((0..512).map(|i| f64::from(i / 256)).collect()).expect("finite");
    let fine = beta_for_budget(&Tilt::Identity, std::slice::from_ref(&distinct), 0.5).expect("there is one");
    let limit = Design::of_budget(Tilt::Identity, 0.5, 1.0).expect("in range");
    assert!((fine.beta / limit.beta - 1.0).abs() < 1e-2 && fine.spread < 0.05);
    let both = beta_for_budget(&Tilt::Identity, &[distinct, halves.clone()], 0.5).expect("there is one");
    assert!(both.beta < fine.beta && both.spread > 0.1);
    assert!((most_on_average(std::slice::from_ref(&halves)) - 2.0_f64.ln()).abs() < 1e-12);
    let most = most_affordable(std::slice::from_ref(&halves)).expect("a pool");
    assert!((most - 2.0_f64.ln()).abs() < 0.01, "{most}");
    let error = beta_for_budget(&Tilt::Identity, &[halves], 0.8).expect_err("log 2 is the most");
    assert!(error.to_string().contains("ties"), "{error}");
}

#[test]
fn a_budget_solved_on_pools_is_what_fresh_answers_spend() {
    let exponential = |t| Tilt::Exponential { t };
    for (samples, prompts) in [(8, 500), (64, 100)] {
        for tilt in [exponential(10.0), exponential(5.0), Tilt::Identity, exponential(-10.0)] {
            let mut uniform = uniforms(5);
            let mut pool = || CachedRewards::new((0..samples).map(|_| uniform()).collect());
            let pools: Vec<CachedRewards> = (0..100).map(|_| pool().expect("finite")).collect();
            let beta = beta_for_budget(&tilt, &pools, 1.0).expect("there is one").beta;
            let spent = crate::oracle::estimated(&tilt, beta, beta, samples, 1.0, prompts, &mut uniform);
            let spent = spent.expect("in range").promise.kl;
            assert!((spent - 1.0).abs() < 0.08, "{tilt:?}, {samples} samples: {spent}");
        }
    }
}

#[test]
fn masses_of_cells_are_those_of_gaps_and_ties() {
    let masses = |rewards: &[f64]| {
        let pool = CachedRewards::new(rewards.to_vec()).expect("finite");
        let cells = cells(&pool).expect("a pool");
        let whole: f64 = cells.iter().flat_map(|cell| &cell.gaps).map(|(_, share)| share).sum();
        assert!((whole - (rewards.len() + 1) as f64).abs() < 1e-12, "every gap is somewhere: {rewards:?}");
        let one = |cell: &Cell| {
            (cell.rank.below, cell.rank.at_most, cell.gaps.iter().map(|(_, share)| share).sum::<f64>())
        };
        cells.iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(masses(&[1.0, 2.0]), [(0, 0, 1.0), (1, 1, 1.0), (2, 2, 1.0)]);
    assert_eq!(masses(&[1.0, 1.0, 2.0, 2.0]), [(0, 2, 2.5), (2, 4, 2.5)]);
    assert_eq!(masses(&[1.0, 2.0, 2.0]), [(0, 0, 1.0), (1, 1, 0.5), (1, 3, 2.5)]);
    assert_eq!(masses(&[1.0, 1.0, 3.0]), [(0, 2, 2.5), (2, 2, 0.5), (3, 3, 1.0)]);
    assert_eq!(masses(&[4.0; 3]), [(0, 3, 4.0)]);
}

#[test]
fn fixed_points_of_worst_of_n_spend_what_was_asked_for_whatever_n_is() {
    // KL, W and W of best-of-N by an independent solution.
    for (n, kl, want) in [
        (8.0, 2.0, (0.9370, 0.8980)),
        (16.0, 1.0, (0.8226, 0.7444)),
        (32.0, 2.0, (0.9336, 0.8852)),
        (100.0, 1.0, (0.8172, 0.7333)),
    ] {
        let design = fixed_point(Procedure::WorstOfN, n, kl).expect("in range");
        assert!((design.kl - kl).abs() < 1e-6, "{n} {kl}: {}", design.kl);
        let Tilt::Table(values) = &design.tilt else { panic!("a table") };
        assert!(values.iter().all(|v| (-1.0..=0.0).contains(v)) && values.is_sorted());
        let (win_rate, best_of) = want;
        assert!((design.win_rate - win_rate).abs() < 6e-5, "{n} {kl}: {}", design.win_rate);
        assert!((design.best_of - best_of).abs() < 6e-5, "{n} {kl}: {}", design.best_of);
        // None of the other tilts has a higher rate under the procedure.
        let other = Design::of_budget(Tilt::Identity, kl, n).expect("in range");
        assert!(design.worst_of >= other.worst_of - 1e-9, "{n} {kl}");
    }
    assert!(
        Design::of_budget(Tilt::Exponential { t: -100.0 }, 3.0, 4.0)
            .is_ok_and(|design| (design.kl - 3.0).abs() < 1e-5)
    );
}

#[test]
fn what_cannot_be_spent_is_an_error_and_not_another_budget() {
    // A tilt with two values has no more to spend than the upper one's share: -log(1/4).
    let steps = Tilt::Table((0..GRID).map(|at| f64::from(u8::from(4 * at >= 3 * GRID))).collect());
    assert!(Design::of_budget(steps.clone(), 1.3, 4.0).is_ok());
    let error = Design::of_budget(steps, 1.6, 4.0).expect_err("log 4 is the most").to_string();
    assert!(error.contains("1.6 was asked for"), "{error}");
}

#[test]
fn budgets_and_numbers_out_of_range_are_refused() {
    assert!(fixed_point(Procedure::BestOfN, 0.5, 0.5).is_err());
    assert!(fixed_point(Procedure::BestOfN, 4.0, 0.0).is_err());
    assert!(Design::of_budget(Tilt::Identity, 9.0, 4.0).is_err());
    assert!(Design::new(Tilt::Identity, 0.0, 4.0).is_err());
    assert!(beta_for_budget(&Tilt::Identity, &[], 0.5).is_err());
}
