//! Log-probabilities of chosen tokens from hidden states and the head over the vocabulary, some rows at a time, so that the logits
//! of all rows are never in memory together. Bit for bit what the product and [`gather_log_prob`] give.
#![allow(unsafe_code, reason = "threads write disjoint elements of one output")]

mod back;
mod kl;
mod states;

use std::ops::Range;

use super::gemm::gemm;
use super::isa::multiversion;
use super::math::{LANES, exp, fold_lanes, join_lanes};
use super::pack::Packed;
use super::parallel::{Shared, for_each, rows_per_task};
use super::softmax::{gather_log_prob, log_prob_gradient};

pub use back::{HeadGrads, HeadWeight};
pub use kl::{head_kl, head_kl_backward};
pub use states::{HeadStates, each_row, head_rows};

/// Logits held at a time: 48 MiB.
const LOGITS: usize = 12 << 20;

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
            if p == 0.0 { lane } else { p.mul_add(log_sum - value, lane) }
        };
        let lanes: [f32; LANES] = fold_lanes(logits, 0.0, add);
        join_lanes(lanes, |a, b| a + b)
    }
}

/// What the gradient of [`head_log_prob`] starts from.
#[derive(Debug)]
pub struct HeadSaved<'a> {
    /// `[n, width]`.
    pub h: &'a [f32],
    /// The head.
    pub weight: HeadWeight<'a>,
    /// The logits `[n, vocab]`, where they were kept. Their gradient takes their place.
    pub logits: Option<&'a mut [f32]>,
    /// `[n]`.
    pub targets: &'a [u32],
    /// `[n]`.
    pub log_sum: &'a [f32],
}

/// The gradient of a loss in what [`head_log_prob`] gave.
#[derive(Clone, Copy, Debug)]
pub struct HeadLosses<'a> {
    /// In the log-probabilities, `[n]`.
    pub log_prob: &'a [f32],
    /// In the entropies, `[n]`, behind the entropies themselves.
    pub entropy: Option<[&'a [f32]; 2]>,
}

/// Gradient of [`head_log_prob`] in the hidden states and in the head: `dlogits = dy·(onehot(target) − p) − de·p·(ln p + H)`.
///
/// # Panics
/// When a slice does not have the length its shape says.
pub fn head_log_prob_backward(
    saved: HeadSaved<'_>,
    (vocab, width): (usize, usize),
    dy: HeadLosses<'_>,
    mut grads: HeadGrads<'_>,
) {
    let HeadSaved { h, weight, logits, targets, log_sum } = saved;
    let (mut logits, mut scratch) = (logits, Vec::new());
    let forth = logits.is_none().then(|| weight.forth(vocab, width));
    let mut back = Packed::empty();
    grads.begin();
    for rows in turns(dy.log_prob.len(), vocab) {
        let (n, hidden) = (rows.len(), &h[rows.start * width..rows.end * width]);
        if let Some(forth) = &forth {
            scratch.resize(n * vocab, 0.0);
            gemm(hidden, (width, 1), n, forth, None, &mut scratch);
        }
        let dlogits = match &mut logits {
            Some(logits) => &mut logits[rows.start * vocab..rows.end * vocab],
            None => &mut scratch[..],
        };
        let (targets, log_sum) = (&targets[rows.clone()], &log_sum[rows.clone()]);
        let log_prob = &dy.log_prob[rows.clone()];
        match dy.entropy.map(|both| both.map(|each| &each[rows.clone()])) {
            Some(entropy) if entropy[1].iter().any(|de| *de != 0.0) => {
                both_gradients(dlogits, vocab, targets, log_sum, log_prob, entropy);
            }
            _ => log_prob_gradient(dlogits, vocab, targets, log_sum, log_prob),
        }
        grads.take(dlogits, rows, hidden, weight, (vocab, width), &mut back);
    }
}

/// [`log_prob_gradient`] and that of the entropies, in the place of the logits.
fn both_gradients(
    logits: &mut [f32],
    vocab: usize,
    targets: &[u32],
    log_sum: &[f32],
    dy: &[f32],
    [entropy, de]: [&[f32]; 2],
) {
    let (n, step) = (dy.len(), rows_per_task(vocab));
    let logits = Shared::new(logits);
    for_each(n.div_ceil(step), |task| {
        for row in task * step..n.min((task + 1) * step) {
            // SAFETY: each row belongs to one task.
            let logits = unsafe { logits.slice(row * vocab, vocab) };
            both_gradients_of_row(logits, log_sum[row], dy[row], entropy[row], de[row]);
            logits[targets[row] as usize] += dy[row];
        }
    });
}

multiversion! {
    fn both_gradients_of_row(logits: &mut [f32], log_sum: f32, dy: f32, entropy: f32, de: f32) {
        for logit in logits {
            let log_p = *logit - log_sum;
            let p = exp(log_p);
            // A logit of −∞ has no probability, and no part in the entropy.
            *logit = if p == 0.0 { 0.0 } else { -p * de.mul_add(log_p + entropy, dy) };
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
            for (kept, weight) in [(false, rows), (false, both), (false, alone), (true, rows), (true, alone)]
            {
                let mut logits = all.clone();
                let kept = kept.then_some(&mut logits[..]);
                let saved = HeadSaved { h: &h, weight, logits: kept, targets: &targets, log_sum: &log_sum };
                let (mut got_h, mut got_w) = (vec![f32::NAN; n * width], vec![0.0; vocab * width]);
                let shape = (vocab, width);
                let grads = HeadGrads { h: Some(&mut got_h), weight: Some(&mut got_w) };
                // No loss in the entropies leaves the bits of that in log-probabilities alone.
                let none = vec![0.0; n];
                let losses = HeadLosses { log_prob: &dy, entropy: Some([&entropy, &none]) };
                head_log_prob_backward(saved, shape, losses, grads);
                assert_bits("dh", &got_h, &dh);
                assert_bits("dweight", &got_w, &dw);
            }

            // And with a loss in the entropies, from the formula.
            let de = noise(n, 4);
            let exact: Vec<f64> = (0..n * vocab)
                .map(|at| {
                    let row = at / vocab;
                    let log_p = f64::from(all[at]) - f64::from(sums[row]);
                    let hit = f64::from(u8::from(at % vocab == targets[row] as usize));
                    let (dy, de, p) = (f64::from(dy[row]), f64::from(de[row]), log_p.exp());
                    dy * (hit - p) - de * p * (log_p + f64::from(entropy[row]))
                })
                .collect();
            let mut dh = vec![0.0; n * width];
            let mut dw = vec![0.0; vocab * width];
            for (at, d) in exact.iter().enumerate() {
                let (row, id) = (at / vocab, at % vocab);
                for column in 0..width {
                    dh[row * width + column] += d * f64::from(w[id * width + column]);
                    dw[id * width + column] += d * f64::from(h[row * width + column]);
                }
            }
            let saved =
                HeadSaved { h: &h, weight: alone, logits: None, targets: &targets, log_sum: &log_sum };
            let (mut got_h, mut got_w) = (vec![f32::NAN; n * width], vec![0.0; vocab * width]);
            let grads = HeadGrads { h: Some(&mut got_h), weight: Some(&mut got_w) };
            let losses = HeadLosses { log_prob: &dy, entropy: Some([&entropy, &de]) };
            head_log_prob_backward(saved, (vocab, width), losses, grads);
            let tolerance = if vocab > 1_000_000 { 2e-3 } else { 1e-4 };
            assert_near("dh with entropies", &got_h, &dh, tolerance);
            assert_near("dweight with entropies", &got_w, &dw, tolerance);
        }
    }

    #[test]
    fn a_logit_without_probability_does_not_spoil_the_entropy() {
        let got = forced::same_bits(|| vec![entropy_of(&[f32::NEG_INFINITY, 0.0, 0.0], 2.0_f32.ln())]);
        assert_near("a coin", &got, &[2.0_f64.ln()], 1e-6);
    }
}
