//! Methods that learn from a pool: samples of the model that training begins with, scored once, before training.

use data::render::Example;
use generate::{Prompt, Purpose, Stream};
use model::learn::Forward;
use objective::draw::Draw;
use objective::losses::squared_ratio;
use reward::{Pool, PoolSample, RewardId};

use crate::error::Error;
use crate::meters::Meters;
use crate::supervised::{BatchLoss, Objective, spread, sums};

/// The scored samples of one prompt.
#[derive(Debug, Clone, Copy)]
pub struct Scored<'a> {
    /// Tokens of the prompt.
    pub prompt: &'a [u32],
    /// Its samples.
    pub samples: &'a [PoolSample],
    /// Their rewards.
    pub rewards: &'a [f64],
}

impl Scored<'_> {
    /// The prompt with sample `place` as the completion that is learned. A sample that was cut off has no end to learn.
    pub fn example(&self, place: usize) -> Example {
        Example::join(self.prompt, &self.samples[place].ids)
    }

    /// Log-probability of sample `place` under the model it was drawn from.
    pub fn reference(&self, place: usize) -> f64 {
        self.samples[place].raw_log_prob
    }
}

/// A method whose rows are made of the scored samples of each prompt.
pub trait Pooled: Objective {
    /// Samples of each prompt.
    fn samples(&self) -> usize;

    /// The most rows that a prompt gives.
    fn rows_per_prompt(&self) -> usize;

    /// The rows of one prompt; none where its samples say nothing. Chance, as in breaking ties, comes from `draw`.
    fn rows(&self, scored: Scored<'_>, draw: &mut dyn Draw) -> Result<Vec<Self::Row>, Error>;
}

/// Rows to train on, rows held out, and the prompts that gave none.
#[derive(Debug)]
pub struct PooledRows<R> {
    /// Rows to train on.
    pub train: Vec<R>,
    /// Rows held out: those of the last prompts, so that no prompt is on both sides.
    pub held_out: Vec<R>,
    /// Prompts whose samples say nothing.
    pub silent: usize,
}

/// The rows of all prompts; those of the last `held_out` prompts are kept apart.
pub fn rows<M: Pooled>(
    method: &M,
    prompts: &[Prompt],
    pool: &Pool,
    reward: &RewardId,
    held_out: usize,
    seed: u64,
) -> Result<PooledRows<M::Row>, Error> {
    let rewards = pool.rewards(reward).map_err(Error::other)?;
    let trained = prompts.len().saturating_sub(held_out);
    let mut made = PooledRows { train: Vec::new(), held_out: Vec::new(), silent: 0 };
    for (place, prompt) in prompts.iter().enumerate() {
        let scored = Scored { prompt: &prompt.ids, samples: pool.samples(place), rewards: rewards[place] };
        let mut stream = Stream::new(seed, Purpose::Order, 2, prompt.index as u64);
        let rows = method.rows(scored, &mut stream)?;
        made.silent += usize::from(rows.is_empty());
        if place < trained { &mut made.train } else { &mut made.held_out }.extend(rows);
    }
    Ok(made)
}

/// The place of the largest reward, by a fair draw among equals.
pub fn best(rewards: &[f64], draw: &mut dyn Draw) -> Option<usize> {
    let most = rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let equals: Vec<usize> = (0..rewards.len()).filter(|place| rewards[*place] == most).collect();
    match equals.as_slice() {
        [] => None,
        [one] => Some(*one),
        many => Some(many[draw.below(many.len())]),
    }
}

/// A sample whose log-ratio to the model it was drawn from is regressed on a target.
#[derive(Debug)]
pub struct Regressed {
    /// Prompt and sample.
    pub example: Example,
    /// Log-probability of the sample under the model it was drawn from.
    pub reference: f64,
    /// What the log-ratio is to become, in nats.
    pub target: f64,
    /// Its reward.
    pub reward: f64,
}

/// The rows of a prompt's samples with their targets.
pub fn regressed(scored: Scored<'_>, targets: Vec<f64>) -> Vec<Regressed> {
    let row = |(place, target)| Regressed {
        example: scored.example(place),
        reference: scored.reference(place),
        target,
        reward: scored.rewards[place],
    };
    targets.into_iter().enumerate().map(row).collect()
}

/// `scale² (log π/ref − target)²` of a batch.
pub fn regression(
    rows: &[&Regressed],
    forward: &Forward,
    prefix: &str,
    meters: &mut Meters,
    scale: f64,
) -> BatchLoss {
    let mut per_row = Vec::with_capacity(rows.len());
    for (row, log_prob) in rows.iter().zip(sums(forward)) {
        let log_ratio = log_prob - row.reference;
        let (loss, gradient) = squared_ratio(log_ratio, row.target, scale);
        per_row.push(gradient);
        meters.add(&format!("{prefix}loss"), loss);
        meters.add(&format!("{prefix}log_ratio"), log_ratio);
        meters.add(&format!("{prefix}target"), row.target);
        meters.add(&format!("{prefix}log_ratio_error"), (log_ratio - row.target).abs());
        meters.add(&format!("{prefix}reward"), row.reward);
    }
    BatchLoss { coefficients: spread(forward, &per_row) }
}
