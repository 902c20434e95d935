//! The chains of one prompt in lock step.

use generate::schedule::{Answer, Ask, Machine, Reply};
use generate::{Chance, Completion, Error, Prompt, Stream, TextMethod};

use super::config::{INFO, QAlign};
use super::kernel::Kernel;
use super::record::Record;
use super::slots::Slots;
use super::tally::Choice;
use super::trace::Point;
use crate::method::Tools;
use crate::pooled::{log_ratio, pool_asks, unexpected};

/// Runs chains on each prompt.
pub(super) struct Chains {
    pub(super) config: QAlign,
    pub(super) tools: Tools,
}

impl TextMethod for Chains {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine> {
        let chains = (0..self.config.chains as u64)
            .map(|chain| Chain { stream: stream.child(chain), state: 0, proposal: None })
            .collect();
        Box::new(Run {
            kernel: Kernel { horizon: self.tools.max_new_tokens, beta: self.config.beta },
            config: self.config.clone(),
            tools: self.tools.clone(),
            prompt: prompt.clone(),
            stream,
            chains,
            slots: Slots::default(),
            step: 0,
            stage: Stage::Start,
            record: Record { states: vec![Vec::new(); self.config.chains], ..Record::default() },
        })
    }
}

/// What the machine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Samples,
    Rewards,
}

struct Chain {
    /// Its first draw is made by this stream itself, the moves of step `t` by its child `t`.
    stream: Stream,
    /// Slot of the current state.
    state: usize,
    proposal: Option<Proposal>,
}

/// A move under way.
struct Proposal {
    stream: Stream,
    cut: usize,
    /// Slot of the proposal, the current state's until it is drawn.
    slot: usize,
}

struct Run {
    config: QAlign,
    tools: Tools,
    kernel: Kernel,
    prompt: Prompt,
    stream: Stream,
    chains: Vec<Chain>,
    slots: Slots,
    step: usize,
    stage: Stage,
    record: Record,
}

impl Machine for Run {
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        match (self.stage, reply) {
            (Stage::Start, Reply::Start) => {
                self.stage = Stage::Samples;
                // The streams are those of a pool: chain 0 starts at the completion of the method `sample`.
                let asks = pool_asks(&self.prompt, self.stream, self.config.chains, self.kernel.horizon);
                Ok(Ask::Sample(asks))
            }
            (Stage::Samples, Reply::Samples(given)) if given.len() == self.chains.len() => {
                self.take(given);
                let unscored = self.slots.unscored();
                if unscored.is_empty() {
                    return self.settle(chance);
                }
                self.stage = Stage::Rewards;
                let ask = |slot| {
                    let slot = self.slots.get(slot);
                    (slot.ids.to_vec(), slot.end)
                };
                Ok(Ask::Reward(unscored.into_iter().map(ask).collect()))
            }
            (Stage::Rewards, Reply::Rewards(given)) if given.len() == self.slots.unscored().len() => {
                for (slot, reward) in self.slots.unscored().into_iter().zip(given) {
                    if !reward.is_finite() {
                        let message = format!(
                            "prompt {}: a reward is {reward}, and acceptance needs finite ones\n  hint: clip the reward",
                            self.prompt.index
                        );
                        return Err(Error::Method { method: INFO.name, message });
                    }
                    self.slots.score(slot, reward);
                    self.record.reward_calls += 1;
                }
                self.settle(chance)
            }
            (Stage::Start, other) => Err(unexpected(INFO.name, "the start", &other)),
            (Stage::Samples, other) => Err(unexpected(INFO.name, "one completion for each chain", &other)),
            (Stage::Rewards, other) => {
                Err(unexpected(INFO.name, "one reward for each new completion", &other))
            }
        }
    }
}

impl Run {
    /// Takes first draws or suffixes.
    fn take(&mut self, given: Vec<Completion>) {
        for (chain, completion) in self.chains.iter_mut().zip(given) {
            self.record.drawn_tokens += completion.ids.len() as u64;
            let ratio = log_ratio(&completion);
            let kept = match &chain.proposal {
                Some(proposal) => &self.slots.get(chain.state).ids[..proposal.cut],
                None => &[],
            };
            let fresh = kept.is_empty();
            let slot = self.slots.intern([kept, &completion.ids].concat(), completion.end);
            if fresh {
                self.record.base.push((slot, ratio));
            }
            match &mut chain.proposal {
                Some(proposal) => proposal.slot = slot,
                None => chain.state = slot,
            }
        }
    }

    /// Decides on the proposals, all of which are scored, records the states, and goes on or ends.
    fn settle(&mut self, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        let counts = self.step >= self.config.burn_in;
        for (chain, states) in self.chains.iter_mut().zip(&mut self.record.states) {
            let before = chain.state;
            let mut weights = [(before, 0.0), (before, 1.0)];
            if let Some(mut proposal) = chain.proposal.take() {
                let (Some(current), Some(new)) =
                    (self.slots.scored(before), self.slots.scored(proposal.slot))
                else {
                    let message = "a state has no reward".to_owned();
                    return Err(Error::Method { method: INFO.name, message });
                };
                let same = proposal.slot == before;
                let accepted = same || self.kernel.accept(current, new, &mut proposal.stream, chance);
                let bin = proposal.cut * 10 / current.len;
                for rates in [&mut self.record.rates, &mut self.record.by_cut[bin]] {
                    rates.count(accepted, accepted && !same);
                }
                if accepted {
                    chain.state = proposal.slot;
                }
                let alpha = if same { 1.0 } else { self.kernel.log_alpha(current, new).min(0.0).exp() };
                weights = if self.config.rao_blackwell {
                    [(before, 1.0 - alpha), (proposal.slot, alpha)]
                } else {
                    [(before, 0.0), (chain.state, 1.0)]
                };
            }
            states.push(chain.state);
            if counts {
                for (slot, weight) in weights {
                    self.record.tally.add(slot, weight);
                }
            }
        }
        if self.step == self.config.steps {
            return self.done();
        }
        if self.config.at.contains(&self.step) {
            let choice = self.choose()?;
            self.mark(&choice);
        }
        self.step += 1;
        self.stage = Stage::Samples;
        Ok(Ask::Sample(self.propose(chance)))
    }

    fn propose(&mut self, chance: &mut Chance<'_>) -> Vec<generate::SampleAsk> {
        let mut asks = Vec::with_capacity(self.chains.len());
        for chain in &mut self.chains {
            let mut stream = chain.stream.child(self.step as u64);
            let state = &self.slots.get(chain.state).ids;
            let cut = self.kernel.propose(&self.prompt.ids, state, &mut stream, chance);
            chain.proposal = Some(Proposal { stream, cut: cut.at, slot: chain.state });
            asks.push(cut.ask);
        }
        asks
    }

    fn choose(&mut self) -> Result<Choice, Error> {
        self.record
            .tally
            .choose(self.config.answer, self.chains[0].state, &mut self.slots, &self.prompt, &self.tools)
            .map_err(|error| Error::Method {
                method: INFO.name,
                message: format!("prompt {}: {error}", self.prompt.index),
            })
    }

    /// Adds a point to the curve.
    fn mark(&mut self, choice: &Choice) {
        let slot = self.slots.get(choice.slot);
        self.record.curve.push(Point {
            steps: self.step,
            ids: slot.ids.to_vec(),
            end: slot.end,
            answer: choice.answer.clone(),
            drawn_tokens: self.record.drawn_tokens,
            reward_calls: self.record.reward_calls,
        });
    }

    fn done(&mut self) -> Result<Ask, Error> {
        let choice = self.choose()?;
        self.mark(&choice);
        let slot = self.slots.get(choice.slot);
        let (ids, end) = (slot.ids.to_vec(), slot.end);
        let record = std::mem::take(&mut self.record);
        let (kl, trace) = record.finish(&self.config, &self.slots, choice)?;
        let trace = serde_json::to_value(trace).map_err(|error| Error::Backend(Box::new(error)))?;
        Ok(Ask::Done(Answer { ids, end, kl, trace }))
    }
}
