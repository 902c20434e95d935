//! QAlign: a Metropolis–Hastings chain over completions whose stationary law is `p(y) exp(r(y) / beta) / Z`, the optimum of
//! KL-regularised reward maximisation (Faria and Smith 2025, arXiv 2504.03790).
//!
//! `p` is the law really drawn from: temperature, filters, stop strings and the horizon `max_new_tokens` are part of it.
//! A move cuts the state of `n` tokens at `i`, draws the rest anew and accepts with `min(1, exp((r' − r) / beta) · n / n')`
//! (uniform cuts, one try; [`crate::chain`] has the general rule). The answer is a vote over all states of all chains,
//! rejected moves repeating the old state, or the state most alike to all others, or the last state.
//!
//! Every option leaves the target as it is: `cut` has its ratio in the acceptance, `tries` is independent multiple-try
//! Metropolis, `ladder` is parallel tempering with the product of the rungs' targets as joint law, and a budget sets `beta`
//! from a pilot and freezes it before the first move.
//!
//! Where this differs from the public code, which samples another law or wastes work there:
//! 1. a fixed horizon: the suffix after a cut at `i` has the budget `horizon − i`, so texts cannot grow without end;
//! 2. lengths count the end-of-sequence token, and states are token ids, never text that is tokenised anew;
//! 3. a completion is scored once for a prompt: neither the current state nor a repeated proposal is scored again;
//! 4. the log-ratio is not clipped;
//! 5. several chains for a prompt, each with its own first draw and its own random stream.

use crate::chain::{AnswerBy, Budget, CutLaw, Law, Plan, chain_settings};
use crate::method::{Access, Info, Need};

/// The listing.
pub static INFO: Info = Info {
    name: "qalign",
    access: Access::Text,
    needs: &[Need::Reward],
    may_need: &[Need::AnswerExtractor, Need::Similarity, Need::StepEnds],
    paper: "Faria and Smith 2025, arXiv 2504.03790",
    summary: "a Markov chain over completions with the law p(y) exp(r / beta) / Z, and a vote over its states",
};

chain_settings! {
    /// Settings of `qalign`. The paper runs one chain of 1024 steps (4096 for single tasks) at `beta = 0.5`.
    pub struct QAlign {
        /// Divides the rewards, in their unit: small is a strong preference for high rewards and mixes slowly. With a
        /// budget, the least `beta` that a prompt may get.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64 = 0.5,
        /// Where states are cut.
        pub cut: CutLaw = CutLaw::Uniform,
        /// Suffixes drawn at each cut, of which one may become the state: they share the prefix and a batch.
        #[schemars(range(min = 1))]
        pub tries: usize = 1,
        /// Parallel tempering: the greater `beta` of further chains, ascending, which exchange states with their
        /// neighbours after every move. Each costs as much as the chain itself. A budget scales the ladder with `beta`.
        pub ladder: Vec<f64> = Vec::new(),
        /// Lets each move add the probability of each of its outcomes instead of one vote to the outcome: the same
        /// expectation at less variance.
        pub rao_blackwell: bool = false,
        /// Raises `beta` for each prompt until the divergence of the target to the base, estimated from the pilot, is at
        /// most this, in nats.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub kl_budget: Option<f64> = None,
        /// Raises `beta` for each prompt until the importance weights of the pilot are worth at least this share of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
        pub ess_budget: Option<f64> = None,
        /// Independent samples by which a budget is judged; chains start at the first of them.
        #[schemars(range(min = 2))]
        pub pilot: usize = 32,
    }
    defaults { steps = 64, answer = AnswerBy::Vote }
}

impl QAlign {
    fn plan(&self) -> Plan {
        let budget = Budget { pilot: self.pilot, kl: self.kl_budget, ess: self.ess_budget };
        Plan {
            cut: self.cut,
            tries: self.tries,
            ladder: self.ladder.clone(),
            rao_blackwell: self.rao_blackwell,
            budget: (budget.kl.is_some() || budget.ess.is_some()).then_some(budget),
            ..Plan::new(&INFO, Law::Tilted { beta: self.beta }, self.common())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Method;

    #[test]
    fn what_contradicts_is_told_all_at_once() {
        let keys = |config: QAlign| config.problems().iter().map(|problem| problem.key).collect::<Vec<_>>();
        assert!(keys(QAlign::default()).is_empty());
        let bad = QAlign { steps: 0, chains: 0, tries: 0, beta: f64::NAN, ..QAlign::default() };
        assert_eq!(keys(bad), ["steps", "chains", "tries", "beta"]);
        assert_eq!(keys(QAlign { steps: 4, burn_in: 5, ..QAlign::default() }), ["burn_in"]);
        assert_eq!(keys(QAlign { steps: 4, at: vec![2, 2, 9], ..QAlign::default() }), ["at", "at"]);
        assert_eq!(keys(QAlign { burn_in: 2, at: vec![1], ..QAlign::default() }), ["at"]);
        let last = QAlign { answer: AnswerBy::Last, rao_blackwell: true, ..QAlign::default() };
        assert_eq!(keys(last), ["rao_blackwell"]);
        let last = QAlign { answer: AnswerBy::Best, stop_when_decided: true, ..QAlign::default() };
        assert_eq!(keys(last), ["stop_when_decided"]);
        for ladder in [vec![0.5], vec![2.0, 1.0], vec![f64::INFINITY]] {
            assert_eq!(keys(QAlign { ladder, ..QAlign::default() }), ["ladder"]);
        }
        let both = QAlign { ladder: vec![1.0], rao_blackwell: true, ..QAlign::default() };
        assert_eq!(keys(both), ["rao_blackwell"]);
        assert_eq!(keys(QAlign { kl_budget: Some(3.5), ..QAlign::default() }), ["kl_budget"], "ln 32 = 3.47");
        assert_eq!(keys(QAlign { ess_budget: Some(1.0), ..QAlign::default() }), ["ess_budget"]);
        assert_eq!(keys(QAlign { ess_budget: Some(0.5), pilot: 1, ..QAlign::default() }), ["pilot"]);
    }

    #[test]
    fn needs_follow_the_settings() {
        let needs = |answer| QAlign { answer, ..QAlign::default() }.needs();
        assert_eq!(needs(AnswerBy::Vote), [Need::Reward, Need::AnswerExtractor]);
        assert_eq!(needs(AnswerBy::Mbr), [Need::Reward, Need::Similarity]);
        assert_eq!(needs(AnswerBy::Last), [Need::Reward]);
        assert_eq!(needs(AnswerBy::Best), [Need::Reward]);
        let steps = QAlign { cut: CutLaw::StepBoundaries, answer: AnswerBy::Last, ..QAlign::default() };
        assert_eq!(steps.needs(), [Need::Reward, Need::StepEnds]);
    }

    #[test]
    fn samples_count_all_that_is_drawn() {
        let plain = QAlign { steps: 10, chains: 2, ..QAlign::default() };
        assert_eq!(plain.samples(), 22);
        assert_eq!(QAlign { tries: 3, ..plain.clone() }.samples(), 62);
        assert_eq!(QAlign { ladder: vec![1.0, 2.0], ..plain.clone() }.samples(), 66);
        assert_eq!(QAlign { kl_budget: Some(1.0), ..plain }.samples(), 52, "32 pilot samples and 20 moves");
    }
}
