//! The likeliest token at every step; of equals, the one of lowest id.
//!
//! Law: one text. Temperature and filters of the sampling settings are ignored, stop strings are not.

use generate::{Sampling, Scheduled};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Tools, check};
use crate::single::Single;

/// The listing.
pub static INFO: Info = Info {
    name: "greedy",
    access: Access::Text,
    needs: &[],
    may_need: &[],
    paper: "-",
    summary: "the likeliest token at every step",
};

/// Settings of `greedy`: none of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Greedy {}

impl Method for Greedy {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    fn samples(&self) -> usize {
        1
    }

    fn sampling(&self, sampling: Sampling) -> Sampling {
        Sampling { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..sampling }
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Single { method: INFO.name, budget: tools.max_new_tokens }))
    }
}
