//! Causal self-attention over whole sequences, for training and scoring.
#![allow(unsafe_code, reason = "threads write disjoint heads of one output")]

use super::gemm::Serial;
use super::isa::{Isa, multiversion};
use super::math::{ln, softmax_in_place, tanh};
use super::pack::{PANEL, Packed};
use super::parallel::{Shared, for_each};
use super::rows::Rows;

/// Query positions handled together: their scores, `[48, t]`, stay in the second cache.
pub(super) const TILE: usize = 48;

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Positions of each sequence.
    pub time: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; each serves `heads / kv_heads` consecutive query heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl AttentionShape {
    /// Elements of queries and outputs.
    pub(super) fn q_len(&self) -> usize {
        self.batch * self.time * self.heads * self.head_dim
    }

    /// Elements of keys, and of values.
    pub(super) fn kv_len(&self) -> usize {
        self.batch * self.time * self.kv_heads * self.head_dim
    }

    /// Rows of softmax.
    pub(super) fn rows(&self) -> usize {
        self.batch * self.heads * self.time
    }

    /// First element of a position's head in `[batch, time, heads, head_dim]`.
    pub(super) fn q_at(&self, batch: usize, position: usize, head: usize) -> usize {
        ((batch * self.time + position) * self.heads + head) * self.head_dim
    }

    /// First element of a position's head in `[batch, time, kv_heads, head_dim]`.
    pub(super) fn kv_at(&self, batch: usize, position: usize, head: usize) -> usize {
        ((batch * self.time + position) * self.kv_heads + head) * self.head_dim
    }

    /// Distance between positions of queries.
    pub(super) fn q_stride(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Distance between positions of keys.
    pub(super) fn kv_stride(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    pub(super) fn check(&self, q: usize, k: usize, v: usize) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "attention: {} heads are not a multiple of {} kv_heads",
            self.heads,
            self.kv_heads
        );
        assert_eq!(q, self.q_len(), "attention: q has {q} elements for {self:?}");
        assert_eq!(k, self.kv_len(), "attention: k has {k} elements for {self:?}");
        assert_eq!(v, self.kv_len(), "attention: v has {v} elements for {self:?}");
    }

    /// Nothing to compute.
    pub(super) fn is_empty(&self) -> bool {
        self.batch * self.time * self.heads * self.head_dim == 0
    }
}

/// How scores become weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionRule {
    /// Products of queries and keys are multiplied by it.
    pub scale: f32,
    /// The most keys that a position sees, the last ones with its own; `None` for all of its past (Beltagy et al. 2020, section 3.1).
    pub window: Option<usize>,
    /// A scaled score `s` becomes `cap·tanh(s / cap)` (Gemma 2, arXiv 2408.00118, section 2).
    pub soft_cap: Option<f32>,
}

impl AttentionRule {
    /// All of the past, and scores as they are.
    pub fn scaled(scale: f64) -> Self {
        Self { scale: scale as f32, window: None, soft_cap: None }
    }

    /// The first key of those before `end` that their last position sees.
    pub(crate) fn first(&self, end: usize) -> usize {
        self.window.map_or(0, |window| end.saturating_sub(window))
    }
}

/// Causal attention: `o = softmax(q·kᵀ·scale)·v`, position `i` attending to `0..=i`, or to the last of them that a window has. Sequences padded on the right need
/// no mask: no real position sees the padding.
///
/// Each score is one chain of fused multiply-adds over the head, each output one over the keys, so a position's bits
/// depend on its own past only, and [`paged_attention`](super::paged_attention) of the same past gives the same.
///
/// # Shapes
/// - `q`, `o`: `[batch, time, heads, head_dim]`; `k`, `v`: `[batch, time, kv_heads, head_dim]`
/// - `log_sum`: `[batch, heads, time]`, the log of each softmax's sum of exponentials, for the gradient
///
/// # Panics
/// When a slice does not have the length its shape says.
pub fn attention(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    shape: AttentionShape,
    rule: AttentionRule,
    o: &mut [f32],
    log_sum: &mut [f32],
) {
    shape.check(q.len(), k.len(), v.len());
    assert_eq!(o.len(), shape.q_len(), "attention: o has {} elements for {shape:?}", o.len());
    assert_eq!(
        log_sum.len(),
        shape.rows(),
        "attention: log_sum has {} elements for {shape:?}",
        log_sum.len()
    );
    if shape.is_empty() {
        return;
    }
    let isa = Isa::current();
    let AttentionShape { batch, time, heads, kv_heads, head_dim } = shape;
    let packs = pack_heads(k, v, shape);
    let (o, log_sum) = (Shared::new(o), Shared::new(log_sum));
    let tiles = time.div_ceil(TILE);
    for_each(batch * heads * tiles, |task| {
        // The longest tiles first: what is left at the end is small.
        let (tile, rest) = (tiles - 1 - task / (batch * heads), task % (batch * heads));
        let (b, h) = (rest / heads, rest % heads);
        let (keys, values) = &packs[b * kv_heads + h / (heads / kv_heads)];
        let first = tile * TILE;
        let count = TILE.min(time - first);
        let end = first + count;
        let stride = end.next_multiple_of(PANEL);
        let mut scores = vec![0.0; count * stride];
        let queries = Rows::new(&q[shape.q_at(b, first, h)..], (shape.q_stride(), 1), count);
        Serial { weight: keys, inner: head_dim, columns: end, y_stride: stride, resume: false }.run(
            isa,
            queries,
            &mut scores,
        );
        let mut sums = [0.0; TILE];
        for i in 0..count {
            let row = &mut scores[i * stride..(i + 1) * stride];
            let (past, future) = row.split_at_mut(first + i + 1);
            let (before, past) = past.split_at_mut(rule.first(first + i + 1));
            let (top, sum) = softmax_row(past, rule);
            before.fill(0.0);
            future.fill(0.0);
            sums[i] = sum;
            // SAFETY: each task has its own head and positions.
            let saved = unsafe { log_sum.slice((b * heads + h) * time + first + i, 1) };
            saved[0] = top + ln(sum);
        }
        let mut out = vec![0.0; count * head_dim];
        let probabilities = Rows::new(&scores, (stride, 1), count);
        Serial { weight: values, inner: end, columns: head_dim, y_stride: head_dim, resume: false }.run(
            isa,
            probabilities,
            &mut out,
        );
        for (i, out) in out.chunks_exact(head_dim).enumerate() {
            // SAFETY: each task has its own head and positions.
            let o = unsafe { o.slice(shape.q_at(b, first + i, h), head_dim) };
            let inverse = 1.0 / sums[i];
            for (o, out) in o.iter_mut().zip(out) {
                *o = out * inverse;
            }
        }
    });
}

/// Per sequence and key head: the keys packed for scores, `[head_dim, time]`, and the values, `[time, head_dim]`.
fn pack_heads(k: &[f32], v: &[f32], shape: AttentionShape) -> Vec<(Packed, Packed)> {
    use rayon::iter::{IntoParallelIterator, ParallelIterator};
    (0..shape.batch * shape.kv_heads)
        .into_par_iter()
        .map(|task| {
            let start = shape.kv_at(task / shape.kv_heads, 0, task % shape.kv_heads);
            let (mut keys, mut values) = (Packed::default(), Packed::default());
            keys.fill(&k[start..], shape.time, shape.head_dim, shape.kv_stride(), 1);
            values.fill(&v[start..], shape.head_dim, shape.time, 1, shape.kv_stride());
            (keys, values)
        })
        .collect()
}

multiversion! {
    /// [`softmax_in_place`] of scores that are scaled and, where the rule says so, capped.
    pub(super) fn softmax_row(scores: &mut [f32], rule: AttentionRule) -> (f32, f32) {
        let Some(cap) = rule.soft_cap else { return softmax_in_place(scores, rule.scale) };
        for score in scores.iter_mut() {
            *score = cap * tanh(*score * rule.scale / cap);
        }
        softmax_in_place(scores, 1.0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, assert_near, noise};

    /// The definition, in `f64`.
    pub(in crate::cpu) fn naive(
        q: &[f64],
        k: &[f64],
        v: &[f64],
        s: AttentionShape,
        rule: AttentionRule,
    ) -> Vec<f64> {
        let mut o = vec![0.0; q.len()];
        for b in 0..s.batch {
            for i in 0..s.time {
                for h in 0..s.heads {
                    let kv = h / (s.heads / s.kv_heads);
                    let at = s.q_at(b, i, h);
                    let first = rule.window.map_or(0, |window| (i + 1).saturating_sub(window));
                    let scores: Vec<f64> = (first..=i)
                        .map(|j| {
                            let key = s.kv_at(b, j, kv);
                            let product = (0..s.head_dim).map(|d| q[at + d] * k[key + d]).sum::<f64>();
                            let score = product * f64::from(rule.scale);
                            rule.soft_cap.map(f64::from).map_or(score, |cap| cap * (score / cap).tanh())
                        })
                        .collect();
                    let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().map(|x| (x - top).exp()).sum();
                    for (j, x) in scores.iter().enumerate() {
                        for d in 0..s.head_dim {
                            o[at + d] += (x - top).exp() / sum * v[s.kv_at(b, first + j, kv) + d];
                        }
                    }
                }
            }
        }
        o
    }

    pub(in crate::cpu) fn shapes() -> Vec<AttentionShape> {
        [
            (1, 1, 1, 1, 8),
            (2, 5, 3, 1, 8),
            (1, 49, 4, 2, 16),
            (2, 70, 6, 2, 32),
            (1, 17, 2, 2, 5),
            (0, 4, 2, 1, 8),
            (1, 0, 2, 1, 8),
        ]
        .map(|(batch, time, heads, kv_heads, head_dim)| AttentionShape {
            batch,
            time,
            heads,
            kv_heads,
            head_dim,
        })
        .to_vec()
    }

    /// All of the past; a window and a cap, alone and both.
    pub(in crate::cpu) fn rules() -> [AttentionRule; 4] {
        let plain = AttentionRule::scaled(0.7);
        let windowed = AttentionRule { window: Some(19), ..plain };
        let capped = AttentionRule { scale: 3.0, soft_cap: Some(2.5), ..plain };
        [plain, windowed, capped, AttentionRule { window: Some(3), ..capped }]
    }

    pub(in crate::cpu) fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&v| f64::from(v)).collect()
    }

    #[test]
    fn equals_the_definition_on_every_instruction_set() {
        for (s, rule) in shapes().into_iter().flat_map(|s| rules().map(|rule| (s, rule))) {
            let (q, k, v) = (noise(s.q_len(), 1), noise(s.kv_len(), 2), noise(s.kv_len(), 3));
            let o = forced::same_bits(|| {
                let (mut o, mut log_sum) = (vec![f32::NAN; s.q_len()], vec![f32::NAN; s.rows()]);
                attention(&q, &k, &v, s, rule, &mut o, &mut log_sum);
                assert!(log_sum.iter().all(|x| x.is_finite()));
                o
            });
            let what = format!("attention by {rule:?}");
            assert_near(&what, &o, &naive(&wide(&q), &wide(&k), &wide(&v), s, rule), 5e-6);
        }
    }

    #[test]
    fn a_position_does_not_depend_on_later_ones_or_on_its_batch() {
        let s = AttentionShape { batch: 2, time: 70, heads: 4, kv_heads: 2, head_dim: 16 };
        let (q, k, v) = (noise(s.q_len(), 4), noise(s.kv_len(), 5), noise(s.kv_len(), 6));
        let run = |q: &[f32], k: &[f32], v: &[f32], s: AttentionShape| {
            let (mut o, mut log_sum) = (vec![0.0; s.q_len()], vec![0.0; s.rows()]);
            attention(q, k, v, s, AttentionRule::scaled(0.25), &mut o, &mut log_sum);
            o
        };
        let both = run(&q, &k, &v, s);
        for time in [1, 16, 47, 48, 49, 64, 69] {
            let short = AttentionShape { batch: 1, time, ..s };
            let (from, kv_from) = (s.q_at(1, 0, 0), s.kv_at(1, 0, 0));
            let alone = run(
                &q[from..from + short.q_len()],
                &k[kv_from..kv_from + short.kv_len()],
                &v[kv_from..kv_from + short.kv_len()],
                short,
            );
            assert_bits(&format!("time {time}"), &alone, &both[from..from + short.q_len()]);
        }
    }
}
