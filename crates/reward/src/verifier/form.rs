//! Where a text says its final answer, and how answers are compared.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Number, Value};

use super::number::{number, whole_number};

/// Numbers of JSON from here on are not read exactly.
const INEXACT: f64 = 9_007_199_254_740_992.0;

/// A form of final answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// The number after the first `#### `: the filter `strict-match` of lm-evaluation-harness's GSM8K.
    #[default]
    Marked,
    /// The last number of the text: its filter `flexible-extract`.
    LastNumber,
    /// What stands in the last `\boxed{}`.
    Boxed,
    /// A letter from A to J, as answers of multiple choice are given.
    Choice,
}

/// Why a gold answer cannot be compared with: what it has to be instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReadable(&'static str);

fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

// The two expressions of `lm_eval/tasks/gsm8k/gsm8k.yaml`.
static STRICT: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"#### (\-?[0-9\.\,]+)"));
static FLEXIBLE: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"-?[$0-9.,]{2,}|-?[0-9]+"));
// "The answer is (B)", "Answer: **B**".
static SAID: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        r"(?i:\banswers?\b(?:\s+(?:choice|option))?(?:\s+is)?)\s*[:=]?\s*[*_\s]*(?:\(([A-J])\)|([A-J])(?:[).*_:,;]|\s*$|\s*\n|\s+[^a-z\s]|\s+(?:because|since|as|and)\b))",
    )
});
// The letter alone, or before its text: "B", "(B)", "B. Paris".
static ALONE: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"^\s*[*_]*(?:\(([A-J])\)|([A-J])(?:[).:,]|[*_]*\s*$|[*_]*\s*\n))"));
static BRACKETED: LazyLock<Option<Regex>> = LazyLock::new(|| pattern(r"\(([A-J])\)"));
static GOLD_LETTER: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"^(?:\(([A-Ja-j])\)|([A-Ja-j]))[.)]?$"));

impl Form {
    /// Its name in a recipe.
    pub fn name(self) -> &'static str {
        match self {
            Self::Marked => "marked",
            Self::LastNumber => "last-number",
            Self::Boxed => "boxed",
            Self::Choice => "choice",
        }
    }

    /// The final answer of a text, in one spelling for equal answers; `None` where it has none.
    ///
    /// ```
    /// use reward::Form;
    ///
    /// assert_eq!(Form::Marked.read("5 · 250 = 1250.\n#### 1,250 pens").as_deref(), Some("1250"));
    /// assert_eq!(Form::LastNumber.read("She pays $1,250.50 in all.").as_deref(), Some("1250.5"));
    /// assert_eq!(Form::Boxed.read(r"so \boxed{\frac{14}{19}}.").as_deref(), Some(r"\frac{14}{19}"));
    /// assert_eq!(Form::Choice.read("Answer: (B)").as_deref(), Some("B"));
    /// ```
    pub fn read(self, text: &str) -> Option<String> {
        match self {
            Self::Marked => harness_number(STRICT.as_ref()?.captures(text)?.get(1)?.as_str()),
            Self::LastNumber => harness_number(FLEXIBLE.as_ref()?.find_iter(text).last()?.as_str()),
            Self::Boxed => expression(last_boxed(text)?),
            Self::Choice => choice(text),
        }
    }

    /// The gold answer that a column of a row holds, in the spelling of [`Form::read`].
    ///
    /// # Errors
    /// It is not an answer of this form, and so no completion could ever be right.
    pub fn gold(self, value: &Value) -> Result<String, NotReadable> {
        let text = match value {
            Value::String(text) => text.trim().to_owned(),
            Value::Number(number) if self != Self::Choice => json_number(number)?,
            _ if self == Self::Choice => {
                return Err(NotReadable("it has to be a text with one of the letters A to J"));
            }
            _ => return Err(NotReadable("it has to be a text or a number")),
        };
        match self {
            Self::Marked | Self::LastNumber => {
                // A worked solution, as GSM8K's column `answer` has them, ends in its answer.
                let answer = text.rsplit_once("####").map_or(text.as_str(), |(_, answer)| answer);
                whole_number(answer).ok_or(NotReadable(
                    "it has to be a number and nothing else, or a solution that ends in `#### NUMBER`",
                ))
            }
            Self::Boxed => {
                let answer = if text.contains("\\boxed") || text.contains("\\fbox") {
                    last_boxed(&text)
                } else {
                    (!text.contains('\n')).then_some(text.as_str())
                };
                answer.and_then(expression).ok_or(NotReadable(
                    "it has to be the answer alone, on one line, or a solution whose last `\\boxed{}` is complete",
                ))
            }
            Self::Choice => {
                let letter = GOLD_LETTER.as_ref().and_then(|gold| gold.captures(&text));
                let letter = letter.as_ref().and_then(|found| found.get(1).or_else(|| found.get(2)));
                let letter = letter.map(|letter| letter.as_str().to_uppercase());
                letter.ok_or(NotReadable("it has to be one of the letters A to J, and nothing else"))
            }
        }
    }
}

/// A number of JSON as text, where all its digits are there.
fn json_number(number: &Number) -> Result<String, NotReadable> {
    if number.is_f64() && number.as_f64().is_none_or(|value| value.abs() >= INEXACT) {
        return Err(NotReadable(
            "it has more digits than a number of JSON keeps; write it as text, in quotes",
        ));
    }
    Ok(number.to_string())
}

/// What an expression of lm-evaluation-harness matched, without what its comparison ignores (commas, dollar
/// signs, a full stop at the
/// end), as a number.
fn harness_number(matched: &str) -> Option<String> {
    let plain = matched.trim().replace([',', '$'], "");
    number(plain.strip_suffix('.').unwrap_or(&plain))
}

/// What stands in the last `\boxed{}` or `\fbox{}`, by its braces; `None` where they do not close. `\boxed 5`
/// has no braces: what follows, up to a `$` or the end of the line.
fn last_boxed(text: &str) -> Option<&str> {
    let (start, word) = ["\\boxed", "\\fbox"]
        .iter()
        .filter_map(|word| text.rfind(word).map(|start| (start, word.len())))
        .max()?;
    let rest = &text[start + word..];
    let Some(inner) = rest.trim_start().strip_prefix('{') else {
        let bare = rest.strip_prefix(' ')?;
        return bare.split(['$', '\n']).next();
    };
    let mut open = 1_usize;
    let mut escaped = false;
    for (at, letter) in inner.char_indices() {
        match letter {
            _ if escaped => {
                escaped = false;
                continue;
            }
            '\\' => escaped = true,
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(&inner[..at]);
        }
    }
    None
}

/// An answer that may be any expression: a number by its value, else the text without blanks and the dollar
/// signs around it.
fn expression(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.strip_prefix('$').and_then(|inner| inner.strip_suffix('$')).unwrap_or(text).trim();
    if let Some(number) = whole_number(&text.replace("{,}", ",").replace("\\!", "")) {
        return Some(number);
    }
    let plain: String = text.chars().filter(|letter| !letter.is_whitespace()).collect();
    (!plain.is_empty()).then_some(plain)
}

/// The letter that a text chooses: in its last box; where it says that the answer is, the last time; alone or
/// before the text of the
/// choice; the last in brackets.
fn choice(text: &str) -> Option<String> {
    let group = |captures: regex::Captures<'_>| {
        captures.iter().skip(1).flatten().next().map(|letter| letter.as_str().to_owned())
    };
    let boxed = last_boxed(text)
        .map(|inner| {
            inner.trim().trim_start_matches("\\text{").trim_end_matches('}').trim_matches(['(', ')', ' '])
        })
        .filter(|letter| letter.len() == 1 && letter.starts_with(|letter| ('A'..='J').contains(&letter)));
    boxed
        .map(str::to_owned)
        .or_else(|| SAID.as_ref()?.captures_iter(text).last().and_then(group))
        .or_else(|| ALONE.as_ref()?.captures(text).and_then(group))
        .or_else(|| BRACKETED.as_ref()?.captures_iter(text).last().and_then(group))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marked_is_the_strict_match_of_the_harness() {
        for (text, want) in [
            ("12 + 7 = 19.\n#### 19 apples", Some("19")),
            ("#### 19\n\nQuestion: 3 + 4?\nAnswer: #### 7", Some("19")),
            ("#### 7.5", Some("7.5")),
            ("#### 1,250.", Some("1250")),
            ("#### -12", Some("-12")),
            ("#### 19.0", Some("19")),
            ("#### 7%", Some("7")),
            ("#### -0", Some("0")),
            ("####7", None),
            ("####  7", None),
            ("#### $7", None),
            ("#### seven", None),
            ("#### ,", None),
            ("#### 1.2.3", None),
            ("the answer is 7", None),
            ("", None),
        ] {
            assert_eq!(Form::Marked.read(text).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn the_last_number_is_the_flexible_extract_of_the_harness() {
        for (text, want) in [
            ("#### 72", Some("72")),
            ("is 0072.", Some("72")),
            ("$1,250.50", Some("1250.5")),
            ("1,250.", Some("1250")),
            ("3-4", Some("-4")),
            ("3 - 4", Some("4")),
            ("(-4)", Some("-4")),
            ("½ of 3 is 1.5!", Some("1.5")),
            ("a 7, b", Some("7")),
            ("19%", Some("19")),
            ("-0", Some("0")),
            ("it is 18. And so on...", None),
            ("1.2.3", None),
            ("none", None),
        ] {
            assert_eq!(Form::LastNumber.read(text).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn the_last_box_is_read_by_its_braces() {
        for (text, want) in [
            (r"\boxed{19}", Some("19")),
            (r"\boxed{19.0} or rather \boxed{ 20 }.", Some("20")),
            (r"$\boxed{\frac{14}{19}}$", Some(r"\frac{14}{19}")),
            (r"\boxed{\text{(a {b} c)}}", Some(r"\text{(a{b}c)}")),
            (r"\boxed{\{1, 2\}}", Some(r"\{1,2\}")),
            (r"\boxed{1{,}250}", Some("1250")),
            (r"\boxed{\$32}", Some("32")),
            (r"\boxed{$p - q$}", Some("p-q")),
            (r"$\boxed 5$", Some("5")),
            (r"\fbox{7}", Some("7")),
            (r"\boxed{3} and \boxed{4", None),
            (r"\boxed{}", None),
            ("19", None),
        ] {
            assert_eq!(Form::Boxed.read(text).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn letters_are_read_where_a_choice_is_made() {
        for (text, want) in [
            ("B", Some("B")),
            (" (C)", Some("C")),
            ("D. Paris", Some("D")),
            ("E) none", Some("E")),
            ("Answer: B", Some("B")),
            ("The answer is (A).", Some("A")),
            ("I first thought (A), but the correct answer is C.", Some("C")),
            ("**Answer: D**", Some("D")),
            ("**Answer:** B", Some("B")),
            ("The answer is B because it is", Some("B")),
            ("Answer: A\nAnswer: B", Some("B")),
            ("it is not (A), so (B)", Some("B")),
            ("(B) Paris, and not (C) London", Some("B")),
            (r"so \boxed{C}", Some("C")),
            (r"\boxed{\text{(D)}}", Some("D")),
            ("A good answer is a matter of taste", None),
            ("Answer: I think so", None),
            ("Because", None),
            ("(Z)", None),
            ("", None),
        ] {
            assert_eq!(Form::Choice.read(text).as_deref(), want, "{text:?}");
        }
    }

    #[test]
    fn gold_answers_of_the_form_are_read_by_value() {
        for (form, value, want) in [
            (Form::Marked, json!(19), "19"),
            (Form::Marked, json!(19.0), "19"),
            (Form::Marked, json!("19.0"), "19"),
            (Form::Marked, json!("5 · 250 = 1250\n#### 1,250"), "1250"),
            (Form::LastNumber, json!(" 1,250 "), "1250"),
            (Form::LastNumber, json!("$18."), "18"),
            (Form::LastNumber, json!("−0"), "0"),
            (Form::LastNumber, json!(1e-7), "0.0000001"),
            (Form::LastNumber, json!("123456789012345678901"), "123456789012345678901"),
            (Form::Boxed, json!(r"\frac{14}{19}"), r"\frac{14}{19}"),
            (Form::Boxed, json!(r"we get $\boxed{(3, 19)}$"), "(3,19)"),
            (Form::Boxed, json!(19.0), "19"),
            (Form::Choice, json!("B"), "B"),
            (Form::Choice, json!("(b)"), "B"),
        ] {
            assert_eq!(form.gold(&value).as_deref(), Ok(want), "{form:?} {value}");
        }
    }

    #[test]
    fn gold_answers_of_another_form_are_refused() {
        for value in [
            json!(r"\frac{14}{19}"),
            json!("(3, 19)"),
            json!("3, 19"),
            json!("3,19"),
            json!("19%"),
            json!("p - q"),
            json!("nineteen"),
            json!("the answer is 19"),
            json!(""),
            json!([19]),
            json!({"value": 19}),
            json!(true),
            json!(null),
            json!(1.234e30),
        ] {
            for form in [Form::Marked, Form::LastNumber] {
                assert!(form.gold(&value).is_err(), "{form:?} {value}");
            }
        }
        for value in [json!([19]), json!(""), json!("a solution\nof two lines"), json!(r"cut \boxed{3")] {
            assert!(Form::Boxed.gold(&value).is_err(), "{value}");
        }
        for value in [json!(2), json!("Paris"), json!("K"), json!("AB"), json!(["A"])] {
            assert!(Form::Choice.gold(&value).is_err(), "{value}");
        }
    }
}
