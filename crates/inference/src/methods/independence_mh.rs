//! Independence Metropolis–Hastings, a control of `qalign`: the same target `p(y) exp(r(y) / beta) / Z`, but every proposal
//! is a whole fresh completion, accepted with `min(1, exp((r' − r) / beta))`.
//!
//! Nothing is kept of a state, so there is no cut and no length ratio, and a policy that cannot continue a given prefix will
//! do. What `qalign` gains over it at equal decoded tokens is what keeping prefixes is worth (Hastings 1970, and QAlign's
//! fall-back without prefixes).

use crate::chain::{AnswerBy, Budget, CutLaw, Law, Plan, chain_settings};
use crate::method::{Access, Info, Need};

/// The listing.
pub static INFO: Info = Info {
    name: "independence-mh",
    access: Access::Text,
    needs: &[Need::Reward],
    may_need: &[Need::AnswerExtractor, Need::Similarity],
    paper: "Hastings 1970, Biometrika 57(1)",
    summary: "control of qalign: the same law, by proposals that are whole fresh completions",
};

chain_settings! {
    /// Settings of `independence-mh`.
    pub struct IndependenceMh {
        /// Divides the rewards, in their unit. With a budget, the least `beta` that a prompt may get.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub beta: f64 = 0.5,
        /// Completions drawn at each move, of which one may become the state.
        #[schemars(range(min = 1))]
        pub tries: usize = 1,
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

impl IndependenceMh {
    fn plan(&self) -> Plan {
        let budget = Budget { pilot: self.pilot, kl: self.kl_budget, ess: self.ess_budget };
        Plan {
            cut: CutLaw::Whole,
            tries: self.tries,
            rao_blackwell: self.rao_blackwell,
            budget: (budget.kl.is_some() || budget.ess.is_some()).then_some(budget),
            ..Plan::new(&INFO, Law::Tilted { beta: self.beta }, self.common())
        }
    }
}
