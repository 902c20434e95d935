//! From the tables of a recipe to models, prompts and rewards: what all binaries share.

mod answer;
mod data;
mod draft;
mod embedding;
mod endings;
mod further;
mod generation;
mod labelled;
mod loading;
mod models;
mod outfit;
mod places;
mod pools;
mod reader;
mod recipe;
mod rewards;
mod score;
mod text;
mod values;

pub use self::recipe::{Recipe, rollout_is_there, value_is_there};
pub use answer::{Answers, OnRound, OnToken, answer, limits_of, sampling_of};
pub use data::{Columns, DataTable, Learn, Wordmath, examples, pairs, prompts, steps, texts};
pub use draft::DraftTable;
pub use embedding::{Embedder, embedder};
pub use endings::Endings;
pub use further::{FurtherModels, fits, load_arm, load_beside, scales, suits};
pub use generation::generation_defaults;
pub use labelled::{LabelledPair, labelled};
pub use loading::Loading;
pub use models::{Dtype, Loaded, ModelTable, Rounding, load, load_any, load_for_score, load_preferring};
pub use outfit::{Named, Outfit, Run};
pub use places::{Found, Places, seconds_in};
pub use pools::{PoolPlan, pool, prompt_stream, score};
pub use reader::{MESSAGES, with_messages};
pub use rewards::{
    AnswerForm, CountingSet, Extract, RewardSet, RewardTable, answer_of, build, decode_of, ends_step_of,
};
pub use score::score_file;
pub use text::CompletionText;
pub use values::{DiscountName, ImplicitTable, ValueSet, ValueTable, build_value, prompts_at_once};

/// Why something that a recipe names cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model's files.
    #[error(transparent)]
    Model(#[from] model::Error),
    /// A tokenizer's files.
    #[error(transparent)]
    Tokenizer(#[from] ::data::tokenizer::TokenizerError),
    /// A chat template.
    #[error(transparent)]
    Chat(#[from] ::data::chat::ChatError),
    /// A data file.
    #[error(transparent)]
    Read(#[from] ::data::read::ReadError),
    /// A row is not of the kind asked for.
    #[error(transparent)]
    Row(#[from] ::data::rows::RowError),
    /// A row cannot be turned into tokens.
    #[error(transparent)]
    Render(#[from] ::data::render::RenderError),
    /// Settings of the generator.
    #[error(transparent)]
    Wordmath(#[from] ::data::wordmath::InvalidConfig),
    /// A reward.
    #[error(transparent)]
    Reward(#[from] ::reward::SetupError),
    /// A pool.
    #[error(transparent)]
    Pool(#[from] ::reward::PoolError),
    /// Something while generating or scoring.
    #[error(transparent)]
    Generate(#[from] generate::Error),
    /// A method.
    #[error(transparent)]
    Method(#[from] crate::Error),
    /// Two models whose next-token laws were to be combined read tokens differently.
    #[error(
        "{name} reads tokens by another tokenizer ({hash}) than {base} ({base_hash}): next-token laws over different tokens cannot be combined\n  hint: name a model of the same family, or guide by whole texts: best-of-n or qalign with `[reward.model]`, which reads texts by a tokenizer of its own"
    )]
    Vocabulary {
        /// The further model.
        name: String,
        /// The hash of its tokenizer.
        hash: String,
        /// The policy.
        base: String,
        /// The hash of its tokenizer.
        base_hash: String,
    },
    /// The name of a stage that has not run.
    #[error("stage:{name} has no output yet\n  hint: {hint}")]
    Stage {
        /// The stage's name.
        name: String,
        /// What to do.
        hint: String,
    },
    /// Something else about data.
    #[error("{what}: {message}")]
    Data {
        /// Which data.
        what: String,
        /// What is wrong and what to do.
        message: String,
    },
}
