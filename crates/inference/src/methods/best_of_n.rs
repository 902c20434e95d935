//! Best-of-N: of `n` independent completions the one of greatest reward, of equals the first.
//!
//! Law: `p(y) (F≤^n − F<^n) / c` with the masses of the reward's tie classes ([`objective::bon`]). The divergence to the
//! law drawn from is estimated from the tie classes of the pool, never by `ln n − (n−1)/n`, which only bounds it.

use generate::{Stream, TextMethod};
use objective::error::InputError;
use objective::pool::Pool;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Tools, check};
use crate::pooled::Pooled;
use crate::selection::{Pick, PoolRule, PoolView, best_of_n};

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

impl PoolRule for BestOfN {
    fn pick(&self, pool: PoolView<'_>) -> Result<Pick, InputError> {
        Ok(Pick { index: best_of_n(pool.need_rewards()?)?, votes: Vec::new() })
    }

    fn kl(&self, pool: PoolView<'_>, n: usize) -> Result<Option<f64>, InputError> {
        // Ranks are all that counts: an infinite reward stands for the largest finite one.
        let rewards = pool.need_rewards()?.iter().map(|r| r.clamp(f64::MIN, f64::MAX)).collect();
        Ok(Some(Pool::new(rewards)?.kl_best_of(n)?))
    }

    fn weights(&self, pool: PoolView<'_>, n: usize, _: usize, _: Stream) -> Result<Vec<f64>, InputError> {
        let rewards = pool.need_rewards()?.iter().map(|r| r.clamp(f64::MIN, f64::MAX)).collect();
        Pool::new(rewards)?.best_of(n)
    }
}

impl Method for BestOfN {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        Problem::too_few("n", self.n, 1, "draw at least one completion").into_iter().collect()
    }

    fn samples(&self) -> usize {
        self.n
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn TextMethod>, Error> {
        check(self, tools)?;
        Ok(Box::new(Pooled {
            method: INFO.name,
            n: self.n,
            budget: tools.max_new_tokens,
            reward: true,
            extract: None,
            rule: *self,
        }))
    }

    fn rule(&self) -> Option<&dyn PoolRule> {
        Some(self)
    }
}
