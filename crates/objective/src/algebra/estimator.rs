//! From returns to advantages.

use crate::advantage::{Scale, group_relative, rloo};
use crate::error::{InputError, finite};

/// How the gradient of an expected return is estimated from the answers of the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Estimator {
    /// The return itself (Williams 1992): unbiased, of the largest variance.
    Reinforce,
    /// The return less the mean of the others of the same prompt (RLOO): unbiased. With one answer a prompt, less the mean
    /// of the other prompts', which is unbiased too.
    #[default]
    Rloo,
    /// The return less the prompt's mean, divided by the prompt's standard deviation (GRPO): prompts whose returns differ
    /// little count as much as the others, so the objective is another one where deviations differ between prompts.
    Grpo,
}

impl Estimator {
    /// Advantages of the returns of each prompt's answers, in order.
    pub fn advantages(self, returns: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, InputError> {
        match self {
            Self::Reinforce => {
                for group in returns {
                    finite("returns", group)?;
                }
                Ok(returns.to_vec())
            }
            Self::Rloo if returns.iter().all(|group| group.len() == 1) && returns.len() > 1 => {
                Ok(rloo(&returns.concat())?.into_iter().map(|advantage| vec![advantage]).collect())
            }
            Self::Rloo => returns.iter().map(|group| rloo(group)).collect(),
            Self::Grpo => group_relative(returns, Scale::Group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baselines_are_of_the_prompt_or_where_it_has_one_answer_of_the_batch() {
        let two = [vec![1.0, 3.0], vec![5.0, 5.0]];
        assert_eq!(Estimator::Rloo.advantages(&two).expect("groups"), [[-2.0, 2.0], [0.0, 0.0]]);
        assert_eq!(Estimator::Reinforce.advantages(&two).expect("groups"), two);
        let one = [vec![1.0], vec![4.0], vec![-2.0]];
        assert_eq!(Estimator::Rloo.advantages(&one).expect("groups"), [[0.0], [4.5], [-4.5]]);
        assert!(Estimator::Grpo.advantages(&one).is_err() && Estimator::Rloo.advantages(&one[..1]).is_err());
        let scaled = Estimator::Grpo.advantages(&[vec![0.0, 1.0], vec![0.0, 100.0]]).expect("groups");
        assert!((scaled[0][1] - scaled[1][1]).abs() < 1e-3, "{scaled:?}");
        assert!(Estimator::Reinforce.advantages(&[vec![f64::NAN]]).is_err());
    }
}
