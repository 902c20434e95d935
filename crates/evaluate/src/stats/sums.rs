//! Sums and counts, divided once.

use objective::numeric::Sum;

/// A sum and the number of its terms: the only thing that is ever averaged.
///
/// Parts are merged by adding sums and counts, so that the mean of a whole never depends on how it was cut into batches,
/// as a mean of means does.
///
/// ```
/// use evaluate::stats::Sums;
/// let first: Sums = [1.0, 1.0, 1.0].into_iter().collect();
/// let second: Sums = [5.0].into_iter().collect();
/// assert_eq!((first + second).mean(), Some(2.0)); // a mean of means would be 3
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    sum: Sum,
    count: u64,
}

impl Sums {
    /// Adds one value.
    pub fn push(&mut self, value: f64) {
        self.sum.add(value);
        self.count += 1;
    }

    /// Adds a value if there is one; a missing value changes neither the sum nor the count.
    pub fn push_some(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.push(value);
        }
    }

    /// The sum of the values.
    pub fn sum(&self) -> f64 {
        self.sum.value()
    }

    /// The number of the values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Sum divided by count, or `None` for no values.
    pub fn mean(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum() / self.count as f64)
    }
}

impl std::ops::Add for Sums {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self.sum.add(other.sum.value());
        self.count += other.count;
        self
    }
}

impl Extend<f64> for Sums {
    fn extend<I: IntoIterator<Item = f64>>(&mut self, values: I) {
        values.into_iter().for_each(|value| self.push(value));
    }
}

impl FromIterator<f64> for Sums {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut sums = Self::default();
        sums.extend(values);
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_mean_does_not_depend_on_the_cut(
            values in prop::collection::vec(-1e6_f64..1e6, 1..60),
            cut in 0_usize..60,
        ) {
            let cut = cut.min(values.len());
            let whole: Sums = values.iter().copied().collect();
            let parts = values[..cut].iter().copied().collect::<Sums>() + values[cut..].iter().copied().collect();
            prop_assert_eq!(whole.count(), parts.count());
            prop_assert!((whole.mean().unwrap() - parts.mean().unwrap()).abs() < 1e-9);
        }
    }

    #[test]
    fn missing_values_count_for_nothing() {
        let mut sums = Sums::default();
        assert_eq!(sums.mean(), None);
        sums.push_some(None);
        sums.push_some(Some(4.0));
        assert_eq!((sums.count(), sums.mean()), (1, Some(4.0)));
    }
}
