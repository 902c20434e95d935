//! Numerically careful scalar mathematics, all in `f64` and in a fixed order of operations.

use std::f64::consts::LN_2;

/// Compensated (Neumaier) summation: the order of the terms is the order of the calls, and the error does not grow with
/// their number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sum {
    total: f64,
    lost: f64,
}

impl Sum {
    /// Adds one term.
    pub fn add(&mut self, x: f64) {
        let total = self.total + x;
        self.lost +=
            if self.total.abs() >= x.abs() { (self.total - total) + x } else { (x - total) + self.total };
        self.total = total;
    }

    /// The sum so far.
    pub fn value(&self) -> f64 {
        // After an overflow, or a term that is not finite, the compensation is NaN and must not hide the total.
        if self.total.is_finite() { self.total + self.lost } else { self.total }
    }
}

impl FromIterator<f64> for Sum {
    fn from_iter<I: IntoIterator<Item = f64>>(terms: I) -> Self {
        let mut sum = Self::default();
        for x in terms {
            sum.add(x);
        }
        sum
    }
}

/// Compensated sum of `terms` in their order.
pub fn sum(terms: impl IntoIterator<Item = f64>) -> f64 {
    terms.into_iter().collect::<Sum>().value()
}

/// Arithmetic mean; NaN for no terms.
pub fn mean(terms: &[f64]) -> f64 {
    sum(terms.iter().copied()) / terms.len() as f64
}

/// `log sum_i exp(x_i)`; `-inf` for no terms or terms that are all `-inf`.
pub fn log_sum_exp(x: &[f64]) -> f64 {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if max.is_infinite() {
        return max;
    }
    max + sum(x.iter().map(|v| (v - max).exp())).ln()
}

/// Log-probabilities of `logits`. Entries of `-inf` stay so; at least one must be finite, else the result is NaN.
pub fn log_softmax(logits: &[f64]) -> Vec<f64> {
    let log_total = log_sum_exp(logits);
    logits.iter().map(|v| v - log_total).collect()
}

/// Probabilities of `logits`, as [`log_softmax`].
pub fn softmax(logits: &[f64]) -> Vec<f64> {
    log_softmax(logits).into_iter().map(f64::exp).collect()
}

/// `log(1 - exp(x))` for `x <= 0` (Mächler 2012): no cancellation near zero, no underflow far from it. `-inf` at zero, NaN above.
pub fn log1mexp(x: f64) -> f64 {
    if x > -LN_2 { (-x.exp_m1()).ln() } else { (-x.exp()).ln_1p() }
}

/// `log sigmoid(x) = -log(1 + exp(-x))`, exact in both tails.
pub fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + exp(-x))`, with full relative precision in the left tail.
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// `H_n = 1 + 1/2 + ... + 1/n`; zero for `n = 0`. Up to 4096 terms are added, beyond that the digamma function serves.
pub fn harmonic(n: u64) -> f64 {
    /// Euler–Mascheroni constant, `-digamma(1)`.
    const EULER_GAMMA: f64 = 0.577_215_664_901_532_9;
    if n <= 4096 { sum((1..=n).map(|k| 1.0 / k as f64)) } else { digamma(n as f64 + 1.0) + EULER_GAMMA }
}

/// Digamma function for `x > 0`; NaN elsewhere. Absolute error below 1e-14.
pub fn digamma(x: f64) -> f64 {
    if x.is_nan() || x <= 0.0 {
        return f64::NAN;
    }
    // The recurrence moves the argument to where the asymptotic series is exact to double precision.
    let mut shift = Sum::default();
    let mut x = x;
    while x < 12.0 {
        shift.add(-1.0 / x);
        x += 1.0;
    }
    let y = 1.0 / (x * x);
    let tail = y
        * (1.0 / 12.0
            - y * (1.0 / 120.0
                - y * (1.0 / 252.0 - y * (1.0 / 240.0 - y * (1.0 / 132.0 - y * (691.0 / 32760.0))))));
    shift.add(x.ln());
    shift.add(-0.5 / x);
    shift.add(-tail);
    shift.value()
}

/// `digamma(a + 1) - digamma(b + 1)`, for integers the difference `H_a - H_b` of harmonic numbers. Arguments above -1.
///
/// Whole differences of at most 4096 are sums of reciprocals, which keeps full relative precision for close arguments.
pub fn harmonic_difference(a: f64, b: f64) -> f64 {
    if a > b {
        return -harmonic_difference(b, a);
    }
    let steps = b - a;
    if steps.fract() == 0.0 && steps <= 4096.0 && a > -1.0 {
        return -sum((1..=steps as u32).map(|k| 1.0 / (a + f64::from(k))));
    }
    digamma(a + 1.0) - digamma(b + 1.0)
}

/// The integral of `f` over `[0, 1]` by the tanh-sinh rule, whose points crowd at both ends: for functions
/// that are smooth inside
/// and may be steep there.
pub fn integral(f: impl Fn(f64) -> f64) -> f64 {
    const STEP: f64 = 1.0 / 64.0;
    let half_pi = std::f64::consts::FRAC_PI_2;
    sum((-288..=288).map(|k| {
        let t = f64::from(k) * STEP;
        let x = half_pi * t.sinh();
        // u = (1 + tanh x) / 2 and du/dt = pi/4 cosh t / cosh(x)^2.
        let weight = 0.5 * half_pi * t.cosh() / x.cosh().powi(2) * STEP;
        if weight > 0.0 { f(1.0 / (1.0 + (-2.0 * x).exp())) * weight } else { 0.0 }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compensated_sum_keeps_what_plain_addition_loses() {
        let terms = [1.0, 1e100, 1.0, -1e100];
        assert_eq!(sum(terms), 2.0);
        assert_eq!(terms.iter().sum::<f64>(), 0.0);
        assert_eq!(sum([1.0, f64::NEG_INFINITY]), f64::NEG_INFINITY);
    }

    #[test]
    fn log_sum_exp_survives_extremes() {
        assert_eq!(log_sum_exp(&[]), f64::NEG_INFINITY);
        assert_eq!(log_sum_exp(&[f64::NEG_INFINITY; 3]), f64::NEG_INFINITY);
        assert!((log_sum_exp(&[1e4, 1e4, f64::NEG_INFINITY]) - (1e4 + LN_2)).abs() < 1e-11);
        assert!((log_sum_exp(&[-1e4, -1e4]) - (-1e4 + LN_2)).abs() < 1e-11);
        let p = softmax(&[3.0, f64::NEG_INFINITY, 1003.0]);
        assert_eq!((p[1], p[2]), (0.0, 1.0));
    }

    #[test]
    fn tails_of_log1mexp_and_log_sigmoid() {
        assert!((log1mexp(-1e-18) / (1e-18_f64).ln() - 1.0).abs() < 1e-15);
        assert!((log1mexp(-50.0) / -(-50.0_f64).exp() - 1.0).abs() < 1e-15);
        assert_eq!(log1mexp(0.0), f64::NEG_INFINITY);
        assert_eq!(log_sigmoid(-800.0), -800.0);
        assert!((log_sigmoid(50.0) / -(-50.0_f64).exp() - 1.0).abs() < 1e-15);
        assert!((sigmoid(-700.0).ln() + 700.0).abs() < 1e-10);
        for x in [-3.0, -0.1, 0.0, 0.7, 9.0] {
            assert!((sigmoid(x) + sigmoid(-x) - 1.0).abs() < 1e-15);
            assert!((log_sigmoid(x) - sigmoid(x).ln()).abs() < 1e-14);
        }
    }

    #[test]
    fn integrals_of_functions_that_are_steep_at_an_end() {
        assert!((integral(|u| u * u) - 1.0 / 3.0).abs() < 1e-14);
        for width in [1e-1_f64, 1e-3, 1e-5] {
            let want = width * -(-1.0 / width).exp_m1();
            assert!((integral(|u| (-u / width).exp()) - want).abs() < 1e-9 * want, "{width}");
        }
        assert!((integral(|u| 1000.0 * u.powf(999.0)) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn digamma_matches_known_values_and_harmonic_numbers() {
        // psi(1/2) = -gamma - 2 log 2; psi(1/4) = -gamma - pi/2 - 3 log 2.
        let gamma = 0.577_215_664_901_532_9;
        assert!((digamma(0.5) + gamma + 2.0 * LN_2).abs() < 1e-14);
        assert!((digamma(0.25) + gamma + std::f64::consts::FRAC_PI_2 + 3.0 * LN_2).abs() < 1e-14);
        for n in [1_u64, 2, 7, 16, 300, 4096] {
            assert!((digamma(n as f64 + 1.0) + gamma - harmonic(n)).abs() < 2e-14, "n = {n}");
        }
        assert!((harmonic(4097) - harmonic(4096) - 1.0 / 4097.0).abs() < 1e-14);
        assert!(digamma(0.0).is_nan() && digamma(-1.5).is_nan());
    }

    #[test]
    fn harmonic_difference_is_antisymmetric_and_agrees_with_its_parts() {
        for (a, b) in [(0.0, 16.0), (3.0, 300.0), (2.5, 300.0), (0.0, 9000.0), (7.0, 7.0)] {
            let d = harmonic_difference(a, b);
            assert!((d - (digamma(a + 1.0) - digamma(b + 1.0))).abs() < 3e-14, "{a} {b}");
            assert_eq!(d, -harmonic_difference(b, a));
        }
        assert_eq!(harmonic_difference(1.0, 2.0), -0.5);
    }
}
