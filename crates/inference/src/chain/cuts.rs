//! The laws of the cut.

use generate::{Chance, Stream, TokenId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::law::Scored;

/// Where a completion of `n` tokens, the end-of-sequence token counted, is cut: how many of its first tokens are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CutLaw {
    /// Every `i` in `0..n` with probability `1 / n`.
    #[default]
    Uniform,
    /// 0 and the places behind a line break, each with the same probability: whole steps of a solution are drawn anew.
    StepBoundaries,
    /// `i` with probability proportional to `n − i`: early cuts change more and cost more.
    Early,
    /// Always 0: a proposal is a whole new completion.
    #[serde(skip)]
    Whole,
}

impl CutLaw {
    /// Draws a cut of a completion of `len` tokens, whose cuts at the ends of steps are `steps`.
    pub(super) fn draw(
        self,
        len: usize,
        steps: &[usize],
        stream: &mut Stream,
        chance: &mut Chance<'_>,
    ) -> usize {
        let draw = chance.of(stream);
        match self {
            Self::Uniform => draw.below(len),
            Self::StepBoundaries => steps[draw.below(steps.len())],
            Self::Early => draw.pick(&(0..len).map(|i| ((len - i) as f64).ln()).collect::<Vec<_>>()),
            Self::Whole => 0,
        }
    }

    /// `ln(c(at | to) / c(at | from))`. Both have the cut `at`: it is kept by both, and whether a place is the end of a
    /// step is decided by the token before it.
    pub fn log_ratio(self, at: usize, from: &Scored, to: &Scored) -> f64 {
        match self {
            Self::Uniform => (from.len as f64 / to.len as f64).ln(),
            Self::StepBoundaries => (from.steps as f64 / to.steps as f64).ln(),
            Self::Early => {
                // c(i | n) = (n − i) / (n (n + 1) / 2).
                let share = |n: usize| (n - at) as f64 / (n as f64 * (n + 1) as f64);
                (share(to.len) / share(from.len)).ln()
            }
            Self::Whole => 0.0,
        }
    }
}

/// The cuts at the ends of steps: 0, and the places behind a token that ends one, the end of the completion left out.
pub(super) fn step_cuts(ids: &[TokenId], ends_step: &dyn Fn(TokenId) -> bool) -> Vec<usize> {
    std::iter::once(0).chain((1..ids.len()).filter(|i| ends_step(ids[i - 1]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use generate::Purpose;
    use objective::draw::Exhaustive;

    /// Exact probabilities of the cuts of `ids`, where token 1 ends a step.
    fn law(cut: CutLaw, ids: &[TokenId]) -> Vec<(usize, f64)> {
        let steps = step_cuts(ids, &|id| id == 1);
        Exhaustive::law(|draw| {
            let mut stream = Stream::new(0, Purpose::Method, 0, 0);
            cut.draw(ids.len(), &steps, &mut stream, &mut Chance::Replay(draw))
        })
        .expect("finite")
    }

    #[test]
    fn cuts_have_their_laws() {
        let ids = [0, 1, 5, 1];
        assert_eq!(law(CutLaw::Uniform, &ids), [(0, 0.25), (1, 0.25), (2, 0.25), (3, 0.25)]);
        assert_eq!(law(CutLaw::StepBoundaries, &ids), [(0, 0.5), (2, 0.5)]);
        assert_eq!(law(CutLaw::StepBoundaries, &[1, 1]), [(0, 0.5), (1, 0.5)]);
        assert_eq!(law(CutLaw::Whole, &ids), [(0, 1.0)]);
        for ((i, p), want) in law(CutLaw::Early, &ids).into_iter().zip([0.4, 0.3, 0.2, 0.1]) {
            assert!((p - want).abs() < 1e-15, "{i}: {p}");
        }
    }

    #[test]
    fn the_ratio_is_that_of_the_laws() {
        let (old, new) = ([0, 1, 5, 1, 7], [0, 1, 1]);
        let scored = |ids: &[TokenId]| Scored {
            len: ids.len(),
            steps: step_cuts(ids, &|id| id == 1).len(),
            ..Scored::default()
        };
        for cut in [CutLaw::Uniform, CutLaw::StepBoundaries, CutLaw::Early, CutLaw::Whole] {
            let probability =
                |ids: &[TokenId], at| law(cut, ids).iter().find(|(i, _)| *i == at).map_or(0.0, |(_, p)| *p);
            for at in 0..3 {
                let (forward, backward) = (probability(&old, at), probability(&new, at));
                assert_eq!(forward > 0.0, backward > 0.0, "{cut:?} at {at}");
                if forward > 0.0 {
                    let got = cut.log_ratio(at, &scored(&old), &scored(&new));
                    assert!((got - (backward / forward).ln()).abs() < 1e-12, "{cut:?} at {at}");
                }
            }
        }
    }
}
