//! The settings of `qalign`.

use generate::TextMethod;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::machine::Chains;
use crate::error::{Error, Problem};
use crate::method::{Access, Info, Method, Need, Tools, check};

/// The listing.
pub static INFO: Info = Info {
    name: "qalign",
    access: Access::Text,
    needs: &[Need::Reward],
    may_need: &[Need::AnswerExtractor, Need::Similarity],
    paper: "Faria and Smith 2025, arXiv 2504.03790",
    summary: "a Markov chain over completions with the law p(y) exp(r / beta) / Z, and a vote over its states",
};

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
}

/// Settings of `qalign`. The paper runs one chain of 1024 steps (4096 for single tasks) at `beta = 0.5`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QAlign {
    /// Moves of each chain after its first draw.
    #[schemars(range(min = 1))]
    pub steps: usize,
    /// Chains for each prompt; they share batches, and their disagreement shows whether they have mixed.
    #[schemars(range(min = 1))]
    pub chains: usize,
    /// Divides the rewards, in their unit: small is a strong preference for high rewards and mixes slowly.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub beta: f64,
    /// States left out at the start of each chain; at most `steps`.
    pub burn_in: usize,
    /// How the states become one answer.
    pub answer: AnswerBy,
    /// Lets each move add its acceptance probability to the proposal and the rest to the current state, instead of one
    /// vote to the outcome: the same expectation at less variance.
    pub rao_blackwell: bool,
    /// Numbers of steps after which the answer so far is recorded, ascending, from `burn_in` to `steps`: one run gives
    /// the whole curve. The end is always recorded.
    pub at: Vec<usize>,
}

impl Default for QAlign {
    fn default() -> Self {
        Self {
            steps: 64,
            chains: 1,
            beta: 0.5,
            burn_in: 0,
            answer: AnswerBy::Vote,
            rao_blackwell: false,
            at: Vec::new(),
        }
    }
}

impl Method for QAlign {
    fn info(&self) -> &'static Info {
        &INFO
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = [
            Problem::too_few("steps", self.steps, 1, "without a step use the method sample"),
            Problem::too_few("chains", self.chains, 1, "run at least one chain"),
            Problem::not_positive("beta", self.beta, "0.5 is usual"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.burn_in > self.steps {
            let message = format!("{} states are left out of chains of {} steps", self.burn_in, self.steps);
            problems.push(Problem::new("burn_in", message, "lower `burn_in` or raise `steps`"));
        } else if let Some(at) = self.at.iter().find(|at| !(self.burn_in..=self.steps).contains(at)) {
            let message =
                format!("{at} is not between `burn_in` = {} and `steps` = {}", self.burn_in, self.steps);
            problems.push(Problem::new("at", message, "leave it out, or change the length of the chain"));
        }
        if self.at.windows(2).any(|pair| pair[0] >= pair[1]) {
            let message = format!("{:?} is not strictly ascending", self.at);
            problems.push(Problem::new("at", message, "sort the numbers and leave repeated ones out"));
        }
        if self.rao_blackwell && self.answer == AnswerBy::Last {
            let message = "weights of states do not matter where the last state is the answer";
            problems.push(Problem::new("rao_blackwell", message, "set `answer` to \"vote\" or \"mbr\""));
        }
        problems
    }

    fn samples(&self) -> usize {
        self.chains.saturating_mul(self.steps.saturating_add(1))
    }

    fn needs(&self) -> Vec<Need> {
        let answer = match self.answer {
            AnswerBy::Vote => Some(Need::AnswerExtractor),
            AnswerBy::Mbr => Some(Need::Similarity),
            AnswerBy::Last => None,
        };
        std::iter::once(Need::Reward).chain(answer).collect()
    }

    fn machine(&self, tools: &Tools) -> Result<Box<dyn TextMethod>, Error> {
        check(self, tools)?;
        Ok(Box::new(Chains { config: self.clone(), tools: tools.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_contradicts_is_told_all_at_once() {
        let keys = |config: QAlign| config.problems().iter().map(|problem| problem.key).collect::<Vec<_>>();
        assert!(keys(QAlign::default()).is_empty());
        let bad = QAlign { steps: 0, chains: 0, beta: f64::NAN, ..QAlign::default() };
        assert_eq!(keys(bad), ["steps", "chains", "beta"]);
        assert_eq!(keys(QAlign { steps: 4, burn_in: 5, ..QAlign::default() }), ["burn_in"]);
        assert_eq!(keys(QAlign { steps: 4, at: vec![2, 2, 9], ..QAlign::default() }), ["at", "at"]);
        assert_eq!(keys(QAlign { burn_in: 2, at: vec![1], ..QAlign::default() }), ["at"]);
        let last = QAlign { answer: AnswerBy::Last, rao_blackwell: true, ..QAlign::default() };
        assert_eq!(keys(last), ["rao_blackwell"]);
    }

    #[test]
    fn needs_follow_the_answer() {
        let needs = |answer| QAlign { answer, ..QAlign::default() }.needs();
        assert_eq!(needs(AnswerBy::Vote), [Need::Reward, Need::AnswerExtractor]);
        assert_eq!(needs(AnswerBy::Mbr), [Need::Reward, Need::Similarity]);
        assert_eq!(needs(AnswerBy::Last), [Need::Reward]);
    }
}
