//! The task of an on-policy method whose estimator is PPO: a batch of answers, and several updates on it.

use std::path::Path;

use burn::tensor::Device;
use generate::Purpose;
use model::learn::{ActorCritic, Row, actor_critic};
use model::{Decoder, Grads, Policy};
use objective::algebra::{Group, Ppo as Objective, Rollout, TokenTerm, Trajectory};
use recipe::Optim;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::rollouts::{Draw, Drawn, Parts, Rollouts};
use super::watch::Watch;
use super::{Plan, Ppo, order, own_tokens};
use crate::checkpoint::Learner;
use crate::error::Error;
use crate::lanes;
use crate::meters::Meters;
use crate::trainer::{Phases, Task};

/// Where a checkpoint keeps a batch of answers that was not used up.
const FILE: &str = "state/rollouts.json";

/// The task of a plan whose estimator is PPO.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct PpoTask<'a> {
    plan: Plan,
    ppo: Ppo,
    rollouts: Rollouts<'a>,
    optim: Optim,
    batch: Option<Batch>,
    watch: Watch,
}

/// Answers, and which update they were drawn before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Batch {
    drawn_at: usize,
    answers: Vec<Answer>,
}

/// An answer with what its tokens are trained to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Answer {
    ids: Vec<u32>,
    prompt_len: usize,
    log_policy: Vec<f64>,
    values: Vec<f64>,
    advantages: Vec<f64>,
    targets: Vec<f64>,
}

impl Answer {
    /// Which tokens are learned.
    fn mask(&self) -> Vec<bool> {
        (0..self.ids.len()).map(|at| at >= self.prompt_len).collect()
    }

    fn prompt_and_length(&self) -> (&[u32], usize) {
        (&self.ids[..self.prompt_len], self.ids.len())
    }

    fn term(&self, t: usize) -> TokenTerm {
        TokenTerm {
            log_policy: self.log_policy[t],
            value: self.values[t],
            advantage: self.advantages[t],
            target: self.targets[t],
        }
    }
}

impl<'a> PpoTask<'a> {
    /// The task of a plan; the anchor is the reference, whatever motion the plan has. The learner needs a value head.
    pub fn new(plan: Plan, ppo: Ppo, optim: &Optim, parts: Parts<'a>, seed: u64) -> Result<Self, Error> {
        ppo.objective().validate().map_err(Error::other)?;
        let watch = Watch::new(parts.cached.iter().flat_map(|pool| pool.sorted().iter().copied()));
        let rollouts = Rollouts::new(parts, seed);
        Ok(Self { plan, ppo, rollouts, optim: optim.clone(), batch: None, watch })
    }

    /// The reward changes while the policy is trained: none of its values is out of range.
    #[must_use]
    pub fn with_moving_reward(self) -> Self {
        Self { watch: self.watch.moving(), ..self }
    }

    fn answers_per_prompt(&self) -> usize {
        self.plan.objective.draws().policy.max(1)
    }

    fn prompts_per_batch(&self) -> usize {
        (self.optim.batch_size / self.answers_per_prompt()).max(1)
    }

    /// Draws a batch of answers before update `step`, and says what their tokens are trained to.
    fn draw(&mut self, learner: &Learner, step: usize, observed: &mut Meters) -> Result<Batch, Error> {
        let (per_prompt, prompts) = (self.answers_per_prompt(), self.prompts_per_batch());
        let rollouts = &mut self.rollouts;
        let chosen = rollouts.choose(step / self.ppo.updates() * prompts, prompts);
        let policy = Policy::new("policy", &learner.decoder);
        let reference = [rollouts.parts.reference];
        let wanted =
            Draw { policy: &policy, count: per_prompt, purpose: Purpose::Rollout, judges: &reference };
        let drawn = rollouts.draw(&chosen, &[wanted], step)?.concat();
        drop(policy);
        let rewards: Vec<f64> = drawn.iter().map(|answer| answer.reward).collect();
        rollouts.observe(&drawn, observed);
        self.watch.rewards(&rewards, observed);
        let mut answers = self.as_drawn(learner, &drawn);

        let mut groups: Vec<Group<'_>> =
            chosen.iter().map(|prompt| self.rollouts.parts.group(*prompt)).collect();
        let anchors: Vec<Vec<f64>> =
            drawn.iter().map(|one| one.log_probs[0].iter().map(|l| f64::from(*l)).collect()).collect();
        for (place, (answer, anchor)) in answers.iter().zip(&anchors).enumerate() {
            let (log_policy, log_anchor) = (answer.log_policy.iter().sum(), anchor.iter().sum());
            let rollout = Rollout { reward: rewards[place], log_policy, log_anchor };
            observed.add("objective/kl", rollout.log_ratio());
            observed.add("objective/entropy", -log_policy);
            groups[place / per_prompt].policy.push(rollout);
        }
        let paid = self
            .plan
            .objective
            .payments(&groups, &mut |name, sum, count| observed.add_sum(name, sum, count))
            .map_err(Error::other)?
            .ok_or_else(|| Error::Data {
                what: "estimator = \"ppo\"".into(),
                message:
                    "the method is no payment for the policy's own answers\n  hint: take another estimator"
                        .into(),
            })?;
        let trajectories: Vec<Trajectory<'_>> = answers
            .iter()
            .zip(&anchors)
            .zip(paid.ends.iter().flatten())
            .map(|((answer, anchor), end)| Trajectory {
                log_policy: &answer.log_policy,
                log_anchor: anchor,
                values: &answer.values,
                end: *end,
            })
            .collect();
        let terms = self.ppo.objective().terms(&trajectories, paid.kl).map_err(Error::other)?;
        observed.add("val/pull", self.ppo.vf_coef * pull(&terms));
        for (answer, terms) in answers.iter_mut().zip(terms) {
            answer.advantages = terms.iter().map(|term| term.advantage).collect();
            answer.targets = terms.iter().map(|term| term.target).collect();
        }
        Ok(Batch { drawn_at: step, answers })
    }

    /// Answers with their log-probabilities and values under the policy that drew them, by the pass that trains: the first
    /// ratios are one to the last bit.
    fn as_drawn(&self, learner: &Learner, drawn: &[Drawn]) -> Vec<Answer> {
        let mut answers: Vec<Answer> = drawn
            .iter()
            .map(|drawn| {
                let prompt = &self.rollouts.parts.prompts[drawn.prompt].ids;
                Answer {
                    ids: [prompt.as_slice(), &drawn.completion.ids].concat(),
                    prompt_len: prompt.len(),
                    log_policy: Vec::new(),
                    values: Vec::new(),
                    advantages: Vec::new(),
                    targets: Vec::new(),
                }
            })
            .collect();
        let mut frozen = learner.decoder.clone();
        frozen.visit(&mut |_, mut slot| slot.freeze());
        frozen.pack();
        let mut places: Vec<usize> = (0..answers.len()).collect();
        order(&mut places, |place| answers[place].prompt_and_length());
        for micro in places.chunks(self.optim.micro_batch().max(1)) {
            let pass = run(&frozen, micro, &answers, false);
            let (mut log_probs, mut values) = (pass.log_probs().iter(), pass.values().iter());
            for (place, count) in micro.iter().zip(&pass.forward.counts) {
                let answer = &mut answers[*place];
                answer.log_policy = log_probs.by_ref().take(*count).map(|l| f64::from(*l)).collect();
                answer.values = values.by_ref().take(*count).map(|v| f64::from(*v)).collect();
            }
        }
        answers
    }

    /// The answers that update `step` learns from, in the order that [`order`] gives them.
    fn mini_batch(&self, step: usize, answers: &[Answer]) -> Vec<usize> {
        let place = step % self.ppo.updates();
        let (epoch, part) = (place / self.ppo.mini_batches, place % self.ppo.mini_batches);
        let count = answers.len() / self.ppo.mini_batches;
        let mut chosen: Vec<usize> = if self.ppo.mini_batches == 1 {
            (0..answers.len()).collect()
        } else {
            let pass = (step / self.ppo.updates() * self.ppo.epochs + epoch) as u64;
            let order = data::batch::permutation(self.rollouts.seed, "ppo", pass, answers.len());
            order[part * count..(part + 1) * count].to_vec()
        };
        order(&mut chosen, |place| answers[place].prompt_and_length());
        chosen
    }

    /// The batch that update `step` learns from.
    fn batch(&mut self, learner: &Learner, step: usize, observed: &mut Meters) -> Result<Batch, Error> {
        let begins = step - step % self.ppo.updates();
        match self.batch.take() {
            Some(batch) if batch.drawn_at == begins => Ok(batch),
            _ if begins == step => self.draw(learner, step, observed),
            _ => Err(Error::Data {
                what: format!("step {step}"),
                message: format!(
                    "the answers drawn before step {begins} are missing from the checkpoint\n  hint: remove it to resume from the one before"
                ),
            }),
        }
    }
}

impl Task for PpoTask<'_> {
    fn total_steps(&self) -> usize {
        let answers = self.rollouts.parts.prompts.len() * self.answers_per_prompt();
        // Epochs count batches of answers, and each serves several updates.
        let each = if self.optim.steps.is_some() { 1 } else { self.ppo.updates() };
        self.optim.total_steps(answers) * each
    }

    fn gradient(
        &mut self,
        learner: &mut Learner,
        step: usize,
        meters: &mut Meters,
    ) -> Result<(Grads, u64), Error> {
        let mut observed = Meters::default();
        let batch = self.batch(learner, step, &mut observed)?;
        let chosen = self.mini_batch(step, &batch.answers);
        let (grads, tokens) =
            update(learner, &self.ppo.objective(), &batch.answers, &chosen, &self.optim, &mut observed);
        if !(step + 1).is_multiple_of(self.ppo.updates()) {
            self.batch = Some(batch);
        }
        self.watch.look(step, &observed);
        meters.merge(&observed);
        Ok((grads, tokens))
    }

    fn done(&self) -> Option<String> {
        self.watch.over(self.plan.kl_limit)
    }

    fn state(&mut self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut files = vec![self.watch.save()?];
        if let Some(batch) = &self.batch {
            files.push((FILE.to_owned(), serde_json::to_vec(batch).map_err(Error::other)?));
        }
        Ok(files)
    }

    fn restore(&mut self, _: &Learner, checkpoint: &Path, _: &Device) -> Result<(), Error> {
        self.watch.restore(checkpoint)?;
        let path = checkpoint.join(FILE);
        if path.exists() {
            let text = fs_err::read_to_string(&path)?;
            self.batch = serde_json::from_str(&text).map_err(|error| Error::Checkpoint {
                path,
                message: format!("{error}\n  hint: remove this checkpoint to resume from the one before"),
            })?;
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
        let batches = step as f64 / self.ppo.updates() as f64;
        Some(batches * self.prompts_per_batch() as f64 / self.rollouts.parts.prompts.len() as f64)
    }
}

/// How much larger the derivatives of the values' loss are than those of the policy's, as answers are drawn:
/// the root mean squares of
/// what values are off by and of advantages, divided. 0 where there are no advantages.
fn pull(terms: &[Vec<TokenTerm>]) -> f64 {
    let root =
        |of: fn(&TokenTerm) -> f64| terms.iter().flatten().map(|term| of(term).powi(2)).sum::<f64>().sqrt();
    let (off, advantages) = (root(|term| term.target - term.value), root(|term| term.advantage));
    if advantages > 0.0 { off / advantages } else { 0.0 }
}

/// Runs the answers at `places`.
fn run(decoder: &Decoder, places: &[usize], answers: &[Answer], checkpointing: bool) -> ActorCritic {
    let masks: Vec<Vec<bool>> = places.iter().map(|place| answers[*place].mask()).collect();
    let rows: Vec<Row<'_>> =
        places.iter().zip(&masks).map(|(place, loss)| Row { ids: &answers[*place].ids, loss }).collect();
    actor_critic(decoder, &rows, checkpointing)
}

/// The gradient of the sum of both losses over the tokens of the chosen answers, divided by the number of answers, and the
/// number of tokens run.
fn update(
    learner: &Learner,
    ppo: &Objective,
    answers: &[Answer],
    chosen: &[usize],
    optim: &Optim,
    meters: &mut Meters,
) -> (Grads, u64) {
    let mut grads = Grads::default();
    let mut tokens = 0;
    let mut loss = 0.0;
    let divisor = chosen.len() as f64;
    for micro in chosen.chunks(optim.micro_batch()) {
        tokens += micro.iter().map(|place| answers[*place].ids.len() as u64).sum::<u64>();
        let own = own_tokens(micro, |place| answers[place].prompt_and_length());
        let (part, done) = lanes::run(&learner.decoder, micro, own, |decoder, places| {
            let pass = run(decoder, places, answers, optim.gradient_checkpointing);
            let terms = places.iter().flat_map(|place| {
                let answer = &answers[*place];
                (0..answer.log_policy.len()).map(|t| answer.term(t))
            });
            let (mut policy, mut value) = (Vec::new(), Vec::new());
            let (mut meters, mut sum) = (Meters::default(), 0.0);
            for (((term, now), v), entropy) in
                terms.zip(pass.log_probs()).zip(pass.values()).zip(&pass.entropies)
            {
                let (now, v) = (f64::from(*now), f64::from(*v));
                let token = ppo.loss(&term, now, v);
                policy.push((token.policy.gradient / divisor) as f32);
                value.push((ppo.value_coefficient * token.value.gradient / divisor) as f32);
                sum += (token.policy.loss + ppo.value_coefficient * token.value.loss) / divisor;
                let moved = now - term.log_policy;
                meters.add("loss/policy_avg", token.policy.loss);
                meters.add("loss/value_avg", token.value.loss);
                meters.add("policy/approxkl_avg", 0.5 * moved * moved);
                meters.add("policy/clipfrac_avg", f64::from(u8::from(token.policy.clipped)));
                meters.add("policy/entropy_avg", f64::from(*entropy));
                meters.add("val/clipfrac_avg", f64::from(u8::from(token.value.clipped)));
                meters.add("val/ratio", moved.exp());
                meters.add("val/mean", v);
            }
            let coefficients = [policy, value].concat();
            (pass.forward.backward(decoder, &coefficients), (meters, sum))
        });
        grads.merge(part);
        for (observed, sum) in done {
            meters.merge(&observed);
            loss += sum;
        }
    }
    meters.add("loss", loss);
    (grads, tokens)
}
