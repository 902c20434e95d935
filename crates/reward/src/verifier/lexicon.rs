//! Weighted word lists.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use generate::Error;
use regex::Regex;

use super::{Check, Subject};
use crate::error::SetupError;

/// A word: letters, marks, digits and underscores, with apostrophes inside (`don't`). Hyphens separate.
#[expect(clippy::expect_used, reason = "the pattern is fixed and tested")]
static WORD: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\w+(?:['’]\w+)*").expect("a valid pattern"));

/// How the weights of a text's words become its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PerText {
    /// The sum over the words. Longer texts can score more.
    Sum,
    /// The sum divided by the number of all words, listed or not; 0 without words.
    Mean,
}

/// Scores the words of a text by a list of weights; words that are not listed weigh 0.
///
/// Words are whole words (`cat` is not in `concatenate`) without case, and a curly apostrophe equals the straight one.
/// Other spellings of a character, such as a letter with a combining accent, are not unified.
#[derive(Debug, Clone, PartialEq)]
pub struct Lexicon {
    weights: BTreeMap<String, f64>,
    per_text: PerText,
}

impl Lexicon {
    /// A list in memory.
    ///
    /// # Errors
    /// No words, an entry that is not one word, a word listed twice, or a weight that is not finite.
    pub fn new<W: AsRef<str>>(
        words: impl IntoIterator<Item = (W, f64)>,
        per_text: PerText,
    ) -> Result<Self, SetupError> {
        let mut lexicon = Self { weights: BTreeMap::new(), per_text };
        for (word, weight) in words {
            lexicon.add(word.as_ref(), weight).map_err(|problem| SetupError::LexiconEntry { problem })?;
        }
        lexicon.not_empty()
    }

    /// Words of weight 1 and words of weight −1.
    ///
    /// # Errors
    /// As [`Lexicon::new`].
    pub fn of_lists<W: AsRef<str>>(
        positive: impl IntoIterator<Item = W>,
        negative: impl IntoIterator<Item = W>,
        per_text: PerText,
    ) -> Result<Self, SetupError> {
        let positive = positive.into_iter().map(|word| (word, 1.0));
        Self::new(positive.chain(negative.into_iter().map(|word| (word, -1.0))), per_text)
    }

    /// Reads a file of lines `word<TAB>weight`; empty lines and lines that begin with `#` are skipped.
    ///
    /// # Errors
    /// The file cannot be read, or a line is not as it should be.
    pub fn load(path: &Path, per_text: PerText) -> Result<Self, SetupError> {
        let text = fs_err::read_to_string(path)?;
        let mut lexicon = Self { weights: BTreeMap::new(), per_text };
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() || line.starts_with('#') {
                continue;
            }
            let added = match line.split_once('\t') {
                None => Err(format!("no tab in `{line}`")),
                Some((word, weight)) => match weight.trim().parse() {
                    Ok(weight) => lexicon.add(word, weight),
                    Err(_) => Err(format!("`{}` is not a number", weight.trim())),
                },
            };
            added.map_err(|problem| SetupError::LexiconLine {
                path: path.into(),
                line: number + 1,
                problem,
            })?;
        }
        lexicon.not_empty()
    }

    fn add(&mut self, word: &str, weight: f64) -> Result<(), String> {
        let word = word.trim();
        if WORD.find(word).is_none_or(|found| found.len() != word.len()) {
            return Err(format!("`{word}` is not one word"));
        }
        if !weight.is_finite() {
            return Err(format!("the weight of `{word}` is {weight}, which is not finite"));
        }
        match self.weights.insert(folded(word), weight) {
            Some(_) => Err(format!("`{word}` is listed twice (case does not count)")),
            None => Ok(()),
        }
    }

    fn not_empty(self) -> Result<Self, SetupError> {
        if self.weights.is_empty() { Err(SetupError::EmptyLexicon) } else { Ok(self) }
    }
}

fn folded(word: &str) -> String {
    word.to_lowercase().replace('’', "'")
}

impl Check for Lexicon {
    fn name(&self) -> &'static str {
        "lexicon"
    }

    fn score(&self, subject: &Subject<'_>) -> Result<f64, Error> {
        let (mut sum, mut words) = (0.0, 0_usize);
        for word in WORD.find_iter(&subject.text()) {
            sum += self.weights.get(&folded(word.as_str())).unwrap_or(&0.0);
            words += 1;
        }
        // A mean of weights can leave their range by rounding.
        let (low, high) = self.range();
        Ok(match self.per_text {
            PerText::Sum => sum,
            PerText::Mean => (sum / words.max(1) as f64).clamp(low, high),
        })
    }

    fn range(&self) -> (f64, f64) {
        let low = self.weights.values().copied().fold(0.0, f64::min);
        let high = self.weights.values().copied().fold(0.0, f64::max);
        match self.per_text {
            PerText::Mean => (low, high),
            // Any number of words may come.
            PerText::Sum => (
                if low < 0.0 { f64::NEG_INFINITY } else { 0.0 },
                if high > 0.0 { f64::INFINITY } else { 0.0 },
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::score;
    use super::*;

    #[test]
    fn words_are_whole_and_without_case() {
        let lexicon =
            Lexicon::new([("cat", 1.0), ("don't", -2.0), ("Straße", 4.0), ("ΟΔΟΣ", 8.0)], PerText::Sum)
                .expect("a lexicon");
        for (text, want) in [
            ("concatenate the cats", 0.0),
            ("Cat, cat; CAT!cat", 4.0),
            ("cat-like (cat)", 2.0),
            ("cat's cat_ cat2 cát", 0.0),
            ("cat\u{301}", 0.0),
            ("Don’t! DON'T don", -4.0),
            ("straße STRAßE", 8.0),
            ("οδος Οδος", 16.0),
            ("", 0.0),
            ("猫cat猫", 0.0),
            ("🐈cat🐈", 1.0),
        ] {
            assert_eq!(score(&lexicon, text), want, "{text}");
        }
    }

    #[test]
    fn a_mean_is_over_all_words() {
        let lexicon = Lexicon::of_lists(["good", "fine"], ["bad"], PerText::Mean).expect("a lexicon");
        let texts = ["", "…", "good", "good film", "bad bad good day"];
        assert_eq!(texts.map(|text| score(&lexicon, text)), [0.0, 0.0, 1.0, 0.5, -0.25]);
        assert_eq!(lexicon.range(), (-1.0, 1.0));
    }

    #[test]
    fn ranges_follow_the_signs() {
        let range = |weights: &[f64], per_text| {
            let words = weights.iter().enumerate().map(|(i, w)| (format!("w{i}"), *w));
            Lexicon::new(words, per_text).expect("a lexicon").range()
        };
        assert_eq!(range(&[1.0, 3.0], PerText::Mean), (0.0, 3.0));
        assert_eq!(range(&[1.0, 3.0], PerText::Sum), (0.0, f64::INFINITY));
        assert_eq!(range(&[-2.0], PerText::Sum), (f64::NEG_INFINITY, 0.0));
        assert_eq!(range(&[-2.0, 1.0], PerText::Mean), (-2.0, 1.0));
    }

    #[test]
    fn files_are_read_and_their_mistakes_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("words.tsv");
        let load = |text: &str| {
            fs_err::write(&path, text).expect("written");
            Lexicon::load(&path, PerText::Sum)
        };
        let good = load("# weights\n\ngood\t1.5\nœuvre\t-2\r\n").expect("a lexicon");
        assert_eq!(good, Lexicon::new([("œuvre", -2.0), ("good", 1.5)], PerText::Sum).expect("a lexicon"));
        let at = path.display();
        let hint = "\n  hint: a line is a word, a tab and a number, as in `good\\t1.9`";
        for (text, want) in [
            ("good 1", format!("{at}:1: no tab in `good 1`{hint}")),
            ("a\t1\ngood\tx", format!("{at}:2: `x` is not a number{hint}")),
            ("#\nnew york\t1", format!("{at}:2: `new york` is not one word{hint}")),
            ("a\tinf", format!("{at}:1: the weight of `a` is inf, which is not finite{hint}")),
            ("a\t1\nb\t1\nA\t2", format!("{at}:3: `A` is listed twice (case does not count){hint}")),
            ("# nothing\n", "the lexicon has no words, so that every text would score 0".into()),
        ] {
            assert_eq!(load(text).unwrap_err().to_string(), want);
        }
        let absent = dir.path().join("absent.tsv");
        let error = Lexicon::load(&absent, PerText::Sum).unwrap_err().to_string();
        assert!(error.contains("absent.tsv"), "{error}");
    }

    proptest! {
        #[test]
        fn scores_lie_in_the_range(
            weights in prop::collection::vec(-9.0..9.0, 1..5),
            picks in prop::collection::vec(0_usize..8, 0..30),
        ) {
            let words = weights.iter().enumerate().map(|(i, w)| (format!("w{i}"), *w));
            let words: Vec<_> = words.collect();
            let text: Vec<String> = picks.iter().map(|i| format!("w{i}")).collect();
            for per_text in [PerText::Sum, PerText::Mean] {
                let lexicon = Lexicon::new(words.clone(), per_text).expect("a lexicon");
                score(&lexicon, &text.join(" "));
            }
        }
    }
}
