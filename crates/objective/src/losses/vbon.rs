//! Variational best-of-N (Amini et al. 2025) as a reward for policy gradients.
//!
//! The objective is `-KL(pi || pi_N) = E_pi[w(y) - (log pi - log ref)]` with the log-ratio of best-of-N
//! `w(y) = (N-1) log F<=(y) + log B(y)` (see [`crate::bon`]). Two forms, both for real `N > 1`:
//! - `bound`: drop `log B`, which lies in `[0, log N]`, and divide by `N - 1`: reward `log F<=`, KL coefficient `1/(N-1)`.
//!   A lower bound, and in the limit of small masses exact up to a constant.
//! - `exact`: divide by `N`: reward `w / N`, KL coefficient `1/N`.
//!
//! Deviations from the public code: it keeps the coefficient `1/(N-1)` in the exact form, whose optimum is best-of-N with
//! `1 + (N-1)^2 / N` in the place of `N`; it truncates `N` to an integer; its count is strict, with Laplace smoothing
//! (available as [`crate::rank::Ties::Strict`] with [`crate::rank::LogCdf::Laplace`]).

use serde::{Deserialize, Serialize};

use crate::bon::log_b;
use crate::error::{InputError, in_range};

/// Which form of the objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VbonForm {
    /// KL-regularised reward `log F<=`.
    #[default]
    Bound,
    /// The log-ratio of best-of-N itself.
    Exact,
}

/// The vBoN objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vbon {
    /// `N` of the best-of-N that is distilled; any real number above 1.
    pub n: f64,
    /// Form of the objective.
    pub form: VbonForm,
}

impl Vbon {
    /// Refuses `N` that is not above 1.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("N of vBoN", self.n, "above 1", |n| n > 1.0)
    }

    /// The bound whose KL coefficient is `beta > 0`: `N = 1 + 1/beta`, not truncated.
    pub fn from_beta(beta: f64) -> Result<Self, InputError> {
        in_range("beta", beta, "above 0", |b| b > 0.0)?;
        Ok(Self { n: 1.0 + 1.0 / beta, form: VbonForm::Bound })
    }

    /// Coefficient of `log pi - log ref` in the return: `1/(N-1)` for the bound, `1/N` for the exact form.
    pub fn kl_coefficient(&self) -> f64 {
        match self.form {
            VbonForm::Bound => 1.0 / (self.n - 1.0),
            VbonForm::Exact => 1.0 / self.n,
        }
    }

    /// Reward of an answer, before the KL term.
    ///
    /// `log_f` is (an estimate of) `log F<=`; `tie_share` is `c / F<=`, the share of the answer's tie class among answers
    /// at most as good ([`crate::rank::Rank::tie_share`]; zero without ties). The bound ignores the latter.
    pub fn reward(&self, log_f: f64, tie_share: f64) -> f64 {
        match self.form {
            VbonForm::Bound => log_f,
            VbonForm::Exact => ((self.n - 1.0) * log_f + log_b(tie_share, self.n)) / self.n,
        }
    }

    /// The return that a policy gradient maximises: [`Vbon::reward`] minus the coefficient times the log-ratio
    /// `log pi(y) - log ref(y)` of the whole answer. It is a constant of the gradient.
    pub fn sequence_return(&self, log_f: f64, tie_share: f64, log_ratio: f64) -> f64 {
        self.reward(log_f, tie_share) - self.kl_coefficient() * log_ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaled_returns_differ_by_log_b_only() {
        let (bound, exact) = (Vbon { n: 4.0, form: VbonForm::Bound }, Vbon { n: 4.0, form: VbonForm::Exact });
        let (log_f, log_ratio) = (-0.7, 0.3);
        let difference = 4.0 * exact.sequence_return(log_f, 0.25, log_ratio)
            - 3.0 * bound.sequence_return(log_f, 0.25, log_ratio);
        assert!((difference - log_b(0.25, 4.0)).abs() < 1e-15);
    }

    #[test]
    fn n_is_real_and_above_one() {
        assert!((Vbon::from_beta(0.03).expect("beta").n - 103.0 / 3.0).abs() < 1e-12);
        assert!((Vbon::from_beta(0.03).expect("beta").kl_coefficient() - 0.03).abs() < 1e-15);
        assert!(Vbon::from_beta(0.0).is_err());
        assert!(Vbon { n: 1.0, form: VbonForm::Exact }.validate().is_err());
    }
}
