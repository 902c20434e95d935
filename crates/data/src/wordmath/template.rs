//! Sentences with named holes.

/// `template` with every `{name}` replaced by `value(name)`. A name that `value` does not know stays as it is, visibly:
/// a test walks over every template of the registry.
pub(super) fn fill(template: &str, value: impl Fn(&str) -> Option<String>) -> String {
    let mut text = String::with_capacity(template.len() + 32);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        text.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            text.push('{');
            rest = after;
            continue;
        };
        if let Some(filled) = value(name) {
            text.push_str(&filled);
        } else {
            text.extend(["{", name, "}"]);
        }
        rest = tail;
    }
    text.push_str(rest);
    text
}

/// `sentence` with its first letter in upper case.
pub(super) fn capitalised(sentence: &str) -> String {
    let mut letters = sentence.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_known_names_and_shows_unknown_ones() {
        let value = |name: &str| (name == "a").then(|| "12".to_owned());
        assert_eq!(fill("{a} and {a}.", value), "12 and 12.");
        assert_eq!(fill("no holes", value), "no holes");
        assert_eq!(fill("{b} of {a}", value), "{b} of 12");
        assert_eq!(fill("open {a", value), "open {a");
    }

    #[test]
    fn capitalises_only_the_first_letter() {
        assert_eq!(capitalised("she met Ben."), "She met Ben.");
        assert_eq!(capitalised(""), "");
    }
}
