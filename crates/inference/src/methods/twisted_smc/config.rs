//! The settings of `twisted-smc`.

use generate::{Engine, Sampling, Scheduled};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::machine::Particles;
use crate::error::{Error, Problem};
use crate::method::{
    Access, Info, Method, Need, Parts, Tools, check, check_settings, random_enough, weighing_engine,
};

/// The listing.
pub static INFO: Info = Info {
    name: "twisted-smc",
    access: Access::Logits,
    needs: &[Need::Reward, Need::PrefixValue],
    may_need: &[],
    paper: "Zhao et al. 2024, arXiv 2404.17546",
    summary: "particles with the law p(y) exp(r / beta) / Z, weighed on the way by a value of prefixes",
};

/// Where a particle's next tokens come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Proposal {
    /// Blocks of the policy's own law.
    #[default]
    Base,
    /// Single tokens by the policy's law times the twist.
    Twisted,
}

/// Which particle is the answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Pick {
    /// One drawn by the weights: nearly a draw from the target.
    #[default]
    Draw,
    /// The one of greatest reward.
    Best,
}

/// Settings of `twisted-smc`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TwistedSmc {
    /// Particles.
    #[schemars(range(min = 1))]
    pub particles: usize,
    /// Divides rewards and values, in their unit.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// Particles are drawn anew where their effective number is below this share of them; 0 never does.
    #[schemars(range(min = 0, max = 1))]
    pub ess: f64,
    /// Where next tokens come from.
    pub proposal: Proposal,
    /// Tokens between two looks at the weights, of the proposal `base`.
    #[schemars(range(min = 1))]
    pub block: usize,
    /// Tokens whose twist the proposal `twisted` looks at; 0 looks at all.
    pub k: usize,
    /// Which particle is the answer.
    pub pick: Pick,
}

impl Default for TwistedSmc {
    fn default() -> Self {
        Self {
            particles: 16,
            beta: 1.0,
            ess: 0.5,
            proposal: Proposal::Base,
            block: 16,
            k: 20,
            pick: Pick::Draw,
        }
    }
}

impl Method for TwistedSmc {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let share = (!(0.0..=1.0).contains(&self.ess)).then(|| {
            Problem::new(
                "ess",
                format!("{} is not between 0 and 1", self.ess),
                "0.5 is usual; 0 never resamples",
            )
        });
        [
            Problem::too_few("particles", self.particles, 1, "run at least one particle"),
            Problem::not_positive("beta", self.beta, "1 is the reward as it is"),
            share,
            Problem::too_few("block", self.block, 1, "a block has at least one token"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    fn samples(&self) -> usize {
        self.particles
    }

    fn rows(&self) -> usize {
        match self.proposal {
            Proposal::Base => self.particles,
            Proposal::Twisted => self.particles.saturating_mul(self.k.max(1)),
        }
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        match self.proposal {
            Proposal::Twisted => weighing_engine(self, parts, sampling),
            Proposal::Base => {
                check_settings(self)?;
                Ok(Engine::new(parts.policy, random_enough(self, sampling)?)?)
            }
        }
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Particles { config: *self, horizon: tools.max_new_tokens }))
    }
}
