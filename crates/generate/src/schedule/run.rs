//! The rounds.

use super::saved::{Progress, Saved, SavedPrompt};
use super::{Answer, Ask, Machine, Reply, Scheduled};
use crate::capability::{Error, PrefixReward, Reward, Sample, Score};
use crate::completion::{Candidate, End, Prefix, Prompt, TokenId};
use crate::ledger::Ledger;
use crate::stream::{Chance, Stream};

/// Who answers.
#[expect(missing_debug_implementations, reason = "policies and rewards have nothing to show")]
pub struct Services<'a> {
    /// Gives continuations, and the next-token law where the policy has one to give.
    pub sampler: &'a mut dyn Sample,
    /// Gives continuations by a second policy.
    pub rollout: Option<&'a mut dyn Sample>,
    /// Gives log-probabilities.
    pub scorer: Option<&'a dyn Score>,
    /// Gives rewards.
    pub reward: Option<&'a mut dyn Reward>,
    /// Gives values of prefixes.
    pub value: Option<&'a mut dyn PrefixReward>,
    /// The most prompts that run together. A search keeps prefixes of all of them alive; more than the caches hold are
    /// run again and again. Answers do not depend on it.
    pub at_once: usize,
}

impl<'a> Services<'a> {
    /// A sampler and nothing else.
    pub fn new(sampler: &'a mut dyn Sample) -> Self {
        Self { sampler, rollout: None, scorer: None, reward: None, value: None, at_once: usize::MAX }
    }

    /// Adds log-probabilities.
    #[must_use]
    pub fn with_scorer(mut self, scorer: &'a dyn Score) -> Self {
        self.scorer = Some(scorer);
        self
    }

    /// Adds a reward, where there is one.
    #[must_use]
    pub fn with_reward(mut self, reward: Option<&'a mut dyn Reward>) -> Self {
        self.reward = reward;
        self
    }

    /// Adds a value of prefixes, where there is one.
    #[must_use]
    pub fn with_value(mut self, value: Option<&'a mut dyn PrefixReward>) -> Self {
        self.value = value;
        self
    }

    /// Adds a second policy, where there is one.
    #[must_use]
    pub fn with_rollout(mut self, rollout: Option<&'a mut dyn Sample>) -> Self {
        self.rollout = rollout;
        self
    }

    /// Sets the most prompts that run together, at least one.
    #[must_use]
    pub fn at_once(mut self, prompts: usize) -> Self {
        self.at_once = prompts.max(1);
        self
    }

    /// What all of them have cost.
    fn ledger(&self) -> Ledger {
        let mut total = *self.sampler.ledger();
        if let Some(rollout) = &self.rollout {
            total += *rollout.ledger();
        }
        if let Some(reward) = &self.reward {
            total += *reward.ledger();
        }
        if let Some(value) = &self.value {
            total += *value.ledger();
        }
        total
    }
}

/// Where a prompt is in a run.
pub(super) enum Place {
    Coming,
    Running { machine: Box<dyn Machine>, turn: Turn },
    Done(Answer),
}

/// What a machine gets, or waits for.
pub(super) enum Turn {
    Reply(Reply),
    Ask(Ask),
    /// Its ask is being served.
    Served,
}

/// The asks of one kind of a round, and whose they are.
struct Batch<T> {
    asks: Vec<T>,
    of: Vec<(usize, usize)>,
}

impl<T> Batch<T> {
    fn new() -> Self {
        Self { asks: Vec::new(), of: Vec::new() }
    }

    fn push(&mut self, place: usize, asks: impl ExactSizeIterator<Item = T>) {
        self.of.push((place, asks.len()));
        self.asks.extend(asks);
    }

    /// Gets the answers to all asks at once and deals them to the machines; nothing is called where nothing was asked.
    fn serve<R>(
        self,
        places: &mut [Place],
        wrap: fn(Vec<R>) -> Reply,
        answer: impl FnOnce(Vec<T>) -> Result<Vec<R>, Error>,
    ) -> Result<(), Error> {
        if self.of.is_empty() {
            return Ok(());
        }
        let mut given = answer(self.asks)?.into_iter();
        for (place, count) in self.of {
            if let Place::Running { turn, .. } = &mut places[place] {
                *turn = Turn::Reply(wrap(given.by_ref().take(count).collect()));
            }
        }
        Ok(())
    }
}

/// Runs `method` on every prompt; the asks of all machines of a round share batches. `streams` holds one stream a prompt.
///
/// `watch` is called after each round with the number of prompts that are done; returning `false` stops the run, and
/// `None` is returned for it.
pub fn run(
    method: &dyn Scheduled,
    prompts: &[Prompt],
    streams: &[Stream],
    services: &mut Services<'_>,
    chance: &mut Chance<'_>,
    watch: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<Answer>>, Error> {
    resume(method, prompts, streams, services, chance, None, &mut |progress| Ok(watch(progress.done())))
}

/// Like [`run`], from a saved run of the same method and prompts where there is one. `watch` may save the run. A sampler that
/// stops within a round ([`Error::Stopped`]) stops the run as `watch` does.
pub fn resume(
    method: &dyn Scheduled,
    prompts: &[Prompt],
    streams: &[Stream],
    services: &mut Services<'_>,
    chance: &mut Chance<'_>,
    saved: Option<Saved>,
    watch: &mut dyn FnMut(&Progress<'_>) -> Result<bool, Error>,
) -> Result<Option<Vec<Answer>>, Error> {
    let (mut places, spent) = open(method, prompts, saved)?;
    // What the services cost before does not belong to this run.
    let before = services.ledger();
    loop {
        let running = places.iter().filter(|place| matches!(place, Place::Running { .. })).count();
        let mut free = services.at_once.max(1).saturating_sub(running);
        for (index, place) in places.iter_mut().enumerate() {
            if free > 0 && matches!(place, Place::Coming) {
                let machine = method.start(&prompts[index], streams[index]);
                *place = Place::Running { machine, turn: Turn::Reply(Reply::Start) };
                free -= 1;
            }
        }
        for place in &mut places {
            let Place::Running { machine, turn } = place else { continue };
            match std::mem::replace(turn, Turn::Served) {
                Turn::Reply(reply) => match machine.advance(reply, chance)? {
                    Ask::Done(answer) => *place = Place::Done(answer),
                    ask => *turn = Turn::Ask(ask),
                },
                waiting => *turn = waiting,
            }
        }
        let progress = Progress { places: &places, ledger: spent + (services.ledger() - before) };
        let done = progress.done();
        if !watch(&progress)? {
            return Ok(None);
        }
        if done == prompts.len() {
            let answers = places.into_iter().filter_map(|place| match place {
                Place::Done(answer) => Some(answer),
                _ => None,
            });
            return Ok(Some(answers.collect()));
        }
        match serve(prompts, &mut places, services, chance) {
            Err(Error::Stopped) => return Ok(None),
            served => served?,
        }
    }
}

/// The places of a run, and what it has cost.
fn open(
    method: &dyn Scheduled,
    prompts: &[Prompt],
    saved: Option<Saved>,
) -> Result<(Vec<Place>, Ledger), Error> {
    let Some(saved) = saved else {
        return Ok((prompts.iter().map(|_| Place::Coming).collect(), Ledger::default()));
    };
    if saved.prompts.len() != prompts.len() {
        let message = format!("the saved run has {} prompts, not {}", saved.prompts.len(), prompts.len());
        return Err(Error::Method { method: "schedule", message });
    }
    let one = |(prompt, saved): (&Prompt, SavedPrompt)| {
        Ok(match saved {
            SavedPrompt::Fresh => Place::Coming,
            SavedPrompt::Waiting { machine, ask } => {
                Place::Running { machine: method.restore(prompt, machine)?, turn: Turn::Ask(ask) }
            }
            SavedPrompt::Done(answer) => Place::Done(answer),
        })
    };
    let places = prompts.iter().zip(saved.prompts).map(one).collect::<Result<_, Error>>()?;
    Ok((places, saved.ledger))
}

/// Answers all asks of a round, those of a kind together.
fn serve(
    prompts: &[Prompt],
    places: &mut [Place],
    services: &mut Services<'_>,
    chance: &mut Chance<'_>,
) -> Result<(), Error> {
    let (mut sample, mut rollout, mut next) = (Batch::new(), Batch::new(), Batch::new());
    let (mut score, mut reward, mut value) = (Batch::new(), Batch::new(), Batch::new());
    for (index, place) in places.iter_mut().enumerate() {
        let Place::Running { turn, .. } = place else { continue };
        match std::mem::replace(turn, Turn::Served) {
            Turn::Ask(Ask::Sample(asks)) => sample.push(index, asks.into_iter()),
            Turn::Ask(Ask::Rollout(asks)) => rollout.push(index, asks.into_iter()),
            Turn::Ask(Ask::Next(asks)) => next.push(index, asks.into_iter()),
            Turn::Ask(Ask::Score(asks)) => score.push(index, asks.into_iter()),
            Turn::Ask(Ask::Reward(asks)) => {
                reward.push(index, asks.into_iter().map(|(ids, end)| (index, ids, end)));
            }
            Turn::Ask(Ask::Value(asks)) => value.push(index, asks.into_iter().map(|ids| (index, ids))),
            other => *turn = other,
        }
    }
    let sampler = &mut *services.sampler;
    sample.serve(places, Reply::Samples, |asks| sampler.sample(asks, chance))?;
    next.serve(places, Reply::Next, |asks| sampler.next(asks))?;
    rollout.serve(places, Reply::Samples, |asks| {
        let rollout = services.rollout.as_deref_mut().ok_or_else(|| missing("a policy for rollouts"))?;
        rollout.sample(asks, chance)
    })?;
    score.serve(places, Reply::Scores, |asks: Vec<(Vec<TokenId>, Vec<TokenId>)>| {
        let scorer = services.scorer.ok_or_else(|| missing("log-probabilities"))?;
        let items: Vec<(&[TokenId], &[TokenId])> =
            asks.iter().map(|(prefix, continuation)| (&prefix[..], &continuation[..])).collect();
        scorer.score(&items)
    })?;
    reward.serve(places, Reply::Rewards, |asks: Vec<(usize, Vec<TokenId>, End)>| {
        let service = services.reward.as_deref_mut().ok_or_else(|| missing("a reward"))?;
        let candidates: Vec<Candidate<'_>> = asks
            .iter()
            .map(|(index, ids, end)| Candidate { prompt: &prompts[*index], ids, end: *end })
            .collect();
        let given = service.rewards(&candidates)?;
        finite(service.name(), given, |place| candidates[place].prompt.index)
    })?;
    value.serve(places, Reply::Values, |asks: Vec<(usize, Vec<TokenId>)>| {
        let service = services.value.as_deref_mut().ok_or_else(|| missing("a value of prefixes"))?;
        let prefixes: Vec<Prefix<'_>> =
            asks.iter().map(|(index, ids)| Prefix { prompt: &prompts[*index], ids }).collect();
        let given = service.prefix_rewards(&prefixes)?;
        finite(service.name(), given, |place| prefixes[place].prompt.index)
    })
}

fn missing(what: &str) -> Error {
    Error::Method { method: "schedule", message: format!("the method needs {what}, and none was given") }
}

/// Scores, refused where one is not a number: ranks and votes would silently depend on it.
fn finite(name: &str, scores: Vec<f64>, prompt: impl Fn(usize) -> usize) -> Result<Vec<f64>, Error> {
    match scores.iter().position(|score| score.is_nan()) {
        Some(place) => Err(Error::Reward {
            name: name.into(),
            message: format!("not a number for prompt {}", prompt(place)),
        }),
        None => Ok(scores),
    }
}
