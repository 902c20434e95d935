//! Majority vote, also called self-consistency: of `n` independent completions the first with the most frequent final
//! answer. Of equally frequent answers the one that appears first wins; completions without an answer are one class.

use generate::TextMethod;
use objective::error::InputError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Tools, check};
use crate::pooled::Pooled;
use crate::selection::{Pick, PoolRule, PoolView, majority};

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
    fn pick(&self, pool: PoolView<'_>) -> Result<Pick, InputError> {
        let vote = majority(pool.need_answers()?)?;
        Ok(Pick { index: vote.index, votes: vote.totals })
    }

    fn kl(&self, _: PoolView<'_>, _: usize) -> Result<Option<f64>, InputError> {
        Ok(None)
    }
}

impl Method for Majority {
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
            reward: false,
            extract: Some(tools.extractor(INFO.name)?),
            rule: *self,
        }))
    }

    fn rule(&self) -> Option<&dyn PoolRule> {
        Some(self)
    }
}
