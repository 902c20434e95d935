//! Numbers as texts write them, in one spelling for equal values.

/// Exponents beyond this are refused: no answer has so many digits.
const MOST_EXPONENT: i32 = 400;

/// A decimal number in one spelling for equal values: no exponent, no zeros that say nothing, no minus before
/// zero. Exact, so that
/// `19.0`, `19` and `1.9e1` are one and no two numbers are, however many digits they have. `None` for what is
/// no such number.
///
/// ```
/// use reward::number;
///
/// assert_eq!(number("019.50").as_deref(), Some("19.5"));
/// assert_eq!(number("1.9e1"), number("19.0"));
/// assert_eq!(number("-0.0").as_deref(), Some("0"));
/// assert_eq!(number("1.2.3"), None);
/// ```
pub fn number(text: &str) -> Option<String> {
    let (negative, unsigned) = match text.strip_prefix(['-', '−']) {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty()
        || !digits.bytes().all(|byte| byte.is_ascii_digit())
        || exponent.abs() > MOST_EXPONENT
    {
        return None;
    }
    let point = whole.len() as i64 + i64::from(exponent);
    let (whole, fraction) = if point <= 0 {
        (String::new(), format!("{}{digits}", "0".repeat(point.unsigned_abs() as usize)))
    } else if point as usize >= digits.len() {
        (format!("{digits}{}", "0".repeat(point as usize - digits.len())), String::new())
    } else {
        (digits[..point as usize].to_owned(), digits[point as usize..].to_owned())
    };
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    let sign = if negative && !(whole.is_empty() && fraction.is_empty()) { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    Some(format!("{sign}{whole}{point}{fraction}"))
}

/// A text that is a number and nothing else, as gold answers are written: a dollar sign before it, commas
/// between groups of three
/// digits and a full stop behind it are passed over.
pub(super) fn whole_number(text: &str) -> Option<String> {
    let text = text.trim();
    let text = text.strip_suffix('.').unwrap_or(text);
    let text = text.replace("\\$", "$");
    let (sign, unsigned) = match text.strip_prefix(['-', '−']) {
        Some(rest) => ("-", rest),
        None => ("", text.as_str()),
    };
    let unsigned = unsigned.strip_prefix('$').unwrap_or(unsigned);
    let (sign, unsigned) = match unsigned.strip_prefix('-') {
        Some(rest) if sign.is_empty() => ("-", rest),
        _ => (sign, unsigned),
    };
    let end = unsigned.find(['.', 'e', 'E']).unwrap_or(unsigned.len());
    let (whole, rest) = unsigned.split_at(end);
    if whole.contains(',') {
        let mut groups = whole.split(',');
        let head = groups.next().unwrap_or_default();
        if !(1..=3).contains(&head.len()) || groups.any(|group| group.len() != 3) {
            return None;
        }
    }
    number(&format!("{sign}{}{rest}", whole.replace(',', "")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_numbers_have_one_spelling_and_others_another() {
        for (text, want) in [
            ("19", "19"),
            ("19.0", "19"),
            ("19.", "19"),
            ("0019.00", "19"),
            ("1.9e1", "19"),
            ("190E-1", "19"),
            ("+19", "19"),
            ("-0", "0"),
            ("−0.00", "0"),
            ("−7", "-7"),
            (".5", "0.5"),
            ("-0.50", "-0.5"),
            ("5e-3", "0.005"),
            ("0.1", "0.1"),
            ("0.10000000000000000000001", "0.10000000000000000000001"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("1e30", "1000000000000000000000000000000"),
        ] {
            assert_eq!(number(text).as_deref(), Some(want), "{text}");
        }
        for text in [
            "", "-", ".", "+-3", "--3", "1.2.3", "1,000", "3 4", "0x10", "1e", "e5", "1e999", "inf", "NaN",
            "٧", "3/4",
        ] {
            assert_eq!(number(text), None, "{text}");
        }
    }

    #[test]
    fn a_whole_text_is_a_number_or_none() {
        for (text, want) in [
            (" 1,250\n", "1250"),
            ("$1,250.50", "1250.5"),
            ("-$5", "-5"),
            ("$-5", "-5"),
            ("18.", "18"),
            ("\\$32", "32"),
            ("1,234,567", "1234567"),
            ("−3", "-3"),
        ] {
            assert_eq!(whole_number(text).as_deref(), Some(want), "{text}");
        }
        for text in [
            "3, 19",
            "3,19",
            "1,2345",
            ",123",
            "19%",
            "19 apples",
            "p - q",
            "(3, 19)",
            "\\frac{14}{19}",
            "nineteen",
            "$",
            "- 5",
        ] {
            assert_eq!(whole_number(text), None, "{text}");
        }
    }
}
