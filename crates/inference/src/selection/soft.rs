//! Choices in proportion to a weight: among `n` samples, sample `i` with probability `w_i / Σ_j w_j`.
//!
//! Over samples of `p` this is a law on texts of its own, at every `n`. With `1 / (w + S) = ∫ exp(−t (w + S)) dt` over
//! `t > 0` and independent draws,
//!
//! `law(y) = p(y) · n ∫ w(y) exp(−t w(y)) φ(t)^(n−1) dt`, `φ(t) = E_p[exp(−t w)]`,
//!
//! an integral over one variable whatever `n`. At `n = 1` it is `p`; as `n` grows it nears `p(y) w(y) / E_p[w]`.

use objective::error::InputError;
use objective::numeric::{softmax, sum};

use super::{Divergence, not_empty, numbers};

/// Step of the integral over `s = ln(t w)`. The integrand is analytic in a strip of half width `π/2` around the real
/// line, so the trapezoidal sum is exact to about `exp(−2π · 1.4 / STEP)`.
const STEP: f64 = 0.25;
/// Where the integral begins: `exp(−40)` is below the precision of the result.
const FROM: f64 = -40.0;
/// Where it ends: `exp(4.5 − exp(4.5))` is as well.
const TO: f64 = 4.5;

/// `(r − max r) / β` of finite rewards and a finite `beta` above zero: log-weights of `exp(r / β)` without overflow. What is
/// beyond the range of numbers is as far below the greatest as numbers go.
pub(crate) fn tempered(rewards: &[f64], beta: f64) -> Result<Vec<f64>, InputError> {
    numbers("rewards of the pool", rewards, false)?;
    if !(beta.is_finite() && beta > 0.0) {
        return Err(InputError::OutOfRange { what: "beta", value: beta, range: "finite and above 0" });
    }
    let greatest = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok(rewards.iter().map(|r| ((r - greatest) / beta).max(f64::MIN)).collect())
}

/// Probabilities in proportion to `exp(log_weights)`; finite log-weights, at least one.
pub fn soft_best_of_n(log_weights: &[f64]) -> Result<Vec<f64>, InputError> {
    not_empty("log-weights of the pool", log_weights.len())?;
    numbers("log-weights of the pool", log_weights, false)?;
    Ok(softmax(log_weights))
}

/// The law of [`soft_best_of_n`] among `n` independent draws of the law `p`, aligned with the outcomes of `p`.
///
/// ```
/// use inference::selection::soft_best_of_n_law;
///
/// // Of two tosses of a fair coin, heads with three times the weight: 1/4 + 1/2 · 3/4.
/// let law = soft_best_of_n_law(&[0.5, 0.5], &[3_f64.ln(), 0.0], 2)?;
/// assert!((law[0] - 0.625).abs() < 1e-12);
/// # Ok::<(), objective::error::InputError>(())
/// ```
pub fn soft_best_of_n_law(p: &[f64], log_weights: &[f64], n: usize) -> Result<Vec<f64>, InputError> {
    objective::law::check("law", p)?;
    super::same_length("log-weights", p.len(), log_weights.len())?;
    numbers("log-weights", log_weights, false)?;
    if n == 0 {
        return Err(InputError::TooFew { what: "draws", least: 1 });
    }
    Ok(p.iter().zip(ratios(p, log_weights, n)).map(|(p, ratio)| p * ratio).collect())
}

/// Estimate of `KL(soft best-of-n ‖ base)` from a pool in the order of drawing, where the log-weight is a
/// function of the text
/// alone. At the frequencies of M samples it is too small by about `c / M`, near a half where all M are the
/// n; that of the
/// halves of the pool is so by twice as much, which tells how much.
pub(crate) fn soft_kl(log_weights: &[f64], n: usize) -> Result<Divergence, InputError> {
    let whole = plugged(log_weights, n)?;
    let size = log_weights.len();
    if size < 2 {
        return Ok(Divergence::Nats(whole));
    }
    let (a, b) = log_weights.split_at(size / 2);
    let halves = f64::midpoint(at_frequencies(a, n), at_frequencies(b, n));
    // The exact divergence is never negative.
    Ok(Divergence::Nats((2.0 * whole - halves).max(0.0)))
}

/// The divergence at the frequencies of a pool.
fn plugged(log_weights: &[f64], n: usize) -> Result<f64, InputError> {
    not_empty("log-weights of the pool", log_weights.len())?;
    numbers("log-weights of the pool", log_weights, false)?;
    if n == 0 || n > log_weights.len() {
        let range = "between 1 and the number of samples in the pool";
        return Err(InputError::OutOfRange { what: "n", value: n as f64, range });
    }
    Ok(at_frequencies(log_weights, n))
}

/// Within a class of equal weights the rule follows the base, so nothing is lost by looking at classes only.
fn at_frequencies(log_weights: &[f64], n: usize) -> f64 {
    let mut sorted = log_weights.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let classes: Vec<&[f64]> = sorted.chunk_by(|a, b| a == b).collect();
    let p: Vec<f64> = classes.iter().map(|class| class.len() as f64 / sorted.len() as f64).collect();
    let weights: Vec<f64> = classes.iter().map(|class| class[0]).collect();
    let terms = p.iter().zip(ratios(&p, &weights, n)).filter(|(_, ratio)| *ratio > 0.0);
    // The exact sum is never negative; rounding may be.
    sum(terms.map(|(p, ratio)| p * ratio * ratio.ln())).max(0.0)
}

/// `law(y) / p(y)` of each outcome.
fn ratios(p: &[f64], log_weights: &[f64], n: usize) -> Vec<f64> {
    let nodes = ((TO - FROM) / STEP) as usize;
    let one = |own: &f64| {
        let term = |node: usize| {
            // Measured from its own weight, so that weights of any range are met where their integrand lives.
            let s = FROM + STEP * node as f64;
            let phi = sum(p.iter().zip(log_weights).map(|(p, other)| p * (-(s + (other - own)).exp()).exp()));
            (s - s.exp()).exp() * phi.powf((n - 1) as f64)
        };
        n as f64 * STEP * sum((0..=nodes).map(term))
    };
    log_weights.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use objective::draw::Exhaustive;
    use objective::law::{kl, tilt, total_variation};

    const P: [f64; 4] = [0.1, 0.4, 0.3, 0.2];
    const W: [f64; 4] = [2.0, -1.0, 0.5, -1.0];

    fn enumerated(scale: f64, n: usize) -> Vec<f64> {
        let log_p = P.map(f64::ln);
        let law = Exhaustive::law(|draw| {
            let drawn: Vec<usize> = (0..n).map(|_| draw.pick(&log_p)).collect();
            drawn[draw.pick(&drawn.iter().map(|i| scale * W[*i]).collect::<Vec<_>>())]
        });
        law.expect("finite").into_iter().map(|(_, p)| p).collect()
    }

    #[test]
    fn the_integral_equals_the_enumeration() {
        for scale in [0.0, 0.3, 1.0, 4.0, 30.0, 1000.0] {
            for n in 1..=4 {
                let law = soft_best_of_n_law(&P, &W.map(|w| scale * w), n).expect("a law");
                for (got, want) in law.iter().zip(enumerated(scale, n)) {
                    assert!((got - want).abs() < 1e-12, "scale {scale}, n = {n}: {got} against {want}");
                }
            }
        }
    }

    #[test]
    fn it_nears_the_tilted_law_as_samples_are_added() {
        let tilted = tilt(&P, &W).expect("a law").law;
        let far = |n: usize| kl(&soft_best_of_n_law(&P, &W, n).expect("a law"), &tilted);
        let mut last = far(1);
        assert!((last - kl(&P, &tilted)).abs() < 1e-12);
        for n in [2, 4, 8, 16, 64, 256] {
            let now = far(n);
            assert!(now < last && n as f64 * now <= 1.1 * far(1), "O(1/n): {now} at {n}");
            last = now;
        }
        assert!(last < 1e-4);
    }

    #[test]
    fn the_divergence_of_a_pool_is_that_of_its_frequencies() {
        let pool = [vec![W[0]; 1], vec![W[1]; 6], vec![W[2]; 3]].concat();
        for n in [1, 2, 5, 10] {
            let law = soft_best_of_n_law(&P, &W, n).expect("a law");
            let want = kl(&[law[0], law[1] + law[3], law[2]], &[0.1, 0.6, 0.3]);
            let got = plugged(&pool, n).expect("a pool");
            assert!((got - want).abs() < 1e-12, "n = {n}: {got} against {want}");
        }
        assert!(soft_kl(&[7.0; 5], 3).expect("a pool").value().expect("known") < 1e-12);
        assert!(soft_kl(&pool, 0).is_err() && soft_kl(&pool, 11).is_err());
    }

    #[test]
    fn the_n_samples_alone_tell_the_divergence_without_bias() {
        // Normal log-weights of deviation 1: KL is 0.068 at n = 2 and 0.201 at n = 4.
        for (n, want) in [(2, 0.068), (4, 0.201)] {
            let (mut mean, mut low) = (0.0, 0.0);
            let worlds = 600;
            for world in 0..worlds {
                let mut stream = generate::Stream::new(9, generate::Purpose::Bootstrap, n as u64, world);
                let pool: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
                mean += soft_kl(&pool, n).expect("a pool").value().expect("known") / worlds as f64;
                low += plugged(&pool, n).expect("a pool") / worlds as f64;
            }
            // Five standard errors.
            assert!((mean - want).abs() < 0.035 && low < 0.8 * want, "n = {n}: {mean}, and {low} plugged in");
        }
    }

    #[test]
    fn extremes_stay_numbers() {
        assert_eq!(soft_best_of_n(&[1e308, 0.0, -1e308]), Ok(vec![1.0, 0.0, 0.0]));
        let law = soft_best_of_n_law(&P, &W.map(|w| 1e300 * w), 3).expect("a law");
        let best = objective::bon::law(&P, &W, 3.0).expect("a law");
        assert!(total_variation(&law, &best) < 1e-12, "{law:?} against {best:?}");
        assert!(soft_best_of_n(&[]).is_err() && soft_best_of_n(&[f64::INFINITY]).is_err());
    }
}
