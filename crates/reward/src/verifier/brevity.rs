//! Short completions.

use generate::Error;

use super::{Check, Subject};
use crate::error::SetupError;

/// Prefers short completions. Tokens are counted, the end-of-sequence token included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Brevity {
    budget: Option<usize>,
}

impl Brevity {
    /// `−tokens`.
    pub fn tokens() -> Self {
        Self { budget: None }
    }

    /// The share of a budget that is left: `1 − tokens / budget`, and 0 beyond the budget.
    ///
    /// # Errors
    /// A budget of 0 tokens.
    pub fn of_budget(budget: usize) -> Result<Self, SetupError> {
        if budget == 0 {
            return Err(SetupError::Setting { key: "budget", value: 0.0, limit: "at least 1 token" });
        }
        Ok(Self { budget: Some(budget) })
    }
}

impl Check for Brevity {
    fn name(&self) -> &'static str {
        "brevity"
    }

    fn score(&self, subject: &Subject<'_>) -> Result<f64, Error> {
        let tokens = subject.ids.len();
        Ok(match self.budget {
            None => 0.0 - tokens as f64,
            Some(budget) => budget.saturating_sub(tokens) as f64 / budget as f64,
        })
    }

    fn range(&self) -> (f64, f64) {
        if self.budget.is_some() { (0.0, 1.0) } else { (f64::NEG_INFINITY, 0.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::score;
    use super::*;

    #[test]
    fn counts_tokens() {
        assert_eq!((score(&Brevity::tokens(), ""), score(&Brevity::tokens(), "äöü")), (0.0, -3.0));
        let budget = Brevity::of_budget(4).expect("a budget");
        let scores = ["", "a", "abc", "abcd", "abcde"].map(|text| score(&budget, text));
        assert_eq!(scores, [1.0, 0.75, 0.25, 0.0, 0.0]);
        assert_eq!(
            Brevity::of_budget(0).unwrap_err().to_string(),
            "budget = 0 is out of range: at least 1 token"
        );
    }
}
