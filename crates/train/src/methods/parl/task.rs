//! The task of PARL: the policy's own task, and before each round of it one of the reward model.

use std::path::Path;

use burn::tensor::Device;
use generate::{Purpose, Reward, Stream};
use model::{Grads, Policy};
use recipe::Optim;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Parl as Settings;
use super::judge::{Judge, Labelled, prefers_first};
use crate::checkpoint::Learner;
use crate::error::Error;
use crate::meters::Meters;
use crate::on_policy::{Compose, Draw, OnPolicy, Parts, PpoTask, Rollouts};
use crate::pairs::right;
use crate::trainer::{Phases, Task};

/// Where a checkpoint keeps the labelled pairs.
const FILE: &str = "state/pairs.json";

/// What both phases need.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct Turns<'a> {
    /// Prompts and what draws answers to them; its reward labels the pairs.
    pub labels: Parts<'a>,
    /// The same for the policy's phase, whose reward is replaced by the learned one.
    pub policy: Parts<'a>,
    /// What becomes the reward model: a decoder with a scalar head.
    pub judge: Learner,
}

/// The task of PARL.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct Parl<'a> {
    settings: Settings,
    policy: Box<dyn Task + 'a>,
    labels: Rollouts<'a>,
    judge: Judge,
    pairs: Vec<Labelled>,
    seed: u64,
}

/// What is kept beside weights and moments.
#[derive(Debug, Serialize, Deserialize)]
struct State {
    updates: usize,
    pairs: Vec<Labelled>,
}

impl<'a> Parl<'a> {
    /// The task. With PPO the policy's learner needs a value head.
    pub fn new(settings: &Settings, optim: &Optim, turns: Turns<'a>, seed: u64) -> Result<Self, Error> {
        let judge = Judge::new(turns.judge, optim);
        let parts = Parts { reward: Box::new(judge.reward()), ..turns.policy };
        let plan = settings.compose(&[])?;
        let policy: Box<dyn Task + 'a> = match settings.ppo() {
            None => Box::new(OnPolicy::new(plan, optim, parts, seed).with_moving_reward()),
            Some(ppo) => Box::new(PpoTask::new(plan, ppo, optim, parts, seed)?.with_moving_reward()),
        };
        let labels = Rollouts::new(turns.labels, seed);
        Ok(Self { settings: settings.clone(), policy, labels, judge, pairs: Vec::new(), seed })
    }

    /// Draws pairs of answers of the policy, has them labelled, and makes the reward model's updates.
    fn turn(&mut self, learner: &Learner, round: usize, meters: &mut Meters) -> Result<(), Error> {
        let chosen = self.labels.choose(round * self.settings.pairs, self.settings.pairs);
        let policy = Policy::new("policy", &learner.decoder);
        let wanted = Draw { policy: &policy, count: 2, purpose: Purpose::Method, judges: &[] };
        let drawn = self.labels.draw(&chosen, &[wanted], round)?.concat();
        let gold: Vec<f64> = drawn.iter().map(|answer| answer.reward).collect();
        let before = self.judge.reward().rewards(&self.labels.candidates(&drawn))?;
        meters.extend("parl/gold_score", gold.iter().copied());
        let mut fresh = Vec::new();
        for pair in 0..chosen.len() {
            let (first, second) = (2 * pair, 2 * pair + 1);
            let text = |place: usize| {
                let answer = &drawn[place];
                [self.labels.parts.prompts[answer.prompt].ids.as_slice(), &answer.completion.ids].concat()
            };
            let (a, b) = (text(first), text(second));
            let mut coin = Stream::new(self.seed, Purpose::Method, round as u64, first as u64).child(1);
            let label = prefers_first(gold[first], gold[second], self.settings.temperature, &mut coin);
            let kept = label.filter(|_| a != b);
            meters.add("parl/pairs", f64::from(u8::from(kept.is_some())));
            let Some(is_first) = kept else { continue };
            let (better, worse) = if is_first { (first, second) } else { (second, first) };
            // How the reward of the last round judges answers that it was not trained on.
            meters.add("reward/fresh_accuracy", right(before[better], before[worse]));
            let (chosen, rejected) = if is_first { (a, b) } else { (b, a) };
            fresh.push(Labelled { round, chosen, rejected });
        }
        self.pairs.retain(|pair| pair.round + self.settings.replay >= round);
        self.pairs.extend(fresh);
        if self.pairs.is_empty() {
            return Err(Error::Data {
                what: format!("round {round}"),
                message: format!(
                    "none of {} pairs of answers has a better one: they are the same, or their rewards are\n  hint: raise `pairs`, or take a `[reward]` that tells answers apart",
                    self.settings.pairs
                ),
            });
        }
        self.judge.learn(&self.settings, &self.pairs, self.seed, round, meters)
    }
}

impl Task for Parl<'_> {
    fn total_steps(&self) -> usize {
        self.policy.total_steps()
    }

    fn gradient(
        &mut self,
        learner: &mut Learner,
        step: usize,
        meters: &mut Meters,
    ) -> Result<(Grads, u64), Error> {
        if step.is_multiple_of(self.settings.policy_steps) {
            self.turn(learner, step / self.settings.policy_steps, meters)?;
        }
        self.policy.gradient(learner, step, meters)
    }

    fn updated(&mut self, learner: &Learner, step: usize) -> Result<(), Error> {
        self.policy.updated(learner, step)
    }

    fn done(&self) -> Option<String> {
        self.policy.done()
    }

    fn state(&mut self) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut files = self.policy.state()?;
        files.extend(self.judge.save()?);
        let state = State { updates: self.judge.updates(), pairs: self.pairs.clone() };
        files.push((FILE.to_owned(), serde_json::to_vec(&state).map_err(Error::other)?));
        Ok(files)
    }

    fn restore(&mut self, learner: &Learner, checkpoint: &Path, device: &Device) -> Result<(), Error> {
        self.policy.restore(learner, checkpoint, device)?;
        let path = checkpoint.join(FILE);
        let refuse = |message: String| Error::Checkpoint {
            path: path.clone(),
            message: format!("{message}\n  hint: remove this checkpoint to resume from the one before"),
        };
        let text = fs_err::read_to_string(&path).map_err(|error| refuse(error.to_string()))?;
        let state: State = serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
        self.pairs = state.pairs;
        self.judge.restore(checkpoint, state.updates, device)
    }

    /// A round that failed may have moved the reward model.
    fn outlives_failure(&self) -> bool {
        false
    }

    fn samples(&mut self, learner: &Learner, count: usize, step: usize) -> Result<Vec<Value>, Error> {
        self.policy.samples(learner, count, step)
    }

    fn phases(&mut self) -> Phases {
        let (labels, policy) = (self.labels.phases(), self.policy.phases());
        Phases { generation: labels.generation + policy.generation, scoring: labels.scoring + policy.scoring }
    }

    fn alarms(&self) -> Vec<String> {
        self.policy.alarms()
    }

    fn epoch(&self, step: usize) -> Option<f64> {
        self.policy.epoch(step)
    }
}
