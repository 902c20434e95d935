//! The sample of extreme reward.

use objective::error::InputError;

use super::{first_greatest, not_empty, numbers};

/// Index of the greatest reward, of equals the first. Rewards may be infinite, not NaN.
///
/// ```
/// assert_eq!(inference::selection::best_of_n(&[0.5, 2.0, 2.0]), Ok(1));
/// ```
pub fn best_of_n(rewards: &[f64]) -> Result<usize, InputError> {
    not_empty("rewards of the pool", rewards.len())?;
    numbers("rewards of the pool", rewards, true)?;
    Ok(first_greatest(rewards))
}

/// Index of the least reward, of equals the first: what an adversary would pick.
pub fn worst_of_n(rewards: &[f64]) -> Result<usize, InputError> {
    best_of_n(&rewards.iter().map(|r| -r).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_is_the_best_of_the_negated() {
        let rewards = [0.0, -0.0, f64::NEG_INFINITY, 3.0, f64::NEG_INFINITY, 3.0];
        assert_eq!(best_of_n(&rewards), Ok(3));
        assert_eq!(worst_of_n(&rewards), Ok(2));
        assert!(best_of_n(&[]).is_err() && best_of_n(&[1.0, f64::NAN]).is_err());
    }
}
