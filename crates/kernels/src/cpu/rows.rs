//! The left operand of the matrix product, as weights want it.
#![allow(unsafe_code, reason = "threads write disjoint rows of one output")]

use super::microkernel::ROWS;
use super::pack::Packed;
use super::pairs::{rows_in_pairs, words};
use super::parallel::{Output, Shared, for_each, rows_per_task};

/// Rows of the left operand, read with strides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    /// The elements: `(i, k)` is `data[i·strides.0 + k·strides.1]`.
    pub data: &'a [f32],
    /// Distance between rows, and between inner indices.
    pub strides: (usize, usize),
    /// Number of rows.
    pub count: usize,
    /// Whether rows lie in groups of [`ROWS`], each group's elements of an inner index side by side: `(i, k)` is then
    /// `data[(i − i mod ROWS)·strides.0 + k·strides.1 + i mod ROWS]`.
    pub grouped: bool,
    /// The rows in pairs of bf16, one after the other, where a weight wants them so ([`Left`]).
    pub(super) pairs: &'a [u32],
}

impl<'a> Rows<'a> {
    /// Rows whose element `(i, k)` is `data[i·strides.0 + k·strides.1]`.
    pub(crate) fn new(data: &'a [f32], strides: (usize, usize), count: usize) -> Self {
        Self { data, strides, count, grouped: false, pairs: &[] }
    }

    pub(super) fn check(&self, inner: usize) {
        if self.count > 0 && inner > 0 && !self.grouped {
            let last = (self.count - 1) * self.strides.0 + (inner - 1) * self.strides.1;
            assert!(last < self.data.len(), "gemm: x has {} elements, index {last} is read", self.data.len());
        }
    }
}

/// Rows as some weights want them.
pub(super) struct Left<'a> {
    rows: Rows<'a>,
    pairs: Vec<u32>,
}

impl<'a> Left<'a> {
    /// Rows of `inner` elements, to be multiplied by `weights`.
    pub(super) fn new<'w>(
        rows: Rows<'a>,
        inner: usize,
        mut weights: impl Iterator<Item = &'w Packed>,
    ) -> Self {
        rows.check(inner);
        let mut pairs = Vec::new();
        if weights.any(|weight| weight.precision().rounds_inputs()) {
            let gathered: Vec<f32>;
            let data = if rows.strides == (inner, 1) {
                &rows.data[..rows.count * inner]
            } else {
                let at = |i: usize, k: usize| rows.data[i * rows.strides.0 + k * rows.strides.1];
                gathered = (0..rows.count * inner).map(|place| at(place / inner, place % inner)).collect();
                &gathered[..]
            };
            let (of_row, inner) = (words(inner).max(1), inner.max(1));
            let some = rows_per_task(inner);
            pairs = vec![0; rows.count * of_row];
            let place = Shared::new(&mut pairs);
            for_each(rows.count.div_ceil(some), |task| {
                let of = task * some..rows.count.min((task + 1) * some);
                // SAFETY: each row belongs to one task.
                let pairs = unsafe { place.slice(of.start * of_row, of.len() * of_row) };
                rows_in_pairs(&data[of.start * inner..of.end * inner], inner, pairs);
            });
        }
        Self { rows, pairs }
    }

    /// The rows.
    pub(super) fn rows(&self) -> Rows<'_> {
        Rows { pairs: &self.pairs, ..self.rows }
    }
}

/// The elements of a transposed `x` in groups of rows ([`Rows::grouped`]), the last filled up with zeros. Threads take columns
/// of whole cache lines.
pub(super) fn grouped(x: Rows<'_>, inner: usize) -> Vec<[f32; ROWS]> {
    const GROUPS: usize = 16;
    let groups = x.count.div_ceil(ROWS);
    let mut laid_out = Output::<[f32; ROWS]>::new(groups * inner);
    let place = laid_out.shared();
    for_each(groups.div_ceil(GROUPS), |task| {
        let first = task * GROUPS * ROWS;
        let count = (x.count - first).min(GROUPS * ROWS);
        for k in 0..inner {
            let from = &x.data[first + k * x.strides.1..][..count];
            let (whole, rest) = from.as_chunks::<ROWS>();
            let mut last = [0.0; ROWS];
            last[..rest.len()].copy_from_slice(rest);
            let all = whole.iter().chain((!rest.is_empty()).then_some(&last));
            for (group, values) in (task * GROUPS..).zip(all) {
                // SAFETY: within the memory, and each group belongs to one task.
                unsafe { place.at(group * inner + k).write(*values) };
            }
        }
    });
    // SAFETY: every group has been written at every inner index.
    unsafe { laid_out.written() }
}
