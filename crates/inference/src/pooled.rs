//! The machine of methods that draw `n` independent completions and choose one by a [`PoolRule`].

use generate::schedule::{Answer, Ask, Machine, Reply};
use generate::{Chance, Completion, Error, Prompt, SampleAsk, Stream, TextMethod};
use serde::{Deserialize, Serialize};

use crate::method::Extract;
use crate::selection::{PoolRule, PoolView};

/// The asks for `n` independent completions of `prompt`. Sample `i` has the stream `stream.child(i)`, whatever `n`: a
/// pool that is drawn by these asks begins with the very samples that a method draws for a smaller `n`, and its first
/// is the completion of the method `sample`.
pub fn pool_asks(prompt: &Prompt, stream: Stream, n: usize, budget: usize) -> Vec<SampleAsk> {
    let ask = |row| SampleAsk {
        prefix: prompt.ids.clone(),
        prompt_len: prompt.ids.len(),
        budget,
        stream: stream.child(row),
    };
    (0..n as u64).map(ask).collect()
}

/// What a choice from a pool reports. Lists are aligned with the samples, in the order of drawing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolTrace {
    /// Index of the sample given as answer.
    pub picked: usize,
    /// Tokens of each sample.
    pub lengths: Vec<usize>,
    /// Rewards, where the rule looks at them.
    pub rewards: Vec<f64>,
    /// Final answers, where the rule looks at them.
    pub answers: Vec<String>,
    /// Total weight of each answer, in the order of first appearance.
    pub votes: Vec<(String, f64)>,
    /// Why there is no estimate of the divergence to the base.
    pub kl_reason: Option<String>,
}

/// Draws `n` completions and chooses by `rule`.
pub(crate) struct Pooled<R> {
    pub(crate) method: &'static str,
    pub(crate) n: usize,
    pub(crate) budget: usize,
    /// Whether the rule looks at rewards.
    pub(crate) reward: bool,
    /// Set where the rule looks at answers.
    pub(crate) extract: Option<Extract>,
    pub(crate) rule: R,
}

impl<R: PoolRule + Clone + 'static> TextMethod for Pooled<R> {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine> {
        let method = Self { extract: self.extract.clone(), rule: self.rule.clone(), ..*self };
        Box::new(Running { method, prompt: prompt.clone(), stream, pool: Vec::new() })
    }
}

struct Running<R> {
    method: Pooled<R>,
    prompt: Prompt,
    stream: Stream,
    pool: Vec<Completion>,
}

impl<R: PoolRule> Machine for Running<R> {
    fn advance(&mut self, reply: Reply, _: &mut Chance<'_>) -> Result<Ask, Error> {
        let n = self.method.n;
        match reply {
            Reply::Start => Ok(Ask::Sample(pool_asks(&self.prompt, self.stream, n, self.method.budget))),
            Reply::Samples(given) if given.len() == n && self.pool.is_empty() => {
                self.pool = given;
                if self.method.reward {
                    let ask = |completion: &Completion| (completion.ids.clone(), completion.end);
                    return Ok(Ask::Reward(self.pool.iter().map(ask).collect()));
                }
                self.done(Vec::new())
            }
            Reply::Rewards(rewards) if rewards.len() == n && self.pool.len() == n => self.done(rewards),
            other => Err(unexpected(self.method.method, "as many replies as asks", &other)),
        }
    }
}

impl<R: PoolRule> Running<R> {
    fn done(&mut self, rewards: Vec<f64>) -> Result<Ask, Error> {
        let answers: Vec<String> = match &self.method.extract {
            Some(extract) => self.pool.iter().map(|sample| extract(&self.prompt, &sample.ids)).collect(),
            None => Vec::new(),
        };
        let texts: Vec<&str> = answers.iter().map(String::as_str).collect();
        let view = PoolView { size: self.pool.len(), rewards: &rewards, answers: &texts };
        let refused = |error: objective::error::InputError| Error::Method {
            method: self.method.method,
            message: format!("prompt {}: {error}", self.prompt.index),
        };
        let pick = self.method.rule.pick(view).map_err(refused)?;
        let divergence = self.method.rule.kl(view, view.size).map_err(refused)?;
        let lengths = self.pool.iter().map(|sample| sample.ids.len()).collect();
        let chosen = self.pool.swap_remove(pick.index);
        // KL to the raw law = KL to the law drawn from + the mean of the log-ratio of the two under the rule's own law,
        // of which the chosen sample is a draw.
        let kl = divergence.map(|kl| kl + log_ratio(&chosen));
        let trace = PoolTrace {
            picked: pick.index,
            lengths,
            rewards,
            votes: pick.votes,
            answers,
            kl_reason: kl.is_none().then(|| "the rule chooses an answer, not a text".to_owned()),
        };
        let trace = serde_json::to_value(trace).map_err(|error| Error::Backend(Box::new(error)))?;
        Ok(Ask::Done(Answer { ids: chosen.ids, end: chosen.end, kl, trace }))
    }
}

/// `ln(drawn law / raw law)` of a completion, in nats; exactly zero where the two are one.
pub(crate) fn log_ratio(completion: &Completion) -> f64 {
    completion
        .log_probs
        .iter()
        .zip(&completion.raw_log_probs)
        .map(|(q, p)| f64::from(*q) - f64::from(*p))
        .sum()
}

/// A reply that does not answer the ask: the scheduler is at fault, not the user.
pub(crate) fn unexpected(method: &'static str, expected: &str, reply: &Reply) -> Error {
    let got = match reply {
        Reply::Start => "a second start".to_owned(),
        Reply::Samples(given) => format!("{} completions", given.len()),
        Reply::Scores(given) => format!("{} scores", given.len()),
        Reply::Rewards(given) => format!("{} rewards", given.len()),
    };
    Error::Method { method, message: format!("expected {expected}, got {got}") }
}
