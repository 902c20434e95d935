//! One move of the chain.
//!
//! From `y` of `n` tokens, the end-of-sequence token counted: draw the cut `i` uniformly from `0..n`, keep `y[..i]`, draw
//! the rest from the policy up to the horizon; accept `y'` of `n'` tokens with probability
//! `min(1, exp((r' − r) / beta) · n / n')`.
//!
//! The cut is an auxiliary variable and each cut is balanced by itself: forward `p(y'_{≥i}) / n`, backward `p(y_{≥i}) / n'`,
//! and `p` cancels against the target. The backward move exists because a new suffix has at least one token.

use generate::{Chance, SampleAsk, Stream, TokenId};

/// The kernel of a chain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kernel {
    /// The most tokens of a completion, the end-of-sequence token included.
    pub horizon: usize,
    /// Divides the rewards; above zero.
    pub beta: f64,
}

/// A proposal under way: what is kept of the state, and the ask for the rest.
#[derive(Debug)]
pub struct Cut {
    /// How many tokens of the state are kept.
    pub at: usize,
    /// The ask whose answer completes the proposal.
    pub ask: SampleAsk,
}

/// What the acceptance looks at of a completion.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scored {
    /// Its tokens, the end-of-sequence token included; at least 1.
    pub len: usize,
    /// Its reward; finite.
    pub reward: f64,
}

impl Kernel {
    /// Draws a cut of `state` (not empty) and asks for a new suffix within the horizon. `stream` is the move's own; the
    /// suffix gets its first child.
    pub fn propose(
        &self,
        prompt: &[TokenId],
        state: &[TokenId],
        stream: &mut Stream,
        chance: &mut Chance<'_>,
    ) -> Cut {
        let at = chance.of(stream).below(state.len());
        let ask = SampleAsk {
            prefix: [prompt, &state[..at]].concat(),
            prompt_len: prompt.len(),
            budget: self.horizon - at,
            stream: stream.child(0),
        };
        Cut { at, ask }
    }

    /// `(r' − r) / beta + ln(n / n')`.
    pub fn log_alpha(&self, current: Scored, proposal: Scored) -> f64 {
        (proposal.reward - current.reward) / self.beta + (current.len as f64 / proposal.len as f64).ln()
    }

    /// Whether the proposal is accepted, decided by the move's stream.
    pub fn accept(
        &self,
        current: Scored,
        proposal: Scored,
        stream: &mut Stream,
        chance: &mut Chance<'_>,
    ) -> bool {
        chance.of(stream).accept(self.log_alpha(current, proposal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use generate::Purpose;

    #[test]
    fn budgets_keep_the_horizon() {
        let kernel = Kernel { horizon: 5, beta: 1.0 };
        let mut seen = [false; 4];
        for row in 0..64 {
            let mut stream = Stream::new(0, Purpose::Method, 0, row);
            let cut = kernel.propose(&[9, 8], &[1, 2, 3, 4], &mut stream, &mut Chance::Streams);
            assert_eq!(cut.ask.prefix, [&[9, 8][..], &[1, 2, 3, 4][..cut.at]].concat());
            assert_eq!((cut.at + cut.ask.budget, cut.ask.prompt_len), (5, 2));
            seen[cut.at] = true;
        }
        assert_eq!(seen, [true; 4], "every cut but the one after the last token");
    }

    #[test]
    fn longer_proposals_are_accepted_less() {
        let kernel = Kernel { horizon: 9, beta: 0.5 };
        let (short, long) = (Scored { len: 2, reward: 1.0 }, Scored { len: 6, reward: 1.5 });
        assert!((kernel.log_alpha(short, long) - (1.0 - 3_f64.ln())).abs() < 1e-15);
        assert_eq!(kernel.log_alpha(long, short), -kernel.log_alpha(short, long));
    }
}
