//! Serves methods that ask for text, scores or rewards, many prompts and chains in lock step.

use serde::{Deserialize, Serialize};

use crate::capability::{Error, NextAsk, NextToken, PrefixReward, Reward, Sample, SampleAsk, Score};
use crate::completion::{Candidate, Completion, End, Prefix, Prompt, TokenId};
use crate::stream::{Chance, Stream};

/// What a method asks for next.
#[derive(Debug)]
pub enum Ask {
    /// Continuations; each ask brings its own random stream.
    Sample(Vec<SampleAsk>),
    /// Continuations by the second policy, for lookahead.
    Rollout(Vec<SampleAsk>),
    /// Candidates for the next token.
    Next(Vec<NextAsk>),
    /// Raw log-probabilities of `(prefix, continuation)`.
    Score(Vec<(Vec<TokenId>, Vec<TokenId>)>),
    /// Rewards of whole completions of the machine's prompt.
    Reward(Vec<(Vec<TokenId>, End)>),
    /// Values of completions of the machine's prompt, whole or not, as they stand.
    Value(Vec<Vec<TokenId>>),
    /// The method is done.
    Done(Answer),
}

/// What a method gets for its ask, in the order of the ask.
#[derive(Debug)]
pub enum Reply {
    /// There was no ask before.
    Start,
    /// To [`Ask::Sample`] and [`Ask::Rollout`].
    Samples(Vec<Completion>),
    /// To [`Ask::Next`].
    Next(Vec<Vec<NextToken>>),
    /// To [`Ask::Score`].
    Scores(Vec<Vec<f32>>),
    /// To [`Ask::Reward`].
    Rewards(Vec<f64>),
    /// To [`Ask::Value`].
    Values(Vec<f64>),
}

/// What a method gives for a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The completion's tokens.
    pub ids: Vec<TokenId>,
    /// Why it ended.
    pub end: End,
    /// Estimate of the divergence of the method's law to the base, in nats, where the method knows one.
    pub kl: Option<f64>,
    /// What the method wants to report: acceptance, votes, diagnostics.
    pub trace: serde_json::Value,
}

/// One prompt's run of a method.
pub trait Machine {
    /// Takes the reply to the last ask and says what is needed next.
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask, Error>;
}

/// A method whose chance and cost go through asks: it starts a [`Machine`] for each prompt.
pub trait TextMethod {
    /// Starts on `prompt`; all chance of the run comes from `stream`.
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine>;
}

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

    fn push(&mut self, machine: usize, asks: impl ExactSizeIterator<Item = T>) {
        self.of.push((machine, asks.len()));
        self.asks.extend(asks);
    }

    /// Gets the answers to all asks at once and deals them to the machines; nothing is called where nothing was asked.
    fn serve<R>(
        self,
        replies: &mut [Option<Reply>],
        wrap: fn(Vec<R>) -> Reply,
        answer: impl FnOnce(Vec<T>) -> Result<Vec<R>, Error>,
    ) -> Result<(), Error> {
        if self.of.is_empty() {
            return Ok(());
        }
        let mut given = answer(self.asks)?.into_iter();
        for (machine, count) in self.of {
            replies[machine] = Some(wrap(given.by_ref().take(count).collect()));
        }
        Ok(())
    }
}

/// Runs `method` on every prompt; the asks of all machines of a round share batches. `streams` holds one stream a prompt.
///
/// `watch` is called after each round with the number of prompts that are done; returning `false` stops the run, and
/// `None` is returned for it.
pub fn run(
    method: &dyn TextMethod,
    prompts: &[Prompt],
    streams: &[Stream],
    services: &mut Services<'_>,
    chance: &mut Chance<'_>,
    watch: &mut dyn FnMut(usize) -> bool,
) -> Result<Option<Vec<Answer>>, Error> {
    let mut coming = prompts.iter().zip(streams).enumerate();
    let mut machines: Vec<Option<Box<dyn Machine>>> = prompts.iter().map(|_| None).collect();
    let mut answers: Vec<Option<Answer>> = prompts.iter().map(|_| None).collect();
    let mut replies: Vec<Option<Reply>> = prompts.iter().map(|_| None).collect();
    loop {
        let running = machines.iter().flatten().count();
        for (index, (prompt, stream)) in coming.by_ref().take(services.at_once.max(1) - running) {
            machines[index] = Some(method.start(prompt, *stream));
            replies[index] = Some(Reply::Start);
        }
        let (mut sample, mut rollout, mut next) = (Batch::new(), Batch::new(), Batch::new());
        let (mut score, mut reward, mut value) = (Batch::new(), Batch::new(), Batch::new());
        for (index, place) in machines.iter_mut().enumerate() {
            let (Some(machine), Some(reply)) = (place.as_mut(), replies[index].take()) else { continue };
            match machine.advance(reply, chance)? {
                Ask::Sample(asks) => sample.push(index, asks.into_iter()),
                Ask::Rollout(asks) => rollout.push(index, asks.into_iter()),
                Ask::Next(asks) => next.push(index, asks.into_iter()),
                Ask::Score(asks) => score.push(index, asks.into_iter()),
                Ask::Reward(asks) => {
                    reward.push(index, asks.into_iter().map(|(ids, end)| (index, ids, end)));
                }
                Ask::Value(asks) => value.push(index, asks.into_iter().map(|ids| (index, ids))),
                Ask::Done(answer) => {
                    answers[index] = Some(answer);
                    *place = None;
                }
            }
        }
        let done = answers.iter().flatten().count();
        if !watch(done) {
            return Ok(None);
        }
        if done == prompts.len() {
            return Ok(Some(answers.into_iter().flatten().collect()));
        }
        let (sampler, replies) = (&mut *services.sampler, &mut replies[..]);
        sample.serve(replies, Reply::Samples, |asks| sampler.sample(asks, chance))?;
        next.serve(replies, Reply::Next, |asks| sampler.next(asks))?;
        rollout.serve(replies, Reply::Samples, |asks| {
            let rollout = services.rollout.as_deref_mut().ok_or_else(|| missing("a policy for rollouts"))?;
            rollout.sample(asks, chance)
        })?;
        score.serve(replies, Reply::Scores, |asks: Vec<(Vec<TokenId>, Vec<TokenId>)>| {
            let scorer = services.scorer.ok_or_else(|| missing("log-probabilities"))?;
            let items: Vec<(&[TokenId], &[TokenId])> =
                asks.iter().map(|(prefix, continuation)| (&prefix[..], &continuation[..])).collect();
            scorer.score(&items)
        })?;
        reward.serve(replies, Reply::Rewards, |asks: Vec<(usize, Vec<TokenId>, End)>| {
            let service = services.reward.as_deref_mut().ok_or_else(|| missing("a reward"))?;
            let candidates: Vec<Candidate<'_>> = asks
                .iter()
                .map(|(index, ids, end)| Candidate { prompt: &prompts[*index], ids, end: *end })
                .collect();
            let given = service.rewards(&candidates)?;
            finite(service.name(), given, |place| candidates[place].prompt.index)
        })?;
        value.serve(replies, Reply::Values, |asks: Vec<(usize, Vec<TokenId>)>| {
            let service = services.value.as_deref_mut().ok_or_else(|| missing("a value of prefixes"))?;
            let prefixes: Vec<Prefix<'_>> =
                asks.iter().map(|(index, ids)| Prefix { prompt: &prompts[*index], ids }).collect();
            let given = service.prefix_rewards(&prefixes)?;
            finite(service.name(), given, |place| prefixes[place].prompt.index)
        })?;
    }
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
