//! The registry of wordings: how each operation is told, asked about and explained.
//!
//! Everything is in the past tense, which spares all agreement of verbs. Holes: `{s}` subject (pronoun or names), `{n}`
//! names of the owner, `{h}` the owner in a comparison, `{o}` object, `{p}` pronoun, `{poss}` possessive, `{m}` a new
//! person, `{a}` `{b}` numbers, `{part}` the fraction, `{one}` `{many}` the thing, `{next}` the thing bought next.

use super::operation::{Operation, Unit};

/// How a sentence is tied to the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lead {
    /// Something happens: "Then …".
    Event,
    /// Something is the case: "By then, …".
    Fact,
    /// No connector.
    None,
}

impl Lead {
    /// Ways to tie on a sentence that is not the first after the opening.
    pub(super) const fn words(self) -> &'static [&'static str] {
        match self {
            Self::Event => &["Then ", "Later, "],
            Self::Fact => &["By then, "],
            Self::None => &[""],
        }
    }
}

/// One wording of an operation.
#[derive(Debug)]
pub(super) struct Phrasing {
    pub(super) operation: Operation,
    pub(super) units: &'static [Unit],
    pub(super) lead: Lead,
    pub(super) text: &'static str,
}

const THINGS: &[Unit] = &[Unit::Things];
const MONEY: &[Unit] = &[Unit::Money];
const BILL: &[Unit] = &[Unit::Bill];
const OWNED: &[Unit] = &[Unit::Things, Unit::Money];

const fn event(operation: Operation, units: &'static [Unit], text: &'static str) -> Phrasing {
    Phrasing { operation, units, lead: Lead::Event, text }
}

const fn fact(operation: Operation, units: &'static [Unit], text: &'static str) -> Phrasing {
    Phrasing { operation, units, lead: Lead::Fact, text }
}

const fn plain(operation: Operation, units: &'static [Unit], text: &'static str) -> Phrasing {
    Phrasing { operation, units, lead: Lead::None, text }
}

/// Every wording. The position in this table is the phrasing's number in the key of a one-step composition, so that new
/// wordings go to the end.
#[rustfmt::skip]
pub(super) const PHRASINGS: &[Phrasing] = &[
    plain(Operation::Groups, THINGS, "{n} had {a} bags with {b} {many} in each bag."),
    plain(Operation::Groups, THINGS, "{n} had {a} boxes of {b} {many} each."),
    plain(Operation::Groups, THINGS, "{n} had {a} baskets, each with {b} {many}."),
    plain(Operation::Rate, THINGS, "Starting with no {many}, {n} collected {b} {many} a day for {a} days."),
    plain(Operation::Rate, THINGS, "{n} had no {many} at first and got {b} {many} every day for {a} days."),
    plain(Operation::Rate, MONEY, "Starting with no money, {n} earned {b} dollars a day for {a} days."),
    plain(Operation::Rate, MONEY, "{n} had no money at first and got {b} dollars every week for {a} weeks."),
    plain(Operation::Cost, BILL, "{n} bought {a} {many} for {b} dollars each."),
    plain(Operation::Cost, BILL, "{n} bought {a} {many}, and each {one} cost {b} dollars."),
    event(Operation::Gain, THINGS, "{s} got {a} more {many}."),
    event(Operation::Gain, THINGS, "{s} received {a} more {many}."),
    event(Operation::Gain, THINGS, "{s} found {a} more {many}."),
    event(Operation::Gain, MONEY, "{s} earned {a} more dollars."),
    event(Operation::Gain, MONEY, "{s} got {a} dollars as a gift."),
    event(Operation::Gain, BILL, "{s} also bought a cake for {a} dollars."),
    event(Operation::Gain, BILL, "{s} also bought a lamp for {a} dollars."),
    event(Operation::Lose, THINGS, "{s} gave {a} {many} to a friend."),
    event(Operation::Lose, THINGS, "{s} lost {a} of the {many}."),
    event(Operation::Lose, MONEY, "{s} spent {a} dollars on lunch."),
    event(Operation::Lose, MONEY, "{s} lost {a} dollars."),
    event(Operation::Lose, BILL, "a coupon took {a} dollars off the price."),
    event(Operation::Double, THINGS, "{s} doubled the number of {many}."),
    event(Operation::Double, OWNED, "a friend gave {o} as many {many} as {p} already had."),
    event(Operation::Double, MONEY, "an uncle doubled {poss} money."),
    fact(Operation::Times, OWNED, "{m} had {a} times as many {many} as {h}."),
    fact(Operation::Times, OWNED, "{m} had {many} too, {a} times as many as {h}."),
    fact(Operation::More, OWNED, "{m} had {a} more {many} than {h}."),
    fact(Operation::More, OWNED, "{m} had {many} too, {a} more than {h}."),
    fact(Operation::Fewer, OWNED, "{m} had {a} fewer {many} than {h}."),
    fact(Operation::Fewer, OWNED, "{m} had {many} too, {a} fewer than {h}."),
    event(Operation::Join, OWNED, "{m} came with {a} {many}, and {n} and {m} put all their {many} together."),
    event(Operation::Join, OWNED, "{m} brought {a} {many}, and {n} and {m} put all their {many} in one box."),
    fact(Operation::PoolMore, OWNED, "{m} had {a} more {many} than {n}, and the two put all their {many} together."),
    fact(Operation::PoolMore, OWNED, "{m} had {a} more {many} than {n}, and the two put all their {many} in one box."),
    fact(Operation::PoolTimes, OWNED, "{m} had {a} times as many {many} as {n}, and the two put all their {many} together."),
    fact(Operation::PoolTimes, OWNED, "{m} had {a} times as many {many} as {n}, and the two put all their {many} in one box."),
    event(Operation::Half, THINGS, "{s} gave half of the {many} to a friend."),
    event(Operation::Half, THINGS, "{s} lost half of the {many}."),
    event(Operation::Half, MONEY, "{s} spent half of the money on a book."),
    event(Operation::Half, BILL, "a sale cut the price in half."),
    event(Operation::Part, THINGS, "{s} gave a {part} of the {many} to a friend."),
    event(Operation::Part, THINGS, "{s} lost a {part} of the {many}."),
    event(Operation::Part, MONEY, "{s} spent a {part} of the money on a book."),
    event(Operation::Part, BILL, "a coupon took a {part} of the price off."),
    event(Operation::Share, THINGS, "{s} put the {many} into {a} equal bags and kept only one bag."),
    event(Operation::Share, OWNED, "{s} split the {many} into {a} equal piles and kept only one pile."),
    event(Operation::Share, BILL, "the price was split into {a} equal parts, and {s} had to pay only one part."),
    event(Operation::Leftover, THINGS, "{s} gave away as many full bags of {a} {many} as possible."),
    event(Operation::Leftover, THINGS, "{s} filled as many boxes of {a} {many} as possible and gave those boxes away."),
    event(Operation::Restock, THINGS, "{s} got {a} bags with {b} {many} in each bag."),
    event(Operation::Restock, THINGS, "{s} collected {b} {many} a day for {a} days."),
    event(Operation::Restock, MONEY, "{s} earned {b} dollars a day for {a} days."),
    event(Operation::Restock, BILL, "{s} also bought {a} snacks for {b} dollars each."),
    event(Operation::Handout, THINGS, "{s} gave {b} {many} to each of {a} friends."),
    event(Operation::Handout, THINGS, "{s} gave away {b} {many} a day for {a} days."),
    event(Operation::Handout, MONEY, "{s} gave {b} dollars to each of {a} friends."),
    event(Operation::Handout, MONEY, "{s} spent {b} dollars a day for {a} days."),
    event(Operation::Sell, THINGS, "{n}, who had no money, sold all the {many} for {a} dollars each."),
    event(Operation::Sell, THINGS, "{n}, who had no money, sold every {one} for {a} dollars."),
    event(Operation::Spend, MONEY, "{n}, who had no {next}, spent all the money on {next} for {a} dollars each."),
    event(Operation::Spend, MONEY, "{n}, who had no {next}, used all the money to buy {next} at {a} dollars each."),
    plain(Operation::Goal, OWNED, "{s} wanted to have {a} {many}."),
    plain(Operation::Goal, THINGS, "{s} needed {a} {many}."),
    plain(Operation::Goal, MONEY, "{s} wanted to buy a game for {a} dollars."),
    fact(Operation::Ahead, OWNED, "{m} had {a} {many}."),
    fact(Operation::Ahead, OWNED, "{m} had only {a} {many}."),
    fact(Operation::Behind, OWNED, "{m} had {a} {many}."),
    fact(Operation::Behind, OWNED, "{m} already had {a} {many}."),
    plain(Operation::Change, BILL, "{s} paid with {a} dollars."),
    plain(Operation::Change, BILL, "{s} gave the shop {a} dollars."),
];

/// Number of wordings of operations.
pub fn phrasing_count() -> usize {
    PHRASINGS.len()
}

/// Wordings of `operation` on `unit`, with their numbers in the registry.
pub(super) fn phrasings(
    operation: Operation,
    unit: Unit,
) -> impl Iterator<Item = (usize, &'static Phrasing)> {
    PHRASINGS
        .iter()
        .enumerate()
        .filter(move |(_, phrasing)| phrasing.operation == operation && phrasing.units.contains(&unit))
}

/// Whether `operation` can be told of `unit`.
pub(super) const fn fits(operation: Operation, unit: Unit) -> bool {
    FITS[operation as usize][unit as usize]
}

/// [`fits`] by operation and unit: it is asked for dozens of times per problem.
const FITS: [[bool; Unit::ALL.len()]; Operation::ALL.len()] = {
    let mut table = [[false; Unit::ALL.len()]; Operation::ALL.len()];
    let mut row = 0;
    while row < PHRASINGS.len() {
        let Phrasing { operation, units, .. } = PHRASINGS[row];
        let mut unit = 0;
        while unit < units.len() {
            table[operation as usize][units[unit] as usize] = true;
            unit += 1;
        }
        row += 1;
    }
    table
};

/// Plain openings: somebody has `{a}` of something.
pub(super) const OPENINGS: &[&str] = &["{n} had {a} {many}.", "At first, {n} had {a} {many}."];

/// Questions at the end of a story whose last operation is `operation`.
pub(super) const fn questions(operation: Operation, unit: Unit, group: bool) -> &'static [&'static str] {
    match (operation, unit) {
        (Operation::Goal, _) => &["How many more {many} did {n} need?"],
        (Operation::Ahead, _) => &["How many more {many} did {h} have than {m}?"],
        (Operation::Behind, _) => &["How many fewer {many} did {h} have than {m}?"],
        (Operation::Change, _) => &["How many dollars did {n} get back?"],
        (_, Unit::Bill) => &["How many dollars did {n} pay in the end?", "How many dollars did {n} pay?"],
        _ if group => &["How many {many} did {n} have together in the end?"],
        _ => &["How many {many} did {n} have in the end?", "How many {many} did {n} have then?"],
    }
}

/// The sentence that explains a step in the style of words. Holes: `{r}` the quantity before, `{a}`, `{b}`, `{part}` as
/// above, `{e}` and `{f}` the equations, `{u}` the thing after its count.
pub(super) const fn explanation(operation: Operation) -> &'static str {
    match operation {
        Operation::Groups => "{a} groups of {b} make {e} {u}.",
        Operation::Rate => "For the whole time that is {e} {u}.",
        Operation::Cost => "The price is {e} {u}.",
        Operation::Gain => "Adding {a} gives {e} {u}.",
        Operation::Lose => "Taking away {a} leaves {e} {u}.",
        Operation::Double => "Twice as many is {e} {u}.",
        Operation::Times => "{a} times as many is {e} {u}.",
        Operation::More => "{a} more is {e} {u}.",
        Operation::Fewer => "{a} fewer is {e} {u}.",
        Operation::Join => "Together that is {e} {u}.",
        Operation::PoolMore | Operation::PoolTimes => "The other one had {e}, so together they had {f} {u}.",
        Operation::Half => "Half of {r} is {e} {u}.",
        Operation::Part => "A {part} of {r} is {e}, which leaves {f} {u}.",
        Operation::Share => "One of {a} equal parts is {e} {u}.",
        Operation::Leftover => "The full ones hold {e}, which leaves {f} {u}.",
        Operation::Restock => "In all {e} are added, which makes {f} {u}.",
        Operation::Handout => "In all {e} are gone, which leaves {f} {u}.",
        Operation::Sell => "The sale brings {e} {u}.",
        Operation::Spend => "The money buys {e} {u}.",
        Operation::Goal => "Still missing: {e} {u}.",
        Operation::Ahead | Operation::Behind => "The difference is {e} {u}.",
        Operation::Change => "The change is {e} {u}.",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn enough_wordings_and_none_twice_for_one_operation() {
        assert!(phrasing_count() >= 40);
        let distinct: BTreeSet<_> =
            PHRASINGS.iter().map(|phrasing| (phrasing.operation, phrasing.text)).collect();
        assert_eq!(distinct.len(), phrasing_count());
        for operation in Operation::ALL {
            let count = PHRASINGS.iter().filter(|phrasing| phrasing.operation == operation).count();
            assert!(count >= 2, "{operation:?} has {count} wordings");
        }
    }

    #[test]
    fn sentences_are_sentences_and_name_only_known_holes() {
        let story = ["s", "n", "h", "o", "p", "poss", "m", "a", "b", "part", "one", "many", "next"];
        let told = ["r", "a", "b", "part", "e", "f", "u"];
        let mut texts: Vec<(&str, &[&str])> =
            PHRASINGS.iter().map(|phrasing| (phrasing.text, &story[..])).collect();
        texts.extend(OPENINGS.iter().map(|&text| (text, &story[..])));
        for operation in Operation::ALL {
            texts.push((explanation(operation), &told));
            for (unit, group) in Unit::ALL.into_iter().flat_map(|unit| [(unit, false), (unit, true)]) {
                texts.extend(questions(operation, unit, group).iter().map(|&text| (text, &story[..])));
            }
        }
        for (text, allowed) in texts {
            assert!(text.ends_with(['.', '?']) && !text.contains("  "), "{text}");
            let mut holes = text.split('{').skip(1).map(|tail| tail.split_once('}').unwrap().0);
            assert!(holes.all(|hole| allowed.contains(&hole)), "{text}");
        }
    }
}
