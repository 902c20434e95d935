//! The logits of a head, some rows at a time, and what is made of each row while it is there.

use std::ops::Range;

use super::turns;
use crate::cpu::gemm::gemm_new;
use crate::cpu::isa::multiversion;
use crate::cpu::math::tanh;
use crate::cpu::pack::Packed;
use crate::cpu::parallel::{Shared, for_each, rows_per_task};

/// A head over the vocabulary and what it is given.
#[derive(Clone, Copy, Debug)]
pub struct HeadStates<'a> {
    /// Hidden states, `[n, width]`.
    pub h: &'a [f32],
    /// The head, `[width, vocab]`.
    pub head: &'a Packed,
    /// A product `s` becomes the logit `cap·tanh(s / cap)` (Gemma 2, arXiv 2408.00118, section 2).
    pub soft_cap: Option<f32>,
}

impl HeadStates<'_> {
    /// The logits of some of the rows, `[rows, vocab]`.
    pub(super) fn logits(&self, rows: Range<usize>) -> Vec<f32> {
        let (width, vocab) = (self.head.inner(), self.head.columns());
        let count = rows.len();
        let h = &self.h[rows.start * width..rows.end * width];
        let mut logits = gemm_new(h, (width, 1), count, self.head, None);
        if let Some(cap) = self.soft_cap {
            let (step, logits) = (rows_per_task(vocab), Shared::new(&mut logits));
            for_each(count.div_ceil(step), |task| {
                let rows = task * step..count.min((task + 1) * step);
                // SAFETY: each row belongs to one task.
                capped(unsafe { logits.slice(rows.start * vocab, rows.len() * vocab) }, cap);
            });
        }
        logits
    }
}

multiversion! {
    fn capped(logits: &mut [f32], cap: f32) {
        for logit in logits {
            *logit = cap * tanh(*logit / cap);
        }
    }
}

/// Gives each row's logits to `take`, on some thread, and returns what it gives, row after row. At most 48 MiB of logits are in memory
/// together (256 rows of 49,152): sampling from a head needs no more.
///
/// # Panics
/// When `h` does not have the length its shape says.
pub fn head_rows<T: Send>(states: HeadStates<'_>, take: impl Fn(usize, &mut [f32]) -> T + Sync) -> Vec<T> {
    let (width, vocab) = (states.head.inner(), states.head.columns());
    let n = states.h.len() / width.max(1);
    assert_eq!(states.h.len(), n * width, "head_rows: h has {} elements in rows of {width}", states.h.len());
    let mut given = Vec::with_capacity(n);
    for rows in turns(n, vocab) {
        let (first, mut logits) = (rows.start, states.logits(rows));
        given.extend(each_row(&mut logits, vocab, |row, logits| take(first + row, logits)));
    }
    given
}

/// Gives each row to `take`, on some thread, and returns what it gives, row after row.
///
/// # Panics
/// When there is no whole number of rows.
pub fn each_row<T: Send>(
    values: &mut [f32],
    columns: usize,
    take: impl Fn(usize, &mut [f32]) -> T + Sync,
) -> Vec<T> {
    let n = values.len() / columns.max(1);
    assert_eq!(values.len(), n * columns, "each_row: {} elements in rows of {columns}", values.len());
    let mut given: Vec<Option<T>> = (0..n).map(|_| None).collect();
    let (values, shared) = (Shared::new(values), Shared::new(&mut given));
    for_each(n, |row| {
        // SAFETY: each row belongs to one task.
        let (values, given) = unsafe { (values.slice(row * columns, columns), shared.slice(row, 1)) };
        given[0] = Some(take(row, values));
    });
    given.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::gemm;
    use crate::cpu::math::noise;

    #[test]
    fn each_row_is_given_once_with_its_logits() {
        // Several turns in the last one.
        for (n, width, vocab) in [(0, 3, 5), (1, 1, 3), (5, 7, 130), (7, 3, super::super::LOGITS / 3 + 17)] {
            let (h, w) = (noise(n * width, 1), noise(vocab * width, 2));
            let head = Packed::from_out_in(&w, vocab, width);
            let mut all = vec![0.0; n * vocab];
            gemm(&h, (width, 1), n, &head, None, &mut all);
            for soft_cap in [None, Some(0.7)] {
                let sums = head_rows(HeadStates { h: &h, head: &head, soft_cap }, |row, logits| {
                    let sum: f64 = logits.iter().map(|logit| f64::from(*logit)).sum();
                    logits.fill(f32::NAN);
                    (row, sum)
                });
                let cap = |logit: f32| soft_cap.map_or(logit, |cap| cap * (logit / cap).tanh());
                for (row, (place, sum)) in sums.iter().enumerate() {
                    let logits = &all[row * vocab..][..vocab];
                    let want: f64 = logits.iter().map(|logit| f64::from(cap(*logit))).sum();
                    assert_eq!(*place, row);
                    assert!((sum - want).abs() < 1e-6 * vocab as f64, "{sum} and not {want}");
                }
                assert_eq!(sums.len(), n);
            }
        }
    }
}
