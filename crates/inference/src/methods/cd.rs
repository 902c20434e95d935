//! Controlled decoding, token by token (arXiv 2310.17022, Eq. 3).
//!
//! Law: `π(v | s) ∝ p(v | s) exp(λ V(s, v))` among the policy's k likeliest next tokens (all with `k = 0`). It is the optimum of
//! `λ A(s; π) − KL(π(·|s) ‖ p(·|s))` at every state, for V the policy's own value `E_p[r | s]` in the paper. It is not the
//! sequence-level optimum; with the soft value `V = ln E_p[e^{λr} | s] / λ` it is, exactly `p e^{λr} / Z`.
//!
//! By a scorer with a head over the vocabulary, as the paper's is (`head = "vocabulary"` of `prefix-scorer`), a step runs one row
//! of the scorer whatever `k` is; by a scalar value, one for each candidate.
//!
//! Deviation: with `k` above 0 the law is cut to the candidates.

use generate::{Engine, Sampling, Scheduled};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Parts, Tools, check, weighing_engine};
use crate::search::{Decode, guided};

/// The listing.
pub static INFO: Info = Info {
    name: "cd",
    access: Access::Logits,
    needs: &[Need::PrefixValue],
    may_need: &[],
    paper: "Mudgal et al. 2024, arXiv 2310.17022",
    summary: "next-token law of the policy times exp(lambda * value of the text with the token)",
};

/// Prefixes counted for a step over the whole vocabulary; their number is not known before the model is.
pub(super) const WHOLE_VOCABULARY: usize = 64;

/// Settings of `cd`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cd {
    /// Weight of the value, in its unit: 1 / β.
    pub lambda: f64,
    /// Candidates of a step; 0 takes the whole vocabulary.
    pub k: usize,
}

impl Default for Cd {
    fn default() -> Self {
        Self { lambda: 1.0, k: 20 }
    }
}

impl Method for Cd {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let bad = !self.lambda.is_finite();
        bad.then(|| Problem::new("lambda", format!("{} is not finite", self.lambda), "1 is usual"))
            .into_iter()
            .collect()
    }

    fn samples(&self) -> usize {
        1
    }

    fn rows(&self) -> usize {
        if self.k == 0 { WHOLE_VOCABULARY } else { self.k }
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        weighing_engine(self, parts, sampling)
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        let choice = (Decode::Sample, 1.0);
        Ok(Box::new(guided(INFO.name, tools.max_new_tokens, self.k, self.lambda, choice)))
    }
}
