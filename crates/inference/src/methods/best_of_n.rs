//! Best-of-N: of `n` independent completions the one of greatest reward, of equals the first.
//!
//! Law: `p(y) (F≤^n − F<^n) / c` with the masses of the reward's tie classes ([`objective::bon`]). The divergence to the
//! law drawn from is estimated from the tie classes of the pool, never by `ln n − (n−1)/n`, which only bounds it.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{BestBy, PoolView};

/// The listing.
pub static INFO: Info = Info {
    name: "best-of-n",
    access: Access::Text,
    needs: &[Need::Reward],
    may_need: &[],
    paper: "Stiennon et al. 2020, arXiv 2009.01325; Beirami et al. 2024, arXiv 2401.01879",
    summary: "the completion of greatest reward out of n",
};

/// Settings of `best-of-n`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BestOfN {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
}

impl Default for BestOfN {
    fn default() -> Self {
        Self { n: 16 }
    }
}

impl BestBy for BestOfN {
    fn scores(&self, pool: &PoolView<'_>) -> Result<Vec<f64>, InputError> {
        Ok(pool.need_rewards()?.to_vec())
    }
}

impl PoolMethod for BestOfN {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }
}
