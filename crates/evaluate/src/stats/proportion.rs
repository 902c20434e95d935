//! Intervals of proportions.

use super::Interval;

/// Wilson's score interval of a proportion: `successes` of `trials` at confidence `level`.
///
/// Ties counted as one half make `successes` a multiple of one half; the interval is then slightly too wide.
/// Unlike the interval `p ± z·se` it is not a point at 0 of n or n of n (Wilson 1927; Brown, Cai & DasGupta 2001).
/// `None` for no trials, or for arguments outside their ranges.
///
/// ```
/// let interval = evaluate::stats::wilson(10.0, 10, 0.95).unwrap();
/// assert_eq!(interval.high, 1.0);
/// assert!((interval.low - 0.722).abs() < 1e-3);
/// ```
pub fn wilson(successes: f64, trials: u64, level: f64) -> Option<Interval> {
    let n = trials as f64;
    if trials == 0 || !(0.0..=n).contains(&successes) || !(level > 0.0 && level < 1.0) {
        return None;
    }
    let z = normal_quantile(f64::midpoint(1.0, level));
    let (p, shrink) = (successes / n, z * z / n);
    let centre = (p + shrink / 2.0) / (1.0 + shrink);
    let half = z / (1.0 + shrink) * (p * (1.0 - p) / n + shrink / (4.0 * n)).sqrt();
    // At p = 0 and 1 an end is exactly 0 or 1, which rounding would miss.
    let low = if successes == 0.0 { 0.0 } else { (centre - half).max(0.0) };
    let high = if successes == n { 1.0 } else { (centre + half).min(1.0) };
    Some(Interval { low, high })
}

/// The quantile of the standard normal distribution, to about 1e-7 (Wichura 1988, algorithm AS 241, PPND7).
///
/// Infinite at 0 and 1, NaN outside.
pub fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= 0.425 {
        let r = 0.180_625 - q * q;
        return q * polynomial(r, &[3.387_132_717_9, 50.434_271_938, 159.291_132_02, 59.109_374_720])
            / polynomial(r, &[1.0, 17.895_169_469, 78.757_757_664, 67.187_563_600]);
    }
    let tail = if q < 0.0 { p } else { 1.0 - p };
    if tail <= 0.0 || tail.is_nan() {
        return if tail == 0.0 { q.signum() * f64::INFINITY } else { f64::NAN };
    }
    let r = (-tail.ln()).sqrt();
    let size = if r <= 5.0 {
        let r = r - 1.6;
        polynomial(r, &[1.423_437_277_7, 2.756_815_390_0, 1.306_728_481_6, 0.170_238_211_03])
            / polynomial(r, &[1.0, 0.737_001_642_50, 0.120_211_329_75])
    } else {
        let r = r - 5.0;
        polynomial(r, &[6.657_905_115_0, 3.081_226_386_0, 0.428_682_943_37, 0.017_337_203_997])
            / polynomial(r, &[1.0, 0.241_978_942_25, 0.012_258_202_635])
    };
    q.signum() * size
}

/// `c[0] + c[1]·x + c[2]·x² + …`
fn polynomial(x: f64, coefficients: &[f64]) -> f64 {
    coefficients.iter().rev().fold(0.0, |value, c| value * x + c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn normal_quantiles_have_their_known_values() {
        // Values of Python's `statistics.NormalDist().inv_cdf`.
        for (p, z) in [
            (0.5, 0.0),
            (0.6, 0.253_347_103_135_799_7),
            (0.95, 1.644_853_626_951_472_2),
            (0.975, 1.959_963_984_540_054),
            (0.995, 2.575_829_303_548_900_4),
            (1e-12, -7.034_483_825_301_131),
        ] {
            assert!((normal_quantile(p) - z).abs() < 2e-6 * z.abs().max(0.1), "{p}: {}", normal_quantile(p));
        }
        assert_eq!(normal_quantile(1.0), f64::INFINITY);
        assert_eq!(normal_quantile(0.0), f64::NEG_INFINITY);
        assert!(normal_quantile(1.5).is_nan() && normal_quantile(f64::NAN).is_nan());
    }

    #[test]
    fn wilson_solves_its_quadratic() {
        // Both ends are where |p − x| = z·sqrt(x(1 − x)/n).
        let (successes, trials) = (27.0, 81_u64);
        let interval = wilson(successes, trials, 0.9).unwrap();
        let p = successes / trials as f64;
        for end in [interval.low, interval.high] {
            let se = (end * (1.0 - end) / trials as f64).sqrt();
            assert!(((p - end).abs() / se - 1.644_853_6).abs() < 1e-5);
        }
    }

    #[test]
    fn nothing_to_estimate_gives_none() {
        assert_eq!(wilson(0.0, 0, 0.95), None);
        assert_eq!(wilson(3.0, 2, 0.95), None);
        assert_eq!(wilson(f64::NAN, 2, 0.95), None);
        assert_eq!(wilson(1.0, 2, 1.0), None);
    }

    proptest! {
        #[test]
        fn the_interval_holds_the_share_and_mirrors(trials in 1_u64..500, part in 0.0_f64..=1.0) {
            let successes = (part * trials as f64).round();
            let interval = wilson(successes, trials, 0.95).unwrap();
            prop_assert!(interval.contains(successes / trials as f64));
            prop_assert!(0.0 <= interval.low && interval.low < interval.high && interval.high <= 1.0);
            let mirrored = wilson(trials as f64 - successes, trials, 0.95).unwrap();
            prop_assert!((interval.low - (1.0 - mirrored.high)).abs() < 1e-12);
        }
    }
}
