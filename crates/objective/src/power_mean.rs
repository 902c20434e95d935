//! Power means of laws, and the law that several aligned policies make together under an α-divergence.
//!
//! Let `π_i` be optimal for a reward `r_i` under the divergence with `∇f(x) = (1 − x^−α) / α` to a common reference: α → 0
//! is the reverse KL, α = 1 the forward KL. The optimum for `Σ w_i r_i` is `π_ref (∇f)⁻¹(−Z + Σ w_i ∇f(π_i / π_ref))`
//! (MOD, arXiv 2406.18853), that is
//!
//! `π = π_ref [z + Σ_i w_i (π_i / π_ref)^−α]^(−1/α)` with the `z` for which `Σ π = 1`.
//!
//! `z` is added inside the power: normalising the power mean `[Σ_i w_i π_i^−α]^(−1/α)`, which is `z = 0`, gives another law.

use crate::numeric::{log_softmax, log_sum_exp};

/// `ln [Σ_i w_i π_i^−α]^(−1/α)` of each outcome, not normalised, from log-probabilities of laws with their weights; `alpha`
/// above 0, weights not negative. An outcome that a law of positive weight excludes is excluded.
///
/// ```
/// // The harmonic mean of 1/2 and 1/4 is 1/3.
/// let laws: [(&[f64], f64); 2] = [(&[0.5_f64.ln()], 0.5), (&[0.25_f64.ln()], 0.5)];
/// let mean = objective::power_mean::log_power_mean(&laws, 1.0);
/// assert!((mean[0].exp() - 1.0 / 3.0).abs() < 1e-15);
/// ```
pub fn log_power_mean(laws: &[(&[f64], f64)], alpha: f64) -> Vec<f64> {
    let outcomes = laws.first().map_or(0, |(law, _)| law.len());
    let mut terms = Vec::with_capacity(laws.len());
    (0..outcomes)
        .map(|outcome| {
            terms.clear();
            terms.extend(laws.iter().filter(|(_, w)| *w > 0.0).map(|(law, w)| w.ln() - alpha * law[outcome]));
            -log_sum_exp(&terms) / alpha
        })
        .collect()
}

/// Log-probabilities of the optimum of `Σ w_i r_i`, from those of the reference and of the policies with their weights;
/// `alpha` in `(0, 1]`, weights not negative. `None` where no outcome is possible under all of them.
///
/// The root `z` is found by Newton's method within a bracket that always holds it, to the precision of `f64`.
pub fn divergence_optimum(reference: &[f64], policies: &[(&[f64], f64)], alpha: f64) -> Option<Vec<f64>> {
    // ln Σ_i w_i (π_i / π_ref)^−α; infinite where the outcome is excluded.
    let ratios: Vec<f64> = log_power_mean(policies, alpha)
        .iter()
        .zip(reference)
        .map(|(mean, r)| if *r == f64::NEG_INFINITY { f64::INFINITY } else { alpha * (r - mean) })
        .collect();
    let (best, least) = ratios.iter().copied().enumerate().min_by(|a, b| a.1.total_cmp(&b.1))?;
    if !least.is_finite() {
        return None;
    }
    // The bracket is e^least (e^t + excess) with t = ln(1 + z e^−least): a difference of like numbers is never taken.
    let excess: Vec<f64> = ratios.iter().map(|ratio| (ratio - least).exp_m1()).collect();
    let log_law = |t: f64| -> Vec<f64> {
        let one = |(r, d): (&f64, &f64)| {
            if *d == f64::INFINITY {
                return f64::NEG_INFINITY;
            }
            let bracket = if t > -0.5 && *d < 1.0 { (t.exp_m1() + d).ln_1p() } else { (t.exp() + d).ln() };
            r - (least + bracket) / alpha
        };
        reference.iter().zip(&excess).map(one).collect()
    };
    // At the lower end the best outcome alone has probability 1, at the upper end all of them have no more than the
    // reference gives them.
    let (mut low, mut high) = (alpha * reference[best] - least, -least);
    let mut t = f64::midpoint(low, high);
    let mut law = log_law(t);
    for _ in 0..200 {
        let surplus = log_sum_exp(&law);
        if surplus > 0.0 {
            low = t;
        } else {
            high = t;
        }
        if surplus.abs() < 1e-13 || high - low <= f64::EPSILON * high.abs().max(low.abs()) {
            break;
        }
        // d surplus / d t = −(1/α) E[e^t / (e^t + excess)] under the normalised law.
        let share = law.iter().zip(&excess).filter(|(l, _)| **l > f64::NEG_INFINITY);
        let slope: f64 =
            share.map(|(l, d)| (l - surplus).exp() / (1.0 + d * (-t).exp())).sum::<f64>() / -alpha;
        let next = t - surplus / slope;
        t = if next > low && next < high { next } else { f64::midpoint(low, high) };
        law = log_law(t);
    }
    Some(log_softmax(&law))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::{kl, total_variation};

    const REFERENCE: [f64; 6] = [0.3, 0.25, 0.2, 0.15, 0.07, 0.03];
    const REWARDS: [[f64; 6]; 2] = [[0.2, -0.4, 1.0, 0.1, -0.9, 0.6], [-0.5, 0.9, 0.3, -0.2, 0.4, -1.0]];
    const WEIGHTS: [f64; 2] = [0.35, 0.65];

    fn logs(p: &[f64]) -> Vec<f64> {
        p.iter().map(|p| p.ln()).collect()
    }

    /// The optimum for one reward, by bisection on the multiplier λ of `∇f(π/π_ref) = r − λ` (β = 1).
    fn aligned(rewards: &[f64], alpha: f64) -> Vec<f64> {
        let law = |lambda: f64| -> Vec<f64> {
            let one = |(r, q): (&f64, &f64)| q * (1.0 - alpha * (r - lambda)).powf(-1.0 / alpha);
            rewards.iter().zip(&REFERENCE).map(one).collect()
        };
        let most = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let (mut low, mut high) = (most - 1.0 / alpha + 1e-12, most + 10.0);
        for _ in 0..300 {
            let middle = f64::midpoint(low, high);
            if law(middle).iter().sum::<f64>() > 1.0 { low = middle } else { high = middle }
        }
        law(high)
    }

    fn mixed() -> Vec<f64> {
        (0..6).map(|v| WEIGHTS[0] * REWARDS[0][v] + WEIGHTS[1] * REWARDS[1][v]).collect()
    }

    #[test]
    fn the_root_gives_the_optimum_and_the_renormalised_mean_does_not() {
        for alpha in [1.0, 0.7, 0.3, 0.01, 1e-4] {
            let policies = REWARDS.map(|r| logs(&aligned(&r, alpha)));
            let weighted: Vec<(&[f64], f64)> =
                policies.iter().zip(WEIGHTS).map(|(p, w)| (p.as_slice(), w)).collect();
            let want = aligned(&mixed(), alpha);
            let got: Vec<f64> = divergence_optimum(&logs(&REFERENCE), &weighted, alpha)
                .expect("common support")
                .iter()
                .map(|l| l.exp())
                .collect();
            assert!(total_variation(&got, &want) < 1e-11, "α = {alpha}: {got:?} against {want:?}");
            let mean: Vec<f64> =
                log_softmax(&log_power_mean(&weighted, alpha)).iter().map(|l| l.exp()).collect();
            let off = total_variation(&mean, &want);
            assert!(alpha < 0.3 || off > 1e-3, "α = {alpha}: the mean is {off} off");
            assert!(off < 0.05);
        }
    }

    #[test]
    fn the_forward_kl_optimum_has_the_greatest_value() {
        let policies = REWARDS.map(|r| logs(&aligned(&r, 1.0)));
        let weighted: Vec<(&[f64], f64)> =
            policies.iter().zip(WEIGHTS).map(|(p, w)| (p.as_slice(), w)).collect();
        let value =
            |p: &[f64]| -> f64 { mixed().iter().zip(p).map(|(r, p)| r * p).sum::<f64>() - kl(&REFERENCE, p) };
        let exp = |l: Vec<f64>| -> Vec<f64> { l.iter().map(|l| l.exp()).collect() };
        let best = exp(divergence_optimum(&logs(&REFERENCE), &weighted, 1.0).expect("common support"));
        assert!(value(&best) > value(&exp(log_softmax(&log_power_mean(&weighted, 1.0)))) + 1e-6);
        for (i, j) in [(0, 1), (2, 5), (3, 4), (5, 0), (4, 2)] {
            let mut other = best.clone();
            other[i] += 1e-4;
            other[j] -= 1e-4;
            assert!(value(&other) < value(&best));
        }
    }

    #[test]
    fn one_policy_is_itself_and_the_limit_is_the_geometric_mean() {
        let policies = REWARDS.map(|r| logs(&crate::law::tilt(&REFERENCE, &r).expect("a law").law));
        for alpha in [1.0, 0.5, 1e-3] {
            let one: [(&[f64], f64); 2] = [(&policies[0], 1.0), (&policies[1], 0.0)];
            let got = divergence_optimum(&logs(&REFERENCE), &one, alpha).expect("common support");
            for (got, want) in got.iter().zip(&policies[0]) {
                assert!((got - want).abs() < 1e-11);
            }
        }
        let both: [(&[f64], f64); 2] = [(&policies[0], WEIGHTS[0]), (&policies[1], WEIGHTS[1])];
        let want = log_softmax(
            &(0..6).map(|v| WEIGHTS[0] * policies[0][v] + WEIGHTS[1] * policies[1][v]).collect::<Vec<_>>(),
        );
        let off = |alpha: f64| -> f64 {
            let got = divergence_optimum(&logs(&REFERENCE), &both, alpha).expect("common support");
            got.iter().zip(&want).map(|(got, want)| (got - want).abs()).fold(0.0, f64::max)
        };
        assert!(off(1e-3) < 1e-3 && off(1e-4) < 1e-4 && off(1e-4) < 0.2 * off(1e-3));
    }

    #[test]
    fn extreme_laws_have_their_root() {
        let reference = logs(&[1e-30, 1.0 - 2e-30, 1e-30]);
        let out = f64::NEG_INFINITY;
        let sharp: [(&[f64], f64); 2] = [(&[-1e-3, -200.0, -6.9], 0.5), (&[-0.1, -2.4, out], 0.5)];
        for alpha in [1.0, 0.3, 1e-3] {
            let got = divergence_optimum(&reference, &sharp, alpha).expect("common support");
            assert!(log_sum_exp(&got).abs() < 1e-12 && got[2] == out, "{got:?}");
        }
        let apart: [(&[f64], f64); 2] = [(&[0.0, out, out], 0.5), (&[out, 0.0, out], 0.5)];
        assert_eq!(divergence_optimum(&reference, &apart, 1.0), None);
    }
}
