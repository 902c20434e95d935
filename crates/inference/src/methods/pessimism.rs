//! Inference-time pessimism: completions are accepted with weights `w = max(0, (r − λ) / β)` of mean 1, the optimum of
//! `E_π[r] − β/2 · χ²(π ‖ p)`. Unlike best-of-n it does not degrade as samples are added to a flawed reward
//! (Huang et al. 2025, algorithm 1).
//!
//! Of the `n` completions the first half finds λ, at which the mean weight is 1. Of the second half each is accepted in its
//! order with probability `min(1, w / M)`, `M = (R_max − λ) / β`; where none is, the last is given, unasked. So `n = 2N + 1` is
//! the paper's method with `N` samples in each of its two batches.
//!
//! With `reuse = true` one batch does both: sample `i` of all `n` is given with probability `w_i / n`, which is rejection
//! sampling from the batch itself without an end. For `β → 0` that is best-of-n, for `β → ∞` a plain sample.
//!
//! Deviations: `R_max` is a known bound in the paper; without `max_reward` it is the greatest reward among the `n`.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{ChiSquare, Divergence, PoolLaw, PoolRule, PoolView, scaled_rewards};

/// The listing.
pub static INFO: Info = Info {
    name: "pessimism",
    access: Access::Text,
    needs: &[Need::Reward],
    may_need: &[],
    paper: "Huang et al. 2025, arXiv 2503.21878",
    summary: "a completion out of n accepted with weights max(0, (reward - lambda) / beta)",
};

/// Settings of `pessimism`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Pessimism {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Strength of the χ² penalty, in the unit of the rewards: small is best-of-n, large a plain sample.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Measure rewards in standard deviations from their mean over the prompt's samples, so that one `beta` fits rewards of
    /// any scale.
    pub normalise: bool,
    /// The greatest reward that can occur, in the unit that the rule sees; without it the greatest of the `n`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_reward: Option<f64>,
    /// Choose among the samples that λ was found from.
    pub reuse: bool,
}

impl Default for Pessimism {
    fn default() -> Self {
        Self { n: 16, beta: 0.5, normalise: false, max_reward: None, reuse: false }
    }
}

impl Pessimism {
    fn bound(&self) -> Option<Problem> {
        let value = self.max_reward.filter(|value| !value.is_finite())?;
        let hint = "give the greatest reward that can occur, or leave it out";
        Some(Problem::new("max_reward", format!("{value} is not a finite number"), hint))
    }
}

impl PoolRule for Pessimism {
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError> {
        let rewards = scaled_rewards(pool, self.normalise)?;
        let n = rewards.len();
        if self.reuse {
            let fit = ChiSquare::fit(&rewards, self.beta)?;
            return Ok(PoolLaw::of(rewards.iter().map(|r| fit.weight(*r) / n as f64).collect()));
        }
        let (first, second) = rewards.split_at(n / 2);
        if first.is_empty() {
            return Ok(PoolLaw::certain(0, n));
        }
        let fit = ChiSquare::fit(first, self.beta)?;
        let greatest = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let bound = fit.weight(self.max_reward.unwrap_or(greatest));
        let mut law = vec![0.0; n];
        let mut left = 1.0;
        for (place, reward) in second.iter().enumerate() {
            let weight = fit.weight(*reward);
            let accepted = if place + 1 == second.len() {
                1.0
            } else if weight > 0.0 {
                (weight / bound).min(1.0)
            } else {
                0.0
            };
            law[first.len() + place] = left * accepted;
            left *= 1.0 - accepted;
        }
        Ok(PoolLaw::of(law))
    }

    fn kl(&self, _: &PoolView<'_>, _: usize) -> Result<Divergence, InputError> {
        Ok(Divergence::Unknown("weights with a fitted threshold: the law on texts has no closed form"))
    }
}

impl PoolMethod for Pessimism {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }

    fn refused(&self) -> Vec<Problem> {
        let beta = Problem::not_positive("beta", self.beta, "0.5 is usual; near 0 it is best-of-n");
        beta.into_iter().chain(self.bound()).collect()
    }
}
