//! Compositions: ordered sequences of operations, their keys, and which of them are held out.

use std::ops::ControlFlow;

use super::arithmetic::visit;
use super::config::{Config, Split};
use super::draws::Draws;
use super::operation::{Operation, Place, State, Unit};
use super::phrasing::{PHRASINGS, phrasings};

/// One in this many compositions, and one in this many sets of numbers, belongs to `test`.
const HELD_OUT_ONE_IN: u64 = 5;

/// A sequence of operations, and how each is worded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Composition {
    /// What the story counts at its start.
    pub(super) unit: Unit,
    pub(super) operations: Vec<Operation>,
    /// For each operation, its number in the registry of phrasings.
    pub(super) phrasings: Vec<usize>,
}

impl Composition {
    /// A random walk over the operations that fit one after the other.
    pub(super) fn draw(steps: usize, draws: &mut Draws) -> Self {
        // Bills and money know fewer operations: they come up less often.
        let unit = draws.pick(&[Unit::Things, Unit::Things, Unit::Things, Unit::Money, Unit::Bill]);
        let mut state = State::start(unit);
        let mut composition = Self { unit, operations: Vec::new(), phrasings: Vec::new() };
        for position in 1..=steps {
            let options: Vec<_> = Operation::ALL
                .into_iter()
                .filter_map(|operation| Some((operation, operation.next(state, position == steps)?)))
                .flat_map(|option| std::iter::repeat_n(option, option.0.weight()))
                .collect();
            let (operation, next) = draws.pick(&options);
            let wordings: Vec<_> = phrasings(operation, state.unit).map(|(number, _)| number).collect();
            composition.operations.push(operation);
            composition.phrasings.push(draws.pick(&wordings));
            state = next;
        }
        composition
    }

    /// Canonical key: the operations in order, `gain>half`. Since every operation occurs in training, a single one is
    /// told apart by its wording: `gain/9`.
    pub(super) fn key(&self) -> String {
        match (&self.operations[..], &self.phrasings[..]) {
            ([operation], [phrasing]) => single(*operation, *phrasing),
            (operations, _) => sequence(operations),
        }
    }
}

fn single(operation: Operation, phrasing: usize) -> String {
    format!("{}/{phrasing}", operation.key())
}

fn sequence(operations: &[Operation]) -> String {
    operations.iter().map(|operation| operation.key()).collect::<Vec<_>>().join(">")
}

/// The split that a composition with this key belongs to: a hash of the key alone, so that no seed and no difficulty
/// ever moves a composition from one to the other.
pub(super) fn split_of_composition(key: &str) -> Split {
    split_by_hash("composition", key)
}

/// The split that the numbers of a question belong to, in whatever order: with 12 + 7 held out, 7 + 12 is held out too.
pub(super) fn split_of_numbers(mut numbers: Vec<i64>) -> Split {
    numbers.sort_unstable();
    let key: Vec<_> = numbers.iter().map(ToString::to_string).collect();
    split_by_hash("numbers", &key.join(","))
}

fn split_by_hash(domain: &str, key: &str) -> Split {
    let hash = blake3::hash(format!("wordmath/{domain}/{key}").as_bytes());
    let word = hash.as_bytes().iter().take(8).fold(0_u64, |word, &byte| word << 8 | u64::from(byte));
    if word.is_multiple_of(HELD_OUT_ONE_IN) { Split::Test } else { Split::Train }
}

/// How many different compositions of some length there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompositionCount {
    /// Number of operations.
    pub steps: usize,
    /// Compositions to train on.
    pub train: usize,
    /// Compositions held out for `test`.
    pub test: usize,
}

/// Counts the compositions of every length from `min_steps` to `max_steps` that fit in wording and for which numbers
/// exist within the limits. `limits` is valid. The work grows by about seventeen per step: milliseconds for four steps
/// at the default limits, a second for five.
pub(super) fn count(limits: &Config) -> Vec<CompositionCount> {
    let mut counts: Vec<_> =
        (0..=limits.max_steps).map(|steps| CompositionCount { steps, train: 0, test: 0 }).collect();
    let successors: Vec<Vec<Vec<u64>>> = Operation::ALL
        .into_iter()
        .map(|operation| (0..=limits.max_number).map(|r| reached(operation, r, limits)).collect())
        .collect();
    let states: Vec<_> = Unit::ALL.into_iter().map(State::start).collect();
    extend(&mut Vec::new(), &states, &[], &successors, &mut counts);
    counts.into_iter().filter(|count| count.steps >= limits.min_steps).collect()
}

/// Depth first over all sequences; `quantities` is the set of those that `prefix` reaches, as bits.
fn extend(
    prefix: &mut Vec<Operation>,
    states: &[State],
    quantities: &[u64],
    successors: &[Vec<Vec<u64>>],
    counts: &mut [CompositionCount],
) {
    let depth = prefix.len() + 1;
    if depth == counts.len() {
        return;
    }
    for (operation, reach) in Operation::ALL.into_iter().zip(successors) {
        let mut image = vec![0_u64; reach.len().div_ceil(64)];
        for (r, after) in reach.iter().enumerate() {
            let meant = match (prefix.is_empty(), operation.place()) {
                (true, Place::Opener) => r == 0,
                (true, _) => r >= 2,
                (false, _) => quantities[r / 64] >> (r % 64) & 1 == 1,
            };
            if meant {
                image.iter_mut().zip(after).for_each(|(bits, more)| *bits |= more);
            }
        }
        if image.iter().all(|&bits| bits == 0) {
            continue;
        }
        let closing = |last: bool| {
            let mut next: Vec<_> = states.iter().filter_map(|&state| operation.next(state, last)).collect();
            next.sort_unstable();
            next.dedup();
            next
        };
        prefix.push(operation);
        if !closing(true).is_empty() {
            for key in keys(prefix) {
                match split_of_composition(&key) {
                    Split::Train => counts[depth].train += 1,
                    Split::Test | Split::TestNew => counts[depth].test += 1,
                }
            }
        }
        let open = closing(false);
        if !open.is_empty() {
            extend(prefix, &open, &image, successors, counts);
        }
        prefix.pop();
    }
}

/// The keys of the compositions with these operations: one, or one per wording of a single operation.
fn keys(operations: &[Operation]) -> Vec<String> {
    match operations {
        [operation] => PHRASINGS
            .iter()
            .enumerate()
            .filter(|(_, phrasing)| {
                phrasing.operation == *operation
                    && phrasing.units.iter().any(|&unit| operation.next(State::start(unit), true).is_some())
            })
            .map(|(number, _)| single(*operation, number))
            .collect(),
        _ => vec![sequence(operations)],
    }
}

/// The quantities that one step of `operation` reaches from `r`, as bits.
fn reached(operation: Operation, r: i64, limits: &Config) -> Vec<u64> {
    let mut bits = vec![0_u64; (limits.max_number as usize + 1).div_ceil(64)];
    let _ = visit(operation, r, limits, |_, _, after| {
        bits[after as usize / 64] |= 1 << (after % 64);
        ControlFlow::Continue(())
    });
    bits
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::arithmetic::Feasible;
    use super::super::draws::Purpose;
    use super::*;

    #[test]
    fn about_a_fifth_of_the_compositions_is_held_out() {
        let counts = count(&Config::default());
        assert_eq!(counts.iter().map(|count| count.steps).collect::<Vec<_>>(), [1, 2, 3, 4]);
        for CompositionCount { steps, train, test } in counts.into_iter().skip(1) {
            let share = test as f64 / (train + test) as f64;
            assert!((0.15..0.25).contains(&share), "{steps} steps: {share}");
        }
    }

    #[test]
    fn the_count_agrees_with_what_is_drawn() {
        // Naive twin: draw until every composition of two steps must have come up.
        let limits = Config { min_steps: 2, max_steps: 2, ..Config::default() };
        let mut draws = Draws::new(0, Purpose::Story, Split::Train, 0);
        let mut seen = BTreeMap::new();
        for _ in 0..60_000 {
            let composition = Composition::draw(2, &mut draws);
            let key = composition.key();
            seen.entry(key).or_insert_with(|| Feasible::new(&composition.operations, &limits).is_some());
        }
        let feasible = seen.values().filter(|&&feasible| feasible).count();
        let [CompositionCount { steps: 2, train, test }] = count(&limits)[..] else { panic!("one length") };
        assert_eq!(feasible, train + test);
    }

    #[test]
    fn keys_name_the_order_of_operations() {
        let composition = Composition {
            unit: Unit::Things,
            operations: vec![Operation::Gain, Operation::Half],
            phrasings: vec![9, 36],
        };
        assert_eq!(composition.key(), "gain>half");
        let one = Composition { operations: vec![Operation::Gain], phrasings: vec![9], ..composition };
        assert_eq!(one.key(), "gain/9");
    }
}
