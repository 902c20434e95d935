//! Rewards as ranks among cached rewards of the same prompt.

use std::collections::BTreeMap;

use generate::{Prompt, TokenId};
use objective::error::InputError;
use objective::rank::{CachedRewards, Rank};

use crate::pool::{Pool, PoolError, RewardId};

/// A reward without a rank.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The pool has no samples of the prompt.
    #[error(
        "no cached rewards for prompt {index}\n  hint: the pool is of other prompts; sample one of these prompts"
    )]
    UnknownPrompt {
        /// The prompt's place in its set.
        index: usize,
    },
    /// The reward is not finite.
    #[error("prompt {index}: {source}")]
    Input {
        /// The prompt's place in its set.
        index: usize,
        /// What is wrong.
        source: InputError,
    },
}

/// The cached rewards of reference samples, per prompt. Prompts are known by their tokens, not by their place, so that
/// another order or another part of a prompt set is no mistake.
#[derive(Debug, Clone, PartialEq)]
pub struct Calibration {
    by_prompt: BTreeMap<Vec<TokenId>, CachedRewards>,
}

impl Calibration {
    /// The rewards `id` of the samples that the pool serves. Prompts that occur several times pool their samples: they are
    /// of one law.
    ///
    /// # Errors
    /// The pool does not have these rewards.
    pub fn from_pool(pool: &Pool, id: &RewardId) -> Result<Self, PoolError> {
        let mut rewards: BTreeMap<Vec<TokenId>, Vec<f64>> = BTreeMap::new();
        for (place, values) in pool.rewards(id)?.into_iter().enumerate() {
            rewards.entry(pool.prompt(place).to_vec()).or_default().extend(values);
        }
        let cached = |(prompt, values)| Ok((prompt, CachedRewards::new(values)?));
        let by_prompt = rewards.into_iter().map(cached).collect::<Result<_, InputError>>()?;
        Ok(Self::from_cached(by_prompt))
    }

    /// Cached rewards by the tokens of their prompts.
    pub fn from_cached(by_prompt: BTreeMap<Vec<TokenId>, CachedRewards>) -> Self {
        Self { by_prompt }
    }

    /// The cached rewards of `prompt`.
    ///
    /// # Errors
    /// There are none.
    pub fn cached(&self, prompt: &Prompt) -> Result<&CachedRewards, CalibrationError> {
        self.by_prompt.get(&prompt.ids).ok_or(CalibrationError::UnknownPrompt { index: prompt.index })
    }

    /// Where `reward` stands among the cached rewards of `prompt`.
    ///
    /// # Errors
    /// There are none, or the reward is not finite.
    pub fn rank(&self, prompt: &Prompt, reward: f64) -> Result<Rank, CalibrationError> {
        let index = prompt.index;
        self.cached(prompt)?.rank(reward).map_err(|source| CalibrationError::Input { index, source })
    }
}
