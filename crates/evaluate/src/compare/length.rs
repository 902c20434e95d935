//! The length control: what the base's own answers are worth at the lengths of a method's answers.
//!
//! Its law draws a length as the method does and then an answer of the base of that length, `Σ_L P(|y| = L) π(y | |y| = L)`
//! for every prompt. Where a method's gain comes of length alone, the control has it too; what the method gains beyond it is
//! the answers' own. It is estimated from the base's pool: for an answer of length `L`, the mean over the samples of length
//! `L`, which is unbiased where there is one; where there is none, over those nearest in length. The row says how far they
//! are, and of how many answers the length was there.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::rows::{Scored, beats};
use crate::report::RowInput;

/// The name of the control among methods.
const NAME: &str = "length-matched";

/// The row of the control of a method's row, whose answers to each prompt have the lengths `wanted`, each as likely as the
/// others.
pub(super) fn row(
    base: &Scored<'_>,
    policy: &str,
    of: (&str, &BTreeMap<String, Value>, usize),
    wanted: &[Vec<usize>],
) -> RowInput {
    let (method, settings, n) = of;
    let mut values: BTreeMap<&str, Vec<Option<f64>>> = BTreeMap::new();
    let (mut distance, mut there, mut answers) = (0.0, 0.0, 0.0);
    for (place, wanted) in wanted.iter().enumerate() {
        let samples = base.pool.samples(place);
        let lengths: Vec<usize> = samples.iter().map(|sample| sample.ids.len()).collect();
        let weights = matched(&lengths, wanted);
        let mean = |value: &dyn Fn(usize) -> f64| -> f64 {
            weights.iter().enumerate().filter(|(_, w)| **w > 0.0).map(|(i, w)| w * value(i)).sum()
        };
        let gold = base.gold[place];
        let mut put = |name, value| values.entry(name).or_default().push(value);
        put("reward/gold", Some(mean(&|i| gold[i])));
        if base.gold_is_accuracy {
            put("accuracy", Some(mean(&|i| gold[i])));
        }
        if let Some(proxy) = &base.proxy {
            put("reward/proxy", Some(mean(&|i| proxy[place][i])));
        }
        put("win_rate", win_rate(&lengths, wanted, gold));
        put("length", Some(mean(&|i| lengths[i] as f64)));
        for length in wanted {
            let gap = lengths.iter().map(|other| other.abs_diff(*length)).min().unwrap_or(0);
            distance += gap as f64;
            there += f64::from(u8::from(gap == 0));
            answers += 1.0;
        }
    }
    let mut reasons = BTreeMap::new();
    reasons.insert("kl".to_owned(), "the lengths of the method's answers have no known law".to_owned());
    if !base.gold_is_accuracy {
        reasons.insert("accuracy".to_owned(), "the gold reward is not the share of right answers".to_owned());
    }
    reasons.insert("win_rate".to_owned(), "one sample of the base has none beside it".to_owned());
    if base.proxy.is_none() {
        reasons.insert("reward/proxy".to_owned(), "no proxy reward was given".to_owned());
    }
    let mut params = settings.clone();
    params.insert("of".to_owned(), json!(method));
    let mean = |sum: f64| if answers > 0.0 { sum / answers } else { 0.0 };
    let diagnostics = [("length/distance", mean(distance)), ("length/matched", mean(there))];
    RowInput {
        method: NAME.to_owned(),
        policy: policy.to_owned(),
        params,
        n,
        per_prompt: values.into_iter().map(|(name, values)| (name.to_owned(), values)).collect(),
        reasons,
        // It needs all samples shown.
        cost: base.drawing.get(&base.pool.samples_per_prompt()).copied().unwrap_or_default(),
        diagnostics: diagnostics.map(|(name, value)| (name.to_owned(), value)).into(),
        sweep: None,
        basis: Some("mean over the base's samples of the lengths of the row's answers".to_owned()),
    }
}

/// Weights of samples of these lengths under the law that draws one of `wanted` and then one of the samples nearest to it
/// in length, all as likely as the others.
fn matched(lengths: &[usize], wanted: &[usize]) -> Vec<f64> {
    let mut weights = vec![0.0; lengths.len()];
    for length in wanted {
        let gap = |place: &usize| lengths[*place].abs_diff(*length);
        let least = (0..lengths.len()).map(|place| gap(&place)).min().unwrap_or(0);
        let nearest: Vec<usize> = (0..lengths.len()).filter(|place| gap(place) == least).collect();
        for place in &nearest {
            weights[*place] += 1.0 / (nearest.len() * wanted.len()) as f64;
        }
    }
    weights
}

/// The chance that a sample drawn as in [`matched`] beats another sample of the base, ties one half: for
/// every other sample
/// the nearest are those of the rest, so that none is compared with itself. `None` where there is no other.
fn win_rate(lengths: &[usize], wanted: &[usize], gold: &[f64]) -> Option<f64> {
    let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
    for length in wanted {
        *counts.entry(*length).or_default() += 1;
    }
    let mut won = 0.0;
    for (length, count) in counts {
        for other in 0..lengths.len() {
            let rest = || (0..lengths.len()).filter(move |place| *place != other);
            let least = rest().map(|place| lengths[place].abs_diff(length)).min()?;
            let (mut points, mut nearest) = (0.0, 0.0);
            for place in rest().filter(|place| lengths[*place].abs_diff(length) == least) {
                points += beats(gold[place], gold[other]);
                nearest += 1.0;
            }
            won += count as f64 * points / nearest;
        }
    }
    Some(won / (lengths.len() * wanted.len()) as f64)
}

#[cfg(test)]
mod tests {
    use objective::draw::Exhaustive;

    use super::*;

    #[test]
    fn the_nearest_samples_share_the_weight_of_a_length() {
        assert_eq!(matched(&[3, 5, 3, 9], &[3]), [0.5, 0.0, 0.5, 0.0]);
        assert_eq!(matched(&[3, 5, 3, 9], &[4, 20]), [1.0 / 6.0, 1.0 / 6.0, 1.0 / 6.0, 0.5]);
        assert_eq!(matched(&[7], &[1, 2]), [1.0]);
    }

    #[test]
    fn no_sample_is_compared_with_itself() {
        // One sample has the length: it beats one of the other two, and where it is the other itself the
        // nearest one plays.
        let won = win_rate(&[1, 2, 3], &[2], &[0.0, 1.0, 2.0]).expect("others");
        assert!((won - (1.0 + 0.0 + 0.5) / 3.0).abs() < 1e-12, "{won}");
        assert_eq!(win_rate(&[4], &[4], &[1.0]), None);
        // With as many samples of the length as there are, all are alike.
        let won = win_rate(&[2, 2, 2, 2], &[2, 2, 7], &[0.0, -0.0, 1.0, 3.0]).expect("others");
        assert!((won - 0.5).abs() < 1e-12, "{won}");
    }

    /// A base of five answers: their probabilities, lengths and rewards.
    const BASE: [(f64, usize, f64); 5] =
        [(0.3, 1, 0.2), (0.2, 1, -1.0), (0.25, 2, 0.5), (0.15, 2, 2.0), (0.1, 3, 1.5)];

    #[test]
    fn the_control_is_the_base_given_the_lengths_of_the_method() {
        let log_p = BASE.map(|(p, _, _)| p.ln());
        let given = |length: usize| {
            let of: Vec<_> = BASE.iter().filter(|(_, l, _)| *l == length).collect();
            let mass: f64 = of.iter().map(|(p, _, _)| p).sum();
            of.iter().map(|(p, _, r)| p * r).sum::<f64>() / mass
        };
        // Over all pools of three samples that have the length: exactly the base's mean reward at it.
        for length in [1, 2, 3] {
            let sums = Exhaustive::mean(|draw| {
                let pool: Vec<usize> = (0..3).map(|_| draw.pick(&log_p)).collect();
                let lengths: Vec<usize> = pool.iter().map(|i| BASE[*i].1).collect();
                if !lengths.contains(&length) {
                    return vec![0.0; 3];
                }
                let value =
                    |weights: &[f64]| -> f64 { weights.iter().zip(&pool).map(|(w, i)| w * BASE[*i].2).sum() };
                vec![1.0, value(&matched(&lengths, &[length])), value(&[1.0 / 3.0; 3])]
            })
            .expect("finite");
            let (control, base) = (sums[1] / sums[0], sums[2] / sums[0]);
            assert!((control - given(length)).abs() < 1e-14, "{control} and not {}", given(length));
            assert!((base - given(length)).abs() > 0.05, "the pool's mean is another number");
        }
    }

    #[test]
    fn a_gain_that_comes_of_length_alone_vanishes() {
        // A method that prefers long answers, and a reward that sees lengths alone: the control has all of its reward.
        let lengths = [1, 1, 2, 2, 3];
        let reward = |length: usize| 0.7 * length as f64;
        let answers = [3, 2, 3];
        let method: f64 = answers.iter().map(|length| reward(*length)).sum::<f64>() / 3.0;
        let weights = matched(&lengths, &answers);
        let control: f64 = weights.iter().zip(lengths).map(|(w, length)| w * reward(length)).sum();
        let base: f64 = lengths.iter().map(|length| reward(*length)).sum::<f64>() / 5.0;
        assert!((method - control).abs() < 1e-12 && method - base > 0.5);
    }
}
