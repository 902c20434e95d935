//! Metrics as sums and counts: divided once, when they are read.

use std::collections::BTreeMap;

/// Sums and counts by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Meters {
    by_name: BTreeMap<String, (f64, f64)>,
}

impl Meters {
    /// Adds one observation.
    pub fn add(&mut self, name: &str, value: f64) {
        self.add_sum(name, value, 1.0);
    }

    /// Adds a sum over `count` observations.
    pub fn add_sum(&mut self, name: &str, sum: f64, count: f64) {
        let entry = self.by_name.entry(name.to_owned()).or_default();
        entry.0 += sum;
        entry.1 += count;
    }

    /// Adds all observations.
    pub fn extend(&mut self, name: &str, values: impl IntoIterator<Item = f64>) {
        for value in values {
            self.add(name, value);
        }
    }

    /// Adds what another has observed.
    pub fn merge(&mut self, other: &Self) {
        for (name, (sum, count)) in &other.by_name {
            self.add_sum(name, *sum, *count);
        }
    }

    /// The mean of a metric, if it was observed.
    pub fn mean(&self, name: &str) -> Option<f64> {
        self.by_name.get(name).filter(|(_, count)| *count > 0.0).map(|(sum, count)| sum / count)
    }

    /// All means, by name.
    pub fn means(&self) -> impl Iterator<Item = (&str, f64)> {
        self.by_name
            .iter()
            .filter(|(_, (_, count))| *count > 0.0)
            .map(|(name, (sum, count))| (name.as_str(), sum / count))
    }

    /// Sums and counts by name, for [`Meters::restored`]; JSON has no numbers but finite ones.
    pub fn kept(&self) -> BTreeMap<String, (Option<f64>, Option<f64>)> {
        let finite = |number: f64| number.is_finite().then_some(number);
        self.by_name
            .iter()
            .map(|(name, (sum, count))| (name.clone(), (finite(*sum), finite(*count))))
            .collect()
    }

    /// The meters that [`Meters::kept`] was taken of.
    #[must_use]
    pub fn restored(kept: &BTreeMap<String, (Option<f64>, Option<f64>)>) -> Self {
        let number = |number: Option<f64>| number.unwrap_or(f64::NAN);
        let by_name = kept.iter().map(|(name, (sum, count))| (name.clone(), (number(*sum), number(*count))));
        Self { by_name: by_name.collect() }
    }

    /// Takes all that was observed and begins anew.
    #[must_use]
    pub fn take(&mut self) -> Self {
        std::mem::take(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_is_over_observations_and_not_over_batches() {
        let mut meters = Meters::default();
        meters.add_sum("loss", 10.0, 1.0);
        meters.add_sum("loss", 2.0, 3.0);
        assert_eq!(meters.mean("loss"), Some(3.0));
        assert_eq!(meters.mean("other"), None);
    }
}
