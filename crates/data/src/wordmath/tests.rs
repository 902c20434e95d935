//! Properties of whole problems, over thousands of draws of every split.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::lexicon::people;
use super::operation::{Operation, Place, State, Unit};
use super::*;

fn generator(config: Config) -> Generator {
    Generator::new(config).unwrap()
}

fn draws(config: &Config, split: Split, count: u64) -> Vec<Problem> {
    generator(config.clone()).problems(split, count).collect()
}

/// Everything that must hold of any problem's text.
fn assert_sound(problem: &Problem, equation: &Regex, one: &Regex) {
    let Problem { question, solution, answer, .. } = problem;
    assert!(verify(*answer, &problem.completion()), "{problem:?}");
    assert!(!verify(answer + 1, &problem.completion()), "{problem:?}");
    let equations: Vec<_> = equation.captures_iter(solution).collect();
    for captures in &equations {
        let [left, right, result]: [i64; 3] = [1, 3, 4].map(|group| captures[group].parse().unwrap());
        let (value, exact) = match &captures[2] {
            "+" => (left + right, true),
            "-" => (left - right, true),
            "*" => (left * right, true),
            _ => (left / right, left % right == 0),
        };
        assert!(exact && value == result, "{}: {problem:?}", &captures[0]);
    }
    assert_eq!(solution.matches('=').count(), equations.len(), "{problem:?}");
    assert!(equations.len() >= problem.steps && problem.steps >= 1, "{problem:?}");
    assert_eq!(equations.last().unwrap()[4], answer.to_string(), "{problem:?}");
    let text = problem.prompt() + &problem.completion();
    assert!(!text.contains(['{', '}']) && !text.contains("  ") && !text.contains(" ."), "{text}");
    assert!(text.is_ascii() && question.ends_with('?') && question.matches('?').count() == 1, "{text}");
    assert_eq!(solution.matches("####").count(), 1, "{text}");
    for sentence in question.split_inclusive(['.', '?']).map(str::trim) {
        assert!(sentence.starts_with(|first: char| first.is_ascii_uppercase()), "{sentence}");
    }
    // "1 apples", and "19 apple": a number agrees with its noun.
    assert!(!one.is_match(&text), "{text}");
}

/// A one before a plural, or more than one before a singular.
fn disagreement() -> Regex {
    let things = || lexicon::THINGS.iter().chain([&lexicon::DOLLAR]);
    let ones: Vec<_> = things().map(|thing| thing.one).collect();
    let many: Vec<_> = things().map(|thing| thing.many).collect();
    let (ones, many) = (ones.join("|"), many.join("|"));
    Regex::new(&format!(
        r"(?:^|[^0-9])1 (?:more |fewer )?(?:{many})\b|(?:[2-9]|[0-9]{{2,}}) (?:more |fewer )?(?:{ones})\b"
    ))
    .unwrap()
}

#[test]
fn texts_and_solutions_are_sound_in_every_split_and_style() {
    let equation = Regex::new(r"(\d+) ([-+*/]) (\d+) = (\d+)").unwrap();
    let one = disagreement();
    for distractor in [false, true] {
        let generator = generator(Config { distractor, max_steps: 5, ..Config::default() });
        for split in Split::ALL {
            for index in 0..1_500 {
                for style in [Style::Equations, Style::Words] {
                    assert_sound(&generator.styled(split, index, style), &equation, &one);
                }
            }
        }
    }
}

#[test]
fn the_check_of_agreement_can_fail() {
    let one = disagreement();
    for wrong in ["had 1 apples.", "= 1 dollars", "got 1 more pens.", "12 apple ", "2 more dollar."] {
        assert!(one.is_match(wrong), "{wrong}");
    }
    for right in ["had 1 apple.", "= 21 dollars", "11 pens", "2 more dollars"] {
        assert!(!one.is_match(right), "{right}");
    }
}

#[test]
fn the_registry_is_as_large_as_promised() {
    assert!(Operation::ALL.len() >= 12);
    assert!(phrasing_count() >= 40);
    assert_eq!(logics().count(), 12);
}

#[test]
fn no_composition_and_no_numbers_of_test_occur_in_train() {
    let number = Regex::new(r"\d+|third|quarter|fifth").unwrap();
    let seen = |split| {
        let (mut compositions, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for problem in generator(Config::default()).problems(split, 50_000) {
            let mut shown: Vec<i64> = number
                .find_iter(&problem.question)
                .map(|found| match found.as_str() {
                    "third" => 3,
                    "quarter" => 4,
                    "fifth" => 5,
                    digits => digits.parse().unwrap(),
                })
                .collect();
            shown.sort_unstable();
            numbers.insert(shown);
            compositions.insert(problem.composition);
        }
        (compositions, numbers)
    };
    let ((train, train_numbers), (test, test_numbers)) = (seen(Split::Train), seen(Split::Test));
    assert!(train.is_disjoint(&test));
    assert!(train_numbers.is_disjoint(&test_numbers));
    // Enough of both that disjointness says something.
    assert!(train.len() > 10_000 && test.len() > 5_000, "{} {}", train.len(), test.len());
    // What is new in test is the whole, not its parts: each operation was trained on after each that precedes it. Only
    // an opener right before a closer is a whole composition itself.
    let (trained, tested) = (neighbours(&train), neighbours(&test));
    let unknown: Vec<_> = tested.difference(&trained).collect();
    assert!(tested.len() > 300 && unknown.is_empty(), "{unknown:?}");
}

/// Operations that follow one another in compositions, but for an opener right before a closer.
fn neighbours(compositions: &BTreeSet<String>) -> BTreeSet<(&str, &str)> {
    let place =
        |key: &str| Operation::ALL.into_iter().find(|operation| operation.key() == key).unwrap().place();
    let mut pairs = BTreeSet::new();
    for key in compositions.iter().filter(|key| key.contains('>')) {
        pairs.extend(key.split('>').zip(key.split('>').skip(1)));
    }
    pairs.retain(|(first, second)| place(first) != Place::Opener || place(second) != Place::Closer);
    pairs
}

#[test]
fn no_name_of_test_occurs_in_train_and_the_reverse() {
    let config = Config::default();
    for (split, strangers) in
        [(Split::Train, Split::Test), (Split::Test, Split::Train), (Split::TestNew, Split::Train)]
    {
        let names: BTreeSet<_> = people(strangers).iter().map(|person| person.name).collect();
        let own: BTreeSet<_> = people(split).iter().map(|person| person.name).collect();
        let mut met = BTreeSet::new();
        for problem in draws(&config, split, 3_000) {
            for word in problem.question.split(|letter: char| !letter.is_ascii_alphabetic()) {
                assert!(!names.contains(word), "{}", problem.question);
                met.extend(own.get(word).copied());
            }
        }
        assert_eq!(met, own, "every name of {split} comes up");
    }
}

#[test]
fn held_out_compositions_do_not_depend_on_seed_or_difficulty() {
    let train: BTreeSet<_> = draws(&Config::default(), Split::Train, 10_000)
        .into_iter()
        .map(|problem| problem.composition)
        .collect();
    let other = Config { seed: 7, max_number: 500, max_addend: 100, max_steps: 5, ..Config::default() };
    for problem in draws(&other, Split::Test, 5_000) {
        assert!(!train.contains(&problem.composition), "{}", problem.composition);
    }
}

#[test]
fn a_problem_is_a_pure_function_of_configuration_split_and_index() {
    let config = Config::default();
    let forward = draws(&config, Split::Train, 50);
    let again = generator(config.clone());
    for (index, problem) in forward.iter().enumerate().rev() {
        assert_eq!(*problem, again.problem(Split::Train, index as u64));
    }
    let distinct: BTreeSet<_> = forward.iter().map(|problem| &problem.question).collect();
    assert!(distinct.len() >= 49);
    let reseeded = draws(&Config { seed: 1, ..config }, Split::Train, 50);
    assert!(forward.iter().zip(&reseeded).all(|(one, other)| one.question != other.question));
}

#[test]
fn texts_never_change_unnoticed() {
    // Shipped policies are trained on these texts: whoever changes them trains those again.
    let config = Config {
        seed: 0,
        min_steps: 1,
        max_steps: 4,
        max_number: 99,
        max_addend: 30,
        max_factor: 12,
        max_multiplier: 9,
        words_share: 0.5,
        distractor: true,
    };
    let mut hasher = blake3::Hasher::new();
    for split in Split::ALL {
        for problem in draws(&config, split, 200) {
            hasher.update((problem.prompt() + &problem.completion()).as_bytes());
        }
    }
    assert_eq!(hasher.finalize().to_hex()[..16], *"ac4dd6ccdcdbf626");
}

#[test]
fn words_share_changes_styles_and_nothing_else() {
    let share = |words_share| draws(&Config { words_share, ..Config::default() }, Split::Test, 500);
    let (bare, mixed, words) = (share(0.0), share(0.3), share(1.0));
    assert!(bare.iter().all(|problem| problem.style == Style::Equations));
    assert!(words.iter().all(|problem| problem.style == Style::Words));
    let told = mixed.iter().filter(|problem| problem.style == Style::Words).count();
    assert!((100..200).contains(&told), "{told}");
    for ((one, two), three) in bare.iter().zip(&mixed).zip(&words) {
        assert_eq!((&one.question, one.answer), (&two.question, two.answer));
        assert_eq!((&one.question, one.answer), (&three.question, three.answer));
        assert!(one.solution.len() < three.solution.len());
    }
}

#[test]
fn a_distractor_adds_one_sentence_and_keeps_the_solution() {
    let with = draws(&Config { distractor: true, ..Config::default() }, Split::Test, 1_000);
    let without = draws(&Config::default(), Split::Test, 1_000);
    for (long, short) in with.iter().zip(&without) {
        assert_eq!((long.distractors, short.distractors), (1, 0));
        assert_eq!((long.answer, &long.solution), (short.answer, &short.solution));
        let sentences = |text: &str| text.split_inclusive(". ").map(str::to_owned).collect::<Vec<_>>();
        let (mut longer, shorter) = (sentences(&long.question), sentences(&short.question));
        let extra = longer.iter().position(|sentence| !shorter.contains(sentence)).unwrap();
        assert!(extra > 0 && longer[extra].contains(|letter: char| letter.is_ascii_digit()));
        longer.remove(extra);
        assert_eq!(longer, shorter);
    }
    for split in [Split::Train, Split::TestNew] {
        let config = Config { distractor: true, ..Config::default() };
        assert_eq!(draws(&config, split, 50), draws(&Config::default(), split, 50));
    }
}

#[test]
fn no_answer_is_common_and_lengths_are_mixed() {
    for split in [Split::Train, Split::Test] {
        let (mut answers, mut lengths) = (BTreeMap::new(), BTreeMap::new());
        for problem in draws(&Config::default(), split, 20_000) {
            *answers.entry(problem.answer).or_insert(0) += 1;
            *lengths.entry(problem.steps).or_insert(0) += 1;
        }
        let most = answers.values().max().unwrap();
        assert!(*most < 1_600 && answers.len() > 80, "{split}: {most} of 20000, {} answers", answers.len());
        assert!(lengths.len() == 4 && lengths.values().all(|&count| count > 4_500), "{lengths:?}");
    }
}

#[test]
fn every_operation_is_common_in_train_and_in_test() {
    for split in [Split::Train, Split::Test] {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for problem in draws(&Config::default(), split, 10_000) {
            for key in problem.composition.split('>') {
                let key = key.split_once('/').map_or(key, |(operation, _)| operation);
                *counts.entry(key.to_owned()).or_default() += 1;
            }
        }
        assert_eq!(counts.len(), Operation::ALL.len(), "{split}");
        assert!(counts.values().all(|&count| count >= 150), "{split}: {counts:?}");
    }
}

#[test]
fn texts_stay_short() {
    for split in Split::ALL {
        let problems = draws(&Config { words_share: 0.0, ..Config::default() }, split, 5_000);
        let mean = |length: fn(&Problem) -> usize| {
            problems.iter().map(length).sum::<usize>() as f64 / problems.len() as f64
        };
        assert!(mean(|problem| problem.question.len()) < 240.0);
        assert!(mean(|problem| problem.solution.len()) < 70.0);
        assert!(problems.iter().all(|problem| problem.question.len() < 520 && problem.solution.len() < 180));
    }
}

#[test]
fn the_tightest_bounds_fill_every_length_of_both_splits() {
    // Every bound is an upper one, so that looser ones only add numbers: what exists here exists everywhere.
    let tight =
        Config { max_number: 20, max_addend: 5, max_factor: 5, max_multiplier: 3, ..Config::default() };
    for steps in 1..=Config::MOST_STEPS {
        let config = Config { min_steps: steps, max_steps: steps, ..tight.clone() };
        for split in [Split::Train, Split::Test] {
            assert!(draws(&config, split, 20).iter().all(|problem| problem.steps == steps));
        }
    }
}

#[test]
fn wide_bounds_work_too() {
    let config = Config {
        max_number: 9999,
        max_addend: 5000,
        max_factor: 99,
        max_multiplier: 50,
        ..Config::default()
    };
    let answers: Vec<_> = draws(&config, Split::Train, 10).iter().map(|problem| problem.answer).collect();
    assert!(
        answers.iter().all(|answer| (1..=9999).contains(answer)) && answers.iter().any(|&answer| answer > 99)
    );
}

#[test]
fn a_story_can_always_go_on() {
    for unit in Unit::ALL {
        let mut states: BTreeSet<_> = [State::start(unit)].into();
        for _ in 0..4 {
            states = states
                .iter()
                .flat_map(|&state| {
                    let next: Vec<_> =
                        Operation::ALL.iter().filter_map(|operation| operation.next(state, false)).collect();
                    assert!(!next.is_empty(), "{state:?} is a dead end");
                    next
                })
                .collect();
        }
    }
}
