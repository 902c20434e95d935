//! The arithmetic of operations: which numbers are possible, what comes out, and the equations that show it.

use std::fmt;
use std::ops::ControlFlow;

use super::config::Config;
use super::draws::Draws;
use super::operation::{Operation, Place};

/// A true statement `left symbol right = result`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Equation {
    left: i64,
    symbol: char,
    right: i64,
    pub(super) result: i64,
}

impl Equation {
    pub(super) const fn plus(left: i64, right: i64) -> Self {
        Self { left, symbol: '+', right, result: left + right }
    }

    pub(super) const fn minus(left: i64, right: i64) -> Self {
        Self { left, symbol: '-', right, result: left - right }
    }

    pub(super) const fn times(left: i64, right: i64) -> Self {
        Self { left, symbol: '*', right, result: left * right }
    }

    /// Exact division: `right` divides `left`.
    pub(super) const fn over(left: i64, right: i64) -> Self {
        Self { left, symbol: '/', right, result: left / right }
    }
}

impl fmt::Display for Equation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} {} = {}", self.left, self.symbol, self.right, self.result)
    }
}

/// The numbers of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    /// Running quantity before the step; 0 for an opener.
    pub(super) before: i64,
    /// First number of the sentence; 0 where it has none.
    pub(super) a: i64,
    /// Second number of the sentence; 0 where it has none.
    pub(super) b: i64,
    /// Running quantity after the step.
    pub(super) after: i64,
}

/// Calls `visit(a, b, after)` for every choice of numbers that `operation` allows on `r`, in increasing order, until it
/// breaks. Quantities stay within 1 to `max_number`, and every number of a sentence is at least 2, so that texts need
/// no singular after a number.
pub(super) fn visit(
    operation: Operation,
    r: i64,
    limits: &Config,
    mut visit: impl FnMut(i64, i64, i64) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let &Config { max_number: top, max_addend, max_factor, max_multiplier, .. } = limits;
    let products =
        || (2..=max_multiplier).flat_map(move |a| (2..=max_factor.min(top / a)).map(move |b| (a, b)));
    // Quotients have to be in the same tables as products.
    let divides = |a: i64| r % a == 0 && (2..=max_factor).contains(&(r / a));
    match operation {
        Operation::Groups | Operation::Rate | Operation::Cost => {
            products().try_for_each(|(a, b)| visit(a, b, a * b))
        }
        Operation::Gain | Operation::More | Operation::Join => {
            (2..=max_addend.min(top - r)).try_for_each(|a| visit(a, 0, r + a))
        }
        Operation::Lose | Operation::Fewer => {
            (2..=max_addend.min(r - 1)).try_for_each(|a| visit(a, 0, r - a))
        }
        Operation::Double if r * 2 <= top => visit(0, 0, r * 2),
        Operation::Half if r >= 4 && r % 2 == 0 => visit(0, 0, r / 2),
        // A single thing is neither "all the apples" nor a fair base of comparison.
        Operation::Times | Operation::Sell if (2..=max_factor).contains(&r) => {
            (2..=max_multiplier.min(top / r)).try_for_each(|a| visit(a, 0, r * a))
        }
        Operation::PoolTimes if (2..=max_factor).contains(&r) => {
            (2..=max_multiplier.min(top / r - 1)).try_for_each(|a| visit(a, 0, r * a + r))
        }
        Operation::Double | Operation::Half | Operation::Times | Operation::Sell | Operation::PoolTimes => {
            ControlFlow::Continue(())
        }
        Operation::PoolMore => (2..=max_addend.min(top - 2 * r)).try_for_each(|a| visit(a, 0, r + r + a)),
        Operation::Part => (3..=5).filter(|&a| divides(a)).try_for_each(|a| visit(a, 0, r - r / a)),
        Operation::Share | Operation::Spend => {
            (2..=max_multiplier).filter(|&a| divides(a)).try_for_each(|a| visit(a, 0, r / a))
        }
        Operation::Leftover => (3..=max_multiplier)
            .filter(|&a| r % a > 0 && (2..=max_factor).contains(&(r / a)))
            .try_for_each(|a| visit(a, 0, r % a)),
        Operation::Restock => {
            products().filter(|&(a, b)| r + a * b <= top).try_for_each(|(a, b)| visit(a, b, r + a * b))
        }
        Operation::Handout => {
            products().filter(|&(a, b)| a * b < r).try_for_each(|(a, b)| visit(a, b, r - a * b))
        }
        Operation::Goal | Operation::Behind | Operation::Change => {
            (r + 2..=top).try_for_each(|a| visit(a, 0, a - r))
        }
        Operation::Ahead => (2..r).try_for_each(|a| visit(a, 0, r - a)),
    }
}

/// The equations of a step, the last of which gives the new running quantity.
pub(super) fn equations(operation: Operation, numbers: Numbers) -> Vec<Equation> {
    let Numbers { before: r, a, b, .. } = numbers;
    let then = |first: Equation, second: fn(i64, i64) -> Equation| vec![first, second(r, first.result)];
    match operation {
        Operation::Groups | Operation::Rate | Operation::Cost => vec![Equation::times(a, b)],
        Operation::Gain | Operation::More | Operation::Join => vec![Equation::plus(r, a)],
        Operation::Lose | Operation::Fewer | Operation::Ahead => vec![Equation::minus(r, a)],
        Operation::Goal | Operation::Behind | Operation::Change => vec![Equation::minus(a, r)],
        Operation::Double => vec![Equation::times(r, 2)],
        Operation::Half => vec![Equation::over(r, 2)],
        Operation::Times | Operation::Sell => vec![Equation::times(r, a)],
        Operation::Share | Operation::Spend => vec![Equation::over(r, a)],
        Operation::PoolMore => then(Equation::plus(r, a), Equation::plus),
        Operation::PoolTimes => then(Equation::times(r, a), Equation::plus),
        Operation::Part => then(Equation::over(r, a), Equation::minus),
        Operation::Leftover => then(Equation::times(r / a, a), Equation::minus),
        Operation::Restock => then(Equation::times(a, b), Equation::plus),
        Operation::Handout => then(Equation::times(a, b), Equation::minus),
    }
}

/// From which running quantities a sequence of operations can be completed within the limits.
#[derive(Debug)]
pub(super) struct Feasible<'a> {
    operations: &'a [Operation],
    limits: &'a Config,
    /// `[i][r]`: the operations from `i` on can be completed from `r`.
    from: Vec<Vec<bool>>,
}

impl<'a> Feasible<'a> {
    /// Backward from the last operation. `None` where no numbers complete the sequence.
    pub(super) fn new(operations: &'a [Operation], limits: &'a Config) -> Option<Self> {
        let quantities = limits.max_number as usize + 1;
        let mut from = vec![vec![true; quantities]; operations.len() + 1];
        for (index, &operation) in operations.iter().enumerate().rev() {
            let (head, tail) = from.split_at_mut(index + 1);
            for (r, feasible) in head[index].iter_mut().enumerate() {
                // The first quantity is at least 2; an opener has none before it, which is 0.
                let meant = if index > 0 {
                    r >= 1
                } else if opens(operations) {
                    r == 0
                } else {
                    r >= 2
                };
                *feasible = meant
                    && visit(operation, r as i64, limits, |_, _, after| stop_if(tail[0][after as usize]))
                        .is_break();
            }
        }
        from[0].contains(&true).then_some(Self { operations, limits, from })
    }

    /// Numbers for every step: the starting quantity uniform among the feasible ones, then each step's numbers uniform
    /// among those from which the rest can be completed.
    pub(super) fn draw(&self, draws: &mut Draws) -> Vec<Numbers> {
        let starts: Vec<_> = (0..self.from[0].len()).filter(|&r| self.from[0][r]).collect();
        let mut before = draws.pick(&starts) as i64;
        let mut steps = Vec::with_capacity(self.operations.len());
        for (&operation, rest) in self.operations.iter().zip(&self.from[1..]) {
            let mut choices = Vec::new();
            let _ = visit(operation, before, self.limits, |a, b, after| {
                if rest[after as usize] {
                    choices.push(Numbers { before, a, b, after });
                }
                ControlFlow::Continue(())
            });
            let chosen = draws.pick(&choices);
            before = chosen.after;
            steps.push(chosen);
        }
        steps
    }
}

fn opens(operations: &[Operation]) -> bool {
    operations.first().is_some_and(|operation| operation.place() == Place::Opener)
}

fn stop_if(found: bool) -> ControlFlow<()> {
    if found { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

#[cfg(test)]
mod tests {
    use super::super::config::Split;
    use super::super::draws::Purpose;
    use super::*;

    #[test]
    fn equations_are_true_and_end_in_the_new_quantity() {
        let limits = Config::default();
        for operation in Operation::ALL {
            let mut seen = 0;
            // Only an opener starts from nothing.
            let starts = if operation.place() == Place::Opener { 0..=0 } else { 1..=limits.max_number };
            for before in starts {
                let _ = visit(operation, before, &limits, |a, b, after| {
                    let shown = equations(operation, Numbers { before, a, b, after });
                    assert_eq!(shown.last().unwrap().result, after, "{operation:?}");
                    for Equation { left, symbol, right, result } in shown {
                        let back = match symbol {
                            '+' => result - left == right,
                            '-' => result + right == left,
                            '*' => result % left == 0 && result / left == right,
                            '/' => result * right == left,
                            _ => false,
                        };
                        assert!(back && (1..=99).contains(&result), "{operation:?} {before} {a} {b}");
                    }
                    seen += 1;
                    ControlFlow::Continue(())
                });
            }
            assert!(seen >= 30, "{operation:?} has only {seen} choices of numbers");
        }
    }

    #[test]
    fn feasible_sequences_always_draw_and_infeasible_ones_are_refused() {
        let limits = Config { max_number: 20, max_addend: 5, ..Config::default() };
        // From at least 2, five doublings pass 20; three do not.
        assert!(Feasible::new(&[Operation::Double; 5], &limits).is_none());
        let three = [Operation::Double; 3];
        let feasible = Feasible::new(&three, &limits).unwrap();
        let mut draws = Draws::new(0, Purpose::Story, Split::Train, 0);
        for _ in 0..50 {
            let steps = feasible.draw(&mut draws);
            assert_eq!(steps.len(), 3);
            assert!(steps[0].before == 2 && steps[2].after == 16);
        }
    }

    #[test]
    fn numbers_chain_from_step_to_step() {
        let limits = Config::default();
        let operations =
            [Operation::Groups, Operation::Lose, Operation::Share, Operation::Restock, Operation::Goal];
        let feasible = Feasible::new(&operations, &limits).unwrap();
        let mut draws = Draws::new(3, Purpose::Story, Split::Train, 1);
        for _ in 0..200 {
            let steps = feasible.draw(&mut draws);
            assert_eq!(steps[0].before, 0);
            assert!(steps.windows(2).all(|pair| pair[0].after == pair[1].before));
        }
    }
}
