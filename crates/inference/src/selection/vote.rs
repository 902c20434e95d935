//! Votes over final answers: self-consistency and its weighted form.

use std::collections::BTreeMap;

use objective::error::InputError;
use objective::numeric::softmax;

use super::{first_greatest, not_empty, numbers, ordered_sum, same_length};

/// The outcome of a vote.
#[derive(Debug, Clone, PartialEq)]
pub struct Vote {
    /// Index of the first sample with the winning answer.
    pub index: usize,
    /// The winning answer.
    pub answer: String,
    /// Total weight of each answer, in the order of first appearance.
    pub totals: Vec<(String, f64)>,
}

/// The answer of greatest total weight. Weights are finite and not negative.
///
/// The empty string is no answer: samples without one take no part. Where none has an answer the first sample
/// is given. Totals are summed in an order that depends on the weights alone, so that
/// answers with equal weights tie exactly, and then the one that appears first wins.
pub fn vote(answers: &[&str], weights: &[f64]) -> Result<Vote, InputError> {
    not_empty("answers of the pool", answers.len())?;
    same_length("weights of the vote", answers.len(), weights.len())?;
    numbers("weights of the vote", weights, false)?;
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    let mut classes: Vec<(usize, Vec<f64>)> = Vec::new();
    let voting = answers.iter().zip(weights).enumerate().filter(|(_, (answer, _))| !answer.is_empty());
    for (index, (answer, weight)) in voting {
        let place = *places.entry(*answer).or_insert_with(|| {
            classes.push((index, Vec::new()));
            classes.len() - 1
        });
        classes[place].1.push(*weight);
    }
    if classes.is_empty() {
        return Ok(Vote { index: 0, answer: String::new(), totals: Vec::new() });
    }
    let (firsts, totals): (Vec<usize>, Vec<f64>) =
        classes.into_iter().map(|(first, weights)| (first, ordered_sum(weights))).unzip();
    let index = firsts[first_greatest(&totals)];
    let named = firsts.iter().zip(totals).map(|(first, total)| (answers[*first].to_owned(), total)).collect();
    Ok(Vote { index, answer: answers[index].to_owned(), totals: named })
}

/// The most frequent answer (self-consistency, Wang et al. 2023).
///
/// ```
/// let vote = inference::selection::majority(&["", "7", "", "12", "7"])?;
/// assert_eq!((vote.index, vote.answer.as_str()), (1, "7"));
/// # Ok::<(), objective::error::InputError>(())
/// ```
pub fn majority(answers: &[&str]) -> Result<Vote, InputError> {
    vote(answers, &vec![1.0; answers.len()])
}

/// The answer of greatest weight under `softmax(reward / beta)` over the pool: the self-normalised importance estimate of
/// the answer's probability under `p(y) exp(r / beta) / Z`, which is what a QAlign chain of the same `beta` votes on.
pub fn weighted_majority(answers: &[&str], rewards: &[f64], beta: f64) -> Result<Vote, InputError> {
    not_empty("answers of the pool", answers.len())?;
    same_length("rewards of the pool", answers.len(), rewards.len())?;
    vote(answers, &tilt_weights(rewards, beta)?)
}

/// `softmax(rewards / beta)` of finite rewards, at least one, and a finite `beta` above zero.
pub(super) fn tilt_weights(rewards: &[f64], beta: f64) -> Result<Vec<f64>, InputError> {
    not_empty("rewards of the pool", rewards.len())?;
    numbers("rewards of the pool", rewards, false)?;
    if !(beta.is_finite() && beta > 0.0) {
        return Err(InputError::OutOfRange { what: "beta", value: beta, range: "finite and above 0" });
    }
    // The greatest is taken away before dividing: r / beta may overflow where differences do not.
    let greatest = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Ok(softmax(&rewards.iter().map(|r| (r - greatest) / beta).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_rewards_make_the_majority() {
        let answers = ["3", "5", "5", "3", "4"];
        let weighted = weighted_majority(&answers, &[1e6; 5], 0.01).expect("a pool");
        assert_eq!(weighted.index, majority(&answers).expect("a pool").index);
        assert_eq!(weighted.index, 0, "of equal counts, the answer that appears first");
    }

    #[test]
    fn order_changes_no_total() {
        let answers = ["a", "b", "a", "b", "a", "b"];
        // Each has the weights {0.1, 0.2, 0.3} / total, in another order: a plain sum would not tie.
        let rewards = [0.1_f64, 0.3, 0.2, 0.2, 0.3, 0.1].map(f64::ln);
        let vote = weighted_majority(&answers, &rewards, 1.0).expect("a pool");
        assert_eq!(vote.totals[0].1, vote.totals[1].1);
        assert_eq!(vote.answer, "a");
    }

    #[test]
    fn small_beta_follows_the_best_sample_and_large_beta_the_count() {
        let (answers, rewards) = (["7", "7", "9"], [0.0, 0.1, 1.0]);
        assert_eq!(weighted_majority(&answers, &rewards, 1e-300).expect("a pool").answer, "9");
        assert_eq!(weighted_majority(&answers, &rewards, 1e9).expect("a pool").answer, "7");
    }

    #[test]
    fn samples_without_an_answer_take_no_part() {
        let answers = ["", "7", "", "9", "9", ""];
        let vote = majority(&answers).expect("a pool");
        assert_eq!((vote.index, vote.answer.as_str()), (3, "9"));
        assert_eq!(vote.totals, [("7".to_owned(), 1.0), ("9".to_owned(), 2.0)]);
        let rewards = [9.0, 1.0, 9.0, 0.0, 0.0, 9.0];
        assert_eq!(weighted_majority(&answers, &rewards, 0.1).expect("a pool").answer, "7");
        let none = majority(&["", ""]).expect("a pool");
        assert_eq!((none.index, none.answer.as_str(), none.totals.len()), (0, "", 0));
    }

    #[test]
    fn what_cannot_be_weighed_is_refused() {
        assert!(majority(&[]).is_err());
        assert!(weighted_majority(&["a"], &[f64::INFINITY], 1.0).is_err());
        assert!(weighted_majority(&["a"], &[0.0], 0.0).is_err());
        assert!(weighted_majority(&["a"], &[0.0, 1.0], 1.0).is_err());
    }
}
