//! Weighted majority vote: each of `n` independent completions votes for its final answer with `softmax(reward / beta)`.
//!
//! That is the self-normalised importance estimate of the answer's probability under `p(y) exp(r(y) / beta) / Z`, the
//! target of QAlign. The two estimate one quantity only at **the same `beta`**: public scripts leave it at 1 here while
//! they run QAlign at 0.5, which compares two different targets.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{Divergence, PoolLaw, PoolRule, PoolView, weighted_majority};

/// The listing.
pub static INFO: Info = Info {
    name: "weighted-majority",
    access: Access::Text,
    needs: &[Need::Reward, Need::AnswerExtractor],
    may_need: &[],
    paper: "Li et al. 2023, arXiv 2206.02336; Faria and Smith 2025, arXiv 2504.03790",
    summary: "the final answer of greatest weight out of n, weights softmax(reward / beta)",
};

/// Settings of `weighted-majority`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WeightedMajority {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Divides the rewards, in their unit: small is a strong preference for high rewards, large is the plain majority.
    /// In a comparison with `qalign` it must be the same `beta`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
}

impl Default for WeightedMajority {
    fn default() -> Self {
        Self { n: 16, beta: 0.5 }
    }
}

impl PoolRule for WeightedMajority {
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError> {
        let vote = weighted_majority(pool.need_answers()?, pool.need_rewards()?, self.beta)?;
        Ok(PoolLaw { votes: vote.totals, ..PoolLaw::certain(vote.index, pool.size) })
    }

    fn kl(&self, _: &PoolView<'_>, _: usize) -> Result<Divergence, InputError> {
        Ok(Divergence::OF_ANSWERS)
    }
}

impl PoolMethod for WeightedMajority {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }

    fn refused(&self) -> Vec<Problem> {
        let beta =
            Problem::not_positive("beta", self.beta, "0.5 is usual; near 0 the best sample decides alone");
        beta.into_iter().collect()
    }
}
