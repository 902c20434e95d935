//! TreeBoN: best-of-N with a tree (arXiv 2410.16033, Algorithm 1).
//!
//! `l_max` tokens are drawn in `layers` equal parts. N rows draw the first; after each part but the last, the
//! `N / children` rows of greatest value go on, each with `children` continuations. The answer is the whole text of greatest
//! reward. At most `N · l_max` tokens are drawn, as by best-of-N. The paper's value is the log-ratio of a DPO policy to its
//! reference with token weights 1, 1/2, 1/3, …: `[value.implicit]` with `discount = "harmonic"`.
//!
//! One layer, or one child, prunes nothing: that is best-of-N, with the same streams the same texts.
//!
//! Deviations: 1. the algorithm is written from the formulas: the only public code of this name draws no tree and reads
//! each log-probability one position off. 2. Rows that have ended keep competing without children, and the tokens that
//! they would have had are not drawn. 3. Where `l_max` is not a multiple of `layers`, the first layers get one token more.

use generate::Scheduled;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Tools, check};
use crate::search::{Choose, Plan, Rounds, Standing, best_first};

/// The listing.
pub static INFO: Info = Info {
    name: "treebon",
    access: Access::Text,
    needs: &[Need::Reward, Need::PrefixValue],
    may_need: &[],
    paper: "Qiu et al. 2024, arXiv 2410.16033",
    summary: "best-of-n whose rows are pruned and branch between layers, by a value of prefixes",
};

/// Settings of `treebon`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TreeBon {
    /// Rows of a layer, N; a multiple of `children`.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Parts in which completions are drawn; at most `max_new_tokens`.
    #[schemars(range(min = 1))]
    pub layers: usize,
    /// Continuations of a row that goes on.
    #[schemars(range(min = 1))]
    pub children: usize,
}

impl Default for TreeBon {
    fn default() -> Self {
        Self { n: 16, layers: 4, children: 4 }
    }
}

/// The settings at a horizon.
#[derive(Debug, Clone, Copy)]
struct Tree {
    config: TreeBon,
    horizon: usize,
}

impl Plan for Tree {
    fn method(&self) -> &'static str {
        INFO.name
    }
    fn roots(&self) -> usize {
        self.config.n
    }
    fn block(&self, round: usize) -> usize {
        self.horizon / self.config.layers + usize::from(round < self.horizon % self.config.layers)
    }
    fn children(&self) -> usize {
        self.config.children
    }
    fn keep(&self, pool: &[Standing]) -> Vec<usize> {
        best_first(pool, self.config.n / self.config.children)
    }
    fn choose(&self) -> Choose {
        Choose::Reward
    }
}

impl Method for TreeBon {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let few: Vec<Problem> = [
            Problem::too_few("n", self.n, 1, "draw at least one completion"),
            Problem::too_few("layers", self.layers, 1, "one layer is best-of-n"),
            Problem::too_few("children", self.children, 1, "one child is best-of-n"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if few.is_empty() && !self.n.is_multiple_of(self.children) {
            let message = format!("{} is not a multiple of `children` = {}", self.n, self.children);
            return vec![Problem::new("n", message, "every layer has as many rows: change one of the two")];
        }
        few
    }

    fn samples(&self) -> usize {
        self.n
    }

    fn rows(&self) -> usize {
        self.n
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        let horizon = tools.max_new_tokens;
        if self.layers > horizon {
            let hint = "a layer has at least one token: lower `layers`, or raise max_new_tokens";
            let (key, value) = ("layers", self.layers);
            return Err(Error::Horizon { method: INFO.name, key, value, horizon, hint });
        }
        Ok(Box::new(Rounds { plan: Tree { config: *self, horizon }, horizon }))
    }
}
