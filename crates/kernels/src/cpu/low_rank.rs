//! What adapters add to a product: low-rank maps, each of its own rows.

use std::ops::Range;
use std::sync::Arc;

use super::gemm::{gemm_new, gemm_onto};
use super::optim::scale;
use super::pack::Packed;

/// The change `scale · (x Aᵀ) Bᵀ` of some rows (LoRA, arXiv 2106.09685, eq. 3).
#[derive(Clone, Debug)]
pub struct LowRank {
    /// The rows that it changes.
    pub rows: Range<usize>,
    /// `A`, `[r, in]`.
    pub a: Arc<Packed>,
    /// `B`, `[out, r]`.
    pub b: Arc<Packed>,
    /// The factor.
    pub scale: f32,
}

/// Adds the changes to `y`; rows without one stay as they are.
///
/// # Shapes
/// - `x`: `[n, in]`; `y`: `[n, out]`
///
/// # Panics
/// When a slice or a factor does not have the length its shape says, or rows are beyond `n`.
pub fn add_low_rank(x: &[f32], n: usize, changes: &[LowRank], y: &mut [f32]) {
    for LowRank { rows, a, b, scale } in changes {
        let (inner, rank, out) = (a.inner(), a.columns(), b.columns());
        assert!(
            x.len() == n * inner && y.len() == n * out && b.inner() == rank && rows.end <= n,
            "add_low_rank: x has {} and y {} elements for {n} rows; A [{rank}, {inner}], B [{out}, {}], rows {rows:?}",
            x.len(),
            y.len(),
            b.inner()
        );
        let (x, y) = (&x[rows.start * inner..rows.end * inner], &mut y[rows.start * out..rows.end * out]);
        // The chains of multiply-adds of `y` go on over the rank.
        gemm_onto(&low(x, rows.len(), a, *scale), (rank, 1), rows.len(), b, y);
    }
}

/// `s · x Aᵀ` of `n` rows.
pub(super) fn low(x: &[f32], n: usize, a: &Packed, factor: f32) -> Vec<f32> {
    let mut low = gemm_new(x, (a.inner(), 1), n, a, None);
    scale(&mut low, f64::from(factor));
    low
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_near, noise};

    #[test]
    fn each_change_meets_its_rows_alone() {
        for (n, inner, out, rank) in [(1, 3, 2, 1), (7, 33, 70, 5), (20, 90, 130, 16)] {
            let (x, start) = (noise(n * inner, 1), noise(n * out, 2));
            let (a, b) = (noise(rank * inner, 3), noise(out * rank, 4));
            let (other_a, other_b) = (noise(2 * inner, 5), noise(out * 2, 6));
            let half = n / 2;
            let change = |rows: Range<usize>, (a, b, rank): (&[f32], &[f32], usize), scale: f32| LowRank {
                rows,
                a: Arc::new(Packed::from_out_in(a, rank, inner)),
                b: Arc::new(Packed::from_out_in(b, out, rank)),
                scale,
            };
            let changes =
                [change(0..half, (&a, &b, rank), 0.5), change(half..n - 1, (&other_a, &other_b, 2), -2.0)];
            let got = forced::same_bits(|| {
                let mut y = start.clone();
                add_low_rank(&x, n, &changes, &mut y);
                y
            });
            let value = |values: &[f32], at: usize| f64::from(values[at]);
            let exact = |row: usize, column: usize| {
                let (a, b, rank, scale) = match row {
                    _ if row < half => (&a, &b, rank, 0.5),
                    _ if row < n - 1 => (&other_a, &other_b, 2, -2.0),
                    _ => return value(&start, row * out + column),
                };
                let low = |r: usize| -> f64 {
                    (0..inner).map(|k| value(&x, row * inner + k) * value(a, r * inner + k)).sum()
                };
                let sum: f64 = (0..rank).map(|r| low(r) * value(b, column * rank + r)).sum();
                value(&start, row * out + column) + scale * sum
            };
            let exact: Vec<f64> = (0..n * out).map(|at| exact(at / out, at % out)).collect();
            assert_near("low rank", &got, &exact, 1e-4);
        }
    }

    #[test]
    #[should_panic(expected = "rows 1..3")]
    fn rows_beyond_the_last_are_refused() {
        let packed = Arc::new(Packed::from_out_in(&[1.0], 1, 1));
        let change = LowRank { rows: 1..3, a: packed.clone(), b: packed, scale: 1.0 };
        add_low_rank(&[0.0; 2], 2, &[change], &mut [0.0; 2]);
    }
}
