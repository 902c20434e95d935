//! Soft best-of-N: among `n` independent completions sample `i` with probability `exp(r_i / β) / Σ_j exp(r_j / β)`.
//!
//! Law: `p(y) · E[n w(y) / (w(y) + w_2 + … + w_n)]` with `w = exp(r / β)`, an integral over one variable
//! ([`crate::selection::soft_best_of_n_law`]). At `n = 1` it is the base, for `β → 0` best-of-n, for `β → ∞` the base, and
//! for `n → ∞` the optimum `p(y) exp(r / β) / Z` of KL-regularised reward, to which its divergence falls as `O(1/n)`
//! (Verdun et al. 2025, there with `λ = β`). The divergence to the law drawn from is that integral at the pool's
//! frequencies.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{
    Divergence, PoolLaw, PoolRule, PoolView, scaled_rewards, soft_best_of_n, soft_kl, tempered,
};

/// The listing.
pub static INFO: Info = Info {
    name: "soft-best-of-n",
    access: Access::Text,
    needs: &[Need::Reward],
    may_need: &[],
    paper: "Verdun et al. 2025, arXiv 2505.03156",
    summary: "a completion out of n drawn with probability softmax(reward / beta)",
};

/// Settings of `soft-best-of-n`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SoftBestOfN {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Divides the rewards, in their unit: small is best-of-n, large is a plain sample. The KL coefficient of the
    /// optimum that it nears as `n` grows.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Measure rewards in standard deviations from their mean over the prompt's samples, so that one `beta` fits rewards of
    /// any scale.
    pub normalise: bool,
}

impl Default for SoftBestOfN {
    fn default() -> Self {
        Self { n: 16, beta: 0.5, normalise: false }
    }
}

impl SoftBestOfN {
    fn log_weights(&self, pool: &PoolView<'_>) -> Result<Vec<f64>, InputError> {
        tempered(&scaled_rewards(pool, self.normalise)?, self.beta)
    }
}

impl PoolRule for SoftBestOfN {
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError> {
        Ok(PoolLaw::of(soft_best_of_n(&self.log_weights(pool)?)?))
    }

    fn kl(&self, pool: &PoolView<'_>, n: usize) -> Result<Divergence, InputError> {
        if self.normalise {
            return Ok(Divergence::OF_NORMALISED);
        }
        soft_kl(&self.log_weights(pool)?, n)
    }
}

impl PoolMethod for SoftBestOfN {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }

    fn refused(&self) -> Vec<Problem> {
        let beta = Problem::not_positive("beta", self.beta, "0.5 is usual; near 0 it is best-of-n");
        beta.into_iter().collect()
    }
}
