//! Contrastive decoding: the policy, as the expert, moved away from a weaker model, the amateur (arXiv 2210.15097, in the
//! form of arXiv 2309.09117, Eq. 2).
//!
//! Law: `π(y_t | s) ∝ π_expert(y_t | s)^(1 + λ) / π_amateur(y_t | s)^λ` on the tokens that the expert finds plausible,
//! `π_expert(v | s) ≥ plausibility · max_u π_expert(u | s)`, then the sampling settings. Without that mask a token that
//! both find absurd can win.
//!
//! An amateur equal to the expert leaves the expert's law on its plausible tokens, exactly.
//!
//! Deviations from the first paper: (1) it draws from `π_expert / π_amateur` and searches by beams; here the expert keeps
//! its own weight and tokens are sampled, or chosen greedily at temperature 0; (2) the mask is of the expert's law at
//! temperature 1, whatever the temperature of sampling; (3) the amateur has no temperature of its own.

use generate::mix::{Difference, Differences};
use generate::{Engine, Mix, Sampling, Scheduled};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{
    Access, Further, Info, Method, Need, Parts, Tools, check, check_settings, random_enough,
};
use crate::single::Single;

/// The listing.
pub static INFO: Info = Info {
    name: "contrastive",
    access: Access::Logits,
    needs: &[Need::Models],
    may_need: &[],
    paper: "Li et al. 2023, arXiv 2210.15097; O'Brien and Lewis 2023, arXiv 2309.09117",
    summary: "the policy moved away from a weaker model, among its plausible tokens",
};

/// Settings of `contrastive`. The model is named `amateur`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Contrastive {
    /// How far the law moves away from the amateur; 0 is the expert on its plausible tokens.
    #[schemars(range(min = 0))]
    pub lambda: f64,
    /// Least probability of a token as a share of the expert's greatest.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    pub plausibility: f64,
}

impl Default for Contrastive {
    /// As the second paper (its β and α).
    fn default() -> Self {
        Self { lambda: 0.5, plausibility: 0.1 }
    }
}

impl Method for Contrastive {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !(self.lambda.is_finite() && self.lambda >= 0.0) {
            let message = format!("{} is not a finite number of at least 0", self.lambda);
            problems.push(Problem::new("lambda", message, "0.5 is usual; 0 does not contrast"));
        }
        if !(self.plausibility > 0.0 && self.plausibility <= 1.0) {
            let message = format!("{} is not above 0 and at most 1", self.plausibility);
            let hint = "0.1 is usual; without a mask a token that both models find absurd can win";
            problems.push(Problem::new("plausibility", message, hint));
        }
        problems
    }

    fn samples(&self) -> usize {
        1
    }

    fn further(&self) -> Further {
        Further::Named(vec!["amateur".into()])
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        check_settings(self)?;
        let sampling = random_enough(self, sampling)?;
        let term = Difference { plus: 0, minus: 1, weight: self.lambda as f32 };
        let mix = Mix {
            models: vec![parts.policy, parts.model(INFO.name, "amateur")?],
            rule: Box::new(Differences { terms: vec![term] }),
            reference: 0,
            tokens: parts.tokens,
        };
        let plausible = Sampling { min_p: self.plausibility as f32, ..Sampling::default() };
        Ok(Engine::mix(mix.masked(plausible), sampling)?)
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Single { method: INFO.name, budget: tools.max_new_tokens }))
    }
}
