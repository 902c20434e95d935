//! The chains of one prompt in lock step.

use generate::schedule::{Answer, Ask, Machine, NoNext, Reply};
use generate::{Chance, Completion, Error, Prompt, SampleAsk, Stream, TextMethod, TokenId};
use serde_json::Value;

use super::cuts::{CutLaw, step_cuts};
use super::kernel::{Kernel, log_swap};
use super::plan::Plan;
use super::slots::Slot;
use super::state::{Proposal, Stage, State};
use super::tally::Choice;
use super::trace::{Move, Point};
use crate::method::Tools;
use crate::pooled::{pool_asks, unexpected};

/// Label of the stream of a move that decides about swaps; tries have those from 0.
const SWAP: u64 = u64::MAX;

/// Runs chains on each prompt.
pub(crate) struct Chains {
    plan: Plan,
    tools: Tools,
}

impl Chains {
    /// Chains of a plan that was checked, with the tools that it needs.
    pub(crate) fn new(plan: Plan, tools: &Tools) -> Self {
        Self { plan, tools: tools.clone() }
    }

    fn run(&self, prompt: &Prompt, state: State) -> Box<dyn Machine<NoNext>> {
        Box::new(Run { plan: self.plan.clone(), tools: self.tools.clone(), prompt: prompt.clone(), state })
    }
}

impl TextMethod for Chains {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine<NoNext>> {
        self.run(prompt, State::new(&self.plan, stream))
    }

    fn restore(&self, prompt: &Prompt, saved: Value) -> Result<Box<dyn Machine<NoNext>>, Error> {
        let refused = |message: String| Error::Method { method: self.plan.method, message };
        let state: State = serde_json::from_value(saved)
            .map_err(|error| refused(format!("a saved state cannot be read: {error}")))?;
        if !state.fits(&self.plan) {
            return Err(refused("a saved state is of other settings".to_owned()));
        }
        Ok(self.run(prompt, state))
    }
}

struct Run {
    plan: Plan,
    tools: Tools,
    prompt: Prompt,
    state: State,
}

impl Machine<NoNext> for Run {
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask<NoNext>, Error> {
        let method = self.plan.method;
        match (self.state.stage, reply) {
            (Stage::Start, Reply::Start) => {
                self.state.stage = Stage::Samples;
                let (draws, horizon) = (self.plan.first_draws(), self.tools.max_new_tokens);
                Ok(Ask::Sample(pool_asks(&self.prompt, self.state.stream, draws, horizon)))
            }
            (Stage::Samples, Reply::Samples(given)) if given.len() == self.expected() => {
                self.take(given)?;
                let unscored = self.state.slots.unscored();
                if unscored.is_empty() || !self.plan.scores() {
                    return self.settle(chance);
                }
                self.state.stage = Stage::Rewards;
                let ask = |slot| {
                    let slot = self.state.slots.get(slot);
                    (slot.ids.clone(), slot.end)
                };
                Ok(Ask::Reward(unscored.into_iter().map(ask).collect()))
            }
            (Stage::Rewards, Reply::Rewards(given)) if given.len() == self.state.slots.unscored().len() => {
                for (slot, reward) in self.state.slots.unscored().into_iter().zip(given) {
                    if !reward.is_finite() {
                        return Err(self.refused(&format!(
                            "a reward is {reward}, and acceptance needs finite ones\n  hint: clip the reward"
                        )));
                    }
                    self.state.slots.score(slot, reward);
                    self.state.record.reward_calls += 1;
                }
                self.settle(chance)
            }
            (Stage::Start, other) => Err(unexpected(method, "the start", &other)),
            (Stage::Samples, other) => Err(unexpected(method, "one completion for each ask", &other)),
            (Stage::Rewards, other) => Err(unexpected(method, "one reward for each new completion", &other)),
        }
    }

    fn save(&self) -> Result<Option<Value>, Error> {
        serde_json::to_value(&self.state).map(Some).map_err(|error| Error::Backend(Box::new(error)))
    }

    /// The plan's choice among the states so far; the first chain's state while none counts.
    fn running(&self) -> Option<Vec<TokenId>> {
        let last = *self.state.record.states[0].last()?;
        let mut slots = self.state.slots.clone();
        let tally = &self.state.record.tally;
        let choice = tally.choose(&self.plan, last, &mut slots, &self.prompt, &self.tools);
        let slot = choice.map_or(last, |choice| choice.slot);
        Some(slots.get(slot).ids.clone())
    }
}

impl Run {
    fn refused(&self, message: &str) -> Error {
        let message = format!("prompt {}: {message}", self.prompt.index);
        Error::Method { method: self.plan.method, message }
    }

    /// How many completions the last ask was for.
    fn expected(&self) -> usize {
        if self.state.step == 0 {
            self.plan.first_draws()
        } else {
            self.state.walkers.len() * self.plan.tries
        }
    }

    fn kernel(&self, rung: usize) -> Kernel {
        Kernel {
            horizon: self.tools.max_new_tokens,
            law: self.plan.law.with(self.state.rungs[rung]),
            cut: self.plan.cut,
            tries: self.plan.tries,
        }
    }

    /// Takes first draws or suffixes.
    fn take(&mut self, given: Vec<Completion>) -> Result<(), Error> {
        if self.state.step == 0 {
            for (number, completion) in given.into_iter().enumerate() {
                let slot = self.intern(0, 0, &completion)?;
                if let Some(walker) = self.state.walkers.get_mut(number) {
                    walker.state = slot;
                }
            }
            return Ok(());
        }
        for (number, completion) in given.into_iter().enumerate() {
            let walker = &self.state.walkers[number / self.plan.tries];
            let cut = walker.proposal.as_ref().map_or(0, |proposal| proposal.cut);
            let slot = self.intern(walker.state, cut, &completion)?;
            if let Some(proposal) = &mut self.state.walkers[number / self.plan.tries].proposal {
                proposal.slots.push(slot);
            }
        }
        Ok(())
    }

    /// The slot of the first `cut` tokens of `state` followed by a completion of them.
    fn intern(&mut self, state: usize, cut: usize, completion: &Completion) -> Result<usize, Error> {
        let record = &mut self.state.record;
        record.drawn_tokens += completion.ids.len() as u64;
        record.samples += 1;
        let kept: &[u32] = if cut == 0 { &[] } else { &self.state.slots.get(state).ids[..cut] };
        let ids = [kept, &completion.ids].concat();
        let cuts = match (&self.tools.ends_step, self.plan.cut) {
            (Some(ends_step), CutLaw::StepBoundaries) => step_cuts(&ids, &**ends_step),
            _ => vec![0],
        };
        let mut slot = Slot::new(ids, completion.end, cuts);
        if self.plan.law.uses_log_probs() {
            let (drawn, raw) = (&completion.log_probs, &completion.raw_log_probs);
            if drawn.len() != completion.ids.len() || raw.len() != completion.ids.len() {
                return Err(self.refused("the policy gave a completion without log-probabilities"));
            }
            let before = |logs: &[f32]| logs[..cut.min(logs.len())].to_vec();
            let (old_drawn, old_raw) = if cut == 0 {
                (Vec::new(), Vec::new())
            } else {
                let old = self.state.slots.get(state);
                (before(&old.log_drawn), before(&old.log_raw))
            };
            slot.log_drawn = [&old_drawn[..], drawn].concat();
            slot.log_raw = [&old_raw[..], raw].concat();
        }
        let slot = self.state.slots.intern(slot);
        if cut == 0 {
            self.state.record.base.push(slot);
        }
        Ok(slot)
    }

    /// Decides on the proposals, all of which are scored, records the states, and goes on or ends.
    fn settle(&mut self, chance: &mut Chance<'_>) -> Result<Ask<NoNext>, Error> {
        let chains = self.plan.common.chains;
        if self.state.step == 0 {
            self.freeze()?;
        }
        let mut outcomes = Vec::with_capacity(self.state.walkers.len());
        for number in 0..self.state.walkers.len() {
            outcomes.push(self.decide(number, chance));
        }
        if self.state.step > 0 {
            self.swap(chance);
        }
        let State { walkers, record, step, .. } = &mut self.state;
        for (chain, walker) in walkers[..chains].iter().enumerate() {
            record.states[chain].push(walker.state);
            if *step < self.plan.common.burn_in {
                continue;
            }
            if !self.plan.rao_blackwell || outcomes[chain].is_empty() {
                record.tally.add(walker.state, 1.0);
                continue;
            }
            for (slot, weight) in &outcomes[chain] {
                record.tally.add(*slot, *weight);
            }
        }
        self.next(chance)
    }

    /// Sets the rungs of this prompt, from all first draws.
    fn freeze(&mut self) -> Result<(), Error> {
        let Some(budget) = &self.plan.budget else { return Ok(()) };
        let reward = |slot: &usize| self.state.slots.scored(*slot).reward;
        let rewards: Vec<f64> = self.state.record.base.iter().map(reward).collect();
        let floor = self.state.rungs[0];
        let beta = budget.beta(&rewards, floor).map_err(|error| self.refused(&error.to_string()))?;
        for rung in &mut self.state.rungs {
            *rung *= beta / floor;
        }
        Ok(())
    }

    /// Moves a walker by its proposals, if it has any, and gives the probability of each place that it could end at.
    fn decide(&mut self, number: usize, chance: &mut Chance<'_>) -> Vec<(usize, f64)> {
        let chains = self.plan.common.chains;
        let (rung, chain) = (number / chains, number % chains);
        let kernel = self.kernel(rung);
        let State { walkers, slots, record, step, .. } = &mut self.state;
        let walker = &mut walkers[number];
        let Some(mut proposal) = walker.proposal.take() else { return Vec::new() };
        let before = walker.state;
        let current = slots.scored(before);
        let scored: Vec<_> = proposal.slots.iter().map(|slot| slots.scored(*slot)).collect();
        let odds = kernel.odds(proposal.cut, &current, &scored);
        let decision = odds.decide(&mut proposal.stream, chance);
        let chosen = proposal.slots[decision.chosen];
        if decision.accepted {
            walker.state = chosen;
        }
        let changed = walker.state != before;
        record.rungs[rung].count(decision.accepted, changed);
        if rung == 0 {
            let bin = proposal.cut * 10 / current.len;
            record.by_cut[bin].count(decision.accepted, changed);
        }
        if self.plan.common.record_moves {
            let log_alpha = odds.log_alpha(decision.chosen);
            record.moves.push(Move {
                step: *step,
                chain,
                rung,
                cut: proposal.cut,
                length: current.len,
                reward: slots.get(before).reward,
                proposal: slots.get(chosen).ids.clone(),
                proposal_reward: slots.get(chosen).reward,
                log_alpha,
                accepted: decision.accepted,
            });
        }
        let probabilities = odds.probabilities();
        let stays = (1.0 - probabilities.iter().sum::<f64>()).max(0.0);
        std::iter::once((before, stays)).chain(proposal.slots.into_iter().zip(probabilities)).collect()
    }

    /// Lets neighbouring rungs exchange their states, from the last rung to the target's.
    fn swap(&mut self, chance: &mut Chance<'_>) {
        let chains = self.plan.common.chains;
        for rung in (1..self.state.rungs.len()).rev() {
            let (low, high) = (self.kernel(rung - 1).law, self.kernel(rung).law);
            for chain in 0..chains {
                let State { walkers, slots, record, step, .. } = &mut self.state;
                let (a, b) = ((rung - 1) * chains + chain, rung * chains + chain);
                let mut stream = walkers[b].stream.child(*step as u64).child(SWAP);
                let (x, y) = (walkers[a].state, walkers[b].state);
                let log_alpha = log_swap(low, high, &slots.scored(x), &slots.scored(y));
                let accepted = chance.of(&mut stream).accept(log_alpha);
                record.swaps[rung - 1].count(accepted, accepted && x != y);
                if accepted {
                    (walkers[a].state, walkers[b].state) = (y, x);
                }
            }
        }
    }

    fn next(&mut self, chance: &mut Chance<'_>) -> Result<Ask<NoNext>, Error> {
        let (step, steps) = (self.state.step, self.plan.common.steps);
        if step == steps {
            return self.done(None);
        }
        let marked = self.plan.common.at.contains(&step);
        let may_stop = self.plan.common.stop_when_decided && step >= self.plan.common.burn_in;
        if marked || may_stop {
            let choice = self.choose()?;
            if marked {
                self.mark(&choice, step);
            }
            let left = self.plan.common.chains * (steps - step);
            if may_stop && choice.withstands(left as f64) {
                return self.done(Some(choice));
            }
        }
        self.state.step += 1;
        self.state.stage = Stage::Samples;
        Ok(Ask::Sample(self.propose(chance)))
    }

    fn propose(&mut self, chance: &mut Chance<'_>) -> Vec<SampleAsk> {
        let kernel = self.kernel(0);
        let State { walkers, slots, step, .. } = &mut self.state;
        let mut asks = Vec::with_capacity(walkers.len() * kernel.tries);
        for walker in walkers {
            let mut stream = walker.stream.child(*step as u64);
            let state = slots.get(walker.state);
            let cut = kernel.propose(&self.prompt.ids, &state.ids, &state.cuts, &mut stream, chance);
            walker.proposal = Some(Proposal { stream, cut: cut.at, slots: Vec::new() });
            asks.extend(cut.asks);
        }
        asks
    }

    fn choose(&mut self) -> Result<Choice, Error> {
        let State { walkers, slots, record, .. } = &mut self.state;
        record
            .tally
            .choose(&self.plan, walkers[0].state, slots, &self.prompt, &self.tools)
            .map_err(|error| self.refused(&error.to_string()))
    }

    /// Adds a point to the curve.
    fn mark(&mut self, choice: &Choice, steps: usize) {
        let slot = self.state.slots.get(choice.slot);
        let record = &mut self.state.record;
        record.curve.push(Point {
            steps,
            samples: record.samples,
            ids: slot.ids.clone(),
            end: slot.end,
            answer: choice.answer.clone(),
            drawn_tokens: record.drawn_tokens,
            reward_calls: record.reward_calls,
        });
    }

    /// Ends, with the choice where the vote is decided before the last step.
    fn done(&mut self, decided: Option<Choice>) -> Result<Ask<NoNext>, Error> {
        let stopped = decided.is_some().then_some(self.state.step);
        let choice = match decided {
            Some(choice) => choice,
            None => self.choose()?,
        };
        // The curve of a decided vote goes on as it would have, at no further cost.
        let later: Vec<usize> =
            self.plan.common.at.iter().copied().filter(|at| *at > self.state.step).collect();
        let end = self.plan.common.steps;
        for steps in later.into_iter().filter(|at| *at < end).chain([end]) {
            self.mark(&choice, steps);
        }
        let slot = self.state.slots.get(choice.slot);
        let (ids, end) = (slot.ids.clone(), slot.end);
        let mut trace = self.state.report(&self.plan, choice, stopped)?;
        if self.tools.candidates {
            trace.candidates = self.state.record.tally.candidates(&self.state.slots);
        }
        let trace = serde_json::to_value(trace).map_err(|error| Error::Backend(Box::new(error)))?;
        // The answer is no draw from a law whose divergence is known: the trace says why.
        Ok(Ask::Done(Answer { ids, end, kl: None, trace }))
    }
}
