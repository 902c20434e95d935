//! Telling a composition: who, what, pronouns, and the sentences of the question.

use super::arithmetic::{Numbers, equations};
use super::composition::Composition;
use super::config::Split;
use super::draws::Draws;
use super::lexicon::{DOLLAR, Person, THINGS, Thing, people};
use super::operation::{Holder, Operation, Place, Unit};
use super::phrasing::{Lead, OPENINGS, PHRASINGS, explanation, questions};
use super::solution::SolutionStep;
use super::template::{capitalised, fill};

/// A told problem.
#[derive(Debug)]
pub(super) struct Story {
    /// Everything before the question.
    pub(super) sentences: Vec<String>,
    pub(super) question: String,
    pub(super) steps: Vec<SolutionStep>,
    /// The things that are spoken of.
    pub(super) things: Vec<&'static Thing>,
}

/// Tells `composition` with `numbers`, one entry per operation, about people of `split`.
pub(super) fn tell(composition: &Composition, numbers: &[Numbers], split: Split, draws: &mut Draws) -> Story {
    let mut teller = Teller::new(composition.unit, split, draws);
    let mut sentences = Vec::new();
    let mut steps = Vec::new();
    let opened = composition.operations.first().is_some_and(|operation| operation.place() == Place::Opener);
    if !opened {
        let start = numbers.first().map_or(0, |first| first.before);
        let template = teller.draws.pick(OPENINGS);
        sentences.push(teller.sentence(Lead::None, template, start, 0));
        teller.pronoun = true;
    }
    for (index, (&operation, values)) in composition.operations.iter().zip(numbers).enumerate() {
        let phrasing = &PHRASINGS[composition.phrasings[index]];
        teller.meet(phrasing.text);
        // The sentence after the opening follows by itself.
        let lead = if index == 0 || (opened && index == 1) { Lead::None } else { phrasing.lead };
        sentences.push(teller.sentence(lead, phrasing.text, values.a, values.b));
        teller.after(operation);
        steps.push(teller.explain(operation, *values));
    }
    let asked = composition
        .operations
        .last()
        .map_or(&[][..], |&last| questions(last, teller.unit, teller.owners.len() > 1));
    let template = teller.draws.pick(asked);
    let question = teller.sentence(Lead::None, template, 0, 0);
    Story { sentences, question, steps, things: teller.things }
}

/// What the next sentence may refer to.
struct Teller<'a> {
    draws: &'a mut Draws,
    split: Split,
    unit: Unit,
    /// All people so far.
    cast: Vec<&'static Person>,
    /// Whose quantity it is.
    owners: Vec<&'static Person>,
    /// The last sentence was about the owners, so that a pronoun means them.
    pronoun: bool,
    /// All things so far; the last one is counted.
    things: Vec<&'static Thing>,
    /// The thing that money is about to be spent on.
    next: Option<&'static Thing>,
}

impl<'a> Teller<'a> {
    fn new(unit: Unit, split: Split, draws: &'a mut Draws) -> Self {
        let mut teller = Self {
            draws,
            split,
            unit,
            cast: vec![],
            owners: vec![],
            pronoun: false,
            things: vec![],
            next: None,
        };
        teller.owners = vec![teller.somebody()];
        if unit != Unit::Money {
            let thing = teller.something();
            teller.things.push(thing);
        }
        teller
    }

    /// A person not yet in the story.
    fn somebody(&mut self) -> &'static Person {
        let absent: Vec<_> = people(self.split).iter().filter(|person| !self.cast.contains(person)).collect();
        let person = self.draws.pick(&absent);
        self.cast.push(person);
        person
    }

    /// A thing not yet in the story.
    fn something(&mut self) -> &'static Thing {
        let absent: Vec<_> = THINGS.iter().filter(|thing| !self.things.contains(thing)).collect();
        self.draws.pick(&absent)
    }

    /// Brings in whom and what `template` speaks of for the first time.
    fn meet(&mut self, template: &str) {
        if template.contains("{m}") {
            self.somebody();
        }
        if template.contains("{next}") {
            self.next = Some(self.something());
        }
    }

    /// The consequences of a step for who owns what.
    fn after(&mut self, operation: Operation) {
        let newest = self.cast.last().copied();
        match operation.holder() {
            Holder::Same => self.pronoun = true,
            Holder::Other => {
                self.owners = newest.into_iter().collect();
                self.pronoun = false;
            }
            Holder::Both => {
                self.owners.extend(newest);
                self.pronoun = true;
            }
        }
        match operation {
            Operation::Sell => self.unit = Unit::Money,
            Operation::Spend => {
                self.unit = Unit::Things;
                self.things.extend(self.next.take());
            }
            _ => {}
        }
    }

    /// "Mia", or "Mia and Ben".
    fn names(&self) -> String {
        self.owners.iter().map(|person| person.name).collect::<Vec<_>>().join(" and ")
    }

    /// A pronoun of the owners.
    fn pronoun(&self, one: fn(&Person) -> &'static str, many: &'static str) -> String {
        match self.owners[..] {
            [person] => one(person).to_owned(),
            _ => many.to_owned(),
        }
    }

    /// What `{many}` and `{one}` stand for.
    fn thing(&self) -> &'static Thing {
        match self.unit {
            Unit::Money => &DOLLAR,
            Unit::Things | Unit::Bill => self.things.last().copied().unwrap_or(&DOLLAR),
        }
    }

    fn sentence(&mut self, lead: Lead, template: &str, a: i64, b: i64) -> String {
        let tie = self.draws.pick(lead.words());
        let told = fill(template, |hole| self.hole(hole, a, b));
        capitalised(&format!("{tie}{told}"))
    }

    fn hole(&self, hole: &str, a: i64, b: i64) -> Option<String> {
        let subject = || self.pronoun(|person| person.subject, "they");
        let known = self.pronoun;
        Some(match hole {
            "a" => a.to_string(),
            "b" => b.to_string(),
            "part" => part(a).to_owned(),
            "one" => self.thing().one.to_owned(),
            "many" => self.thing().many.to_owned(),
            "next" => self.next?.many.to_owned(),
            "m" => self.cast.last()?.name.to_owned(),
            "h" if self.owners.len() > 1 => format!("{} together", self.names()),
            "p" => subject(),
            "s" if known => subject(),
            "o" if known => self.pronoun(|person| person.object, "them"),
            "n" | "h" | "s" | "o" => self.names(),
            "poss" if known => self.pronoun(|person| person.possessive, "their"),
            "poss" => format!("{}'s", self.names()),
            _ => return None,
        })
    }

    /// The step as a line of the solution; called after [`Teller::after`], when the unit is that of the result.
    fn explain(&self, operation: Operation, numbers: Numbers) -> SolutionStep {
        let equations = equations(operation, numbers);
        let counted = match self.unit {
            Unit::Things => self.thing(),
            Unit::Money | Unit::Bill => &DOLLAR,
        };
        let words = fill(explanation(operation), |hole| {
            Some(match hole {
                "r" => numbers.before.to_string(),
                "a" => numbers.a.to_string(),
                "b" => numbers.b.to_string(),
                "part" => part(numbers.a).to_owned(),
                "e" => equations.first()?.to_string(),
                "f" => equations.get(1)?.to_string(),
                "u" => counted.after(numbers.after).to_owned(),
                _ => return None,
            })
        });
        SolutionStep { equations, words }
    }
}

/// The word for one of `count` equal parts.
const fn part(count: i64) -> &'static str {
    match count {
        3 => "third",
        4 => "quarter",
        _ => "fifth",
    }
}

#[cfg(test)]
mod tests {
    use super::super::draws::Purpose;
    use super::*;

    fn told(unit: Unit, operations: &[(Operation, &str)], numbers: &[(i64, i64, i64, i64)]) -> String {
        let composition = Composition {
            unit,
            operations: operations.iter().map(|(operation, _)| *operation).collect(),
            phrasings: operations
                .iter()
                .map(|(operation, start)| {
                    PHRASINGS
                        .iter()
                        .position(|phrasing| {
                            phrasing.operation == *operation && phrasing.text.contains(start)
                        })
                        .unwrap()
                })
                .collect(),
        };
        let numbers: Vec<_> =
            numbers.iter().map(|&(before, a, b, after)| Numbers { before, a, b, after }).collect();
        let mut draws = Draws::new(0, Purpose::Story, Split::Train, 4);
        let story = tell(&composition, &numbers, Split::Train, &mut draws);
        format!("{} {}", story.sentences.join(" "), story.question)
    }

    #[test]
    fn a_pronoun_stands_only_for_the_person_of_the_last_sentence() {
        let text = told(
            Unit::Things,
            &[
                (Operation::Gain, "got"),
                (Operation::More, "more {many} than"),
                (Operation::Lose, "gave"),
                (Operation::Gain, "found"),
            ],
            &[(12, 7, 0, 19), (19, 5, 0, 24), (24, 4, 0, 20), (20, 2, 0, 22)],
        );
        let sentences: Vec<_> = text.split_inclusive(['.', '?']).map(str::trim).collect();
        let [opening, gain, more, lose, found, question] = sentences[..] else { panic!("{text}") };
        let first = opening.trim_start_matches("At first, ").split(' ').next().unwrap();
        let second = more.trim_start_matches("By then, ").split(' ').next().unwrap();
        assert!(gain.starts_with("She ") || gain.starts_with("He "), "{gain}");
        assert!(more.contains(&format!("than {first}.")) && second != first, "{more}");
        assert!(lose.contains(second), "{lose}");
        assert!(found.contains(" she ") || found.contains(" he "), "{found}");
        assert!(question.contains(&format!("did {second} have")), "{question}");
    }

    #[test]
    fn two_people_together_are_they() {
        let text = told(
            Unit::Things,
            &[(Operation::Join, "brought"), (Operation::Lose, "lost"), (Operation::Ahead, "only")],
            &[(12, 7, 0, 19), (19, 5, 0, 14), (14, 6, 0, 8)],
        );
        assert!(text.contains(" they lost 5 of the "), "{text}");
        assert!(text.contains(" together have than "), "{text}");
    }

    #[test]
    fn selling_and_spending_change_what_is_counted() {
        let text = told(
            Unit::Things,
            &[(Operation::Sell, "all the"), (Operation::Spend, "spent all"), (Operation::Lose, "gave")],
            &[(6, 4, 0, 24), (24, 3, 0, 8), (8, 2, 0, 6)],
        );
        assert!(text.contains("who had no money, sold all the "), "{text}");
        let bought = text.split("who had no ").nth(2).unwrap().split(',').next().unwrap();
        assert!(text.contains(&format!("gave 2 {bought} to a friend. How many {bought} did ")), "{text}");
    }
}
