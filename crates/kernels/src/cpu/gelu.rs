//! The Gaussian error linear unit (Hendrycks & Gimpel 2016), exact and by tanh, alone and as a gate (GEGLU, Shazeer 2020,
//! eq. 6), and their gradients.
#![allow(unsafe_code, reason = "threads write disjoint parts of two outputs")]
#![allow(clippy::inline_always, reason = "compiled into each instruction set's version of the caller")]

use super::isa::multiversion;
use super::math::exp;
use super::parallel::{Shared, for_each, rows_per_task};

/// Which of the two forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gelu {
    /// `x·Φ(x)` with the law `Φ` of the standard normal (`gelu`).
    Exact,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))` (`gelu_new`, `gelu_pytorch_tanh`).
    Tanh,
}

/// `erfc(t)·e^(t²)·t` as a polynomial of `1/t²`, highest power first, for `t` of 1 to 2 and of 2 on; `erf(t)/t` as one of
/// `t²` below 1: coefficients of Cephes (Moshier), `ndtrf.c`.
const TAIL_NEAR: [f32; 9] = [
    2.326_82e-2,
    -0.138_703_94,
    0.368_742_47,
    -0.582_473_3,
    0.621_000_46,
    -0.494_451_53,
    0.340_488,
    -0.274_112_7,
    0.563_825_94,
];
const TAIL_FAR: [f32; 8] =
    [-10.477_664, 12.977_2, -7.495_518_7, 2.921_019, -1.015_265_3, 0.421_846_34, -0.282_076_74, 0.564_189_5];
const CENTRE: [f32; 7] = [
    7.853_861_4e-5,
    -8.010_194e-4,
    5.188_327_7e-3,
    -2.685_381_2e-2,
    0.112_835_85,
    -0.376_126_26,
    std::f32::consts::FRAC_2_SQRT_PI,
];

#[inline(always)]
fn polynomial<const N: usize>(coefficients: [f32; N], x: f32) -> f32 {
    let mut y = coefficients[0];
    for coefficient in &coefficients[1..] {
        y = y.mul_add(x, *coefficient);
    }
    y
}

/// `Φ(x)`. Tails are computed as themselves and not as what 1 is short of.
#[inline(always)]
fn normal(x: f32) -> f32 {
    let t = x * std::f32::consts::FRAC_1_SQRT_2;
    let size = t.abs();
    let within = 0.5_f32.mul_add(t * polynomial(CENTRE, t * t), 0.5);
    let inverse = 1.0 / if size < 1.0 { 1.0 } else { size };
    let square = inverse * inverse;
    let (near, far) = (polynomial(TAIL_NEAR, square), polynomial(TAIL_FAR, square));
    let tail = 0.5 * exp(-(size * size)) * inverse * if size < 2.0 { near } else { far };
    let beyond = if x > 0.0 { 1.0 - tail } else { tail };
    if size < 1.0 { within } else { beyond }
}

/// The form's factor of `x`, and its derivative by `x` times `x`.
#[inline(always)]
fn exact(x: f32) -> (f32, f32) {
    // 1/√(2π).
    const PEAK: f32 = 0.398_942_3;
    (normal(x), x * PEAK * exp(-0.5 * x * x))
}

/// As [`exact`], with `(1 + tanh(u))/2 = 1/(1 + e^−2u)`.
#[inline(always)]
fn by_tanh(x: f32) -> (f32, f32) {
    // 2·√(2/π).
    const SLOPE: f32 = 1.595_769;
    const CUBIC: f32 = 0.044_715;
    let square = x * x;
    let s = 1.0 / (1.0 + exp(-(SLOPE * x * CUBIC.mul_add(square, 1.0))));
    (s, x * s * (1.0 - s) * SLOPE * (3.0 * CUBIC).mul_add(square, 1.0))
}

/// `y = gelu(x)`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn gelu(x: &[f32], form: Gelu, y: &mut [f32]) {
    let n = x.len();
    assert_eq!(y.len(), n, "gelu: x has {n} elements, y {}", y.len());
    let step = rows_per_task(1);
    let y = Shared::new(y);
    for_each(n.div_ceil(step), |task| {
        let range = task * step..n.min((task + 1) * step);
        // SAFETY: each task has its own range.
        let y = unsafe { y.slice(range.start, range.len()) };
        match form {
            Gelu::Exact => forward_exact(&x[range], y),
            Gelu::Tanh => forward_tanh(&x[range], y),
        }
    });
}

multiversion! {
    fn forward_exact(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * exact(x).0;
        }
    }
}

multiversion! {
    fn forward_tanh(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = x * by_tanh(x).0;
        }
    }
}

/// [`gelu`] in the place of `x`, on the calling thread.
pub(super) fn gelu_panel(x: &mut [f32], form: Gelu) {
    match form {
        Gelu::Exact => panel_exact(x),
        Gelu::Tanh => panel_tanh(x),
    }
}

multiversion! {
    fn panel_exact(x: &mut [f32]) {
        for x in x {
            *x *= exact(*x).0;
        }
    }
}

multiversion! {
    fn panel_tanh(x: &mut [f32]) {
        for x in x {
            *x *= by_tanh(*x).0;
        }
    }
}

/// Gradient of [`gelu`]: `dx = dy·gelu′(x)`, overwritten.
///
/// # Panics
/// When the lengths differ.
pub fn gelu_backward(x: &[f32], form: Gelu, dy: &[f32], dx: &mut [f32]) {
    let n = x.len();
    assert!(
        dy.len() == n && dx.len() == n,
        "gelu_backward: x {n}, dy {}, dx {} elements",
        dy.len(),
        dx.len()
    );
    let step = rows_per_task(1);
    let dx = Shared::new(dx);
    for_each(n.div_ceil(step), |task| {
        let range = task * step..n.min((task + 1) * step);
        // SAFETY: each task has its own range.
        let dx = unsafe { dx.slice(range.start, range.len()) };
        match form {
            Gelu::Exact => backward_exact(&x[range.clone()], &dy[range], dx),
            Gelu::Tanh => backward_tanh(&x[range.clone()], &dy[range], dx),
        }
    });
}

multiversion! {
    fn backward_exact(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let (factor, slope) = exact(x);
            *dx = dy * (factor + slope);
        }
    }
}

multiversion! {
    fn backward_tanh(x: &[f32], dy: &[f32], dx: &mut [f32]) {
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            let (factor, slope) = by_tanh(x);
            *dx = dy * (factor + slope);
        }
    }
}

/// `y = gelu(gate) · up`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn gelu_mul(gate: &[f32], up: &[f32], form: Gelu, y: &mut [f32]) {
    assert_eq!(up.len(), gate.len(), "gelu_mul: gate has {} elements, up {}", gate.len(), up.len());
    gelu(gate, form, y);
    multiply(up, y);
}

/// [`gelu_mul`] in the place of `gate`, on the calling thread.
pub(super) fn gelu_mul_panel(gate: &mut [f32], up: &[f32], form: Gelu) {
    gelu_panel(gate, form);
    multiply(up, gate);
}

multiversion! {
    fn multiply(x: &[f32], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y *= x;
        }
    }
}

/// Gradients of [`gelu_mul`]: `dgate = dy·up·gelu′(gate)`, `dup = dy·gelu(gate)`; both are overwritten.
///
/// # Panics
/// When the lengths differ.
pub fn gelu_mul_backward(
    gate: &[f32],
    up: &[f32],
    form: Gelu,
    dy: &[f32],
    dgate: &mut [f32],
    dup: &mut [f32],
) {
    assert_eq!(up.len(), gate.len(), "gelu_mul_backward: gate has {} elements, up {}", gate.len(), up.len());
    gelu_backward(gate, form, dy, dgate);
    multiply(up, dgate);
    gelu(gate, form, dup);
    multiply(dy, dup);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_near, noise};

    /// `x·Φ(x)` by the series `Φ(x) = ½ + φ(x)·Σ x^(2n+1)/(2n+1)!!`, whose terms have one sign; or the tanh form.
    fn naive(x: f64, form: Gelu) -> f64 {
        match form {
            Gelu::Tanh => {
                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + u.tanh())
            }
            Gelu::Exact => {
                let (mut term, mut sum, mut n) = (x, x, 1.0);
                while term.abs() > 1e-18 * sum.abs() {
                    n += 2.0;
                    term *= x * x / n;
                    sum += term;
                }
                x * (0.5 + sum * (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt())
            }
        }
    }

    #[test]
    fn equals_the_formula_on_every_instruction_set() {
        for form in [Gelu::Exact, Gelu::Tanh] {
            for n in [0, 1, 15, 17, 40_000] {
                let (x, up) = (noise(n, 1).iter().map(|v| v * 9.0).collect::<Vec<_>>(), noise(n, 2));
                let both = forced::same_bits(|| {
                    let (mut y, mut gated) = (vec![f32::NAN; n], vec![f32::NAN; n]);
                    gelu(&x, form, &mut y);
                    gelu_mul(&x, &up, form, &mut gated);
                    y.into_iter().chain(gated).collect()
                });
                let plain = x.iter().map(|&x| naive(x.into(), form));
                let gated = x.iter().zip(&up).map(|(&x, &u)| naive(x.into(), form) * f64::from(u));
                assert_near("gelu", &both, &plain.chain(gated).collect::<Vec<_>>(), 3e-7);
            }
        }
    }

    #[test]
    fn the_normal_law_is_within_some_units_in_the_last_place() {
        for i in -40_000..60_000 {
            let x = i as f32 * 1e-4;
            let exact = if x == 0.0 { 0.5 } else { naive(x.into(), Gelu::Exact) / f64::from(x) };
            let off = (f64::from(normal(x)) - exact).abs() / exact;
            assert!(off < 1.5e-6, "Φ({x}) is {}, exactly {exact}: off by {off:e}", normal(x));
            assert!(x < 0.0 || off < 2e-7, "Φ({x}) is {}, exactly {exact}: off by {off:e}", normal(x));
        }
    }

    #[test]
    fn gradients_equal_finite_differences_and_survive_extremes() {
        let n = 20_000;
        let (gate, up, dy) =
            (noise(n, 3).iter().map(|v| v * 7.0).collect::<Vec<_>>(), noise(n, 4), noise(n, 5));
        for form in [Gelu::Exact, Gelu::Tanh] {
            let all = forced::same_bits(|| {
                let (mut dx, mut dgate, mut dup) = (vec![f32::NAN; n], vec![f32::NAN; n], vec![f32::NAN; n]);
                gelu_backward(&gate, form, &dy, &mut dx);
                gelu_mul_backward(&gate, &up, form, &dy, &mut dgate, &mut dup);
                [dx, dgate, dup].concat()
            });
            for i in (0..n).step_by(11) {
                let (g, u, d, e) = (f64::from(gate[i]), f64::from(up[i]), f64::from(dy[i]), 1e-5);
                let slope = (naive(g + e, form) - naive(g - e, form)) / (2.0 * e);
                assert_near("dx", &all[i..=i], &[d * slope], 1e-5);
                assert_near("dgate", &all[n + i..=n + i], &[d * u * slope], 1e-5);
                assert_near("dup", &all[2 * n + i..=2 * n + i], &[d * naive(g, form)], 1e-6);
            }
            let (mut y, mut dx) = ([f32::NAN; 2], [f32::NAN; 2]);
            gelu(&[-500.0, 500.0], form, &mut y);
            gelu_backward(&[-500.0, 500.0], form, &[1.0, 1.0], &mut dx);
            assert_eq!((y, dx), ([0.0, 500.0], [0.0, 1.0]));
        }
    }
}
