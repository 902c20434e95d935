//! Regression of the log-ratio on a tilt of the quantile (QRPO, Matrenok et al. 2025, arXiv 2507.08068).

use serde::{Deserialize, Serialize};

use crate::error::{InputError, in_range};
use crate::numeric::{log_sum_exp, log1mexp};
use crate::rank::{CachedRewards, LogCdf, Rank, Ties};

/// A function `phi` of the quantile `u` in `[0, 1]`, increasing; the target is `ref exp(phi(u) / beta) / Z`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuantileTilt {
    /// `u`: the win rate against the reference.
    Identity,
    /// `log u`: best-of-N with `N = 1 + 1/beta`.
    Log,
    /// `u^k`, `k` above 0.
    Power(f64),
    /// `(exp(t u) - 1) / (exp(t) - 1)`, `t` not 0: above 0 for the top, below 0 against the bottom.
    Exp(f64),
}

impl QuantileTilt {
    /// Refuses parameters out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        match *self {
            Self::Identity | Self::Log => Ok(()),
            Self::Power(k) => in_range("power of the tilt", k, "above 0", |k| k > 0.0),
            Self::Exp(t) => in_range("rate of the tilt", t, "not 0, between -500 and 500", |t| {
                t != 0.0 && t.abs() <= 500.0
            }),
        }
    }

    /// `phi(u)`; `-inf` for the logarithm of 0.
    pub fn phi(&self, u: f64) -> f64 {
        match *self {
            Self::Identity => u,
            Self::Log => u.ln(),
            Self::Power(k) => u.powf(k),
            // Divided through by exp(t) where t is large and positive, so that nothing overflows.
            Self::Exp(t) if t > 0.0 => ((t * (u - 1.0)).exp() - (-t).exp()) / -(-t).exp_m1(),
            Self::Exp(t) => (t * u).exp_m1() / t.exp_m1(),
        }
    }

    /// `phi` of an estimated quantile: the mid-rank, which is the calibrated reward; of the logarithm `H_K - H_M` with ties
    /// counted in full, as best-of-N needs them, which is finite.
    pub fn of_rank(&self, rank: Rank) -> f64 {
        match self {
            Self::Log => LogCdf::HarmonicDifference.estimate(rank.count(Ties::NonStrict), rank.total),
            _ => self.phi(rank.fraction(Ties::MidRank)),
        }
    }

    /// `log Z = log of the integral of exp(phi(u) / beta) over [0, 1]`: the partition function where no two rewards are
    /// equal, the same for every prompt. `beta` above 0.
    pub fn log_partition(&self, beta: f64) -> f64 {
        match *self {
            Self::Identity => 1.0 / beta + (-(-1.0 / beta).exp_m1()).ln() + beta.ln(),
            Self::Log => (beta / (1.0 + beta)).ln(),
            Self::Power(_) | Self::Exp(_) => integrate(|u| self.phi(u) / beta),
        }
    }
}

impl QuantileTilt {
    /// `log` of the integral of `exp(phi(u) / beta)` over `[low, high]`, within `[0, 1]`.
    fn log_slice(&self, beta: f64, low: f64, high: f64) -> f64 {
        match *self {
            Self::Identity => high / beta + (-(-(high - low) / beta).exp_m1()).ln() + beta.ln(),
            Self::Log => {
                let power = 1.0 + 1.0 / beta;
                power * high.ln() + log1mexp(power * (low / high).ln()) - power.ln()
            }
            Self::Power(_) | Self::Exp(_) => {
                let width = high - low;
                width.ln() + integrate(|u| self.phi(low + width * u) / beta)
            }
        }
    }

    /// `log Z` of a prompt as its samples tell it, ties included: a sample that ties with no other stands for
    /// its share of the
    /// quantiles, over which the integral is exact, and a class of ties for its own value. Without ties it is
    /// [`QuantileTilt::log_partition`]; with ties it becomes that of the law as samples grow.
    ///
    /// The mean of `exp(phi / beta)` over samples ranked among the others is neither: those ranks are 0,
    /// 1/(M-1), ..., 1 whatever the
    /// samples are, both ends with full weight, so that it is too large by a constant (0.5 nats for the
    /// identity with `beta = 0.1` and
    /// M = 8).
    pub fn log_partition_of(&self, beta: f64, pool: &CachedRewards) -> f64 {
        let rewards = pool.sorted();
        let total = rewards.len() as f64;
        let mut below = 0;
        let terms: Vec<f64> = rewards
            .chunk_by(|a, b| a == b)
            .map(|class| {
                let rank = Rank { below, at_most: below + class.len(), total: rewards.len() };
                below = rank.at_most;
                if class.len() == 1 {
                    return self.log_slice(beta, rank.below as f64 / total, rank.at_most as f64 / total);
                }
                let ties = if *self == Self::Log { Ties::NonStrict } else { Ties::MidRank };
                self.phi(rank.fraction(ties)) / beta + (class.len() as f64 / total).ln()
            })
            .collect();
        log_sum_exp(&terms)
    }
}

/// `log` of the integral of `exp(f(u))` over `[0, 1]` by the tanh-sinh rule, whose points crowd at both ends, where `f` is
/// largest.
fn integrate(f: impl Fn(f64) -> f64) -> f64 {
    const STEP: f64 = 1.0 / 64.0;
    let half_pi = std::f64::consts::FRAC_PI_2;
    let terms: Vec<f64> = (-288..=288)
        .map(|k| {
            let t = f64::from(k) * STEP;
            let x = half_pi * t.sinh();
            // u = (1 + tanh x) / 2 and du/dt = pi/4 cosh t / cosh(x)^2.
            let log_weight = (0.5 * half_pi * t.cosh() * STEP).ln() - 2.0 * log_cosh(x);
            f(1.0 / (1.0 + (-2.0 * x).exp())) + log_weight
        })
        .collect();
    log_sum_exp(&terms)
}

fn log_cosh(x: f64) -> f64 {
    x.abs() + (-2.0 * x.abs()).exp().ln_1p() - std::f64::consts::LN_2
}

/// `scale^2 (target - log_ratio)^2` and its derivative with respect to `log_ratio`, the summed `log pi - log ref`.
///
/// With `scale = beta` and `target = phi / beta - log Z` this is the loss of QRPO, with `scale = 1` that of SPPO.
pub fn squared_ratio(log_ratio: f64, target: f64, scale: f64) -> (f64, f64) {
    let miss = scale * (log_ratio - target);
    (miss * miss, 2.0 * scale * miss)
}

/// `log` of the mean of `exp(x)` over the samples of a prompt: the partition function as they give it, ties included.
pub fn log_mean_exp(x: &[f64]) -> f64 {
    log_sum_exp(x) - (x.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_of_integration_agrees_with_closed_forms() {
        for beta in [1e-3, 0.01, 0.1, 1.0, 10.0] {
            let identity = QuantileTilt::Identity.log_partition(beta);
            let numeric = integrate(|u| u / beta);
            assert!(
                (identity - numeric).abs() < 1e-9 * identity.abs().max(1.0),
                "{beta}: {identity} {numeric}"
            );
            assert!(
                (QuantileTilt::Power(1.0).log_partition(beta) - identity).abs() < 1e-9 * identity.max(1.0)
            );
            let log = QuantileTilt::Log.log_partition(beta);
            assert!(beta < 0.1 || (log - integrate(|u| u.ln() / beta)).abs() < 1e-9);
        }
        // Public code drops the -1 of exp(1/beta) - 1, which matters where beta is not small.
        let dropped = |beta: f64| beta.ln() + 1.0 / beta - QuantileTilt::Identity.log_partition(beta);
        assert!(dropped(0.1) < 1e-4 && dropped(1.0) > 0.4);
    }

    #[test]
    fn tilts_rise_from_zero_to_one_and_a_flat_exponential_is_the_identity() {
        for tilt in [
            QuantileTilt::Identity,
            QuantileTilt::Power(2.0),
            QuantileTilt::Exp(10.0),
            QuantileTilt::Exp(-10.0),
            QuantileTilt::Exp(500.0),
            QuantileTilt::Exp(-500.0),
        ] {
            assert!(tilt.phi(0.0).abs() < 1e-15 && (tilt.phi(1.0) - 1.0).abs() < 1e-15, "{tilt:?}");
            let steps: Vec<f64> = (0..=20).map(|k| tilt.phi(f64::from(k) / 20.0)).collect();
            assert!(steps.windows(2).all(|pair| pair[0] <= pair[1]), "{tilt:?}");
            assert!(tilt.log_partition(0.2).is_finite());
        }
        assert!((QuantileTilt::Exp(1e-6).phi(0.3) - 0.3).abs() < 1e-6);
        assert!((QuantileTilt::Exp(-1e-6).phi(0.3) - 0.3).abs() < 1e-6);
    }

    #[test]
    fn a_pool_without_ties_has_the_exact_partition_and_ties_have_theirs() {
        let tilts = [
            QuantileTilt::Identity,
            QuantileTilt::Log,
            QuantileTilt::Power(2.0),
            QuantileTilt::Exp(5.0),
            QuantileTilt::Exp(-5.0),
        ];
        for tilt in tilts {
            for (beta, samples) in [(0.1, 8), (0.2, 8), (0.5, 4), (0.1, 64), (1e-3, 8)] {
                let pool = CachedRewards::new((0..samples).map(|k| f64::from(k).sqrt()).collect());
                let got = tilt.log_partition_of(beta, &pool.expect("finite"));
                let want = tilt.log_partition(beta);
                assert!(
                    (got - want).abs() < 1e-8 * want.abs().max(1.0),
                    "{tilt:?} {beta} {samples}: {got} {want}"
                );
            }
            // A law of three rewards, at its own frequencies.
            let masses = [0.5_f64, 0.3, 0.2];
            let counts = [50, 30, 20];
            let rewards = (0..3_usize).flat_map(|class| std::iter::repeat_n(class as f64, counts[class]));
            let pool = CachedRewards::new(rewards.collect()).expect("finite");
            let at_most = [0.5, 0.8, 1.0];
            let beta = 0.2;
            let terms: Vec<f64> = (0..3)
                .map(|class| {
                    let middle = at_most[class] - 0.5 * masses[class];
                    let u = if tilt == QuantileTilt::Log { at_most[class] } else { middle };
                    masses[class].ln() + tilt.phi(u) / beta
                })
                .collect();
            assert!((tilt.log_partition_of(beta, &pool) - log_sum_exp(&terms)).abs() < 1e-12, "{tilt:?}");
        }
        // What the mean over ranks among the others is off by.
        for (beta, samples, bias) in [(0.1, 8, 0.497), (0.2, 8, 0.206), (0.5, 4, 0.101), (0.1, 64, 0.063)] {
            let ranks: Vec<f64> =
                (0..samples).map(|k| f64::from(k) / f64::from(samples - 1) / beta).collect();
            let off = log_mean_exp(&ranks) - QuantileTilt::Identity.log_partition(beta);
            assert!((off - bias).abs() < 6e-4, "{beta} {samples}: {off}");
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_square() {
        let (h, target, scale) = (1e-5, -0.7, 0.3);
        let at = |ratio| squared_ratio(ratio, target, scale);
        assert!((at(1.2).1 - (at(1.2 + h).0 - at(1.2 - h).0) / (2.0 * h)).abs() < 1e-9);
        assert_eq!(at(target), (0.0, 0.0));
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        assert!(QuantileTilt::Exp(0.0).validate().is_err() && QuantileTilt::Power(0.0).validate().is_err());
        assert!(QuantileTilt::Power(f64::NAN).validate().is_err() && QuantileTilt::Log.validate().is_ok());
    }
}
