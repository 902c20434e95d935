//! Text of files and models on a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// The text with its control characters written out (`\x1b`, `\x9b`, `\r`), so that no file and no model sets
/// a terminal's title or
/// colours, or writes over what stands there. Line breaks and tabs stay.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(acts) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\r' => safe.push_str("\\r"),
            c if acts(c) => {
                // Writing to a string cannot fail.
                let _ = match u32::from(c) {
                    code @ ..0x100 => write!(safe, "\\x{code:02x}"),
                    code => write!(safe, "\\u{{{code:x}}}"),
                };
            }
            c => safe.push(c),
        }
    }
    Cow::Owned(safe)
}

/// Whether a terminal does something other than show the character: C0 and C1 controls, and those that turn
/// the direction of text.
fn acts(c: char) -> bool {
    (c.is_control() && c != '\n' && c != '\t')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_written_out_and_everything_else_stays() {
        assert!(matches!(printable("a\tb\nc é 漢 😀 א\u{200f}"), Cow::Borrowed(_)));
        assert_eq!(printable("\u{1b}]0;mine\u{7}x"), "\\x1b]0;mine\\x07x");
        assert_eq!(printable("\u{9b}31m\u{7f}\r\n\u{0}"), "\\x9b31m\\x7f\\r\n\\x00");
        assert_eq!(printable("a\u{202e}b"), "a\\u{202e}b");
    }
}
