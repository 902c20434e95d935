//! The error of arguments that do not make sense.

/// An argument is outside what the mathematics allows.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InputError {
    /// A list that must have entries has none.
    #[error("{what} has too few entries; at least {least} needed")]
    TooFew {
        /// Which argument.
        what: &'static str,
        /// Smallest allowed number of entries.
        least: usize,
    },
    /// Two lists that belong together differ in length.
    #[error("{what} has {actual} entries, expected {expected}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// Expected number of entries.
        expected: usize,
        /// Number of entries found.
        actual: usize,
    },
    /// An entry is NaN or infinite.
    #[error("{what}[{index}] is {value}; it must be finite")]
    NotFinite {
        /// Which argument.
        what: &'static str,
        /// Position of the first such entry.
        index: usize,
        /// The entry.
        value: f64,
    },
    /// A scalar is outside its range.
    #[error("{what} is {value}; it must be {range}")]
    OutOfRange {
        /// Which argument.
        what: &'static str,
        /// The value found.
        value: f64,
        /// The range in words, for instance `above 0`.
        range: &'static str,
    },
    /// What was solved for did not come out.
    #[error("{what} is {reached}, and {asked} was asked for: the numbers have too few digits for it")]
    Missed {
        /// Which number.
        what: &'static str,
        /// What it was to be.
        asked: f64,
        /// What it is.
        reached: f64,
    },
    /// A list that must be a probability law is not.
    #[error("{what} is not a probability law: {problem}")]
    NotALaw {
        /// Which argument.
        what: &'static str,
        /// What is wrong, with the value.
        problem: String,
    },
}

/// Refuses NaN and infinities.
pub(crate) fn finite(what: &'static str, values: &[f64]) -> Result<(), InputError> {
    match values.iter().position(|x| !x.is_finite()) {
        Some(index) => Err(InputError::NotFinite { what, index, value: values[index] }),
        None => Ok(()),
    }
}

/// Refuses lists of another length than `expected`.
pub(crate) fn same_length(what: &'static str, expected: usize, actual: usize) -> Result<(), InputError> {
    if expected == actual { Ok(()) } else { Err(InputError::Length { what, expected, actual }) }
}

/// Refuses scalars that are not finite or for which `allowed` is false.
pub(crate) fn in_range(
    what: &'static str,
    value: f64,
    range: &'static str,
    allowed: impl Fn(f64) -> bool,
) -> Result<(), InputError> {
    if value.is_finite() && allowed(value) {
        Ok(())
    } else {
        Err(InputError::OutOfRange { what, value, range })
    }
}
