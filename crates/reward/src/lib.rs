//! Rewards: models, verifiers, combinators, and pools of scored samples on disk.
//!
//! | what | scores |
//! |---|---|
//! | [`SequenceModel`] | the scalar head of a reward model, at the last token |
//! | [`VocabularyModel`] | a prefix scorer's values of all next tokens, in one pass |
//! | [`AutoregressiveModel`] | `β_r` times the log-probability of the completion under an autoregressive reward model |
//! | [`ImplicitReward`] | the log-ratio of a tuned policy to its reference |
//! | [`Verifier`] of a [`Check`] | [`FinalAnswer`], [`Brevity`], [`Pattern`], [`Lexicon`], [`Sentiment`] |
//! | [`WeightedSum`], [`Clipped`], [`Calibrated`] | other rewards, combined |
//!
//! All of them are [`generate::Reward`]s; those that can judge a text before it ends are [`generate::PrefixReward`]s too. A
//! [`Pool`] keeps the samples of a policy and what rewards gave them, under an address made of everything that decides
//! about them; [`Calibration`] reads a pool's rewards as ranks.
//!
//! ```
//! use std::sync::Arc;
//!
//! use generate::{Candidate, End, Prompt, Reward};
//! use reward::{Brevity, Clipped, Decode, Lexicon, PerText, Verifier, WeightedSum};
//!
//! // Words as tokens: 0 is the end of sequence.
//! let words = ["", "good", "bad", "film"];
//! let decode: Decode = Arc::new(move |ids| ids.iter().map(|id| words[*id as usize]).collect::<Vec<_>>().join(" "));
//! let lexicon = Lexicon::of_lists(["good"], ["bad"], PerText::Sum)?;
//! let brevity = Verifier::new(Brevity::tokens(), decode.clone());
//! let lexicon = Verifier::new(lexicon, decode);
//! let sum = WeightedSum::<Box<dyn Reward>>::new(vec![(1.0, Box::new(lexicon)), (0.25, Box::new(brevity))])?;
//! let mut reward = Clipped::new(sum, -1.0, 1.0)?;
//! assert_eq!(reward.name(), "1·lexicon + 0.25·brevity");
//!
//! let prompt = Prompt::from_ids(0, vec![3]);
//! let texts = [vec![1, 1, 3, 0], vec![1, 3, 0], vec![2, 2, 3, 0]];
//! let candidates = texts.each_ref().map(|ids| Candidate { prompt: &prompt, ids, end: End::Eos });
//! assert_eq!(reward.rewards(&candidates)?, [1.0, 0.25, -1.0]);
//! assert_eq!(reward.clipped(), (1, 3));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No tensor library: models come as [`generate::Step`] or [`generate::Score`].

mod autoregressive;
mod cached;
mod calibration;
mod combine;
mod counting;
mod error;
#[cfg(test)]
mod fake;
mod implicit;
mod memory;
mod pool;
mod sequence;
mod verifier;
mod vocabulary;

pub use autoregressive::AutoregressiveModel;
pub use calibration::{Calibration, CalibrationError};
pub use combine::{Calibrated, Clipped, WeightedSum};
pub use counting::Counting;
pub use error::SetupError;
pub use implicit::{Discount, ImplicitReward};
pub use pool::{Pool, PoolError, PoolKey, PoolSample, RewardColumn, RewardId, prompts_hash};
pub use sequence::{Limits, SequenceModel};
pub use verifier::{
    Brevity, Check, Decode, FinalAnswer, Form, Lexicon, NotReadable, Occurrences, Pattern, PerText, Scope,
    Sentiment, Subject, Verifier, last_number_place, number,
};
pub use vocabulary::VocabularyModel;
