//! The exact verifier: what a completion gives as its answer, and whether it is right.

/// Marks the final answer, as in GSM8K.
pub(super) const MARKER: &str = "####";

/// The answer that `completion` states: the integer of its last `#### n`, or `None` where that is not one integer.
///
/// Spaces around the number, commas between digit groups, a minus sign and one trailing period are tolerated. Anything
/// else on the line is not: a verifier that guesses rewards garbage.
///
/// ```
/// use data::wordmath::extract_answer;
///
/// assert_eq!(extract_answer(" 12 + 7 = 19.\n#### 19"), Some(19));
/// assert_eq!(extract_answer("#### 1,250."), Some(1250));
/// assert_eq!(extract_answer("#### 3\n#### 4"), Some(4));
/// assert_eq!(extract_answer("#### 19 apples"), None);
/// assert_eq!(extract_answer("The answer is 19."), None);
/// ```
pub fn extract_answer(completion: &str) -> Option<i64> {
    let (_, tail) = completion.rsplit_once(MARKER)?;
    let line = tail.lines().next().unwrap_or_default().trim();
    let number = line.strip_suffix('.').unwrap_or(line).trim_end();
    let (negative, digits) = match number.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, number),
    };
    let plain = without_commas(digits)?;
    let value: i64 = plain.parse().ok()?;
    Some(if negative { -value } else { value })
}

/// The digits of `text` without the commas of its groups, or `None` where it holds anything but digits and commas
/// between groups of three.
fn without_commas(text: &str) -> Option<String> {
    let mut groups = text.split(',');
    let head = groups.next()?;
    let all_digits = |group: &str| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit());
    if !all_digits(head) || (text.contains(',') && head.len() > 3) {
        return None;
    }
    let mut plain = head.to_owned();
    for group in groups {
        if group.len() != 3 || !all_digits(group) {
            return None;
        }
        plain.push_str(group);
    }
    Some(plain)
}

/// Whether `completion` states `answer` as its final answer. Exact: no partial credit, no tolerance.
pub fn verify(answer: i64, completion: &str) -> bool {
    extract_answer(completion) == Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_last_marked_integer() {
        for (text, expected) in [
            ("#### 7", Some(7)),
            ("####7", Some(7)),
            ("####   7  ", Some(7)),
            ("#### 7.", Some(7)),
            ("#### 7 .", Some(7)),
            ("#### -12", Some(-12)),
            ("#### 1,234,567", Some(1_234_567)),
            ("3 + 4 = 7.\n#### 7\n", Some(7)),
            ("#### 7\nQuestion: and now?", Some(7)),
            ("#### 7 #### 8", Some(8)),
            ("#### 007", Some(7)),
        ] {
            assert_eq!(extract_answer(text), expected, "{text:?}");
        }
    }

    #[test]
    fn refuses_what_is_not_one_integer() {
        for text in [
            "",
            "7",
            "### 7",
            "####",
            "#### ",
            "####\n7",
            "#### seven",
            "#### 7 apples",
            "#### 7 8",
            "#### 7.5",
            "#### 7..",
            "#### 1,23",
            "#### 1234,567",
            "#### ,123",
            "#### --7",
            "#### - 7",
            "#### +7",
            "#### 7 #### ",
            "#### 99999999999999999999",
            "#### ٧",
        ] {
            assert_eq!(extract_answer(text), None, "{text:?}");
        }
    }

    #[test]
    fn verify_compares_exactly() {
        assert!(verify(57, " 19 * 3 = 57.\n#### 57"));
        assert!(!verify(57, " 19 * 3 = 57.\n#### 58"));
        assert!(!verify(57, " 19 * 3 = 57."));
    }
}
