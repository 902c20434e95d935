//! Exact best-of-N theory on a finite space, with ties.
//!
//! Best-of-N draws `N` outcomes from `p` and keeps one of largest reward, ties broken uniformly. Its law is
//! `p(y) (F<=^N - F<^N) / c = p(y) F<=^(N-1) B(y)` with `B(y) = sum_{i=1..N} (F< / F<=)^(i-1)` (BOND, Theorem 1); both forms
//! hold for every real `N >= 1`, which the objectives use, and for whole `N` they are the sampler.

use crate::error::{InputError, in_range};
use crate::law::RankMasses;

/// `log B` for the share `t = c / F<=` of the tie class among rewards at most as large: `log((1 - (1-t)^N) / t)`, between
/// zero (`t = 1`, nothing below) and `log N` (`t = 0`, no ties).
pub fn log_b(tie_share: f64, n: f64) -> f64 {
    if tie_share <= 0.0 {
        return n.ln();
    }
    // (1-t)^N as an exponential keeps precision for the small classes of text.
    (-(n * (-tie_share).ln_1p()).exp_m1() / tie_share).ln()
}

/// `log(pi_N(y) / p(y)) = (N-1) log F<= + log B`, for each outcome; `-inf` where `F<= = 0`.
pub fn log_ratio(masses: &RankMasses, n: f64) -> Result<Vec<f64>, InputError> {
    in_range("N of best-of-N", n, "at least 1", |n| n >= 1.0)?;
    Ok(masses
        .at_most
        .iter()
        .zip(&masses.class)
        .map(|(&at_most, &class)| {
            if at_most <= 0.0 {
                // An outcome of probability zero at the bottom: 0^(N-1), which is one for N = 1.
                return if n == 1.0 { 0.0 } else { f64::NEG_INFINITY };
            }
            (n - 1.0) * at_most.ln() + log_b((class / at_most).min(1.0), n)
        })
        .collect())
}

/// Law of best-of-N for the base law `p` and rewards `r`.
pub fn law(p: &[f64], r: &[f64], n: f64) -> Result<Vec<f64>, InputError> {
    let ratio = log_ratio(&RankMasses::new(p, r)?, n)?;
    Ok(p.iter().zip(ratio).map(|(p, l)| if *p > 0.0 { p * l.exp() } else { 0.0 }).collect())
}

/// Law of worst-of-N: best-of-N for the negated rewards.
pub fn worst_law(p: &[f64], r: &[f64], n: f64) -> Result<Vec<f64>, InputError> {
    law(p, &r.iter().map(|r| -r).collect::<Vec<_>>(), n)
}

/// `r_B(y) = log F<= + log B / (N-1)`: the reward for which best-of-N is the KL-regularised optimum at
/// `beta = 1/(N-1)`, with partition function exactly one. Needs `N > 1`.
pub fn equivalent_reward(masses: &RankMasses, n: f64) -> Result<Vec<f64>, InputError> {
    in_range("N of best-of-N", n, "above 1", |n| n > 1.0)?;
    Ok(log_ratio(masses, n)?.into_iter().map(|l| l / (n - 1.0)).collect())
}

/// `log N - (N-1)/N`: upper bound of `KL(pi_N || p)`, reached only when no outcome has mass (Beirami et al. 2024). Never an
/// estimate for short outputs.
pub fn kl_bound(n: f64) -> f64 {
    n.ln() - (n - 1.0) / n
}

/// `N / (N+1)`: upper bound of the win rate of best-of-N against the base, ties counting one half.
pub fn win_rate_bound(n: f64) -> f64 {
    n / (n + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Exhaustive;
    use crate::law::{expectation, kl, tilt, total_variation, win_rate};
    use crate::numeric::sum;

    const P: [f64; 5] = [0.1, 0.3, 0.25, 0.05, 0.3];
    const STRICT: [f64; 5] = [0.3, -1.0, 2.0, 5.0, 0.7];
    const TIED: [f64; 5] = [1.0, 1.0, -2.0, 1.0, 3.0];

    /// All N-tuples, uniform tie-breaking, through the random-decision interface.
    fn enumerated(r: &[f64; 5], n: usize) -> Vec<f64> {
        let log_p = P.map(f64::ln);
        let law = Exhaustive::law(|draw| {
            let tuple: Vec<usize> = (0..n).map(|_| draw.pick(&log_p)).collect();
            let best = tuple.iter().map(|&i| r[i]).fold(f64::NEG_INFINITY, f64::max);
            let winners: Vec<usize> = tuple.into_iter().filter(|&i| r[i] == best).collect();
            winners[draw.below(winners.len())]
        })
        .expect("finite");
        law.into_iter().map(|(_, p)| p).collect()
    }

    #[test]
    fn closed_form_equals_enumeration_with_and_without_ties() {
        for r in [&STRICT, &TIED] {
            for n in 1..=5 {
                let closed = law(&P, r, n as f64).expect("law");
                for (a, b) in closed.iter().zip(enumerated(r, n)) {
                    assert!((a - b).abs() <= 2e-15, "N = {n}: {a} and not {b}");
                }
                assert!((sum(closed) - 1.0).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn the_form_without_tie_classes_is_not_a_law_on_ties() {
        // (F< + p)^N - F<^N, right only when no two rewards are equal.
        let total = |r: &[f64; 5], n: i32| {
            let m = RankMasses::new(&P, r).expect("law");
            sum((0..5).map(|i| (m.below[i] + P[i]).powi(n) - m.below[i].powi(n)))
        };
        for n in 2..=4 {
            assert!((total(&STRICT, n) - 1.0).abs() < 1e-14);
            assert!(total(&TIED, n) < 0.95);
        }
    }

    #[test]
    fn composition_multiplies_n_and_the_worst_item_has_its_power() {
        for r in [&STRICT, &TIED] {
            let twice = law(&law(&P, r, 3.0).expect("law"), r, 2.0).expect("law");
            let once = law(&P, r, 6.0).expect("law");
            assert!(total_variation(&twice, &once) < 1e-14);
        }
        assert!((law(&P, &STRICT, 4.0).expect("law")[1] - P[1].powi(4)).abs() < 1e-16);
        assert!((worst_law(&P, &STRICT, 4.0).expect("law")[3] - P[3].powi(4)).abs() < 1e-16);
    }

    #[test]
    fn bounds_hold_and_close_as_masses_vanish() {
        for n in [2.0, 4.0, 8.0, 32.0] {
            let gap = |p: &[f64], r: &[f64]| {
                let best = law(p, r, n).expect("law");
                let (k, w) = (kl(&best, p), win_rate(&best, p, r).expect("laws"));
                assert!(k <= kl_bound(n) + 1e-12 && w <= win_rate_bound(n) + 1e-12);
                (kl_bound(n) - k, win_rate_bound(n) - w)
            };
            let grid = |size: usize| {
                let r: Vec<f64> = (0..size).map(|i| i as f64).collect();
                gap(&vec![1.0 / size as f64; size], &r)
            };
            let (five, hundred, many) = (gap(&P, &STRICT), grid(100), grid(5000));
            assert!(five.0 > hundred.0 && hundred.0 > many.0 && many.0 < 1e-2 * kl_bound(n));
            assert!(five.1 > hundred.1 && hundred.1 > many.1 && many.1 < 1e-4);
        }
    }

    #[test]
    fn equivalent_reward_tilts_to_best_of_n_with_partition_one() {
        for r in [&STRICT, &TIED] {
            for n in [1.5, 2.0, 7.3, 32.0] {
                let reward = equivalent_reward(&RankMasses::new(&P, r).expect("law"), n).expect("N");
                let scaled: Vec<f64> = reward.iter().map(|r| r * (n - 1.0)).collect();
                let tilted = tilt(&P, &scaled).expect("law");
                assert!(tilted.log_partition.abs() < 1e-13);
                assert!(total_variation(&tilted.law, &law(&P, r, n).expect("law")) < 1e-14);
            }
        }
    }

    #[test]
    fn dropping_b_moves_the_log_ratio_by_at_most_log_n() {
        for r in [&STRICT, &TIED] {
            let masses = RankMasses::new(&P, r).expect("law");
            for n in [2.0, 8.0] {
                let bound: Vec<f64> = masses.at_most.iter().map(|f| (n - 1.0) * f.ln()).collect();
                let (approximate, exact) = (tilt(&P, &bound).expect("law").law, law(&P, r, n).expect("law"));
                let worst = (0..5).map(|i| (approximate[i] / exact[i]).ln().abs()).fold(0.0, f64::max);
                assert!(worst <= f64::ln(n) && worst > 0.01);
            }
        }
    }

    #[test]
    fn sandwich_of_the_vbon_bound() {
        let policies = [[0.2; 5], [0.05, 0.05, 0.1, 0.5, 0.3], [0.6, 0.1, 0.1, 0.1, 0.1], P];
        for r in [&STRICT, &TIED] {
            let masses = RankMasses::new(&P, r).expect("law");
            let log_at_most: Vec<f64> = masses.at_most.iter().map(|f| f.ln()).collect();
            for n in [2.0, 5.0] {
                let best = law(&P, r, n).expect("law");
                for pi in &policies {
                    let bound = (n - 1.0) * expectation(pi, &log_at_most) - kl(pi, &P);
                    let exact = -kl(pi, &best);
                    assert!(bound <= exact + 1e-14 && exact <= bound + n.ln() + 1e-14);
                }
            }
        }
    }

    #[test]
    fn log_b_stays_between_its_limits_and_is_smooth_at_zero() {
        assert_eq!(log_b(1.0, 8.0), 0.0);
        assert_eq!(log_b(0.0, 8.0), 8.0_f64.ln());
        assert!((log_b(1e-12, 8.0) - 8.0_f64.ln()).abs() < 1e-11);
        assert!((log_b(0.25, 3.0) - (1.0_f64 + 0.75 + 0.5625).ln()).abs() < 1e-15);
    }

    #[test]
    fn outcomes_of_probability_zero_stay_out() {
        let p = [0.0, 0.5, 0.0, 0.5];
        let r = [-1.0, 0.0, 2.0, 1.0];
        assert_eq!(law(&p, &r, 2.0).expect("law"), vec![0.0, 0.25, 0.0, 0.75]);
        assert_eq!(law(&p, &r, 1.0).expect("law"), p);
        assert!(law(&p, &r, 0.5).is_err() && law(&p, &r, f64::NAN).is_err());
    }
}
