//! Convergence diagnostics of Markov chains: split-R̂ and effective sample size.
//!
//! Both follow Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), equations 3.1–3.4 and 10.1–10.6, on the values as
//! they are (no rank normalisation). Chains have one length and are split in halves, so that one chain that drifts is
//! seen as well as several that disagree.

use serde::{Deserialize, Serialize};

/// A diagnostic, or why there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diagnostic {
    /// The value.
    pub value: Option<f64>,
    /// Why there is no value.
    pub reason: Option<String>,
}

impl Diagnostic {
    /// A value, or the reason why there is none.
    pub fn new(outcome: Result<f64, Undefined>) -> Self {
        match outcome {
            Ok(value) => Self { value: Some(value), reason: None },
            Err(reason) => Self { value: None, reason: Some(reason.to_string()) },
        }
    }
}

/// Why a diagnostic cannot be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Undefined {
    /// Halves of fewer than two states have no variance.
    #[error("chains of {states} states are too short; at least 4 are needed")]
    TooShort {
        /// Length of the shortest chain.
        states: usize,
    },
    /// There is nothing to compare.
    #[error("all states of all chains have one value")]
    Constant,
    /// The within-chain variance is zero and the chains disagree.
    #[error("each half of each chain is constant, and they differ: the chains are stuck")]
    Stuck,
    /// Infinities or NaN.
    #[error("some states have values that are not finite")]
    NotFinite,
}

/// Means, within-chain variance `W` and pooled variance `var⁺ = (n−1)/n · W + B/n` of halves of chains.
struct Halves<'a> {
    parts: Vec<&'a [f64]>,
    means: Vec<f64>,
    within: f64,
    pooled: f64,
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    objective::numeric::sum(values) / n
}

impl<'a> Halves<'a> {
    /// Cuts each chain (to the length of the shortest, an odd middle state left out) in two.
    fn new(chains: &'a [Vec<f64>]) -> Result<Self, Undefined> {
        let states = chains.iter().map(Vec::len).min().unwrap_or(0);
        let n = states / 2;
        if n < 2 {
            return Err(Undefined::TooShort { states });
        }
        if chains.iter().flatten().any(|x| !x.is_finite()) {
            return Err(Undefined::NotFinite);
        }
        let parts: Vec<&[f64]> =
            chains.iter().flat_map(|chain| [&chain[..n], &chain[states - n..states]]).collect();
        let means: Vec<f64> = parts.iter().map(|half| mean(half.iter().copied())).collect();
        let squares = |half: &[f64], m: f64| half.iter().map(|x| (x - m) * (x - m)).sum::<f64>();
        let variances: Vec<f64> =
            parts.iter().zip(&means).map(|(half, m)| squares(half, *m) / (n - 1) as f64).collect();
        let within = mean(variances.iter().copied());
        let grand = mean(means.iter().copied());
        let between_over_n = squares(&means, grand) / (means.len() - 1) as f64;
        let first = parts[0][0];
        if parts.iter().all(|half| half.iter().all(|x| *x == first)) {
            return Err(Undefined::Constant);
        }
        if parts.iter().all(|half| half.iter().all(|x| *x == half[0])) {
            return Err(Undefined::Stuck);
        }
        let pooled = (n - 1) as f64 / n as f64 * within + between_over_n;
        Ok(Self { parts, means, within, pooled })
    }

    /// Mean over halves of the autocovariance at `lag`, normalised by `n`.
    fn autocovariance(&self, lag: usize) -> f64 {
        let one = |(half, m): (&&[f64], &f64)| {
            half.iter().zip(&half[lag..]).map(|(a, b)| (a - m) * (b - m)).sum::<f64>() / half.len() as f64
        };
        self.parts.iter().zip(&self.means).map(one).sum::<f64>() / self.parts.len() as f64
    }
}

/// Split-R̂: near 1 where chains agree with each other and with themselves; above about 1.05 they have not mixed.
///
/// ```
/// // Two chains that agree in nothing: W = 1/2, B/n = 18, so R̂ = √((1/2 · 1/2 + 12) / (1/2)).
/// let rhat = inference::diagnostics::split_rhat(&[vec![0.0, 1.0, 0.0, 1.0], vec![6.0, 7.0, 6.0, 7.0]])?;
/// assert!((rhat - 24.5_f64.sqrt()).abs() < 1e-12);
/// # Ok::<(), inference::diagnostics::Undefined>(())
/// ```
pub fn split_rhat(chains: &[Vec<f64>]) -> Result<f64, Undefined> {
    let halves = Halves::new(chains)?;
    Ok((halves.pooled / halves.within).sqrt())
}

/// Effective number of independent states: `MN / τ` for `M` half-chains of length `N`, with the autocorrelation time `τ`
/// from Geyer's initial monotone sequence, at most `MN log10(MN)`.
pub fn effective_sample_size(chains: &[Vec<f64>]) -> Result<f64, Undefined> {
    let halves = Halves::new(chains)?;
    let n = halves.parts[0].len();
    let total = (n * halves.parts.len()) as f64;
    let unbiased = n as f64 / (n - 1) as f64;
    let rho = |lag: usize| {
        if lag == 0 {
            return 1.0;
        }
        1.0 - (halves.within - unbiased * halves.autocovariance(lag)) / halves.pooled
    };
    // Sums of neighbouring pairs are positive and falling for a reversible chain; noise ends the sum where they are not.
    let (mut pairs, mut last, mut lag) = (0.0, f64::INFINITY, 0);
    while lag + 1 < n {
        let pair = (rho(lag) + rho(lag + 1)).min(last);
        if pair <= 0.0 {
            break;
        }
        pairs += pair;
        last = pair;
        lag += 2;
    }
    let tau = (2.0 * pairs - 1.0).max(1.0 / total.log10());
    Ok(total / tau)
}

#[cfg(test)]
mod tests {
    use super::*;
    use generate::{Purpose, Stream};

    /// Chains of the autoregression `x' = φ x + √(1 − φ²) ε`, stationary, of variance 1.
    fn autoregression(phi: f64, chains: u64, states: usize) -> Vec<Vec<f64>> {
        let chain = |row| {
            let mut stream = Stream::new(11, Purpose::Method, 0, row);
            let mut x = stream.normal();
            let step = |_| {
                let now = x;
                x = phi * x + (1.0 - phi * phi).sqrt() * stream.normal();
                now
            };
            (0..states).map(step).collect()
        };
        (0..chains).map(chain).collect()
    }

    #[test]
    fn split_rhat_of_a_worked_example() {
        // Halves (1, 2), (3, 6), (2, 2), (4, 4): means 1.5, 4.5, 2, 4; variances 0.5, 4.5, 0, 0; W = 1.25.
        // B/n = variance of the means = (1.5² + 1.5² + 1 + 1) / 3 = 6.5 / 3; var⁺ = 1.25 / 2 + 6.5 / 3.
        let chains = [vec![1.0, 2.0, 3.0, 6.0], vec![2.0, 2.0, 4.0, 4.0]];
        let expected = ((0.625 + 6.5 / 3.0) / 1.25_f64).sqrt();
        assert!((split_rhat(&chains).expect("defined") - expected).abs() < 1e-14);
        // The middle state of an odd chain is left out.
        let odd = [vec![1.0, 2.0, 99.0, 3.0, 6.0], vec![2.0, 2.0, 99.0, 4.0, 4.0]];
        assert!((split_rhat(&odd).expect("defined") - expected).abs() < 1e-14);
    }

    #[test]
    fn chains_of_one_law_pass_and_others_do_not() {
        let good = autoregression(0.5, 4, 2000);
        assert!(split_rhat(&good).expect("defined") < 1.01);
        let mut shifted = good.clone();
        shifted[0].iter_mut().for_each(|x| *x += 2.0);
        assert!(split_rhat(&shifted).expect("defined") > 1.2);
        let drifting: Vec<f64> = good[0].iter().enumerate().map(|(t, x)| x + t as f64 / 500.0).collect();
        assert!(split_rhat(&[drifting]).expect("defined") > 1.2, "one chain that drifts");
    }

    #[test]
    fn effective_size_of_autoregressions() {
        // The exact value is N (1 − φ) / (1 + φ).
        for phi in [-0.3, 0.0, 0.5, 0.8] {
            let ess = effective_sample_size(&autoregression(phi, 4, 5000)).expect("defined");
            let exact = 20_000.0 * (1.0 - phi) / (1.0 + phi);
            assert!((ess / exact - 1.0).abs() < 0.12, "φ = {phi}: {ess} against {exact}");
        }
    }

    #[test]
    fn what_is_undefined_says_why() {
        assert_eq!(split_rhat(&[]), Err(Undefined::TooShort { states: 0 }));
        assert_eq!(split_rhat(&[vec![1.0, 2.0, 3.0]]), Err(Undefined::TooShort { states: 3 }));
        assert_eq!(split_rhat(&[vec![0.3; 9]]), Err(Undefined::Constant));
        assert_eq!(split_rhat(&[vec![0.1; 4], vec![0.7; 4]]), Err(Undefined::Stuck));
        assert_eq!(effective_sample_size(&[vec![f64::NAN; 4]]), Err(Undefined::NotFinite));
        let diagnostic = Diagnostic::new(split_rhat(&[vec![0.3; 9]]));
        assert_eq!(diagnostic.reason.as_deref(), Some("all states of all chains have one value"));
    }
}
