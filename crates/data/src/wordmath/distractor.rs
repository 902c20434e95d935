//! Sentences with an irrelevant number, in the manner of GSM-NoOp (Mirzadeh et al. 2024, section 4.4).

use super::draws::Draws;
use super::lexicon::{THINGS, Thing};
use super::template::fill;

/// True of nobody's quantity: they speak of no thing of the story and of no price, and of no living being that a pronoun
/// after them could mean.
const CLAUSES: &[&str] = &[
    "There were {k} {many} on the table.",
    "There were {k} {many} in a box in the next room.",
    "The way home took {k} minutes.",
    "The house was {k} years old.",
    "The street had {k} trees.",
    "It was day {k} of the year.",
];

/// A sentence with a number from 2 to `max_number` about none of the things to `avoid`.
pub(super) fn clause(draws: &mut Draws, avoid: &[&Thing], max_number: i64) -> String {
    let others: Vec<_> = THINGS.iter().filter(|thing| !avoid.contains(thing)).collect();
    let thing = draws.pick(&others);
    // A year has no day 366 to speak of.
    let number = draws.range(2, max_number.min(365));
    let template = draws.pick(CLAUSES);
    fill(template, |hole| match hole {
        "k" => Some(number.to_string()),
        "many" => Some(thing.many.to_owned()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::config::Split;
    use super::super::draws::Purpose;
    use super::*;

    #[test]
    fn speaks_of_other_things_with_one_number() {
        let mut draws = Draws::new(0, Purpose::Distractor, Split::Test, 0);
        let avoid: Vec<_> = THINGS.iter().skip(1).collect();
        for _ in 0..200 {
            let text = clause(&mut draws, &avoid, 99);
            assert!(text.ends_with('.') && !text.contains(['{', '}']), "{text}");
            assert_eq!(text.split(|c: char| !c.is_ascii_digit()).filter(|run| !run.is_empty()).count(), 1);
            assert!(avoid.iter().all(|thing| !text.contains(&format!(" {} ", thing.many))), "{text}");
        }
    }
}
