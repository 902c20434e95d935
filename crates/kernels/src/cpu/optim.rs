//! The passes of AdamW (Loshchilov & Hutter 2019, algorithm 2) over flat parameters, and the norm of a gradient.
#![allow(unsafe_code, reason = "threads write disjoint parts of an output")]

use super::isa::multiversion;
use super::math::LANES;
use super::parallel::{Shared, for_each};

/// Elements of a task: its operands stay in the second cache.
const TASK: usize = 64 * 1024;

/// What [`adamw`] needs besides the moments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamStep {
    /// Learning rate divided by the bias correction `1 − β₁ᵗ` of the mean.
    pub rate: f64,
    /// Bias correction `1 − β₂ᵗ` of the mean of squares.
    pub correction: f64,
    /// Added to the root.
    pub eps: f64,
    /// Factor of the parameter before the step: `1 − lr·weight decay`.
    pub decay: f64,
}

/// `mean ← β·mean + (1 − β)·x`, or of `x²` if `squared`.
///
/// # Panics
/// When the lengths differ.
pub fn ema(mean: &mut [f32], x: &[f32], beta: f64, squared: bool) {
    let n = mean.len();
    assert_eq!(x.len(), n, "ema: x {}, mean {n} elements", x.len());
    let (beta, rest) = (beta as f32, (1.0 - beta) as f32);
    let mean = Shared::new(mean);
    for_each(n.div_ceil(TASK), |task| {
        let range = task * TASK..n.min((task + 1) * TASK);
        // SAFETY: each task has its own range.
        let mean = unsafe { mean.slice(range.start, range.len()) };
        if squared {
            ema_of_squares(mean, &x[range], beta, rest);
        } else {
            ema_of(mean, &x[range], beta, rest);
        }
    });
}

multiversion! {
    fn ema_of(mean: &mut [f32], x: &[f32], beta: f32, rest: f32) {
        for (mean, x) in mean.iter_mut().zip(x) {
            *mean = *mean * beta + x * rest;
        }
    }
}

multiversion! {
    fn ema_of_squares(mean: &mut [f32], x: &[f32], beta: f32, rest: f32) {
        for (mean, x) in mean.iter_mut().zip(x) {
            *mean = *mean * beta + x * x * rest;
        }
    }
}

/// `p ← p·decay − rate · mean / (√(square / correction) + eps)`.
///
/// # Panics
/// When the lengths differ.
pub fn adamw(p: &mut [f32], mean: &[f32], square: &[f32], step: AdamStep) {
    let n = p.len();
    assert!(
        mean.len() == n && square.len() == n,
        "adamw: p {n}, mean {}, square {} elements",
        mean.len(),
        square.len()
    );
    let p = Shared::new(p);
    let [rate, root, eps, decay] =
        [step.rate, step.correction.sqrt().recip(), step.eps, step.decay].map(|x| x as f32);
    for_each(n.div_ceil(TASK), |task| {
        let range = task * TASK..n.min((task + 1) * TASK);
        // SAFETY: each task has its own range.
        let p = unsafe { p.slice(range.start, range.len()) };
        apply(p, &mean[range.clone()], &square[range], rate, root, eps, decay);
    });
}

multiversion! {
    fn apply(p: &mut [f32], mean: &[f32], square: &[f32], rate: f32, root: f32, eps: f32, decay: f32) {
        for ((p, mean), square) in p.iter_mut().zip(mean).zip(square) {
            *p = *p * decay - rate * (mean / (square.sqrt() * root + eps));
        }
    }
}

/// `x ← x·factor`.
pub fn scale(x: &mut [f32], factor: f64) {
    let n = x.len();
    let x = Shared::new(x);
    for_each(n.div_ceil(TASK), |task| {
        let range = task * TASK..n.min((task + 1) * TASK);
        // SAFETY: each task has its own range.
        let x = unsafe { x.slice(range.start, range.len()) };
        for x in x {
            *x *= factor as f32;
        }
    });
}

/// `Σ x²`, summed in `f64` over tasks of fixed size in their order: the number of threads does not change it.
pub fn sum_of_squares(x: &[f32]) -> f64 {
    let mut parts = vec![0.0_f32; x.len().div_ceil(TASK)];
    let shared = Shared::new(&mut parts);
    for_each(x.len().div_ceil(TASK), |task| {
        let range = task * TASK..x.len().min((task + 1) * TASK);
        // SAFETY: each task has its own element.
        let part = unsafe { shared.slice(task, 1) };
        part[0] = squares(&x[range]);
    });
    parts.into_iter().map(f64::from).sum()
}

multiversion! {
    fn squares(x: &[f32]) -> f32 {
        let mut sums = [0.0_f32; LANES];
        let mut chunks = x.chunks_exact(LANES);
        for chunk in &mut chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum = x.mul_add(*x, *sum);
            }
        }
        for (sum, x) in sums.iter_mut().zip(chunks.remainder()) {
            *sum = x.mul_add(*x, *sum);
        }
        sums.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_near, noise};

    const SIZES: [usize; 5] = [0, 1, 17, TASK, 3 * TASK + 5];

    #[test]
    fn a_step_equals_the_formulas_on_every_instruction_set() {
        let step = AdamStep { rate: 0.02, correction: 0.1, eps: 1e-8, decay: 0.99 };
        for n in SIZES {
            let (p, m, v, g) = (noise(n, 1), noise(n, 2), noise(n, 3), noise(n, 4));
            let v: Vec<f32> = v.iter().map(|v| v * v).collect();
            let out = forced::same_bits(|| {
                let (mut p, mut m, mut v) = (p.clone(), m.clone(), v.clone());
                ema(&mut m, &g, 0.9, false);
                ema(&mut v, &g, 0.99, true);
                adamw(&mut p, &m, &v, step);
                [p, m, v].concat()
            });
            let wide = |x: &[f32]| x.iter().map(|x| f64::from(*x)).collect::<Vec<f64>>();
            let (p, m, v, g) = (wide(&p), wide(&m), wide(&v), wide(&g));
            let m: Vec<f64> = m.iter().zip(&g).map(|(m, g)| 0.9 * m + 0.1 * g).collect();
            let v: Vec<f64> = v.iter().zip(&g).map(|(v, g)| 0.99 * v + 0.01 * g * g).collect();
            let p: Vec<f64> = (0..n)
                .map(|i| p[i] * step.decay - step.rate * m[i] / ((v[i] / step.correction).sqrt() + step.eps))
                .collect();
            assert_near("adamw", &out, &[p, m, v].concat(), 1e-4);
        }
    }

    #[test]
    fn norms_equal_the_sum_on_every_instruction_set() {
        for n in SIZES {
            let x = noise(n, 5);
            let exact: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            let got = forced::same_bits(|| vec![sum_of_squares(&x) as f32]);
            assert!((f64::from(got[0]) - exact).abs() <= 1e-5 * exact, "{n}: {} against {exact}", got[0]);
            let mut scaled = x.clone();
            scale(&mut scaled, 0.5);
            assert!(scaled.iter().zip(&x).all(|(scaled, x)| *scaled == 0.5 * x));
        }
    }
}
