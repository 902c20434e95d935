//! ARGS: alignment as reward-guided search (arXiv 2402.01694, Eq. 2 and Section 2.2).
//!
//! Among the policy's k likeliest next tokens, `score(v) = ln p(v|s) + w · r(s, v)`: the greatest is taken (greedy), or one
//! is drawn from `softmax(score / τ)`. The reward model was trained on whole texts and judges partial ones, which is the
//! method's known weakness: name it as `[value.model]`.
//!
//! Law: at every step that of the scores. `w = 0` greedy is the policy's greedy text, as is `k = 1` for any `w`; a constant
//! added to the reward changes nothing.
//!
//! Deviations from the public code: 1. the end-of-sequence token ends the text; there `max_new_token` tokens are always made.
//! 2. τ is the setting; there it is read and never handed on, so that 0.7 is always used. 3. Log-probabilities and not
//! logits, which differ by a constant. 4. Many prompts at once.

use generate::{Engine, Sampling, Scheduled};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Parts, Tools, check, weighing_engine};
use crate::search::guided;

pub use crate::search::Decode;

/// The listing.
pub static INFO: Info = Info {
    name: "args",
    access: Access::Logits,
    needs: &[Need::PrefixValue],
    may_need: &[],
    paper: "Khanov et al. 2024, arXiv 2402.01694",
    summary: "among the k likeliest tokens, log-probability plus weighted reward of the text so far",
};

/// Settings of `args`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Args {
    /// Candidates of a step; 0 takes the whole vocabulary.
    pub k: usize,
    /// Weight of the reward, in its unit.
    pub weight: f64,
    /// How a token is chosen.
    pub decode: Decode,
    /// Divides the scores that are drawn from, τ.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
}

impl Default for Args {
    fn default() -> Self {
        Self { k: 10, weight: 1.0, decode: Decode::Greedy, temperature: 0.7 }
    }
}

impl Method for Args {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let weight = (!self.weight.is_finite())
            .then(|| Problem::new("weight", format!("{} is not finite", self.weight), "1 is usual"));
        let temperature = Problem::not_positive("temperature", self.temperature, "0.7 is usual");
        weight.into_iter().chain(temperature).collect()
    }

    fn samples(&self) -> usize {
        1
    }

    fn rows(&self) -> usize {
        if self.k == 0 { super::cd::WHOLE_VOCABULARY } else { self.k }
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        weighing_engine(self, parts, sampling)
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        let choice = (self.decode, self.temperature);
        Ok(Box::new(guided(INFO.name, tools.max_new_tokens, self.k, self.weight, choice)))
    }
}
