//! One move of a chain.
//!
//! With one try a move is Metropolis–Hastings. With several tries, all from one cut, it is independent multiple-try
//! Metropolis (Liu, Liang and Wong 2000): of the suffixes `y'_1 … y'_k` one is chosen in proportion to
//! `v_j = w(y'_j) c(i|y'_j)` and accepted with `min(1, Σ_j v_j / (Σ_{j≠chosen} v_j + v))`, where `v` is that of the current
//! state. Given the cut, suffixes are independent draws from one law, so no second set of tries is needed.

use generate::{Chance, SampleAsk, Stream, TokenId};

use super::cuts::CutLaw;
use super::law::{Law, Scored};

/// The kernel of a chain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kernel {
    /// The most tokens of a completion, the end-of-sequence token included.
    pub horizon: usize,
    /// The target.
    pub law: Law,
    /// Where states are cut.
    pub cut: CutLaw,
    /// Suffixes drawn at each cut; at least 1.
    pub tries: usize,
}

/// Proposals under way: what is kept of the state, and the asks for the rest.
#[derive(Debug)]
pub struct Cut {
    /// How many tokens of the state are kept.
    pub at: usize,
    /// The asks whose answers complete the proposals, one for each try.
    pub asks: Vec<SampleAsk>,
}

impl Kernel {
    /// Draws a cut of `state` (not empty, with its cuts at the ends of steps) and asks for new suffixes within the
    /// horizon. `stream` is the move's own; suffix `j` gets its child `j`.
    pub fn propose(
        &self,
        prompt: &[TokenId],
        state: &[TokenId],
        steps: &[usize],
        stream: &mut Stream,
        chance: &mut Chance<'_>,
    ) -> Cut {
        let at = self.cut.draw(state.len(), steps, stream, chance);
        let ask = |label| SampleAsk {
            prefix: [prompt, &state[..at]].concat(),
            prompt_len: prompt.len(),
            budget: self.horizon - at,
            stream: stream.child(label),
        };
        Cut { at, asks: (0..self.tries as u64).map(ask).collect() }
    }

    /// `ln(w(y') c(at|y') / (w(y) c(at|y)))`: with one try, the logarithm of the acceptance ratio.
    pub fn log_alpha(&self, at: usize, current: &Scored, proposal: &Scored) -> f64 {
        if self.law == Law::Walk {
            return 0.0;
        }
        let ratio = self.law.log_ratio(current, proposal) + self.cut.log_ratio(at, current, proposal);
        ratio.clamp(f64::MIN, f64::MAX)
    }

    /// What a move from `current` may end at.
    pub fn odds(&self, at: usize, current: &Scored, proposals: &[Scored]) -> Odds {
        Odds(proposals.iter().map(|proposal| self.log_alpha(at, current, proposal)).collect())
    }
}

/// `ln(v_j / v)` of the tries of one move; not empty, finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Odds(pub Vec<f64>);

impl Odds {
    /// `ln` of the acceptance ratio of try `chosen`, not cut off at 0.
    pub fn log_alpha(&self, chosen: usize) -> f64 {
        let [one] = self.0[..] else {
            let others = self.0.iter().enumerate().filter(|(j, _)| *j != chosen).map(|(_, odds)| *odds);
            return log_sum(self.0.iter().copied()) - log_sum(others.chain(std::iter::once(0.0)));
        };
        one
    }

    /// Chooses a try and decides whether it is accepted, by the move's stream.
    pub fn decide(&self, stream: &mut Stream, chance: &mut Chance<'_>) -> Decision {
        let draw = chance.of(stream);
        let chosen = if self.0.len() == 1 { 0 } else { draw.pick(&self.0) };
        Decision { chosen, accepted: draw.accept(self.log_alpha(chosen)) }
    }

    /// Probability of each try to be the next state, given the tries; the current state has the rest.
    pub fn probabilities(&self) -> Vec<f64> {
        let total = log_sum(self.0.iter().copied());
        let one = |(j, odds): (usize, &f64)| {
            let chosen = if self.0.len() == 1 { 0.0 } else { odds - total };
            (chosen + self.log_alpha(j).min(0.0)).exp()
        };
        self.0.iter().enumerate().map(one).collect()
    }
}

/// The outcome of a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The try that was up for acceptance.
    pub chosen: usize,
    /// Whether it is the new state.
    pub accepted: bool,
}

/// `ln Σ exp`, of at least one finite number.
fn log_sum(logs: impl Iterator<Item = f64> + Clone) -> f64 {
    let greatest = logs.clone().fold(f64::NEG_INFINITY, f64::max);
    greatest + logs.map(|log| (log - greatest).exp()).sum::<f64>().ln()
}

/// `ln` of the probability, not cut off at 0, that two rungs of a ladder exchange their states: `low`, with the law `a`,
/// and `high`, with the law `b`. Both draw from one law, which cancels.
pub(super) fn log_swap(a: Law, b: Law, low: &Scored, high: &Scored) -> f64 {
    (a.log_ratio(low, high) + b.log_ratio(high, low)).clamp(f64::MIN, f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use generate::Purpose;

    const KERNEL: Kernel =
        Kernel { horizon: 5, law: Law::Tilted { beta: 0.5 }, cut: CutLaw::Uniform, tries: 1 };

    #[test]
    fn budgets_keep_the_horizon() {
        let mut seen = [false; 4];
        for row in 0..64 {
            let mut stream = Stream::new(0, Purpose::Method, 0, row);
            let kernel = Kernel { tries: 2, ..KERNEL };
            let cut = kernel.propose(&[9, 8], &[1, 2, 3, 4], &[0], &mut stream, &mut Chance::Streams);
            assert_eq!(cut.asks.len(), 2);
            for ask in &cut.asks {
                assert_eq!(ask.prefix, [&[9, 8][..], &[1, 2, 3, 4][..cut.at]].concat());
                assert_eq!((cut.at + ask.budget, ask.prompt_len), (5, 2));
            }
            assert!(cut.asks[0].stream != cut.asks[1].stream);
            seen[cut.at] = true;
        }
        assert_eq!(seen, [true; 4], "every cut but the one after the last token");
    }

    #[test]
    fn longer_proposals_are_accepted_less() {
        let short = Scored { len: 2, reward: 1.0, ..Scored::default() };
        let long = Scored { len: 6, reward: 1.5, ..Scored::default() };
        assert!((KERNEL.log_alpha(1, &short, &long) - (1.0 - 3_f64.ln())).abs() < 1e-15);
        assert_eq!(KERNEL.log_alpha(1, &long, &short), -KERNEL.log_alpha(1, &short, &long));
    }

    #[test]
    fn odds_of_a_worked_example() {
        // Weights 1, 2 and 3 against 4: acceptance 6/9, 6/8, 6/7 of those chosen with 1/6, 2/6, 3/6.
        let odds = Odds([1.0_f64, 2.0, 3.0].map(|v| (v / 4.0).ln()).to_vec());
        for (got, want) in odds.probabilities().into_iter().zip([1.0 / 9.0, 2.0 / 8.0, 3.0 / 7.0]) {
            assert!((got - want).abs() < 1e-15, "{got} against {want}");
        }
        assert_eq!(Odds(vec![0.7]).probabilities(), [1.0]);
        assert!((Odds(vec![-0.7]).probabilities()[0] - (-0.7_f64).exp()).abs() < 1e-16);
        let extreme = Odds(vec![f64::MAX, f64::MIN, 0.0]).probabilities();
        assert_eq!(extreme, [1.0, 0.0, 0.0]);
    }
}
