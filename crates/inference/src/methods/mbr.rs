//! Minimum Bayes risk: of `n` independent completions the one of greatest mean similarity to all of them, itself included;
//! of equals the first.
//!
//! `argmax_i (1/n) Σ_j U(y_i, y_j)`. It needs no reward. With `similarity = "answer"` it is the majority vote.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{Divergence, PoolLaw, PoolRule, PoolView, SimilarityTable, mbr};

/// The listing.
pub static INFO: Info = Info {
    name: "mbr",
    access: Access::Text,
    needs: &[],
    may_need: &[Need::AnswerExtractor, Need::Embedding],
    paper: "Kumar and Byrne 2004; Eikema and Aziz 2022, arXiv 2108.04718",
    summary: "the completion out of n that is most alike to all of them",
};

/// Settings of `mbr`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Mbr {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// How samples are compared: `"rouge-1"`, `"exact"`, `"answer"`, or `{ embedding = { path = "…" } }`.
    pub similarity: SimilarityTable,
}

impl Default for Mbr {
    fn default() -> Self {
        Self { n: 16, similarity: SimilarityTable::Rouge1 }
    }
}

impl PoolRule for Mbr {
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError> {
        let similarities = pool.need_similarities()?;
        let chosen = mbr(&vec![1.0; pool.size], |i, j| similarities.at(i, j))?;
        Ok(PoolLaw::certain(chosen.index, pool.size))
    }

    fn kl(&self, _: &PoolView<'_>, _: usize) -> Result<Divergence, InputError> {
        Ok(Divergence::OF_SIMILARITIES)
    }

    fn similarity(&self) -> Option<&SimilarityTable> {
        Some(&self.similarity)
    }
}

impl PoolMethod for Mbr {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }
}
