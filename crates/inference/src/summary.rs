//! Means of a run with their intervals, as the terminal shows them.

/// The quantile of the normal distribution that 95 % intervals end at.
const Z: f64 = 1.959_963_984_540_054;

/// A mean and its 95 % interval; no interval of fewer than two values.
pub(crate) struct Mean {
    pub(crate) value: f64,
    pub(crate) interval: Option<[f64; 2]>,
}

impl Mean {
    /// Of values that are 0 or 1: the interval is Wilson's.
    pub(crate) fn of_shares(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let p = values.iter().sum::<f64>() / n;
        let (z2, middle) = (Z * Z / n, p + Z * Z / (2.0 * n));
        let half = Z * (p * (1.0 - p) / n + z2 / (4.0 * n)).sqrt();
        let ends = [((middle - half) / (1.0 + z2)).max(0.0), ((middle + half) / (1.0 + z2)).min(1.0)];
        Self { value: p, interval: Some(ends) }
    }

    /// Of any values: the interval is the mean ± 1.96 standard errors.
    pub(crate) fn of_values(values: &[f64]) -> Self {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares = values.iter().map(|value| (value - mean) * (value - mean)).sum::<f64>();
        let error = (squares / (n - 1.0) / n).sqrt();
        let interval = (values.len() > 1).then_some([mean - Z * error, mean + Z * error]);
        Self { value: mean, interval }
    }
}

impl std::fmt::Display for Mean {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.4}", self.value)?;
        match self.interval {
            Some([low, high]) => write!(f, " [{low:.4}, {high:.4}]"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_shares_are_wilson_s() {
        // 4 of 10: 0.1682 to 0.6873, as statsmodels' proportion_confint(4, 10, method="wilson") gives.
        let four: Vec<f64> = (0..10).map(|at| f64::from(u8::from(at < 4))).collect();
        assert_eq!(Mean::of_shares(&four).to_string(), "0.4000 [0.1682, 0.6873]");
        assert_eq!(Mean::of_shares(&[0.0; 10]).to_string(), "0.0000 [0.0000, 0.2775]");
        assert_eq!(Mean::of_shares(&[1.0]).to_string(), "1.0000 [0.2065, 1.0000]");
    }

    #[test]
    fn one_value_has_no_interval() {
        assert_eq!(Mean::of_values(&[2.5]).to_string(), "2.5000");
        assert_eq!(Mean::of_values(&[1.0, 3.0]).to_string(), "2.0000 [0.0400, 3.9600]");
    }
}
