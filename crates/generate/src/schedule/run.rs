//! The rounds.

use std::time::Instant;

use super::saved::{Progress, Saved, SavedPrompt};
use super::{Answer, Ask, Machine, Reply, Scheduled};
use crate::capability::{Error, PrefixReward, Reward, Sample, SampleAsk, Score};
use crate::completion::{Candidate, Completion, End, Prefix, Prompt, TokenId};
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
    /// What log-probabilities have cost: their giver counts nothing itself.
    pub scored: Ledger,
    /// The most prompts that run together. A search keeps prefixes of all of them alive; more than the caches hold are
    /// run again and again. Answers do not depend on it.
    pub at_once: usize,
}

impl<'a> Services<'a> {
    /// A sampler and nothing else.
    pub fn new(sampler: &'a mut dyn Sample) -> Self {
        let (scored, at_once) = (Ledger::default(), usize::MAX);
        Self { sampler, rollout: None, scorer: None, reward: None, value: None, scored, at_once }
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
        let mut total = *self.sampler.ledger() + self.scored;
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
    /// Its samples are being drawn; those that have ended are here.
    Drawn {
        asks: Vec<SampleAsk>,
        given: Vec<Option<Completion>>,
    },
}

/// Where the answer to an ask for a sample belongs: the prompt, and the place in its ask.
type Ticket = (usize, usize);

/// The asks of one kind of all machines, and whose they are.
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

/// Runs `method` on every prompt. Samples are drawn for all machines together, and each machine goes on as soon as its own
/// are there; what else is asked for is answered for several machines at once. `streams` holds one stream a prompt.
///
/// `watch` is called between the machines' turns with the number of prompts that are done; returning `false` stops the run,
/// and `None` is returned for it.
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
/// stops within a pass ([`Error::Stopped`]) stops the run as `watch` does.
pub fn resume(
    method: &dyn Scheduled,
    prompts: &[Prompt],
    streams: &[Stream],
    services: &mut Services<'_>,
    chance: &mut Chance<'_>,
    saved: Option<Saved>,
    watch: &mut dyn FnMut(&Progress<'_>) -> Result<bool, Error>,
) -> Result<Option<Vec<Answer>>, Error> {
    let (places, spent) = open(method, prompts, saved)?;
    // What the services cost before does not belong to this run.
    let before = services.ledger();
    let others = Others {
        rollout: services.rollout.as_deref_mut(),
        scorer: services.scorer,
        reward: services.reward.as_deref_mut(),
        value: services.value.as_deref_mut(),
        scored: services.scored,
    };
    let (at_once, sampler) = (services.at_once, &mut *services.sampler);
    let mut run = Running { method, prompts, streams, places, others, at_once, spent, before, watch };
    let finished = run.finish(sampler, chance);
    let (places, scored) = (run.places, run.others.scored);
    services.scored = scored;
    match finished {
        Err(Error::Stopped) => return Ok(None),
        done => done?,
    }
    let answers = places.into_iter().filter_map(|place| match place {
        Place::Done(answer) => Some(answer),
        _ => None,
    });
    Ok(Some(answers.collect()))
}

/// Who answers besides the sampler.
struct Others<'r, 'a> {
    rollout: Option<&'r mut (dyn Sample + 'a)>,
    scorer: Option<&'a dyn Score>,
    reward: Option<&'r mut (dyn Reward + 'a)>,
    value: Option<&'r mut (dyn PrefixReward + 'a)>,
    scored: Ledger,
}

impl Others<'_, '_> {
    fn ledger(&self) -> Ledger {
        let rollout = self.rollout.iter().map(|rollout| *rollout.ledger());
        let reward = self.reward.iter().map(|reward| *reward.ledger());
        let value = self.value.iter().map(|value| *value.ledger());
        rollout.chain(reward).chain(value).fold(self.scored, |total, ledger| total + ledger)
    }
}

/// A run under way.
struct Running<'r, 'a> {
    method: &'r dyn Scheduled,
    prompts: &'r [Prompt],
    streams: &'r [Stream],
    places: Vec<Place>,
    others: Others<'r, 'a>,
    at_once: usize,
    /// What the run had cost when it was saved.
    spent: Ledger,
    /// What the services had cost when it began.
    before: Ledger,
    watch: &'r mut dyn FnMut(&Progress<'_>) -> Result<bool, Error>,
}

impl Running<'_, '_> {
    fn finish(&mut self, sampler: &mut dyn Sample, chance: &mut Chance<'_>) -> Result<(), Error> {
        loop {
            let ledger = *sampler.ledger();
            self.turns(&ledger, chance)?;
            if self.places.iter().all(|place| matches!(place, Place::Done(_))) {
                return Ok(());
            }
            let mut tickets = Vec::new();
            let asks = self.samples(&mut tickets);
            if asks.is_empty() {
                self.next(sampler)?;
                continue;
            }
            sampler.flow(asks, chance, &mut |ended, ledger, chance| {
                let idle = ended.is_empty();
                for (number, completion) in ended {
                    self.take(tickets[number], completion);
                }
                if self.is_time(idle) {
                    self.turns(ledger, chance)?;
                }
                Ok(self.samples(&mut tickets))
            })?;
        }
    }

    /// Keeps a completion until the others of its ask are there.
    fn take(&mut self, (prompt, place): Ticket, completion: Completion) {
        let Place::Running { turn, .. } = &mut self.places[prompt] else { return };
        let Turn::Drawn { given, .. } = turn else { return };
        given[place] = Some(completion);
        if given.iter().all(Option::is_some) {
            let given = std::mem::take(given).into_iter().flatten().collect();
            *turn = Turn::Reply(Reply::Samples(given));
        }
    }

    /// Whether machines whose samples are there get their turn now: a fourth of those that run, so that rewards are asked for
    /// in batches and rows that have ended are not missed for long.
    fn is_time(&self, idle: bool) -> bool {
        let running = self.places.iter().filter(|place| matches!(place, Place::Running { .. })).count();
        let ready = |place: &&Place| matches!(place, Place::Running { turn: Turn::Reply(_), .. });
        let ready = self.places.iter().filter(ready).count();
        ready > 0 && (idle || 4 * ready >= running)
    }

    /// Gives every machine its turns until each waits for samples or next tokens, or is done.
    fn turns(&mut self, sampler: &Ledger, chance: &mut Chance<'_>) -> Result<(), Error> {
        loop {
            self.begin();
            for place in &mut self.places {
                let Place::Running { machine, turn } = place else { continue };
                if let Turn::Reply(reply) = turn {
                    // What stands there meanwhile is not looked at.
                    let reply = std::mem::replace(reply, Reply::Start);
                    match machine.advance(reply, chance)? {
                        Ask::Done(answer) => *place = Place::Done(answer),
                        ask => *turn = Turn::Ask(ask),
                    }
                }
            }
            let ledger = self.spent + (*sampler + self.others.ledger() - self.before);
            let progress = Progress { places: &self.places, ledger };
            if !(self.watch)(&progress)? {
                return Err(Error::Stopped);
            }
            let served = self.serve(chance)?;
            let waits = self.places.iter().any(|place| matches!(place, Place::Coming)) && self.free() > 0;
            if !served && !waits {
                return Ok(());
            }
        }
    }

    /// Machines that may still begin.
    fn free(&self) -> usize {
        let running = self.places.iter().filter(|place| matches!(place, Place::Running { .. })).count();
        self.at_once.max(1).saturating_sub(running)
    }

    fn begin(&mut self) {
        let mut free = self.free();
        for (index, place) in self.places.iter_mut().enumerate() {
            if free > 0 && matches!(place, Place::Coming) {
                let machine = self.method.start(&self.prompts[index], self.streams[index]);
                *place = Place::Running { machine, turn: Turn::Reply(Reply::Start) };
                free -= 1;
            }
        }
    }

    /// The samples that machines ask for and that are not being drawn yet, with a ticket for each.
    fn samples(&mut self, tickets: &mut Vec<Ticket>) -> Vec<SampleAsk> {
        let mut all = Vec::new();
        for (prompt, place) in self.places.iter_mut().enumerate() {
            let Place::Running { turn, .. } = place else { continue };
            let Turn::Ask(Ask::Sample(asks)) = turn else { continue };
            let asks = std::mem::take(asks);
            if asks.is_empty() {
                *turn = Turn::Reply(Reply::Samples(Vec::new()));
                continue;
            }
            tickets.extend((0..asks.len()).map(|place| (prompt, place)));
            all.extend(asks.iter().cloned());
            let given = asks.iter().map(|_| None).collect();
            *turn = Turn::Drawn { asks, given };
        }
        all
    }

    /// Answers the asks for next tokens.
    fn next(&mut self, sampler: &mut dyn Sample) -> Result<(), Error> {
        let mut next = Batch::new();
        for (index, place) in self.places.iter_mut().enumerate() {
            if let Place::Running { turn: Turn::Ask(Ask::Next(asks)), .. } = place {
                next.push(index, std::mem::take(asks).into_iter());
            }
        }
        next.serve(&mut self.places, Reply::Next, |asks| sampler.next(asks))
    }

    /// Answers the asks for anything but samples and next tokens, those of a kind together; whether there were any.
    fn serve(&mut self, chance: &mut Chance<'_>) -> Result<bool, Error> {
        let (mut rollout, mut score) = (Batch::new(), Batch::new());
        let (mut reward, mut value) = (Batch::new(), Batch::new());
        for (index, place) in self.places.iter_mut().enumerate() {
            let Place::Running { turn: Turn::Ask(ask), .. } = place else { continue };
            match ask {
                Ask::Rollout(asks) => rollout.push(index, std::mem::take(asks).into_iter()),
                Ask::Score(asks) => score.push(index, std::mem::take(asks).into_iter()),
                Ask::Reward(asks) => {
                    let asks = std::mem::take(asks).into_iter();
                    reward.push(index, asks.map(|(ids, end)| (index, ids, end)));
                }
                Ask::Value(asks) => {
                    value.push(index, std::mem::take(asks).into_iter().map(|ids| (index, ids)));
                }
                Ask::Sample(_) | Ask::Next(_) | Ask::Done(_) => {}
            }
        }
        let any = [&rollout.of, &score.of, &reward.of, &value.of].iter().any(|of| !of.is_empty());
        let (places, prompts, others) = (&mut self.places, self.prompts, &mut self.others);
        rollout.serve(places, Reply::Samples, |asks| {
            let rollout = others.rollout.as_deref_mut().ok_or_else(|| missing("a policy for rollouts"))?;
            rollout.sample(asks, chance)
        })?;
        score.serve(places, Reply::Scores, |asks: Vec<(Vec<TokenId>, Vec<TokenId>)>| {
            let scorer = others.scorer.ok_or_else(|| missing("log-probabilities"))?;
            let items: Vec<(&[TokenId], &[TokenId])> =
                asks.iter().map(|(prefix, continuation)| (&prefix[..], &continuation[..])).collect();
            let started = Instant::now();
            let given = scorer.score(&items);
            others.scored.seconds += started.elapsed().as_secs_f64();
            others.scored.forward_passes += 1;
            // Whole texts are run, as a prefix is.
            let tokens =
                |(prefix, continuation): &(&[TokenId], &[TokenId])| prefix.len() + continuation.len();
            others.scored.prefill_tokens += items.iter().map(tokens).sum::<usize>() as u64;
            given
        })?;
        reward.serve(places, Reply::Rewards, |asks: Vec<(usize, Vec<TokenId>, End)>| {
            let service = others.reward.as_deref_mut().ok_or_else(|| missing("a reward"))?;
            let candidates: Vec<Candidate<'_>> = asks
                .iter()
                .map(|(index, ids, end)| Candidate { prompt: &prompts[*index], ids, end: *end })
                .collect();
            let given = service.rewards(&candidates)?;
            finite(service.name(), given, |place| candidates[place].prompt.index)
        })?;
        value.serve(places, Reply::Values, |asks: Vec<(usize, Vec<TokenId>)>| {
            let service = others.value.as_deref_mut().ok_or_else(|| missing("a value of prefixes"))?;
            let prefixes: Vec<Prefix<'_>> =
                asks.iter().map(|(index, ids)| Prefix { prompt: &prompts[*index], ids }).collect();
            let given = service.prefix_rewards(&prefixes)?;
            finite(service.name(), given, |place| prefixes[place].prompt.index)
        })?;
        Ok(any)
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
