//! SRBoN-KL: among `n` independent completions sample `i` with probability in proportion to `ρ_i exp(r_i / β)`.
//!
//! It maximises `<π, r> − β KL(π ‖ ρ)` over the laws on the samples (Ichihara et al. 2025), where `ρ` is the reference on them.
//! The paper's is `ρ_i ∝ π_ref(y_i)`. Samples that `π_ref` drew are then weighed by it once more, and as `n` grows the law
//! nears `π_ref² exp(r / β)`. With `reference = "distinct"` it nears `π_ref exp(r / β)`; so it does with `"samples"`, which is
//! `soft-best-of-n`. For `β → 0` it is best-of-n, for `β → ∞` the reference.
//!
//! Unlike the public code: (1) log-probabilities are those of the sequence, each token under its own next-token law;
//! (2) the reward is divided by β and not multiplied.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{
    Divergence, PoolLaw, PoolRule, PoolView, Reference, scaled_rewards, soft_best_of_n, soft_kl, tempered,
};

/// The listing.
pub static INFO: Info = Info {
    name: "srbon-kl",
    access: Access::LogProbs,
    needs: &[Need::Reward],
    may_need: &[],
    paper: "Ichihara et al. 2025, arXiv 2502.12668",
    summary: "a completion out of n drawn in proportion to pi_ref exp(reward / beta)",
};

/// Settings of `srbon-kl`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SrbonKl {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Divides the rewards, in their unit: small is best-of-n, large the reference.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Measure rewards in standard deviations from their mean over the prompt's samples, so that one `beta` fits rewards of
    /// any scale.
    pub normalise: bool,
    /// The law on the samples that it is pulled to.
    pub reference: Reference,
}

impl Default for SrbonKl {
    fn default() -> Self {
        Self { n: 16, beta: 0.5, normalise: false, reference: Reference::Probabilities }
    }
}

impl SrbonKl {
    fn log_weights(&self, pool: &PoolView<'_>) -> Result<Vec<f64>, InputError> {
        let rewards = tempered(&scaled_rewards(pool, self.normalise)?, self.beta)?;
        let reference = self.reference.log_weights(pool)?;
        Ok(rewards.iter().zip(reference).map(|(reward, log)| reward + log).collect())
    }
}

impl PoolRule for SrbonKl {
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError> {
        Ok(PoolLaw::of(soft_best_of_n(&self.log_weights(pool)?)?))
    }

    fn kl(&self, pool: &PoolView<'_>, n: usize) -> Result<Divergence, InputError> {
        if self.normalise {
            return Ok(Divergence::OF_NORMALISED);
        }
        if self.reference == Reference::Distinct {
            return Ok(Divergence::Unknown(
                "the rule counts the copies of a text: its law on texts has no closed form",
            ));
        }
        soft_kl(&self.log_weights(pool)?, n)
    }
}

impl PoolMethod for SrbonKl {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }

    fn refused(&self) -> Vec<Problem> {
        let beta = Problem::not_positive("beta", self.beta, "0.5 is usual; near 0 it is best-of-n");
        beta.into_iter().collect()
    }
}
