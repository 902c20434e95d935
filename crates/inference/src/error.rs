//! What can be wrong with a method before it runs.

use std::fmt;

use crate::method::Need;

/// Why a method cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It needs something that was not given.
    #[error("method {method} needs {need}, and none was given\n  hint: {}", need.remedy())]
    Missing {
        /// The method.
        method: &'static str,
        /// What is missing.
        need: Need,
    },
    /// Its settings are out of range or contradict each other.
    #[error("[method.{method}] {}", lines(problems))]
    Settings {
        /// The method.
        method: &'static str,
        /// All that is wrong.
        problems: Vec<Problem>,
    },
    /// Weights do not fit the autoregressive reward models.
    #[error(
        "[method.{method}] `{key}` has {weights} numbers for {} autoregressive reward models ({})\n  hint: give one for each model, in the models' order",
        arms.len(), arms.join(", ")
    )]
    Arms {
        /// The method.
        method: &'static str,
        /// The key of the weights.
        key: &'static str,
        /// How many there are.
        weights: usize,
        /// Names of the models.
        arms: Vec<String>,
    },
    /// A further model is missing.
    #[error(
        "method {method} needs a model `{role}`, and {}\n  hint: add it to `models`, as in `models = {{ {role} = \"stage:NAME\" }}`",
        if given.is_empty() { "no further model is named".to_owned() } else { format!("the models are {}", given.join(", ")) }
    )]
    Model {
        /// The method.
        method: &'static str,
        /// What the model is for.
        role: String,
        /// What was named.
        given: Vec<String>,
    },
    /// A method that compares samples would draw one and the same text.
    #[error(
        "method {method} draws {samples} completions of each prompt, and temperature 0 makes them all equal\n  hint: set `sampling.temperature` above 0, or use the method greedy"
    )]
    Deterministic {
        /// The method.
        method: &'static str,
        /// How many it draws.
        samples: usize,
    },
    /// A method that weighs the policy's next tokens would be left with one.
    #[error(
        "method {method} weighs next tokens by itself, and temperature 0 leaves it only one\n  hint: set `sampling.temperature` above 0; 1 is the policy's own law"
    )]
    NothingToWeigh {
        /// The method.
        method: &'static str,
    },
    /// The method does not fit the horizon.
    #[error(
        "[method.{method}] `{key}` = {value} does not fit `sampling.max_new_tokens` = {horizon}\n  hint: {hint}"
    )]
    Horizon {
        /// The method.
        method: &'static str,
        /// The setting.
        key: &'static str,
        /// Its value.
        value: usize,
        /// The most new tokens.
        horizon: usize,
        /// What to do.
        hint: &'static str,
    },
    /// The policy or the engine refused.
    #[error(transparent)]
    Policy(#[from] generate::Error),
}

/// One thing that is wrong with a method's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, relative to the method's table.
    pub key: &'static str,
    /// The value and the limit that it breaks.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Problem {
    /// States a problem of `key`.
    pub fn new(key: &'static str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { key, message: message.into(), hint: hint.into() }
    }

    /// Refuses a count below `least`.
    pub(crate) fn too_few(key: &'static str, value: usize, least: usize, hint: &str) -> Option<Self> {
        (value < least).then(|| Self::new(key, format!("{value} is below {least}"), hint))
    }

    /// Refuses a number that is not finite and above zero.
    pub(crate) fn not_positive(key: &'static str, value: f64, hint: &str) -> Option<Self> {
        let good = value.is_finite() && value > 0.0;
        (!good).then(|| Self::new(key, format!("{value} is not a finite number above 0"), hint))
    }

    /// Refuses a number that is not finite or below zero.
    pub(crate) fn negative(key: &'static str, value: f64, hint: &str) -> Option<Self> {
        let good = value.is_finite() && value >= 0.0;
        (!good).then(|| Self::new(key, format!("{value} is not a finite number of at least 0"), hint))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}\n  hint: {}", self.key, self.message, self.hint)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
