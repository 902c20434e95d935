//! The gate of the SwiGLU feed-forward block (Shazeer 2020, eq. 6) and its gradient.
#![allow(unsafe_code, reason = "threads write disjoint parts of two outputs")]

use super::isa::multiversion;
use super::math::exp;
use super::parallel::{Shared, for_each, rows_per_task};

/// `y = silu(gate) · up` with `silu(g) = g / (1 + e^−g)`, element by element.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul(gate: &[f32], up: &[f32], y: &mut [f32]) {
    let n = gate.len();
    assert!(up.len() == n && y.len() == n, "silu_mul: gate {n}, up {}, y {} elements", up.len(), y.len());
    let step = rows_per_task(1);
    let y = Shared::new(y);
    for_each(n.div_ceil(step), |task| {
        let range = task * step..n.min((task + 1) * step);
        // SAFETY: each task has its own range.
        let y = unsafe { y.slice(range.start, range.len()) };
        forward(&gate[range.clone()], &up[range], y);
    });
}

multiversion! {
    /// `gate = silu(gate) · up`, on the calling thread.
    pub(super) fn gate_panel(gate: &mut [f32], up: &[f32]) {
        for (gate, &up) in gate.iter_mut().zip(up) {
            *gate = *gate / (1.0 + exp(-*gate)) * up;
        }
    }
}

multiversion! {
    fn forward(gate: &[f32], up: &[f32], y: &mut [f32]) {
        for ((y, &gate), &up) in y.iter_mut().zip(gate).zip(up) {
            *y = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

/// Gradients of [`silu_mul`]; both are overwritten.
///
/// With `s = 1/(1 + e^−gate)`: `dgate = dy·up·s·(1 + gate·(1 − s))`, `dup = dy·gate·s`.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul_backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let n = gate.len();
    assert!(
        up.len() == n && dy.len() == n && dgate.len() == n && dup.len() == n,
        "silu_mul_backward: gate {n}, up {}, dy {}, dgate {}, dup {} elements",
        up.len(),
        dy.len(),
        dgate.len(),
        dup.len()
    );
    let step = rows_per_task(1);
    let (dgate, dup) = (Shared::new(dgate), Shared::new(dup));
    for_each(n.div_ceil(step), |task| {
        let range = task * step..n.min((task + 1) * step);
        // SAFETY: each task has its own range.
        let (dgate, dup) =
            unsafe { (dgate.slice(range.start, range.len()), dup.slice(range.start, range.len())) };
        backward(&gate[range.clone()], &up[range.clone()], &dy[range], dgate, dup);
    });
}

multiversion! {
    fn backward(gate: &[f32], up: &[f32], dy: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((&gate, &up), &dy), dgate), dup) in gate.iter().zip(up).zip(dy).zip(dgate).zip(dup) {
            let s = 1.0 / (1.0 + exp(-gate));
            *dgate = dy * up * s * gate.mul_add(1.0 - s, 1.0);
            *dup = dy * (gate * s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_near, noise};

    fn naive(gate: f64, up: f64) -> f64 {
        gate / (1.0 + (-gate).exp()) * up
    }

    #[test]
    fn equals_the_formula_on_every_instruction_set() {
        for n in [0, 1, 15, 17, 40_000] {
            let (gate, up) = (noise(n, 1).iter().map(|v| v * 20.0).collect::<Vec<_>>(), noise(n, 2));
            let y = forced::same_bits(|| {
                let mut y = vec![f32::NAN; n];
                silu_mul(&gate, &up, &mut y);
                y
            });
            let exact: Vec<f64> = gate.iter().zip(&up).map(|(&g, &u)| naive(g.into(), u.into())).collect();
            assert_near("silu_mul", &y, &exact, 1e-6);
        }
    }

    #[test]
    fn gradients_equal_finite_differences_and_survive_extremes() {
        let n = 20_000;
        let (gate, up, dy) =
            (noise(n, 3).iter().map(|v| v * 9.0).collect::<Vec<_>>(), noise(n, 4), noise(n, 5));
        let (mut dgate, mut dup) = (vec![f32::NAN; n], vec![f32::NAN; n]);
        silu_mul_backward(&gate, &up, &dy, &mut dgate, &mut dup);
        for i in (0..n).step_by(11) {
            let (g, u, d, e) = (f64::from(gate[i]), f64::from(up[i]), f64::from(dy[i]), 1e-5);
            assert_near("dgate", &dgate[i..=i], &[d * (naive(g + e, u) - naive(g - e, u)) / (2.0 * e)], 1e-5);
            assert_near("dup", &dup[i..=i], &[d * (naive(g, u + e) - naive(g, u - e)) / (2.0 * e)], 1e-5);
        }
        let (mut dgate, mut dup) = ([f32::NAN; 2], [f32::NAN; 2]);
        silu_mul_backward(&[-500.0, 500.0], &[1.0, 1.0], &[1.0, 1.0], &mut dgate, &mut dup);
        assert_eq!((dgate, dup), ([0.0, 1.0], [0.0, 500.0]));
    }
}
