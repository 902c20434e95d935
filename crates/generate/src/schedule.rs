//! Serves methods that ask for text, scores or rewards, many prompts and chains in lock step.

use serde::{Deserialize, Serialize};

use crate::capability::{Error, Reward, Sample, SampleAsk, Score};
use crate::completion::{Candidate, Completion, End, Prompt, TokenId};
use crate::stream::{Chance, Stream};

/// What a method asks for next.
#[derive(Debug)]
pub enum Ask {
    /// Continuations; each ask brings its own random stream.
    Sample(Vec<SampleAsk>),
    /// Raw log-probabilities of `(prefix, continuation)`.
    Score(Vec<(Vec<TokenId>, Vec<TokenId>)>),
    /// Rewards of whole completions of the machine's prompt.
    Reward(Vec<(Vec<TokenId>, End)>),
    /// The method is done.
    Done(Answer),
}

/// What a method gets for its ask, in the order of the ask.
#[derive(Debug)]
pub enum Reply {
    /// There was no ask before.
    Start,
    /// To [`Ask::Sample`].
    Samples(Vec<Completion>),
    /// To [`Ask::Score`].
    Scores(Vec<Vec<f32>>),
    /// To [`Ask::Reward`].
    Rewards(Vec<f64>),
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

/// A method that needs no logits: it starts a [`Machine`] for each prompt.
pub trait TextMethod {
    /// Starts on `prompt`; all chance of the run comes from `stream`.
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine>;
}

/// Who answers.
#[expect(missing_debug_implementations, reason = "policies and rewards have nothing to show")]
pub struct Services<'a> {
    /// Gives continuations.
    pub sampler: &'a mut dyn Sample,
    /// Gives log-probabilities.
    pub scorer: Option<&'a dyn Score>,
    /// Gives rewards.
    pub reward: Option<&'a mut dyn Reward>,
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
    let mut machines: Vec<Box<dyn Machine>> =
        prompts.iter().zip(streams).map(|(prompt, stream)| method.start(prompt, *stream)).collect();
    let mut answers: Vec<Option<Answer>> = prompts.iter().map(|_| None).collect();
    let mut replies: Vec<Option<Reply>> = prompts.iter().map(|_| Some(Reply::Start)).collect();
    loop {
        let mut sample = Vec::new();
        let mut sample_of = Vec::new();
        let mut score = Vec::new();
        let mut score_of = Vec::new();
        let mut reward = Vec::new();
        let mut reward_of = Vec::new();
        for (index, machine) in machines.iter_mut().enumerate() {
            let Some(reply) = replies[index].take() else { continue };
            match machine.advance(reply, chance)? {
                Ask::Sample(asks) => {
                    sample_of.push((index, asks.len()));
                    sample.extend(asks);
                }
                Ask::Score(asks) => {
                    score_of.push((index, asks.len()));
                    score.extend(asks);
                }
                Ask::Reward(asks) => {
                    reward_of.push((index, asks.len()));
                    reward.extend(asks.into_iter().map(|(ids, end)| (index, ids, end)));
                }
                Ask::Done(answer) => answers[index] = Some(answer),
            }
        }
        if !watch(answers.iter().flatten().count()) {
            return Ok(None);
        }
        if sample_of.is_empty() && score_of.is_empty() && reward_of.is_empty() {
            return Ok(Some(answers.into_iter().flatten().collect()));
        }
        if !sample_of.is_empty() {
            let mut given = services.sampler.sample(sample, chance)?.into_iter();
            for (index, count) in sample_of {
                replies[index] = Some(Reply::Samples(given.by_ref().take(count).collect()));
            }
        }
        if !score_of.is_empty() {
            let scorer = services.scorer.ok_or_else(|| missing("log-probabilities"))?;
            let items: Vec<(&[TokenId], &[TokenId])> =
                score.iter().map(|(prefix, continuation)| (&prefix[..], &continuation[..])).collect();
            let mut given = scorer.score(&items)?.into_iter();
            for (index, count) in score_of {
                replies[index] = Some(Reply::Scores(given.by_ref().take(count).collect()));
            }
        }
        if !reward_of.is_empty() {
            let candidates: Vec<Candidate<'_>> = reward
                .iter()
                .map(|(index, ids, end)| Candidate { prompt: &prompts[*index], ids, end: *end })
                .collect();
            let rewards = match services.reward.as_deref_mut() {
                Some(service) => finite(service, &candidates)?,
                None => return Err(missing("a reward")),
            };
            let mut given = rewards.into_iter();
            for (index, count) in reward_of {
                replies[index] = Some(Reply::Rewards(given.by_ref().take(count).collect()));
            }
        }
    }
}

fn missing(what: &str) -> Error {
    Error::Method { method: "schedule", message: format!("the method needs {what}, and none was given") }
}

/// The rewards, refused where one is not a number: ranks and votes would silently depend on it.
fn finite(reward: &mut dyn Reward, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
    let rewards = reward.rewards(candidates)?;
    match rewards.iter().position(|r| r.is_nan()) {
        Some(place) => Err(Error::Reward {
            name: reward.name().into(),
            message: format!("not a number for prompt {}", candidates[place].prompt.index),
        }),
        None => Ok(rewards),
    }
}
