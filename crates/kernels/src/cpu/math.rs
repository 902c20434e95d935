//! The exponential and the reductions all kernels share.
#![allow(clippy::inline_always, reason = "compiled into each instruction set's version of the caller")]

/// Lanes of every reduction: element `i` goes to lane `i mod 16`, then the lanes are joined by a fixed tree.
pub(crate) const LANES: usize = 16;

/// Below this the exponential is exactly zero (its true value is subnormal).
const EXP_LOWEST: f32 = -87.336_54;
/// Above this the exponential is infinite.
const EXP_HIGHEST: f32 = 88.722_84;

/// `e^x` within 2 units in the last place; 0 below −87.33, ∞ above 88.72, NaN for NaN.
///
/// Cody–Waite reduction by two-part ln 2 and a polynomial of degree 7 (coefficients of Cephes `expf`), all in fused
/// multiply-adds: vector body and scalar tail agree on every instruction set, which the system's `expf` does not promise.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // 1.5·2²³: adding it rounds to an integer, which then sits in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < EXP_LOWEST { EXP_LOWEST } else { x };
    let clamped = if clamped > EXP_HIGHEST { EXP_HIGHEST } else { clamped };
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, clamped);
    let r = n.mul_add(2.121_944_4e-4, r);
    let p = 1.987_569_1e-4_f32;
    let p = p.mul_add(r, 1.398_2e-3);
    let p = p.mul_add(r, 8.333_452e-3);
    let p = p.mul_add(r, 4.166_579_6e-2);
    let p = p.mul_add(r, 0.166_666_65);
    let p = p.mul_add(r, 0.5);
    let y = (p * r).mul_add(r, r) + 1.0;
    // 2ⁿ in two factors, for n = 128 has no exponent of its own.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    let rest = n.wrapping_sub(half);
    let scale = |e: i32| f32::from_bits((e.wrapping_add(127).wrapping_shl(23)) as u32);
    let y = y * scale(half) * scale(rest);
    let y = if x < EXP_LOWEST { 0.0 } else { y };
    if x > EXP_HIGHEST { f32::INFINITY } else { y }
}

/// Hyperbolic tangent within 2e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    let t = exp(-2.0 * x.abs());
    ((1.0 - t) / (1.0 + t)).copysign(x)
}

/// Natural logarithm by way of `f64`, so that systems' libraries cannot differ in the last bit.
#[inline(always)]
pub(crate) fn ln(x: f32) -> f32 {
    f64::from(x).ln() as f32
}

/// The larger of two numbers; the second if either is NaN.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Folds a slice into its lanes.
#[inline(always)]
pub(crate) fn fold_lanes(x: &[f32], start: f32, step: impl Fn(f32, f32) -> f32) -> [f32; LANES] {
    let mut lanes = [start; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for chunk in whole {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = step(*lane, value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(rest) {
        *lane = step(*lane, value);
    }
    lanes
}

/// Joins lanes by the fixed tree: 16 → 8 → 4 → 2 → 1, upper half onto lower half.
#[inline(always)]
pub(crate) fn join_lanes(mut lanes: [f32; LANES], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// Sum in lanes.
#[inline(always)]
pub(crate) fn sum(x: &[f32]) -> f32 {
    join_lanes(fold_lanes(x, 0.0, |lane, value| lane + value), |a, b| a + b)
}

/// Sum of `x·y` in lanes, fused.
#[inline(always)]
pub(crate) fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (whole_x, rest_x) = x.as_chunks::<LANES>();
    let (whole_y, rest_y) = y.as_chunks::<LANES>();
    for (x, y) in whole_x.iter().zip(whole_y) {
        for i in 0..LANES {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    for ((lane, &x), &y) in lanes.iter_mut().zip(rest_x).zip(rest_y) {
        *lane = x.mul_add(y, *lane);
    }
    join_lanes(lanes, |a, b| a + b)
}

/// Largest element, −∞ of none; NaN is passed over.
#[inline(always)]
pub(crate) fn max(x: &[f32]) -> f32 {
    join_lanes(fold_lanes(x, f32::NEG_INFINITY, |lane, value| larger(value, lane)), larger)
}

/// Replaces scores by `exp(score·scale − max)` and returns the maximum and the sum of the results.
#[inline(always)]
pub(crate) fn softmax_in_place(scores: &mut [f32], scale: f32) -> (f32, f32) {
    for score in scores.iter_mut() {
        *score *= scale;
    }
    let top = max(scores);
    for score in scores.iter_mut() {
        *score = exp(*score - top);
    }
    (top, sum(scores))
}

/// Asserts equal bits, naming the first place that differs.
#[cfg(test)]
pub(crate) fn assert_bits(what: &str, actual: &[f32], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert_eq!(a.to_bits(), e.to_bits(), "{what}: element {i} is {a:e}, expected {e:e}");
    }
}

/// Asserts `|actual − expected| ≤ tolerance·(1 + |expected|)` everywhere.
#[cfg(test)]
pub(crate) fn assert_near(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}: lengths differ");
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let limit = tolerance * (1.0 + e.abs());
        assert!(
            (f64::from(a) - e).abs() <= limit,
            "{what}: element {i} is {a:e}, expected {e:e} ± {limit:e}"
        );
    }
}

/// Reproducible numbers in [−1, 1) for tests.
#[cfg(test)]
pub(crate) fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x1234_5678_9ABC_DEF1);
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::{forced, multiversion};

    multiversion! {
        fn exp_all(x: &mut [f32]) {
            for value in x.iter_mut() {
                *value = exp(*value);
            }
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place_on_every_instruction_set() {
        let inputs: Vec<f32> = (-87_000..88_700).map(|i| i as f32 * 1e-3 + 1e-5).collect();
        let got = forced::same_bits(|| {
            let mut x = inputs.clone();
            exp_all(&mut x);
            x
        });
        for (&x, &y) in inputs.iter().zip(&got) {
            let exact = f64::from(x).exp();
            let unit = f64::from(f32::from_bits((exact as f32).to_bits() + 1)) - f64::from(exact as f32);
            assert!((f64::from(y) - exact).abs() <= 2.0 * unit, "exp({x}) = {y:e}, exactly {exact:e}");
        }
    }

    #[test]
    fn exp_at_its_limits() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-87.4), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::MIN), 0.0);
        assert_eq!(exp(88.8), f32::INFINITY);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(88.7).is_finite() && exp(88.7) > 3.3e38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn appended_zeros_do_not_change_a_sum() {
        let mut x = noise(37, 1).iter().map(|v| v.abs()).collect::<Vec<_>>();
        let before = sum(&x);
        x.extend([0.0; 50]);
        assert_eq!(sum(&x).to_bits(), before.to_bits());
    }
}
