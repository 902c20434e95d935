//! The tilted law `p(y) exp(a(y)) / Z` from samples of `p`.

/// What samples say of the law tilted by log-weights: `ln Z` and a mean under it, both without their bias of
/// first order in
/// the number of samples.
///
/// Plugged in, `ln Z` is too small and the mean too near that of `p`, by about `c / M` of `M` samples. The
/// jackknife takes
/// `M` times the plugged-in value less `M - 1` times its mean over the samples with one left out, which has
/// no such term
/// (Quenouille 1956). Where few samples have all of the weight nothing helps; [`Tilted::ess`] tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tilted {
    /// `ln Z`.
    pub log_z: f64,
    /// `ln Z` as plugged in: its mean is below the truth.
    pub log_z_plugged: f64,
    /// Mean of the values.
    pub mean: f64,
    /// Effective number of samples that have the weight, `(Σ w)² / Σ w²`.
    pub ess: f64,
}

/// The law tilted by `logs`, and the mean of `values` under it; as many of both, at least two, all finite.
pub fn tilted(logs: &[f64], values: &[f64]) -> Tilted {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| (log - most).exp()).collect();
    let count = weights.len() as f64;
    let total: f64 = weights.iter().sum();
    let weighed: f64 = weights.iter().zip(values).map(|(weight, value)| weight * value).sum();
    let squares: f64 = weights.iter().map(|weight| weight * weight).sum();
    let (mut log_rest, mut mean_rest) = (0.0, 0.0);
    for (place, (weight, value)) in weights.iter().zip(values).enumerate() {
        // Of a weight that outweighs the rest nothing would be left of the rest by subtraction.
        let (rest, part) = if *weight > 0.5 * total {
            let others = || weights.iter().zip(values).enumerate().filter(|(other, _)| *other != place);
            (others().map(|(_, (w, _))| w).sum(), others().map(|(_, (w, v))| w * v).sum())
        } else {
            (total - weight, weighed - weight * value)
        };
        let rest: f64 = rest;
        log_rest += rest.max(f64::MIN_POSITIVE).ln() / count;
        mean_rest += if rest > 0.0 { part / rest } else { *value } / count;
    }
    let (log_total, mean) = (total.ln(), weighed / total);
    let rest = count - 1.0;
    Tilted {
        log_z: most + count * (log_total - count.ln()) - rest * (log_rest - rest.ln()),
        log_z_plugged: most + log_total - count.ln(),
        mean: count * mean - rest * mean_rest,
        ess: total * total / squares,
    }
}

#[cfg(test)]
mod tests {
    use generate::{Purpose, Stream};

    use super::*;

    #[test]
    fn equals_leaving_each_sample_out_by_hand() {
        let (logs, values) = ([0.3, -1.0, 40.0, 2.0], [1.0, 2.0, -3.0, 0.5]);
        let plugged = |keep: &[usize]| {
            let total: f64 = keep.iter().map(|i| f64::exp(logs[*i] - 40.0)).sum();
            let mean = keep.iter().map(|i| f64::exp(logs[*i] - 40.0) * values[*i]).sum::<f64>() / total;
            (40.0 + (total / keep.len() as f64).ln(), mean)
        };
        let (log_z, mean) = plugged(&[0, 1, 2, 3]);
        let rest: Vec<(f64, f64)> =
            (0..4).map(|out| plugged(&(0..4).filter(|i| *i != out).collect::<Vec<_>>())).collect();
        let got = tilted(&logs, &values);
        let average = |pick: fn(&(f64, f64)) -> f64| rest.iter().map(pick).sum::<f64>() / 4.0;
        assert!((got.log_z - (4.0 * log_z - 3.0 * average(|x| x.0))).abs() < 1e-9, "{got:?}");
        assert!((got.mean - (4.0 * mean - 3.0 * average(|x| x.1))).abs() < 1e-9, "{got:?}");
        assert!((got.log_z_plugged - log_z).abs() < 1e-12 && (got.ess - 1.0).abs() < 1e-9);
        let even = tilted(&[2.0; 5], &[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!((even.log_z - 2.0).abs() < 1e-12 && (even.mean - 3.0).abs() < 1e-12 && even.ess == 5.0);
    }

    #[test]
    fn most_of_the_bias_of_few_samples_is_gone() {
        // Normal log-weights of deviation 1: ln Z = 1/2, the mean of the log-weight under the tilt is 1, KL =
        // 1/2.
        let worlds = 4000;
        let (mut log_z, mut plugged, mut mean) = (0.0, 0.0, 0.0);
        for world in 0..worlds {
            let mut stream = Stream::new(5, Purpose::Bootstrap, 0, world);
            let logs: Vec<f64> = (0..16).map(|_| stream.normal()).collect();
            let found = tilted(&logs, &logs);
            log_z += found.log_z / worlds as f64;
            plugged += found.log_z_plugged / worlds as f64;
            mean += found.mean / worlds as f64;
        }
        assert!((log_z - 0.5).abs() < 0.02 && plugged < 0.47, "{log_z}, plugged in {plugged}");
        assert!((mean - log_z - 0.5).abs() < 0.03, "KL {}", mean - log_z);
    }
}
