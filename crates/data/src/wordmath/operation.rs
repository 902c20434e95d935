//! The operations a story is composed of, and in which order they make sense.

/// One kind of step on the running quantity `r`, with the numbers `a` and `b` of its sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[rustfmt::skip]
pub enum Operation {
    /// `a` groups of `b` each. Opens a story.
    Groups,
    /// `b` a day for `a` days, from nothing. Opens a story.
    Rate,
    /// Price of `a` things at `b` dollars each. Opens a story about a bill.
    Cost,
    /// `r + a`: more of the same.
    Gain,
    /// `r - a`: some are gone.
    Lose,
    /// `r * 2`.
    Double,
    /// Another person has `a` times as many.
    Times,
    /// Another person has `a` more.
    More,
    /// Another person has `a` fewer.
    Fewer,
    /// Another person brings `a`; both together.
    Join,
    /// Another person has `a` more; both together.
    PoolMore,
    /// Another person has `a` times as many; both together.
    PoolTimes,
    /// Half goes, half stays.
    Half,
    /// A third, quarter or fifth goes (`a` is 3, 4 or 5), the others stay.
    Part,
    /// One of `a` equal shares stays.
    Share,
    /// What is left over after full groups of `a`.
    Leftover,
    /// `a` groups of `b` are added.
    Restock,
    /// `b` go to each of `a`.
    Handout,
    /// All are sold at `a` dollars each.
    Sell,
    /// All money is spent on things at `a` dollars each.
    Spend,
    /// How many are missing to `a`. Closes a story.
    Goal,
    /// How many more than the `a` of another person. Closes a story.
    Ahead,
    /// How many fewer than the `a` of another person. Closes a story.
    Behind,
    /// Change from a payment of `a` dollars. Closes a story about a bill.
    Change,
}

/// What the running quantity counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unit {
    /// Things that somebody has.
    Things,
    /// Dollars that somebody has.
    Money,
    /// Dollars that somebody has to pay.
    Bill,
}

impl Unit {
    pub(super) const ALL: [Self; 3] = [Self::Things, Self::Money, Self::Bill];
}

/// Whose quantity it is after the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// Still the same person or people.
    Same,
    /// Another person.
    Other,
    /// Two people together.
    Both,
}

/// Where in a story an operation may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// First, instead of a plain starting quantity.
    Opener,
    /// Anywhere.
    Anywhere,
    /// Last, with a question of its own.
    Closer,
}

/// What decides which operations may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct State {
    pub(super) unit: Unit,
    /// The quantity belongs to two people together.
    pub(super) group: bool,
    /// Nothing has happened yet.
    pub(super) first: bool,
}

impl State {
    pub(super) const fn start(unit: Unit) -> Self {
        Self { unit, group: false, first: true }
    }
}

impl Operation {
    /// All operations, in the order of the documentation.
    #[rustfmt::skip]
    pub const ALL: [Self; 24] = [
        Self::Groups, Self::Rate, Self::Cost, Self::Gain, Self::Lose, Self::Double, Self::Times, Self::More,
        Self::Fewer, Self::Join, Self::PoolMore, Self::PoolTimes, Self::Half, Self::Part, Self::Share, Self::Leftover,
        Self::Restock, Self::Handout, Self::Sell, Self::Spend, Self::Goal, Self::Ahead, Self::Behind, Self::Change,
    ];

    /// Name within composition keys.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Groups => "groups",
            Self::Rate => "rate",
            Self::Cost => "cost",
            Self::Gain => "gain",
            Self::Lose => "lose",
            Self::Double => "double",
            Self::Times => "times",
            Self::More => "more",
            Self::Fewer => "fewer",
            Self::Join => "join",
            Self::PoolMore => "pool-more",
            Self::PoolTimes => "pool-times",
            Self::Half => "half",
            Self::Part => "part",
            Self::Share => "share",
            Self::Leftover => "leftover",
            Self::Restock => "restock",
            Self::Handout => "handout",
            Self::Sell => "sell",
            Self::Spend => "spend",
            Self::Goal => "goal",
            Self::Ahead => "ahead",
            Self::Behind => "behind",
            Self::Change => "change",
        }
    }

    pub(super) const fn place(self) -> Place {
        match self {
            Self::Groups | Self::Rate | Self::Cost => Place::Opener,
            Self::Goal | Self::Ahead | Self::Behind | Self::Change => Place::Closer,
            _ => Place::Anywhere,
        }
    }

    pub(super) const fn holder(self) -> Holder {
        match self {
            Self::Times | Self::More | Self::Fewer => Holder::Other,
            Self::Join | Self::PoolMore | Self::PoolTimes => Holder::Both,
            _ => Holder::Same,
        }
    }

    /// How often it is drawn relative to the others. An opener has one place, the others have several.
    pub(super) const fn weight(self) -> usize {
        match self.place() {
            Place::Opener => 3,
            Place::Anywhere | Place::Closer => 1,
        }
    }

    /// State after this operation in `state`, as the last one or not; `None` where it does not fit there.
    pub(super) fn next(self, state: State, last: bool) -> Option<State> {
        let placed = match self.place() {
            Place::Opener => state.first,
            // A bill needs something bought, so only its opener starts it.
            Place::Anywhere => !(state.first && state.unit == Unit::Bill),
            Place::Closer => last && !(state.first && state.unit == Unit::Bill),
        };
        // Two people together stay two: stories with three owners need wording of their own.
        let owned = !(state.group && self.holder() == Holder::Both);
        if !placed || !owned || !super::phrasing::fits(self, state.unit) {
            return None;
        }
        let unit = match self {
            Self::Sell => Unit::Money,
            Self::Spend => Unit::Things,
            _ => state.unit,
        };
        let group = match self.holder() {
            Holder::Same => state.group,
            Holder::Other => false,
            Holder::Both => true,
        };
        Some(State { unit, group, first: false })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn operations_and_their_keys_are_distinct() {
        let keys: BTreeSet<_> = Operation::ALL.iter().map(|operation| operation.key()).collect();
        let operations: BTreeSet<_> = Operation::ALL.iter().collect();
        assert_eq!((keys.len(), operations.len()), (24, 24));
    }

    #[test]
    fn openers_come_first_and_closers_last() {
        let start = State::start(Unit::Things);
        let after = Operation::Groups.next(start, false).unwrap();
        assert_eq!(Operation::Groups.next(after, false), None);
        assert_eq!(Operation::Goal.next(after, false), None);
        assert!(Operation::Goal.next(after, true).is_some());
    }

    #[test]
    fn a_bill_starts_with_something_bought() {
        let start = State::start(Unit::Bill);
        let possible: Vec<_> =
            Operation::ALL.into_iter().filter(|operation| operation.next(start, true).is_some()).collect();
        assert_eq!(possible, [Operation::Cost]);
    }

    #[test]
    fn two_owners_never_become_three() {
        let two = Operation::Join.next(State::start(Unit::Things), false).unwrap();
        assert!(two.group);
        assert_eq!(Operation::PoolMore.next(two, false), None);
        assert!(!Operation::More.next(two, false).unwrap().group);
    }
}
