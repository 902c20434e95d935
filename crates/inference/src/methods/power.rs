//! Power sampling: a Metropolis–Hastings chain over completions whose stationary law is `p(y)^alpha / Z`, with the policy's
//! raw law `p` and no reward (Karan and Du 2025, "Reasoning with Sampling", arXiv 2510.14901).
//!
//! That is not the policy at temperature `1 / alpha`, which sharpens every token by itself: a token counts here for the best
//! of what can follow it. Proposals come from `q`, the policy at the recipe's temperature divided by `alpha`, which decides
//! how fast the chain moves and not where it goes; filters restrict the support. A move cuts the state of `n` tokens at
//! `i`, draws the rest from `q` and accepts with
//! `min(1, (p(y') / p(y))^alpha · q(y_{≥i}) / q(y'_{≥i}) · n / n')`.
//!
//! Where this differs from the public code:
//! 1. a fixed horizon: a suffix may be longer than what it replaces. The public code ends proposals at the current length,
//!    which leaves an error that no number of steps removes;
//! 2. the length ratio is part of the acceptance, since the law of the cut depends on the length;
//! 3. one chain over whole completions instead of some moves after each block of new tokens;
//! 4. a vote over the states is an option beside the last state, and so are several chains, tries and tempering.

use generate::Sampling;

use crate::chain::{AnswerBy, CutLaw, Law, Plan, chain_settings};
use crate::method::{Access, Info, Need};

/// The listing.
pub static INFO: Info = Info {
    name: "power",
    access: Access::LogProbs,
    needs: &[],
    may_need: &[Need::Reward, Need::AnswerExtractor, Need::Similarity, Need::StepEnds],
    paper: "Karan and Du 2025, arXiv 2510.14901",
    summary: "a Markov chain over completions with the law p(y)^alpha / Z, and its last state",
};

chain_settings! {
    /// Settings of `power`. The paper takes `alpha = 4` and 10 moves after each of 16 blocks of tokens.
    pub struct Power {
        /// The exponent of the policy's law; above 1 it is sharpened.
        #[schemars(extend("exclusiveMinimum" = 0))]
        pub alpha: f64 = 4.0,
        /// Where states are cut.
        pub cut: CutLaw = CutLaw::Uniform,
        /// Suffixes drawn at each cut, of which one may become the state: they share the prefix and a batch.
        #[schemars(range(min = 1))]
        pub tries: usize = 1,
        /// Parallel tempering: the smaller `alpha` of further chains, descending, which exchange states with their
        /// neighbours after every move. Each costs as much as the chain itself.
        pub ladder: Vec<f64> = Vec::new(),
        /// Lets each move add the probability of each of its outcomes instead of one vote to the outcome: the same
        /// expectation at less variance.
        pub rao_blackwell: bool = false,
    }
    defaults { steps = 64, answer = AnswerBy::Last }
    sampling = Self::proposals;
}

impl Power {
    /// The law that suffixes are drawn from.
    fn proposals(&self, sampling: Sampling) -> Sampling {
        Sampling { temperature: (f64::from(sampling.temperature) / self.alpha) as f32, ..sampling }
    }

    fn plan(&self) -> Plan {
        Plan {
            cut: self.cut,
            tries: self.tries,
            ladder: self.ladder.clone(),
            rao_blackwell: self.rao_blackwell,
            ..Plan::new(&INFO, Law::Power { alpha: self.alpha }, self.common())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Method;

    #[test]
    fn a_ladder_leads_down_to_the_policy() {
        let keys = |ladder: &[f64]| -> Vec<&str> {
            let method = Power { ladder: ladder.to_vec(), ..Power::default() };
            method.problems().iter().map(|problem| problem.key).collect()
        };
        assert!(keys(&[2.0, 1.0]).is_empty());
        for bad in [&[4.0][..], &[1.0, 2.0], &[0.0]] {
            assert_eq!(keys(bad), ["ladder"], "{bad:?}");
        }
        assert!(Power::default().needs().is_empty(), "neither a reward nor a task");
        let problem = Power { alpha: 0.0, ..Power::default() }.problems().remove(0).to_string();
        assert!(problem.starts_with("`alpha`: 0 is not a finite number above 0"), "{problem}");
    }

    #[test]
    fn proposals_are_drawn_at_a_lower_temperature() {
        let at = |temperature| {
            let given = Sampling { temperature, ..Sampling::default() };
            Power { alpha: 2.0, ..Power::default() }.sampling(given).temperature
        };
        assert_eq!((at(1.0), at(0.5)), (0.5, 0.25));
    }
}
