//! The twelve story logics of `test-new`: none of their wordings or ways to an answer occurs in training.
//!
//! Numbers stay below 121 whatever the difficulty, so that accuracy on this split compares across configurations.

use super::arithmetic::Equation;
use super::config::Split;
use super::draws::Draws;
use super::lexicon::people;
use super::solution::SolutionStep;

/// A told problem of a new logic.
#[derive(Debug)]
pub(super) struct NewStory {
    pub(super) sentences: Vec<String>,
    pub(super) question: String,
    pub(super) steps: Vec<SolutionStep>,
}

type Teller = fn(&mut Draws) -> NewStory;

const TABLE: [(&str, Teller); 12] = [
    ("meeting", meeting),
    ("ages", ages),
    ("average", average),
    ("perimeter", perimeter),
    ("coins", coins),
    ("discount", discount),
    ("minutes", minutes),
    ("legs", legs),
    ("lamps", lamps),
    ("painters", painters),
    ("tank", tank),
    ("rows", rows),
];

/// Names of the story logics of `test-new`, in the order of its indices.
pub fn logics() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|(key, _)| *key)
}

/// Name and story of `index`: the logics take turns, so that every prefix of the split is balanced.
pub(super) fn tell(index: u64, draws: &mut Draws) -> (&'static str, NewStory) {
    let (key, teller) = TABLE[(index % TABLE.len() as u64) as usize];
    (key, teller(draws))
}

fn story<const N: usize>(sentences: [String; N], question: &str, steps: Vec<SolutionStep>) -> NewStory {
    NewStory { sentences: sentences.into(), question: question.to_owned(), steps }
}

/// A step with one equation, told as "`before` equation `after`".
fn step(before: &str, equation: Equation, after: &str) -> SolutionStep {
    let gap = if after.starts_with('.') { "" } else { " " };
    SolutionStep { words: format!("{before} {equation}{gap}{after}"), equations: vec![equation] }
}

fn meeting(draws: &mut Draws) -> NewStory {
    let (one, other, seconds) = (draws.range(2, 6), draws.range(2, 6), draws.range(3, 9));
    let closing = Equation::plus(one, other);
    let apart = closing.result * seconds;
    story(
        [
            format!("Two toy trains start {apart} feet apart and roll toward each other."),
            format!("One rolls {one} feet a second and the other rolls {other} feet a second."),
        ],
        "After how many seconds do they meet?",
        vec![
            step("Each second they come closer by", closing, "feet."),
            step("They meet after", Equation::over(apart, closing.result), "seconds."),
        ],
    )
}

fn ages(draws: &mut Draws) -> NewStory {
    let (age, times, later) = (draws.range(4, 12), draws.range(2, 5), draws.range(2, 9));
    let pool = people(Split::TestNew);
    let (first, step_to) = (draws.below(pool.len()), 1 + draws.below(pool.len() - 1));
    let (young, old) = (pool[first].name, pool[(first + step_to) % pool.len()].name);
    let now = Equation::times(age, times);
    story(
        [format!("{young} is {age} years old, and {old} is {times} times as old as {young}.")],
        &format!("How old will {old} be in {later} years?"),
        vec![
            step("Now the older one is", now, "years old."),
            step("Later that will be", Equation::plus(now.result, later), "years."),
        ],
    )
}

fn average(draws: &mut Draws) -> NewStory {
    let (mean, less, more) = (draws.range(8, 25), draws.range(1, 5), draws.range(1, 5));
    let scores = [mean - less, mean + more, mean + less - more];
    let person = draws.pick(people(Split::TestNew));
    let two = Equation::plus(scores[0], scores[1]);
    let three = Equation::plus(two.result, scores[2]);
    story(
        [format!(
            "In three games, {} scored {} points, {} points and {} points.",
            person.name, scores[0], scores[1], scores[2]
        )],
        &format!("What was {} average score per game?", person.possessive),
        vec![
            step("Two games give", two, "points."),
            step("All three give", three, "points."),
            step("The average is", Equation::over(three.result, 3), "points."),
        ],
    )
}

fn perimeter(draws: &mut Draws) -> NewStory {
    let width = draws.range(3, 20);
    let length = width + draws.range(1, 12);
    let half = Equation::plus(length, width);
    story(
        [format!("A rectangular garden is {length} meters long and {width} meters wide.")],
        "How many meters of fence go all the way around it?",
        vec![
            step("One long and one short side are", half, "meters."),
            step("All four sides are", Equation::times(half.result, 2), "meters."),
        ],
    )
}

fn coins(draws: &mut Draws) -> NewStory {
    let (nickels, dimes) = (draws.range(2, 8), draws.range(2, 8));
    let person = draws.pick(people(Split::TestNew));
    let (small, large) = (Equation::times(nickels, 5), Equation::times(dimes, 10));
    story(
        [
            format!("{} has {nickels} nickels and {dimes} dimes.", person.name),
            "A nickel is worth 5 cents and a dime is worth 10 cents.".to_owned(),
        ],
        "How many cents is that in total?",
        vec![
            step("The nickels are worth", small, "cents."),
            step("The dimes are worth", large, "cents."),
            step("In total that is", Equation::plus(small.result, large.result), "cents."),
        ],
    )
}

fn discount(draws: &mut Draws) -> NewStory {
    let (percent, divisor) = draws.pick(&[(10, 10), (20, 5), (25, 4), (50, 2)]);
    let price = divisor * draws.range(3, 12);
    let off = Equation::over(price, divisor);
    story(
        [format!("A coat costs {price} dollars."), format!("Today it is {percent} percent off.")],
        "How many dollars does the coat cost today?",
        vec![
            step(&format!("{percent} percent of {price} is"), off, "dollars."),
            step("Today it costs", Equation::minus(price, off.result), "dollars."),
        ],
    )
}

fn minutes(draws: &mut Draws) -> NewStory {
    let (hour, start, pause) = (draws.range(8, 11), draws.range(2, 20), draws.range(3, 9));
    let end = start + draws.range(20, 35);
    let span = Equation::minus(end, start);
    story(
        [
            format!("A lesson starts at {hour}:{start:02} and ends at {hour}:{end:02}."),
            format!("In the middle there is a break of {pause} minutes."),
        ],
        "How many minutes long is the lesson without the break?",
        vec![
            step("From start to end there are", span, "minutes."),
            step("Without the break that is", Equation::minus(span.result, pause), "minutes."),
        ],
    )
}

fn legs(draws: &mut Draws) -> NewStory {
    let (cows, hens) = (draws.range(2, 12), draws.range(2, 12));
    let (four, two) = (Equation::times(cows, 4), Equation::times(hens, 2));
    story(
        [
            format!("A farm has {cows} cows and {hens} hens."),
            "A cow has 4 legs and a hen has 2 legs.".to_owned(),
        ],
        "How many legs do all these animals have?",
        vec![
            step("The cows have", four, "legs."),
            step("The hens have", two, "legs."),
            step("Together they have", Equation::plus(four.result, two.result), "legs."),
        ],
    )
}

fn lamps(draws: &mut Draws) -> NewStory {
    let (gap, gaps) = (draws.range(3, 9), draws.range(3, 12));
    let length = gap * gaps;
    story(
        [
            format!("A straight path is {length} meters long."),
            format!(
                "It has a lamp every {gap} meters, with one lamp at the very start and one at the very end."
            ),
        ],
        "How many lamps does the path have?",
        vec![
            step("There are", Equation::over(length, gap), "gaps."),
            step("With the lamp at the start there are", Equation::plus(gaps, 1), "lamps."),
        ],
    )
}

fn painters(draws: &mut Draws) -> NewStory {
    // Built from the answer: `team` painters for `days`, or `fewer` painters for `scale` times as long.
    let (fewer, scale, days) = (draws.range(2, 4), draws.range(2, 3), draws.range(2, 8));
    let team = fewer * scale;
    let work = Equation::times(team, days);
    story(
        [format!("A team of {team} painters needs {days} days to paint a house.")],
        &format!("How many days would {fewer} painters need for it at the same speed?"),
        vec![
            step("The house takes", work, "days of one painter."),
            step("Shared by the painters, that is", Equation::over(work.result, fewer), "days."),
        ],
    )
}

fn tank(draws: &mut Draws) -> NewStory {
    let (inside, net, lost, time) =
        (draws.range(2, 20), draws.range(2, 8), draws.range(2, 6), draws.range(2, 9));
    let capacity = inside + net * time;
    let (missing, gained) = (Equation::minus(capacity, inside), Equation::minus(net + lost, lost));
    story(
        [
            format!("A tank holds {capacity} liters when full, and {inside} liters are in it now."),
            format!("Every minute {} liters flow in and {lost} liters leak out.", net + lost),
        ],
        "After how many minutes is the tank full?",
        vec![
            step("Missing are", missing, "liters."),
            step("Each minute brings", gained, "liters."),
            step("It is full after", Equation::over(missing.result, gained.result), "minutes."),
        ],
    )
}

fn rows(draws: &mut Draws) -> NewStory {
    let (first, more, row) = (draws.range(5, 20), draws.range(2, 6), draws.range(3, 9));
    let after = Equation::minus(row, 1);
    let added = Equation::times(after.result, more);
    story(
        [
            format!("The first row of a hall has {first} seats."),
            format!("Each row after it has {more} more seats than the row in front."),
        ],
        &format!("How many seats does row {row} have?"),
        vec![
            step("Rows after the first:", after, "."),
            step("They add", added, "seats."),
            step("So the row has", Equation::plus(first, added.result), "seats."),
        ],
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::draws::Purpose;
    use super::*;

    #[test]
    fn twelve_logics_take_turns() {
        assert_eq!(logics().collect::<BTreeSet<_>>().len(), 12);
        let mut draws = Draws::new(0, Purpose::Story, Split::TestNew, 0);
        let first: Vec<_> = (0..24).map(|index| tell(index, &mut draws).0).collect();
        assert_eq!(first[..12], logics().collect::<Vec<_>>());
        assert_eq!(first[12..], first[..12]);
    }

    #[test]
    fn every_logic_varies_and_stays_small() {
        for index in 0..12 {
            let mut answers = BTreeSet::new();
            for seed in 0..300 {
                let mut draws = Draws::new(seed, Purpose::Story, Split::TestNew, index);
                let (key, told) = tell(index, &mut draws);
                for step in &told.steps {
                    for equation in &step.equations {
                        assert!((1..=120).contains(&equation.result), "{key}: {equation}");
                        assert!(step.words.contains(&equation.to_string()), "{key}: {}", step.words);
                    }
                }
                answers.insert(told.steps.last().unwrap().equations.last().unwrap().result);
            }
            assert!(answers.len() >= 6, "logic {index} has only {answers:?}");
        }
    }

    #[test]
    fn divisions_are_exact() {
        for index in 0..12 {
            for seed in 0..300 {
                let mut draws = Draws::new(seed, Purpose::Story, Split::TestNew, index);
                let (key, told) = tell(index, &mut draws);
                for equation in told.steps.iter().flat_map(|step| &step.equations) {
                    let text = equation.to_string();
                    if let Some((left, rest)) = text.split_once(" / ") {
                        let (right, result) = rest.split_once(" = ").unwrap();
                        let [left, right, result]: [i64; 3] =
                            [left, right, result].map(|n| n.parse().unwrap());
                        assert_eq!(right * result, left, "{key}: {text}");
                    }
                }
            }
        }
    }
}
