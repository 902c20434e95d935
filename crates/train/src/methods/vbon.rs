//! Variational best-of-N (arXiv 2407.06057): the policy minimises `KL(π ‖ π_N)` to the best-of-N law of the model that
//! training begins with.
//!
//! - `bound`: reward `log F̂(r(y))`, KL coefficient `1/(N−1)` (the paper's L1).
//! - `exact`: reward `(log π_N − log π_ref)/N`, KL coefficient `1/N`.
//!
//! `F̂` counts among M cached samples of the reference per prompt. Policy gradient: sequence-level REINFORCE on the return
//! (k1 in the reward), leave-one-out baseline over the rollouts of a prompt.
//!
//! Deviations from the public code: (1) the exact form's coefficient is `1/N`, not `1/(N−1)`; (2) N is any real number;
//! (3) `log F` is estimated by `H_K − H_M` with K counted non-strictly, not by `log((K+1)/(M+1))`; (4) ties have their own
//! term in the exact form; (5) RLOO instead of PPO with a value head.

use std::collections::BTreeMap;

use generate::{
    Candidate, Chance, Completion, Engine, Prompt, Purpose, Reward, Sample, SampleAsk, Sampling, Score,
    Stream,
};
use model::learn::{Row, log_probs};
use model::{Grads, Policy};
use objective::advantage::rloo;
use objective::losses::{Vbon as Target, VbonForm};
use objective::rank::{CachedRewards, LogCdf, Ties};
use recipe::{Optim, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::checkpoint::Learner;
use crate::error::Error;
use crate::lanes;
use crate::meters::Meters;
use crate::trainer::{Task, sample_row};

/// `[method.vbon]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Vbon {
    /// N of the best-of-N that is distilled; any real number above 1.
    #[schemars(extend("exclusiveMinimum" = 1))]
    pub n: f64,
    /// Which form of the objective.
    pub form: Form,
    /// Cached samples of the reference per prompt, M.
    #[schemars(range(min = 2))]
    pub pool_samples: usize,
    /// Rollouts per prompt and step; the baseline of each is the mean of the others.
    #[schemars(range(min = 2))]
    pub rollouts: usize,
    /// How equal rewards count.
    pub ties: TieRule,
}

/// Forms of the objective.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The lower bound L1.
    #[default]
    Bound,
    /// The log-ratio of best-of-N itself.
    Exact,
}

/// How equal rewards count in F.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TieRule {
    /// `P(r' ≤ r)`.
    #[default]
    NonStrict,
    /// `P(r' < r)`.
    Strict,
    /// Ties count one half.
    MidRank,
}

impl Default for Vbon {
    fn default() -> Self {
        Self { n: 8.0, form: Form::Bound, pool_samples: 16, rollouts: 4, ties: TieRule::NonStrict }
    }
}

impl Validate for Vbon {
    fn validate(&self, rules: &mut Rules) {
        rules.check(&["pool_samples", "n"], pool_can_tell(self));
    }
}

fn pool_can_tell(vbon: &Vbon) -> Result<(), Violation> {
    if vbon.pool_samples as f64 * 4.0 >= vbon.n {
        return Ok(());
    }
    let message =
        format!("{} cached samples cannot tell the upper 1/{} of the rewards", vbon.pool_samples, vbon.n);
    Err(Violation::new(message).hint("raise `pool_samples` to about n, or lower `n`"))
}

/// Turns ids into text.
pub type DecodeIds<'a> = Box<dyn Fn(&[u32]) -> String + 'a>;

/// What the method runs on.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct VbonTask<'a> {
    settings: Vbon,
    optim: Optim,
    prompts: Vec<Prompt>,
    cached: Vec<CachedRewards>,
    reference: &'a Policy,
    reward: Box<dyn Reward + 'a>,
    sampling: Sampling,
    budget: usize,
    seed: u64,
    decode: DecodeIds<'a>,
}

/// The parts of a [`VbonTask`].
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct Parts<'a> {
    /// Prompts to roll out from.
    pub prompts: Vec<Prompt>,
    /// Rewards of the reference's samples, for each prompt.
    pub cached: Vec<CachedRewards>,
    /// The model that training begins with.
    pub reference: &'a Policy,
    /// What is maximised, through its ranks.
    pub reward: Box<dyn Reward + 'a>,
    /// Most new tokens.
    pub budget: usize,
    /// Turns ids into text, for the sample table.
    pub decode: DecodeIds<'a>,
}

impl<'a> VbonTask<'a> {
    /// The task of these settings and parts.
    pub fn new(settings: &Vbon, optim: &Optim, parts: Parts<'a>, seed: u64) -> Self {
        Self {
            settings: settings.clone(),
            optim: optim.clone(),
            prompts: parts.prompts,
            cached: parts.cached,
            reference: parts.reference,
            reward: parts.reward,
            // Ratios are those of the raw law, so rollouts are drawn from it.
            sampling: Sampling::default(),
            budget: parts.budget,
            seed,
            decode: parts.decode,
        }
    }

    fn target(&self) -> Target {
        let form = match self.settings.form {
            Form::Bound => VbonForm::Bound,
            Form::Exact => VbonForm::Exact,
        };
        Target { n: self.settings.n, form }
    }

    fn ties(&self) -> Ties {
        match self.settings.ties {
            TieRule::NonStrict => Ties::NonStrict,
            TieRule::Strict => Ties::Strict,
            TieRule::MidRank => Ties::MidRank,
        }
    }

    /// Draws `count` completions of each prompt.
    fn roll_out(
        &self,
        policy: &Policy,
        prompts: &[usize],
        count: usize,
        purpose: Purpose,
        step: usize,
    ) -> Result<Vec<(usize, Completion)>, Error> {
        let mut asks = Vec::new();
        let mut owners = Vec::new();
        for (place, prompt) in prompts.iter().enumerate() {
            for rollout in 0..count {
                let prefix = self.prompts[*prompt].ids.clone();
                let row = (place * count + rollout) as u64;
                let stream = Stream::new(self.seed, purpose, step as u64, row);
                asks.push(SampleAsk { prompt_len: prefix.len(), prefix, budget: self.budget, stream });
                owners.push(*prompt);
            }
        }
        let mut engine = Engine::new(policy, self.sampling.clone())?;
        let drawn = engine.sample(asks, &mut Chance::Streams)?;
        Ok(owners.into_iter().zip(drawn).collect())
    }
}

impl Task for VbonTask<'_> {
    fn total_steps(&self) -> usize {
        self.optim.total_steps(self.prompts.len() * self.settings.rollouts)
    }

    fn gradient(
        &mut self,
        learner: &mut Learner,
        step: usize,
        meters: &mut Meters,
    ) -> Result<(Grads, u64), Error> {
        let rollouts = self.settings.rollouts;
        let count = (self.optim.batch_size / rollouts).max(1);
        let mut sampler = data::batch::Sampler::resume(self.seed, self.prompts.len(), (step * count) as u64);
        let chosen = sampler.take(count);
        let policy = Policy::new("policy", &learner.decoder);
        let drawn = self.roll_out(&policy, &chosen, rollouts, Purpose::Rollout, step)?;

        let candidates: Vec<Candidate<'_>> = drawn
            .iter()
            .map(|(prompt, c)| Candidate { prompt: &self.prompts[*prompt], ids: &c.ids, end: c.end })
            .collect();
        let rewards = self.reward.rewards(&candidates)?;
        let items: Vec<(&[u32], &[u32])> =
            drawn.iter().map(|(prompt, c)| (&self.prompts[*prompt].ids[..], &c.ids[..])).collect();
        let reference = self.reference.score(&items)?;

        let target = self.target();
        let mut returns = Vec::with_capacity(drawn.len());
        for (((prompt, completion), reward), reference) in drawn.iter().zip(&rewards).zip(&reference) {
            let rank = self.cached[*prompt].rank(*reward).map_err(Error::other)?;
            let log_f = LogCdf::HarmonicDifference.estimate(rank.count(self.ties()), rank.total);
            let own: f64 = completion.log_probs.iter().map(|x| f64::from(*x)).sum();
            let other: f64 = reference.iter().map(|x| f64::from(*x)).sum();
            let log_ratio = own - other;
            let total = target.sequence_return(log_f, rank.tie_share(), log_ratio);
            returns.push(total);
            meters.add("objective/kl", log_ratio);
            meters.add("objective/scores", *reward);
            meters.add("objective/log_f", log_f);
            meters.add("objective/rlhf_reward", total);
            meters.add("objective/non_score_reward", -target.kl_coefficient() * log_ratio);
            meters.add("bon/quantile", rank.fraction(Ties::MidRank));
            meters.add("bon/floor_hits", f64::from(u8::from(rank.count(Ties::NonStrict) == 0.0)));
            meters.add("completions/mean_length", completion.ids.len() as f64);
            meters.add("completions/clipped_ratio", f64::from(u8::from(!completion.finished())));
        }
        let mut groups: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for (place, value) in returns.iter().enumerate() {
            groups.entry(place / rollouts).or_default().push(*value);
        }
        let mut advantages = Vec::with_capacity(returns.len());
        for group in groups.values() {
            let same = group.iter().all(|value| *value == group[0]);
            meters.add("frac_reward_zero_std", f64::from(u8::from(same)));
            advantages.extend(rloo(group).map_err(Error::other)?);
        }

        let texts: Vec<(Vec<u32>, Vec<bool>)> = drawn
            .iter()
            .map(|(prompt, completion)| {
                let prefix = &self.prompts[*prompt].ids;
                let ids = [prefix.as_slice(), &completion.ids].concat();
                let loss = (0..ids.len()).map(|at| at >= prefix.len()).collect();
                (ids, loss)
            })
            .collect();
        let total = drawn.len() as f64;
        let mut grads = Grads::default();
        let mut tokens = 0;
        let mut places: Vec<usize> = (0..texts.len()).collect();
        places.sort_by_key(|place| texts[*place].0.len());
        for micro in places.chunks(self.optim.micro_batch()) {
            tokens += micro.iter().map(|place| texts[*place].0.len() as u64).sum::<u64>();
            let checkpointing = self.optim.gradient_checkpointing;
            let (part, losses) = lanes::run(&learner.decoder, micro, |decoder, places| {
                let rows: Vec<Row<'_>> = places
                    .iter()
                    .map(|place| Row { ids: &texts[*place].0, loss: &texts[*place].1 })
                    .collect();
                let forward = log_probs(decoder, &rows, checkpointing);
                let mut coefficients = Vec::with_capacity(forward.values.len());
                let mut losses = Vec::with_capacity(places.len());
                for (place, row) in places.iter().zip(forward.rows()) {
                    let sum: f64 = row.iter().map(|x| f64::from(*x)).sum();
                    losses.push(-advantages[*place] * sum);
                    coefficients.extend(std::iter::repeat_n((-advantages[*place] / total) as f32, row.len()));
                }
                (forward.backward(decoder, &coefficients), losses)
            });
            grads.merge(part);
            meters.extend("loss", losses.into_iter().flatten());
        }
        Ok((grads, tokens))
    }

    fn samples(&mut self, learner: &Learner, count: usize, step: usize) -> Result<Vec<Value>, Error> {
        let policy = Policy::new("policy", &learner.decoder);
        let chosen: Vec<usize> = (0..self.prompts.len().min(count)).collect();
        let drawn = self.roll_out(&policy, &chosen, 1, Purpose::Sample, step)?;
        let candidates: Vec<Candidate<'_>> = drawn
            .iter()
            .map(|(prompt, c)| Candidate { prompt: &self.prompts[*prompt], ids: &c.ids, end: c.end })
            .collect();
        let rewards = self.reward.rewards(&candidates)?;
        let rows = drawn.iter().zip(rewards).map(|((prompt, completion), reward)| {
            sample_row(&self.prompts[*prompt].text, &(self.decode)(&completion.ids), &[("reward", reward)])
        });
        Ok(rows.collect())
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        let count = (self.optim.batch_size / self.settings.rollouts).max(1);
        Some((step * count) as f64 / self.prompts.len() as f64)
    }
}
