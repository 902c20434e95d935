//! Pessimism by a χ² penalty: weights `max(0, (r − λ) / β)` with mean 1.

use objective::error::InputError;
use objective::numeric::Sum;

use super::{not_empty, numbers};

/// The weights of rewards under `argmax_π E_π[r] − β/2 · χ²(π ‖ p)`, for samples of `p`.
#[derive(Debug, Clone, PartialEq)]
pub struct ChiSquare {
    /// The greatest reward of those that λ was found from.
    greatest: f64,
    /// `(λ − greatest) / β`.
    threshold: f64,
    beta: f64,
}

impl ChiSquare {
    /// Finds the λ at which the mean weight of `rewards` is 1. They are finite and at least one; `beta` is finite and above
    /// zero. Only the samples above λ count in its equation, so it is solved by adding samples from the greatest on.
    pub fn fit(rewards: &[f64], beta: f64) -> Result<Self, InputError> {
        not_empty("rewards of the pool", rewards.len())?;
        numbers("rewards of the pool", rewards, false)?;
        if !(beta.is_finite() && beta > 0.0) {
            return Err(InputError::OutOfRange { what: "beta", value: beta, range: "finite and above 0" });
        }
        let mut sorted = rewards.to_vec();
        sorted.sort_unstable_by(|a, b| b.total_cmp(a));
        let (greatest, n) = (sorted[0], sorted.len() as f64);
        // Distances in units of β, at most 0: differences of large rewards may overflow to −∞, which is below any λ.
        let mut above = Sum::default();
        let mut threshold = -n;
        for (place, reward) in sorted.iter().enumerate() {
            let distance = (reward - greatest) / beta;
            if distance <= threshold {
                break;
            }
            above.add(distance);
            threshold = (above.value() - n) / (place + 1) as f64;
        }
        Ok(Self { greatest, threshold, beta })
    }

    /// The weight `max(0, (r − λ) / β)` of a reward.
    pub fn weight(&self, reward: f64) -> f64 {
        ((reward - self.greatest) / self.beta - self.threshold).max(0.0)
    }

    /// λ, in the unit of the rewards.
    pub fn lambda(&self) -> f64 {
        self.greatest + self.beta * self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_weight_is_one() {
        let rewards = [0.3, -2.0, 1.5, 1.5, 0.0, 1e3, -1e9];
        for beta in [1e-6, 0.1, 1.0, 50.0, 1e12] {
            let fit = ChiSquare::fit(&rewards, beta).expect("a pool");
            let mean = rewards.iter().map(|r| fit.weight(*r)).sum::<f64>() / 7.0;
            assert!((mean - 1.0).abs() < 1e-12, "beta {beta}: {mean}");
            let lambda = fit.lambda();
            for r in rewards {
                let plain = ((r - lambda) / beta).max(0.0);
                let close = (fit.weight(r) - plain).abs() < 1e-6 * plain.max(1.0);
                assert!(close || beta < 1e-3, "beta {beta}");
            }
        }
    }

    #[test]
    fn it_is_the_greatest_penalised_reward() {
        // Against a grid of all laws on three samples.
        let (rewards, beta) = ([1.0, 0.2, -0.5], 0.7);
        let value = |w: [f64; 3]| -> f64 {
            let term = |(w, r): (f64, f64)| (w * r - beta / 2.0 * (w - 1.0).powi(2)) / 3.0;
            w.into_iter().zip(rewards).map(term).sum()
        };
        let fit = ChiSquare::fit(&rewards, beta).expect("a pool");
        let best = value(rewards.map(|r| fit.weight(r)));
        for a in 0..=120 {
            for b in 0..=120 - a {
                let w = [a, b, 120 - a - b].map(|share| f64::from(share) / 40.0);
                assert!(value(w) <= best + 1e-12, "{w:?} is better");
            }
        }
    }

    #[test]
    fn small_beta_keeps_the_greatest_and_large_beta_all() {
        let rewards = [0.0, 3.0, 1.0, 3.0];
        let weights = |beta: f64| {
            let fit = ChiSquare::fit(&rewards, beta).expect("a pool");
            rewards.map(|r| fit.weight(r))
        };
        assert_eq!(weights(1e-9), [0.0, 2.0, 0.0, 2.0]);
        assert!(weights(1e9).iter().all(|w| (w - 1.0).abs() < 1e-8));
        assert!(ChiSquare::fit(&rewards, 0.0).is_err() && ChiSquare::fit(&[], 1.0).is_err());
        assert!(ChiSquare::fit(&[f64::NAN], 1.0).is_err());
        let extreme = ChiSquare::fit(&[-1e308, 1e308], 1e-3).expect("numbers");
        assert_eq!((extreme.weight(-1e308), extreme.weight(1e308)), (0.0, 2.0));
    }
}
