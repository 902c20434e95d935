//! The task of an on-policy method whose terms are of whole answers: one update for each batch of answers.

use std::path::Path;

use burn::tensor::Device;
use generate::{Completion, Prompt, Purpose};
use model::learn::{Row, log_probs};
use model::{Grads, Policy};
use objective::algebra::{AnchorSample, Group, Rollout, Term};
use recipe::Optim;
use serde_json::Value;

use super::rollouts::{Draw, Parts, Rollouts, total};
use super::watch::Watch;
use super::{Plan, order, own_tokens};
use crate::anchor::{Anchor, Motion};
use crate::checkpoint::Learner;
use crate::error::Error;
use crate::lanes;
use crate::meters::Meters;
use crate::trainer::{Phases, Task};

/// The task of an on-policy method.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct OnPolicy<'a> {
    plan: Plan,
    rollouts: Rollouts<'a>,
    optim: Optim,
    anchor: Option<Anchor>,
    watch: Watch,
}

impl<'a> OnPolicy<'a> {
    /// The task of a plan.
    pub fn new(plan: Plan, optim: &Optim, parts: Parts<'a>, seed: u64) -> Self {
        let watch = Watch::new(parts.cached.iter().flat_map(|pool| pool.sorted().iter().copied()));
        Self { plan, rollouts: Rollouts::new(parts, seed), optim: optim.clone(), anchor: None, watch }
    }

    /// The reward changes while the policy is trained: none of its values is out of range.
    #[must_use]
    pub fn with_moving_reward(self) -> Self {
        Self { watch: self.watch.moving(), ..self }
    }

    /// Answers of a prompt that a batch counts: the policy's, or the anchor's where the policy gives none.
    fn answers(&self) -> usize {
        let draws = self.plan.objective.draws();
        if draws.policy > 0 { draws.policy } else { draws.anchor.max(1) }
    }

    fn prompts_per_step(&self) -> usize {
        (self.optim.batch_size / self.answers()).max(1)
    }
}

impl Task for OnPolicy<'_> {
    fn total_steps(&self) -> usize {
        self.optim.total_steps(self.rollouts.parts.prompts.len() * self.answers())
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
        let rollouts = &mut self.rollouts;
        let chosen = rollouts.choose(step * count, count);
        let policy = Policy::new("policy", &learner.decoder);
        let reference = rollouts.parts.reference;
        let anchor = self.anchor.as_ref().map_or(reference, Anchor::policy);
        // Where the anchor stays what training began as, one judge is both.
        let both = [reference, anchor];
        let of_own = if self.anchor.is_some() { &both[..] } else { &both[..1] };
        let of_others = if self.anchor.is_some() && draws.policy == 0 { &both[..1] } else { &[] };
        let draw = |policy, count, purpose, judges| Draw { policy, count, purpose, judges };
        let wanted = [
            draw(&policy, draws.policy, Purpose::Rollout, of_own),
            draw(anchor, draws.anchor, Purpose::Anchor, of_others),
        ];
        let mut drawn = rollouts.draw(&chosen, &wanted, step)?;
        let (others, own) = (drawn.pop().unwrap_or_default(), drawn.pop().unwrap_or_default());

        let mut observed = Meters::default();
        let counted = if draws.policy > 0 { &own } else { &others };
        rollouts.observe(counted, &mut observed);
        let rewards: Vec<f64> = counted.iter().map(|answer| answer.reward).collect();
        self.watch.rewards(&rewards, &mut observed);
        let mut groups: Vec<Group<'_>> = chosen.iter().map(|prompt| rollouts.parts.group(*prompt)).collect();
        for (place, answer) in own.iter().enumerate() {
            let log_policy = total(&answer.completion.log_probs);
            let log_anchor = answer.log_prob(of_own.len() - 1);
            let rollout = Rollout { reward: answer.reward, log_policy, log_anchor };
            observed.add("objective/kl", log_policy - answer.log_prob(0));
            observed.add("objective/entropy", -log_policy);
            if self.anchor.is_some() {
                observed.add("anchor/kl", rollout.log_ratio());
            }
            groups[place / draws.policy].policy.push(rollout);
        }
        for (place, answer) in others.iter().enumerate() {
            let log_anchor = total(&answer.completion.log_probs);
            let log_reference = if of_others.is_empty() { log_anchor } else { answer.log_prob(0) };
            if draws.policy == 0 {
                observed.add("objective/kl", log_anchor - log_reference);
            }
            let sample = AnchorSample { reward: answer.reward, log_anchor, log_reference };
            groups[place / draws.anchor].anchor.push(sample);
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
            .filter_map(|(answer, term)| {
                let prompt = &rollouts.parts.prompts[answer.prompt];
                term.map(|term| TrainedRow::new(prompt, &answer.completion, term))
            })
            .collect();
        let (grads, tokens) = backward(learner, &rows, &self.optim, &mut observed);
        self.watch.look(step, &observed);
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
        self.watch.over(self.plan.kl_limit)
    }

    fn state(&mut self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut files = vec![self.watch.save()?];
        if let Some(anchor) = &self.anchor {
            files.push(anchor.save()?);
        }
        Ok(files)
    }

    fn restore(&mut self, learner: &Learner, checkpoint: &Path, device: &Device) -> Result<(), Error> {
        self.watch.restore(checkpoint)?;
        if self.plan.motion != Motion::Fixed {
            self.anchor = Some(Anchor::load(self.plan.motion, learner, checkpoint, device)?);
        }
        Ok(())
    }

    fn samples(&mut self, learner: &Learner, count: usize, step: usize) -> Result<Vec<Value>, Error> {
        self.rollouts.samples(&Policy::new("policy", &learner.decoder), count, step)
    }

    fn phases(&mut self) -> Phases {
        self.rollouts.phases()
    }

    fn alarms(&self) -> Vec<String> {
        self.watch.alarms()
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        Some((step * self.prompts_per_step()) as f64 / self.rollouts.parts.prompts.len() as f64)
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

    /// What is given of it.
    fn prompt(&self) -> &[u32] {
        &self.ids[..self.learned.iter().take_while(|learned| !**learned).count()]
    }
}

/// The gradient of the sum of the terms, and the number of tokens run. Records `loss`: their sum.
fn backward(learner: &Learner, rows: &[TrainedRow], optim: &Optim, meters: &mut Meters) -> (Grads, u64) {
    let mut grads = Grads::default();
    let mut tokens = 0;
    let mut loss = 0.0;
    let mut places: Vec<usize> = (0..rows.len()).collect();
    order(&mut places, |place| (rows[place].prompt(), rows[place].ids.len()));
    for micro in places.chunks(optim.micro_batch()) {
        tokens += micro.iter().map(|place| rows[*place].ids.len() as u64).sum::<u64>();
        let own = own_tokens(micro, |place| (rows[place].prompt(), rows[place].ids.len()));
        let (part, losses) = lanes::run(&learner.decoder, micro, own, |decoder, places| {
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
