//! Random access to problems.

use super::arithmetic::{Feasible, Numbers};
use super::composition::{self, Composition, CompositionCount, split_of_composition, split_of_numbers};
use super::config::{Config, InvalidConfig, Split, Style};
use super::distractor::clause;
use super::draws::{Draws, Purpose};
use super::lexicon::Thing;
use super::logic;
use super::problem::Problem;
use super::solution::{SolutionStep, render};
use super::story::tell;

/// Tuples of numbers to try for one composition before another composition is drawn.
const NUMBERS_TRIED: usize = 40;

/// Problems by split and index: no state, any order, any thread.
#[derive(Clone, Debug)]
pub struct Generator {
    config: Config,
}

/// A problem before its solution is given a style.
struct Draft {
    sentences: Vec<String>,
    question: String,
    steps: Vec<SolutionStep>,
    things: Vec<&'static Thing>,
    composition: String,
    length: usize,
}

impl Generator {
    /// A generator, where `config` makes sense.
    pub fn new(config: Config) -> Result<Self, InvalidConfig> {
        config.validate()?;
        Ok(Self { config })
    }

    /// The configuration.
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Problem `index` of `split`, in the style that `words_share` gives it.
    pub fn problem(&self, split: Split, index: u64) -> Problem {
        let mut draws = Draws::new(self.config.seed, Purpose::Style, split, index);
        let style = if draws.chance(self.config.words_share) { Style::Words } else { Style::Equations };
        self.styled(split, index, style)
    }

    /// Problem `index` of `split` with its solution in `style`; the question is that of [`Generator::problem`].
    pub fn styled(&self, split: Split, index: u64, style: Style) -> Problem {
        let mut draws = Draws::new(self.config.seed, Purpose::Story, split, index);
        let mut draft = match split {
            Split::Train | Split::Test => self.composed(split, &mut draws),
            Split::TestNew => told_anew(index, &mut draws),
        };
        let distractors = usize::from(self.config.distractor && split == Split::Test);
        if distractors > 0 {
            let mut draws = Draws::new(self.config.seed, Purpose::Distractor, split, index);
            let place = 1 + draws.below(draft.sentences.len());
            let clause = clause(&mut draws, &draft.things, self.config.max_number);
            draft.sentences.insert(place, clause);
        }
        draft.sentences.push(draft.question);
        let answer = draft.steps.last().and_then(|step| step.equations.last()).map_or(0, |last| last.result);
        Problem {
            id: format!("wordmath/{split}/{index}"),
            split,
            question: draft.sentences.join(" "),
            solution: render(&draft.steps, answer, style),
            style,
            answer,
            composition: draft.composition,
            steps: draft.length,
            distractors,
        }
    }

    /// Problems `0..count` of `split`.
    pub fn problems(&self, split: Split, count: u64) -> impl Iterator<Item = Problem> + '_ {
        (0..count).map(move |index| self.problem(split, index))
    }

    /// How many compositions of each length there are to train on and to test on.
    pub fn composition_space(&self) -> Vec<CompositionCount> {
        composition::count(&self.config)
    }

    fn composed(&self, split: Split, draws: &mut Draws) -> Draft {
        let lengths = self.config.max_steps - self.config.min_steps + 1;
        let length = self.config.min_steps + draws.below(lengths);
        let (composition, numbers) = self.composition(split, length, draws);
        let story = tell(&composition, &numbers, split, draws);
        Draft {
            sentences: story.sentences,
            question: story.question,
            steps: story.steps,
            things: story.things,
            composition: composition.key(),
            length,
        }
    }

    /// A composition of `split` and numbers of `split` for it. It ends: every bound of a valid configuration only adds
    /// numbers, and a test fills every length of both splits under the tightest bounds.
    fn composition(&self, split: Split, length: usize, draws: &mut Draws) -> (Composition, Vec<Numbers>) {
        loop {
            let composition = Composition::draw(length, draws);
            if split_of_composition(&composition.key()) != split {
                continue;
            }
            let Some(feasible) = Feasible::new(&composition.operations, &self.config) else { continue };
            for _ in 0..NUMBERS_TRIED {
                let numbers = feasible.draw(draws);
                if split_of_numbers(shown(&numbers)) == split {
                    return (composition, numbers);
                }
            }
        }
    }
}

/// The numbers that a question shows (a third, a quarter and a fifth are 3, 4 and 5).
fn shown(steps: &[Numbers]) -> Vec<i64> {
    let start = steps.first().map(|first| first.before);
    let rest = steps.iter().flat_map(|step| [step.a, step.b]);
    start.into_iter().chain(rest).filter(|&number| number > 0).collect()
}

fn told_anew(index: u64, draws: &mut Draws) -> Draft {
    let (key, told) = logic::tell(index, draws);
    Draft {
        sentences: told.sentences,
        question: told.question,
        length: told.steps.iter().map(|step| step.equations.len()).sum(),
        steps: told.steps,
        things: Vec::new(),
        composition: format!("new/{key}"),
    }
}

/// The first `count` training texts, prompt and completion together: what a tokenizer is trained on.
///
/// ```
/// use data::wordmath::{Config, corpus};
///
/// let texts: Vec<String> = corpus(Config::default(), 100)?.collect();
/// assert!(texts.iter().all(|text| text.starts_with("Question: ") && text.contains("\nAnswer: ")));
/// # Ok::<(), data::wordmath::InvalidConfig>(())
/// ```
pub fn corpus(config: Config, count: u64) -> Result<impl Iterator<Item = String>, InvalidConfig> {
    let generator = Generator::new(config)?;
    Ok((0..count).map(move |index| {
        let problem = generator.problem(Split::Train, index);
        problem.prompt() + &problem.completion()
    }))
}
