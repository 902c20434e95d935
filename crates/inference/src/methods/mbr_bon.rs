//! MBR-BoN, also RBoN-WD: of `n` independent completions the one of greatest reward plus β times its mean similarity to all
//! of them, itself included; of equals the first.
//!
//! `argmax_i r(y_i) + β (1/n) Σ_j U(y_i, y_j)`. With the cost `C = 1 − U` that is `argmax_i r(y_i) − β W_C(δ_i, π̂)` up to a
//! constant, a Wasserstein distance to the samples `π̂` (Jinnai et al. 2024): a Dirac has one coupling with any law. At
//! `β = 0` it is best-of-n, for `β → ∞` minimum Bayes risk.
//!
//! The scale of the reward decides about β: the paper's best β is 0.5 for one proxy and 20 for another. `normalise` puts
//! rewards on one scale.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{
    Divergence, PoolLaw, PoolRule, PoolView, SimilarityTable, best_of_n, mbr, scaled_rewards,
};

/// The listing.
pub static INFO: Info = Info {
    name: "mbr-bon",
    access: Access::Text,
    needs: &[Need::Reward],
    may_need: &[Need::AnswerExtractor, Need::Embedding],
    paper: "Jinnai et al. 2024, arXiv 2404.01054",
    summary: "the completion out of n of greatest reward plus beta times its mean similarity to all",
};

/// Settings of `mbr-bon`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MbrBon {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Weight of the mean similarity, in the unit of the rewards: 0 is best-of-n, large is `mbr`.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// Measure rewards in standard deviations from their mean over the prompt's samples, so that one `beta` fits rewards of
    /// any scale.
    pub normalise: bool,
    /// How samples are compared: `"rouge-1"`, `"exact"`, `"answer"`, or `{ embedding = { path = "…" } }`.
    pub similarity: SimilarityTable,
}

impl Default for MbrBon {
    fn default() -> Self {
        Self { n: 16, beta: 0.5, normalise: false, similarity: SimilarityTable::Rouge1 }
    }
}

impl PoolRule for MbrBon {
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError> {
        let rewards = scaled_rewards(pool, self.normalise)?;
        let similarities = pool.need_similarities()?;
        let alike = mbr(&vec![1.0; pool.size], |i, j| similarities.at(i, j))?.scores;
        let scores: Vec<f64> = rewards.iter().zip(alike).map(|(r, alike)| r + self.beta * alike).collect();
        Ok(PoolLaw::certain(best_of_n(&scores)?, pool.size))
    }

    fn kl(&self, _: &PoolView<'_>, _: usize) -> Result<Divergence, InputError> {
        Ok(Divergence::OF_SIMILARITIES)
    }

    fn similarity(&self) -> Option<&SimilarityTable> {
        Some(&self.similarity)
    }
}

impl PoolMethod for MbrBon {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }

    fn refused(&self) -> Vec<Problem> {
        let beta =
            Problem::negative("beta", self.beta, "0 is best-of-n; 0.5 is usual for rewards of unit scale");
        beta.into_iter().collect()
    }
}
