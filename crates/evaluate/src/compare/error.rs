//! Why a comparison fails.

use inference::setup;

use crate::pairwise::PairwiseError;
use crate::report::ComparisonError;
use crate::stats::ResamplesError;

/// Why a comparison fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model, data or a reward.
    #[error(transparent)]
    Setup(#[from] setup::Error),
    /// A method.
    #[error(transparent)]
    Method(#[from] inference::Error),
    /// Something while generating or scoring.
    #[error(transparent)]
    Generate(#[from] generate::Error),
    /// A pool.
    #[error(transparent)]
    Pool(#[from] ::reward::PoolError),
    /// The mathematics of a rule.
    #[error(transparent)]
    Input(#[from] objective::error::InputError),
    /// A reward model that cannot be one.
    #[error(transparent)]
    Reward(#[from] ::reward::SetupError),
    /// Held-out pairs.
    #[error(transparent)]
    Pairwise(#[from] PairwiseError),
    /// The resamples of the pairs.
    #[error(transparent)]
    Resamples(#[from] ResamplesError),
    /// The report.
    #[error(transparent)]
    Comparison(#[from] ComparisonError),
    /// Two policies read tokens differently.
    #[error("the tokenizer of {name} is not that of {base}\n  hint: compare policies of one family")]
    Tokenizer {
        /// One policy.
        name: String,
        /// The base.
        base: String,
    },
}
