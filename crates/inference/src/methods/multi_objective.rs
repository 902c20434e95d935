//! Multi-objective decoding, MOD (arXiv 2406.18853): policies that were each aligned to one reward, combined at every step
//! into the policy for a weighted sum of the rewards. The run's policy is the reference that they were aligned from.
//!
//! Law of a step, where `π_i` is optimal for `r_i` under an f-divergence to `π_ref` and `Σ w_i = 1`; then the sampling
//! settings:
//!
//! | `divergence` | law |
//! |---|---|
//! | `reverse-kl` | `∝ Π_i π_i^w_i`, and the reference has no part |
//! | `forward-kl` | `[Σ_i w_i / π_i + z / π_ref]⁻¹` |
//! | `alpha` | `π_ref [Σ_i w_i (π_i / π_ref)^−α + z]^(−1/α)`; α → 0 is `reverse-kl`, α = 1 `forward-kl` |
//!
//! with the `z` at which probabilities add up to 1, found at every step to the precision of `f64`
//! ([`objective::power_mean`]). `solution = "mean"` leaves `z` at 0 and normalises instead: the decoding score of the paper,
//! which is not the optimum. Weights that add up to less than 1 leave the rest to the reference, as a policy that was
//! aligned to nothing.
//!
//! As with every product of next-token laws, each step is optimal by itself; the law of whole texts is not the
//! sequence-level optimum.
//!
//! Deviations from the public code: (1) laws are normalised before the rule; there raw logits go into the rules of the
//! forward KL and the α-divergence, whose result then changes with an arbitrary constant; (2) laws of steps are combined,
//! not probabilities of prefixes; (3) sampling as well as greedy decoding; (4) no beams, and no rule for the
//! Jensen–Shannon divergence, for which the public code takes that of the reverse KL.

use std::collections::BTreeMap;

use generate::{Engine, Mix, Rule, Sampling, Scheduled, Source};
use objective::numeric::log_sum_exp;
use objective::power_mean::{divergence_optimum, log_power_mean};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{
    Access, Further, Info, Method, Need, Parts, Tools, check, check_settings, random_enough,
};
use crate::single::Single;

/// The listing.
pub static INFO: Info = Info {
    name: "mod",
    access: Access::Logits,
    needs: &[Need::Models],
    may_need: &[],
    paper: "Shi et al. 2024, arXiv 2406.18853",
    summary: "several aligned policies as the policy for a weighted sum of their rewards",
};

/// The divergence under which the policies were aligned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Divergence {
    /// `KL(π ‖ π_ref)`, as PPO, DPO and nearly all others have it.
    #[default]
    ReverseKl,
    /// `KL(π_ref ‖ π)`.
    ForwardKl,
    /// The α-divergence between them.
    Alpha,
}

/// What is decoded with where the divergence is not the reverse KL.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Solution {
    /// The optimum.
    #[default]
    Exact,
    /// The power mean of the policies, normalised.
    Mean,
}

/// Settings of `mod`. The models are named as in `weights`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MultiObjective {
    /// Weight of each model by its name, adding up to 1 at most; the rest is the reference's. Without it all models weigh
    /// the same.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    /// The divergence under which the models were aligned.
    pub divergence: Divergence,
    /// α of the α-divergence.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1e-4, max = 1))]
    pub alpha: Option<f64>,
    /// The optimum, or the normalised mean.
    #[serde(skip_serializing_if = "is_exact")]
    pub solution: Solution,
}

impl Default for MultiObjective {
    fn default() -> Self {
        Self {
            weights: BTreeMap::new(),
            divergence: Divergence::ReverseKl,
            alpha: None,
            solution: Solution::Exact,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_exact(solution: &Solution) -> bool {
    *solution == Solution::Exact
}

/// How far a sum of weights may lie above 1.
const ROUNDING: f64 = 1e-9;

impl MultiObjective {
    /// Models with their weights, the reference first.
    fn sources<'a>(&self, parts: &Parts<'a>) -> Result<Vec<Source<'a>>, Error> {
        let aligned: Vec<Source<'a>> = if self.weights.is_empty() {
            let weight = 1.0 / parts.models.len().max(1) as f64;
            parts.models.iter().map(|(_, policy)| Source { policy: *policy, weight }).collect()
        } else {
            let one = |(role, weight): (&String, &f64)| {
                Ok(Source { policy: parts.model(INFO.name, role)?, weight: *weight })
            };
            self.weights.iter().map(one).collect::<Result<_, Error>>()?
        };
        if aligned.is_empty() {
            return Err(Error::Missing { method: INFO.name, need: Need::Models });
        }
        let rest = 1.0 - aligned.iter().map(|source| source.weight).sum::<f64>();
        let weight = if rest.abs() < ROUNDING { 0.0 } else { rest };
        Ok(std::iter::once(Source { policy: parts.policy, weight }).chain(aligned).collect())
    }

    /// α of the rule, where it is not that of the reverse KL.
    fn exponent(&self) -> Option<f64> {
        match self.divergence {
            Divergence::ReverseKl => None,
            Divergence::ForwardKl => Some(1.0),
            Divergence::Alpha => self.alpha,
        }
    }
}

/// The rule of the forward KL and of α-divergences. The first model is the reference.
struct PowerRule {
    weights: Vec<f64>,
    alpha: f64,
    solution: Solution,
}

impl Rule for PowerRule {
    fn drives(&self, model: usize) -> bool {
        self.weights[model] > 0.0 || (model == 0 && self.solution == Solution::Exact)
    }

    fn mix(&self, logits: &[&[f32]], mixed: &mut Vec<f32>) {
        let laws: Vec<Vec<f64>> = logits.iter().map(|row| log_law(row)).collect();
        let weighted: Vec<(&[f64], f64)> =
            laws.iter().map(Vec::as_slice).zip(self.weights.iter().copied()).collect();
        let law = match self.solution {
            Solution::Exact => divergence_optimum(&laws[0], &weighted, self.alpha),
            Solution::Mean => Some(log_power_mean(&weighted, self.alpha)),
        };
        match law {
            Some(law) => mixed.extend(law.iter().map(|log| *log as f32)),
            None => mixed.resize(logits[0].len(), f32::NEG_INFINITY),
        }
    }

    fn offset(&self, _: &[&[f32]]) -> f64 {
        0.0
    }
}

fn log_law(logits: &[f32]) -> Vec<f64> {
    let logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
    let total = log_sum_exp(&logits);
    logits.iter().map(|logit| logit - total).collect()
}

impl Method for MultiObjective {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (name, weight) in &self.weights {
            if !(weight.is_finite() && *weight >= 0.0) {
                let message = format!("{name} = {weight} is not a finite number of at least 0");
                problems.push(Problem::new("weights", message, "weights are shares of 1"));
            }
        }
        let sum: f64 = self.weights.values().sum();
        let shares = sum > 0.0 && sum <= 1.0 + ROUNDING;
        if !(self.weights.is_empty() || shares) {
            let message = format!("they add up to {sum}, which is not above 0 and at most 1");
            problems.push(Problem::new("weights", message, "divide them by their sum"));
        }
        match (self.divergence, self.alpha) {
            (Divergence::Alpha, None) => {
                let hint = "give `alpha` between 0 and 1: near 0 it is the reverse KL, at 1 the forward KL";
                problems.push(Problem::new("alpha", "the α-divergence needs its α", hint));
            }
            (Divergence::Alpha, Some(alpha)) if !(1e-4..=1.0).contains(&alpha) => {
                let message = format!("{alpha} is not between 0.0001 and 1");
                problems.push(Problem::new("alpha", message, "the limit 0 is `divergence = \"reverse-kl\"`"));
            }
            (Divergence::ReverseKl | Divergence::ForwardKl, Some(_)) => {
                let message = "it is used with `divergence = \"alpha\"` only";
                problems.push(Problem::new("alpha", message, "leave it out, or choose that divergence"));
            }
            _ => {}
        }
        problems
    }

    fn samples(&self) -> usize {
        1
    }

    fn further(&self) -> Further {
        if self.weights.is_empty() {
            return Further::Any;
        }
        Further::Named(self.weights.keys().cloned().collect())
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        check_settings(self)?;
        let sampling = random_enough(self, sampling)?;
        let sources = self.sources(parts)?;
        let mix = match self.exponent() {
            None => Mix { tokens: parts.tokens, ..Mix::product(sources, 0)? },
            Some(alpha) => Mix {
                models: sources.iter().map(|source| source.policy).collect(),
                rule: Box::new(PowerRule {
                    weights: sources.iter().map(|source| source.weight).collect(),
                    alpha,
                    solution: self.solution,
                }),
                reference: 0,
                tokens: parts.tokens,
            },
        };
        Ok(Engine::mix(mix, sampling)?)
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Single { method: INFO.name, budget: tools.max_new_tokens }))
    }
}
