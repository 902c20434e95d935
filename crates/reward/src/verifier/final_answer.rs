//! Right or wrong: the final answer of a completion against a column of its prompt.

use std::ops::Range;

use generate::Error;
use serde_json::{Map, Value};

use super::form::Form;
use super::{Check, Subject};

/// Where the last number of a text stands: digits, with commas and points between digits, and a minus sign before them that
/// is no operator.
pub fn last_number_place(text: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let mut start = end - 1;
    while start > 0
        && (digit(start - 1) || (matches!(bytes[start - 1], b',' | b'.') && start > 1 && digit(start - 2)))
    {
        start -= 1;
    }
    let signed = start > 0 && bytes[start - 1] == b'-';
    let operator = start > 1 && (bytes[start - 2].is_ascii_alphanumeric() || bytes[start - 2] == b')');
    Some(if signed && !operator { start - 1..end } else { start..end })
}

/// 1 where the final answer of a completion equals the prompt's, else 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalAnswer {
    form: Form,
    column: String,
}

impl FinalAnswer {
    /// Compares with the column `answer`.
    pub fn new(form: Form) -> Self {
        Self::with_column(form, "answer")
    }

    /// Compares with another column.
    pub fn with_column(form: Form, column: impl Into<String>) -> Self {
        Self { form, column: column.into() }
    }

    /// The answer that a completion's text gives.
    pub fn answer(&self, text: &str) -> Option<String> {
        self.form.read(text)
    }

    /// The right answer that a row's columns hold.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy: the column is missing, or holds no answer of the form.
    pub fn expected(&self, columns: &Map<String, Value>) -> Result<String, String> {
        let column = &self.column;
        let Some(value) = columns.get(column) else {
            let names: Vec<&str> = columns.keys().map(String::as_str).collect();
            let have = if names.is_empty() { "none".into() } else { names.join(", ") };
            return Err(format!(
                "there is no column `{column}`\n  hint: name the one with the right answer by `column`; besides the prompt there are: {have}"
            ));
        };
        self.form.gold(value).map_err(|needed| {
            format!(
                "column `{column}` is {}, which the form `{}` cannot compare with\n  hint: {needed}; other forms are in the reference, under [reward.answer]",
                shortened(&value.to_string()),
                self.form.name()
            )
        })
    }
}

/// The beginning of a long text.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Check for FinalAnswer {
    fn name(&self) -> &'static str {
        "answer"
    }

    fn score(&self, subject: &Subject<'_>) -> Result<f64, Error> {
        let expected = self.expected(&subject.prompt.columns).map_err(|problem| Error::Reward {
            name: self.name().into(),
            message: format!("prompt {}: {problem}", subject.prompt.index),
        })?;
        Ok(if self.answer(&subject.text()) == Some(expected) { 1.0 } else { 0.0 })
    }

    fn range(&self) -> (f64, f64) {
        (0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use generate::Prompt;
    use serde_json::json;

    use super::super::Scope;
    use super::*;
    use crate::fake;

    fn prompt(answer: Value) -> Prompt {
        let mut prompt = Prompt::from_ids(3, vec![1]);
        prompt.columns.insert("level".into(), json!(2));
        if !answer.is_null() {
            prompt.columns.insert("answer".into(), answer);
        }
        prompt
    }

    fn score(answer: Value, text: &str) -> Result<f64, Error> {
        let (prompt, ids) = (prompt(answer), fake::encode(text));
        let check = FinalAnswer::new(Form::Marked);
        check.score(&Subject::new(&prompt, &ids, Scope::Completion, &fake::decode))
    }

    #[test]
    fn the_last_number_is_found_for_replacing() {
        assert_eq!(last_number_place("12 and 3,4x"), Some(7..10));
        assert_eq!(last_number_place("3 -4"), Some(2..4));
        assert_eq!(last_number_place("3-4"), Some(2..3));
        assert_eq!(last_number_place("…"), None);
    }

    #[test]
    fn right_is_one_and_wrong_or_missing_is_zero() {
        for answer in [
            json!("1250"),
            json!(1250),
            json!(1250.0),
            json!(" 1,250\n"),
            json!("5 · 250 = 1250\n#### 1,250"),
        ] {
            assert_eq!(score(answer.clone(), "also ∑ …\n#### 1,250").expect("a score"), 1.0, "{answer}");
            assert_eq!(score(answer.clone(), "#### 1250.00").expect("a score"), 1.0, "{answer}");
            assert_eq!(score(answer.clone(), "#### 125").expect("a score"), 0.0, "{answer}");
            assert_eq!(score(answer.clone(), "1250").expect("a score"), 0.0, "{answer}");
            assert_eq!(score(answer.clone(), "").expect("a score"), 0.0, "{answer}");
        }
    }

    #[test]
    fn a_prompt_without_an_answer_is_an_error_that_names_the_recipe_s_word() {
        assert_eq!(
            score(Value::Null, "#### 1").unwrap_err().to_string(),
            "reward answer: prompt 3: there is no column `answer`\n  hint: name the one with the right answer by `column`; besides the prompt there are: level"
        );
        let refused = score(json!([1]), "#### 1").unwrap_err().to_string();
        assert!(
            refused.starts_with(
                "reward answer: prompt 3: column `answer` is [1], which the form `marked` cannot"
            ),
            "{refused}"
        );
    }
}
