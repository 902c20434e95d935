//! Gradient of the causal attention without its probabilities: they are recomputed tile by tile
//! (Dao et al. 2022, algorithm 4).
#![allow(unsafe_code, reason = "threads write disjoint heads of three outputs")]

use super::attention::{AttentionRule, AttentionShape, TILE};
use super::gemm::Serial;
use super::isa::{Isa, multiversion};
use super::math::{dot, exp, tanh};
use super::pack::{PANEL, Packed};
use super::parallel::{Shared, for_each};
use super::rows::Rows;

/// What the gradient needs of the forward pass.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSaved<'a> {
    /// Queries `[batch, time, heads, head_dim]`.
    pub q: &'a [f32],
    /// Keys `[batch, time, kv_heads, head_dim]`.
    pub k: &'a [f32],
    /// Values `[batch, time, kv_heads, head_dim]`.
    pub v: &'a [f32],
    /// Output `[batch, time, heads, head_dim]`.
    pub o: &'a [f32],
    /// Logs of the sums of exponentials `[batch, heads, time]`.
    pub log_sum: &'a [f32],
}

/// Gradients of [`attention`](super::attention); all three are overwritten.
///
/// With `P = exp(scale·q·kᵀ − log_sum)`, `D = Σ dy·o` and `dS = P·(dy·vᵀ − D)`, times the slope of a soft cap where there is one: `dq = scale·dS·k`,
/// `dk = scale·dSᵀ·q`, `dv = Pᵀ·dy`. Memory beyond the outputs: two tiles of `[48, time]` and one head's keys and values per thread.
///
/// # Shapes
/// - `dy`, `dq`: `[batch, time, heads, head_dim]`; `dk`, `dv`: `[batch, time, kv_heads, head_dim]`
///
/// # Panics
/// When a slice does not have the length its shape says.
pub fn attention_backward(
    saved: AttentionSaved<'_>,
    shape: AttentionShape,
    rule: AttentionRule,
    dy: &[f32],
    dq: &mut [f32],
    dk: &mut [f32],
    dv: &mut [f32],
) {
    shape.check(saved.q.len(), saved.k.len(), saved.v.len());
    shape.check(dq.len(), dk.len(), dv.len());
    shape.check(dy.len(), dk.len(), dv.len());
    assert_eq!(
        saved.o.len(),
        shape.q_len(),
        "attention_backward: o has {} elements for {shape:?}",
        saved.o.len()
    );
    assert_eq!(saved.log_sum.len(), shape.rows(), "attention_backward: log_sum for {shape:?}");
    if shape.is_empty() {
        return;
    }
    let isa = Isa::current();
    let (dq, dk, dv) = (Shared::new(dq), Shared::new(dk), Shared::new(dv));
    for_each(shape.batch * shape.kv_heads, |task| {
        let (b, kv) = (task / shape.kv_heads, task % shape.kv_heads);
        // SAFETY: each task has its own sequence and key head, with the query heads it serves.
        unsafe { Head { saved, shape, rule, isa, b, kv }.run(dy, dq, dk, dv) };
    });
}

/// One key head of one sequence, with the query heads it serves.
struct Head<'a> {
    saved: AttentionSaved<'a>,
    shape: AttentionShape,
    rule: AttentionRule,
    isa: Isa,
    b: usize,
    kv: usize,
}

impl Head<'_> {
    /// # Safety
    /// No other task touches this head's parts of the outputs.
    unsafe fn run(&self, dy: &[f32], dq: Shared<'_>, dk: Shared<'_>, dv: Shared<'_>) {
        let s = self.shape;
        let (time, d, group) = (s.time, s.head_dim, s.heads / s.kv_heads);
        let from = s.kv_at(self.b, 0, self.kv);
        let (k, v) = (&self.saved.k[from..], &self.saved.v[from..]);
        let [mut key_columns, mut value_columns, mut key_rows] = [const { Packed::empty() }; 3];
        key_columns.fill(k, time, d, s.kv_stride(), 1);
        value_columns.fill(v, time, d, s.kv_stride(), 1);
        key_rows.fill(k, d, time, 1, s.kv_stride());
        let (mut tile_pack, mut dq_tile) = (Packed::default(), vec![0.0; TILE * d]);
        let (mut p, mut ds) = (vec![0.0; TILE * time.next_multiple_of(PANEL)], Vec::new());
        ds.resize(p.len(), 0.0);
        let (mut dk_head, mut dv_head) = (vec![0.0; time * d], vec![0.0; time * d]);
        for h in self.kv * group..(self.kv + 1) * group {
            for first in (0..time).step_by(TILE) {
                let count = TILE.min(time - first);
                let end = first + count;
                let stride = end.next_multiple_of(PANEL);
                let at = s.q_at(self.b, first, h);
                let rows = |data| Rows::new(data, (s.q_stride(), 1), count);
                let (q, dy) = (&self.saved.q[at..], &dy[at..]);
                let to_keys =
                    |weight| Serial { weight, inner: d, columns: end, y_stride: stride, resume: false };
                to_keys(&key_columns).run(self.isa, rows(q), &mut p);
                to_keys(&value_columns).run(self.isa, rows(dy), &mut ds);
                for i in 0..count {
                    let o = &self.saved.o[at + i * s.q_stride()..][..d];
                    let log_sum = self.saved.log_sum[(self.b * s.heads + h) * time + first + i];
                    let (p, ds) = (&mut p[i * stride..][..stride], &mut ds[i * stride..][..stride]);
                    let row = SoftmaxRow { dy: &dy[i * s.q_stride()..][..d], o, log_sum, rule: self.rule };
                    let seen = self.rule.first(first + i + 1)..first + i + 1;
                    softmax_backward(row, &mut p[seen.clone()], &mut ds[seen.clone()]);
                    for unseen in [&mut *p, &mut *ds] {
                        unseen[..seen.start].fill(0.0);
                        unseen[seen.end..].fill(0.0);
                    }
                }
                let product = Rows::new(&ds, (stride, 1), count);
                Serial { weight: &key_rows, inner: end, columns: d, y_stride: d, resume: false }.run(
                    self.isa,
                    product,
                    &mut dq_tile,
                );
                for (i, tile) in dq_tile.chunks_exact(d).take(count).enumerate() {
                    // SAFETY: this query head's positions are this task's.
                    unsafe { dq.slice(s.q_at(self.b, first + i, h), d) }.copy_from_slice(tile);
                }
                // Over the tile's positions: continue the chains of dk and dv.
                for (left, right, sum) in [(&ds, q, &mut dk_head), (&p, dy, &mut dv_head)] {
                    tile_pack.fill(right, d, count, 1, s.q_stride());
                    let left = Rows::new(left, (1, stride), end);
                    Serial { weight: &tile_pack, inner: count, columns: d, y_stride: d, resume: true }
                        .run(self.isa, left, sum);
                }
            }
        }
        for (target, source) in [(dk, &dk_head), (dv, &dv_head)] {
            for (j, source) in source.chunks_exact(d).enumerate() {
                // SAFETY: this key head's positions are this task's.
                unsafe { target.slice(s.kv_at(self.b, j, self.kv), d) }.copy_from_slice(source);
            }
        }
    }
}

/// What turns one row of scores into probabilities and gradients.
#[derive(Clone, Copy)]
struct SoftmaxRow<'a> {
    dy: &'a [f32],
    o: &'a [f32],
    log_sum: f32,
    rule: AttentionRule,
}

multiversion! {
    /// Scores become probabilities; `ds`, holding `dy·vᵀ`, becomes the gradient of the unscaled scores.
    fn softmax_backward(row: SoftmaxRow<'_>, p: &mut [f32], ds: &mut [f32]) {
        let (shared, scale) = (dot(row.dy, row.o), row.rule.scale);
        if let Some(cap) = row.rule.soft_cap {
            for (p, ds) in p.iter_mut().zip(ds) {
                let t = tanh(*p * scale / cap);
                *p = exp(cap * t - row.log_sum);
                *ds = *p * (*ds - shared) * (1.0 - t * t) * scale;
            }
            return;
        }
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = exp(*p * scale - row.log_sum);
            *ds = *p * (*ds - shared) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::attention::attention;
    use crate::cpu::attention::tests::{naive, rules, shapes, wide};
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_near, noise};

    #[test]
    fn equals_finite_differences_of_the_definition() {
        for (s, rule) in shapes().into_iter().flat_map(|s| rules().map(|rule| (s, rule))) {
            let (q, k, v) = (noise(s.q_len(), 1), noise(s.kv_len(), 2), noise(s.kv_len(), 3));
            let dy = noise(s.q_len(), 4);
            let (mut o, mut log_sum) = (vec![0.0; s.q_len()], vec![0.0; s.rows()]);
            attention(&q, &k, &v, s, rule, &mut o, &mut log_sum);
            let all = forced::same_bits(|| {
                let mut grads = [vec![f32::NAN; q.len()], vec![f32::NAN; k.len()], vec![f32::NAN; v.len()]];
                let saved = AttentionSaved { q: &q, k: &k, v: &v, o: &o, log_sum: &log_sum };
                let [dq, dk, dv] = &mut grads;
                attention_backward(saved, s, rule, &dy, dq, dk, dv);
                grads.concat()
            });
            // Directional derivatives along single elements and along noise cover every element of the gradient.
            let inputs: Vec<f64> = wide(&[q.clone(), k.clone(), v.clone()].concat());
            let loss = |x: &[f64]| {
                let (q, rest) = x.split_at(s.q_len());
                let (k, v) = rest.split_at(s.kv_len());
                naive(q, k, v, s, rule).iter().zip(&dy).map(|(o, &g)| o * f64::from(g)).sum::<f64>()
            };
            let along = |direction: &[f64]| {
                let moved =
                    |step: f64| inputs.iter().zip(direction).map(|(x, d)| x + step * d).collect::<Vec<_>>();
                (loss(&moved(1e-5)) - loss(&moved(-1e-5))) / 2e-5
            };
            if inputs.is_empty() {
                continue;
            }
            for seed in 0..6 {
                let direction = wide(&noise(inputs.len(), 100 + seed));
                let product: f64 = all.iter().zip(&direction).map(|(&g, d)| f64::from(g) * d).sum();
                let expected = along(&direction);
                assert!(
                    (product - expected).abs() < 1e-3 * (1.0 + expected.abs()),
                    "{s:?}, {rule:?}: {product}, {expected}"
                );
            }
            for i in (0..inputs.len()).step_by(inputs.len() / 6 + 1) {
                let mut direction = vec![0.0; inputs.len()];
                direction[i] = 1.0;
                assert_near("element", &all[i..=i], &[along(&direction)], 1e-4);
            }
        }
    }
}
