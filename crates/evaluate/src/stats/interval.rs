//! Intervals, estimates, and why there is none.

use std::fmt;

/// A closed interval of a confidence level that the context states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Lower end.
    pub low: f64,
    /// Upper end, not below [`low`](Self::low).
    pub high: f64,
}

impl Interval {
    /// Whether `value` lies in the interval, ends included.
    pub fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }

    /// Whether zero lies in the interval: of a difference, that its sign is not known.
    pub fn covers_zero(&self) -> bool {
        self.contains(0.0)
    }

    /// Whether the two intervals share a point.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.low <= other.high && other.low <= self.high
    }
}

/// Why a mean, or its interval, does not exist. The text is fit for a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Undetermined {
    /// There is no value at all.
    NoValues,
    /// There is one value: a mean, but nothing to tell how sure it is.
    OneValue,
    /// The statistic is not defined on these values, for the reason given.
    Undefined(&'static str),
}

impl fmt::Display for Undetermined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoValues => f.write_str("no prompt has a value"),
            Self::OneValue => f.write_str("one prompt has a value: no interval without a second"),
            Self::Undefined(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Undetermined {}

/// A point estimate with its interval, or with the reason for having none.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// The point estimate.
    pub mean: f64,
    /// Its interval.
    pub interval: Result<Interval, Undetermined>,
    /// How many values it rests on.
    pub count: usize,
}
