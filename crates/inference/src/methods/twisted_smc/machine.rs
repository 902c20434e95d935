//! The particles of one prompt.

use generate::schedule::{Answer, Ask, Machine, Reply};
use generate::{Chance, Completion, End, Error, NextAsk, NextToken, Prompt, Scheduled, Stream, TokenId};
use objective::numeric::log_sum_exp;
use serde::{Deserialize, Serialize};

use super::config::{INFO, Pick, Proposal, TwistedSmc};
use super::potentials::Potentials;
use crate::pooled::unexpected;
use crate::search::{Beam, KL_REASON};

/// What a run of particles reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trace {
    /// Logarithm of an unbiased estimate of `Z = E_p[exp(r / β)]`.
    pub log_z: f64,
    /// Effective number of particles after each step.
    pub ess: Vec<f64>,
    /// Steps after which particles were drawn anew.
    pub resampled: Vec<usize>,
    /// Logarithms of the final weights.
    pub log_weights: Vec<f64>,
    /// Rewards of the final particles.
    pub rewards: Vec<f64>,
    /// Tokens of the particles in all.
    pub drawn_tokens: u64,
    /// Why there is no estimate of the divergence to the base.
    pub kl_reason: Option<String>,
}

/// Runs particles on each prompt.
#[derive(Debug, Clone, Copy)]
pub(super) struct Particles {
    pub(super) config: TwistedSmc,
    pub(super) horizon: usize,
}

impl Scheduled for Particles {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine> {
        let particle =
            |root| Particle { beam: Beam::root(stream, root), log_weight: 0.0, log_twist: 0.0, stale: false };
        Box::new(Run {
            config: self.config,
            horizon: self.horizon,
            prompt: prompt.clone(),
            // Rows have the first children of the stream.
            stream: stream.child(u64::MAX),
            particles: (0..self.config.particles).map(particle).collect(),
            stage: Stage::Start,
            next: Vec::new(),
            potentials: Potentials::default(),
            log_z: 0.0,
            ess: Vec::new(),
            resampled: Vec::new(),
            drawn: 0,
        })
    }
}

/// A text under way.
#[derive(Debug, Clone)]
struct Particle {
    beam: Beam,
    log_weight: f64,
    /// `ln ψ` of the text, or of its beginning while it is stale.
    log_twist: f64,
    /// Whether its text is longer than the one that the twist is of.
    stale: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    /// Blocks of the policy.
    Blocks,
    /// Next tokens of the policy.
    Next,
    /// Twists of the candidates for the next token.
    Candidates,
    /// Twists of the particles.
    Weights,
}

struct Run {
    config: TwistedSmc,
    horizon: usize,
    prompt: Prompt,
    stream: Stream,
    particles: Vec<Particle>,
    stage: Stage,
    /// Next tokens of each particle that goes on, the likeliest first.
    next: Vec<Vec<NextToken>>,
    potentials: Potentials,
    log_z: f64,
    ess: Vec<f64>,
    resampled: Vec<usize>,
    drawn: u64,
}

impl Machine for Run {
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        match (self.stage, reply) {
            (Stage::Start, Reply::Start) => self.step(chance),
            (Stage::Blocks, Reply::Samples(given)) if given.len() == self.open().count() => {
                self.take(&given);
                self.weigh(chance)
            }
            (Stage::Next, Reply::Next(given))
                if given.len() == self.open().count() && given.iter().all(|next| !next.is_empty()) =>
            {
                self.next = given;
                self.potentials = Potentials::new(self.candidates());
                self.stage = Stage::Candidates;
                self.propose(chance)
            }
            (Stage::Candidates, reply) => {
                self.potentials.take(&self.prompt, reply)?;
                self.propose(chance)
            }
            (Stage::Weights, reply) => {
                self.potentials.take(&self.prompt, reply)?;
                self.settle(chance)
            }
            (_, other) => Err(unexpected(INFO.name, "the answers to its asks", &other)),
        }
    }

    /// The particle of the greatest weight.
    fn running(&self) -> Option<Vec<TokenId>> {
        let started = self.particles.iter().filter(|particle| !particle.beam.ids.is_empty());
        started.max_by(|a, b| a.log_weight.total_cmp(&b.log_weight)).map(|particle| particle.beam.ids.clone())
    }
}

impl Run {
    fn open(&self) -> impl Iterator<Item = &Particle> {
        self.particles.iter().filter(|particle| particle.beam.end.is_none())
    }

    /// Asks for more of the particles that go on, or ends.
    fn step(&mut self, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        if self.open().next().is_none() {
            return self.done(chance);
        }
        let len = |particle: &Particle| particle.beam.ids.len();
        Ok(match self.config.proposal {
            Proposal::Base => {
                self.stage = Stage::Blocks;
                let budget = |particle: &Particle| self.config.block.min(self.horizon - len(particle));
                let ask = |particle: &Particle| particle.beam.ask(&self.prompt, budget(particle));
                Ask::Sample(self.open().map(ask).collect())
            }
            Proposal::Twisted => {
                self.stage = Stage::Next;
                let ask = |particle: &Particle| NextAsk {
                    prefix: [&self.prompt.ids[..], &particle.beam.ids].concat(),
                    prompt_len: self.prompt.ids.len(),
                    k: 0,
                };
                Ask::Next(self.open().map(ask).collect())
            }
        })
    }

    fn take(&mut self, given: &[Completion]) {
        let open = self.particles.iter_mut().filter(|particle| particle.beam.end.is_none());
        for (particle, new) in open.zip(given) {
            self.drawn += new.ids.len() as u64;
            particle.beam.extend(new, self.horizon);
            particle.stale = true;
        }
    }

    /// How many of the next tokens have a twist of their own.
    fn looked_at(&self, next: &[NextToken]) -> usize {
        if self.config.k == 0 { next.len() } else { self.config.k.min(next.len()) }
    }

    fn candidates(&self) -> Vec<(Vec<TokenId>, Option<End>)> {
        let mut texts = Vec::new();
        for (particle, next) in self.open().zip(&self.next) {
            for token in &next[..self.looked_at(next)] {
                let full = particle.beam.ids.len() + 1 >= self.horizon;
                let end = token.end.or(full.then_some(End::Budget));
                texts.push(([&particle.beam.ids[..], &[token.id]].concat(), end));
            }
        }
        texts
    }

    /// Draws the next token of every particle that goes on, once the candidates' twists are there.
    fn propose(&mut self, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        if let Some(ask) = self.potentials.ask() {
            return Ok(ask);
        }
        let mut twists = self.potentials.log_twists(self.config.beta).into_iter();
        let (next, horizon) = (std::mem::take(&mut self.next), self.horizon);
        let looked_at: Vec<usize> = next.iter().map(|next| self.looked_at(next)).collect();
        let open = self.particles.iter_mut().filter(|particle| particle.beam.end.is_none());
        for (particle, (next, looked_at)) in open.zip(next.iter().zip(looked_at)) {
            let own: Vec<f64> = twists.by_ref().take(looked_at).collect();
            let before = particle.log_twist;
            let twist = |place: usize| own.get(place).copied().unwrap_or(before);
            let logs: Vec<f64> =
                next.iter().enumerate().map(|(i, token)| token.log_prob + twist(i)).collect();
            let place = chance.of(&mut particle.beam.stream()).pick(&logs);
            // p ψ(s') / (ψ(s) q) with q = p ψ(s') / C, or p ψ(s) / C for a token that was not looked at: C / ψ(s), and for
            // the latter ψ(s') / ψ(s) as well, once it is known.
            particle.log_weight += log_sum_exp(&logs) - before;
            let token = &next[place];
            particle.beam.ids.push(token.id);
            particle.beam.end = token.end.or((particle.beam.ids.len() >= horizon).then_some(End::Budget));
            self.drawn += 1;
            if place < looked_at {
                particle.log_twist = own[place];
            } else {
                particle.stale = true;
            }
        }
        self.weigh(chance)
    }

    /// Asks for the twists of texts that have none.
    fn weigh(&mut self, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        let stale = self.particles.iter().filter(|particle| particle.stale);
        let texts = stale.map(|particle| (particle.beam.ids.clone(), particle.beam.end)).collect();
        self.potentials = Potentials::new(texts);
        self.stage = Stage::Weights;
        self.settle(chance)
    }

    /// Weighs the particles once their twists are there, draws them anew where the weights are uneven, and goes on.
    fn settle(&mut self, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        if let Some(ask) = self.potentials.ask() {
            return Ok(ask);
        }
        let twists = self.potentials.log_twists(self.config.beta);
        for (particle, twist) in self.particles.iter_mut().filter(|particle| particle.stale).zip(twists) {
            particle.log_weight += twist - particle.log_twist;
            particle.log_twist = twist;
            particle.stale = false;
        }
        let count = self.particles.len() as f64;
        let logs = self.log_weights();
        let squares: Vec<f64> = logs.iter().map(|log| 2.0 * log).collect();
        let ess = (2.0 * log_sum_exp(&logs) - log_sum_exp(&squares)).exp();
        self.ess.push(ess);
        if ess < self.config.ess * count && self.open().next().is_some() {
            self.resampled.push(self.ess.len());
            self.log_z += log_sum_exp(&logs) - count.ln();
            let mut copies = vec![0; logs.len()];
            let drawn = (0..logs.len()).map(|_| {
                let ancestor = chance.of(&mut self.stream).pick(&logs);
                copies[ancestor] += 1;
                let particle = &self.particles[ancestor];
                Particle {
                    beam: particle.beam.fork(copies[ancestor] - 1),
                    log_weight: 0.0,
                    ..particle.clone()
                }
            });
            self.particles = drawn.collect();
        }
        self.step(chance)
    }

    fn log_weights(&self) -> Vec<f64> {
        self.particles.iter().map(|particle| particle.log_weight).collect()
    }

    fn done(&mut self, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        let log_weights = self.log_weights();
        let log_z = self.log_z + log_sum_exp(&log_weights) - (log_weights.len() as f64).ln();
        // The twist of a whole text is its reward.
        let rewards: Vec<f64> =
            self.particles.iter().map(|particle| particle.log_twist * self.config.beta).collect();
        let place = match self.config.pick {
            Pick::Draw => chance.of(&mut self.stream).pick(&log_weights),
            Pick::Best => crate::selection::best_of_n(&rewards)
                .map_err(|error| Error::Method { method: INFO.name, message: error.to_string() })?,
        };
        let beam = self.particles[place].beam.clone();
        let trace = Trace {
            log_z,
            ess: std::mem::take(&mut self.ess),
            resampled: std::mem::take(&mut self.resampled),
            log_weights,
            rewards,
            drawn_tokens: self.drawn,
            kl_reason: Some(KL_REASON.into()),
        };
        let trace = serde_json::to_value(trace).map_err(|error| Error::Backend(Box::new(error)))?;
        Ok(Ask::Done(Answer { ids: beam.ids, end: beam.end.unwrap_or(End::Budget), kl: None, trace }))
    }
}
