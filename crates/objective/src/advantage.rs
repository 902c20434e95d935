//! Advantages: returns less a baseline.

use serde::{Deserialize, Serialize};

use crate::error::{InputError, finite, in_range, same_length};
use crate::numeric::{mean, sum};

/// Added to the standard deviation before dividing, as TRL does.
const EPSILON: f64 = 1e-4;

/// Leave-one-out advantages of the samples of one prompt: each return less the mean of the others (Ahmadian et al. 2024).
/// At least two samples. The baseline of a sample does not depend on it, so the gradient stays unbiased.
pub fn rloo(returns: &[f64]) -> Result<Vec<f64>, InputError> {
    check(returns)?;
    let shifted = shifted(returns);
    let total = sum(shifted.iter().copied());
    let others = (returns.len() - 1) as f64;
    Ok(shifted.iter().map(|r| r - (total - r) / others).collect())
}

/// `(a - mean) / (std + 1e-4)` over a whole batch, standard deviation with `n - 1`.
pub fn normalized(advantages: &[f64]) -> Result<Vec<f64>, InputError> {
    check(advantages)?;
    let (centre, spread) = (mean(advantages), deviation(advantages));
    Ok(advantages.iter().map(|a| (a - centre) / (spread + EPSILON)).collect())
}

/// `(a - mean) / sqrt(variance + 1e-8)`, variance with `n - 1`: TRL's whitening of advantages. A single one is its mean.
pub fn whitened(advantages: &[f64]) -> Result<Vec<f64>, InputError> {
    finite("advantages", advantages)?;
    if advantages.len() < 2 {
        return Ok(vec![0.0; advantages.len()]);
    }
    let (centre, spread) = (mean(advantages), deviation(advantages));
    let scale = (spread * spread + 1e-8).sqrt();
    Ok(advantages.iter().map(|a| (a - centre) / scale).collect())
}

/// What the group-relative advantages are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// The standard deviation within the group, plus 1e-4.
    Group,
    /// The standard deviation over all groups, plus 1e-4.
    Batch,
    /// Nothing.
    None,
}

/// Group-relative advantages (GRPO): each reward less the mean of its group, scaled. One list per prompt, each of at least
/// two samples.
pub fn group_relative(groups: &[Vec<f64>], scale: Scale) -> Result<Vec<Vec<f64>>, InputError> {
    for group in groups {
        check(group)?;
    }
    let batch = match scale {
        Scale::Batch => {
            let all = groups.concat();
            check(&all)?;
            deviation(&all)
        }
        Scale::Group | Scale::None => 0.0,
    };
    Ok(groups
        .iter()
        .map(|group| {
            let group = shifted(group);
            let centre = mean(&group);
            let divisor = match scale {
                Scale::Group => deviation(&group) + EPSILON,
                Scale::Batch => batch + EPSILON,
                Scale::None => 1.0,
            };
            group.iter().map(|r| (r - centre) / divisor).collect()
        })
        .collect())
}

/// Generalised advantage estimates of one sequence (Schulman et al. 2016): `delta_t = r_t + gamma V_{t+1} - V_t`,
/// `A_t = delta_t + gamma lambda A_{t+1}`, value after the last token zero. Returns are `A + V`.
pub fn gae(rewards: &[f64], values: &[f64], gamma: f64, lambda: f64) -> Result<Vec<f64>, InputError> {
    same_length("values", rewards.len(), values.len())?;
    finite("rewards", rewards)?;
    finite("values", values)?;
    in_range("gamma", gamma, "between 0 and 1", |g| (0.0..=1.0).contains(&g))?;
    in_range("lambda", lambda, "between 0 and 1", |l| (0.0..=1.0).contains(&l))?;
    let mut advantages = vec![0.0; rewards.len()];
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    for t in (0..rewards.len()).rev() {
        let delta = rewards[t] + gamma * next_value - values[t];
        next_advantage = delta + gamma * lambda * next_advantage;
        next_value = values[t];
        advantages[t] = next_advantage;
    }
    Ok(advantages)
}

fn check(values: &[f64]) -> Result<(), InputError> {
    if values.len() < 2 {
        return Err(InputError::TooFew { what: "samples of a group", least: 2 });
    }
    finite("returns", values)
}

/// Differences from the first value: equal values become exact zeros, so a group without signal has exactly no advantage.
fn shifted(values: &[f64]) -> Vec<f64> {
    values.iter().map(|v| v - values[0]).collect()
}

/// Standard deviation with `n - 1`.
fn deviation(values: &[f64]) -> f64 {
    let centre = mean(values);
    (sum(values.iter().map(|v| (v - centre).powi(2))) / (values.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leave_one_out_sums_to_zero_and_ignores_shifts() {
        let advantages = rloo(&[1.0, 4.0, -2.0]).expect("group");
        assert_eq!(advantages, vec![0.0, 4.5, -4.5]);
        assert_eq!(rloo(&[11.0, 14.0, 8.0]).expect("group"), advantages);
    }

    #[test]
    fn groups_without_signal_have_no_advantage() {
        let groups = vec![vec![0.1; 3], vec![0.0, 1.0, 2.0]];
        assert_eq!(rloo(&groups[0]).expect("group"), vec![0.0; 3]);
        for scale in [Scale::Group, Scale::Batch, Scale::None] {
            assert_eq!(group_relative(&groups, scale).expect("groups")[0], vec![0.0; 3]);
        }
    }

    #[test]
    fn generalised_advantages_are_decayed_sums_of_temporal_differences() {
        let (rewards, values) = ([0.3, -1.0, 0.0, 2.5], [0.7, -0.2, 1.1, 0.4]);
        for gamma in [1.0, 0.9] {
            let delta = |t: usize| rewards[t] + gamma * values.get(t + 1).unwrap_or(&0.0) - values[t];
            for lambda in [0.0, 0.4, 0.95, 1.0] {
                let got = gae(&rewards, &values, gamma, lambda).expect("aligned");
                for (t, got) in got.iter().enumerate() {
                    let decay = |from: usize, at: usize| (gamma * lambda).powi((at - from) as i32);
                    let direct: f64 = (t..4).map(|at| decay(t, at) * delta(at)).sum();
                    assert!((got - direct).abs() < 1e-14, "gamma {gamma}, lambda {lambda}, token {t}");
                    // The ends of the range: the return to come less the value, and one temporal difference.
                    let to_come: f64 = (t..4).map(|at| gamma.powi((at - t) as i32) * rewards[at]).sum();
                    assert!(lambda != 1.0 || (got - (to_come - values[t])).abs() < 1e-14);
                    assert!(lambda != 0.0 || (got - delta(t)).abs() < 1e-14);
                }
            }
        }
    }

    #[test]
    fn whitened_advantages_have_mean_zero_and_variance_one() {
        let white = whitened(&[1.0, 2.0, 6.0]).expect("finite");
        assert!(mean(&white).abs() < 1e-15 && (deviation(&white) - 1.0).abs() < 1e-8);
        assert_eq!(whitened(&[4.0]).expect("finite"), [0.0]);
        assert_eq!(whitened(&[4.0, 4.0]).expect("finite"), [0.0, 0.0]);
        assert!(whitened(&[f64::NAN, 0.0]).is_err());
    }

    #[test]
    fn groups_of_one_and_missing_rewards_are_refused() {
        assert!(matches!(rloo(&[1.0]), Err(InputError::TooFew { least: 2, .. })));
        assert!(matches!(rloo(&[1.0, f64::NAN]), Err(InputError::NotFinite { index: 1, .. })));
        assert!(gae(&[0.0], &[0.0], 1.5, 1.0).is_err() && gae(&[0.0], &[], 1.0, 1.0).is_err());
    }
}
