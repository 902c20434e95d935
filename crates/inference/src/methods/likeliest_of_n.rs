//! Likeliest-of-n: of `n` independent completions the likeliest under the policy, of equals the first. No
//! reward is looked at.
//!
//! It is the control of `rbon-kl` and `srbon-kl`, which add the log-probability to a reward: what this rule
//! wins as well they
//! win by sharpening the policy, not by the reward. The score is `ln π_ref(y)` of the raw policy (in a
//! comparison of its
//! base), summed over the tokens, the end included. It is a function of the text alone, so the distribution
//! is that of
//! best-of-n by it, with the same exact weights and divergence; `rbon-kl` tends to it as its `beta` grows.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Access, Info};
use crate::pooled::PoolMethod;
use crate::selection::{BestBy, PoolView};

/// The listing.
pub static INFO: Info = Info {
    name: "likeliest-of-n",
    access: Access::LogProbs,
    needs: &[],
    may_need: &[],
    paper: "control of arXiv 2404.01054 (rbon-kl, srbon-kl)",
    summary: "control of rbon-kl and srbon-kl: the likeliest completion out of n, without a reward",
};

/// Settings of `likeliest-of-n`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LikeliestOfN {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
}

impl Default for LikeliestOfN {
    fn default() -> Self {
        Self { n: 16 }
    }
}

impl BestBy for LikeliestOfN {
    fn scores(&self, pool: &PoolView<'_>) -> Result<Vec<f64>, InputError> {
        Ok(pool.need_log_probs()?.to_vec())
    }
}

impl PoolMethod for LikeliestOfN {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }
}
