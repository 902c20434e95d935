//! Transfer Q*: the value of a token is what a policy that is aligned already makes of it (arXiv 2405.20495, Eq. 8 to 11).
//!
//! For each of the policy's k likeliest next tokens, texts `τ` are drawn to the end (or for some tokens) by a second policy ρ.
//! *Direct*, ρ aligned to the reward `r` itself: `TQ(s, v) = E_ρ[r(s, v, τ)]`. *Indirect*, ρ aligned to another reward
//! `r_BL` at scale b: `TQ = E_ρ[W r] / E_ρ[W]`, `W = exp((r − r_BL) / b)`, since `ρ_r ∝ ρ_BL exp((r − r_BL) / b)`. Then
//! `ln p(v|s) + w · TQ(s, v)`: the greatest, or a draw from the softmax. `[value.…]` names `r_BL`.
//!
//! Deviations from the public code: 1. the candidates are those of the policy; there those of ρ, so that the policy takes
//! no part. 2. `r_BL` is a reward of its own; there both are one model, and indirect is direct. 3. The weights are
//! self-normalised; there `exp(r_2 − r_1) r_2` is summed as it is, and a constant added to the reward changes the choice.
//! 4. Several lookaheads for a candidate, and texts that end are not continued.
//!
//! The distribution of the answer averages over the continuations. The trace has the divergence given those
//! drawn,
//! `kl_at_most`; since divergence is convex its mean is an upper bound of that of the answer.

use generate::schedule::{Ask, Machine, Reply};
use generate::{Chance, End, Engine, Error as Failure, NextToken, Prompt, SampleAsk, Sampling};
use generate::{Scheduled, Stream, TokenId};
use objective::numeric::softmax;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Parts, Tools, check, weighing_engine};
use crate::pooled::unexpected;
use crate::search::{Walk, finite};

pub use crate::search::Decode;

/// Why the divergence of the answer is not known.
const KL_REASON: &str = "the distribution of the answer averages over the continuations; given those drawn, the divergence is an upper bound";

/// The listing.
pub static INFO: Info = Info {
    name: "transfer-q",
    access: Access::Logits,
    needs: &[Need::Reward, Need::Rollout],
    may_need: &[Need::PrefixValue],
    paper: "Chakraborty et al. 2024, arXiv 2405.20495",
    summary: "among the k likeliest tokens, log-probability plus weighted reward of an aligned policy's continuations",
};

/// Settings of `transfer-q`. The public code runs one greedy choice by one lookahead of 20 tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TransferQ {
    /// Candidates of a step; 0 takes the whole vocabulary.
    pub k: usize,
    /// Weight of the reward, in its unit.
    pub weight: f64,
    /// Continuations of each candidate.
    #[schemars(range(min = 1))]
    pub rollouts: usize,
    /// The most tokens of a continuation; 0 draws to the end of the text. A shorter one is judged as it stands.
    pub rollout_tokens: usize,
    /// Indirect: the scale b at which the rollout policy was aligned to the reward that `[value.…]` names. Without it the
    /// rollout policy is taken to be aligned to the reward itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub indirect: Option<f64>,
    /// How a token is chosen.
    pub decode: Decode,
    /// Divides the scores that are drawn from.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
}

impl Default for TransferQ {
    fn default() -> Self {
        Self {
            k: 10,
            weight: 1.0,
            rollouts: 1,
            rollout_tokens: 20,
            indirect: None,
            decode: Decode::Greedy,
            temperature: 1.0,
        }
    }
}

impl Method for TransferQ {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = [
            Problem::too_few("rollouts", self.rollouts, 1, "look ahead at least once"),
            Problem::not_positive("temperature", self.temperature, "1 is usual"),
            self.indirect.and_then(|b| Problem::not_positive("indirect", b, "give the β of the alignment")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !self.weight.is_finite() {
            problems.push(Problem::new("weight", format!("{} is not finite", self.weight), "1 is usual"));
        }
        if self.indirect.is_some() && self.rollouts == 1 {
            let message = "the weight of a single continuation is 1 whatever the two rewards say";
            problems.push(Problem::new("rollouts", message, "draw at least 2, or leave `indirect` out"));
        }
        problems
    }

    fn samples(&self) -> usize {
        1
    }

    fn rows(&self) -> usize {
        let k = if self.k == 0 { super::cd::WHOLE_VOCABULARY } else { self.k };
        k.saturating_mul(self.rollouts)
    }

    fn needs(&self) -> Vec<Need> {
        let value = self.indirect.map(|_| Need::PrefixValue);
        [Need::Reward, Need::Rollout].into_iter().chain(value).collect()
    }

    fn engine<'a>(&self, parts: &Parts<'a>, sampling: Sampling) -> Result<Engine<'a>, Error> {
        weighing_engine(self, parts, sampling)
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn Scheduled>, Error> {
        check(self, tools)?;
        Ok(Box::new(Lookahead { config: *self, horizon: tools.max_new_tokens }))
    }
}

/// `Σ W r / Σ W` with `W = exp((r − r_BL) / b)`, or the plain mean where ρ is aligned to `r` itself. A constant added to
/// either reward adds at most itself, and never changes which token is chosen.
///
/// ```
/// use inference::methods::transfer_q::action_value;
///
/// assert_eq!(action_value(&[1.0, 3.0], None), 2.0);
/// // The second text is worth e times the first: it was drawn too rarely.
/// let q = action_value(&[1.0, 3.0], Some((&[1.0, 2.0], 1.0)));
/// assert!((q - (1.0 + 3.0 * 1_f64.exp()) / (1.0 + 1_f64.exp())).abs() < 1e-12);
/// ```
pub fn action_value(rewards: &[f64], aligned: Option<(&[f64], f64)>) -> f64 {
    let weights = match aligned {
        None => vec![1.0 / rewards.len() as f64; rewards.len()],
        Some((other, b)) => {
            softmax(&rewards.iter().zip(other).map(|(r, other)| (r - other) / b).collect::<Vec<_>>())
        }
    };
    rewards.iter().zip(weights).map(|(r, weight)| weight * r).sum()
}

#[derive(Debug, Clone, Copy)]
struct Lookahead {
    config: TransferQ,
    horizon: usize,
}

impl Scheduled for Lookahead {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine> {
        let mut walk = Walk::new(prompt, stream, self.horizon);
        walk.trace.kl_reason = Some(KL_REASON.to_owned());
        Box::new(Running {
            config: self.config,
            walk,
            candidates: Vec::new(),
            texts: Vec::new(),
            rewards: Vec::new(),
        })
    }
}

/// A continuation of a candidate; without an end it is still to be drawn.
struct Text {
    candidate: usize,
    ids: Vec<TokenId>,
    end: Option<End>,
}

struct Running {
    config: TransferQ,
    walk: Walk,
    candidates: Vec<NextToken>,
    texts: Vec<Text>,
    rewards: Vec<f64>,
}

impl Machine for Running {
    fn advance(&mut self, reply: Reply, chance: &mut Chance<'_>) -> Result<Ask, Failure> {
        match reply {
            Reply::Start => Ok(self.walk.ask(self.config.k)),
            Reply::Next(mut given) if given.len() == 1 && !given[0].is_empty() => {
                self.candidates = given.remove(0);
                Ok(self.look_ahead())
            }
            Reply::Samples(given) if given.len() == self.open() => {
                for (text, more) in self.texts.iter_mut().filter(|text| text.end.is_none()).zip(given) {
                    self.walk.trace.rollout_tokens += more.ids.len() as u64;
                    text.ids.extend(&more.ids);
                    text.end = Some(more.end);
                }
                Ok(self.reward())
            }
            Reply::Rewards(given) if given.len() == self.texts.len() => {
                finite(INFO.name, &self.walk.prompt, "reward", &given)?;
                self.rewards = given;
                if self.config.indirect.is_some() {
                    return Ok(Ask::Value(self.texts.iter().map(|text| text.ids.clone()).collect()));
                }
                self.choose(&[], chance)
            }
            Reply::Values(given) if given.len() == self.texts.len() => {
                finite(INFO.name, &self.walk.prompt, "value", &given)?;
                self.choose(&given, chance)
            }
            other => Err(unexpected(INFO.name, "candidates, continuations or their rewards", &other)),
        }
    }

    fn running(&self) -> Option<Vec<TokenId>> {
        self.walk.running()
    }
}

impl Running {
    fn open(&self) -> usize {
        self.texts.iter().filter(|text| text.end.is_none()).count()
    }

    /// Asks for the continuations of all candidates that go on.
    fn look_ahead(&mut self) -> Ask {
        self.texts.clear();
        let mut asks = Vec::new();
        for (candidate, next) in self.candidates.iter().enumerate() {
            let (ids, end) = self.walk.with(next);
            let copies = if end.is_some() { 1 } else { self.config.rollouts };
            for number in 0..copies {
                self.texts.push(Text { candidate, ids: ids.clone(), end });
                if end.is_none() {
                    let room = self.walk.room(ids.len());
                    asks.push(SampleAsk {
                        prefix: [&self.walk.prompt.ids[..], &ids].concat(),
                        prompt_len: self.walk.prompt.ids.len(),
                        budget: if self.config.rollout_tokens == 0 {
                            room
                        } else {
                            room.min(self.config.rollout_tokens)
                        },
                        stream: self.walk.lookahead(candidate, number),
                    });
                }
            }
        }
        if asks.is_empty() { self.reward() } else { Ask::Rollout(asks) }
    }

    fn reward(&self) -> Ask {
        let text = |text: &Text| (text.ids.clone(), text.end.unwrap_or(End::Budget));
        Ask::Reward(self.texts.iter().map(text).collect())
    }

    fn choose(&mut self, other: &[f64], chance: &mut Chance<'_>) -> Result<Ask, Failure> {
        let score = |(place, next): (usize, &NextToken)| {
            let own: Vec<usize> =
                (0..self.texts.len()).filter(|text| self.texts[*text].candidate == place).collect();
            let of = |values: &[f64]| own.iter().map(|text| values[*text]).collect::<Vec<f64>>();
            let q = match self.config.indirect {
                Some(b) => action_value(&of(&self.rewards), Some((&of(other), b))),
                None => action_value(&of(&self.rewards), None),
            };
            (next.log_prob + self.config.weight * q) / self.config.temperature
        };
        let scores: Vec<f64> = self.candidates.iter().enumerate().map(score).collect();
        self.walk.choose(&self.candidates, &scores, self.config.decode, chance);
        Ok(self.walk.answer()?.unwrap_or_else(|| self.walk.ask(self.config.k)))
    }
}
