//! The loss of a sequence reward model (Bradley and Terry 1952; centring: Eisenstein et al. 2023).

use serde::{Deserialize, Serialize};

use super::PairLoss;
use crate::error::{InputError, in_range};
use crate::numeric::{log_sigmoid, sigmoid};

/// `-log sigmoid(chosen - rejected - margin) + k (chosen + rejected)^2`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BradleyTerry {
    /// `k`, at least 0: pulls the mean reward to zero, which the first term leaves free.
    pub center_coefficient: f64,
}

impl BradleyTerry {
    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("center_coefficient", self.center_coefficient, "at least 0", |k| k >= 0.0)
    }

    /// Loss of a pair of rewards; `margin` is the lead that the annotator stated, 0 without one.
    pub fn pair(&self, chosen: f64, rejected: f64, margin: f64) -> PairLoss {
        let z = chosen - rejected - margin;
        let total = chosen + rejected;
        let centre = 2.0 * self.center_coefficient * total;
        PairLoss {
            loss: -log_sigmoid(z) + self.center_coefficient * total * total,
            grad_chosen: centre - sigmoid(-z),
            grad_rejected: centre + sigmoid(-z),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_centring_term_sees_the_level() {
        let (free, centred) = (BradleyTerry::default(), BradleyTerry { center_coefficient: 0.1 });
        assert_eq!(free.pair(1.0, 0.0, 0.0), free.pair(8.0, 7.0, 0.0));
        let pair = centred.pair(8.0, 7.0, 0.0);
        assert!(pair.grad_chosen > 0.0 && pair.grad_rejected > 0.0);
        assert!(BradleyTerry { center_coefficient: -1.0 }.validate().is_err());
    }
}
