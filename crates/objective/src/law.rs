//! Probability laws on a finite list of outcomes, given as vectors aligned with that list.

use crate::error::{InputError, finite, same_length};
use crate::numeric::{log_sum_exp, sum};

/// Largest distance of a total probability from one. Tables read from files carry rounding of this order at most.
const TOTAL_TOLERANCE: f64 = 1e-9;

/// Refuses what is not a probability law: empty, negative or not finite entries, a total away from one.
pub fn check(what: &'static str, p: &[f64]) -> Result<(), InputError> {
    if p.is_empty() {
        return Err(InputError::TooFew { what, least: 1 });
    }
    finite(what, p)?;
    if let Some((index, value)) = p.iter().enumerate().find(|(_, value)| **value < 0.0) {
        return Err(InputError::NotALaw { what, problem: format!("entry {index} is {value}") });
    }
    let total = sum(p.iter().copied());
    if (total - 1.0).abs() > TOTAL_TOLERANCE {
        return Err(InputError::NotALaw { what, problem: format!("the total is {total}, not 1") });
    }
    Ok(())
}

/// `E_p[f]`. Outcomes of probability zero do not count, whatever `f` is there.
///
/// # Panics
/// When the lengths differ.
pub fn expectation(p: &[f64], f: &[f64]) -> f64 {
    assert_eq!(p.len(), f.len(), "law and function are on different lists of outcomes");
    sum(p.iter().zip(f).filter(|(p, _)| **p > 0.0).map(|(p, f)| p * f))
}

/// Shannon entropy in nats.
pub fn entropy(p: &[f64]) -> f64 {
    -sum(p.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()))
}

/// `KL(p || q)` in nats; infinite where `p` has mass and `q` has none.
///
/// # Panics
/// When the lengths differ.
pub fn kl(p: &[f64], q: &[f64]) -> f64 {
    assert_eq!(p.len(), q.len(), "laws are on different lists of outcomes");
    sum(p.iter().zip(q).filter(|(p, _)| **p > 0.0).map(|(p, q)| p * (p.ln() - q.ln())))
}

/// Total variation distance, half the sum of absolute differences.
///
/// # Panics
/// When the lengths differ.
pub fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    assert_eq!(p.len(), q.len(), "laws are on different lists of outcomes");
    0.5 * sum(p.iter().zip(q).map(|(p, q)| (p - q).abs()))
}

/// A tilted law and its normaliser.
#[derive(Clone, Debug, PartialEq)]
pub struct Tilted {
    /// `p(y) exp(w(y)) / Z`.
    pub law: Vec<f64>,
    /// `log Z`.
    pub log_partition: f64,
}

/// `p(y) exp(w(y)) / Z`: the optimum of `E[w] - KL(. || p)`. With `w = r / beta` the optimum of KL-regularised RLHF.
///
/// `-inf` removes an outcome; NaN, `+inf` and the removal of every outcome are errors.
pub fn tilt(p: &[f64], log_weights: &[f64]) -> Result<Tilted, InputError> {
    check("law", p)?;
    same_length("log-weights", p.len(), log_weights.len())?;
    if let Some(index) = log_weights.iter().position(|w| w.is_nan() || *w == f64::INFINITY) {
        return Err(InputError::NotFinite { what: "log-weights", index, value: log_weights[index] });
    }
    let logs: Vec<f64> = p.iter().zip(log_weights).map(|(p, w)| p.ln() + w).collect();
    let log_partition = log_sum_exp(&logs);
    if log_partition == f64::NEG_INFINITY {
        return Err(InputError::NotALaw {
            what: "tilted law",
            problem: "no outcome keeps any mass".to_owned(),
        });
    }
    Ok(Tilted { law: logs.iter().map(|l| (l - log_partition).exp()).collect(), log_partition })
}

/// Where each outcome stands among draws from a law, by reward. All vectors are aligned with the outcomes.
#[derive(Clone, Debug, PartialEq)]
pub struct RankMasses {
    /// `F<(y)`: probability of a strictly smaller reward.
    pub below: Vec<f64>,
    /// `F<=(y)`: probability of a reward at most as large.
    pub at_most: Vec<f64>,
    /// `c(y) = F<= - F<`: probability of the same reward, summed directly, without the cancellation of that difference.
    pub class: Vec<f64>,
}

impl RankMasses {
    /// Exact masses of the rewards `r` under the law `p`. Only the order of the rewards matters.
    pub fn new(p: &[f64], r: &[f64]) -> Result<Self, InputError> {
        check("law", p)?;
        same_length("rewards", p.len(), r.len())?;
        finite("rewards", r)?;
        let mut order: Vec<usize> = (0..r.len()).collect();
        order.sort_by(|&i, &j| r[i].total_cmp(&r[j]));
        let mut masses =
            Self { below: vec![0.0; p.len()], at_most: vec![0.0; p.len()], class: vec![0.0; p.len()] };
        let mut below = crate::numeric::Sum::default();
        // `==` and not the order of `total_cmp`: 0.0 and -0.0 are one class, and neighbours in that order.
        for class in order.chunk_by(|&i, &j| r[i] == r[j]) {
            let start = below;
            let mass = sum(class.iter().map(|&i| p[i]));
            below.add(mass);
            for &i in class {
                masses.below[i] = start.value();
                masses.at_most[i] = below.value();
                masses.class[i] = mass;
            }
        }
        Ok(masses)
    }

    /// Mid-rank `F< + c/2`, the calibrated reward of InfAlign: mean one half under the law for any rewards.
    pub fn mid_rank(&self) -> Vec<f64> {
        self.below.iter().zip(&self.class).map(|(below, class)| below + 0.5 * class).collect()
    }
}

/// Probability that a draw from `p` has a larger reward than a draw from `q`, ties counting one half.
pub fn win_rate(p: &[f64], q: &[f64], r: &[f64]) -> Result<f64, InputError> {
    check("law", p)?;
    same_length("law", q.len(), p.len())?;
    Ok(expectation(p, &RankMasses::new(q, r)?.mid_rank()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: [f64; 4] = [0.1, 0.2, 0.3, 0.4];

    #[test]
    fn masses_put_ties_in_one_class() {
        let m = RankMasses::new(&P, &[5.0, -0.0, 5.0, 0.0]).expect("law");
        for (got, want) in m.below.iter().zip([0.6, 0.0, 0.6, 0.0]) {
            assert!((got - want).abs() < 1e-15);
        }
        for (got, want) in m.class.iter().zip([0.4, 0.6, 0.4, 0.6]) {
            assert!((got - want).abs() < 1e-15);
        }
        assert!((expectation(&P, &m.mid_rank()) - 0.5).abs() < 1e-15);
    }

    #[test]
    fn win_rate_is_antisymmetric_and_matches_the_double_sum() {
        let q = [0.4, 0.1, 0.25, 0.25];
        let r = [1.0, 2.0, 2.0, -1.0];
        let mut naive = 0.0;
        for i in 0..4 {
            for j in 0..4 {
                naive += P[i]
                    * q[j]
                    * if r[i] > r[j] {
                        1.0
                    } else if r[i] == r[j] {
                        0.5
                    } else {
                        0.0
                    };
            }
        }
        let w = win_rate(&P, &q, &r).expect("laws");
        assert!((w - naive).abs() < 1e-15);
        assert!((w + win_rate(&q, &P, &r).expect("laws") - 1.0).abs() < 1e-15);
        assert!((win_rate(&P, &P, &r).expect("laws") - 0.5).abs() < 1e-15);
    }

    #[test]
    fn tilt_attains_the_variational_bound() {
        let w = [0.3, -1.0, 2.0, f64::NEG_INFINITY];
        let t = tilt(&P, &w).expect("law");
        assert_eq!(t.law[3], 0.0);
        assert!((expectation(&t.law, &w) - kl(&t.law, &P) - t.log_partition).abs() < 1e-14);
        assert_eq!(kl(&P, &t.law), f64::INFINITY);
        assert!(tilt(&P, &[f64::NEG_INFINITY; 4]).is_err());
        assert!(tilt(&P, &[f64::INFINITY; 4]).is_err());
    }

    #[test]
    fn entropy_and_total_variation_of_a_coin() {
        assert!((entropy(&[0.5, 0.5, 0.0]) - std::f64::consts::LN_2).abs() < 1e-15);
        assert!((total_variation(&[0.5, 0.5], &[0.2, 0.8]) - 0.3).abs() < 1e-15);
    }

    #[test]
    fn what_is_no_law_is_named() {
        assert!(matches!(check("law", &[]), Err(InputError::TooFew { .. })));
        assert!(matches!(check("law", &[0.5, 0.4]), Err(InputError::NotALaw { .. })));
        assert!(matches!(check("law", &[1.5, -0.5]), Err(InputError::NotALaw { .. })));
        assert!(matches!(check("law", &[f64::NAN]), Err(InputError::NotFinite { index: 0, .. })));
        assert!(matches!(
            RankMasses::new(&P, &[0.0; 3]),
            Err(InputError::Length { expected: 4, actual: 3, .. })
        ));
    }
}
