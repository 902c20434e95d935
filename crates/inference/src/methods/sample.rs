//! One completion, drawn from the policy under the sampling settings: the base of every comparison.
//!
//! Law: the policy's own at temperature 1 without filters; its divergence to the raw law is reported otherwise.

use generate::Scheduled;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Tools, check};
use crate::single::Single;

/// The listing.
pub static INFO: Info = Info {
    name: "sample",
    access: Access::Text,
    needs: &[],
    may_need: &[],
    paper: "-",
    summary: "one completion drawn from the policy",
};

/// Settings of `sample`: none of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sample {}

impl Method for Sample {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        Vec::new()
    }

    fn samples(&self) -> usize {
        1
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Single { method: INFO.name, budget: tools.max_new_tokens }))
    }
}
