//! Exact kernels of the suffix-resampling Metropolis–Hastings chains QAlign and QUEST.
//!
//! From `y` of `n` symbols, EOS counted: draw the cut `i` uniformly from `0..n`, keep `y[..i]`, resample the rest from the
//! model up to the horizon; accept `y'` of `n'` symbols with probability
//! - QAlign: `min(1, exp((r' - r) / beta) n / n')`, target `p(y) exp(r / beta) / Z`;
//! - QUEST: the same times `p(old suffix) / p(new suffix)` (sums of log-probs), target `exp(r / beta) / Z` on the support.
//!
//! The cut is an auxiliary variable, and each cut is balanced separately: that is where `n / n'` comes from.

use super::lm::TabularLm;
use super::space::TabularError;
use crate::error::{InputError, finite, in_range, same_length};
use crate::numeric::sum;

/// Which target the chain has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chain {
    /// `p(y) exp(r / beta) / Z` (Faria and Smith 2025).
    QAlign,
    /// `exp(r / beta) / Z` on the support of the model (Faria et al. 2024).
    Quest,
}

/// The one-step kernel of a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// `transition[i][j]`: probability to be at sequence `j` one step after sequence `i`.
    pub transition: Vec<Vec<f64>>,
    /// Probability that the proposal made at each sequence is accepted; identical proposals count as accepted.
    pub acceptance: Vec<f64>,
}

impl Chain {
    /// Exact kernel over all sequences of the space, with `rewards` aligned to them. Needs `beta > 0` and a model that gives
    /// every sequence a positive probability, so that every sequence is a possible state.
    pub fn kernel(self, lm: &TabularLm, rewards: &[f64], beta: f64) -> Result<Kernel, TabularError> {
        in_range("beta", beta, "above 0", |b| b > 0.0)?;
        let space = lm.space();
        let sequences = space.sequences();
        same_length("rewards", sequences.len(), rewards.len())?;
        finite("rewards", rewards)?;
        finite("log-probabilities of the sequences", &lm.log_law()?)?;
        let mut kernel =
            Kernel { transition: vec![vec![0.0; sequences.len()]; sequences.len()], acceptance: Vec::new() };
        for (from, old) in sequences.iter().enumerate() {
            let mut accepted = 0.0;
            for cut in 0..old.len() {
                let (prefix, suffix) = old.split_at(cut);
                let old_log_prob = sum(lm.token_log_probs(prefix, suffix)?);
                let first = sequences.partition_point(|s| s[..cut.min(s.len())] < *prefix);
                let extensions = sequences[first..].iter().take_while(|s| s.starts_with(prefix));
                for (to, new) in (first..).zip(extensions) {
                    let new_log_prob = sum(lm.token_log_probs(prefix, &new[cut..])?);
                    let mut log_alpha =
                        (rewards[to] - rewards[from]) / beta + (old.len() as f64 / new.len() as f64).ln();
                    if self == Self::Quest {
                        log_alpha += old_log_prob - new_log_prob;
                    }
                    let proposed = new_log_prob.exp() / old.len() as f64;
                    let moved = proposed * log_alpha.min(0.0).exp();
                    kernel.transition[from][to] += moved;
                    kernel.transition[from][from] += proposed - moved;
                    accepted += moved;
                }
            }
            kernel.acceptance.push(accepted);
        }
        Ok(kernel)
    }
}

/// The stationary law of an irreducible kernel, by state reduction (Grassmann, Taksar, Heyman 1985): no subtractions, so no
/// cancellation, also when the chain mixes slowly.
pub fn stationary(transition: &[Vec<f64>]) -> Result<Vec<f64>, InputError> {
    let n = transition.len();
    if n == 0 {
        return Err(InputError::TooFew { what: "kernel", least: 1 });
    }
    for row in transition {
        same_length("row of the kernel", n, row.len())?;
        crate::law::check("row of the kernel", row)?;
    }
    let mut a = transition.to_vec();
    for k in (1..n).rev() {
        let leave = sum(a[k][..k].iter().copied());
        if leave <= 0.0 {
            let problem = format!("state {k} cannot reach the states before it; the kernel is reducible");
            return Err(InputError::NotALaw { what: "stationary law", problem });
        }
        let (upper, lower) = a.split_at_mut(k);
        for row in upper {
            row[k] /= leave;
            let weight = row[k];
            for (x, y) in row[..k].iter_mut().zip(&lower[0][..k]) {
                *x += weight * y;
            }
        }
    }
    let mut law: Vec<f64> = Vec::with_capacity(n);
    law.push(1.0);
    while law.len() < n {
        let k = law.len();
        law.push(sum(law.iter().zip(&a).map(|(p, row)| p * row[k])));
    }
    let total = sum(law.iter().copied());
    Ok(law.into_iter().map(|p| p / total).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stationary_law_of_small_kernels() {
        let law = stationary(&[vec![0.9, 0.1], vec![0.3, 0.7]]).expect("irreducible");
        assert!((law[0] - 0.75).abs() < 1e-15);
        // A cycle is periodic: power iteration would not converge.
        let cycle = [vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0], vec![1.0, 0.0, 0.0]];
        for p in stationary(&cycle).expect("irreducible") {
            assert!((p - 1.0 / 3.0).abs() < 1e-15);
        }
    }

    #[test]
    fn what_is_no_irreducible_kernel_is_refused() {
        assert!(stationary(&[]).is_err());
        assert!(stationary(&[vec![1.0, 0.0], vec![0.0, 1.0]]).is_err());
        assert!(stationary(&[vec![0.5, 0.4], vec![0.5, 0.5]]).is_err());
    }
}
