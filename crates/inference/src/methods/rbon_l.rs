//! RBoN-L: of `n` independent completions the one of greatest `r(y) − β / |y|`, of equals the first; `|y|` counts tokens, the
//! end included.
//!
//! It holds short completions back (Ichihara et al. 2025). The score is a function of the text alone, so the law is that of
//! best-of-n by it. At `β = 0` it is best-of-n, for `β → ∞` the longest sample.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{BestBy, Divergence, PoolView, scaled_rewards};

/// The listing.
pub static INFO: Info = Info {
    name: "rbon-l",
    access: Access::Text,
    needs: &[Need::Reward],
    may_need: &[],
    paper: "Ichihara et al. 2025, arXiv 2502.12668",
    summary: "the completion out of n of greatest reward less beta divided by its length",
};

/// Settings of `rbon-l`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RbonL {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Taken from the reward of a completion of one token, half of it of one of two: 0 is best-of-n, large the longest.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// Measure rewards in standard deviations from their mean over the prompt's samples, so that one `beta` fits rewards of
    /// any scale.
    pub normalise: bool,
}

impl Default for RbonL {
    fn default() -> Self {
        Self { n: 16, beta: 1.0, normalise: false }
    }
}

impl BestBy for RbonL {
    fn scores(&self, pool: &PoolView<'_>) -> Result<Vec<f64>, InputError> {
        let rewards = scaled_rewards(pool, self.normalise)?;
        // A completion has at least the token that ended it.
        let short = |ids: &&[u32]| self.beta / ids.len().max(1) as f64;
        Ok(rewards.iter().zip(pool.need_tokens()?.iter().map(short)).map(|(r, short)| r - short).collect())
    }

    fn over_pool(&self) -> Option<Divergence> {
        self.normalise.then_some(Divergence::OF_NORMALISED)
    }
}

impl PoolMethod for RbonL {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }

    fn refused(&self) -> Vec<Problem> {
        let beta =
            Problem::negative("beta", self.beta, "0 is best-of-n; 1 weighs a token against a reward of 1");
        beta.into_iter().collect()
    }
}
