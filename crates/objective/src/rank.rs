//! Rewards seen through ranks among cached reference samples.
//!
//! `M` rewards of reference samples per prompt are cached once; a new reward is then only counted against them. Everything
//! here is bit-identical under strictly increasing maps of the reward.

use serde::{Deserialize, Serialize};

use crate::error::{InputError, finite};
use crate::numeric::harmonic_difference;

/// Rewards of the cached reference samples of one prompt, in ascending order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Vec<f64>", into = "Vec<f64>")]
pub struct CachedRewards(Vec<f64>);

impl CachedRewards {
    /// Sorts `rewards`; they must be finite, and at least one.
    pub fn new(mut rewards: Vec<f64>) -> Result<Self, InputError> {
        if rewards.is_empty() {
            return Err(InputError::TooFew { what: "cached rewards", least: 1 });
        }
        finite("cached rewards", &rewards)?;
        rewards.sort_by(f64::total_cmp);
        Ok(Self(rewards))
    }

    /// The rewards, ascending.
    pub fn sorted(&self) -> &[f64] {
        &self.0
    }

    /// Where `reward` stands among the cached ones.
    pub fn rank(&self, reward: f64) -> Result<Rank, InputError> {
        finite("reward", &[reward])?;
        Ok(Rank {
            below: self.0.partition_point(|r| *r < reward),
            at_most: self.0.partition_point(|r| *r <= reward),
            total: self.0.len(),
        })
    }
}

impl TryFrom<Vec<f64>> for CachedRewards {
    type Error = InputError;

    fn try_from(rewards: Vec<f64>) -> Result<Self, InputError> {
        Self::new(rewards)
    }
}

impl From<CachedRewards> for Vec<f64> {
    fn from(rewards: CachedRewards) -> Self {
        rewards.0
    }
}

/// Position of a reward among `total` cached ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rank {
    /// Number of cached rewards strictly below.
    pub below: usize,
    /// Number of cached rewards at most as large.
    pub at_most: usize,
    /// Number `M` of cached rewards.
    pub total: usize,
}

impl Rank {
    /// Of one of the cached rewards among the others.
    #[must_use]
    pub fn among_others(self) -> Self {
        Self { at_most: self.at_most - 1, total: self.total - 1, ..self }
    }

    /// The count `K` under a treatment of ties; a multiple of one half.
    pub fn count(&self, ties: Ties) -> f64 {
        match ties {
            Ties::Strict => self.below as f64,
            Ties::NonStrict => self.at_most as f64,
            Ties::MidRank => 0.5 * (self.below + self.at_most) as f64,
        }
    }

    /// `K / M`: the estimate of `F<`, `F<=`, or of the calibrated reward `F< + c/2`.
    pub fn fraction(&self, ties: Ties) -> f64 {
        self.count(ties) / self.total as f64
    }

    /// Share of the cached rewards that equal the reward: the estimate of the mass `c` of its tie class.
    pub fn tie_mass(&self) -> f64 {
        (self.at_most - self.below) as f64 / self.total as f64
    }

    /// Estimate of `c / F<=`, the share of the tie class among rewards at most as large; zero when none is.
    pub fn tie_share(&self) -> f64 {
        if self.at_most == 0 { 0.0 } else { (self.at_most - self.below) as f64 / self.at_most as f64 }
    }
}

/// Which cached rewards count as beaten by an equal reward.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ties {
    /// None: `K = #{r_m < r}`. What the public vBoN code counts.
    Strict,
    /// All: `K = #{r_m <= r}`. Right for `F<=`, which best-of-N needs, with a fresh sample.
    #[default]
    NonStrict,
    /// Half of them. Right for the calibrated reward.
    MidRank,
}

/// Estimator of `log F` from `K` of `M` cached rewards. The loss of vBoN multiplies its bias by `N - 1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogCdf {
    /// `H_K - H_M`. Expectation exactly `-sum_{k=1..M} (1-F)^k / k`, that is `log F` cut after `M` terms: the bias vanishes
    /// exponentially once `M F` exceeds one. Floor `-H_M`.
    #[default]
    HarmonicDifference,
    /// `log((K+1) / (M+1))`, Laplace smoothing, as in the public vBoN code. Floor `-log(M+1)`.
    Laplace,
    /// `log max(K/M, 1/(2M))`.
    HalfFloor,
    /// `log max(K/M, 1/M)`, as in the public QRPO code.
    QrpoFloor,
}

impl LogCdf {
    /// The estimate, at most zero, for `count` (see [`Rank::count`]) of `total` cached rewards.
    pub fn estimate(self, count: f64, total: usize) -> f64 {
        let m = total as f64;
        match self {
            Self::HarmonicDifference => harmonic_difference(count, m),
            Self::Laplace => ((count + 1.0) / (m + 1.0)).ln(),
            Self::HalfFloor => (count / m).max(0.5 / m).ln(),
            Self::QrpoFloor => (count / m).max(1.0 / m).ln(),
        }
    }

    /// The smallest possible estimate: the value when no cached reward is beaten.
    pub fn floor(self, total: usize) -> f64 {
        self.estimate(0.0, total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::sum;

    /// `E[estimate] - log F` for `K ~ Binomial(M, F)`, exactly.
    fn bias(estimator: LogCdf, m: usize, f: f64) -> f64 {
        let mut p = (1.0 - f).powi(m as i32);
        let mut terms = Vec::new();
        for k in 0..=m {
            terms.push(p * estimator.estimate(k as f64, m));
            p *= (m - k) as f64 / (k + 1) as f64 * f / (1.0 - f);
        }
        sum(terms) - f.ln()
    }

    #[test]
    fn biases_are_those_of_the_published_table() {
        use LogCdf::{HalfFloor, HarmonicDifference, Laplace, QrpoFloor};
        let table = [
            (16, 0.05, [0.641, 0.069, 0.374, 0.286]),
            (16, 0.2, [0.128, -0.144, -0.124, 0.006]),
            (16, 0.5, [0.030, -0.035, -0.035, 0.000]),
            (64, 0.05, [0.159, -0.166, -0.140, 0.009]),
            (64, 0.2, [0.031, -0.034, -0.034, 0.000]),
            (300, 0.01, [0.180, -0.177, -0.143, 0.013]),
        ];
        for (m, f, row) in table {
            for (estimator, want) in [Laplace, HalfFloor, QrpoFloor, HarmonicDifference].into_iter().zip(row)
            {
                let got = bias(estimator, m, f);
                assert!((got - want).abs() < 1e-3, "{estimator:?} M={m} F={f}: {got} and not {want}");
            }
        }
    }

    #[test]
    fn harmonic_difference_has_its_exact_expectation() {
        for (m, f) in [(1, 0.3), (5, 0.5), (16, 0.05), (64, 0.9)] {
            let truncated = -sum((1..=m).map(|k| (1.0_f64 - f).powi(k as i32) / k as f64));
            let got = bias(LogCdf::HarmonicDifference, m, f) + f64::ln(f);
            assert!((got - truncated).abs() < 1e-13, "M={m} F={f}: {got} and not {truncated}");
        }
    }

    #[test]
    fn ranks_see_ties() {
        let cached = CachedRewards::new(vec![2.0, 1.0, 2.0, 3.0, 2.0]).expect("finite");
        let rank = cached.rank(2.0).expect("finite");
        assert_eq!(rank, Rank { below: 1, at_most: 4, total: 5 });
        assert_eq!(
            (rank.count(Ties::Strict), rank.count(Ties::NonStrict), rank.count(Ties::MidRank)),
            (1.0, 4.0, 2.5)
        );
        assert_eq!((rank.tie_mass(), rank.tie_share()), (0.6, 0.75));
        let lowest = cached.rank(0.0).expect("finite");
        assert_eq!((lowest.count(Ties::NonStrict), lowest.tie_share()), (0.0, 0.0));
    }

    #[test]
    fn strict_plus_one_is_non_strict_with_the_sample_in_the_pool() {
        let pool = vec![0.3, -1.0, 2.5, 0.7];
        let fresh = 0.5;
        let alone = CachedRewards::new(pool.clone()).expect("finite").rank(fresh).expect("finite");
        let joined =
            CachedRewards::new([pool, vec![fresh]].concat()).expect("finite").rank(fresh).expect("finite");
        assert_eq!(
            LogCdf::Laplace.estimate(alone.count(Ties::Strict), alone.total),
            joined.fraction(Ties::NonStrict).ln()
        );
    }

    #[test]
    fn increasing_maps_change_no_bit() {
        let rewards = [-1.25, 0.5, 0.5, 3.0, -0.75, 1.0];
        let maps: [fn(f64) -> f64; 4] =
            [|r| r.exp(), |r| r.powi(3), |r| 7.0 * r - 2.0, |r| r / (1.0 + r.abs())];
        let cached = CachedRewards::new(rewards.to_vec()).expect("finite");
        for map in maps {
            let mapped = CachedRewards::new(rewards.iter().map(|r| map(*r)).collect()).expect("finite");
            for probe in [-2.0, -1.25, 0.0, 0.5, 2.0, 4.0] {
                let (a, b) = (cached.rank(probe).expect("finite"), mapped.rank(map(probe)).expect("finite"));
                assert_eq!(a, b);
            }
        }
    }

    #[test]
    fn estimators_are_monotone_and_end_at_their_floor_and_at_zero() {
        for e in [LogCdf::HarmonicDifference, LogCdf::Laplace, LogCdf::HalfFloor, LogCdf::QrpoFloor] {
            let values: Vec<f64> = (0..=40).map(|k| e.estimate(f64::from(k) / 2.0, 20)).collect();
            assert!(values.windows(2).all(|w| w[0] <= w[1]), "{e:?}");
            assert_eq!((values[0], values[40]), (e.floor(20), 0.0));
        }
        assert!((LogCdf::HarmonicDifference.floor(4) + 25.0 / 12.0).abs() < 1e-15);
    }

    #[test]
    fn bad_rewards_are_refused() {
        assert!(matches!(CachedRewards::new(vec![]), Err(InputError::TooFew { .. })));
        assert!(matches!(
            CachedRewards::new(vec![0.0, f64::NAN]),
            Err(InputError::NotFinite { index: 1, .. })
        ));
        let cached = CachedRewards::new(vec![0.0]).expect("finite");
        assert!(cached.rank(f64::INFINITY).is_err());
        assert!(serde_json::from_str::<CachedRewards>("[]").is_err());
        assert_eq!(serde_json::from_str::<CachedRewards>("[2.0, 1.0]").expect("valid").sorted(), [1.0, 2.0]);
    }
}
