//! Where the stochastic regularised rules are pulled to, and rewards on a common scale.

use std::collections::BTreeMap;

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{PoolView, not_empty, numbers, ordered_sum};

/// The law on the samples that `srbon-kl` and `srbon-wd` are pulled to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Reference {
    /// `π_ref(y_i) / Σ_j π_ref(y_j)`, as the papers write it. Samples are drawn by `π_ref` and weighed by it once more.
    #[default]
    Probabilities,
    /// As `probabilities`, over the distinct texts: copies of a text share its weight.
    Distinct,
    /// `1 / n` each: samples of `π_ref` stand for it as they are.
    Samples,
}

impl Reference {
    /// The logarithms of its weights, up to a constant.
    pub(crate) fn log_weights(self, pool: &PoolView<'_>) -> Result<Vec<f64>, InputError> {
        Ok(match self {
            Self::Samples => vec![0.0; pool.size],
            Self::Probabilities => pool.need_log_probs()?.to_vec(),
            Self::Distinct => {
                let tokens = pool.need_tokens()?;
                let mut copies: BTreeMap<&[u32], usize> = BTreeMap::new();
                for ids in tokens {
                    *copies.entry(ids).or_default() += 1;
                }
                let shared = tokens.iter().map(|ids| (copies[ids] as f64).ln());
                pool.need_log_probs()?
                    .iter()
                    .zip(shared)
                    .map(|(log_prob, copies)| log_prob - copies)
                    .collect()
            }
        })
    }
}

/// The pool's rewards, or with `normalise` their distances from the mean in standard deviations: 0 where all are equal.
/// Refuses infinite rewards: rules that weigh rewards against something else need numbers.
pub(crate) fn scaled_rewards(pool: &PoolView<'_>, normalise: bool) -> Result<Vec<f64>, InputError> {
    let rewards = pool.need_rewards()?;
    not_empty("rewards of the pool", rewards.len())?;
    numbers("rewards of the pool", rewards, false)?;
    if !normalise {
        return Ok(rewards.to_vec());
    }
    // Divided by the greatest first: squares of large rewards would overflow.
    let largest = rewards.iter().fold(0.0_f64, |largest, reward| largest.max(reward.abs()));
    if largest == 0.0 {
        return Ok(vec![0.0; rewards.len()]);
    }
    let n = rewards.len() as f64;
    let small: Vec<f64> = rewards.iter().map(|reward| reward / largest).collect();
    let mean = ordered_sum(small.clone()) / n;
    let spread = (ordered_sum(small.iter().map(|x| (x - mean).powi(2)).collect()) / n).sqrt();
    let equal = rewards.iter().all(|reward| *reward == rewards[0]);
    Ok(small.iter().map(|x| if equal || spread == 0.0 { 0.0 } else { (x - mean) / spread }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(rewards: &[f64]) -> PoolView<'static> {
        PoolView { size: rewards.len(), rewards: rewards.to_vec(), ..PoolView::default() }
    }

    #[test]
    fn normalised_rewards_forget_offset_and_scale() {
        let plain = scaled_rewards(&view(&[1.0, 2.0, 6.0]), true).expect("numbers");
        assert!((plain.iter().sum::<f64>()).abs() < 1e-14);
        assert!((plain.iter().map(|x| x * x).sum::<f64>() - 3.0).abs() < 1e-14);
        for (scale, offset) in [(1e-3, 5.0), (1e300, 0.0), (40.0, -1e3)] {
            let moved = [1.0, 2.0, 6.0].map(|r| scale * r + offset);
            for (a, b) in plain.iter().zip(scaled_rewards(&view(&moved), true).expect("numbers")) {
                assert!((a - b).abs() < 1e-9, "{a} against {b}");
            }
        }
        assert_eq!(scaled_rewards(&view(&[0.1; 3]), true), Ok(vec![0.0; 3]));
        assert_eq!(scaled_rewards(&view(&[0.0; 2]), true), Ok(vec![0.0; 2]));
        assert_eq!(scaled_rewards(&view(&[3.0, -1.0]), false), Ok(vec![3.0, -1.0]));
        assert!(scaled_rewards(&view(&[f64::INFINITY]), false).is_err());
    }

    #[test]
    fn copies_share_the_weight_of_their_text() {
        let tokens: [&[u32]; 3] = [&[1, 2], &[3], &[1, 2]];
        let log_probs = vec![0.3_f64.ln(), 0.1_f64.ln(), 0.3_f64.ln()];
        let pool = PoolView { size: 3, log_probs, tokens: tokens.to_vec(), ..PoolView::default() };
        let law = |reference: Reference| {
            objective::numeric::softmax(&reference.log_weights(&pool).expect("a pool"))
        };
        let close = |got: Vec<f64>, want: [f64; 3]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-14);
        assert!(close(law(Reference::Samples), [1.0 / 3.0; 3]));
        assert!(close(law(Reference::Probabilities), [3.0 / 7.0, 1.0 / 7.0, 3.0 / 7.0]));
        assert!(close(law(Reference::Distinct), [3.0 / 8.0, 1.0 / 4.0, 3.0 / 8.0]));
    }
}
