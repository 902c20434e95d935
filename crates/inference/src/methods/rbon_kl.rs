//! RBoN-KL: of `n` independent completions the one of greatest `r(y) + β ln π_ref(y)`, of equals the first.
//!
//! The second term is `−β KL(δ_y ‖ π_ref)` (Jinnai et al. 2024). `π_ref` is the raw law of the policy, in a comparison that of
//! its base; its logarithm is summed over the tokens, the end included. The score is a function of the text alone, so the law
//! is that of best-of-n by it, with the same exact weights and divergence. At `β = 0` it is best-of-n, for `β → ∞` the
//! likeliest sample.
//!
//! Unlike the public script, which scores all tokens of a response under one next-token law, every token has its own.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{BestBy, Divergence, PoolView, scaled_rewards};

/// The listing.
pub static INFO: Info = Info {
    name: "rbon-kl",
    access: Access::LogProbs,
    needs: &[Need::Reward],
    may_need: &[],
    paper: "Jinnai et al. 2024, arXiv 2404.01054",
    summary: "the completion out of n of greatest reward plus beta times its log-probability",
};

/// Settings of `rbon-kl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RbonKl {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Weight of the log-probability, in the unit of the rewards a nat: 0 is best-of-n, large the likeliest sample.
    #[schemars(range(min = 0))]
    pub beta: f64,
    /// Measure rewards in standard deviations from their mean over the prompt's samples, so that one `beta` fits rewards of
    /// any scale.
    pub normalise: bool,
}

impl Default for RbonKl {
    fn default() -> Self {
        Self { n: 16, beta: 0.01, normalise: false }
    }
}

impl BestBy for RbonKl {
    fn scores(&self, pool: &PoolView<'_>) -> Result<Vec<f64>, InputError> {
        let rewards = scaled_rewards(pool, self.normalise)?;
        Ok(rewards.iter().zip(pool.need_log_probs()?).map(|(r, log_prob)| r + self.beta * log_prob).collect())
    }

    fn over_pool(&self) -> Option<Divergence> {
        self.normalise.then_some(Divergence::OF_NORMALISED)
    }
}

impl PoolMethod for RbonKl {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }

    fn refused(&self) -> Vec<Problem> {
        let beta = Problem::negative(
            "beta",
            self.beta,
            "0 is best-of-n; log-probabilities are large, so 0.01 is a good start",
        );
        beta.into_iter().collect()
    }
}
