//! Sequential Monte Carlo on GenARM: particles that converge to the sequence-level optimum.
//!
//! `genarm` normalises every step by `Z_t(s) = Σ_v π_base(v | s) Π_i π_i(v | s)^α_i` and so samples from another law than
//!
//! target: `π*(y) = π_base(y) Π_i π_i(y)^α_i / Z` (at temperature T, `∝ [π_base(y) Π_i π_i(y)^α_i]^(1/T)`).
//!
//! The two differ by exactly `Π_t Z_t / Z`. Here `particles` completions grow by GenARM in blocks of `block` tokens, each
//! weighted by its `Π Z_t`; when the effective sample size `(Σw)² / Σw²` falls below `threshold` of the particles, they are
//! resampled (residual resampling: `⌊N w⌋` copies for certain, the rest at random). At the end one particle is drawn by
//! weight.
//!
//! Law: for every function `f`, `E[Ẑ f(answer)] = Z E_π*[f]`, whatever the settings, with the reported `Ẑ = exp(log_z)`; so
//! `Ẑ` is unbiased, and the law of the answer tends to `π*` as particles are added. With one particle it would be `genarm`.
//! A filter of the base (`filter = "before"`) takes the filtered law as `π_base`; top-k, top-p and min-p of the product
//! restrict both the proposals and the target to the tokens that are kept.
//!
//! It follows from Del Moral's Feynman–Kac identities with `genarm` as the proposal, as in twisted SMC (arXiv 2404.17546)
//! with constant twists; there is no public code of it.

use generate::schedule::{Answer, Ask, Machine, NoNext, Reply};
use generate::{
    Chance, Completion, End, Engine, Prompt, SampleAsk, Sampling, Scheduled, Stream, TextMethod, TokenId,
};
use objective::draw::Draw;
use objective::numeric::log_sum_exp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::genarm::GenArm;
use crate::error::{Error, Problem};
use crate::filter::Filter;
use crate::method::{
    Access, Further, Info, Method, Need, Parts, Tools, check, check_settings, random_enough,
};
use crate::pooled::{log_ratio, unexpected};
use crate::selection::effective_sample_size;

/// The listing.
pub static INFO: Info = Info {
    name: "genarm-smc",
    access: Access::Logits,
    needs: &[Need::PrefixReward],
    may_need: &[],
    paper: "Xu et al. 2025, arXiv 2410.08193; Zhao et al. 2024, arXiv 2404.17546",
    summary: "particles of genarm, weighted and resampled to the sequence-level optimum",
};

/// Settings of `genarm-smc`: those of `genarm`, and of the particles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GenArmSmc {
    /// Weight α of each autoregressive reward model, in the models' order; 1 for each without it and `strength`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub alpha: Option<Vec<f64>>,
    /// Weights in units of the reward instead: `α = strength · β_r`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub strength: Option<Vec<f64>>,
    /// Scale β_r that each model was trained with, for `strength`. Without it the recipe in the model's run folder says.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub beta_r: Option<Vec<f64>>,
    /// Whether top-k, top-p and min-p apply to the product or to the base before.
    #[serde(skip_serializing_if = "Filter::is_after")]
    pub filter: Filter,
    /// Completions that grow together.
    #[schemars(range(min = 2))]
    pub particles: usize,
    /// Tokens between two looks at the weights.
    #[schemars(range(min = 1))]
    pub block: usize,
    /// Particles are resampled when the effective sample size is below this share of their number; 0 never, 1 always
    /// where weights differ.
    #[schemars(range(min = 0, max = 1))]
    pub threshold: f64,
}

impl Default for GenArmSmc {
    fn default() -> Self {
        let (alpha, strength, beta_r, filter) = (None, None, None, Filter::After);
        Self { alpha, strength, beta_r, filter, particles: 16, block: 8, threshold: 0.5 }
    }
}

impl GenArmSmc {
    /// The proposal.
    fn guidance(&self) -> GenArm {
        GenArm {
            alpha: self.alpha.clone(),
            strength: self.strength.clone(),
            beta_r: self.beta_r.clone(),
            filter: self.filter,
        }
    }
}

/// What a run reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SmcTrace {
    /// `ln Ẑ`, the estimate of the target's normaliser in nats; `Ẑ` is unbiased, its logarithm is low on average.
    pub log_z: f64,
    /// Effective sample size of the weights that the answer was drawn by, from 1 to the number of particles.
    pub ess: f64,
    /// Effective sample size after each block, before resampling.
    pub ess_of_blocks: Vec<f64>,
    /// How often particles were resampled.
    pub resampled: usize,
    /// Index of the particle given as answer.
    pub picked: usize,
    /// Final weights of the particles, adding up to 1.
    pub weights: Vec<f64>,
    /// Tokens of each particle.
    pub lengths: Vec<usize>,
    /// Different completions among the particles.
    pub distinct: usize,
    /// Estimate of the divergence of the target to the base, in nats. That of the answer nears it as
    /// particles are added;
    /// with few it is between that of `genarm` and this, or neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_target: Option<f64>,
    /// Why there is no divergence of the answer to the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_reason: Option<String>,
    /// What speaks against the answer.
    pub warnings: Vec<String>,
}

/// Why the divergence of the answer is not known.
const KL_REASON: &str =
    "the distribution of the answer nears the target as particles are added, and how nearly is not known";

impl Method for GenArmSmc {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.guidance().problems();
        let hint = "16 is a start; one particle is the method genarm";
        problems.extend(Problem::too_few("particles", self.particles, 2, hint));
        problems.extend(Problem::too_few("block", self.block, 1, "8 is a start"));
        if !(0.0..=1.0).contains(&self.threshold) {
            let message = format!("{} is not between 0 and 1", self.threshold);
            problems.push(Problem::new("threshold", message, "0.5 is usual"));
        }
        problems
    }

    fn samples(&self) -> usize {
        self.particles
    }

    fn further(&self) -> Further {
        self.guidance().further()
    }

    fn suits(&self, sampling: &Sampling, beta_r: &[Option<f64>]) -> Result<(), Error> {
        random_enough(self, sampling.clone())?;
        self.guidance().go_with(INFO.name, sampling, beta_r)
    }

    /// The same as for `genarm`: with untrained models the target is the base's law of whole texts to the power `1 + Σα`.
    fn control(&self, beta_r: &[Option<f64>], arms: usize, temperature: f64) -> Option<f64> {
        self.guidance().control(beta_r, arms, temperature)
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        check_settings(self)?;
        let mix = self.guidance().mix(INFO.name, parts)?;
        self.suits(&sampling, &parts.beta_r)?;
        let (mix, sampling) = self.filter.apply(mix, sampling);
        Ok(Engine::mix(mix, sampling)?.with_log_z())
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Smc { config: self.clone(), horizon: tools.max_new_tokens }))
    }
}

struct Smc {
    config: GenArmSmc,
    horizon: usize,
}

impl TextMethod for Smc {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine<NoNext>> {
        let empty = Particle { ids: Vec::new(), end: End::Budget, log_weight: 0.0, tilt: 0.0 };
        Box::new(Run {
            config: self.config.clone(),
            horizon: self.horizon,
            prompt: prompt.clone(),
            stream,
            particles: vec![empty; self.config.particles],
            block: 0,
            log_z: 0.0,
            ess_of_blocks: Vec::new(),
            resampled: 0,
        })
    }
}

#[derive(Debug, Clone)]
struct Particle {
    ids: Vec<TokenId>,
    end: End,
    /// `Σ ln Z_t` since the last resampling.
    log_weight: f64,
    /// `ln` of the unnormalised target over the base's raw law, of all its tokens.
    tilt: f64,
}

impl Particle {
    fn grow(&mut self, piece: &Completion) {
        let log_z: f64 = piece.log_z.iter().sum();
        self.log_weight += log_z;
        self.tilt += log_z + log_ratio(piece);
        self.ids.extend(&piece.ids);
        self.end = piece.end;
    }

    fn grows(&self, horizon: usize) -> bool {
        self.end == End::Budget && self.ids.len() < horizon
    }
}

struct Run {
    config: GenArmSmc,
    horizon: usize,
    prompt: Prompt,
    stream: Stream,
    particles: Vec<Particle>,
    block: u64,
    /// `ln` of the mean weights of all resamplings.
    log_z: f64,
    ess_of_blocks: Vec<f64>,
    resampled: usize,
}

impl Machine<NoNext> for Run {
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask<NoNext>, generate::Error> {
        let growing = self.growing();
        match reply {
            Reply::Start => return Ok(self.ask(&growing)),
            Reply::Samples(given) if given.len() == growing.len() => {
                for (index, piece) in growing.into_iter().zip(&given) {
                    if piece.log_z.len() != piece.ids.len() {
                        let message = "the sampler reports no normalisers of its steps".to_owned();
                        return Err(generate::Error::Method { method: INFO.name, message });
                    }
                    self.particles[index].grow(piece);
                }
            }
            other => return Err(unexpected(INFO.name, "a block for each particle", &other)),
        }
        let weights = self.weights();
        self.ess_of_blocks.push(effective_sample_size(&weights));
        let growing = self.growing();
        if growing.is_empty() {
            return self.done(&weights, chance);
        }
        let ess = self.ess_of_blocks[self.ess_of_blocks.len() - 1];
        if ess < self.config.threshold * self.particles.len() as f64 {
            self.resample(&weights, chance);
        }
        self.block += 1;
        let growing = self.growing();
        // Resampling may keep none but those that have ended.
        if growing.is_empty() {
            let weights = self.weights();
            return self.done(&weights, chance);
        }
        Ok(self.ask(&growing))
    }

    /// The particle of the greatest weight.
    fn running(&self) -> Option<Vec<TokenId>> {
        let started = self.particles.iter().filter(|particle| !particle.ids.is_empty());
        started.max_by(|a, b| a.log_weight.total_cmp(&b.log_weight)).map(|particle| particle.ids.clone())
    }
}

impl Run {
    /// Indices of the particles that have not ended.
    fn growing(&self) -> Vec<usize> {
        (0..self.particles.len()).filter(|i| self.particles[*i].grows(self.horizon)).collect()
    }

    /// Asks for the next block. The first block of particle `i` has the stream of sample `i` of a pool.
    fn ask(&self, growing: &[usize]) -> Ask<NoNext> {
        let one = |index: &usize| {
            let particle = &self.particles[*index];
            let stream = self.stream.child(*index as u64);
            SampleAsk {
                prefix: [self.prompt.ids.as_slice(), &particle.ids].concat(),
                prompt_len: self.prompt.ids.len(),
                budget: self.config.block.min(self.horizon - particle.ids.len()),
                stream: if self.block == 0 { stream } else { stream.child(self.block) },
            }
        };
        Ask::Sample(growing.iter().map(one).collect())
    }

    fn log_weights(&self) -> Vec<f64> {
        self.particles.iter().map(|particle| particle.log_weight).collect()
    }

    /// Weights that add up to 1.
    fn weights(&self) -> Vec<f64> {
        objective::numeric::softmax(&self.log_weights())
    }

    /// `ln` of the mean weight since the last resampling.
    fn log_mean_weight(&self) -> f64 {
        log_sum_exp(&self.log_weights()) - (self.particles.len() as f64).ln()
    }

    fn resample(&mut self, weights: &[f64], chance: &mut Chance<'_>) {
        self.log_z += self.log_mean_weight();
        self.resampled += 1;
        let chosen = residual(weights, chance.of(&mut self.stream));
        self.particles = chosen
            .into_iter()
            .map(|index| Particle { log_weight: 0.0, ..self.particles[index].clone() })
            .collect();
    }

    fn done(&mut self, weights: &[f64], chance: &mut Chance<'_>) -> Result<Ask<NoNext>, generate::Error> {
        let log_z = self.log_z + self.log_mean_weight();
        let log_weights = self.log_weights();
        let picked = chance.of(&mut self.stream).pick(&log_weights);
        // KL(target ‖ base) = E_target[ln (unnormalised target / base)] − ln Z.
        let mean: f64 = weights.iter().zip(&self.particles).map(|(w, particle)| w * particle.tilt).sum();
        let mut texts: Vec<&[TokenId]> = self.particles.iter().map(|p| p.ids.as_slice()).collect();
        texts.sort_unstable();
        texts.dedup();
        let distinct = texts.len();
        let particles = self.particles.len();
        let least = self.ess_of_blocks.iter().copied().fold(f64::INFINITY, f64::min);
        let mut warnings = Vec::new();
        if least < 2.0 && particles > 2 {
            warnings.push(format!(
                "the effective sample size fell to {least:.1} of {particles} particles: the law is nearer to that of genarm than to the target; take more particles, smaller blocks or smaller weights"
            ));
        }
        let trace = SmcTrace {
            log_z,
            ess: effective_sample_size(weights),
            ess_of_blocks: std::mem::take(&mut self.ess_of_blocks),
            resampled: self.resampled,
            picked,
            weights: weights.to_vec(),
            lengths: self.particles.iter().map(|particle| particle.ids.len()).collect(),
            distinct,
            kl_target: Some(mean - log_z),
            kl_reason: Some(KL_REASON.to_owned()),
            warnings,
        };
        let trace = serde_json::to_value(trace).map_err(|error| generate::Error::Backend(Box::new(error)))?;
        let chosen = self.particles.swap_remove(picked);
        Ok(Ask::Done(Answer { ids: chosen.ids, end: chosen.end, kl: None, trace }))
    }
}

/// Indices of as many survivors as there are weights: `⌊n w_i⌋` copies of each, the rest drawn by what remains of `n w_i`.
/// Every index has `n w_i` copies on average.
fn residual(weights: &[f64], draw: &mut dyn Draw) -> Vec<usize> {
    let n = weights.len();
    let shares: Vec<f64> = weights.iter().map(|weight| weight * n as f64).collect();
    let mut chosen: Vec<usize> = Vec::with_capacity(n);
    for (index, share) in shares.iter().enumerate() {
        chosen.extend(std::iter::repeat_n(index, *share as usize));
    }
    let rest: Vec<f64> = shares.iter().map(|share| share.fract().ln()).collect();
    while chosen.len() < n {
        chosen.push(draw.pick(&rest));
    }
    chosen.truncate(n);
    chosen
}

#[cfg(test)]
mod tests {
    use objective::draw::Exhaustive;

    use super::residual;

    #[test]
    fn resampling_keeps_the_mean_number_of_copies() {
        for weights in [[0.5, 0.25, 0.25], [0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1.0 / 3.0; 3]] {
            let copies = Exhaustive::mean(|draw| {
                let chosen = residual(&weights, draw);
                assert_eq!(chosen.len(), 3);
                (0..3).map(|i| chosen.iter().filter(|j| **j == i).count() as f64).collect()
            })
            .expect("finite");
            for (copies, weight) in copies.iter().zip(weights) {
                assert!((copies - 3.0 * weight).abs() < 1e-12, "{weights:?}: {copies} copies");
            }
        }
    }
}
