//! Chunk-level beam search, the decoder of weak-to-strong search (arXiv 2405.19262, Algorithm 1).
//!
//! W beams are kept. Each gets K continuations of L tokens from the policy, and the W candidates of greatest value go on;
//! at the end the one of greatest value is the answer. The paper's value is `log π_tuned(y') − log π_ref(y')` of the
//! partial text under a small tuned pair: `[value.implicit]`. `W = 1` is `cd-blockwise`; `L` at least the horizon is
//! best-of-(W·K) by the value.
//!
//! Deviations: 1. the search begins with W·K rows, so that every round draws as many. 2. Beams that have ended compete as
//! they are and are not continued. 3. Equal texts are kept: they count as the sampler gives them, as in the public code.

use generate::Scheduled;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Tools, check};
use crate::search::{Plan, Rounds, Standing, best_first};

/// The listing.
pub static INFO: Info = Info {
    name: "cbs",
    access: Access::Text,
    needs: &[Need::PrefixValue],
    may_need: &[],
    paper: "Zhou et al. 2024, arXiv 2405.19262",
    summary: "beam search over chunks of sampled tokens by a value of prefixes",
};

/// Settings of `cbs`. The paper runs W, K, L = 4, 4, 5 on short texts and 2, 2, 30 on chat.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cbs {
    /// Beams kept, W.
    #[schemars(range(min = 1))]
    pub beams: usize,
    /// Continuations of each beam, K.
    #[schemars(range(min = 1))]
    pub successors: usize,
    /// Tokens of a chunk, L.
    #[schemars(range(min = 1))]
    pub chunk: usize,
}

impl Default for Cbs {
    fn default() -> Self {
        Self { beams: 4, successors: 4, chunk: 5 }
    }
}

impl Plan for Cbs {
    fn method(&self) -> &'static str {
        INFO.name
    }
    fn roots(&self) -> usize {
        self.beams * self.successors
    }
    fn block(&self, _: usize) -> usize {
        self.chunk
    }
    fn children(&self) -> usize {
        self.successors
    }
    fn keep(&self, pool: &[Standing]) -> Vec<usize> {
        best_first(pool, self.beams)
    }
}

impl Method for Cbs {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        [
            Problem::too_few("beams", self.beams, 1, "keep at least one beam"),
            Problem::too_few("successors", self.successors, 1, "draw at least one continuation"),
            Problem::too_few("chunk", self.chunk, 1, "a chunk has at least one token"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn samples(&self) -> usize {
        self.beams.saturating_mul(self.successors)
    }

    fn rows(&self) -> usize {
        self.samples()
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Rounds { plan: *self, horizon: tools.max_new_tokens }))
    }
}
