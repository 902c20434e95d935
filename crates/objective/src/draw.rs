//! One door for every random decision.
//!
//! A sampler that takes `&mut dyn Draw` runs in two ways through the same code: on a stream of random numbers, to produce
//! text; and on [`Exhaustive`], which replays it once per branch of its random choices and returns the exact law of its
//! output. The second is how every method is tested against the distribution that it claims to sample from.

use std::any::Any;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::numeric::Sum;

/// Source of the random decisions of a method.
///
/// Every call is one decision. Implementations must be functions of their own state only: the same state and the same
/// arguments give the same answer.
///
/// # Panics
/// `pick` and `below` have no answer when nothing has a positive weight. Implementations panic with the text of the
/// [`DrawError`] in that case; callers that take weights from outside check them first with [`check_weights`].
pub trait Draw {
    /// Index drawn with probability proportional to `exp(log_weights[i])`. Weights need not be normalised; `-inf` is
    /// never picked.
    fn pick(&mut self, log_weights: &[f64]) -> usize;

    /// `true` with probability `min(1, exp(log_alpha))`: the acceptance step of Metropolis–Hastings.
    fn accept(&mut self, log_alpha: f64) -> bool;

    /// Uniform integer in `0..n`.
    fn below(&mut self, n: usize) -> usize {
        self.pick(&vec![0.0; n])
    }
}

impl<D: Draw + ?Sized> Draw for &mut D {
    fn pick(&mut self, log_weights: &[f64]) -> usize {
        (**self).pick(log_weights)
    }

    fn accept(&mut self, log_alpha: f64) -> bool {
        (**self).accept(log_alpha)
    }

    fn below(&mut self, n: usize) -> usize {
        (**self).below(n)
    }
}

impl<D: Draw + ?Sized> Draw for Box<D> {
    fn pick(&mut self, log_weights: &[f64]) -> usize {
        (**self).pick(log_weights)
    }

    fn accept(&mut self, log_alpha: f64) -> bool {
        (**self).accept(log_alpha)
    }

    fn below(&mut self, n: usize) -> usize {
        (**self).below(n)
    }
}

/// Why a decision could not be made, or a law could not be enumerated.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DrawError {
    /// There was nothing to choose from.
    #[error("cannot pick from an empty list of weights; pass at least one candidate")]
    Empty,
    /// All candidates have probability zero.
    #[error("cannot pick: all {count} log-weights are -inf; some candidate must remain after filtering")]
    AllZero {
        /// Number of candidates.
        count: usize,
    },
    /// A weight is NaN or +inf.
    #[error("log-weight {index} is {value}; log-weights must be finite or -inf")]
    BadWeight {
        /// Position of the first such weight.
        index: usize,
        /// The weight.
        value: f64,
    },
    /// The log acceptance probability is NaN.
    #[error("log acceptance probability is NaN; check for -inf minus -inf in the log-ratio")]
    BadAcceptance,
    /// The method made more decisions in one run than the limit.
    #[error("one run made more than {limit} random decisions; shorten the horizon or raise `max_depth`")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// The method has more outcomes than the limit.
    #[error("more than {limit} branches of random decisions; make the toy smaller or raise `max_branches`")]
    TooManyBranches {
        /// The limit.
        limit: usize,
    },
    /// The method made a different decision when replayed.
    #[error("decision {decision} changed between replays; the method must depend on nothing but its draws")]
    NotReplayable {
        /// Index of the decision within the run, from 0.
        decision: usize,
    },
}

/// Checks that `log_weights` describe a distribution: not empty, no NaN or `+inf`, at least one above `-inf`.
pub fn check_weights(log_weights: &[f64]) -> Result<(), DrawError> {
    if log_weights.is_empty() {
        return Err(DrawError::Empty);
    }
    if let Some(index) = log_weights.iter().position(|w| w.is_nan() || *w == f64::INFINITY) {
        return Err(DrawError::BadWeight { index, value: log_weights[index] });
    }
    if log_weights.iter().all(|w| *w == f64::NEG_INFINITY) {
        return Err(DrawError::AllZero { count: log_weights.len() });
    }
    Ok(())
}

/// The index at which the cumulative distribution of `exp(log_weights)` passes `u`, for `u` in `[0, 1)`.
///
/// Implementations of [`Draw`] over a stream of uniform numbers share it, so that equal uniforms give equal picks.
/// Candidates of weight zero are never returned, also when rounding leaves the total below `u`.
pub fn pick_at(log_weights: &[f64], u: f64) -> Result<usize, DrawError> {
    let probabilities = probabilities(log_weights)?;
    let mut cumulative = 0.0;
    let mut last = 0;
    for (index, p) in probabilities.into_iter().enumerate() {
        if p > 0.0 {
            cumulative += p;
            last = index;
            if u < cumulative {
                return Ok(index);
            }
        }
    }
    Ok(last)
}

/// `exp(w_i - max) / sum`, after [`check_weights`].
fn probabilities(log_weights: &[f64]) -> Result<Vec<f64>, DrawError> {
    check_weights(log_weights)?;
    let max = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut weights: Vec<f64> = log_weights.iter().map(|w| (w - max).exp()).collect();
    let total = weights.iter().copied().collect::<Sum>().value();
    for w in &mut weights {
        *w /= total;
    }
    Ok(weights)
}

/// Enumerates a method: runs it once per branch of its random decisions, depth first.
///
/// ```
/// use objective::draw::{Draw, Exhaustive};
///
/// // The larger of two fair coins, then kept with probability 1/2 (else 0).
/// let law = Exhaustive::law(|draw| {
///     let best = draw.below(2).max(draw.below(2));
///     if draw.accept(0.5_f64.ln()) { best } else { 0 }
/// })?;
/// assert_eq!(law, vec![(0, 0.625), (1, 0.375)]);
/// # Ok::<(), objective::draw::DrawError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Exhaustive {
    /// Largest number of branches (complete runs).
    pub max_branches: usize,
    /// Largest number of branching decisions in one run; stops methods that loop until an acceptance.
    pub max_depth: usize,
}

impl Default for Exhaustive {
    /// Ten million branches of at most 10 000 decisions.
    fn default() -> Self {
        Self { max_branches: 10_000_000, max_depth: 10_000 }
    }
}

impl Exhaustive {
    /// Exact law of the output of `method`, in the order of `T`, under the default limits.
    ///
    /// Probabilities of equal outputs are added. Branches of probability zero are not run, and an acceptance with
    /// `log_alpha >= 0` or `-inf` does not branch. The probabilities sum to one.
    pub fn law<T: Ord>(method: impl FnMut(&mut dyn Draw) -> T) -> Result<Vec<(T, f64)>, DrawError> {
        Self::default().law_of(method)
    }

    /// [`Exhaustive::law`] under these limits.
    pub fn law_of<T: Ord>(&self, method: impl FnMut(&mut dyn Draw) -> T) -> Result<Vec<(T, f64)>, DrawError> {
        let mut law: BTreeMap<T, Sum> = BTreeMap::new();
        self.visit(method, |output, p| law.entry(output).or_default().add(p))?;
        Ok(law.into_iter().map(|(output, p)| (output, p.value())).collect())
    }

    /// Expectation of the vector that `method` returns, component by component, under the default limits. Exact means of
    /// gradient estimators come from here. Vectors of different lengths count as padded by zeros.
    pub fn mean(mut method: impl FnMut(&mut dyn Draw) -> Vec<f64>) -> Result<Vec<f64>, DrawError> {
        let mut sums: Vec<Sum> = Vec::new();
        Self::default().visit(&mut method, |output, p| {
            if sums.len() < output.len() {
                sums.resize(output.len(), Sum::default());
            }
            for (sum, x) in sums.iter_mut().zip(&output) {
                sum.add(p * x);
            }
        })?;
        Ok(sums.into_iter().map(|s| s.value()).collect())
    }

    /// Calls `leaf` with the output and the probability of each branch, depth first.
    pub fn visit<T>(
        &self,
        mut method: impl FnMut(&mut dyn Draw) -> T,
        mut leaf: impl FnMut(T, f64),
    ) -> Result<(), DrawError> {
        let mut replay = Replay { path: Vec::new(), depth: 0, probability: 1.0, max_depth: self.max_depth };
        for _ in 0..self.max_branches {
            replay.depth = 0;
            replay.probability = 1.0;
            let output = catch_unwind(AssertUnwindSafe(|| method(&mut replay))).map_err(stopped)?;
            if replay.depth < replay.path.len() {
                return Err(DrawError::NotReplayable { decision: replay.depth });
            }
            leaf(output, replay.probability);
            if !replay.advance() {
                return Ok(());
            }
        }
        Err(DrawError::TooManyBranches { limit: self.max_branches })
    }
}

/// A [`DrawError`] on its way from a decision, through the method, to [`Exhaustive::visit`]. The decisions of [`Draw`] are
/// infallible, and a method may loop until an acceptance, so unwinding is the only way out of it.
struct Stop(DrawError);

/// Recovers the error of a stopped run; panics of the method itself continue.
fn stopped(payload: Box<dyn Any + Send>) -> DrawError {
    match payload.downcast::<Stop>() {
        Ok(stop) => stop.0,
        Err(other) => resume_unwind(other),
    }
}

/// Unwinds without calling the panic hook: nothing is printed.
fn stop(error: DrawError) -> ! {
    resume_unwind(Box::new(Stop(error)))
}

/// A decision with more than one possible answer: the answers with their probabilities, and the one being explored.
#[derive(Debug)]
struct Decision {
    options: Vec<(usize, f64)>,
    current: usize,
}

/// The [`Draw`] that follows one path of decisions and extends it by first answers.
#[derive(Debug)]
struct Replay {
    path: Vec<Decision>,
    depth: usize,
    probability: f64,
    max_depth: usize,
}

impl Replay {
    fn decide(&mut self, options: Vec<(usize, f64)>) -> usize {
        // Certain answers are recomputed on every replay and need no place on the path.
        if let [(only, _)] = options[..] {
            return only;
        }
        if self.depth == self.max_depth {
            stop(DrawError::TooDeep { limit: self.max_depth });
        }
        match self.path.get(self.depth) {
            None => self.path.push(Decision { options, current: 0 }),
            Some(known) if known.options != options => {
                stop(DrawError::NotReplayable { decision: self.depth })
            }
            Some(_) => {}
        }
        let decision = &self.path[self.depth];
        let (answer, p) = decision.options[decision.current];
        self.depth += 1;
        self.probability *= p;
        answer
    }

    /// Moves to the next path; `false` after the last one.
    fn advance(&mut self) -> bool {
        while let Some(last) = self.path.last_mut() {
            last.current += 1;
            if last.current < last.options.len() {
                return true;
            }
            self.path.pop();
        }
        false
    }
}

impl Draw for Replay {
    fn pick(&mut self, log_weights: &[f64]) -> usize {
        match probabilities(log_weights) {
            Ok(p) => self.decide(p.into_iter().enumerate().filter(|(_, p)| *p > 0.0).collect()),
            Err(error) => stop(error),
        }
    }

    fn accept(&mut self, log_alpha: f64) -> bool {
        if log_alpha.is_nan() {
            stop(DrawError::BadAcceptance);
        }
        let yes = log_alpha.exp();
        // `exp_m1` keeps the probability of a refusal exact when it is small.
        let no = -log_alpha.min(0.0).exp_m1();
        if no <= 0.0 || yes <= 0.0 {
            return yes > 0.0;
        }
        self.decide(vec![(1, yes), (0, no)]) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn law_of_nested_decisions_is_exact() {
        let law = Exhaustive::law(|draw| {
            let first = draw.pick(&[1.0_f64.ln(), 3.0_f64.ln(), f64::NEG_INFINITY]);
            if first == 0 { vec![0] } else { vec![1, draw.below(4)] }
        })
        .expect("finite");
        let expected = vec![
            (vec![0], 0.25),
            (vec![1, 0], 0.1875),
            (vec![1, 1], 0.1875),
            (vec![1, 2], 0.1875),
            (vec![1, 3], 0.1875),
        ];
        assert_eq!(law.len(), expected.len());
        for ((a, p), (b, q)) in law.iter().zip(&expected) {
            assert_eq!(a, b);
            assert!((p - q).abs() < 1e-15, "{a:?}: {p} and not {q}");
        }
    }

    #[test]
    fn equal_outputs_are_merged_and_certain_acceptance_does_not_branch() {
        let mut runs = 0;
        let law = Exhaustive::law(|draw| {
            runs += 1;
            assert!(draw.accept(0.0));
            assert!(draw.accept(7.0));
            assert!(!draw.accept(f64::NEG_INFINITY));
            draw.below(3) + draw.below(3)
        })
        .expect("finite");
        assert_eq!(runs, 9);
        let ninths: Vec<f64> = law.iter().map(|(_, p)| p * 9.0).collect();
        for (got, want) in ninths.iter().zip([1.0, 2.0, 3.0, 2.0, 1.0]) {
            assert!((got - want).abs() < 1e-14);
        }
    }

    #[test]
    fn tiny_refusals_keep_their_probability() {
        let law = Exhaustive::law(|draw| draw.accept(-1e-20)).expect("finite");
        assert_eq!(law, vec![(false, 1e-20), (true, 1.0)]);
    }

    #[test]
    fn mean_is_an_exact_expectation() {
        let mean = Exhaustive::mean(|draw| {
            let x = draw.below(6) as f64 + 1.0;
            vec![x, x * x]
        })
        .expect("finite");
        assert!((mean[0] - 3.5).abs() < 1e-14 && (mean[1] - 91.0 / 6.0).abs() < 1e-13);
    }

    #[test]
    fn impossible_decisions_are_errors_with_their_place() {
        assert_eq!(Exhaustive::law(|d| d.pick(&[])), Err(DrawError::Empty));
        assert_eq!(Exhaustive::law(|d| d.below(0)), Err(DrawError::Empty));
        assert_eq!(
            Exhaustive::law(|d| d.pick(&[f64::NEG_INFINITY; 2])),
            Err(DrawError::AllZero { count: 2 })
        );
        assert!(matches!(
            Exhaustive::law(|d| d.pick(&[0.0, f64::NAN])),
            Err(DrawError::BadWeight { index: 1, .. })
        ));
        assert_eq!(Exhaustive::law(|d| d.accept(f64::NAN)), Err(DrawError::BadAcceptance));
    }

    #[test]
    fn endless_and_oversized_methods_are_refused() {
        let small = Exhaustive { max_branches: 8, max_depth: 20 };
        let count = |d: &mut dyn Draw, stop: bool| {
            let mut steps = 0;
            while d.accept(-1.0) != stop {
                steps += 1;
            }
            steps
        };
        assert_eq!(small.law_of(|d| count(d, false)), Err(DrawError::TooDeep { limit: 20 }));
        assert_eq!(small.law_of(|d| count(d, true)), Err(DrawError::TooManyBranches { limit: 8 }));
        assert_eq!(small.law_of(|d| d.below(9)), Err(DrawError::TooManyBranches { limit: 8 }));
        assert!(small.law_of(|d| d.below(8)).is_ok());
    }

    #[test]
    fn hidden_state_is_detected() {
        let mut hidden = 0;
        let law = Exhaustive::law(|draw| {
            hidden += 1;
            draw.below(1 + hidden)
        });
        assert_eq!(law, Err(DrawError::NotReplayable { decision: 0 }));
    }

    #[test]
    fn panics_of_the_method_pass_through() {
        let caught =
            std::panic::catch_unwind(|| Exhaustive::law(|_| -> u8 { resume_unwind(Box::new("mine")) }));
        assert_eq!(caught.expect_err("panics").downcast_ref::<&str>(), Some(&"mine"));
    }

    #[test]
    fn pick_at_inverts_the_cumulative_distribution() {
        let w = [f64::NEG_INFINITY, 1.0_f64.ln(), 3.0_f64.ln(), f64::NEG_INFINITY];
        for (u, want) in [(0.0, 1), (0.2499, 1), (0.2501, 2), (0.999_999, 2), (1.0, 2)] {
            assert_eq!(pick_at(&w, u), Ok(want), "u = {u}");
        }
        assert_eq!(pick_at(&[], 0.5), Err(DrawError::Empty));
    }
}
