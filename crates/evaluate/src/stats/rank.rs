//! Rank agreement of two scores.

use objective::numeric::mean;

use super::{Estimate, Resamples, Undetermined};

/// Ranks from 1, equal values sharing the mean of their ranks.
///
/// ```
/// assert_eq!(evaluate::stats::mid_ranks(&[5.0, 1.0, 5.0, 7.0]), [2.5, 1.0, 2.5, 4.0]);
/// ```
pub fn mid_ranks(values: &[f64]) -> Vec<f64> {
    weighted_ranks(values, &vec![1; values.len()])
}

/// Spearman's correlation of ranks of two scores, with a bootstrap interval over the items.
///
/// # Errors
/// [`Undetermined`] for fewer than two items, or where one score is the same for all.
///
/// # Panics
/// If the two and the resamples differ in length.
pub fn spearman(x: &[f64], y: &[f64], resamples: &Resamples) -> Result<Estimate, Undetermined> {
    assert_eq!(x.len(), y.len(), "two scores of the same items");
    assert_eq!(x.len(), resamples.prompts(), "resamples of these items");
    match x.len() {
        0 => return Err(Undetermined::NoValues),
        1 => return Err(Undetermined::OneValue),
        _ => {}
    }
    let point = correlation_of_ranks(x, y, &vec![1; x.len()])
        .ok_or(Undetermined::Undefined("one of the two scores is the same for all items"))?;
    let interval = resamples.interval(|counts| correlation_of_ranks(x, y, counts));
    Ok(Estimate { mean: point, interval, count: x.len() })
}

/// Spearman's correlation where item `i` occurs `counts[i]` times.
fn correlation_of_ranks(x: &[f64], y: &[f64], counts: &[u32]) -> Option<f64> {
    let (x, y) = (weighted_ranks(x, counts), weighted_ranks(y, counts));
    let repeat = |ranks: &[f64]| -> Vec<f64> {
        ranks
            .iter()
            .zip(counts)
            .flat_map(|(rank, count)| std::iter::repeat_n(*rank, *count as usize))
            .collect()
    };
    pearson(&repeat(&x), &repeat(&y))
}

/// Pearson's correlation, or `None` where one side does not vary.
fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let (centre_x, centre_y) = (mean(x), mean(y));
    let (mut xx, mut yy, mut xy) = (0.0, 0.0, 0.0);
    for (x, y) in x.iter().zip(y) {
        let (x, y) = (x - centre_x, y - centre_y);
        xx += x * x;
        yy += y * y;
        xy += x * y;
    }
    (xx > 0.0 && yy > 0.0).then(|| (xy / (xx * yy).sqrt()).clamp(-1.0, 1.0))
}

/// Mid-ranks of the multiset that holds `values[i]` `counts[i]` times.
fn weighted_ranks(values: &[f64], counts: &[u32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let mut ranks = vec![0.0; values.len()];
    let mut before = 0.0;
    for class in order.chunk_by(|a, b| values[*a] == values[*b]) {
        let size: f64 = class.iter().map(|i| f64::from(counts[*i])).sum();
        for i in class {
            ranks[*i] = before + f64::midpoint(1.0, size);
        }
        before += size;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resamples(items: usize) -> Resamples {
        Resamples::new(1, items, 400, 0.95).unwrap()
    }

    #[test]
    fn a_known_correlation_with_ties() {
        // Pearson correlation of the ranks [1, 2.5, 2.5, 4, 5] and [2, 1, 4, 3, 5], by Python.
        let estimate =
            spearman(&[1.0, 2.0, 2.0, 3.0, 5.0], &[2.0, 1.0, 4.0, 3.0, 5.0], &resamples(5)).unwrap();
        assert!((estimate.mean - 0.666_885_928_855_350_3).abs() < 1e-9, "{}", estimate.mean);
    }

    #[test]
    fn one_score_that_never_varies_has_no_correlation() {
        let result = spearman(&[1.0, 1.0, 1.0], &[1.0, 2.0, 3.0], &resamples(3));
        assert!(matches!(result, Err(Undetermined::Undefined(_))));
        assert_eq!(spearman(&[], &[], &resamples(0)), Err(Undetermined::NoValues));
        assert_eq!(spearman(&[1.0], &[1.0], &resamples(1)), Err(Undetermined::OneValue));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn increasing_maps_change_nothing_and_the_interval_holds_the_point(
            pairs in prop::collection::vec((-3.0_f64..3.0, -3.0_f64..3.0), 8..30),
        ) {
            let (x, y): (Vec<f64>, Vec<f64>) = pairs.into_iter().unzip();
            let resamples = resamples(x.len());
            let plain = spearman(&x, &y, &resamples).unwrap();
            let mapped: Vec<f64> = x.iter().map(|x| x.exp()).collect();
            prop_assert_eq!(&plain, &spearman(&mapped, &y, &resamples).unwrap());
            let same = spearman(&x, &x, &resamples).unwrap();
            prop_assert!((same.mean - 1.0).abs() < 1e-12);
            let interval = plain.interval.unwrap();
            prop_assert!((-1.0..=1.0).contains(&interval.low) && interval.low <= interval.high);
        }

        #[test]
        fn counts_mean_repetition(
            values in prop::collection::vec(0_u8..4, 2..8),
            counts in prop::collection::vec(0_u32..3, 8),
        ) {
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            let counts = &counts[..values.len()];
            let repeated: Vec<f64> = values
                .iter()
                .zip(counts)
                .flat_map(|(value, count)| std::iter::repeat_n(*value, *count as usize))
                .collect();
            let expected = mid_ranks(&repeated);
            let ranks = weighted_ranks(&values, counts);
            let found: Vec<f64> = ranks
                .iter()
                .zip(counts)
                .flat_map(|(rank, count)| std::iter::repeat_n(*rank, *count as usize))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
