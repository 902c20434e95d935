//! Resampling at random cuts, a control of `qalign`: its proposals without its accept step. Every new suffix is taken.
//!
//! The states have the stationary law `|y| p(y) / Z`: the base, biased by length and by nothing else, since a text of `n`
//! tokens is cut at each of its places with probability `1 / n`. What the rule that picks the answer makes of them (the best
//! by reward, or a vote) shows how much of `qalign` comes from looking at more texts and how much from its target. A vote
//! with `beta` weighs each state by `exp(r / beta) / |y|` and so estimates the answers of `qalign`'s target without a chain
//! that follows it.
//!
//! The control was asked for in the reviews of Faria and Smith 2025 (arXiv 2504.03790); their code has none.

use crate::chain::{AnswerBy, Law, Plan, chain_settings};
use crate::method::{Access, Info, Need};

/// The listing.
pub static INFO: Info = Info {
    name: "random-cut",
    access: Access::Text,
    needs: &[],
    may_need: &[Need::Reward, Need::AnswerExtractor, Need::Similarity],
    paper: "control of arXiv 2504.03790",
    summary: "control of qalign: its proposals, all of them accepted, and the best of the states",
};

chain_settings! {
    /// Settings of `random-cut`.
    pub struct RandomCut {
        /// Weighs votes by `exp(reward / beta) / length`; without it all votes are equal and no reward is needed for them.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: Option<f64> = None,
    }
    defaults { steps = 64, answer = AnswerBy::Best }
}

impl RandomCut {
    fn plan(&self) -> Plan {
        Plan { vote_beta: self.beta, ..Plan::new(&INFO, Law::Walk, self.common()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Method;

    #[test]
    fn a_reward_is_needed_where_it_decides() {
        let needs = |answer, beta| RandomCut { beta, answer, ..RandomCut::default() }.needs();
        assert_eq!(needs(AnswerBy::Best, None), [Need::Reward]);
        assert_eq!(needs(AnswerBy::Vote, None), [Need::AnswerExtractor]);
        assert_eq!(needs(AnswerBy::Vote, Some(0.5)), [Need::Reward, Need::AnswerExtractor]);
        let keys =
            |method: RandomCut| method.problems().iter().map(|problem| problem.key).collect::<Vec<_>>();
        let vote = RandomCut { answer: AnswerBy::Vote, ..RandomCut::default() };
        assert!(keys(RandomCut { beta: Some(0.5), ..vote.clone() }).is_empty());
        assert_eq!(keys(RandomCut { beta: Some(0.5), ..RandomCut::default() }), ["beta"]);
        assert_eq!(keys(RandomCut { beta: Some(0.0), ..vote.clone() }), ["beta"]);
        assert_eq!(
            keys(RandomCut { beta: Some(0.5), stop_when_decided: true, ..vote }),
            ["stop_when_decided"]
        );
    }
}
