//! Beam search over steps with a process reward, and its diverse form (arXiv 2408.03314; DVTS: Beeching et al. 2024).
//!
//! n rows draw one step each: up to a separator, or a number of tokens. The `n / width` of greatest score go on, each with
//! `width` continuations, until the best have ended. The score of a text is the last, the least, or the product of the
//! values of its steps. With `diverse = true` (DVTS) the rows form `n / width` trees that never mix, and in each the best
//! of its `width` rows goes on.
//!
//! Deviations from the public code (search-and-learn): 1. a step that is cut by its number of tokens is not taken for
//! an ended text. 2. Texts that have ended compete as they are. 3. The scores aggregate as told at the end too; there the
//! last step's value is always used. 4. No lookahead: in that code beam search computes it and does not use it.

use generate::{Engine, Sampling, Scheduled};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Parts, Tools, check, check_settings, random_enough};
use crate::search::{Plan, Rounds, Standing, best_first};

pub use crate::search::Choose;

/// The listing.
pub static INFO: Info = Info {
    name: "beam",
    access: Access::Text,
    needs: &[Need::PrefixValue],
    may_need: &[Need::Reward],
    paper: "Snell et al. 2024, arXiv 2408.03314; Beeching et al. 2024 (DVTS)",
    summary: "beam search over steps by a process reward; with `diverse`, over trees that do not mix",
};

/// How the values of a text's steps become its score.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregate {
    /// The value of the text as it stands.
    #[default]
    Last,
    /// The least of them.
    Min,
    /// Their product, for values that are probabilities.
    Product,
}

/// Settings of `beam`. The public code runs `width = 4` with steps that end in a blank line, at temperature 0.8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BeamSearch {
    /// Rows of a round; a multiple of `width`.
    #[schemars(range(min = 1))]
    pub n: usize,
    /// Continuations of a row that goes on.
    #[schemars(range(min = 1))]
    pub width: usize,
    /// The text that ends a step; empty: steps have `step_tokens` tokens.
    pub separator: String,
    /// The most tokens of a step.
    #[schemars(range(min = 1))]
    pub step_tokens: usize,
    /// How the values of a text's steps become its score.
    pub aggregate: Aggregate,
    /// Trees that do not mix, one for each row that goes on.
    pub diverse: bool,
    /// By what the answer is chosen.
    pub choose: Choose,
}

impl Default for BeamSearch {
    fn default() -> Self {
        Self {
            n: 16,
            width: 4,
            separator: "\n\n".into(),
            step_tokens: 64,
            aggregate: Aggregate::Last,
            diverse: false,
            choose: Choose::Value,
        }
    }
}

impl Plan for BeamSearch {
    fn method(&self) -> &'static str {
        INFO.name
    }
    fn roots(&self) -> usize {
        self.n
    }
    fn block(&self, _: usize) -> usize {
        self.step_tokens
    }
    fn children(&self) -> usize {
        self.width
    }
    fn keep(&self, pool: &[Standing]) -> Vec<usize> {
        if !self.diverse {
            return best_first(pool, self.n / self.width);
        }
        // Candidates are in the order of their roots, so each tree is a run of them.
        let mut kept = Vec::new();
        let mut start = 0;
        for tree in pool.chunk_by(|a, b| a.root / self.width == b.root / self.width) {
            kept.extend(best_first(tree, 1).into_iter().map(|place| start + place));
            start += tree.len();
        }
        kept
    }
    fn choose(&self) -> Choose {
        self.choose
    }
    fn score(&self, path: &[f64]) -> f64 {
        match self.aggregate {
            Aggregate::Last => path[path.len() - 1],
            Aggregate::Min => path.iter().copied().fold(f64::INFINITY, f64::min),
            Aggregate::Product => path.iter().product(),
        }
    }
}

impl Method for BeamSearch {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let few: Vec<Problem> = [
            Problem::too_few("n", self.n, 1, "draw at least one row"),
            Problem::too_few("width", self.width, 1, "draw at least one continuation"),
            Problem::too_few("step_tokens", self.step_tokens, 1, "a step has at least one token"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if few.is_empty() && !self.n.is_multiple_of(self.width) {
            let message = format!("{} is not a multiple of `width` = {}", self.n, self.width);
            return vec![Problem::new("n", message, "every round has as many rows: change one of the two")];
        }
        few
    }

    fn samples(&self) -> usize {
        self.n
    }

    fn rows(&self) -> usize {
        self.n
    }

    fn needs(&self) -> Vec<Need> {
        let reward = (self.choose == Choose::Reward).then_some(Need::Reward);
        std::iter::once(Need::PrefixValue).chain(reward).collect()
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        check_settings(self)?;
        let engine = Engine::new(parts.policy, random_enough(self, sampling)?)?;
        Ok(if self.separator.is_empty() { engine } else { engine.with_pause(self.separator.clone()) })
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Rounds { plan: self.clone(), horizon: tools.max_new_tokens }))
    }
}
