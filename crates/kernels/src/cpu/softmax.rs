//! Log-softmax of rows, and the log-probability of one chosen column without writing the others.
#![allow(unsafe_code, reason = "threads write disjoint rows of two outputs")]

use super::isa::multiversion;
use super::math::{LANES, exp, fold_lanes, join_lanes, ln, max};
use super::parallel::{Shared, for_each, rows_per_task};

/// Every column's log-probability: `y = x − log Σ e^x`, row by row.
///
/// # Shapes
/// - `logits`, `y`: `[n, columns]`
///
/// # Panics
/// When the lengths are not equal and a multiple of `columns`.
pub fn log_softmax(logits: &[f32], columns: usize, y: &mut [f32]) {
    assert_eq!(logits.len(), y.len(), "log_softmax: logits and y differ in length");
    let n = rows(logits.len(), columns, "log_softmax");
    let step = rows_per_task(columns);
    let y = Shared::new(y);
    for_each(n.div_ceil(step), |task| {
        for row in task * step..n.min((task + 1) * step) {
            // SAFETY: each row belongs to one task.
            let y = unsafe { y.slice(row * columns, columns) };
            log_softmax_row(&logits[row * columns..][..columns], y);
        }
    });
}

/// For each row the log-probability of its target column and the log of the sum of exponentials.
///
/// # Shapes
/// - `logits`: `[n, columns]`; `targets`, `log_prob`, `log_sum`: `[n]`
///
/// # Panics
/// When a slice does not have the length its shape says or a target is not below `columns`.
pub fn gather_log_prob(
    logits: &[f32],
    columns: usize,
    targets: &[u32],
    log_prob: &mut [f32],
    log_sum: &mut [f32],
) {
    let n = rows(logits.len(), columns, "gather_log_prob");
    assert!(
        targets.len() == n && log_prob.len() == n && log_sum.len() == n,
        "gather_log_prob: {n} rows of logits, {} targets, {} log_prob, {} log_sum",
        targets.len(),
        log_prob.len(),
        log_sum.len()
    );
    check_targets(targets, columns);
    let step = rows_per_task(columns);
    let (log_prob, log_sum) = (Shared::new(log_prob), Shared::new(log_sum));
    for_each(n.div_ceil(step), |task| {
        let range = task * step..n.min((task + 1) * step);
        // SAFETY: each row belongs to one task.
        let (log_prob, log_sum) =
            unsafe { (log_prob.slice(range.start, range.len()), log_sum.slice(range.start, range.len())) };
        for ((row, log_prob), log_sum) in range.zip(log_prob).zip(log_sum) {
            let logits = &logits[row * columns..][..columns];
            let (top, total) = row_sum(logits);
            *log_prob = logits[targets[row] as usize] - top - ln(total);
            *log_sum = top + ln(total);
        }
    });
}

/// Gradient of [`gather_log_prob`] in the logits: `dlogits = dy · (onehot(target) − e^(logits − log_sum))`, overwritten.
/// A row with `dy = 0` costs nothing but its zeros.
///
/// # Shapes
/// - `logits`, `dlogits`: `[n, columns]`; `targets`, `log_sum`, `dy`: `[n]`
///
/// # Panics
/// As [`gather_log_prob`].
pub fn gather_log_prob_backward(
    logits: &[f32],
    columns: usize,
    targets: &[u32],
    log_sum: &[f32],
    dy: &[f32],
    dlogits: &mut [f32],
) {
    let n = rows(logits.len(), columns, "gather_log_prob_backward");
    assert!(
        targets.len() == n && log_sum.len() == n && dy.len() == n && dlogits.len() == logits.len(),
        "gather_log_prob_backward: {n} rows of logits, {} targets, {} log_sum, {} dy, {} elements of dlogits",
        targets.len(),
        log_sum.len(),
        dy.len(),
        dlogits.len()
    );
    check_targets(targets, columns);
    dlogits.copy_from_slice(logits);
    log_prob_gradient(dlogits, columns, targets, log_sum, dy);
}

/// [`gather_log_prob_backward`] in the place of the logits, of lengths and targets that were checked.
pub(super) fn log_prob_gradient(
    logits: &mut [f32],
    columns: usize,
    targets: &[u32],
    log_sum: &[f32],
    dy: &[f32],
) {
    let (n, step) = (dy.len(), rows_per_task(columns));
    let logits = Shared::new(logits);
    for_each(n.div_ceil(step), |task| {
        for row in task * step..n.min((task + 1) * step) {
            // SAFETY: each row belongs to one task.
            let logits = unsafe { logits.slice(row * columns, columns) };
            if dy[row] == 0.0 {
                logits.fill(0.0);
            } else {
                backward_row(logits, log_sum[row], dy[row]);
                logits[targets[row] as usize] += dy[row];
            }
        }
    });
}

fn rows(elements: usize, columns: usize, what: &str) -> usize {
    assert!(
        columns == 0 && elements == 0 || columns > 0 && elements.is_multiple_of(columns),
        "{what}: {elements} elements in rows of {columns}"
    );
    elements.checked_div(columns).unwrap_or(0)
}

fn check_targets(targets: &[u32], columns: usize) {
    for (row, &target) in targets.iter().enumerate() {
        assert!(
            (target as usize) < columns,
            "gather_log_prob: target {target} of row {row} in {columns} columns"
        );
    }
}

multiversion! {
    /// Largest logit and the sum of exponentials relative to it.
    fn row_sum(logits: &[f32]) -> (f32, f32) {
        let top = max(logits);
        let lanes: [f32; LANES] = fold_lanes(logits, 0.0, |lane, value| lane + exp(value - top));
        (top, join_lanes(lanes, |a, b| a + b))
    }
}

/// Log of the sum of exponentials of a row.
pub(super) fn log_sum_exp(logits: &[f32]) -> f32 {
    let (top, total) = row_sum(logits);
    top + ln(total)
}

multiversion! {
    fn log_softmax_row(logits: &[f32], y: &mut [f32]) {
        let top = max(logits);
        let lanes: [f32; LANES] = fold_lanes(logits, 0.0, |lane, value| lane + exp(value - top));
        let log_total = ln(join_lanes(lanes, |a, b| a + b));
        for (y, &logit) in y.iter_mut().zip(logits) {
            *y = logit - top - log_total;
        }
    }
}

multiversion! {
    fn backward_row(logits: &mut [f32], log_sum: f32, dy: f32) {
        for logit in logits {
            *logit = -dy * exp(*logit - log_sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, assert_near, noise};

    fn naive(row: &[f32]) -> Vec<f64> {
        let top = row.iter().fold(f64::NEG_INFINITY, |m, &v| m.max(v.into()));
        let log_sum = top + row.iter().map(|&v| (f64::from(v) - top).exp()).sum::<f64>().ln();
        row.iter().map(|&v| f64::from(v) - log_sum).collect()
    }

    fn case(n: usize, v: usize) -> (Vec<f32>, Vec<u32>) {
        (
            noise(n * v, 1).iter().map(|x| x * 15.0).collect(),
            (0..n as u32).map(|i| (i * 31 + 5) % v as u32).collect(),
        )
    }

    #[test]
    fn log_softmax_and_gather_equal_the_formula_and_each_other() {
        for (n, v) in [(0, 3), (1, 1), (5, 7), (3, 16), (9, 1024), (40, 1003)] {
            let (logits, targets) = case(n, v);
            let all = forced::same_bits(|| {
                let mut y = vec![f32::NAN; n * v];
                log_softmax(&logits, v, &mut y);
                y
            });
            let exact: Vec<f64> = logits.chunks(v).flat_map(naive).collect();
            assert_near("log_softmax", &all, &exact, 1e-6);
            let both = forced::same_bits(|| {
                let (mut p, mut s) = (vec![f32::NAN; n], vec![f32::NAN; n]);
                gather_log_prob(&logits, v, &targets, &mut p, &mut s);
                p.into_iter().chain(s).collect()
            });
            let picked: Vec<f32> =
                targets.iter().enumerate().map(|(i, &t)| all[i * v + t as usize]).collect();
            assert_bits("gather", &both[..n], &picked);
            for i in 0..n {
                assert_near(
                    "log_sum",
                    &both[n + i..=n + i],
                    &[f64::from(logits[i * v]) - exact[i * v]],
                    1e-6,
                );
            }
        }
    }

    #[test]
    fn gradient_equals_finite_differences_and_sums_to_zero() {
        let (n, v) = (6, 37);
        let (logits, targets) = case(n, v);
        let dy = [1.0, -2.0, 0.0, 0.5, 3.0, -0.25];
        let (mut p, mut s) = (vec![0.0; n], vec![0.0; n]);
        gather_log_prob(&logits, v, &targets, &mut p, &mut s);
        let d = forced::same_bits(|| {
            let mut d = vec![f32::NAN; n * v];
            gather_log_prob_backward(&logits, v, &targets, &s, &dy, &mut d);
            d
        });
        for i in 0..n {
            let target = targets[i] as usize;
            let row = &logits[i * v..(i + 1) * v];
            for j in 0..v {
                let shifted = |delta: f32| {
                    let mut row = row.to_vec();
                    row[j] += delta;
                    (naive(&row)[target], f64::from(row[j]))
                };
                let ((up, x1), (down, x0)) = (shifted(1e-2), shifted(-1e-2));
                assert_near(
                    "dlogits",
                    &d[i * v + j..=i * v + j],
                    &[f64::from(dy[i]) * (up - down) / (x1 - x0)],
                    1e-4,
                );
            }
            let total: f64 = d[i * v..(i + 1) * v].iter().map(|&x| f64::from(x)).sum();
            assert!(total.abs() < 1e-5, "row {i} sums to {total}");
        }
    }

    #[test]
    fn an_impossible_column_has_no_probability() {
        let (mut p, mut s) = ([0.0; 2], [0.0; 2]);
        gather_log_prob(&[0.0, f32::NEG_INFINITY, 1e4, 0.0], 2, &[1, 0], &mut p, &mut s);
        assert_eq!((p, s), ([f32::NEG_INFINITY, 0.0], [0.0, 1e4]));
    }

    #[test]
    #[should_panic(expected = "target 3 of row 0 in 3 columns")]
    fn a_target_beyond_the_columns_is_refused() {
        gather_log_prob(&[0.0; 3], 3, &[3], &mut [0.0], &mut [0.0]);
    }
}
