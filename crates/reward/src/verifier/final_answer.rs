//! Right or wrong: the final answer of a completion against a column of its prompt.

use std::fmt;
use std::sync::Arc;

use generate::{Error, Prompt};
use serde_json::Value;

use super::{Check, Subject};

/// Finds the final answer in a text, in one spelling for equal answers; `None` where there is none.
pub type Extract = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

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
