//! `{% generation %}` blocks, which minijinja does not know: rewritten to blocks that print a mark at either end, so that
//! the rendered text can be cut into spans.

use std::ops::Range;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Unicode noncharacters: reserved for use inside programs, never part of interchanged text.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';
/// Brackets the mark that finds where a continued message ends.
pub(super) const CONTINUE: &str = "\u{FDD2}continue\u{FDD3}";

/// Everything in which a tag may not be looked for (comments, raw blocks, strings within expressions and tags), then
/// the tags themselves. The first alternative that matches at a place wins.
static TAGS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?sx)
        \{\#.*?\#\}
        | \{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}
        | \{%(?<left>[-+]?)\s*(?<tag>generation|endgeneration)\s*(?<right>[-+]?)%\}
        | \{\{(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^"'])*?\}\}
        | \{%(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^"'])*?%\}
        "#,
    )
    .expect("a valid pattern")
});

/// The template with generation blocks rewritten, and whether it had any.
///
/// `{% with %}` gives the block its own scope, as in transformers. The marks stand inside `{% if true %}` so that the
/// outer sides of the pair are block tags and white space is trimmed exactly as around the original tag.
pub(super) fn rewrite(source: &str) -> (String, bool) {
    let mut found = false;
    let text = TAGS.replace_all(source, |captures: &Captures<'_>| {
        let (left, right) = (
            captures.name("left").map_or("", |m| m.as_str()),
            captures.name("right").map_or("", |m| m.as_str()),
        );
        match captures.name("tag").map(|m| m.as_str()) {
            Some("generation") => {
                found = true;
                format!("{{%{left} with %}}{{% if true %}}{OPEN}{{% endif {right}%}}")
            }
            Some(_) => format!("{{%{left} if true %}}{CLOSE}{{% endif %}}{{% endwith {right}%}}"),
            None => captures[0].to_owned(),
        }
    });
    (text.into_owned(), found)
}

/// The text without marks, and the byte range of each outermost block in it. A block left open ends with the text.
pub(super) fn cut(marked: &str) -> (String, Vec<Range<usize>>) {
    let mut text = String::with_capacity(marked.len());
    let (mut spans, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for character in marked.chars() {
        match character {
            OPEN => {
                if depth == 0 {
                    start = text.len();
                }
                depth += 1;
            }
            CLOSE => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    spans.push(start..text.len());
                }
            }
            other => text.push(other),
        }
    }
    if depth > 0 {
        spans.push(start..text.len());
    }
    (text, spans)
}

/// The first mark that a text holds by itself.
pub(super) fn reserved(text: &str) -> Option<char> {
    text.chars().find(|character| ('\u{FDD0}'..='\u{FDD3}').contains(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_rewritten_only_where_they_are_tags() {
        let untouched = [
            "{# {% generation %} #}",
            "{% raw %}{% generation %}{% endraw %}",
            "{{ '{% generation %}' }}",
            r#"{% set x = "\"{% endgeneration %}" %}"#,
            "{% generations %}",
        ];
        for source in untouched {
            assert_eq!(rewrite(source), (source.to_owned(), false));
        }
        let (text, found) = rewrite("a{%- generation %}b{% endgeneration -%}c");
        assert!(found);
        assert_eq!(
            text,
            "a{%- with %}{% if true %}\u{FDD0}{% endif %}b{% if true %}\u{FDD1}{% endif %}{% endwith -%}c"
        );
    }

    #[test]
    fn an_open_block_ends_with_the_text() {
        assert_eq!(cut("é\u{FDD0}bc\u{FDD1}d\u{FDD0}e"), ("ébcde".to_owned(), vec![2..4, 5..6]));
    }
}
