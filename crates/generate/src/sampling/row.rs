//! Tokens drawn from one row of logits: what a head's product is followed by, in the model or on the host.

use super::Sampling;
use super::loops::{finite_greatest, log_sum_exp_below, ratio_sum, sum};
use crate::capability::{RowDraw, TokenDraw};
use crate::completion::TokenId;

/// Weights added up in parts of so many.
const BLOCK: usize = 256;

/// The inverse of weights' running sum. A vocabulary is added up in blocks, and only the block that decides is gone through.
pub(crate) struct Inverse<'a> {
    weights: &'a [f32],
    sums: Vec<f64>,
}

impl<'a> Inverse<'a> {
    /// Of weights that are not negative and not all zero.
    pub(crate) fn new(weights: &'a [f32]) -> Self {
        Self { weights, sums: weights.chunks(BLOCK).map(sum).collect() }
    }

    /// The index at which the running sum passes `u` of the total; the last one that is not zero where rounding lets none.
    pub(crate) fn at(&self, u: f64) -> usize {
        let target = u * self.sums.iter().sum::<f64>();
        let (mut end, mut below, mut start) = (0.0, 0.0, 0);
        for (block, sum) in self.sums.iter().enumerate() {
            if *sum > 0.0 {
                (below, start) = (end, block * BLOCK);
                end += sum;
                if target < end {
                    break;
                }
            }
        }
        let mut index = start;
        for (at, weight) in self.weights[start..].iter().take(BLOCK).enumerate() {
            if *weight > 0.0 {
                index = start + at;
                below += f64::from(*weight);
                if target < below {
                    break;
                }
            }
        }
        index
    }
}

/// `Σ q ln(q/p)` in nats, of the law `q` of `weights`, whose sum is `total` and which `mixed` logits gave, of which the greatest is known, to the law `p` of `reference`, whose
/// `ln Σ exp` is `lse`. The logarithm of a weight is its logit's, but for a constant: none is taken of a whole vocabulary.
pub(crate) fn divergence(
    temperature: f32,
    (mixed, greatest): (&[f32], f32),
    (weights, total): (&[f32], f64),
    (reference, lse): (&[f32], f64),
) -> f64 {
    if temperature == 0.0 {
        let drawn = weights.iter().zip(reference).filter(|(weight, _)| **weight > 0.0);
        return drawn.map(|(_, reference)| lse - f64::from(*reference)).sum();
    }
    let inverse = 1.0 / temperature;
    let greatest = f64::from(greatest * inverse);
    ratio_sum(weights, mixed, inverse, reference) / total + (lse - greatest - total.ln())
}

impl TokenDraw {
    /// A token of the law of `weights`, whose sum is `total`; `raw` are the logits of the raw law and their `ln Σ exp`, where it is another.
    pub(crate) fn of(id: usize, (weights, total): (&[f32], f64), raw: Option<(&[f32], f64)>) -> Self {
        let log_prob = (f64::from(weights[id]) / total).ln();
        let raw_log_prob = raw.map_or(log_prob, |(logits, lse)| f64::from(logits[id]) - lse);
        Self { id: id as TokenId, log_prob, raw_log_prob }
    }
}

impl Sampling {
    /// Draws from the law that these settings make of a model's `logits`, which are not there any more afterwards: a token for each number in
    /// `[0, 1)`, where the law's running sum, in the order of ids, passes it. `None` where the logits are not numbers.
    pub fn draw(&self, logits: &mut [f32], uniforms: &[f64]) -> Option<RowDraw> {
        let greatest = finite_greatest(logits)?;
        let raw = (!self.is_raw()).then(|| (logits.to_vec(), log_sum_exp_below(logits, greatest)));
        let total = self.weights_below(logits, greatest);
        let weights = &*logits;
        let kl = raw.as_ref().map_or(0.0, |(raw, lse)| {
            divergence(self.temperature, (raw, greatest), (weights, total), (raw, *lse))
        });
        let inverse = Inverse::new(weights);
        let draw = |u: &f64| {
            let id = inverse.at(*u);
            TokenDraw::of(id, (weights, total), raw.as_ref().map(|(raw, lse)| (&raw[..], *lse)))
        };
        Some(RowDraw { tokens: uniforms.iter().map(draw).collect(), kl })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{greatest, log_sum_exp};
    use super::*;
    use crate::{Purpose, Stream};

    #[test]
    fn the_inverse_in_blocks_is_that_of_one_running_sum() {
        let naive = |weights: &[f32], u: f64| {
            let total: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            let mut below = 0.0;
            let passes = |weight: &f32| {
                below += f64::from(*weight);
                u * total < below
            };
            weights.iter().position(passes).expect("u is below 1")
        };
        let mut stream = Stream::new(3, Purpose::Init, 0, 0);
        for count in [1, 2, 255, 256, 257, 1000, 49_152] {
            // Multiples of a sixteenth, whose sums are exact in any order; some of them, and a whole block, are zero.
            let mut weights: Vec<f32> =
                (0..count).map(|_| (stream.bits() % 40).saturating_sub(20) as f32 / 16.0).collect();
            weights[count - 1] = 1.0;
            if count > 600 {
                weights[256..512].fill(0.0);
            }
            let draws: Vec<f64> = (0..300).map(|_| stream.uniform()).collect();
            for u in draws.into_iter().chain([0.0, 1.0 - f64::EPSILON]) {
                assert_eq!(Inverse::new(&weights).at(u), naive(&weights, u), "{u} of {count}");
            }
        }
        assert_eq!(Inverse::new(&[0.0, 2.0, 0.0]).at(1.0), 1, "never a weight of zero");
    }

    fn naive_divergence((weights, total): (&[f32], f64), (reference, lse): (&[f32], f64)) -> f64 {
        let pairs = weights.iter().zip(reference).filter(|(weight, _)| **weight > 0.0);
        pairs
            .map(|(weight, logit)| (f64::from(*weight) / total, f64::from(*logit) - lse))
            .map(|(q, log_p)| q * (q.ln() - log_p))
            .sum()
    }

    #[test]
    fn the_divergence_is_that_of_the_laws_with_every_logarithm_taken() {
        let mut stream = Stream::new(0, Purpose::Init, 0, 0);
        let mut logits = || (0..203).map(|_| (6.0 * stream.normal()) as f32).collect::<Vec<f32>>();
        let raw = Sampling::default;
        let settings = [
            raw(),
            Sampling { temperature: 0.0, ..raw() },
            Sampling { temperature: 0.4, ..raw() },
            Sampling { temperature: 1.7, top_k: 20, ..raw() },
            Sampling { temperature: 0.8, top_p: 0.9, min_p: 0.01, ..raw() },
        ];
        for settings in settings {
            let (mut mixed, reference) = (logits(), logits());
            mixed[7] = f32::NEG_INFINITY;
            let mut weights = mixed.clone();
            let total = settings.weights(&mut weights);
            let lse = log_sum_exp(&reference);
            let naive = naive_divergence((&weights, total), (&reference, lse));
            let found = divergence(
                settings.temperature,
                (&mixed, greatest(&mixed)),
                (&weights, total),
                (&reference, lse),
            );
            assert!((found - naive).abs() < 1e-5 && naive > 0.1, "{settings:?}: {found} and not {naive}");
        }
    }

    /// Numbers at equal distances: each token is drawn for as many of them as its probability says.
    #[test]
    fn what_is_drawn_has_the_shares_of_the_law() {
        const NUMBERS: usize = 50_000;
        let mut stream = Stream::new(1, Purpose::Init, 0, 0);
        let logits: Vec<f32> = (0..700).map(|_| (3.0 * stream.normal()) as f32).collect();
        let uniforms: Vec<f64> = (0..NUMBERS).map(|at| (at as f64 + 0.5) / NUMBERS as f64).collect();
        let raw = Sampling::default;
        for settings in [
            raw(),
            Sampling::greedy(),
            Sampling { temperature: 0.6, ..raw() },
            Sampling { top_k: 5, ..raw() },
            Sampling { top_p: 0.8, temperature: 1.3, ..raw() },
            Sampling { min_p: 0.05, ..raw() },
        ] {
            let given = settings.draw(&mut logits.clone(), &uniforms).expect("numbers");
            let mut weights = logits.clone();
            let total = settings.weights(&mut weights);
            let lse = log_sum_exp(&logits);
            let mut counts = vec![0_usize; logits.len()];
            for TokenDraw { id, log_prob, raw_log_prob } in given.tokens {
                counts[id as usize] += 1;
                assert_eq!(log_prob, (f64::from(weights[id as usize]) / total).ln());
                assert!((raw_log_prob - (f64::from(logits[id as usize]) - lse)).abs() < 1e-6);
            }
            for (count, weight) in counts.iter().zip(&weights) {
                let share = f64::from(*weight) / total * NUMBERS as f64;
                assert!((*count as f64 - share).abs() < 1.01, "{settings:?}: {count} and not {share}");
            }
            let kl = naive_divergence((&weights, total), (&logits, lse));
            assert!((given.kl - kl).abs() < 1e-5, "{settings:?}: {} and not {kl}", given.kl);
        }
        for spoiled in [f32::NAN, f32::INFINITY] {
            let mut logits = logits.clone();
            logits[600] = spoiled;
            assert!(raw().draw(&mut logits, &uniforms).is_none());
        }
    }
}
