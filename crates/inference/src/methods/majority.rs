//! Majority vote, also called self-consistency: of `n` independent completions the first with the most frequent final
//! answer. Of equally frequent answers the one that appears first wins; completions without an
//! answer take no part, and where none has one the first is given.

use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::method::{Access, Info, Need};
use crate::pooled::PoolMethod;
use crate::selection::{Divergence, PoolLaw, PoolRule, PoolView, majority};

/// The listing.
pub static INFO: Info = Info {
    name: "majority",
    access: Access::Text,
    needs: &[Need::AnswerExtractor],
    may_need: &[],
    paper: "Wang et al. 2023, arXiv 2203.11171",
    summary: "the most frequent final answer out of n",
};

/// Settings of `majority`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Majority {
    /// Completions drawn of each prompt.
    #[schemars(range(min = 1))]
    pub n: usize,
}

impl Default for Majority {
    fn default() -> Self {
        Self { n: 16 }
    }
}

impl PoolRule for Majority {
    fn law(&self, pool: &PoolView<'_>) -> Result<PoolLaw, InputError> {
        let vote = majority(pool.need_answers()?)?;
        Ok(PoolLaw { votes: vote.totals, ..PoolLaw::certain(vote.index, pool.size) })
    }

    fn kl(&self, _: &PoolView<'_>, _: usize) -> Result<Divergence, InputError> {
        Ok(Divergence::OF_ANSWERS)
    }
}

impl PoolMethod for Majority {
    const LISTING: &'static Info = &INFO;

    fn draws(&self) -> usize {
        self.n
    }
}
