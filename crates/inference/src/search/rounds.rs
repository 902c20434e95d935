//! The machine of searches that draw completions in blocks.

use generate::schedule::{Answer, Ask, Machine, NoNext, Reply};
use generate::{Chance, Completion, End, Error, Prompt, Stream, TextMethod, TokenId};
use serde::{Deserialize, Serialize};

use super::KL_REASON;
use super::beam::Beam;
use crate::pooled::unexpected;

/// By what the answer is chosen from the completions that are left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Choose {
    /// The greatest value; of equals, the first.
    #[default]
    Value,
    /// The greatest reward; of equals, the first.
    Reward,
}

/// A candidate of a round, as a plan looks at it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    /// Its value, or what the plan makes of the values along its path.
    pub(crate) score: f64,
    /// Whether it has ended.
    pub(crate) ended: bool,
    /// The row that it comes from.
    pub(crate) root: usize,
}

/// What a block search decides.
pub(crate) trait Plan: Clone + 'static {
    /// The method's name.
    fn method(&self) -> &'static str;

    /// Rows that begin at the prompt.
    fn roots(&self) -> usize;

    /// Most tokens of a block of round `round`, from 0; at least 1.
    fn block(&self, round: usize) -> usize;

    /// Continuations of each beam that goes on.
    fn children(&self) -> usize;

    /// Places of the candidates that are kept, ascending and not empty.
    fn keep(&self, pool: &[Standing]) -> Vec<usize>;

    /// By what the answer is chosen.
    fn choose(&self) -> Choose {
        Choose::Value
    }

    /// The score of a candidate from the values along its path, the last of which is its own.
    fn score(&self, path: &[f64]) -> f64 {
        path[path.len() - 1]
    }
}

/// The places of the `count` greatest scores (of equals the first), ascending: order decides later ties, so it is kept.
pub(crate) fn best_first(pool: &[Standing], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..pool.len()).collect();
    // 0.0 and -0.0 are equal, and NaN, which no value is, has a place of its own.
    let ties = |a: f64, b: f64| if a == b { std::cmp::Ordering::Equal } else { a.total_cmp(&b) };
    order.sort_by(|a, b| ties(pool[*b].score, pool[*a].score));
    order.truncate(count.max(1));
    order.sort_unstable();
    order
}

/// A round of a search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoundTrace {
    /// Candidates at its end.
    pub candidates: usize,
    /// Those of them that had ended.
    pub ended: usize,
    /// Values of the candidates, in their order; empty where the reward alone decided.
    pub values: Vec<f64>,
    /// Places of those that were kept.
    pub kept: Vec<usize>,
}

/// What a search in blocks reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchTrace {
    /// Its rounds.
    pub rounds: Vec<RoundTrace>,
    /// The completions that the answer was chosen from.
    pub candidates: Vec<Vec<TokenId>>,
    /// What they were chosen by, aligned with them.
    pub scores: Vec<f64>,
    /// Place of the answer among them.
    pub picked: usize,
    /// Tokens drawn in all; what a kept prefix shares is counted once.
    pub drawn_tokens: u64,
    /// Why there is no estimate of the divergence to the base.
    pub kl_reason: Option<String>,
}

/// Searches by a plan.
#[derive(Debug, Clone)]
pub(crate) struct Rounds<P> {
    pub(crate) plan: P,
    /// The most tokens of a completion.
    pub(crate) horizon: usize,
}

impl<P: Plan> TextMethod for Rounds<P> {
    fn start(&self, prompt: &Prompt, stream: Stream) -> Box<dyn Machine<NoNext>> {
        let roots = (0..self.plan.roots()).map(|root| Candidate::new(Beam::root(stream, root))).collect();
        Box::new(Running {
            search: self.clone(),
            prompt: prompt.clone(),
            pool: roots,
            stage: Stage::Start,
            drawn: 0,
            rounds: Vec::new(),
        })
    }
}

/// A beam with the values along its path.
#[derive(Debug, Clone)]
struct Candidate {
    beam: Beam,
    path: Vec<f64>,
    /// Whether the last value is of the text as it is.
    valued: bool,
}

impl Candidate {
    fn new(beam: Beam) -> Self {
        Self { beam, path: Vec::new(), valued: false }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Start,
    Blocks,
    Values,
    Rewards,
}

struct Running<P> {
    search: Rounds<P>,
    prompt: Prompt,
    /// The candidates in order; those that have ended stay where they are.
    pool: Vec<Candidate>,
    stage: Stage,
    drawn: u64,
    rounds: Vec<RoundTrace>,
}

impl<P: Plan> Machine<NoNext> for Running<P> {
    fn advance(&mut self, reply: Reply, _: &mut Chance<'_>) -> Result<Ask<NoNext>, Error> {
        match (self.stage, reply) {
            (Stage::Start, Reply::Start) => Ok(self.draw()),
            (Stage::Blocks, Reply::Samples(given)) if given.len() == self.open().count() => {
                self.take(&given);
                let over = self.pool.iter().all(|candidate| candidate.beam.end.is_some());
                if over && self.search.plan.choose() == Choose::Reward {
                    return Ok(self.reward());
                }
                self.stage = Stage::Values;
                let unvalued = self.pool.iter().filter(|candidate| !candidate.valued);
                Ok(Ask::Value(unvalued.map(|candidate| candidate.beam.ids.clone()).collect()))
            }
            (Stage::Values, Reply::Values(given)) => self.settle(given),
            (Stage::Rewards, Reply::Rewards(given)) if given.len() == self.pool.len() => self.done(given),
            (_, other) => Err(unexpected(self.search.plan.method(), "the answers to its asks", &other)),
        }
    }

    /// The candidate of the greatest score so far, with what was drawn of it since.
    fn running(&self) -> Option<Vec<TokenId>> {
        let scored = self.pool.iter().filter(|candidate| !candidate.path.is_empty());
        let score = |candidate: &Candidate| self.search.plan.score(&candidate.path);
        let best = scored.reduce(|best, other| if score(other) > score(best) { other } else { best });
        best.map(|best| best.beam.ids.clone())
    }
}

impl<P: Plan> Running<P> {
    /// Beams that are being drawn.
    fn open(&self) -> impl Iterator<Item = &Beam> {
        self.pool.iter().map(|candidate| &candidate.beam).filter(|beam| beam.end.is_none())
    }

    fn draw(&mut self) -> Ask<NoNext> {
        self.stage = Stage::Blocks;
        let (block, horizon) = (self.search.plan.block(self.rounds.len()), self.search.horizon);
        let budget = |beam: &Beam| block.clamp(1, horizon - beam.ids.len());
        Ask::Sample(self.open().map(|beam| beam.ask(&self.prompt, budget(beam))).collect())
    }

    fn take(&mut self, given: &[Completion]) {
        let open = self.pool.iter_mut().filter(|candidate| candidate.beam.end.is_none());
        for (candidate, new) in open.zip(given) {
            self.drawn += new.ids.len() as u64;
            candidate.beam.extend(new, self.search.horizon);
            candidate.valued = false;
        }
    }

    /// Takes the values, keeps what the plan keeps, and goes on or ends.
    fn settle(&mut self, given: Vec<f64>) -> Result<Ask<NoNext>, Error> {
        let unvalued = self.pool.iter_mut().filter(|candidate| !candidate.valued);
        let mut given = given.into_iter();
        for (candidate, value) in unvalued.zip(given.by_ref()) {
            candidate.path.push(value);
            candidate.valued = true;
        }
        if given.next().is_some() || self.pool.iter().any(|candidate| !candidate.valued) {
            let message = "expected one value for each new text".into();
            return Err(Error::Method { method: self.search.plan.method(), message });
        }
        let plan = &self.search.plan;
        let standing = |candidate: &Candidate| Standing {
            score: plan.score(&candidate.path),
            ended: candidate.beam.end.is_some(),
            root: candidate.beam.root,
        };
        let pool: Vec<Standing> = self.pool.iter().map(standing).collect();
        let over = pool.iter().all(|standing| standing.ended);
        let kept = if over { (0..pool.len()).collect() } else { plan.keep(&pool) };
        self.rounds.push(RoundTrace {
            candidates: pool.len(),
            ended: pool.iter().filter(|standing| standing.ended).count(),
            values: self.pool.iter().map(|candidate| candidate.path[candidate.path.len() - 1]).collect(),
            kept: kept.clone(),
        });
        if kept.iter().all(|place| pool[*place].ended) {
            self.pool = kept.iter().map(|place| self.pool[*place].clone()).collect();
            return match plan.choose() {
                Choose::Reward => Ok(self.reward()),
                Choose::Value => self.done(kept.iter().map(|place| pool[*place].score).collect()),
            };
        }
        let children = plan.children();
        let mut next = Vec::new();
        for place in kept {
            let candidate = &self.pool[place];
            let copies = if candidate.beam.end.is_some() { 1 } else { children };
            next.extend(
                (0..copies).map(|child| Candidate { beam: candidate.beam.fork(child), ..candidate.clone() }),
            );
        }
        self.pool = next;
        Ok(self.draw())
    }

    fn reward(&mut self) -> Ask<NoNext> {
        self.stage = Stage::Rewards;
        let ended =
            |candidate: &Candidate| (candidate.beam.ids.clone(), candidate.beam.end.unwrap_or(End::Budget));
        Ask::Reward(self.pool.iter().map(ended).collect())
    }

    fn done(&mut self, scores: Vec<f64>) -> Result<Ask<NoNext>, Error> {
        let mut picked = 0;
        for (place, score) in scores.iter().enumerate() {
            if *score > scores[picked] {
                picked = place;
            }
        }
        let beam = self.pool[picked].beam.clone();
        let trace = SearchTrace {
            rounds: std::mem::take(&mut self.rounds),
            candidates: self.pool.iter().map(|candidate| candidate.beam.ids.clone()).collect(),
            scores,
            picked,
            drawn_tokens: self.drawn,
            kl_reason: Some(KL_REASON.into()),
        };
        let trace = serde_json::to_value(trace).map_err(|error| Error::Backend(Box::new(error)))?;
        Ok(Ask::Done(Answer { ids: beam.ids, end: beam.end.unwrap_or(End::Budget), kl: None, trace }))
    }
}
