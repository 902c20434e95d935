//! Right or wrong: the final answer of a completion against a column of its prompt.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use generate::{Error, Prompt};
use serde_json::Value;

use super::{Check, Subject};

/// Finds the final answer in a text, in one spelling for equal answers; `None` where there is none.
pub type Extract = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

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

/// The last number of a text, in one spelling for equal numbers: no commas, no zeros at the end of a fraction.
///
/// ```
/// use reward::last_number;
///
/// assert_eq!(last_number("She pays $1,250.00 in all.").as_deref(), Some("1250"));
/// assert_eq!(last_number("7 - 9 = -2").as_deref(), Some("-2"));
/// assert_eq!(last_number("It is 2.50, not more").as_deref(), Some("2.5"));
/// assert_eq!(last_number("none"), None);
/// ```
pub fn last_number(text: &str) -> Option<String> {
    let plain = text[last_number_place(text)?].replace(',', "");
    let (sign, digits) = plain.strip_prefix('-').map_or(("", plain.as_str()), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let fraction = fraction.trim_end_matches('0');
    let point = if fraction.is_empty() { "" } else { "." };
    let sign = if whole == "0" && fraction.is_empty() { "" } else { sign };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

/// 1 where the extracted answer equals the prompt's, else 0.
#[derive(Clone)]
pub struct FinalAnswer {
    extract: Extract,
    column: String,
}

impl FinalAnswer {
    /// Compares with the column `answer`.
    pub fn new(extract: Extract) -> Self {
        Self::with_column(extract, "answer")
    }

    /// Compares with another column.
    pub fn with_column(extract: Extract, column: impl Into<String>) -> Self {
        Self { extract, column: column.into() }
    }

    /// The answer that a completion's text gives.
    pub fn answer(&self, text: &str) -> Option<String> {
        (self.extract)(text)
    }

    /// The right answer of `prompt`. A column that holds a worked solution (as GSM8K's `answer` does) goes through the
    /// extractor as completions do; one in which it finds nothing is the answer itself.
    ///
    /// # Errors
    /// The column is missing, or neither text nor number.
    pub fn expected(&self, prompt: &Prompt) -> Result<String, Error> {
        let refuse = |problem: String| Error::Reward { name: self.name().into(), message: problem };
        let text = match prompt.columns.get(&self.column) {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => {
                return Err(refuse(format!(
                    "column `{}` of prompt {} is {other}\n  hint: a text or a number is needed",
                    self.column, prompt.index
                )));
            }
            None => {
                let columns: Vec<&str> = prompt.columns.keys().map(String::as_str).collect();
                let have = if columns.is_empty() { "none".into() } else { columns.join(", ") };
                return Err(refuse(format!(
                    "prompt {} has no column `{}`\n  hint: its columns besides the prompt: {have}",
                    prompt.index, self.column
                )));
            }
        };
        Ok((self.extract)(&text).unwrap_or_else(|| text.trim().to_owned()))
    }
}

impl fmt::Debug for FinalAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FinalAnswer").field("column", &self.column).finish_non_exhaustive()
    }
}

impl Check for FinalAnswer {
    fn name(&self) -> &'static str {
        "final-answer"
    }

    fn score(&self, subject: &Subject<'_>) -> Result<f64, Error> {
        let expected = self.expected(subject.prompt)?;
        Ok(if self.answer(&subject.text()) == Some(expected) { 1.0 } else { 0.0 })
    }

    fn range(&self) -> (f64, f64) {
        (0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Scope;
    use super::*;
    use crate::fake;

    fn check() -> FinalAnswer {
        FinalAnswer::new(Arc::new(|text| {
            let (_, answer) = text.rsplit_once("####")?;
            Some(answer.trim().replace(',', ""))
        }))
    }

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
        check().score(&Subject::new(&prompt, &ids, Scope::Completion, &fake::decode))
    }

    #[test]
    fn equal_last_numbers_have_one_spelling() {
        for (text, want) in [
            ("#### 72", "72"),
            ("is 0072.", "72"),
            ("1,250", "1250"),
            ("3-4", "4"),
            ("3 -4", "-4"),
            ("(-4)", "-4"),
            ("-0", "0"),
            ("-0.50", "-0.5"),
            ("½ of 3 is 1.5!", "1.5"),
            ("1.2.", "1.2"),
            ("a 7, b", "7"),
        ] {
            assert_eq!(last_number(text).as_deref(), Some(want), "{text}");
        }
        assert_eq!(last_number("…"), None);
        assert_eq!(last_number_place("12 and 3,4x"), Some(7..10));
    }

    #[test]
    fn right_is_one_and_wrong_or_missing_is_zero() {
        for answer in [json!("1250"), json!(1250), json!(" 1250\n"), json!("5 · 250 = 1250\n#### 1,250")] {
            assert_eq!(score(answer.clone(), "also ∑ …\n#### 1,250").expect("a score"), 1.0, "{answer}");
            assert_eq!(score(answer.clone(), "#### 125").expect("a score"), 0.0, "{answer}");
            assert_eq!(score(answer.clone(), "1250").expect("a score"), 0.0, "{answer}");
            assert_eq!(score(answer.clone(), "").expect("a score"), 0.0, "{answer}");
        }
    }

    #[test]
    fn a_prompt_without_an_answer_is_an_error() {
        assert_eq!(
            score(Value::Null, "#### 1").unwrap_err().to_string(),
            "reward final-answer: prompt 3 has no column `answer`\n  hint: its columns besides the prompt: level"
        );
        assert_eq!(
            score(json!([1]), "#### 1").unwrap_err().to_string(),
            "reward final-answer: column `answer` of prompt 3 is [1]\n  hint: a text or a number is needed"
        );
    }
}
