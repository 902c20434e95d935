//! Root-mean-square normalisation (Zhang & Sennrich 2019, eq. 4) and its gradient.
#![allow(unsafe_code, reason = "threads write disjoint rows of two outputs")]

use super::isa::multiversion;
use super::math::{dot, sum};
use super::parallel::{Shared, for_each, rows_per_task};

/// `y = x / √(mean(x²) + eps) · weight`, row by row.
///
/// # Shapes
/// - `x`, `y`: `[n, d]`; `weight`: `[d]`
///
/// # Panics
/// When a slice does not have the length its shape says.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    let d = weight.len();
    assert!(x.len() == y.len(), "rms_norm: x has {} elements, y {}", x.len(), y.len());
    check_rows("rms_norm", x, d);
    if x.is_empty() {
        return;
    }
    let step = rows_per_task(d) * d;
    let y = Shared::new(y);
    for_each(x.len().div_ceil(step), |task| {
        let x = &x[task * step..x.len().min((task + 1) * step)];
        // SAFETY: each task has its own rows.
        forward(x, weight, eps, unsafe { y.slice(task * step, x.len()) });
    });
}

/// Refuses elements that are no rows of `d`.
pub(super) fn check_rows(what: &str, x: &[f32], d: usize) {
    assert!(
        d == 0 && x.is_empty() || d > 0 && x.len().is_multiple_of(d),
        "{what}: {} elements in rows of {d}",
        x.len()
    );
}

multiversion! {
    fn forward(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
        let d = weight.len();
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let scale = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            for ((y, &x), &weight) in y.iter_mut().zip(x).zip(weight) {
                *y = x * scale * weight;
            }
        }
    }
}

/// Gradients of [`rms_norm`]: `dx` where it is wanted, `dweight` where it is wanted; both are overwritten.
///
/// With `r = 1/√(mean(x²) + eps)`: `dx = r·(weight·dy) − x·r³/d·Σ(weight·dy·x)` and `dweight = Σ_rows dy·x·r`, the
/// rows taken in order.
///
/// # Shapes
/// - `x`, `dy`, `dx`: `[n, d]`; `weight`, `dweight`: `[d]`
///
/// # Panics
/// When a slice does not have the length its shape says.
pub fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &[f32],
    dx: Option<&mut [f32]>,
    dweight: Option<&mut [f32]>,
) {
    let d = weight.len();
    assert!(x.len() == dy.len(), "rms_norm_backward: x has {} elements, dy {}", x.len(), dy.len());
    check_rows("rms_norm_backward", x, d);
    if x.is_empty() {
        if let Some(dweight) = dweight {
            dweight.fill(0.0);
        }
        return;
    }
    let n = x.len() / d;
    let rows = rows_per_task(d);
    if let Some(dx) = dx {
        assert_eq!(dx.len(), x.len(), "rms_norm_backward: dx has {} elements, x {}", dx.len(), x.len());
        let dx = Shared::new(dx);
        for_each(n.div_ceil(rows), |task| {
            let range = task * rows * d..n.min((task + 1) * rows) * d;
            // SAFETY: each task has its own rows.
            let dx = unsafe { dx.slice(range.start, range.len()) };
            backward_x(&x[range.clone()], weight, eps, &dy[range], dx);
        });
    }
    if let Some(dweight) = dweight {
        assert_eq!(dweight.len(), d, "rms_norm_backward: dweight has {} elements, weight {d}", dweight.len());
        let mut scales = vec![0.0; n];
        row_scales(x, d, eps, &mut scales);
        // Columns are split, never rows: every sum over rows stays one chain.
        let width = 64;
        let dweight = Shared::new(dweight);
        let tasks = if x.len() < 16 * 1024 { 1 } else { d.div_ceil(width) };
        let width = if tasks == 1 { d } else { width };
        for_each(tasks, |task| {
            let first = task * width;
            let width = width.min(d - first);
            // SAFETY: each task has its own columns.
            backward_weight(x, dy, &scales, d, first, unsafe { dweight.slice(first, width) });
        });
    }
}

multiversion! {
    fn row_scales(x: &[f32], d: usize, eps: f32, scales: &mut [f32]) {
        for (x, scale) in x.chunks_exact(d).zip(scales) {
            *scale = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
        }
    }
}

multiversion! {
    fn backward_x(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
        let d = weight.len();
        for ((x, dy), dx) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let scale = 1.0 / (dot(x, x) / d as f32 + eps).sqrt();
            for (((dx, &x), &dy), &weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                *dx = weight * dy * x;
            }
            let shared = sum(dx) * scale * scale * scale / d as f32;
            for (((dx, &x), &dy), &weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                *dx = (weight * dy).mul_add(scale, -(x * shared));
            }
        }
    }
}

multiversion! {
    fn backward_weight(x: &[f32], dy: &[f32], scales: &[f32], d: usize, first: usize, dweight: &mut [f32]) {
        dweight.fill(0.0);
        let width = dweight.len();
        for ((x, dy), &scale) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(scales) {
            let (x, dy) = (&x[first..first + width], &dy[first..first + width]);
            for ((sum, &x), &dy) in dweight.iter_mut().zip(x).zip(dy) {
                *sum = (dy * x).mul_add(scale, *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, assert_near, noise};

    fn naive(x: &[f64], weight: &[f64], eps: f64) -> Vec<f64> {
        let d = weight.len();
        x.chunks(d)
            .flat_map(|row| {
                let scale = 1.0 / (row.iter().map(|v| v * v).sum::<f64>() / d as f64 + eps).sqrt();
                row.iter().zip(weight).map(move |(v, w)| v * scale * w).collect::<Vec<_>>()
            })
            .collect()
    }

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&v| f64::from(v)).collect()
    }

    #[test]
    fn equals_the_formula_on_every_instruction_set_and_in_every_batch() {
        for (n, d) in [(0, 8), (1, 1), (3, 7), (5, 64), (200, 100), (70, 576)] {
            let (x, w) = (noise(n * d, 1), noise(d, 2));
            let y = forced::same_bits(|| {
                let mut y = vec![f32::NAN; n * d];
                rms_norm(&x, &w, 1e-5, &mut y);
                y
            });
            assert_near("rms_norm", &y, &naive(&wide(&x), &wide(&w), 1e-5), 2e-6);
            for i in 0..n.min(3) {
                let mut alone = vec![0.0; d];
                rms_norm(&x[i * d..(i + 1) * d], &w, 1e-5, &mut alone);
                assert_bits("row", &alone, &y[i * d..(i + 1) * d]);
            }
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        for (n, d) in [(1, 3), (4, 33), (300, 65)] {
            let (x, w, dy) = (noise(n * d, 3), noise(d, 4), noise(n * d, 5));
            let both = forced::same_bits(|| {
                let (mut dx, mut dw) = (vec![f32::NAN; n * d], vec![f32::NAN; d]);
                rms_norm_backward(&x, &w, 1e-5, &dy, Some(&mut dx), Some(&mut dw));
                dx.into_iter().chain(dw).collect()
            });
            let (dx, dw) = both.split_at(n * d);
            let (x, w, dy) = (wide(&x), wide(&w), wide(&dy));
            let loss =
                |x: &[f64], w: &[f64]| naive(x, w, 1e-5).iter().zip(&dy).map(|(y, g)| y * g).sum::<f64>();
            let step = 1e-6;
            for i in (0..n * d).step_by(7).take(40) {
                let row = i / d * d..(i / d + 1) * d;
                let part = |delta: f64| {
                    let mut x = x[row.clone()].to_vec();
                    x[i % d] += delta;
                    naive(&x, &w, 1e-5).iter().zip(&dy[row.clone()]).map(|(y, g)| y * g).sum::<f64>()
                };
                assert_near("dx", &dx[i..=i], &[(part(step) - part(-step)) / (2.0 * step)], 1e-4);
            }
            for j in (0..d).step_by(5) {
                let part = |delta: f64| {
                    let mut w = w.clone();
                    w[j] += delta;
                    loss(&x, &w)
                };
                assert_near("dweight", &dw[j..=j], &[(part(step) - part(-step)) / (2.0 * step)], 1e-4);
            }
        }
    }
}
