//! People and things. Two pools of people, so that `test` shows names that training never did.

use super::config::Split;

/// A person: name and pronouns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: &'static str,
    /// Subject pronoun.
    pub(super) subject: &'static str,
    /// Object pronoun.
    pub(super) object: &'static str,
    /// Possessive determiner.
    pub(super) possessive: &'static str,
}

const fn she(name: &'static str) -> Person {
    Person { name, subject: "she", object: "her", possessive: "her" }
}

const fn he(name: &'static str) -> Person {
    Person { name, subject: "he", object: "him", possessive: "his" }
}

/// People of a split. `test-new` shares those of `test`.
pub(super) fn people(split: Split) -> &'static [Person] {
    match split {
        Split::Train => TRAIN_PEOPLE,
        Split::Test | Split::TestNew => TEST_PEOPLE,
    }
}

#[rustfmt::skip]
const TRAIN_PEOPLE: &[Person] = &[
    she("Anna"), she("Bella"), she("Clara"), she("Dora"), she("Ella"), she("Emma"), she("Eva"), she("Fiona"),
    she("Grace"), she("Hanna"), she("Ida"), she("Jane"), she("Julia"), she("Kate"), she("Lena"), she("Lily"),
    she("Lucy"), she("Maria"), she("Mia"), she("Mona"), she("Nina"), she("Nora"), she("Olivia"), she("Paula"),
    she("Rita"), she("Sara"), she("Sofia"), she("Tina"), she("Vera"), she("Zoe"),
    he("Adam"), he("Alan"), he("Ben"), he("Carl"), he("Dan"), he("David"), he("Eric"), he("Felix"),
    he("Finn"), he("Frank"), he("Henry"), he("Hugo"), he("Ivan"), he("Jack"), he("John"), he("Leo"),
    he("Liam"), he("Luke"), he("Martin"), he("Max"), he("Nick"), he("Noah"), he("Oliver"), he("Oscar"),
    he("Paul"), he("Peter"), he("Robert"), he("Sam"), he("Simon"), he("Tom"),
];

#[rustfmt::skip]
const TEST_PEOPLE: &[Person] = &[
    she("Ada"), she("Alma"), she("Carla"), she("Diana"), she("Elena"), she("Greta"), she("Irena"), she("Karen"),
    she("Laura"), she("Marta"), she("Sandra"), she("Wanda"),
    he("Aron"), he("Bruno"), he("Colin"), he("Dario"), he("Edgar"), he("Emil"), he("Gavin"), he("Kevin"),
    he("Marco"), he("Ned"), he("Omar"), he("Victor"),
];

/// A thing that can be owned, counted, given, bagged and sold.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) one: &'static str,
    pub(super) many: &'static str,
}

impl Thing {
    /// The word that follows `count`: singular for one, plural otherwise.
    pub(super) const fn after(&self, count: i64) -> &'static str {
        if count == 1 { self.one } else { self.many }
    }
}

const fn thing(one: &'static str, many: &'static str) -> Thing {
    Thing { one, many }
}

/// Money is counted like any other thing.
pub(super) const DOLLAR: Thing = thing("dollar", "dollars");

#[rustfmt::skip]
pub(super) const THINGS: &[Thing] = &[
    thing("apple", "apples"), thing("pear", "pears"), thing("plum", "plums"), thing("lemon", "lemons"),
    thing("orange", "oranges"), thing("peach", "peaches"), thing("melon", "melons"), thing("nut", "nuts"),
    thing("egg", "eggs"), thing("cookie", "cookies"), thing("muffin", "muffins"), thing("candy", "candies"),
    thing("pen", "pens"), thing("pencil", "pencils"), thing("crayon", "crayons"), thing("marker", "markers"),
    thing("sticker", "stickers"), thing("stamp", "stamps"), thing("card", "cards"), thing("book", "books"),
    thing("marble", "marbles"), thing("bead", "beads"), thing("button", "buttons"), thing("shell", "shells"),
    thing("stone", "stones"), thing("balloon", "balloons"), thing("doll", "dolls"), thing("kite", "kites"),
    thing("block", "blocks"), thing("cup", "cups"), thing("plate", "plates"), thing("spoon", "spoons"),
    thing("candle", "candles"), thing("ribbon", "ribbons"), thing("badge", "badges"), thing("magnet", "magnets"),
    thing("rose", "roses"), thing("tulip", "tulips"), thing("ball", "balls"), thing("toy", "toys"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_pools_of_names_are_disjoint_and_without_repeats() {
        let names: Vec<_> = TRAIN_PEOPLE.iter().chain(TEST_PEOPLE).map(|person| person.name).collect();
        let distinct: BTreeSet<_> = names.iter().collect();
        assert_eq!(names.len(), distinct.len());
        assert!(TRAIN_PEOPLE.len() >= 40 && TEST_PEOPLE.len() >= 20);
        // "Iris's" and "James's" are spelled in two ways: no such names.
        assert!(names.iter().all(|name| !name.ends_with('s')));
    }

    #[test]
    fn forty_things_with_distinct_words() {
        let words: BTreeSet<_> = THINGS.iter().flat_map(|thing| [thing.one, thing.many]).collect();
        assert_eq!((THINGS.len(), words.len()), (40, 80));
        assert_eq!(THINGS[0].after(1), "apple");
        assert_eq!(THINGS[0].after(0), "apples");
        assert_eq!(DOLLAR.after(2), "dollars");
    }
}
