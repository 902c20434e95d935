//! The divergence of the laws of two heads, and its gradient.

use super::{HeadGrads, HeadStates, HeadWeight, turns};
use crate::cpu::isa::multiversion;
use crate::cpu::math::{LANES, exp, join_lanes};
use crate::cpu::pack::Packed;
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
    let n = kl.len();
    let vocab = vocabulary([p, q], n);
    for rows in turns(n, vocab) {
        let logits = [p, q].map(|states| states.logits(rows.clone()));
        let (count, step, kl) = (rows.len(), rows_per_task(vocab), Shared::new(&mut kl[rows]));
        for_each(count.div_ceil(step), |task| {
            for row in task * step..count.min((task + 1) * step) {
                let [p, q] = logits.each_ref().map(|logits| &logits[row * vocab..][..vocab]);
                // SAFETY: each row belongs to one task.
                let kl = unsafe { kl.slice(row, 1) };
                let nats = kl_of(p, log_sum_exp(p), q, log_sum_exp(q));
                // Rounding may take what is zero below it; what is no number stays none.
                kl[0] = if nats < 0.0 { 0.0 } else { nats };
            }
        });
    }
}

/// The vocabulary of two heads of `n` rows, checked.
fn vocabulary(states: [HeadStates<'_>; 2], n: usize) -> usize {
    let [vocab, other] = states.map(|states| states.head.columns());
    assert_eq!(vocab, other, "head_kl: p and q have vocabularies of different sizes");
    for HeadStates { h, head, .. } in states {
        let width = head.inner();
        assert_eq!(h.len(), n * width, "head_kl: h has {} elements for [n {n}, width {width}]", h.len());
    }
    vocab
}

multiversion! {
    /// `Σ p·(ln p − ln q)` of two rows.
    fn kl_of(p: &[f32], p_sum: f32, q: &[f32], q_sum: f32) -> f32 {
        let mut lanes = [0.0; LANES];
        let add = |lane: &mut f32, p: f32, q: f32| {
            let (p, q) = (p - p_sum, q - q_sum);
            let weight = exp(p);
            // What has no probability adds nothing; what is no number goes on.
            if weight != 0.0 {
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

/// Gradient of [`head_kl`] in the hidden states and the heads of both: in the logits of `p` it is `dy·p·(ln p − ln q − KL)`, in those of `q`
/// `dy·(q − p)`, times the slope of the soft cap.
///
/// # Shapes
/// - `kl`, which [`head_kl`] gave, and `dy`: `[n]`
///
/// # Panics
/// As [`head_kl`].
pub fn head_kl_backward(
    states: [HeadStates<'_>; 2],
    weights: [HeadWeight<'_>; 2],
    kl: &[f32],
    dy: &[f32],
    mut grads: [HeadGrads<'_>; 2],
) {
    let n = dy.len();
    assert_eq!(kl.len(), n, "head_kl_backward: kl [n] against dy [n {n}]");
    let vocab = vocabulary(states, n);
    let bends = states.map(|states| states.soft_cap.map_or(0.0, |cap| 1.0 / (cap * cap)));
    let mut back = Packed::empty();
    grads.iter_mut().for_each(HeadGrads::begin);
    for rows in turns(n, vocab) {
        let mut logits = states.map(|states| states.logits(rows.clone()));
        let (count, step) = (rows.len(), rows_per_task(vocab));
        let shared = logits.each_mut().map(|logits| Shared::new(logits));
        for_each(count.div_ceil(step), |task| {
            for row in task * step..count.min((task + 1) * step) {
                // SAFETY: each row belongs to one task.
                let [p, q] = shared.map(|logits| unsafe { logits.slice(row * vocab, vocab) });
                let sums = [log_sum_exp(p), log_sum_exp(q)];
                let place = rows.start + row;
                gradients_of_row(p, q, sums, bends, kl[place], dy[place]);
            }
        });
        for (((states, weight), grads), dlogits) in states.iter().zip(weights).zip(&mut grads).zip(&logits) {
            if grads.any() {
                let width = states.head.inner();
                let hidden = &states.h[rows.start * width..rows.end * width];
                grads.take(dlogits, rows.clone(), hidden, weight, (vocab, width), &mut back);
            }
        }
    }
}

multiversion! {
    /// Gradients of a row's `Σ p·(ln p − ln q)` in the logits, in their place.
    fn gradients_of_row(p: &mut [f32], q: &mut [f32], sums: [f32; 2], bends: [f32; 2], kl: f32, dy: f32) {
        for (p, q) in p.iter_mut().zip(q) {
            let (log_p, log_q) = (*p - sums[0], *q - sums[1]);
            let weights = [exp(log_p), exp(log_q)];
            // 1 − (logit/cap)², and 1 without a cap, where a logit may be infinite.
            let slope = |bend: f32, logit: f32| if bend == 0.0 { 1.0 } else { 1.0 - bend * logit * logit };
            let (p_slope, q_slope) = (slope(bends[0], *p), slope(bends[1], *q));
            *p = if weights[0] == 0.0 { 0.0 } else { dy * weights[0] * (log_p - log_q - kl) * p_slope };
            *q = dy * (weights[1] - weights[0]) * q_slope;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::LOGITS;
    use super::*;
    use crate::cpu::gemm;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_near, noise};

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

    #[test]
    fn the_gradient_is_that_of_the_laws() {
        // Several turns in the last one.
        let sizes = [(1, (1, 2), 3), (5, (7, 7), 130), (9, (24, 6), 1_003), (4, (2, 3), LOGITS / 3 + 17)];
        let caps = [[None, None], [Some(2.5), None], [Some(1.0), Some(0.7)]];
        for ((n, widths, vocab), caps) in sizes.into_iter().flat_map(|size| caps.map(|caps| (size, caps))) {
            if vocab > 1_003 && caps[1].is_none() {
                continue;
            }
            let widths = [widths.0, widths.1];
            let hidden = [noise(n * widths[0], 1), noise(n * widths[1], 3)];
            let rows = [noise(vocab * widths[0], 2), noise(vocab * widths[1], 4)];
            let (dy, both) = (noise(n, 5), [0, 1]);
            let packed = both.map(|side| Packed::from_out_in(&rows[side], vocab, widths[side]));
            let states =
                both.map(|side| HeadStates { h: &hidden[side], head: &packed[side], soft_cap: caps[side] });
            let mut kl = vec![0.0; n];
            head_kl(states[0], states[1], &mut kl);

            // In f64: logits, their slopes, laws, then the formula.
            let exact = both.map(|side| {
                let logits = (0..n * vocab).map(|at| {
                    let (row, id) = (at / vocab, at % vocab);
                    let h = &hidden[side][row * widths[side]..][..widths[side]];
                    let w = &rows[side][id * widths[side]..][..widths[side]];
                    let s: f64 = h.iter().zip(w).map(|(h, w)| f64::from(*h) * f64::from(*w)).sum();
                    let Some(cap) = caps[side].map(f64::from) else { return (s, 1.0) };
                    let bent = (s / cap).tanh();
                    (cap * bent, 1.0 - bent * bent)
                });
                logits.collect::<Vec<_>>()
            });
            let log_p = |side: usize, row: usize| -> Vec<f64> {
                let row = &exact[side][row * vocab..][..vocab];
                let total: f64 = row.iter().map(|(logit, _)| logit.exp()).sum();
                row.iter().map(|(logit, _)| logit - total.ln()).collect()
            };
            let mut dlogits = both.map(|_| vec![0.0; n * vocab]);
            for (row, dy) in dy.iter().enumerate() {
                let [p, q] = both.map(|side| log_p(side, row));
                let kl: f64 = p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum();
                for id in 0..vocab {
                    let at = row * vocab + id;
                    let slopes = both.map(|side| f64::from(*dy) * exact[side][at].1);
                    dlogits[0][at] = slopes[0] * p[id].exp() * (p[id] - q[id] - kl);
                    dlogits[1][at] = slopes[1] * (q[id].exp() - p[id].exp());
                }
            }
            for side in both {
                let width = widths[side];
                let (mut dh, mut dw) = (vec![0.0; n * width], vec![0.0; vocab * width]);
                for (row, id, at) in (0..n * vocab).map(|at| (at / vocab, at % vocab, at)) {
                    for column in 0..width {
                        let d = dlogits[side][at];
                        dh[row * width + column] += d * f64::from(rows[side][id * width + column]);
                        dw[id * width + column] += d * f64::from(hidden[side][row * width + column]);
                    }
                }
                let held = HeadWeight::Packed(&packed[side]);
                for weight in [HeadWeight::Rows(&rows[side], None), held] {
                    let weights = both
                        .map(|other| if other == side { weight } else { HeadWeight::Packed(&packed[other]) });
                    let mut got = (vec![f32::NAN; n * width], vec![0.0; vocab * width]);
                    let wanted = HeadGrads { h: Some(&mut got.0), weight: Some(&mut got.1) };
                    let mut grads = [Some(wanted), None];
                    grads.rotate_right(side);
                    let grads = grads.map(Option::unwrap_or_default);
                    head_kl_backward(states, weights, &kl, &dy, grads);
                    assert_near("dh", &got.0, &dh, 1e-4);
                    assert_near("dweight", &got.1, &dw, 1e-4);
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_gives_none_and_what_has_no_probability_adds_nothing() {
        const AT: usize = 33;
        let head = |rows: &[f32]| Packed::from_out_in(rows, rows.len(), 1);
        let with = |seed, spoiled: f32| {
            let mut rows = noise(40, seed);
            rows[AT] = spoiled;
            rows
        };
        let kl = |p: &Packed, q: &Packed| {
            let mut kl = [0.0];
            let states = |head| HeadStates { h: &[1.0], head, soft_cap: None };
            head_kl(states(p), states(q), &mut kl);
            kl[0]
        };
        let (whole, spoiled) = (head(&noise(40, 2)), head(&with(2, f32::NAN)));
        assert!(kl(&spoiled, &whole).is_nan() && kl(&whole, &spoiled).is_nan());
        // Where neither has a token, it is the divergence of the others.
        let rows = [2, 3].map(|seed| with(seed, f32::NEG_INFINITY));
        let others = [2, 3].map(|seed| {
            let mut rows = noise(40, seed);
            rows.remove(AT);
            head(&rows)
        });
        let heads = rows.each_ref().map(|rows| head(rows));
        let nats = kl(&heads[0], &heads[1]);
        assert_near("KL", &[nats], &[f64::from(kl(&others[0], &others[1]))], 1e-5);
        let mut dweight = [vec![0.0; 40], vec![0.0; 40]];
        let grads = dweight.each_mut().map(|dweight| HeadGrads { h: None, weight: Some(dweight) });
        let states = heads.each_ref().map(|head| HeadStates { h: &[1.0], head, soft_cap: None });
        let weights = heads.each_ref().map(HeadWeight::Packed);
        head_kl_backward(states, weights, &[nats], &[1.0], grads);
        for gradient in &dweight {
            assert!(gradient.iter().all(|g| g.is_finite()) && gradient[AT] == 0.0, "{gradient:?}");
        }
    }
}
