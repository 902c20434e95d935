//! Speculative rejection: best-of-N that stops drawing what is losing (arXiv 2410.20290, Algorithm 1).
//!
//! N rows begin. After every `every` tokens all rows are ranked by the value of what they have so far, and the lowest
//! share `alpha` of them stops. The answer is the whole text of greatest reward. The paper uses one reward model for both:
//! name it as `[reward.model]` and as `[value.model]`.
//!
//! Every text that is drawn to its end is the sample of the same number in best-of-N's pool, bit for bit. The answer's reward
//! is therefore at most that of best-of-N, at fewer tokens, and `alpha = 0` is best-of-N.
//!
//! Deviations: 1. N and the rounds are settings; the public code takes as many rows as fit into the memory that is free
//! less 15 GB, and ranks when it is full, so that results depend on the machine. 2. A text that has ended costs nothing
//! more: it keeps its rank, and stays in the last choice even where it ranks among the lowest.

use generate::Scheduled;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Tools, check};
use crate::search::{Choose, Plan, Rounds, Standing, best_first};

/// The listing.
pub static INFO: Info = Info {
    name: "speculative-rejection",
    access: Access::Text,
    needs: &[Need::Reward, Need::PrefixValue],
    may_need: &[],
    paper: "Sun et al. 2024, arXiv 2410.20290",
    summary: "best-of-n that stops the rows of least value on the way",
};

/// Settings of `speculative-rejection`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpeculativeRejection {
    /// Rows that begin.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Share of the rows that is rejected after each round, rounded down; below 1.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub alpha: f64,
    /// Tokens of a round.
    #[schemars(range(min = 1))]
    pub every: usize,
}

impl Default for SpeculativeRejection {
    fn default() -> Self {
        Self { n: 16, alpha: 0.5, every: 32 }
    }
}

impl Plan for SpeculativeRejection {
    fn method(&self) -> &'static str {
        INFO.name
    }
    fn roots(&self) -> usize {
        self.n
    }
    fn block(&self, _: usize) -> usize {
        self.every
    }
    fn children(&self) -> usize {
        1
    }
    fn keep(&self, pool: &[Standing]) -> Vec<usize> {
        let rejected = (self.alpha * pool.len() as f64).floor() as usize;
        let best = best_first(pool, pool.len() - rejected);
        (0..pool.len()).filter(|place| pool[*place].ended || best.binary_search(place).is_ok()).collect()
    }
    fn choose(&self) -> Choose {
        Choose::Reward
    }
}

impl Method for SpeculativeRejection {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let n = Problem::too_few("n", self.n, 1, "draw at least one completion");
        let alpha = (!(0.0..1.0).contains(&self.alpha)).then(|| {
            let message = format!("{} is not at least 0 and below 1", self.alpha);
            Problem::new("alpha", message, "0 rejects none and is best-of-n; 0.5 is usual")
        });
        let every = Problem::too_few("every", self.every, 1, "a round has at least one token");
        n.into_iter().chain(alpha).chain(every).collect()
    }

    fn samples(&self) -> usize {
        self.n
    }

    fn rows(&self) -> usize {
        self.n
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Rounds { plan: *self, horizon: tools.max_new_tokens }))
    }
}
