//! The machine of methods that draw `n` independent completions and choose one by a [`PoolRule`].

use generate::schedule::{Answer, Ask, Machine, NoNext, Reply};
use generate::{Chance, Completion, Error, Prompt, SampleAsk, Scheduled, Stream, TextMethod, TokenId};
use serde::{Deserialize, Serialize};

use crate::candidate::Candidate;
use crate::error::{Error as MethodError, Problem};
use crate::method::{Embed, Extract, Info, Method, Need, Tools, check};
use crate::selection::{PoolRule, PoolView, Similarities, SimilarityTable};

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
    /// Probability that the rule gave each sample; one of them is 1 where it left nothing to chance.
    pub probabilities: Vec<f64>,
    /// Total weight of each answer, in the order of first appearance.
    pub votes: Vec<(String, f64)>,
    /// Why there is no estimate of the divergence to the base.
    pub kl_reason: Option<String>,
    /// The samples, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}

/// A method that draws `n` independent completions and chooses one by its rule: what is its own.
pub trait PoolMethod: PoolRule + Clone + 'static {
    /// Its listing.
    const LISTING: &'static Info;

    /// Completions drawn of each prompt.
    fn draws(&self) -> usize;

    /// What is wrong with its settings besides a number of completions below 1.
    fn refused(&self) -> Vec<Problem> {
        Vec::new()
    }
}

impl<M: PoolMethod> Method for M {
    fn info(&self) -> &'static Info {
        M::LISTING
    }

    fn problems(&self) -> Vec<Problem> {
        let none = Problem::too_few("n", self.draws(), 1, "draw at least one completion");
        none.into_iter().chain(self.refused()).collect()
    }

    fn samples(&self) -> usize {
        self.draws()
    }

    fn needs(&self) -> Vec<Need> {
        let alike = self.similarity().and_then(SimilarityTable::need);
        M::LISTING.needs.iter().copied().chain(alike).collect()
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, MethodError> {
        check(self, tools)?;
        let needs = self.needs();
        let given = |need| needs.contains(&need);
        Ok(Box::new(Pooled {
            method: M::LISTING.name,
            n: self.draws(),
            budget: tools.max_new_tokens,
            reward: given(Need::Reward),
            extract: tools.extract.clone().filter(|_| given(Need::AnswerExtractor)),
            embed: tools.embed.clone().filter(|_| given(Need::Embedding)),
            candidates: tools.candidates,
            rule: self.clone(),
        }))
    }

    fn rule(&self) -> Option<&dyn PoolRule> {
        Some(self)
    }
}

/// Draws `n` completions and chooses by `rule`.
struct Pooled<R> {
    method: &'static str,
    n: usize,
    budget: usize,
    /// Whether the rule looks at rewards.
    reward: bool,
    /// Set where the rule looks at answers.
    extract: Option<Extract>,
    /// Set where the rule looks at embeddings.
    embed: Option<Embed>,
    /// Whether the trace is to hold the samples.
    candidates: bool,
    rule: R,
}

impl<R: PoolRule + Clone + 'static> TextMethod for Pooled<R> {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine<NoNext>> {
        let method = Self {
            extract: self.extract.clone(),
            embed: self.embed.clone(),
            rule: self.rule.clone(),
            ..*self
        };
        Box::new(Running { method, prompt: prompt.clone(), stream, pool: Vec::new() })
    }
}

struct Running<R> {
    method: Pooled<R>,
    prompt: Prompt,
    stream: Stream,
    pool: Vec<Completion>,
}

impl<R: PoolRule> Machine<NoNext> for Running<R> {
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask<NoNext>, Error> {
        let n = self.method.n;
        match reply {
            Reply::Start => Ok(Ask::Sample(pool_asks(&self.prompt, self.stream, n, self.method.budget))),
            Reply::Samples(given) if given.len() == n && self.pool.is_empty() => {
                self.pool = given;
                if self.method.reward {
                    let ask = |completion: &Completion| (completion.ids.clone(), completion.end);
                    return Ok(Ask::Reward(self.pool.iter().map(ask).collect()));
                }
                self.done(Vec::new(), chance)
            }
            Reply::Rewards(rewards) if rewards.len() == n && self.pool.len() == n => {
                self.done(rewards, chance)
            }
            other => Err(unexpected(self.method.method, "as many replies as asks", &other)),
        }
    }

    fn running(&self) -> Option<Vec<TokenId>> {
        self.pool.first().map(|first| first.ids.clone())
    }
}

impl<R: PoolRule> Running<R> {
    fn done(&mut self, rewards: Vec<f64>, chance: &mut Chance<'_>) -> Result<Ask<NoNext>, Error> {
        let answers: Vec<String> = match &self.method.extract {
            Some(extract) => self.pool.iter().map(|sample| extract(&self.prompt, &sample.ids)).collect(),
            None => Vec::new(),
        };
        let mut view = PoolView {
            size: self.pool.len(),
            rewards,
            answers: answers.iter().map(String::as_str).collect(),
            log_probs: self.pool.iter().map(raw_log_prob).collect(),
            tokens: self.pool.iter().map(|sample| sample.ids.as_slice()).collect(),
            similarities: None,
        };
        view.similarities = self.similarities(&view)?;
        let law = self.method.rule.law(&view).map_err(|error| self.refused(&error))?;
        let divergence = self.method.rule.kl(&view, view.size).map_err(|error| self.refused(&error))?;
        // Samples have the stream's children; the choice among them has the stream itself.
        let picked = law.draw(chance.of(&mut self.stream.clone()));
        let rewards = view.rewards;
        let candidates =
            if self.method.candidates { self.candidates(&rewards, &answers) } else { Vec::new() };
        let lengths = self.pool.iter().map(|sample| sample.ids.len()).collect();
        let chosen = self.pool.swap_remove(picked);
        // KL to the raw law = KL to the law drawn from + the mean of the log-ratio of the two under the rule's own law,
        // of which the chosen sample is a draw.
        let kl = divergence.value().map(|kl| kl + log_ratio(&chosen));
        let trace = PoolTrace {
            picked,
            lengths,
            rewards,
            answers,
            probabilities: law.probabilities,
            votes: law.votes,
            kl_reason: divergence.reason().map(str::to_owned),
            candidates,
        };
        let trace = serde_json::to_value(trace).map_err(|error| Error::Backend(Box::new(error)))?;
        Ok(Ask::Done(Answer { ids: chosen.ids, end: chosen.end, kl, trace }))
    }

    fn candidates(&self, rewards: &[f64], answers: &[String]) -> Vec<Candidate> {
        let one = |(place, sample): (usize, &Completion)| Candidate {
            ids: sample.ids.clone(),
            reward: rewards.get(place).copied(),
            answer: answers.get(place).filter(|answer| !answer.is_empty()).cloned(),
            weight: 1.0,
        };
        self.pool.iter().enumerate().map(one).collect()
    }

    /// The similarities that the rule looks at; `None` for rules that look at none.
    fn similarities(&self, view: &PoolView<'_>) -> Result<Option<Similarities>, Error> {
        let Some(table) = self.method.rule.similarity() else { return Ok(None) };
        let embeddings = match &self.method.embed {
            Some(embed) => embed(&self.prompt, &view.tokens)?,
            None => Vec::new(),
        };
        let all = table.of(&view.tokens, &view.answers, &embeddings);
        all.map(Some).map_err(|error| self.refused(&error))
    }

    fn refused(&self, error: &objective::error::InputError) -> Error {
        Error::Method {
            method: self.method.method,
            message: format!("prompt {}: {error}", self.prompt.index),
        }
    }
}

/// The log-probability of a completion under the raw law, in nats.
fn raw_log_prob(completion: &Completion) -> f64 {
    completion.raw_log_probs.iter().map(|log| f64::from(*log)).sum()
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
        Reply::Next(given) => format!("{} next-token laws", given.len()),
        Reply::Scores(given) => format!("{} scores", given.len()),
        Reply::Values(given) => format!("{} values", given.len()),
        Reply::Rewards(given) => format!("{} rewards", given.len()),
    };
    Error::Method { method, message: format!("expected {expected}, got {got}") }
}
