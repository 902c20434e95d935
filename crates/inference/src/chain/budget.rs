//! A `beta` for each prompt, from a pilot of independent samples.
//!
//! The pilot is drawn before the chains move, and `beta` is frozen then: a chain whose `beta` follows its own states has
//! another law than the one it is named after.

use objective::error::InputError;

use crate::selection::{Importance, importance};

/// How far the target of a prompt may be from the base, judged by the pilot's importance weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Budget {
    /// Number of pilot samples.
    pub(crate) pilot: usize,
    /// Most nats of `KL(target ‖ law drawn from)`.
    pub(crate) kl: Option<f64>,
    /// Least share of the pilot that its weights are worth.
    pub(crate) ess: Option<f64>,
}

impl Budget {
    fn allows(&self, importance: &Importance) -> bool {
        self.kl.is_none_or(|kl| importance.kl <= kl)
            && self.ess.is_none_or(|share| importance.ess >= share * importance.samples as f64)
    }

    /// The least `beta`, not below `floor`, that the budget allows for pilot samples of these rewards, to a relative
    /// precision of `1e-12`. Both estimates are monotone in `beta`, and as it grows the target becomes the base.
    pub(crate) fn beta(&self, rewards: &[f64], floor: f64) -> Result<f64, InputError> {
        let allowed = |beta: f64| importance(rewards, beta).map(|(_, summary)| self.allows(&summary));
        if allowed(floor)? {
            return Ok(floor);
        }
        let (mut low, mut high) = (floor, floor * 2.0);
        while high.is_finite() && !allowed(high)? {
            (low, high) = (high, high * 2.0);
        }
        while high / low > 1.0 + 1e-12 {
            let middle = (low * high).sqrt();
            if middle <= low || middle >= high {
                break;
            }
            if allowed(middle)? {
                high = middle;
            } else {
                low = middle;
            }
        }
        Ok(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REWARDS: [f64; 8] = [0.3, -1.0, 2.0, 0.7, 0.7, 1.4, -0.2, 1.9];

    #[test]
    fn the_budget_is_met_and_not_undercut() {
        let kl = Budget { pilot: 8, kl: Some(0.4), ess: None };
        let (_, at) = importance(&REWARDS, kl.beta(&REWARDS, 1e-3).expect("rewards")).expect("rewards");
        assert!((at.kl - 0.4).abs() < 1e-9, "{at:?}");
        let ess = Budget { pilot: 8, kl: None, ess: Some(0.5) };
        let (_, at) = importance(&REWARDS, ess.beta(&REWARDS, 1e-3).expect("rewards")).expect("rewards");
        assert!((at.ess - 4.0).abs() < 1e-9, "{at:?}");
        let both = Budget { kl: Some(0.4), ..ess };
        let each = [kl, ess].map(|budget| budget.beta(&REWARDS, 1e-3).expect("rewards"));
        let tighter = both.beta(&REWARDS, 1e-3).expect("rewards");
        assert!(
            (tighter / each[0].max(each[1]) - 1.0).abs() < 1e-11,
            "both at once is the tighter of the two"
        );
    }

    #[test]
    fn the_unit_of_the_reward_does_not_matter() {
        let budget = Budget { pilot: 8, kl: Some(0.4), ess: None };
        let beta = budget.beta(&REWARDS, 1e-6).expect("rewards");
        let scaled = budget.beta(&REWARDS.map(|r| 100.0 * r - 7.0), 1e-6).expect("rewards");
        assert!((scaled / (100.0 * beta) - 1.0).abs() < 1e-9, "{scaled} against {beta}");
    }

    #[test]
    fn a_beta_that_is_allowed_stays() {
        let budget = Budget { pilot: 8, kl: Some(0.4), ess: Some(0.1) };
        assert_eq!(budget.beta(&REWARDS, 50.0), Ok(50.0));
        assert_eq!(budget.beta(&[1.5; 8], 0.01), Ok(0.01), "equal rewards do not move the target");
        assert!(budget.beta(&[f64::NAN; 8], 0.01).is_err());
    }
}
