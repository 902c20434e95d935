//! Methods that choose every token among the policy's candidates.

use generate::schedule::{Answer, Ask, Machine, Reply};
use generate::{Chance, End, Error, NextAsk, NextToken, Prompt, Scheduled, Stream, TokenId};
use objective::numeric::log_softmax;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pooled::unexpected;

/// How a token is chosen by the scores of the candidates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Decode {
    /// The greatest score; of equals, the likelier token.
    #[default]
    Greedy,
    /// A draw from the softmax of the scores.
    Sample,
}

/// What a walk reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WalkTrace {
    /// Log-probability of the answer under the method's law, in nats.
    pub log_prob: f64,
    /// Its log-probability under the policy's raw law, in nats.
    pub raw_log_prob: f64,
    /// Candidates looked at.
    pub candidates: u64,
    /// Tokens drawn by the second policy.
    pub rollout_tokens: u64,
    /// Where chance besides the answer's tokens decides, such as that of continuations: the divergence given
    /// that chance, in
    /// nats. Its mean is an upper bound of the divergence of the answer, which averages over the chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_at_most: Option<f64>,
    /// Why there is no divergence of the answer to the base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kl_reason: Option<String>,
}

/// A completion that grows by one token a step.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    pub(crate) prompt: Prompt,
    pub(crate) ids: Vec<TokenId>,
    pub(crate) trace: WalkTrace,
    horizon: usize,
    stream: Stream,
    kl: f64,
    end: Option<End>,
}

impl Walk {
    /// Begins at the prompt; the first child of `stream` draws the tokens.
    pub(crate) fn new(prompt: &Prompt, stream: Stream, horizon: usize) -> Self {
        let trace = WalkTrace {
            log_prob: 0.0,
            raw_log_prob: 0.0,
            candidates: 0,
            rollout_tokens: 0,
            kl_at_most: None,
            kl_reason: None,
        };
        let (prompt, stream) = (prompt.clone(), stream.child(0));
        Self { prompt, ids: Vec::new(), trace, horizon, stream, kl: 0.0, end: None }
    }

    /// Asks for the `k` likeliest next tokens, for all where `k` is 0.
    pub(crate) fn ask(&self, k: usize) -> Ask {
        let prefix = [&self.prompt.ids[..], &self.ids].concat();
        Ask::Next(vec![NextAsk { prefix, prompt_len: self.prompt.ids.len(), k }])
    }

    /// The completion with `next` behind it, and why it ends there, if it does.
    pub(crate) fn with(&self, next: &NextToken) -> (Vec<TokenId>, Option<End>) {
        let budget = (self.ids.len() + 1 >= self.horizon).then_some(End::Budget);
        ([&self.ids[..], &[next.id]].concat(), next.end.or(budget))
    }

    /// New tokens that fit behind `len` of them.
    pub(crate) fn room(&self, len: usize) -> usize {
        self.horizon - len
    }

    /// The stream of lookahead number `number` of candidate `candidate` of this step.
    pub(crate) fn lookahead(&self, candidate: usize, number: usize) -> Stream {
        self.stream.child(self.ids.len() as u64 + 1).child(candidate as u64).child(number as u64)
    }

    /// Chooses among the candidates by their scores, of which differences count.
    pub(crate) fn choose(
        &mut self,
        candidates: &[NextToken],
        scores: &[f64],
        decode: Decode,
        chance: &mut Chance<'_>,
    ) {
        self.trace.candidates += candidates.len() as u64;
        let (place, log_probs) = match decode {
            Decode::Greedy => {
                let mut best = 0;
                for (place, score) in scores.iter().enumerate() {
                    if *score > scores[best] {
                        best = place;
                    }
                }
                let law = (0..scores.len()).map(|place| if place == best { 0.0 } else { f64::NEG_INFINITY });
                (best, law.collect())
            }
            Decode::Sample => {
                let log_probs = log_softmax(scores);
                (chance.of(&mut self.stream).pick(&log_probs), log_probs)
            }
        };
        for (candidate, log_prob) in candidates.iter().zip(&log_probs) {
            if *log_prob > f64::NEG_INFINITY {
                self.kl += log_prob.exp() * (log_prob - candidate.raw_log_prob);
            }
        }
        self.trace.log_prob += log_probs[place];
        self.trace.raw_log_prob += candidates[place].raw_log_prob;
        (self.ids, self.end) = self.with(&candidates[place]);
    }

    /// The answer so far.
    pub(crate) fn running(&self) -> Option<Vec<TokenId>> {
        (!self.ids.is_empty()).then(|| self.ids.clone())
    }

    /// The answer, once it has ended.
    pub(crate) fn answer(&self) -> Result<Option<Ask>, Error> {
        let Some(end) = self.end else { return Ok(None) };
        let known = self.trace.kl_reason.is_none();
        let trace = WalkTrace { kl_at_most: (!known).then_some(self.kl), ..self.trace.clone() };
        let trace = serde_json::to_value(&trace).map_err(|error| Error::Backend(Box::new(error)))?;
        let kl = known.then_some(self.kl);
        Ok(Some(Ask::Done(Answer { ids: self.ids.clone(), end, kl, trace })))
    }
}

/// The law of a walk guided by a value of prefixes: `(ln p(v|s) + weight · V(s, v)) / temperature` among the candidates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guided {
    method: &'static str,
    horizon: usize,
    k: usize,
    weight: f64,
    temperature: f64,
    decode: Decode,
}

/// A walk guided by a value; of weight 0 the value is not asked for.
pub(crate) fn guided(
    method: &'static str,
    horizon: usize,
    k: usize,
    weight: f64,
    (decode, temperature): (Decode, f64),
) -> Guided {
    Guided { method, horizon, k, weight, temperature, decode }
}

impl Scheduled for Guided {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine> {
        let walk = Walk::new(prompt, stream, self.horizon);
        Box::new(Running { law: *self, walk, candidates: Vec::new() })
    }
}

struct Running {
    law: Guided,
    walk: Walk,
    candidates: Vec<NextToken>,
}

impl Machine for Running {
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask, Error> {
        let values = match reply {
            Reply::Start => return Ok(self.walk.ask(self.law.k)),
            Reply::Next(mut given) if given.len() == 1 && !given[0].is_empty() => {
                self.candidates = given.remove(0);
                if self.law.weight != 0.0 {
                    let next = self.candidates.iter().map(|next| self.walk.with(next).0);
                    return Ok(Ask::Value(next.collect()));
                }
                vec![0.0; self.candidates.len()]
            }
            Reply::Values(given) if given.len() == self.candidates.len() => given,
            other => return Err(unexpected(self.law.method, "candidates or their values", &other)),
        };
        finite(self.law.method, &self.walk.prompt, "value", &values)?;
        let score = |(next, value): (&NextToken, f64)| {
            (next.log_prob + self.law.weight * value) / self.law.temperature
        };
        let scores: Vec<f64> = self.candidates.iter().zip(values).map(score).collect();
        self.walk.choose(&self.candidates, &scores, self.law.decode, chance);
        Ok(self.walk.answer()?.unwrap_or_else(|| self.walk.ask(self.law.k)))
    }

    fn running(&self) -> Option<Vec<TokenId>> {
        self.walk.running()
    }
}

/// Refuses scores that make no law.
pub(crate) fn finite(method: &'static str, prompt: &Prompt, what: &str, scores: &[f64]) -> Result<(), Error> {
    match scores.iter().find(|score| !score.is_finite()) {
        None => Ok(()),
        Some(bad) => Err(Error::Method {
            method,
            message: format!("prompt {}: a {what} is {bad}, and a law needs finite ones", prompt.index),
        }),
    }
}
