//! Minimum Bayes risk: the sample most alike to all others, for text without a final answer.

use objective::error::InputError;

use super::{first_greatest, not_empty, numbers, ordered_sum};

/// The outcome of a minimum-Bayes-risk choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Mbr {
    /// Index of the greatest score, of equals the first.
    pub index: usize,
    /// Weighted mean of each sample's similarity to all samples, itself included.
    pub scores: Vec<f64>,
}

/// `argmax_i Σ_j w_j · similarity(i, j) / Σ_j w_j`, itself included. `similarity(i, j)` is the utility of sample `i`
/// against reference `j` and need not be symmetric. A sample that was drawn several times may be given once with the
/// sum of its weights; weights are finite, not negative, and not all zero.
///
/// ```
/// use inference::selection::{mbr, rouge1_f1};
///
/// let samples: [&[u32]; 3] = [&[1, 2, 9], &[1, 2, 3], &[3, 2, 1, 9]];
/// let chosen = mbr(&[1.0; 3], |i, j| rouge1_f1(samples[i], samples[j]))?;
/// assert_eq!(chosen.index, 2);
/// # Ok::<(), objective::error::InputError>(())
/// ```
pub fn mbr(weights: &[f64], mut similarity: impl FnMut(usize, usize) -> f64) -> Result<Mbr, InputError> {
    not_empty("weights of the pool", weights.len())?;
    numbers("weights of the pool", weights, false)?;
    let total = ordered_sum(weights.to_vec());
    if total <= 0.0 {
        return Err(InputError::OutOfRange {
            what: "total weight of the pool",
            value: total,
            range: "above 0",
        });
    }
    let mut scores = Vec::with_capacity(weights.len());
    for i in 0..weights.len() {
        let row = weights.iter().enumerate().map(|(j, weight)| weight * similarity(i, j)).collect();
        scores.push(ordered_sum(row) / total);
    }
    numbers("similarity", &scores, false)?;
    Ok(Mbr { index: first_greatest(&scores), scores })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selection::rouge1_f1;

    #[test]
    fn exact_match_as_similarity_is_the_majority() {
        let answers = ["b", "a", "a", "c", "b", "a"];
        let same = |i: usize, j: usize| f64::from(u8::from(answers[i] == answers[j]));
        assert_eq!(
            mbr(&[1.0; 6], same).expect("a pool").index,
            super::super::majority(&answers).expect("a pool").index
        );
    }

    #[test]
    fn weights_stand_for_repeats() {
        let samples: [&[u32]; 3] = [&[1, 2], &[2, 3, 4], &[9, 4]];
        let repeated: [&[u32]; 6] = [samples[0], samples[1], samples[2], samples[2], samples[2], samples[1]];
        let weighted = mbr(&[1.0, 2.0, 3.0], |i, j| rouge1_f1(samples[i], samples[j])).expect("a pool");
        let plain = mbr(&[1.0; 6], |i, j| rouge1_f1(repeated[i], repeated[j])).expect("a pool");
        assert_eq!(weighted.index, plain.index);
        for (a, b) in weighted.scores.iter().zip(&plain.scores) {
            assert!((a - b).abs() < 1e-15);
        }
    }

    #[test]
    fn nothing_to_weigh_is_refused() {
        assert!(mbr(&[], |_, _| 1.0).is_err());
        assert!(mbr(&[0.0, 0.0], |_, _| 1.0).is_err());
        assert!(mbr(&[1.0], |_, _| f64::NAN).is_err());
    }
}
