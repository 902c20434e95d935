//! A product with a low-rank change that is trained, `y = x Wᵀ + s · (x Aᵀ) Bᵀ` (LoRA, arXiv 2106.09685, eq. 3): two thin products
//! onto the outputs of the whole one, and their gradients.
#![allow(unsafe_code, reason = "threads write disjoint columns of one output")]

use std::ops::Range;

use super::gemm::gemm_and;
use super::isa::Isa;
use super::low_rank;
use super::microkernel::{Ahead, Block, Lines, ROWS, strips};
use super::pack::{PANEL, Packed, STRIP};
use super::parallel::{Output, Shared};
use super::rows::Rows;
use super::split::Split;

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

/// Gradients of a product with a change, those that were wanted.
#[derive(Debug, Default)]
pub struct LoraGrads {
    /// Of `x`, `[n, in]`.
    pub x: Option<Vec<f32>>,
    /// Of `A`, `[r, in]`.
    pub a: Option<Vec<f32>>,
    /// Of `B`, `[out, r]`.
    pub b: Option<Vec<f32>>,
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

    /// The product of rows `x` with the weight and its change, `x Wᵀ + bias + s · (x Aᵀ) Bᵀ`, and `s · x Aᵀ`, which the gradient needs. The bits are
    /// those of [`add_low_rank`](super::add_low_rank) after [`gemm`](super::gemm).
    ///
    /// # Shapes
    /// - `x`: `[n, in]`; `weight`: `[in, out]`; `bias`: `[out]`; results: `[n, out]` and `[n, r]`
    ///
    /// # Panics
    /// When a slice or the weight does not have the shape said.
    pub fn product(
        &self,
        x: &[f32],
        n: usize,
        weight: &Packed,
        bias: Option<&[f32]>,
    ) -> (Vec<f32>, Vec<f32>) {
        let (inner, rank, out) = self.shape;
        self.check(n, x.len(), n * out);
        check_weight(weight, (inner, out));
        let low = low_rank::low(x, n, &Packed::from_out_in(self.a, rank, inner), self.scale);
        let b = Packed::from_out_in(self.b, out, rank);
        let change = (Rows::new(&low, (rank, 1), n), &b);
        (gemm_and(Rows::new(x, (inner, 1), n), weight, bias, Some(change)), low)
    }

    /// The gradients, of `x` and of `low` as [`Factors::product`] had and gave them. `back` is the weight for the way back, `[out, in]`, where the
    /// gradient of `x` is wanted; `wanted` says whether those of `A` and of `B` are.
    ///
    /// # Shapes
    /// - `x`: `[n, in]`; `low`: `[n, r]`; `dy`: `[n, out]`
    ///
    /// # Panics
    /// When a slice or the weight does not have the shape said.
    pub fn backward(
        &self,
        x: &[f32],
        low: &[f32],
        dy: &[f32],
        back: Option<&Packed>,
        wanted: [bool; 2],
    ) -> LoraGrads {
        let (inner, rank, out) = self.shape;
        let (n, [of_a, of_b]) = (low.len() / rank.max(1), wanted);
        self.check(n, x.len(), dy.len());
        if let Some(back) = back {
            check_weight(back, (out, inner));
        }
        let mut grads = LoraGrads::default();
        if of_b {
            // dB = dyᵀ·low, by its transpose, which is as wide as the rows of dy.
            let transposed = thin(low, rank, dy, out);
            grads.b = Some((0..out * rank).map(|at| transposed[at % rank * out + at / rank]).collect());
        }
        if back.is_some() || of_a {
            let dlow = low_rank::low(dy, n, &Packed::from_in_out(self.b, out, rank), self.scale);
            grads.a = of_a.then(|| thin(&dlow, rank, x, inner));
            grads.x = back.map(|back| {
                let a = Packed::from_in_out(self.a, rank, inner);
                let change = (Rows::new(&dlow, (rank, 1), n), &a);
                gemm_and(Rows::new(dy, (out, 1), n), back, None, Some(change))
            });
        }
        grads
    }
}

fn check_weight(weight: &Packed, (inner, columns): (usize, usize)) {
    assert_eq!(
        (weight.inner(), weight.columns()),
        (inner, columns),
        "lora: the weight's shape, against [{inner}, {columns}] of the factors"
    );
}

/// Rows that a task goes over for all ranks before it goes on: 32 KiB of a panel stay in the first cache.
const DEPTH: usize = 128;

/// `vᵀ·u` of a thin `v`, neither of them copied: each element is one chain of fused multiply-adds over the rows.
///
/// # Shapes
/// - `v`: `[n, rank]`; `u`: `[n, width]`; result: `[rank, width]`
fn thin(v: &[f32], rank: usize, u: &[f32], width: usize) -> Vec<f32> {
    let n = v.len() / rank.max(1);
    assert_eq!((v.len(), u.len()), (n * rank, n * width), "lora: rows of {rank} and of {width}");
    let mut y = Output::new(rank * width);
    let product = Thin { v, rank, u, width, n, y: y.shared(), isa: Isa::current() };
    Split::new(rank, n, width.div_ceil(PANEL)).run(|panel, ranks| {
        // SAFETY: each task has its own pair of panel and ranks, hence its own outputs.
        unsafe { product.panel(panel, ranks) };
    });
    // SAFETY: all ranks of all panels have been written.
    unsafe { y.written() }
}

/// What a task of [`thin`] needs.
struct Thin<'a> {
    v: &'a [f32],
    rank: usize,
    u: &'a [f32],
    width: usize,
    n: usize,
    y: Shared<'a>,
    isa: Isa,
}

impl Thin<'_> {
    /// Some ranks of the columns of a panel.
    ///
    /// # Safety
    /// They are those of the output, which no other thread touches there.
    unsafe fn panel(&self, panel: usize, ranks: Range<usize>) {
        let columns = panel * PANEL..self.width.min((panel + 1) * PANEL);
        let whole = columns.start + columns.len() / STRIP * STRIP;
        let mut k = 0;
        loop {
            let depth = DEPTH.min(self.n - k);
            let mut first = columns.start;
            while first < whole {
                let left = (whole - first) / STRIP;
                let wanted = strips(self.isa, Lines::Single, ranks.len(), left);
                let abreast = if wanted > left { 1 } else { wanted };
                let mut rank = ranks.start;
                let mut blocks = ranks.len().div_ceil(ROWS);
                let mut ahead = Ahead {
                    from: self.u.as_ptr().wrapping_add((k + depth) * self.width + first),
                    strips: if k + depth < self.n { abreast } else { 0 },
                    every: 1,
                };
                while rank < ranks.end {
                    let height = (ranks.end - rank).div_ceil(blocks);
                    blocks -= 1;
                    let block = Block {
                        x: self.v.as_ptr().wrapping_add(k * self.rank + rank),
                        row_stride: 1,
                        inner_stride: self.rank,
                        inner: depth,
                        lines: Lines::Single,
                        weights: self.u.as_ptr().wrapping_add(k * self.width + first),
                        line_stride: self.width,
                        strip_stride: STRIP,
                        strips: abreast,
                        scales: std::ptr::null(),
                        y: self.y.at(rank * self.width + first),
                        y_stride: self.width,
                        resume: k > 0,
                        ahead,
                    };
                    // SAFETY: `v` and `u` have these rows and columns, and the outputs are this task's, written at the first depth.
                    unsafe { block.run(self.isa, height) };
                    (rank, ahead) = (rank + height, Ahead::NONE);
                }
                first += abreast * STRIP;
            }
            k += depth;
            if k >= self.n {
                break;
            }
        }
        for rank in ranks {
            for column in whole..columns.end {
                let value = |row: usize| (self.v[row * self.rank + rank], self.u[row * self.width + column]);
                let sum = (0..self.n).map(value).fold(0.0_f32, |sum, (v, u)| v.mul_add(u, sum));
                // SAFETY: the outputs are this task's.
                unsafe { self.y.at(rank * self.width + column).write(sum) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, assert_near, noise};
    use crate::cpu::{LowRank, Precision, add_low_rank, gemm};
    use std::sync::Arc;

    fn exact(n: usize, m: usize, k: usize, f: impl Fn(usize, usize, usize) -> f64) -> Vec<f64> {
        (0..n * m).map(|at| (0..k).map(|p| f(at / m, at % m, p)).sum()).collect()
    }

    #[test]
    fn change_and_gradients_are_those_of_the_products() {
        for (n, inner, rank, out) in
            [(1, 1, 1, 1), (3, 5, 2, 17), (7, 33, 5, 70), (300, 90, 16, 130), (2, 16, 70, 32)]
        {
            let (x, a, b) = (noise(n * inner, 1), noise(rank * inner, 2), noise(out * rank, 3));
            let (weight, dy) = (noise(out * inner, 4), noise(n * out, 5));
            let packed = Packed::from_out_in(&weight, out, inner);
            let back = Packed::from_in_out(&weight, out, inner);
            let factors = Factors { a: &a, b: &b, scale: -0.5, shape: (inner, rank, out) };
            let at = |values: &[f32], index: usize| f64::from(values[index]);
            let low = exact(n, rank, inner, |i, r, k| -0.5 * at(&x, i * inner + k) * at(&a, r * inner + k));
            let dlow = exact(n, rank, out, |i, r, o| -0.5 * at(&dy, i * out + o) * at(&b, o * rank + r));
            let sum =
                |a: Vec<f64>, b: Vec<f64>| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a + b).collect() };
            let y = sum(
                exact(n, out, inner, |i, o, k| at(&x, i * inner + k) * at(&weight, o * inner + k)),
                exact(n, out, rank, |i, o, r| low[i * rank + r] * at(&b, o * rank + r)),
            );
            let dx = sum(
                exact(n, inner, out, |i, k, o| at(&dy, i * out + o) * at(&weight, o * inner + k)),
                exact(n, inner, rank, |i, k, r| dlow[i * rank + r] * at(&a, r * inner + k)),
            );
            let da = exact(rank, inner, n, |r, k, i| dlow[i * rank + r] * at(&x, i * inner + k));
            let db = exact(out, rank, n, |o, r, i| low[i * rank + r] * at(&dy, i * out + o));
            let got = forced::same_bits(|| {
                let (y, low) = factors.product(&x, n, &packed, None);
                let grads = factors.backward(&x, &low, &dy, Some(&back), [true; 2]);
                [Some(low), Some(y), grads.x, grads.a, grads.b].map(Option::unwrap_or_default).concat()
            });
            let want = [low, y, dx, da, db].concat();
            assert_near(&format!("{n} × {inner}, {rank}, {out}"), &got, &want, 1e-4);
            let nothing = factors.backward(&x, &[0.0].repeat(n * rank), &dy, None, [false; 2]);
            assert!(nothing.x.is_none() && nothing.a.is_none() && nothing.b.is_none());
        }
    }

    #[test]
    fn a_product_with_its_change_is_one_after_the_other_bit_for_bit() {
        for (n, inner, rank, out) in [(1, 3, 1, 2), (7, 33, 5, 70), (300, 90, 16, 130), (130, 700, 32, 200)] {
            let (x, a, b) = (noise(n * inner, 1), noise(rank * inner, 2), noise(out * rank, 3));
            let (weight, bias) = (noise(out * inner, 4), noise(out, 5));
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                let packed = Packed::from_out_in(&weight, out, inner).with_precision(precision);
                let factors = Factors { a: &a, b: &b, scale: 0.3, shape: (inner, rank, out) };
                let mut want = vec![0.0; n * out];
                gemm(&x, (inner, 1), n, &packed, Some(&bias), &mut want);
                let change = LowRank {
                    rows: 0..n,
                    a: Arc::new(Packed::from_out_in(&a, rank, inner)),
                    b: Arc::new(Packed::from_out_in(&b, out, rank)),
                    scale: 0.3,
                };
                add_low_rank(&x, n, &[change], &mut want);
                let (got, _) = factors.product(&x, n, &packed, Some(&bias));
                assert_bits(&format!("{n} × {inner}, {rank}, {out} in {precision:?}"), &got, &want);
            }
        }
    }

    #[test]
    fn a_thin_product_is_the_chain_of_the_general_one() {
        for (n, rank, width) in
            [(0, 2, 3), (1, 1, 1), (700, 7, 50), (513, 16, 64), (40, 70, 33), (300, 16, 576), (129, 3, 176)]
        {
            let (v, u) = (noise(n * rank, 1), noise(n * width, 2));
            let mut want = vec![0.0; rank * width];
            gemm(&v, (1, rank), rank, &Packed::from_in_out(&u, n, width), None, &mut want);
            let got = forced::same_bits(|| thin(&v, rank, &u, width));
            assert_bits(&format!("{n}, {rank}, {width}"), &got, &want);
        }
    }

    #[test]
    #[should_panic(expected = "x has 3 and y 2 elements")]
    fn shapes_that_disagree_are_refused() {
        let factors = Factors { a: &[0.0; 2], b: &[0.0; 2], scale: 1.0, shape: (2, 1, 2) };
        let packed = Packed::from_out_in(&[0.0; 4], 2, 2);
        let _ = factors.product(&[0.0; 3], 1, &packed, None);
    }
    #[test]
    #[should_panic(expected = "the weight's shape, against [2, 2] of the factors")]
    fn a_weight_of_another_shape_is_refused() {
        let factors = Factors { a: &[0.0; 2], b: &[0.0; 2], scale: 1.0, shape: (2, 1, 2) };
        let packed = Packed::from_out_in(&[0.0; 6], 2, 3);
        let _ = factors.product(&[0.0; 2], 1, &packed, None);
    }
}
