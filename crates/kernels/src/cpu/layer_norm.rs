//! Layer normalisation (Ba et al. 2016, eq. 4) and its gradient.
#![allow(unsafe_code, reason = "threads write disjoint rows and columns of several outputs")]

use super::columns::column_sums;
use super::isa::multiversion;
use super::math::{dot, sum};
use super::norm::check_rows;
use super::parallel::{Shared, for_each, rows_per_task};

/// `y = (x − mean(x)) / √(var(x) + eps) · weight + bias`, row by row; the variance is that of the row itself, `Σ/d`.
///
/// # Shapes
/// - `x`, `y`: `[n, d]`; `weight`, `bias`: `[d]`
///
/// # Panics
/// When a slice does not have the length its shape says.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let d = weight.len();
    assert!(x.len() == y.len(), "layer_norm: x has {} elements, y {}", x.len(), y.len());
    assert!(bias.len() == d, "layer_norm: weight has {d} elements, bias {}", bias.len());
    check_rows("layer_norm", x, d);
    if x.is_empty() {
        return;
    }
    let step = rows_per_task(d) * d;
    let y = Shared::new(y);
    for_each(x.len().div_ceil(step), |task| {
        let x = &x[task * step..x.len().min((task + 1) * step)];
        // SAFETY: each task has its own rows.
        forward(x, weight, bias, eps, unsafe { y.slice(task * step, x.len()) });
    });
}

/// Writes a row without its mean and returns one over its deviation.
#[allow(clippy::inline_always, reason = "compiled into each instruction set's version of the caller")]
#[inline(always)]
fn centre(x: &[f32], eps: f32, centred: &mut [f32]) -> f32 {
    let d = x.len() as f32;
    let mean = sum(x) / d;
    for (centred, &x) in centred.iter_mut().zip(x) {
        *centred = x - mean;
    }
    // The squares of what is centred, and not a difference of means, which cancels.
    1.0 / (dot(centred, centred) / d + eps).sqrt()
}

multiversion! {
    fn forward(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
        let d = weight.len();
        for (x, y) in x.chunks_exact(d).zip(y.chunks_exact_mut(d)) {
            let scale = centre(x, eps, y);
            for ((y, &weight), &bias) in y.iter_mut().zip(weight).zip(bias) {
                *y = (*y * scale).mul_add(weight, bias);
            }
        }
    }
}

/// The gradients of [`layer_norm`] that are wanted; all are overwritten.
#[derive(Debug, Default)]
pub struct LayerNormGrads<'a> {
    /// Of the input, `[n, d]`.
    pub x: Option<&'a mut [f32]>,
    /// Of the weight, `[d]`.
    pub weight: Option<&'a mut [f32]>,
    /// Of the bias, `[d]`.
    pub bias: Option<&'a mut [f32]>,
}

/// Gradients of [`layer_norm`].
///
/// With `r = 1/√(var(x) + eps)`, `z = (x − mean(x))·r` and `g = weight·dy`: `dx = r·(g − mean(g) − z·mean(g·z))`,
/// `dweight = Σ_rows dy·z` and `dbias = Σ_rows dy`, the rows taken in order.
///
/// # Shapes
/// - `x`, `dy`: `[n, d]`; `weight`: `[d]`
///
/// # Panics
/// When a slice does not have the length its shape says.
pub fn layer_norm_backward(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], grads: LayerNormGrads<'_>) {
    let d = weight.len();
    assert!(x.len() == dy.len(), "layer_norm_backward: x has {} elements, dy {}", x.len(), dy.len());
    check_rows("layer_norm_backward", x, d);
    if let Some(dbias) = grads.bias {
        assert_eq!(dbias.len(), d, "layer_norm_backward: dbias has {} elements, weight {d}", dbias.len());
        column_sums(dy, dbias);
    }
    if let Some(dx) = grads.x {
        assert_eq!(dx.len(), x.len(), "layer_norm_backward: dx has {} elements, x {}", dx.len(), x.len());
        let step = rows_per_task(d) * d;
        let dx = Shared::new(dx);
        for_each(if x.is_empty() { 0 } else { x.len().div_ceil(step) }, |task| {
            let range = task * step..x.len().min((task + 1) * step);
            // SAFETY: each task has its own rows.
            let dx = unsafe { dx.slice(range.start, range.len()) };
            backward_x(&x[range.clone()], weight, eps, &dy[range], dx);
        });
    }
    if let Some(dweight) = grads.weight {
        assert_eq!(
            dweight.len(),
            d,
            "layer_norm_backward: dweight has {} elements, weight {d}",
            dweight.len()
        );
        dweight.fill(0.0);
        if x.is_empty() {
            return;
        }
        let mut products = vec![0.0; x.len()];
        let step = rows_per_task(d) * d;
        let shared = Shared::new(&mut products);
        for_each(x.len().div_ceil(step), |task| {
            let range = task * step..x.len().min((task + 1) * step);
            // SAFETY: each task has its own rows.
            let products = unsafe { shared.slice(range.start, range.len()) };
            normalised_products(&x[range.clone()], &dy[range], d, eps, products);
        });
        column_sums(&products, dweight);
    }
}

multiversion! {
    fn backward_x(x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
        let d = weight.len();
        let (mut z, mut g) = (vec![0.0; d], vec![0.0; d]);
        for ((x, dy), dx) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(dx.chunks_exact_mut(d)) {
            let scale = centre(x, eps, &mut z);
            for z in &mut z {
                *z *= scale;
            }
            for ((g, &dy), &weight) in g.iter_mut().zip(dy).zip(weight) {
                *g = weight * dy;
            }
            let (mean, along) = (sum(&g) / d as f32, dot(&g, &z) / d as f32);
            for ((dx, &g), &z) in dx.iter_mut().zip(&g).zip(&z) {
                *dx = scale * z.mul_add(-along, g - mean);
            }
        }
    }
}

multiversion! {
    /// `dy·z`, the terms of the weight's gradient.
    fn normalised_products(x: &[f32], dy: &[f32], d: usize, eps: f32, products: &mut [f32]) {
        for ((x, dy), products) in x.chunks_exact(d).zip(dy.chunks_exact(d)).zip(products.chunks_exact_mut(d)) {
            let scale = centre(x, eps, products);
            for (product, &dy) in products.iter_mut().zip(dy) {
                *product = *product * scale * dy;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, assert_near, noise};

    fn naive(x: &[f64], weight: &[f64], bias: &[f64], eps: f64) -> Vec<f64> {
        let d = weight.len();
        let row = |row: &[f64]| -> Vec<f64> {
            let mean = row.iter().sum::<f64>() / d as f64;
            let var = row.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / d as f64;
            let scale = 1.0 / (var + eps).sqrt();
            row.iter().zip(weight).zip(bias).map(|((v, w), b)| (v - mean) * scale * w + b).collect()
        };
        x.chunks(d).flat_map(row).collect()
    }

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&v| f64::from(v)).collect()
    }

    #[test]
    fn equals_the_formula_on_every_instruction_set_and_in_every_batch() {
        for (n, d) in [(0, 8), (1, 1), (3, 7), (5, 64), (200, 100), (70, 576)] {
            let (w, b) = (noise(d, 2), noise(d, 3));
            // Far from zero, where a variance by difference of means would have lost its digits.
            let x: Vec<f32> = noise(n * d, 1).iter().map(|v| v + 3.0).collect();
            let y = forced::same_bits(|| {
                let mut y = vec![f32::NAN; n * d];
                layer_norm(&x, &w, &b, 1e-5, &mut y);
                y
            });
            assert_near("layer_norm", &y, &naive(&wide(&x), &wide(&w), &wide(&b), 1e-5), 5e-6);
            for i in 0..n.min(3) {
                let mut alone = vec![0.0; d];
                layer_norm(&x[i * d..(i + 1) * d], &w, &b, 1e-5, &mut alone);
                assert_bits("row", &alone, &y[i * d..(i + 1) * d]);
            }
        }
    }

    #[test]
    fn gradients_equal_finite_differences() {
        for (n, d) in [(1, 3), (4, 33), (300, 65)] {
            let (x, w, b, dy) = (noise(n * d, 3), noise(d, 4), noise(d, 6), noise(n * d, 5));
            let all = forced::same_bits(|| {
                let (mut dx, mut dw, mut db) = (vec![f32::NAN; n * d], vec![f32::NAN; d], vec![f32::NAN; d]);
                let grads = LayerNormGrads { x: Some(&mut dx), weight: Some(&mut dw), bias: Some(&mut db) };
                layer_norm_backward(&x, &w, 1e-5, &dy, grads);
                dx.into_iter().chain(dw).chain(db).collect()
            });
            let (dx, rest) = all.split_at(n * d);
            let (dw, db) = rest.split_at(d);
            let (x, w, b, dy) = (wide(&x), wide(&w), wide(&b), wide(&dy));
            let loss = |x: &[f64], w: &[f64], b: &[f64], dy: &[f64]| {
                naive(x, w, b, 1e-5).iter().zip(dy).map(|(y, g)| y * g).sum::<f64>()
            };
            let moved = |values: &[f64], place: usize, by: f64| {
                let mut values = values.to_vec();
                values[place] += by;
                values
            };
            let step = 1e-6;
            for i in (0..n * d).step_by(7).take(40) {
                let row = i / d * d..(i / d + 1) * d;
                let part = |by: f64| loss(&moved(&x[row.clone()], i % d, by), &w, &b, &dy[row.clone()]);
                assert_near("dx", &dx[i..=i], &[(part(step) - part(-step)) / (2.0 * step)], 1e-4);
            }
            for j in (0..d).step_by(5) {
                let part = |by: f64| loss(&x, &moved(&w, j, by), &b, &dy);
                assert_near("dweight", &dw[j..=j], &[(part(step) - part(-step)) / (2.0 * step)], 1e-4);
                let part = |by: f64| loss(&x, &w, &moved(&b, j, by), &dy);
                assert_near("dbias", &db[j..=j], &[(part(step) - part(-step)) / (2.0 * step)], 1e-4);
            }
        }
    }
}
