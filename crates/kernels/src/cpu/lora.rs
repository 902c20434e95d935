//! A product with a low-rank change that is trained, `y = x Wᵀ + s · (x Aᵀ) Bᵀ` (LoRA, arXiv 2106.09685, eq. 3): two thin products
//! onto the outputs of the whole one, and their gradients.

use super::gemm::{gemm, gemm_onto};
use super::isa::multiversion;
use super::low_rank;
use super::optim::scale;
use super::pack::Packed;
use super::parallel::{Shared, for_each};

/// The factors of a change.
#[derive(Clone, Copy, Debug)]
pub struct Factors<'f> {
    /// `A`, `[r, in]`.
    pub a: &'f [f32],
    /// `B`, `[out, r]`.
    pub b: &'f [f32],
    /// `s`.
    pub scale: f32,
    /// `(in, r, out)`.
    pub shape: (usize, usize, usize),
}

/// Gradients of the factors, and of what they are applied to; each is wanted or not.
#[derive(Debug, Default)]
pub struct LoraGrads<'g> {
    /// `[n, in]`: the change's part is added to what it holds.
    pub x: Option<&'g mut [f32]>,
    /// `[r, in]`, overwritten.
    pub a: Option<&'g mut [f32]>,
    /// `[out, r]`, overwritten.
    pub b: Option<&'g mut [f32]>,
}

impl Factors<'_> {
    fn check(&self, n: usize, x: usize, y: usize) {
        let (inner, rank, out) = self.shape;
        assert!(
            (x, y) == (n * inner, n * out) && (self.a.len(), self.b.len()) == (rank * inner, out * rank),
            "lora: x has {x} and y {y} elements for [n {n}, in {inner}, out {out}], A {} and B {} for [r {rank}]",
            self.a.len(),
            self.b.len()
        );
    }

    /// Adds the change to the products `y` of rows `x`, and gives `s · x Aᵀ`, which the gradient needs. The bits are those of
    /// [`add_low_rank`](super::add_low_rank).
    ///
    /// # Shapes
    /// - `x`: `[n, in]`; `y`: `[n, out]`; result: `[n, r]`
    ///
    /// # Panics
    /// When a slice does not have the length its shape says.
    pub fn add(&self, x: &[f32], n: usize, y: &mut [f32]) -> Vec<f32> {
        self.check(n, x.len(), y.len());
        let (inner, rank, out) = self.shape;
        let (a, b) = (Packed::from_out_in(self.a, rank, inner), Packed::from_out_in(self.b, out, rank));
        low_rank::add(x, n, (&a, &b), self.scale, y)
    }

    /// The gradients, of `x` and of `low` as [`Factors::add`] had and gave them.
    ///
    /// # Shapes
    /// - `x`: `[n, in]`; `low`: `[n, r]`; `dy`: `[n, out]`
    ///
    /// # Panics
    /// When a slice does not have the length its shape says.
    pub fn backward(&self, x: &[f32], low: &[f32], dy: &[f32], grads: LoraGrads<'_>) {
        let (inner, rank, out) = self.shape;
        let n = low.len() / rank.max(1);
        self.check(n, x.len(), dy.len());
        if let Some(db) = grads.b {
            // dB = dyᵀ·low, by its transpose, which is as wide as the rows of dy.
            let mut transposed = vec![0.0; out * rank];
            thin(low, rank, dy, out, &mut transposed);
            for (o, row) in db.chunks_exact_mut(rank.max(1)).enumerate() {
                for (r, value) in row.iter_mut().enumerate() {
                    *value = transposed[r * out + o];
                }
            }
        }
        if grads.x.is_none() && grads.a.is_none() {
            return;
        }
        let mut dlow = vec![0.0; n * rank];
        gemm(dy, (out, 1), n, &Packed::from_in_out(self.b, out, rank), None, &mut dlow);
        scale(&mut dlow, f64::from(self.scale));
        if let Some(da) = grads.a {
            thin(&dlow, rank, x, inner, da);
        }
        if let Some(dx) = grads.x {
            gemm_onto(&dlow, (rank, 1), n, &Packed::from_in_out(self.a, rank, inner), dx);
        }
    }
}

/// Columns of a task of [`thin`]: a cache line of each row.
const COLUMNS: usize = 16;
/// Rows of the result that are in registers together.
const RANKS: usize = 4;
/// Rows that a task goes over for all ranks before it goes on: 16 KB of columns stay in the first cache.
const ROWS: usize = 256;

/// `y = vᵀ·u` of a thin `v`, neither of them copied: each element is one chain of fused multiply-adds over the rows.
///
/// # Shapes
/// - `v`: `[n, rank]`; `u`: `[n, width]`; `y`: `[rank, width]`, overwritten
fn thin(v: &[f32], rank: usize, u: &[f32], width: usize, y: &mut [f32]) {
    assert_eq!(y.len(), rank * width, "lora: a gradient has {} elements for [{rank}, {width}]", y.len());
    if y.is_empty() {
        return;
    }
    let y = Shared::new(y);
    for_each(width.div_ceil(COLUMNS), |task| {
        let first = task * COLUMNS;
        let count = COLUMNS.min(width - first);
        let mut sums = vec![[0.0; COLUMNS]; rank.next_multiple_of(RANKS)];
        if count == COLUMNS {
            columns(v, rank, u, (width, first), &mut sums);
        } else {
            narrow_columns(v, rank, u, (width, first), &mut sums);
        }
        for (r, sums) in sums[..rank].iter().enumerate() {
            #[allow(unsafe_code, reason = "threads write disjoint columns of one output")]
            // SAFETY: each column belongs to one task.
            let y = unsafe { y.slice(r * width + first, count) };
            y.copy_from_slice(&sums[..count]);
        }
    });
}

multiversion! {
    /// The sums of [`COLUMNS`] columns of `u`, `[n, width]`, from `first` on: `place` is both.
    fn columns(v: &[f32], rank: usize, u: &[f32], place: (usize, usize), sums: &mut [[f32; COLUMNS]]) {
        let (width, first) = place;
        for (u, v) in u.chunks(ROWS * width).zip(v.chunks(ROWS * rank)) {
            for (block, sums) in sums.as_chunks_mut::<RANKS>().0.iter_mut().enumerate() {
                let r = block * RANKS;
                if r + RANKS <= rank {
                    let mut held = *sums;
                    for (u, v) in u.chunks_exact(width).zip(v.chunks_exact(rank)) {
                        let (Some(u), Some(v)) =
                            (u[first..].first_chunk::<COLUMNS>(), v[r..].first_chunk::<RANKS>())
                        else {
                            continue;
                        };
                        for (sums, v) in held.iter_mut().zip(v) {
                            for (sum, u) in sums.iter_mut().zip(u) {
                                *sum = v.mul_add(*u, *sum);
                            }
                        }
                    }
                    *sums = held;
                } else {
                    for (u, v) in u.chunks_exact(width).zip(v.chunks_exact(rank)) {
                        for (sums, v) in sums.iter_mut().zip(&v[r..]) {
                            for (sum, u) in sums.iter_mut().zip(&u[first..]) {
                                *sum = v.mul_add(*u, *sum);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The sums of the last columns of `u`, fewer than [`COLUMNS`].
fn narrow_columns(
    v: &[f32],
    rank: usize,
    u: &[f32],
    (width, first): (usize, usize),
    sums: &mut [[f32; COLUMNS]],
) {
    for (u, v) in u.chunks_exact(width).zip(v.chunks_exact(rank)) {
        for (sums, v) in sums.iter_mut().zip(v) {
            for (sum, u) in sums.iter_mut().zip(&u[first..]) {
                *sum = v.mul_add(*u, *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, assert_near, noise};

    fn exact(n: usize, m: usize, k: usize, f: impl Fn(usize, usize, usize) -> f64) -> Vec<f64> {
        (0..n * m).map(|at| (0..k).map(|p| f(at / m, at % m, p)).sum()).collect()
    }

    #[test]
    fn change_and_gradients_are_those_of_the_products() {
        for (n, inner, rank, out) in
            [(1, 1, 1, 1), (3, 5, 2, 17), (7, 33, 5, 70), (300, 90, 16, 130), (2, 16, 70, 32)]
        {
            let (x, a, b) = (noise(n * inner, 1), noise(rank * inner, 2), noise(out * rank, 3));
            let (start, dy, dx_start) = (noise(n * out, 4), noise(n * out, 5), noise(n * inner, 6));
            let factors = Factors { a: &a, b: &b, scale: -0.5, shape: (inner, rank, out) };
            let at = |values: &[f32], index: usize| f64::from(values[index]);
            let low = exact(n, rank, inner, |i, r, k| -0.5 * at(&x, i * inner + k) * at(&a, r * inner + k));
            let dlow = exact(n, rank, out, |i, r, o| -0.5 * at(&dy, i * out + o) * at(&b, o * rank + r));
            let plus = |start: &[f32], change: Vec<f64>| -> Vec<f64> {
                start.iter().zip(change).map(|(start, change)| f64::from(*start) + change).collect()
            };
            let y = plus(&start, exact(n, out, rank, |i, o, r| low[i * rank + r] * at(&b, o * rank + r)));
            let dx =
                plus(&dx_start, exact(n, inner, rank, |i, k, r| dlow[i * rank + r] * at(&a, r * inner + k)));
            let da = exact(rank, inner, n, |r, k, i| dlow[i * rank + r] * at(&x, i * inner + k));
            let db = exact(out, rank, n, |o, r, i| low[i * rank + r] * at(&dy, i * out + o));
            let got = forced::same_bits(|| {
                let mut y = start.clone();
                let low = factors.add(&x, n, &mut y);
                let (mut dx, mut da, mut db) =
                    (dx_start.clone(), vec![f32::NAN; rank * inner], vec![f32::NAN; out * rank]);
                let grads = LoraGrads { x: Some(&mut dx), a: Some(&mut da), b: Some(&mut db) };
                factors.backward(&x, &low, &dy, grads);
                [low, y, dx, da, db].concat()
            });
            let want = [low, y, dx, da, db].concat();
            assert_near(&format!("{n} × {inner}, {rank}, {out}"), &got, &want, 1e-4);
        }
    }

    #[test]
    fn a_thin_product_is_the_chain_of_the_general_one() {
        for (n, rank, width) in [(1, 1, 1), (700, 7, 50), (513, 16, 64), (40, 70, 33)] {
            let (v, u) = (noise(n * rank, 1), noise(n * width, 2));
            let mut want = vec![0.0; rank * width];
            gemm(&v, (1, rank), rank, &Packed::from_in_out(&u, n, width), None, &mut want);
            let got = forced::same_bits(|| {
                let mut y = vec![f32::NAN; rank * width];
                thin(&v, rank, &u, width, &mut y);
                y
            });
            assert_bits(&format!("{n}, {rank}, {width}"), &got, &want);
        }
    }

    #[test]
    #[should_panic(expected = "x has 3 and y 2 elements")]
    fn shapes_that_disagree_are_refused() {
        let factors = Factors { a: &[0.0; 2], b: &[0.0; 2], scale: 1.0, shape: (2, 1, 2) };
        let _ = factors.add(&[0.0; 3], 1, &mut [0.0; 2]);
    }
}
