//! Worst-of-N: of `n` independent completions the one of least reward, of equals the first.
//!
//! What someone who asks again and again until it goes wrong will get: a measure of robustness, and the lower end of the
//! scale whose upper end is best-of-n. Law: that of best-of-n for the negated reward. In a comparison with a gold reward of 0
//! and 1 the report adds how often `N` attempts hold a failure, `1 − (1 − p)^N`, and its power law.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{BestBy, PoolView, negated};

/// The listing.
pub static INFO: Info = Info {
    name: "worst-of-n",
    access: Access::Text,
    needs: &[Need::Reward],
    may_need: &[],
    paper: "Hughes et al. 2024, arXiv 2412.03556",
    summary: "the completion of least reward out of n: what an adversary gets",
};

/// Settings of `worst-of-n`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorstOfN {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
}

impl Default for WorstOfN {
    fn default() -> Self {
        Self { n: 16 }
    }
}

impl BestBy for WorstOfN {
    fn scores(&self, pool: &PoolView<'_>) -> Result<Vec<f64>, InputError> {
        Ok(negated(pool.need_rewards()?))
    }
}

impl PoolMethod for WorstOfN {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }
}
