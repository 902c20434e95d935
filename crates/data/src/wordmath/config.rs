//! What a user may choose: difficulty, style and the seed; and the errors where a choice makes no sense.

use serde::{Deserialize, Serialize};

/// Difficulty, style and seed of the generator. Everything has a default, unknown keys are errors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "snake_case")]
pub struct Config {
    /// Chooses the problems. Which compositions, names and numbers are held out for `test` does not depend on it.
    pub seed: u64,
    /// Fewest operations per problem, 1 to `max_steps`.
    pub min_steps: usize,
    /// Most operations per problem, `min_steps` to 5. Lengths are equally likely.
    pub max_steps: usize,
    /// Largest quantity in a problem or in its solution, 20 to 9999.
    pub max_number: i64,
    /// Largest number added or taken away in one step, 5 to `max_number`.
    pub max_addend: i64,
    /// Larger factor of any product and largest quotient of any division, 5 to `max_number`.
    pub max_factor: i64,
    /// Smaller factor of any product and largest divisor, 3 to `max_number`.
    pub max_multiplier: i64,
    /// Share of problems whose solution is told in words rather than in bare equations, 0 to 1. It changes only the
    /// solutions, never the questions.
    pub words_share: f64,
    /// Adds a sentence with an irrelevant number to every `test` problem. Nothing else of the problem changes, so that
    /// index `i` with and without it are a pair.
    pub distractor: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            seed: 0,
            min_steps: 1,
            max_steps: 4,
            max_number: 99,
            max_addend: 30,
            max_factor: 12,
            max_multiplier: 9,
            words_share: 0.5,
            distractor: false,
        }
    }
}

/// A value of [`Config`] outside its limits.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A whole number outside its range.
    #[error("wordmath.{key} is {value}, but must be {low} to {high}; hint: {hint}")]
    Range {
        /// Name of the field.
        key: &'static str,
        /// What was given.
        value: i64,
        /// Smallest value allowed.
        low: i64,
        /// Largest value allowed.
        high: i64,
        /// What to do about it.
        hint: &'static str,
    },
    /// `words_share` is not a probability.
    #[error(
        "wordmath.words_share is {value}, but must be 0 to 1; hint: 0 means equations only, 1 words only"
    )]
    Share {
        /// What was given.
        value: f64,
    },
}

/// All that is wrong with a [`Config`].
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct InvalidConfig {
    /// Every problem found; never empty.
    pub problems: Vec<ConfigError>,
}

impl Config {
    /// Most steps that a problem may have.
    pub const MOST_STEPS: usize = 5;

    /// Checks every field against its limits and returns all violations.
    ///
    /// ```
    /// use data::wordmath::Config;
    ///
    /// let config = Config { min_steps: 3, max_steps: 2, words_share: 1.5, ..Config::default() };
    /// let invalid = config.validate().unwrap_err();
    /// assert_eq!(invalid.problems.len(), 2);
    /// ```
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        let most = Self::MOST_STEPS as i64;
        let whole = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let top = self.max_number.clamp(20, 9999);
        let checks = [
            ("max_steps", whole(self.max_steps), 1, most, "4 is the default"),
            (
                "min_steps",
                whole(self.min_steps),
                1,
                whole(self.max_steps).clamp(1, most),
                "it may not exceed max_steps",
            ),
            ("max_number", self.max_number, 20, 9999, "99 is the default"),
            ("max_addend", self.max_addend, 5, top, "it may not exceed max_number"),
            ("max_factor", self.max_factor, 5, top, "12 is the end of the usual tables"),
            ("max_multiplier", self.max_multiplier, 3, top, "9 is the end of the usual tables"),
        ];
        let mut problems: Vec<_> = checks
            .into_iter()
            .filter(|(_, value, low, high, _)| !(low..=high).contains(&value))
            .map(|(key, value, low, high, hint)| ConfigError::Range { key, value, low, high, hint })
            .collect();
        if !(0.0..=1.0).contains(&self.words_share) {
            problems.push(ConfigError::Share { value: self.words_share });
        }
        if problems.is_empty() { Ok(()) } else { Err(InvalidConfig { problems }) }
    }
}

/// Which problems: what to train on, and what to test on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Compositions, names and numbers to train on.
    Train,
    /// Known operations in compositions, with names and with sets of numbers that `train` never holds.
    Test,
    /// Story logics that neither of the others holds; index `i` is logic `i mod 12`. Its numbers stay below 121, its
    /// difficulty is the same under every [`Config`].
    TestNew,
}

impl Split {
    /// All splits.
    pub const ALL: [Self; 3] = [Self::Train, Self::Test, Self::TestNew];

    /// Name in recipes, identifiers and reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Test => "test",
            Self::TestNew => "test-new",
        }
    }
}

impl std::fmt::Display for Split {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// How a worked solution is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// Bare equations: `12 + 7 = 19. 19 * 3 = 57.`
    Equations,
    /// Short sentences around the same equations: `Adding 7 gives 12 + 7 = 19 apples.`
    Words,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Config::default().validate(), Ok(()));
    }

    #[test]
    fn every_violation_is_reported_with_field_value_and_limits() {
        let config = Config {
            seed: 0,
            min_steps: 0,
            max_steps: 6,
            max_number: 10,
            max_addend: 2,
            max_factor: 1,
            max_multiplier: 2,
            words_share: f64::NAN,
            distractor: false,
        };
        let invalid = config.validate().unwrap_err();
        assert_eq!(invalid.problems.len(), 7);
        let text = invalid.to_string();
        assert!(text.contains("wordmath.max_steps is 6, but must be 1 to 5; hint:"), "{text}");
        assert!(text.contains("wordmath.max_number is 10, but must be 20 to 9999"), "{text}");
        assert_eq!(text.lines().count(), 7);
    }

    #[test]
    fn more_steps_at_least_than_at_most_is_one_error() {
        let config = Config { min_steps: 4, max_steps: 2, ..Config::default() };
        let problems = config.validate().unwrap_err().problems;
        assert!(matches!(
            problems[..],
            [ConfigError::Range { key: "min_steps", value: 4, low: 1, high: 2, .. }]
        ));
    }

    #[test]
    fn unknown_keys_are_refused_and_missing_ones_default() {
        let config: Config = serde_json::from_str(r#"{"max_steps": 2}"#).unwrap();
        assert_eq!(config, Config { max_steps: 2, ..Config::default() });
        let error = serde_json::from_str::<Config>(r#"{"max_step": 2}"#).unwrap_err().to_string();
        assert!(error.contains("max_step"), "{error}");
    }

    #[test]
    fn splits_serialise_as_they_are_named() {
        for split in Split::ALL {
            assert_eq!(serde_json::to_string(&split).unwrap(), format!("\"{split}\""));
        }
    }
}
