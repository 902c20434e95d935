//! Blockwise controlled decoding: best-of-K, block by block (arXiv 2310.17022, Section 2.2).
//!
//! From the text so far, K blocks of M tokens are drawn from the policy, and the one of greatest value is kept, until the
//! text ends. Law: with `F` the continuations of `M` tokens of a state, each step is best-of-K of `F` by `V`, with ties to the
//! first. `M` at least the horizon and a value that is the reward on whole texts is best-of-K; `K = 1` is the policy.
//!
//! Deviations: 1. the paper trains its own prefix scorer (CD-Q, CD-FUDGE); here anything that judges partial texts may serve.
//! 2. A text that ends within its block competes as it is.

use generate::Scheduled;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Tools, check};
use crate::search::{Plan, Rounds, Standing, best_first};

/// The listing.
pub static INFO: Info = Info {
    name: "cd-blockwise",
    access: Access::Text,
    needs: &[Need::PrefixValue],
    may_need: &[],
    paper: "Mudgal et al. 2024, arXiv 2310.17022",
    summary: "best of k blocks by a value of prefixes, block after block",
};

/// Settings of `cd-blockwise`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CdBlockwise {
    /// Blocks drawn at each step.
    #[schemars(range(min = 1))]
    pub k: usize,
    /// Tokens of a block.
    #[schemars(range(min = 1))]
    pub block: usize,
}

impl Default for CdBlockwise {
    fn default() -> Self {
        Self { k: 8, block: 16 }
    }
}

impl Plan for CdBlockwise {
    fn method(&self) -> &'static str {
        INFO.name
    }
    fn roots(&self) -> usize {
        self.k
    }
    fn block(&self, _: usize) -> usize {
        self.block
    }
    fn children(&self) -> usize {
        self.k
    }
    fn keep(&self, pool: &[Standing]) -> Vec<usize> {
        best_first(pool, 1)
    }
}

impl Method for CdBlockwise {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let k = Problem::too_few("k", self.k, 1, "draw at least one block");
        let block = Problem::too_few("block", self.block, 1, "a block has at least one token");
        k.into_iter().chain(block).collect()
    }

    fn samples(&self) -> usize {
        self.k
    }

    fn rows(&self) -> usize {
        self.k
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Rounds { plan: *self, horizon: tools.max_new_tokens }))
    }
}
