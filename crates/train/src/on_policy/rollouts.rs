//! Answers drawn from policies, their log-probabilities and rewards, and the time that takes.

use std::time::Instant;

use generate::engine::Limits;
use generate::{
    Candidate, Chance, Completion, Engine, Prompt, Purpose, Reward, Sample, SampleAsk, Sampling, Score,
    Stream,
};
use model::Policy;
use objective::algebra::Group;
use objective::rank::CachedRewards;
use objective::reward_law::RewardLaw;
use serde_json::Value;

use crate::error::Error;
use crate::meters::Meters;
use crate::trainer::{Phases, sample_row};

/// Turns ids into text.
pub type DecodeIds<'a> = Box<dyn Fn(&[u32]) -> String + 'a>;

/// What a task runs on.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct Parts<'a> {
    /// Prompts to roll out from.
    pub prompts: Vec<Prompt>,
    /// Rewards of the reference's samples for each prompt; empty where the method needs none.
    pub cached: Vec<CachedRewards>,
    /// Learned laws of the reference's rewards for each prompt, in place of cached ones; else empty.
    pub laws: Vec<RewardLaw>,
    /// The model that training begins with.
    pub reference: &'a Policy,
    /// What scores answers.
    pub reward: Box<dyn Reward + 'a>,
    /// Most new tokens.
    pub budget: usize,
    /// How many rows are decoded at once.
    pub limits: Limits,
    /// Turns ids into text, for the sample table.
    pub decode: DecodeIds<'a>,
}

impl Parts<'_> {
    /// What is known of a prompt before anything is drawn for it.
    pub(crate) fn group(&self, prompt: usize) -> Group<'_> {
        Group { cached: self.cached.get(prompt), law: self.laws.get(prompt), ..Group::default() }
    }
}

/// Draws and scores, and counts the seconds of each.
pub(crate) struct Rollouts<'a> {
    pub(crate) parts: Parts<'a>,
    pub(super) seed: u64,
    phases: Phases,
    drawn: (f64, f64),
}

/// An answer and the place of its prompt.
pub(crate) type Drawn = (usize, Completion);

impl<'a> Rollouts<'a> {
    pub(crate) fn new(parts: Parts<'a>, seed: u64) -> Self {
        Self { parts, seed, phases: Phases::default(), drawn: (0.0, 0.0) }
    }

    /// The prompts of a step that began after `before` prompts.
    pub(crate) fn choose(&self, before: usize, count: usize) -> Vec<usize> {
        data::batch::Sampler::resume(self.seed, self.parts.prompts.len(), before as u64).take(count)
    }

    /// Draws `count` completions of each prompt, together with the prompt's place.
    pub(crate) fn draw(
        &mut self,
        policy: &Policy,
        prompts: &[usize],
        count: usize,
        purpose: Purpose,
        step: usize,
    ) -> Result<Vec<Drawn>, Error> {
        let mut asks = Vec::new();
        let mut owners = Vec::new();
        for (place, prompt) in prompts.iter().enumerate() {
            for rollout in 0..count {
                let prefix = self.parts.prompts[*prompt].ids.clone();
                let row = (place * count + rollout) as u64;
                let stream = Stream::new(self.seed, purpose, step as u64, row);
                asks.push(SampleAsk { prompt_len: prefix.len(), prefix, budget: self.parts.budget, stream });
                owners.push(*prompt);
            }
        }
        if asks.is_empty() {
            return Ok(Vec::new());
        }
        let begun = Instant::now();
        // Ratios are those of the raw law, so answers are drawn from it.
        let mut engine = Engine::new(policy, Sampling::default())?.with_limits(self.parts.limits);
        let drawn = engine.sample(asks, &mut Chance::Streams)?;
        let seconds = begun.elapsed().as_secs_f64();
        self.phases.generation += seconds;
        let tokens: usize = drawn.iter().map(|completion| completion.ids.len()).sum();
        self.drawn = (self.drawn.0 + tokens as f64, self.drawn.1 + seconds);
        Ok(owners.into_iter().zip(drawn).collect())
    }

    /// Log-probabilities of the tokens of answers under a model.
    pub(super) fn token_scores(&mut self, policy: &Policy, drawn: &[Drawn]) -> Result<Vec<Vec<f32>>, Error> {
        let begun = Instant::now();
        let items: Vec<(&[u32], &[u32])> =
            drawn.iter().map(|(prompt, c)| (&self.parts.prompts[*prompt].ids[..], &c.ids[..])).collect();
        let scores = policy.score(&items)?;
        self.phases.scoring += begun.elapsed().as_secs_f64();
        Ok(scores)
    }

    /// Their sums.
    pub(super) fn scores(&mut self, policy: &Policy, drawn: &[Drawn]) -> Result<Vec<f64>, Error> {
        Ok(self.token_scores(policy, drawn)?.iter().map(|row| total(row)).collect())
    }

    /// The rewards of answers.
    pub(crate) fn rewards(&mut self, drawn: &[&Drawn]) -> Result<Vec<f64>, Error> {
        let begun = Instant::now();
        let rewards = self.parts.reward.rewards(&candidates(&self.parts.prompts, drawn))?;
        self.phases.scoring += begun.elapsed().as_secs_f64();
        Ok(rewards)
    }

    /// Answers as rewards take them.
    pub(crate) fn candidates<'s>(&'s self, drawn: &[&'s Drawn]) -> Vec<Candidate<'s>> {
        candidates(&self.parts.prompts, drawn)
    }

    /// What answers look like, and how fast they were drawn since the last call.
    pub(super) fn observe(&mut self, answers: &[Drawn], meters: &mut Meters) {
        for (_, completion) in answers {
            meters.add("completions/mean_length", completion.ids.len() as f64);
            meters.add("completions/clipped_ratio", f64::from(u8::from(!completion.finished())));
            meters.add("completions/eos_rate", f64::from(u8::from(completion.end == generate::End::Eos)));
        }
        let (tokens, seconds) = std::mem::take(&mut self.drawn);
        meters.add_sum("generated_tokens_per_second", tokens, seconds);
    }

    /// Seconds of each phase since the last call.
    pub(crate) fn phases(&mut self) -> Phases {
        std::mem::take(&mut self.phases)
    }

    /// Rows of the sample table.
    pub(super) fn samples(
        &mut self,
        policy: &Policy,
        count: usize,
        step: usize,
    ) -> Result<Vec<Value>, Error> {
        let chosen: Vec<usize> = (0..self.parts.prompts.len().min(count)).collect();
        let drawn = self.draw(policy, &chosen, 1, Purpose::Sample, step)?;
        let rewards = self.rewards(&drawn.iter().collect::<Vec<_>>())?;
        // They are no part of a step.
        (self.phases, self.drawn) = (Phases::default(), (0.0, 0.0));
        let rows = drawn.iter().zip(rewards).map(|((prompt, completion), reward)| {
            let text = (self.parts.decode)(&completion.ids);
            sample_row(&self.parts.prompts[*prompt].text, &text, &[("reward", reward)])
        });
        Ok(rows.collect())
    }
}

fn candidates<'s>(prompts: &'s [Prompt], drawn: &[&'s Drawn]) -> Vec<Candidate<'s>> {
    drawn.iter().map(|(prompt, c)| Candidate { prompt: &prompts[*prompt], ids: &c.ids, end: c.end }).collect()
}

/// The log-probability of a whole answer.
pub(super) fn total(log_probs: &[f32]) -> f64 {
    log_probs.iter().map(|x| f64::from(*x)).sum()
}
