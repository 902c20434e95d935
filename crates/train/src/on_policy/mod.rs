//! Training on the policy's own answers: draws, scores, hands what was drawn to the method, and carries its terms back to the
//! weights.
//!
//! A method is a composition of [`objective::algebra`] and a motion of its anchor ([`Plan`]); everything else is here.

mod overlap;
mod ppo;
mod ppo_task;
mod rollouts;
mod task;
mod watch;

pub use ppo::{Ppo, estimator_fits};
pub use ppo_task::PpoTask;
pub use rollouts::{DecodeIds, Parts};
pub(crate) use rollouts::{Draw, Rollouts};
pub use task::OnPolicy;
pub use watch::Alarm;

use std::collections::BTreeMap;

use objective::algebra::{Estimator, Objective};
use objective::rank::{CachedRewards, Ties};
use recipe::{ModelName, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::anchor::Motion;
use crate::error::Error;

/// What a method is made of.
#[expect(missing_debug_implementations, reason = "an objective has nothing to show")]
pub struct Plan {
    /// Value, divergence, estimator.
    pub objective: Box<dyn Objective>,
    /// How the anchor moves.
    pub motion: Motion,
    /// Training ends when the policy is further than this from the model it began as, nats.
    pub kl_limit: Option<f64>,
    /// A line to say before training, such as a coefficient that was solved for.
    pub note: Option<String>,
}

impl Plan {
    /// A plan with a fixed anchor and no limit.
    pub fn fixed(objective: impl Objective + 'static) -> Self {
        Self { objective: Box::new(objective), motion: Motion::Fixed, kl_limit: None, note: None }
    }
}

/// A head in the place of cached samples.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The head.
    pub name: &'a ModelName,
    /// How equal rewards are to count.
    pub ties: TieRule,
    /// `log F` is never below the least that so many cached samples can say.
    pub floor: usize,
}

/// Settings of an on-policy method.
pub trait Compose {
    /// Cached samples of the reference per prompt; 0 where none are needed.
    fn pool_samples(&self) -> usize {
        0
    }

    /// A head that `quantile` trained, by whose laws answers are ranked instead of among cached samples.
    fn quantile(&self) -> Option<Head<'_>> {
        None
    }

    /// The fewest answers of the policy that a batch needs: two, where each is compared with the others of
    /// the batch.
    fn least_batch(&self) -> usize {
        1
    }

    /// How many answers of a prompt a batch holds, and the key that says so.
    fn answers(&self) -> (&'static str, usize);

    /// The method, given the cached rewards of each prompt.
    fn compose(&self, cached: &[CachedRewards]) -> Result<Plan, Error>;

    /// Settings of PPO, where that is the estimator: one that looks at tokens and learns a value.
    fn ppo(&self) -> Option<Ppo> {
        None
    }

    /// Lines of `--dry-run`: names and values.
    fn forecast(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Estimators of a policy gradient, as recipes name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EstimatorName {
    /// The return itself, without a baseline.
    Reinforce,
    /// Less the mean return of the prompt's other answers.
    #[default]
    Rloo,
    /// Less the mean return of the prompt's answers, divided by their standard deviation.
    Grpo,
    /// Token by token, with a learned value as the baseline and clipped ratios; its settings are in `ppo`.
    Ppo,
}

impl EstimatorName {
    /// Whether it is the one that is left out.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl From<EstimatorName> for Estimator {
    fn from(name: EstimatorName) -> Self {
        match name {
            // PPO makes its advantages of what answers are paid, and asks the composition for no others.
            EstimatorName::Reinforce | EstimatorName::Ppo => Self::Reinforce,
            EstimatorName::Rloo => Self::Rloo,
            EstimatorName::Grpo => Self::Grpo,
        }
    }
}

/// How equal rewards count among samples.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TieRule {
    /// `P(r' ≤ r)`.
    #[default]
    NonStrict,
    /// `P(r' < r)`.
    Strict,
    /// Ties count one half.
    MidRank,
}

impl From<TieRule> for Ties {
    fn from(rule: TieRule) -> Self {
        match rule {
            TieRule::NonStrict => Self::NonStrict,
            TieRule::Strict => Self::Strict,
            TieRule::MidRank => Self::MidRank,
        }
    }
}

/// Puts the answers of a prompt together, whose tokens a pass then runs once, and next to each other those of like length: attention is padded to the
/// longest. `of` gives an answer's prompt, and the length of both.
fn order<'a>(places: &mut [usize], of: impl Fn(usize) -> (&'a [u32], usize)) {
    let mut longest: BTreeMap<&[u32], usize> = BTreeMap::new();
    for (prompt, length) in places.iter().map(|place| of(*place)) {
        let most = longest.entry(prompt).or_default();
        *most = length.max(*most);
    }
    places.sort_by_key(|place| {
        let (prompt, length) = of(*place);
        (longest[prompt], prompt, length, *place)
    });
}

/// Tokens that an answer adds to those before it in `places`, which are in the order of [`order`].
fn own_tokens<'a>(places: &[usize], of: impl Fn(usize) -> (&'a [u32], usize)) -> impl Fn(&usize) -> usize {
    let mut own = BTreeMap::new();
    let mut before: Option<&[u32]> = None;
    for place in places {
        let (prompt, length) = of(*place);
        own.insert(*place, if before == Some(prompt) { length - prompt.len() } else { length });
        before = Some(prompt);
    }
    move |place| own[place]
}

/// Refuses pools that cannot tell the quantile that `n` asks for.
pub fn pool_can_tell(samples: usize, n: f64, key: &str) -> Result<(), Violation> {
    if samples as f64 * 4.0 >= n {
        return Ok(());
    }
    let message = format!("{samples} samples cannot tell the upper 1/{n} of the rewards");
    Err(Violation::new(message).hint(format!("raise `{key}` to about n, or lower `n`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_a_prompt_stand_together_and_prompts_by_their_longest() {
        let answers: [(&[u32], usize); 7] =
            [(&[5], 9), (&[7, 8], 4), (&[5], 2), (&[6], 6), (&[7, 8], 3), (&[5], 2), (&[6], 6)];
        let mut places: Vec<usize> = (0..7).rev().collect();
        order(&mut places, |place| answers[place]);
        assert_eq!(places, [4, 1, 3, 6, 2, 5, 0]);
        let own = own_tokens(&places, |place| answers[place]);
        assert_eq!(places.iter().map(own).collect::<Vec<_>>(), [3, 2, 6, 5, 2, 1, 8]);
    }
}
