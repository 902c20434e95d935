//! SRBoN-WD: among `n` independent completions by the law that maximises `<π, r> − β W_C(ρ, π)`, with the cost
//! `C = 1 − similarity` and the reference `ρ` on the samples.
//!
//! It has a closed form ([`crate::selection::transport`]): every sample `i` sends its mass `ρ_i` to
//! `argmax_j r_j − β C_ij`, of equals the first. For `β → 0` it is best-of-n; for `β → ∞` it is the reference, as far as no two
//! different samples have similarity 1.
//!
//! Unlike the public code (Ichihara et al. 2025): (1) the cost is one minus the similarity, where the code hands the similarity
//! itself to the solver as cost, which rewards carrying mass far; (2) the optimum is exact, where a smooth solver is run on a
//! problem that is not smooth; (3) log-probabilities are those of the sequence.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{
    Divergence, PoolLaw, PoolRule, PoolView, Reference, SimilarityTable, scaled_rewards, soft_best_of_n,
    transport,
};

/// The listing.
pub static INFO: Info = Info {
    name: "srbon-wd",
    access: Access::LogProbs,
    needs: &[Need::Reward],
    may_need: &[Need::AnswerExtractor, Need::Embedding],
    paper: "Ichihara et al. 2025, arXiv 2502.12668",
    summary: "a completion out of n by the law of greatest reward less beta times its transport cost",
};

/// Settings of `srbon-wd`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SrbonWd {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Weight of the transport cost, in the unit of the rewards: 0 is best-of-n, large the reference.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// Measure rewards in standard deviations from their mean over the prompt's samples, so that one `beta` fits rewards of
    /// any scale.
    pub normalise: bool,
    /// The law on the samples that it is pulled to.
    pub reference: Reference,
    /// How samples are compared: `"rouge-1"`, `"exact"`, `"answer"`, or `{ embedding = { path = "…" } }`.
    pub similarity: SimilarityTable,
}

impl Default for SrbonWd {
    fn default() -> Self {
        Self {
            n: 16,
            beta: 0.5,
            normalise: false,
            reference: Reference::Probabilities,
            similarity: SimilarityTable::Rouge1,
        }
    }
}

impl PoolRule for SrbonWd {
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError> {
        let rewards = scaled_rewards(pool, self.normalise)?;
        let reference = soft_best_of_n(&self.reference.log_weights(pool)?)?;
        Ok(PoolLaw::of(transport(&reference, &rewards, self.beta, pool.need_similarities()?)?))
    }

    fn kl(&self, _: &PoolView<'_>, _: usize) -> Result<Divergence, InputError> {
        Ok(Divergence::OF_SIMILARITIES)
    }

    fn similarity(&self) -> Option<&SimilarityTable> {
        Some(&self.similarity)
    }
}

impl PoolMethod for SrbonWd {
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
