//! A method's settings with everything resolved, and what can be wrong with them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::budget::Budget;
use super::cuts::CutLaw;
use super::law::Law;
use crate::error::Problem;
use crate::method::{Info, Need};

/// How the states of the chains become one answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AnswerBy {
    /// The most frequent final answer among all states; of equals, the one seen first.
    #[default]
    Vote,
    /// The state most alike to all states (minimum Bayes risk), for text without a final answer.
    Mbr,
    /// The last state of the first chain: a draw from nearly the target law.
    Last,
    /// The state of greatest reward: no draw from the target, and like best-of-n it follows the reward's mistakes.
    Best,
}

/// The settings that every method of chains has; `chain_settings!` documents them.
#[derive(Debug, Clone)]
pub(crate) struct Common {
    pub(crate) steps: usize,
    pub(crate) chains: usize,
    pub(crate) burn_in: usize,
    pub(crate) answer: AnswerBy,
    pub(crate) at: Vec<usize>,
    pub(crate) stop_when_decided: bool,
    pub(crate) record_moves: bool,
}

/// All settings of a run of chains.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) method: &'static str,
    pub(crate) law: Law,
    pub(crate) cut: CutLaw,
    pub(crate) tries: usize,
    /// `beta` or `alpha` of the further rungs, from the one next to the target's on.
    pub(crate) ladder: Vec<f64>,
    pub(crate) budget: Option<Budget>,
    pub(crate) rao_blackwell: bool,
    /// Weighs the votes of a walk by `exp(reward / beta) / length`.
    pub(crate) vote_beta: Option<f64>,
    pub(crate) common: Common,
}

impl Plan {
    /// Plain chains: uniform cuts, one try, no ladder.
    pub(crate) fn new(info: &'static Info, law: Law, common: Common) -> Self {
        Self {
            method: info.name,
            law,
            cut: CutLaw::Uniform,
            tries: 1,
            ladder: Vec::new(),
            budget: None,
            rao_blackwell: false,
            vote_beta: None,
            common,
        }
    }

    /// Chains that move: those that count, and those of the further rungs.
    pub(crate) fn walkers(&self) -> usize {
        self.common.chains.saturating_mul(self.ladder.len().saturating_add(1))
    }

    /// Independent draws before the first move.
    pub(crate) fn first_draws(&self) -> usize {
        self.walkers().max(self.budget.map_or(0, |budget| budget.pilot))
    }

    /// Completions of a prompt that are drawn or proposed in `steps` moves of each chain.
    pub(crate) fn samples_after(&self, steps: usize) -> usize {
        let moves = self.walkers().saturating_mul(steps).saturating_mul(self.tries);
        self.first_draws().saturating_add(moves)
    }

    /// Completions of a prompt that are drawn or proposed.
    pub(crate) fn samples(&self) -> usize {
        self.samples_after(self.common.steps)
    }

    /// [`Plan::samples_after`] at the points of the curve: the steps that are marked, and the end.
    pub(crate) fn counts(&self) -> Vec<usize> {
        let Common { steps, ref at, .. } = self.common;
        let marked = at.iter().copied().filter(|at| *at < steps).chain([steps]);
        marked.map(|steps| self.samples_after(steps)).collect()
    }

    /// Whether completions are scored.
    pub(crate) fn scores(&self) -> bool {
        self.law.uses_rewards() || self.common.answer == AnswerBy::Best || self.vote_beta.is_some()
    }

    pub(crate) fn needs(&self) -> Vec<Need> {
        let answer = match self.common.answer {
            AnswerBy::Vote => Some(Need::AnswerExtractor),
            AnswerBy::Mbr => Some(Need::Similarity),
            AnswerBy::Last | AnswerBy::Best => None,
        };
        let reward = self.scores().then_some(Need::Reward);
        let steps = (self.cut == CutLaw::StepBoundaries).then_some(Need::StepEnds);
        reward.into_iter().chain(answer).chain(steps).collect()
    }

    pub(crate) fn problems(&self) -> Vec<Problem> {
        let Common { steps, chains, burn_in, answer, ref at, stop_when_decided, .. } = self.common;
        let mut problems: Vec<Problem> = [
            Problem::too_few("steps", steps, 1, "without a step use the method sample"),
            Problem::too_few("chains", chains, 1, "run at least one chain"),
            Problem::too_few("tries", self.tries, 1, "draw at least one suffix at each cut"),
            self.law.parameter().and_then(|value| {
                let hint = if self.law.key() == "beta" { "0.5 is usual" } else { "4 is usual" };
                Problem::not_positive(self.law.key(), value, hint)
            }),
            self.vote_beta.and_then(|beta| Problem::not_positive("beta", beta, "0.5 is usual")),
        ]
        .into_iter()
        .flatten()
        .collect();
        if burn_in > steps {
            let message = format!("{burn_in} states are left out of chains of {steps} steps");
            problems.push(Problem::new("burn_in", message, "lower `burn_in` or raise `steps`"));
        } else if let Some(at) = at.iter().find(|at| !(burn_in..=steps).contains(at)) {
            let message = format!("{at} is not between `burn_in` = {burn_in} and `steps` = {steps}");
            problems.push(Problem::new("at", message, "leave it out, or change the length of the chain"));
        }
        if at.windows(2).any(|pair| pair[0] >= pair[1]) {
            let message = format!("{at:?} is not strictly ascending");
            problems.push(Problem::new("at", message, "sort the numbers and leave repeated ones out"));
        }
        if self.rao_blackwell && matches!(answer, AnswerBy::Last | AnswerBy::Best) {
            let message = "weights of states do not matter where one state is the answer";
            problems.push(Problem::new("rao_blackwell", message, "set `answer` to \"vote\" or \"mbr\""));
        }
        if stop_when_decided && answer != AnswerBy::Vote {
            let message = "only a vote can be decided before its end";
            let hint = "set `answer` to \"vote\", or leave `stop_when_decided` out";
            problems.push(Problem::new("stop_when_decided", message, hint));
        }
        if stop_when_decided && self.vote_beta.is_some() {
            let message = "a vote still to come may have any weight";
            problems.push(Problem::new("stop_when_decided", message, "leave it or `beta` out"));
        }
        if self.vote_beta.is_some() && answer != AnswerBy::Vote {
            let message = "it weighs votes, and the answer is no vote";
            problems.push(Problem::new("beta", message, "set `answer` to \"vote\", or leave `beta` out"));
        }
        problems.extend(self.ladder_problem());
        problems.extend(self.budget_problem());
        problems
    }

    fn ladder_problem(&self) -> Option<Problem> {
        let target = self.law.parameter().filter(|_| !self.ladder.is_empty())?;
        let (key, up) = (self.law.key(), self.law.key() == "beta");
        let rungs: Vec<f64> = std::iter::once(target).chain(self.ladder.iter().copied()).collect();
        let ordered = |pair: &[f64]| if up { pair[0] < pair[1] } else { pair[0] > pair[1] };
        if !rungs.windows(2).all(ordered) || rungs.iter().any(|rung| !(rung.is_finite() && *rung > 0.0)) {
            let order = if up { "ascending from above" } else { "descending from below" };
            let message = format!("{:?} is not {order} `{key}` = {target}", self.ladder);
            let hint =
                if up { "as in [1.0, 2.0, 4.0] for beta = 0.5" } else { "as in [2.0, 1.0] for alpha = 4.0" };
            return Some(Problem::new("ladder", message, hint));
        }
        self.rao_blackwell.then(|| {
            let message = "the probability of a state after a swap is not known from the moves alone";
            Problem::new("rao_blackwell", message, "leave `rao_blackwell` or `ladder` out")
        })
    }

    fn budget_problem(&self) -> Option<Problem> {
        let budget = self.budget?;
        if budget.pilot < 2 {
            let message = format!("{} is below 2", budget.pilot);
            return Some(Problem::new("pilot", message, "32 samples are usual; a budget is judged by them"));
        }
        let most = (budget.pilot as f64).ln();
        if let Some(kl) = budget.kl.filter(|kl| !(*kl > 0.0 && *kl < most)) {
            let message = format!("{kl} is not between 0 and ln {} = {most:.3}", budget.pilot);
            let hint = "the estimate from a pilot of n samples cannot exceed ln n: raise `pilot`";
            return Some(Problem::new("kl_budget", message, hint));
        }
        budget.ess.filter(|share| !(*share > 0.0 && *share < 1.0)).map(|share| {
            let message = format!("{share} is not between 0 and 1");
            Problem::new("ess_budget", message, "it is a share of the pilot, as in 0.25")
        })
    }
}
