//! QUEST: a Metropolis–Hastings chain over completions whose stationary law is `exp(r(y) / beta) / Z` on the support of the
//! law drawn from, without the policy as a prior (Faria et al. 2024, arXiv 2406.00049).
//!
//! A move cuts the state of `n` tokens at `i`, draws the rest anew and accepts with
//! `min(1, exp((r' − r) / beta) · (n / n') · q(y_{≥i}) / q(y'_{≥i}))`, where `q` is the law really drawn from: temperature
//! and filters change how fast the chain moves, and filters its support, not its weights. Long texts are many, so without a
//! prior the law prefers them where the reward does not mind; `qalign` keeps the policy in the target.
//!
//! Where this differs from the public code:
//! 1. log-probabilities of suffixes are summed; later releases of the public code take their mean, which has another law;
//! 2. they are those of the law drawn from, at its temperature, and never the raw ones of a temperature that was not used;
//! 3. the length ratio is the right way round from the start, and lengths count the end-of-sequence token;
//! 4. a fixed horizon, states of token ids, each completion scored once, no clipping, several chains, as in `qalign`.

use crate::chain::{AnswerBy, CutLaw, Law, Plan, chain_settings};
use crate::method::{Access, Info, Need};

/// The listing.
pub static INFO: Info = Info {
    name: "quest",
    access: Access::LogProbs,
    needs: &[Need::Reward],
    may_need: &[Need::AnswerExtractor, Need::Similarity, Need::StepEnds],
    paper: "Faria et al. 2024, arXiv 2406.00049",
    summary: "a Markov chain over completions with the law exp(r / beta) / Z, without the policy as a prior",
};

chain_settings! {
    /// Settings of `quest`. The paper translates with 128 steps at `beta` from 0.01 to 1, drawing at temperature 0.8.
    pub struct Quest {
        /// Divides the rewards, in their unit: small is a strong preference for high rewards and mixes slowly.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64 = 0.1,
        /// Where states are cut.
        pub cut: CutLaw = CutLaw::Uniform,
        /// Suffixes drawn at each cut, of which one may become the state: they share the prefix and a batch.
        #[schemars(range(min = 1))]
        pub tries: usize = 1,
        /// Parallel tempering: the greater `beta` of further chains, ascending, which exchange states with their
        /// neighbours after every move. Each costs as much as the chain itself.
        pub ladder: Vec<f64> = Vec::new(),
        /// Lets each move add the probability of each of its outcomes instead of one vote to the outcome: the same
        /// expectation at less variance.
        pub rao_blackwell: bool = false,
    }
    defaults { steps = 128, answer = AnswerBy::Mbr }
}

impl Quest {
    fn plan(&self) -> Plan {
        Plan {
            cut: self.cut,
            tries: self.tries,
            ladder: self.ladder.clone(),
            rao_blackwell: self.rao_blackwell,
            ..Plan::new(&INFO, Law::Gibbs { beta: self.beta }, self.common())
        }
    }
}
