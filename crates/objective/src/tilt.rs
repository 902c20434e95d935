//! Tilts of the calibrated reward: what a policy is asked to prefer, as a function of a quantile (InfAlign-CTRL).
//!
//! The calibrated reward `u = F< + c/2` is uniform on `[0, 1]` under the reference where no two rewards are equal, so the
//! optimum `ref exp(Phi(u) / beta) / Z` of a KL-regularised objective has a normaliser that does not depend on the prompt.

use std::sync::Arc;

use crate::error::{InputError, in_range};
use crate::rank::{LogCdf, Rank, Ties};

/// A function `Phi` of the calibrated reward.
#[derive(Clone, Debug, PartialEq)]
pub enum Tilt {
    /// `u`: the win rate against the reference itself.
    Identity,
    /// `log u`: the optimum is best-of-N with `N = 1 + 1 / beta`.
    Log,
    /// `u^a`.
    Power {
        /// The exponent `a`, above 0.
        exponent: f64,
    },
    /// `exp(t u)` for `t > 0`, which favours best-of-N at test time; `-exp(t u)` for `t < 0`, which favours worst-of-N.
    Exponential {
        /// `t`, not 0.
        t: f64,
    },
    /// Values at the midpoints of a uniform grid, linear between them (see [`crate::design::fixed_point`]).
    Table(Arc<[f64]>),
}

impl Tilt {
    /// Refuses parameters out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        match self {
            Self::Identity | Self::Log => Ok(()),
            Self::Power { exponent } => {
                in_range("exponent of the power tilt", *exponent, "above 0", |a| a > 0.0)
            }
            Self::Exponential { t } => {
                in_range("t of the exponential tilt", *t, "between -100 and 100, and not 0", |t| {
                    t != 0.0 && t.abs() <= 100.0
                })
            }
            Self::Table(values) if values.len() < 2 => {
                Err(InputError::TooFew { what: "values of a tabulated tilt", least: 2 })
            }
            Self::Table(values) => crate::error::finite("tabulated tilt", values),
        }
    }

    /// `Phi(u)` for `u` in `[0, 1]`. The log tilt is `-inf` at zero.
    pub fn at(&self, u: f64) -> f64 {
        match self {
            Self::Identity => u,
            Self::Log => u.ln(),
            Self::Power { exponent } => u.powf(*exponent),
            Self::Exponential { t } => t.signum() * (t * u).exp(),
            Self::Table(values) => {
                let place = (u * values.len() as f64 - 0.5).clamp(0.0, (values.len() - 1) as f64);
                let low = (place as usize).min(values.len() - 2);
                let share = place - low as f64;
                values[low] + share * (values[low + 1] - values[low])
            }
        }
    }

    /// A table none of whose values is more than `depth` below its largest; other tilts as they are.
    #[must_use]
    pub fn with_depth(self, depth: f64) -> Self {
        match self {
            Self::Table(values) => {
                let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                Self::Table(values.iter().map(|value| value.max(most - depth)).collect())
            }
            other => other,
        }
    }

    /// `Phi` of a quantile that is known by its logarithm.
    pub fn of_log_quantile(&self, log_u: f64) -> f64 {
        if *self == Self::Log { log_u } else { self.at(log_u.exp()) }
    }

    /// The estimate of `Phi` for a reward that stands at `rank` among cached ones, ties counted one half. The log tilt is
    /// estimated by a difference of harmonic numbers, which is finite for every rank.
    pub fn of_rank(&self, rank: Rank) -> f64 {
        match self {
            Self::Log => LogCdf::HarmonicDifference.estimate(rank.count(Ties::MidRank), rank.total),
            _ => self.at(rank.fraction(Ties::MidRank)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::CachedRewards;

    #[test]
    fn tilts_increase_and_a_table_interpolates() {
        let table = Tilt::Table((0..10).map(|i| (f64::from(i) + 0.5) / 10.0).collect());
        for tilt in [
            Tilt::Identity,
            Tilt::Log,
            Tilt::Power { exponent: 2.0 },
            Tilt::Exponential { t: 5.0 },
            Tilt::Exponential { t: -5.0 },
            table.clone(),
        ] {
            tilt.validate().expect("in range");
            let values: Vec<f64> = (1..=20).map(|i| tilt.at(f64::from(i) / 20.0)).collect();
            assert!(values.windows(2).all(|w| w[0] <= w[1] && w[1].is_finite()), "{tilt:?}");
        }
        assert!((table.at(0.37) - 0.37).abs() < 1e-15 && table.at(0.0) == 0.05 && table.at(1.0) == 0.95);
    }

    #[test]
    fn parameters_out_of_range_are_refused() {
        for tilt in [
            Tilt::Power { exponent: 0.0 },
            Tilt::Exponential { t: 0.0 },
            Tilt::Exponential { t: f64::NAN },
            Tilt::Table(Arc::new([1.0])),
        ] {
            assert!(tilt.validate().is_err(), "{tilt:?}");
        }
    }

    #[test]
    fn ranks_count_ties_one_half_and_the_log_has_a_floor() {
        let cached = CachedRewards::new(vec![1.0, 1.0, 2.0, 3.0]).expect("finite");
        let at = |tilt: &Tilt, r: f64| tilt.of_rank(cached.rank(r).expect("finite"));
        assert_eq!(at(&Tilt::Identity, 1.0), 0.25);
        assert_eq!(at(&Tilt::Power { exponent: 2.0 }, 2.5), 0.5625);
        assert_eq!(at(&Tilt::Log, 0.0), LogCdf::HarmonicDifference.floor(4));
        assert_eq!(at(&Tilt::Log, 9.0), 0.0);
    }
}
