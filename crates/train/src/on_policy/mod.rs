//! Training on the policy's own answers: draws, scores, hands what was drawn to the method, and carries its terms back to the
//! weights.
//!
//! A method is a composition of [`objective::algebra`] and a motion of its anchor ([`Plan`]); everything else is here.

use std::collections::BTreeSet;
use std::path::Path;

use burn::tensor::Device;
use generate::engine::Limits;
use generate::{
    Candidate, Chance, Completion, Engine, Prompt, Purpose, Reward, Sample, SampleAsk, Sampling, Score,
    Stream,
};
use model::learn::{Row, log_probs};
use model::{Grads, Policy};
use objective::algebra::{AnchorSample, Estimator, Group, Objective, Rollout, Term};
use objective::rank::{CachedRewards, Ties};
use recipe::{Optim, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::anchor::{Anchor, Motion};
use crate::checkpoint::Learner;
use crate::error::Error;
use crate::lanes;
use crate::meters::Meters;
use crate::progress::Progress;
use crate::trainer::{Task, sample_row};

/// What the task keeps of the KL, in a checkpoint.
const WATCH: &str = "state/on_policy.json";

/// Turns ids into text.
pub type DecodeIds<'a> = Box<dyn Fn(&[u32]) -> String + 'a>;

/// What a method is made of.
#[expect(missing_debug_implementations, reason = "an objective has nothing to show")]
pub struct Plan {
    /// Value, divergence, estimator.
    pub objective: Box<dyn Objective>,
    /// How the anchor moves.
    pub motion: Motion,
    /// Training ends when the policy is further than this from the model it began as, nats.
    pub kl_limit: Option<f64>,
    /// A line to say before training, such as a coefficient that was solved for.
    pub note: Option<String>,
}

impl Plan {
    /// A plan with a fixed anchor and no limit.
    pub fn fixed(objective: impl Objective + 'static) -> Self {
        Self { objective: Box::new(objective), motion: Motion::Fixed, kl_limit: None, note: None }
    }
}

/// Settings of an on-policy method.
pub trait Compose {
    /// Cached samples of the reference per prompt; 0 where none are needed.
    fn pool_samples(&self) -> usize {
        0
    }

    /// How many answers of a prompt a batch holds, and the key that says so.
    fn answers(&self) -> (&'static str, usize);

    /// The method, given the cached rewards of each prompt.
    fn compose(&self, cached: &[CachedRewards]) -> Result<Plan, Error>;

    /// Lines of `--dry-run`: names and values.
    fn forecast(&self) -> Vec<(&'static str, String)> {
        Vec::new()
    }
}

/// Estimators of a policy gradient, as recipes name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EstimatorName {
    /// The return itself, without a baseline.
    Reinforce,
    /// Less the mean return of the prompt's other answers.
    #[default]
    Rloo,
    /// Less the mean return of the prompt's answers, divided by their standard deviation.
    Grpo,
}

impl From<EstimatorName> for Estimator {
    fn from(name: EstimatorName) -> Self {
        match name {
            EstimatorName::Reinforce => Self::Reinforce,
            EstimatorName::Rloo => Self::Rloo,
            EstimatorName::Grpo => Self::Grpo,
        }
    }
}

/// How equal rewards count among samples.
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

impl From<TieRule> for Ties {
    fn from(rule: TieRule) -> Self {
        match rule {
            TieRule::NonStrict => Self::NonStrict,
            TieRule::Strict => Self::Strict,
            TieRule::MidRank => Self::MidRank,
        }
    }
}

/// Refuses pools that cannot tell the quantile that `n` asks for.
pub fn pool_can_tell(samples: usize, n: f64, key: &str) -> Result<(), Violation> {
    if samples as f64 * 4.0 >= n {
        return Ok(());
    }
    let message = format!("{samples} samples cannot tell the upper 1/{n} of the rewards");
    Err(Violation::new(message).hint(format!("raise `{key}` to about n, or lower `n`")))
}

/// What a task runs on.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct Parts<'a> {
    /// Prompts to roll out from.
    pub prompts: Vec<Prompt>,
    /// Rewards of the reference's samples for each prompt; empty where the method needs none.
    pub cached: Vec<CachedRewards>,
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

/// The task of an on-policy method.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct OnPolicy<'a> {
    plan: Plan,
    parts: Parts<'a>,
    optim: Optim,
    seed: u64,
    anchor: Option<Anchor>,
    watch: Watch,
    alarmed: BTreeSet<&'static str>,
}

/// A decaying mean of the KL to the reference: single steps are noisy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Watch {
    sum: f64,
    weight: f64,
}

impl Watch {
    fn add(&mut self, kl: f64) {
        self.sum = 0.8 * self.sum + 0.2 * kl;
        self.weight = 0.8 * self.weight + 0.2;
    }

    fn mean(self) -> Option<f64> {
        (self.weight > 0.0).then(|| self.sum / self.weight)
    }
}

/// Metrics that mean trouble at or above a level, and what the trouble is.
const ALARMS: [(&str, f64, &str); 6] = [
    (
        "frac_reward_zero_std",
        0.9,
        "of the prompts have no two answers of different value: there is nothing to learn from",
    ),
    (
        "bon/floor_hits",
        0.5,
        "of the answers are below every sample they are ranked among: ranks say nothing there",
    ),
    (
        "bon/tie_mass",
        0.5,
        "of the samples tie with the answer on average: the reward tells few answers apart",
    ),
    ("j-bond/ties", 0.5, "of the pairs of anchor samples tie: J-BOND's signal fires seldom"),
    ("completions/clipped_ratio", 0.5, "of the answers reach sampling.max_new_tokens without an end"),
    ("bon/effective_n", 1000.0, "is the N that the policy's ranks stand for: more than the samples can tell"),
];

impl<'a> OnPolicy<'a> {
    /// The task of a plan.
    pub fn new(plan: Plan, optim: &Optim, parts: Parts<'a>, seed: u64) -> Self {
        Self {
            plan,
            parts,
            optim: optim.clone(),
            seed,
            anchor: None,
            watch: Watch::default(),
            alarmed: BTreeSet::new(),
        }
    }

    /// Answers of a prompt that a batch counts: the policy's, or the anchor's where the policy gives none.
    fn answers(&self) -> usize {
        let draws = self.plan.objective.draws();
        if draws.policy > 0 { draws.policy } else { draws.anchor.max(1) }
    }

    fn prompts_per_step(&self) -> usize {
        (self.optim.batch_size / self.answers()).max(1)
    }

    /// Draws `count` completions of each prompt, together with the prompt's place.
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
        // Ratios are those of the raw law, so answers are drawn from it.
        let mut engine = Engine::new(policy, Sampling::default())?.with_limits(self.parts.limits);
        let drawn = engine.sample(asks, &mut Chance::Streams)?;
        Ok(owners.into_iter().zip(drawn).collect())
    }

    /// Sums of the log-probabilities of answers under a model.
    fn scores(&self, policy: &Policy, drawn: &[(usize, Completion)]) -> Result<Vec<f64>, Error> {
        let items: Vec<(&[u32], &[u32])> =
            drawn.iter().map(|(prompt, c)| (&self.parts.prompts[*prompt].ids[..], &c.ids[..])).collect();
        Ok(policy.score(&items)?.iter().map(|row| total(row)).collect())
    }

    fn rewards(&mut self, drawn: &[&(usize, Completion)]) -> Result<Vec<f64>, Error> {
        let candidates: Vec<Candidate<'_>> = drawn
            .iter()
            .map(|(prompt, c)| Candidate { prompt: &self.parts.prompts[*prompt], ids: &c.ids, end: c.end })
            .collect();
        Ok(self.parts.reward.rewards(&candidates)?)
    }

    /// Says once that a metric of this step is where it should not be.
    fn alarm(&mut self, step: usize, meters: &Meters) {
        for (name, level, meaning) in ALARMS {
            if let Some(value) = meters.mean(name).filter(|value| *value >= level)
                && self.alarmed.insert(name)
            {
                Progress::say(&format!("step {step}: {name} = {value:.2}: {meaning}"));
            }
        }
    }
}

fn total(log_probs: &[f32]) -> f64 {
    log_probs.iter().map(|x| f64::from(*x)).sum()
}

impl Task for OnPolicy<'_> {
    fn total_steps(&self) -> usize {
        self.optim.total_steps(self.parts.prompts.len() * self.answers())
    }

    fn gradient(
        &mut self,
        learner: &mut Learner,
        step: usize,
        meters: &mut Meters,
    ) -> Result<(Grads, u64), Error> {
        if self.anchor.is_none() && self.plan.motion != Motion::Fixed {
            self.anchor = Some(Anchor::new(self.plan.motion, learner));
        }
        let draws = self.plan.objective.draws();
        let count = self.prompts_per_step();
        let mut sampler =
            data::batch::Sampler::resume(self.seed, self.parts.prompts.len(), (step * count) as u64);
        let chosen = sampler.take(count);
        let policy = Policy::new("policy", &learner.decoder);
        let reference = self.parts.reference;
        let anchor = self.anchor.as_ref().map_or(reference, Anchor::policy);
        let own = self.roll_out(&policy, &chosen, draws.policy, Purpose::Rollout, step)?;
        let others = self.roll_out(anchor, &chosen, draws.anchor, Purpose::Anchor, step)?;
        let own_reference = self.scores(reference, &own)?;
        let own_anchor =
            if self.anchor.is_some() { self.scores(anchor, &own)? } else { own_reference.clone() };
        let others_reference = if self.anchor.is_some() && draws.policy == 0 {
            self.scores(reference, &others)?
        } else {
            others.iter().map(|(_, c)| total(&c.log_probs)).collect()
        };
        let rewards = self.rewards(&own.iter().chain(&others).collect::<Vec<_>>())?;
        let (own_rewards, other_rewards) = rewards.split_at(own.len());

        let mut observed = Meters::default();
        let mut groups: Vec<Group<'_>> = chosen
            .iter()
            .map(|prompt| Group { cached: self.parts.cached.get(*prompt), ..Group::default() })
            .collect();
        for (place, (_, completion)) in own.iter().enumerate() {
            let log_policy = total(&completion.log_probs);
            let rollout = Rollout { reward: own_rewards[place], log_policy, log_anchor: own_anchor[place] };
            observed.add("objective/kl", log_policy - own_reference[place]);
            observed.add("objective/entropy", -log_policy);
            if self.anchor.is_some() {
                observed.add("anchor/kl", rollout.log_ratio());
            }
            groups[place / draws.policy].policy.push(rollout);
        }
        for (place, (_, completion)) in others.iter().enumerate() {
            let log_anchor = total(&completion.log_probs);
            let log_reference = others_reference[place];
            if draws.policy == 0 {
                observed.add("objective/kl", log_anchor - log_reference);
            }
            let sample = AnchorSample { reward: other_rewards[place], log_anchor, log_reference };
            groups[place / draws.anchor].anchor.push(sample);
        }
        for (_, completion) in if draws.policy > 0 { &own } else { &others } {
            observed.add("completions/mean_length", completion.ids.len() as f64);
            observed.add("completions/clipped_ratio", f64::from(u8::from(!completion.finished())));
        }
        let terms = self
            .plan
            .objective
            .terms(&groups, &mut |name, sum, count| observed.add_sum(name, sum, count))
            .map_err(Error::other)?;

        let policy_terms = terms.iter().flat_map(|terms| &terms.policy);
        let anchor_terms = terms.iter().flat_map(|terms| &terms.anchor);
        let rows: Vec<TrainedRow> = own
            .iter()
            .zip(policy_terms)
            .chain(others.iter().zip(anchor_terms))
            .filter_map(|((prompt, completion), term)| {
                term.map(|term| TrainedRow::new(&self.parts.prompts[*prompt], completion, term))
            })
            .collect();
        let (grads, tokens) = backward(learner, &rows, &self.optim, &mut observed);
        if let Some(kl) = observed.mean("objective/kl") {
            self.watch.add(kl);
        }
        self.alarm(step, &observed);
        meters.merge(&observed);
        Ok((grads, tokens))
    }

    fn updated(&mut self, learner: &Learner, step: usize) -> Result<(), Error> {
        if let Some(anchor) = &mut self.anchor {
            anchor.update(learner, step);
        }
        Ok(())
    }

    fn done(&self) -> Option<String> {
        let (limit, kl) = (self.plan.kl_limit?, self.watch.mean()?);
        (kl > limit).then(|| format!("ended: the KL to the reference is {kl:.3} nats, the limit {limit}"))
    }

    fn state(&mut self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut files = Vec::new();
        if self.plan.kl_limit.is_some() {
            let watch = serde_json::to_vec_pretty(&self.watch).map_err(Error::other)?;
            files.push((WATCH.to_owned(), watch));
        }
        if let Some(anchor) = &self.anchor {
            files.push(anchor.save()?);
        }
        Ok(files)
    }

    fn restore(&mut self, learner: &Learner, checkpoint: &Path, device: &Device) -> Result<(), Error> {
        if self.plan.kl_limit.is_some() {
            let path = checkpoint.join(WATCH);
            let text = fs_err::read_to_string(&path)?;
            self.watch = serde_json::from_str(&text).map_err(|error| Error::Checkpoint {
                path,
                message: format!("{error}\n  hint: remove this checkpoint to resume from the one before"),
            })?;
        }
        if self.plan.motion != Motion::Fixed {
            self.anchor = Some(Anchor::load(self.plan.motion, learner, checkpoint, device)?);
        }
        Ok(())
    }

    fn samples(&mut self, learner: &Learner, count: usize, step: usize) -> Result<Vec<Value>, Error> {
        let policy = Policy::new("policy", &learner.decoder);
        let chosen: Vec<usize> = (0..self.parts.prompts.len().min(count)).collect();
        let drawn = self.roll_out(&policy, &chosen, 1, Purpose::Sample, step)?;
        let rewards = self.rewards(&drawn.iter().collect::<Vec<_>>())?;
        let rows = drawn.iter().zip(rewards).map(|((prompt, completion), reward)| {
            let text = (self.parts.decode)(&completion.ids);
            sample_row(&self.parts.prompts[*prompt].text, &text, &[("reward", reward)])
        });
        Ok(rows.collect())
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        Some((step * self.prompts_per_step()) as f64 / self.parts.prompts.len() as f64)
    }
}

/// An answer that is trained on.
struct TrainedRow {
    ids: Vec<u32>,
    learned: Vec<bool>,
    term: Term,
}

impl TrainedRow {
    fn new(prompt: &Prompt, completion: &Completion, term: Term) -> Self {
        let ids = [prompt.ids.as_slice(), &completion.ids].concat();
        let learned = (0..ids.len()).map(|at| at >= prompt.ids.len()).collect();
        Self { ids, learned, term }
    }
}

/// The gradient of the sum of the terms, and the number of tokens run. Records `loss`: their sum.
fn backward(learner: &Learner, rows: &[TrainedRow], optim: &Optim, meters: &mut Meters) -> (Grads, u64) {
    let mut grads = Grads::default();
    let mut tokens = 0;
    let mut loss = 0.0;
    // Rows of like length together: a micro-batch is padded to its longest.
    let mut places: Vec<usize> = (0..rows.len()).collect();
    places.sort_by_key(|place| rows[*place].ids.len());
    for micro in places.chunks(optim.micro_batch()) {
        tokens += micro.iter().map(|place| rows[*place].ids.len() as u64).sum::<u64>();
        let (part, losses) = lanes::run(&learner.decoder, micro, |decoder, places| {
            let marked: Vec<Row<'_>> = places
                .iter()
                .map(|place| Row { ids: &rows[*place].ids, loss: &rows[*place].learned })
                .collect();
            let forward = log_probs(decoder, &marked, optim.gradient_checkpointing);
            let mut coefficients = Vec::with_capacity(forward.values.len());
            let mut sum = 0.0;
            for (place, row) in places.iter().zip(forward.rows()) {
                let term = &rows[*place].term;
                let (loss, gradient) = term.loss.at(total(row));
                sum += loss / term.divisor;
                coefficients.extend(std::iter::repeat_n((gradient / term.divisor) as f32, row.len()));
            }
            (forward.backward(decoder, &coefficients), sum)
        });
        grads.merge(part);
        loss += losses.into_iter().sum::<f64>();
    }
    meters.add("loss", loss);
    (grads, tokens)
}
