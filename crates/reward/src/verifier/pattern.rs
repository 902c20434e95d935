//! Regular expressions.

use generate::Error;
use regex::Regex;

use super::{Check, Subject};
use crate::error::SetupError;

/// How a pattern's matches become a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occurrences {
    /// 1 where the pattern matches somewhere, else 0.
    Any,
    /// 1 where the pattern matches nowhere, else 0.
    None,
    /// The number of matches that do not overlap.
    Count,
    /// The same, at most this many.
    CountUpTo(usize),
}

/// Scores what a regular expression finds (syntax of the crate `regex`: Unicode, linear time).
#[derive(Debug, Clone)]
pub struct Pattern {
    regex: Regex,
    occurrences: Occurrences,
}

impl Pattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The pattern does not parse, or is too large; the message marks the place.
    pub fn new(pattern: &str, occurrences: Occurrences) -> Result<Self, SetupError> {
        let refuse =
            |error: regex::Error| SetupError::Pattern { pattern: pattern.into(), problem: error.to_string() };
        Ok(Self { regex: Regex::new(pattern).map_err(refuse)?, occurrences })
    }
}

impl Check for Pattern {
    fn name(&self) -> &'static str {
        "pattern"
    }

    fn score(&self, subject: &Subject<'_>) -> Result<f64, Error> {
        let text = subject.text();
        let truth = |holds: bool| if holds { 1.0 } else { 0.0 };
        Ok(match self.occurrences {
            Occurrences::Any => truth(self.regex.is_match(&text)),
            Occurrences::None => truth(!self.regex.is_match(&text)),
            Occurrences::Count => self.regex.find_iter(&text).count() as f64,
            Occurrences::CountUpTo(most) => self.regex.find_iter(&text).take(most).count() as f64,
        })
    }

    fn range(&self) -> (f64, f64) {
        match self.occurrences {
            Occurrences::Any | Occurrences::None => (0.0, 1.0),
            Occurrences::Count => (0.0, f64::INFINITY),
            Occurrences::CountUpTo(most) => (0.0, most as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::score;
    use super::*;

    #[test]
    fn matches_and_counts_in_unicode() {
        let with = |occurrences| Pattern::new(r"\b[çñ]\w+", occurrences).expect("a pattern");
        let texts = ["ça va, ñandú et ÇA", "cava", "", "çççç ça ça"];
        let scores = |occurrences| texts.map(|text| score(&with(occurrences), text));
        assert_eq!(scores(Occurrences::Any), [1.0, 0.0, 0.0, 1.0]);
        assert_eq!(scores(Occurrences::None), [0.0, 1.0, 1.0, 0.0]);
        assert_eq!(scores(Occurrences::Count), [2.0, 0.0, 0.0, 3.0]);
        assert_eq!(scores(Occurrences::CountUpTo(2)), [2.0, 0.0, 0.0, 2.0]);
    }

    #[test]
    fn an_invalid_pattern_is_shown_with_the_place() {
        assert_eq!(
            Pattern::new("ab(c", Occurrences::Any).unwrap_err().to_string(),
            "the pattern `ab(c` is not a regular expression: regex parse error:\n    ab(c\n      ^\nerror: unclosed group"
        );
    }
}
