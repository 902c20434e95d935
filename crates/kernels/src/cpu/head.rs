//! Log-probabilities of chosen tokens from hidden states and the head over the vocabulary, some rows at a time, so that the logits
//! of all rows are never in memory together. Bit for bit what the product and [`gather_log_prob`] give.
#![allow(unsafe_code, reason = "threads write disjoint elements of one output")]

mod kl;
mod states;

use std::ops::Range;

use super::gemm::{gemm, gemm_onto};
use super::isa::multiversion;
use super::math::{LANES, exp, fold_lanes, join_lanes};
use super::pack::Packed;
use super::parallel::{Shared, for_each, rows_per_task};
use super::softmax::{gather_log_prob, log_prob_gradient};

pub use kl::head_kl;
pub use states::{HeadStates, head_rows};

/// Logits held at a time: 48 MiB.
const LOGITS: usize = 12 << 20;

/// Rows of the weight that are packed at a time for the way back.
const WORDS: usize = 8 << 10;

/// The rows of each turn.
fn turns(rows: usize, vocab: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (LOGITS / vocab.max(1)).max(1);
    (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
}

/// What [`head_log_prob`] writes; each of `log_prob`, `log_sum` and `entropy` has one number for each row.
#[derive(Debug)]
pub struct HeadOutputs<'a> {
    /// Log-probability of each row's target.
    pub log_prob: &'a mut [f32],
    /// Log of each row's sum of exponentials.
    pub log_sum: &'a mut [f32],
    /// Entropy of each row's law in nats, where it is wanted.
    pub entropy: Option<&'a mut [f32]>,
    /// The logits `[n, vocab]`, where they are wanted.
    pub logits: Option<&'a mut [f32]>,
}

/// For each row `log softmax(h·W)[target]`.
///
/// # Shapes
/// - `h`: `[n, width]`; `head`: `[width, vocab]`; `targets`: `[n]`
///
/// # Panics
/// When a slice does not have the length its shape says or a target is not below `vocab`.
pub fn head_log_prob(h: &[f32], head: &Packed, targets: &[u32], mut outputs: HeadOutputs<'_>) {
    let (n, width, vocab) = (targets.len(), head.inner(), head.columns());
    assert_eq!(h.len(), n * width, "head_log_prob: h has {} elements for [n {n}, width {width}]", h.len());
    let mut scratch = Vec::new();
    for rows in turns(n, vocab) {
        let logits = if let Some(logits) = &mut outputs.logits {
            &mut logits[rows.start * vocab..rows.end * vocab]
        } else {
            scratch.resize(rows.len() * vocab, 0.0);
            &mut scratch[..]
        };
        gemm(&h[rows.start * width..rows.end * width], (width, 1), rows.len(), head, None, logits);
        let log_sum = &mut outputs.log_sum[rows.clone()];
        gather_log_prob(logits, vocab, &targets[rows.clone()], &mut outputs.log_prob[rows.clone()], log_sum);
        if let Some(entropy) = &mut outputs.entropy {
            let entropy = Shared::new(&mut entropy[rows]);
            let step = rows_per_task(vocab);
            for_each(log_sum.len().div_ceil(step), |task| {
                for row in task * step..log_sum.len().min((task + 1) * step) {
                    let nats = entropy_of(&logits[row * vocab..][..vocab], log_sum[row]);
                    // SAFETY: each row belongs to one task.
                    let entropy = unsafe { entropy.slice(row, 1) };
                    entropy[0] = nats;
                }
            });
        }
    }
}

multiversion! {
    /// `Σ −p·ln p` of a row; no term is negative, so that nothing cancels.
    fn entropy_of(logits: &[f32], log_sum: f32) -> f32 {
        // A logit of −∞ has no probability, and adds nothing.
        let add = |lane: f32, value: f32| {
            let p = exp(value - log_sum);
            if p > 0.0 { p.mul_add(log_sum - value, lane) } else { lane }
        };
        let lanes: [f32; LANES] = fold_lanes(logits, 0.0, add);
        join_lanes(lanes, |a, b| a + b)
    }
}

/// The head over the vocabulary, as the gradient of [`head_log_prob`] reads it.
#[derive(Clone, Copy, Debug)]
pub enum HeadWeight<'a> {
    /// `[vocab, width]`, row-major; and packed, where the logits are computed again. Otherwise it is packed then.
    Rows(&'a [f32], Option<&'a Packed>),
    /// Packed alone, rounded as it is held.
    Packed(&'a Packed),
}

/// What the gradient of [`head_log_prob`] starts from.
#[derive(Clone, Copy, Debug)]
pub struct HeadSaved<'a> {
    /// `[n, width]`.
    pub h: &'a [f32],
    /// The head.
    pub weight: HeadWeight<'a>,
    /// The logits `[n, vocab]`, where they were kept.
    pub logits: Option<&'a [f32]>,
    /// `[n]`.
    pub targets: &'a [u32],
    /// `[n]`.
    pub log_sum: &'a [f32],
}

/// Gradient of [`head_log_prob`]: `dh = dlogits·W`, overwritten, and `dweight = dlogitsᵀ·h`, added to what it holds.
///
/// # Shapes
/// - `dy`: `[n]`; `dh`: `[n, width]`; `dweight`: `[vocab, width]`
///
/// # Panics
/// When a slice does not have the length its shape says.
pub fn head_log_prob_backward(
    saved: HeadSaved<'_>,
    (vocab, width): (usize, usize),
    dy: &[f32],
    mut dh: Option<&mut [f32]>,
    mut dweight: Option<&mut [f32]>,
) {
    let HeadSaved { h, weight, logits, targets, log_sum } = saved;
    let own;
    let forth = match (logits, weight) {
        (Some(_), _) => None,
        (None, HeadWeight::Rows(_, Some(packed)) | HeadWeight::Packed(packed)) => Some(packed),
        (None, HeadWeight::Rows(weight, None)) => {
            own = Packed::from_out_in(weight, vocab, width);
            Some(&own)
        }
    };
    let (mut dlogits, mut back) = (Vec::new(), Packed::empty());
    if let Some(dh) = &mut dh {
        dh.fill(0.0);
    }
    for rows in turns(dy.len(), vocab) {
        let (n, hidden) = (rows.len(), &h[rows.start * width..rows.end * width]);
        dlogits.resize(n * vocab, 0.0);
        if let Some(forth) = forth {
            gemm(hidden, (width, 1), n, forth, None, &mut dlogits);
        } else if let Some(logits) = logits {
            dlogits.copy_from_slice(&logits[rows.start * vocab..rows.end * vocab]);
        }
        log_prob_gradient(
            &mut dlogits,
            vocab,
            &targets[rows.clone()],
            &log_sum[rows.clone()],
            &dy[rows.clone()],
        );
        if let Some(dh) = &mut dh {
            let dh = &mut dh[rows.start * width..rows.end * width];
            for first in (0..vocab).step_by(WORDS) {
                let words = first..vocab.min(first + WORDS);
                match weight {
                    HeadWeight::Rows(weight, _) => {
                        let part = &weight[first * width..words.end * width];
                        back.fill(part, width, words.len(), 1, width);
                    }
                    HeadWeight::Packed(packed) => back.fill_transposed(packed, words),
                }
                gemm_onto(&dlogits[first..], (vocab, 1), n, &back, dh);
            }
        }
        if let Some(dweight) = &mut dweight {
            gemm_onto(&dlogits, (1, vocab), vocab, &Packed::from_in_out(hidden, n, width), dweight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, assert_near, noise};
    use crate::cpu::softmax::gather_log_prob_backward;

    /// Rows enough for several turns, the last of them shorter.
    const CASES: [(usize, usize, usize); 4] =
        [(1, 1, 3), (5, 7, 130), (9, 24, 1_000), (7, 3, LOGITS / 3 + 17)];

    #[test]
    fn it_equals_the_product_and_the_gathering_bit_for_bit() {
        for (n, width, vocab) in CASES {
            let (h, w, dy) = (noise(n * width, 1), noise(vocab * width, 2), noise(n, 3));
            let h: Vec<f32> = h.iter().map(|h| 8.0 * h).collect();
            let targets: Vec<u32> = (0..n as u32).map(|row| (row * 31 + 2) % vocab as u32).collect();
            let packed = Packed::from_out_in(&w, vocab, width);
            let mut all = vec![0.0; n * vocab];
            gemm(&h, (width, 1), n, &packed, None, &mut all);
            let (mut want, mut sums) = (vec![0.0; n], vec![0.0; n]);
            gather_log_prob(&all, vocab, &targets, &mut want, &mut sums);

            let (mut log_prob, mut log_sum) = (vec![f32::NAN; n], vec![f32::NAN; n]);
            let (mut entropy, mut logits) = (vec![f32::NAN; n], vec![f32::NAN; n * vocab]);
            let outputs = HeadOutputs {
                log_prob: &mut log_prob,
                log_sum: &mut log_sum,
                entropy: Some(&mut entropy),
                logits: Some(&mut logits),
            };
            head_log_prob(&h, &packed, &targets, outputs);
            assert_bits("log-probabilities", &log_prob, &want);
            assert_bits("logits", &logits, &all);
            let exact: Vec<f64> = all
                .chunks(vocab)
                .zip(&log_sum)
                .map(|(row, sum)| {
                    let log_p = row.iter().map(|logit| f64::from(*logit) - f64::from(*sum));
                    -log_p.map(|l| l.exp() * l).sum::<f64>()
                })
                .collect();
            // A sum of millions in `f32` has an error of its own.
            assert_near("entropy", &entropy, &exact, if vocab > 1_000_000 { 1e-3 } else { 1e-5 });
            let mut again = vec![f32::NAN; n];
            let outputs =
                HeadOutputs { log_prob: &mut again, log_sum: &mut log_sum, entropy: None, logits: None };
            head_log_prob(&h, &packed, &targets, outputs);
            assert_bits("without the logits", &again, &want);

            let mut dlogits = vec![0.0; n * vocab];
            gather_log_prob_backward(&all, vocab, &targets, &sums, &dy, &mut dlogits);
            let (mut dh, mut dw) = (vec![0.0; n * width], vec![0.0; vocab * width]);
            gemm(&dlogits, (vocab, 1), n, &Packed::from_in_out(&w, vocab, width), None, &mut dh);
            gemm(&dlogits, (1, vocab), vocab, &Packed::from_in_out(&h, n, width), None, &mut dw);
            let (rows, both) = (HeadWeight::Rows(&w, None), HeadWeight::Rows(&w, Some(&packed)));
            let alone = HeadWeight::Packed(&packed);
            let all = Some(&all[..]);
            for (kept, weight) in [(None, rows), (None, both), (None, alone), (all, rows), (all, alone)] {
                let saved = HeadSaved { h: &h, weight, logits: kept, targets: &targets, log_sum: &log_sum };
                let (mut got_h, mut got_w) = (vec![f32::NAN; n * width], vec![0.0; vocab * width]);
                let shape = (vocab, width);
                head_log_prob_backward(saved, shape, &dy, Some(&mut got_h), Some(&mut got_w));
                assert_bits("dh", &got_h, &dh);
                assert_bits("dweight", &got_w, &dw);
            }
        }
    }

    #[test]
    fn a_logit_without_probability_does_not_spoil_the_entropy() {
        let got = forced::same_bits(|| vec![entropy_of(&[f32::NEG_INFINITY, 0.0, 0.0], 2.0_f32.ln())]);
        assert_near("a coin", &got, &[2.0_f64.ln()], 1e-6);
    }
}
