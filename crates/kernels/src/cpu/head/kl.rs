//! The divergence of the laws of two heads.

use super::{HeadStates, turns};
use crate::cpu::isa::multiversion;
use crate::cpu::math::{LANES, exp, join_lanes};
use crate::cpu::parallel::{Shared, for_each, rows_per_task};
use crate::cpu::softmax::log_sum_exp;

/// For each row `KL(p ‖ q)` in nats of the laws that two heads give for hidden states of their own.
///
/// # Shapes
/// - `kl`: `[n]`
///
/// # Panics
/// When the vocabularies differ or a slice does not have the length its shape says.
pub fn head_kl(p: HeadStates<'_>, q: HeadStates<'_>, kl: &mut [f32]) {
    let (n, vocab) = (kl.len(), p.head.columns());
    assert_eq!(vocab, q.head.columns(), "head_kl: p and q have vocabularies of different sizes");
    for HeadStates { h, head, .. } in [p, q] {
        let width = head.inner();
        assert_eq!(h.len(), n * width, "head_kl: h has {} elements for [n {n}, width {width}]", h.len());
    }
    for rows in turns(n, vocab) {
        let logits = [p, q].map(|states| states.logits(rows.clone()));
        let (count, step, kl) = (rows.len(), rows_per_task(vocab), Shared::new(&mut kl[rows]));
        for_each(count.div_ceil(step), |task| {
            for row in task * step..count.min((task + 1) * step) {
                let [p, q] = logits.each_ref().map(|logits| &logits[row * vocab..][..vocab]);
                // SAFETY: each row belongs to one task.
                let kl = unsafe { kl.slice(row, 1) };
                // Rounding may take what is zero below it.
                kl[0] = kl_of(p, log_sum_exp(p), q, log_sum_exp(q)).max(0.0);
            }
        });
    }
}

multiversion! {
    /// `Σ p·(ln p − ln q)` of two rows.
    fn kl_of(p: &[f32], p_sum: f32, q: &[f32], q_sum: f32) -> f32 {
        let mut lanes = [0.0; LANES];
        let add = |lane: &mut f32, p: f32, q: f32| {
            let (p, q) = (p - p_sum, q - q_sum);
            let weight = exp(p);
            if weight > 0.0 {
                *lane = weight.mul_add(p - q, *lane);
            }
        };
        let (whole_p, rest_p) = p.as_chunks::<LANES>();
        let (whole_q, rest_q) = q.as_chunks::<LANES>();
        for (p, q) in whole_p.iter().zip(whole_q) {
            for i in 0..LANES {
                add(&mut lanes[i], p[i], q[i]);
            }
        }
        for ((lane, &p), &q) in lanes.iter_mut().zip(rest_p).zip(rest_q) {
            add(lane, p, q);
        }
        join_lanes(lanes, |a, b| a + b)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_near, noise};
    use crate::cpu::{Packed, gemm};

    #[test]
    fn the_divergence_of_two_heads_is_that_of_their_laws() {
        let sizes = [(1, (1, 2), 3), (5, (7, 7), 130), (9, (24, 6), 1_003)];
        let caps = [[None, None], [Some(2.5), None], [Some(1.0), Some(0.7)]];
        for ((n, (width, other), vocab), caps) in
            sizes.into_iter().flat_map(|size| caps.map(|caps| (size, caps)))
        {
            let (h, w) = (noise(n * width, 1), noise(vocab * width, 2));
            let (g, v) = (noise(n * other, 3), noise(vocab * other, 4));
            let packed = (Packed::from_out_in(&w, vocab, width), Packed::from_out_in(&v, vocab, other));
            let states = |h, head, soft_cap| HeadStates { h, head, soft_cap };
            let (p, q) = (states(&h, &packed.0, caps[0]), states(&g, &packed.1, caps[1]));
            let laws = [p, q].map(|HeadStates { h, head, soft_cap }| {
                let mut logits = vec![0.0; n * vocab];
                gemm(h, (head.inner(), 1), n, head, None, &mut logits);
                let cap = |s: f64| soft_cap.map(f64::from).map_or(s, |cap| cap * (s / cap).tanh());
                let rows = logits.chunks(vocab).map(|row| {
                    let row: Vec<f64> = row.iter().map(|product| cap(f64::from(*product))).collect();
                    let total: f64 = row.iter().map(|logit| logit.exp()).sum();
                    row.iter().map(|logit| logit - total.ln()).collect::<Vec<f64>>()
                });
                rows.collect::<Vec<_>>()
            });
            let exact: Vec<f64> = laws[0]
                .iter()
                .zip(&laws[1])
                .map(|(p, q)| p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum())
                .collect();
            let got = forced::same_bits(|| {
                let mut kl = vec![f32::NAN; n];
                head_kl(p, q, &mut kl);
                kl
            });
            assert_near("KL", &got, &exact, 1e-5);
            let mut itself = vec![f32::NAN; n];
            head_kl(p, p, &mut itself);
            assert_eq!(itself, vec![0.0; n], "of a law to itself");
        }
    }
}
