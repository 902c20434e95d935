//! Arithmetic of templates as calls of functions, which know Python's rules and how much memory a rendering
//! may take.
//!
//! `a + b`, `a ~ b`, `a * b` and `a % b` become `__add(a, b)` and so on; everything else stays as it is, line
//! by line.
//! String literals that stand side by side are joined, and a line break behind a backslash in one is taken
//! out, as in Jinja.

use std::iter::Peekable;

/// The most operators within one tag: each nests the syntax tree one level.
const MAX_OPERATORS: usize = 400;

/// Why a template cannot be rewritten.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// A tag has more operators than any template needs.
    Operators {
        /// The line of the tag, from 1.
        line: usize,
    },
    /// A tag that is not understood; the template engine says why.
    Syntax {
        /// The line of the tag, from 1.
        line: usize,
    },
}

/// A token of a tag with the white space before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token<'a> {
    space: &'a str,
    text: &'a str,
}

/// The template with its arithmetic rewritten.
pub(super) fn rewrite(source: &str) -> Result<String, Refusal> {
    let mut out = String::with_capacity(source.len() + source.len() / 4);
    let mut rest = source;
    let line = |rest: &str| source[..source.len() - rest.len()].matches('\n').count() + 1;
    while let Some(start) = ["{{", "{%", "{#"].iter().filter_map(|open| rest.find(open)).min() {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let here = line(rest);
        if rest.starts_with("{#") {
            let end = rest.find("#}").ok_or(Refusal::Syntax { line: here })? + 2;
            out.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let block = rest.starts_with("{%");
        let signs = if rest[2..].starts_with(['-', '+']) { 3 } else { 2 };
        let (tokens, end) =
            tag(&rest[signs..], if block { "%}" } else { "}}" }).ok_or(Refusal::Syntax { line: here })?;
        let nesting = |token: &&Token<'_>| {
            matches!(
                token.text,
                "+" | "-" | "~" | "*" | "/" | "//" | "%" | "**" | "|" | "." | "(" | "[" | "not" | "{"
            )
        };
        if tokens.iter().filter(nesting).count() > MAX_OPERATORS {
            return Err(Refusal::Operators { line: here });
        }
        let end = signs + end;
        if block && tokens.first().is_some_and(|token| token.text == "raw") {
            let close = after_raw(&rest[end..]).ok_or(Refusal::Syntax { line: here })? + end;
            out.push_str(&rest[..close]);
            rest = &rest[close..];
            continue;
        }
        out.push_str(&rest[..signs]);
        let mut tokens = tokens.into_iter().peekable();
        if block && let Some(Token { space, text }) = tokens.next() {
            out.push_str(space);
            out.push_str(text);
        }
        out.push_str(&sequence(&mut tokens, 0).ok_or(Refusal::Syntax { line: here })?);
        // What closes the tag, with its sign and the space before it.
        let body = rest[signs..end - 2].trim_end_matches(['-', '+']).trim_end();
        out.push_str(&rest[signs + body.len()..end]);
        rest = &rest[end..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Where the block that `{% endraw %}` closes ends.
fn after_raw(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        at += text[at..].find("{%")?;
        let inside = text[at + 2..].trim_start_matches(['-', '+']).trim_start();
        if let Some(after) = inside.strip_prefix("endraw") {
            let after = after.trim_start().trim_start_matches(['-', '+']);
            if after.starts_with("%}") {
                return Some(text.len() - after.len() + 2);
            }
        }
        at += 2;
    }
}

/// The tokens of a tag up to `close`, and where what follows it begins. A sign that belongs to `close` is no
/// token.
fn tag<'a>(text: &'a str, close: &str) -> Option<(Vec<Token<'a>>, usize)> {
    let (mut tokens, mut at, mut depth) = (Vec::new(), 0, 0_usize);
    loop {
        let rest = &text[at..];
        let trimmed = rest.trim_start();
        let space = &rest[..rest.len() - trimmed.len()];
        let signed = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
        if depth == 0 && (trimmed.starts_with(close) || signed.starts_with(close)) {
            let sign = usize::from(!trimmed.starts_with(close));
            return Some((tokens, text.len() - trimmed.len() + sign + close.len()));
        }
        let length = token_length(trimmed)?;
        let token = &trimmed[..length];
        match token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.checked_sub(1)?,
            _ => {}
        }
        tokens.push(Token { space, text: token });
        at = text.len() - trimmed.len() + length;
    }
}

fn token_length(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    if first == '"' || first == '\'' {
        let mut escaped = false;
        for (at, character) in text.char_indices().skip(1) {
            match character {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                quote if quote == first => return Some(at + 1),
                _ => {}
            }
        }
        return None;
    }
    if first.is_ascii_digit() {
        let mut end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
        let fraction =
            text[end..].strip_prefix('.').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        if let Some(fraction) = fraction {
            let digits = fraction.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(fraction.len());
            end += 1 + digits;
        }
        let hexadecimal = text.starts_with("0x") || text.starts_with("0X");
        if !hexadecimal && text[..end].ends_with(['e', 'E']) && text[end..].starts_with(['-', '+']) {
            let digits = &text[end + 1..];
            end += 1 + digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        }
        return Some(end);
    }
    if first.is_alphabetic() || first == '_' {
        return Some(text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len()));
    }
    let two = ["**", "//", "==", "!=", "<=", ">="].iter().any(|operator| text.starts_with(operator));
    Some(if two { 2 } else { first.len_utf8() })
}

type Tokens<'a> = Peekable<std::vec::IntoIter<Token<'a>>>;

/// Words between expressions, which bind looser than any arithmetic.
fn is_word(text: &str) -> bool {
    matches!(
        text,
        "if" | "else" | "elif" | "and" | "or" | "not" | "in" | "is" | "as" | "import" | "recursive"
    )
}

/// Whether an operand may begin with this token.
fn begins(text: &str) -> bool {
    let first = text.chars().next().unwrap_or(' ');
    !is_word(text) && (first.is_alphanumeric() || matches!(first, '_' | '"' | '\'' | '(' | '[' | '{'))
}

/// Everything up to the end or to the bracket that closes what is around it: expressions, and what stands
/// between them.
fn sequence(tokens: &mut Tokens<'_>, depth: usize) -> Option<String> {
    if depth > MAX_OPERATORS {
        return None;
    }
    let mut out = String::new();
    // Whether an operand is expected: there a sign is one of an operand, and a star unpacks.
    let mut fresh = true;
    while let Some(token) = tokens.peek().copied() {
        if matches!(token.text, ")" | "]" | "}") {
            break;
        }
        if begins(token.text) || fresh && matches!(token.text, "-" | "+") {
            out.push_str(&sum(tokens, depth)?);
            fresh = false;
        } else {
            tokens.next();
            out.push_str(token.space);
            out.push_str(token.text);
            fresh = true;
        }
    }
    Some(out)
}

fn call(name: &str, operands: &[String]) -> String {
    format!(" {name}({})", operands.join(","))
}

fn sum(tokens: &mut Tokens<'_>, depth: usize) -> Option<String> {
    let mut operands = vec![concatenation(tokens, depth)?];
    while let Some(token) = tokens.next_if(|token| matches!(token.text, "+" | "-")) {
        let right = concatenation(tokens, depth)?;
        if token.text == "+" {
            operands.push(right);
        } else {
            let left = joined("__add", operands);
            operands = vec![format!("{left}{}-{right}", token.space)];
        }
    }
    Some(joined("__add", operands))
}

fn joined(name: &str, mut operands: Vec<String>) -> String {
    if operands.len() == 1 { operands.remove(0) } else { call(name, &operands) }
}

fn concatenation(tokens: &mut Tokens<'_>, depth: usize) -> Option<String> {
    let mut operands = vec![product(tokens, depth)?];
    while tokens.next_if(|token| token.text == "~").is_some() {
        operands.push(product(tokens, depth)?);
    }
    Some(joined("__concat", operands))
}

fn product(tokens: &mut Tokens<'_>, depth: usize) -> Option<String> {
    let mut left = power(tokens, depth)?;
    while let Some(token) = tokens.next_if(|token| matches!(token.text, "*" | "/" | "//" | "%")) {
        let right = power(tokens, depth)?;
        left = match token.text {
            "*" => call("__mul", &[left, right]),
            "%" => call("__mod", &[left, right]),
            other => format!("{left}{}{other}{right}", token.space),
        };
    }
    Some(left)
}

fn power(tokens: &mut Tokens<'_>, depth: usize) -> Option<String> {
    let mut out = unary(tokens, depth)?;
    while let Some(token) = tokens.next_if(|token| token.text == "**") {
        out.push_str(token.space);
        out.push_str(token.text);
        out.push_str(&unary(tokens, depth)?);
    }
    Some(out)
}

fn unary(tokens: &mut Tokens<'_>, depth: usize) -> Option<String> {
    let mut out = String::new();
    while let Some(token) = tokens.next_if(|token| matches!(token.text, "-" | "+")) {
        out.push_str(token.space);
        out.push_str(token.text);
    }
    out.push_str(&primary(tokens, depth)?);
    postfix(tokens, depth, &mut out)?;
    Some(out)
}

fn primary(tokens: &mut Tokens<'_>, depth: usize) -> Option<String> {
    let token = tokens.next().filter(|token| begins(token.text))?;
    if token.text.starts_with(['"', '\'']) {
        let mut out = format!("{}{}", token.space, literal(token.text));
        // Literals side by side are one.
        while let Some(next) = tokens.next_if(|token| token.text.starts_with(['"', '\''])) {
            out = call("__concat", &[out, literal(next.text)]);
        }
        return Some(out);
    }
    let mut out = format!("{}{}", token.space, token.text);
    if matches!(token.text, "(" | "[" | "{") {
        bracket(tokens, depth, &mut out)?;
    }
    Some(out)
}

/// A string literal without line breaks behind backslashes.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek().copied()) {
            ('\\', Some('\n')) => drop(characters.next()),
            ('\\', Some(next)) => {
                out.extend([character, next]);
                characters.next();
            }
            _ => out.push(character),
        }
    }
    out
}

/// What stands in a bracket that was opened, and what closes it.
fn bracket(tokens: &mut Tokens<'_>, depth: usize, out: &mut String) -> Option<()> {
    out.push_str(&sequence(tokens, depth + 1)?);
    let close = tokens.next()?;
    out.push_str(close.space);
    out.push_str(close.text);
    Some(())
}

/// Attributes, items, calls, filters and tests.
fn postfix(tokens: &mut Tokens<'_>, depth: usize, out: &mut String) -> Option<()> {
    while let Some(token) = tokens.next_if(|token| matches!(token.text, "." | "[" | "(" | "|" | "is")) {
        out.push_str(token.space);
        out.push_str(token.text);
        match token.text {
            "[" | "(" => bracket(tokens, depth, out)?,
            "is" => test(tokens, depth, out)?,
            _ => push(tokens, out)?,
        }
    }
    Some(())
}

fn push(tokens: &mut Tokens<'_>, out: &mut String) -> Option<()> {
    let token = tokens.next()?;
    out.push_str(token.space);
    out.push_str(token.text);
    Some(())
}

/// The name of a test, behind `is`, and its argument, which may stand there without brackets.
fn test(tokens: &mut Tokens<'_>, depth: usize, out: &mut String) -> Option<()> {
    if let Some(token) = tokens.next_if(|token| token.text == "not") {
        out.push_str(token.space);
        out.push_str(token.text);
    }
    push(tokens, out)?;
    if tokens.peek().is_some_and(|token| begins(token.text) && token.text != "(") {
        out.push_str(&primary(tokens, depth)?);
        while let Some(token) = tokens.next_if(|token| matches!(token.text, "." | "[" | "(")) {
            out.push_str(token.space);
            out.push_str(token.text);
            if token.text == "." { push(tokens, out)? } else { bracket(tokens, depth, out)? }
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_is_calls_and_nothing_else_changes() {
        let cases = [
            ("{{ a + 'b' }}", "{{ __add(a, 'b') }}"),
            ("{{- a ~ b ~ c -}}", "{{- __concat(a, b, c) -}}"),
            ("{{ a + b ~ c * d }}", "{{ __add(a, __concat(b, __mul(c, d))) }}"),
            ("{{ a - b + c - d }}", "{{ __add(a - b, c) - d }}"),
            ("{{ -1 + -2 }}", "{{ __add(-1, -2) }}"),
            (
                "{{ f(a + 1, *l, k=b ~ c)|g(x ~ y).z[i + 1] }}",
                "{{ f(__add(a, 1), *l, k=__concat(b, c))|g(__concat(x, y)).z[__add(i, 1)] }}",
            ),
            ("{{ a ~ b is defined and not c in d }}", "{{ __concat(a, b is defined) and not c in d }}"),
            (
                "{{ a is divisibleby 2 and b is in [c + 1] }}",
                "{{ a is divisibleby 2 and b is in [__add(c, 1)] }}",
            ),
            ("{%- if loop.index % 2 == 0 %}x{% endif %}", "{%- if __mod(loop.index, 2) == 0 %}x{% endif %}"),
            ("{% set ns.a = ns.a +\n 1 -%}", "{% set ns.a = __add(ns.a,\n 1) -%}"),
            (
                "{% for k, v in d.items() if k != 'a' + b %}",
                "{% for k, v in d.items() if k != __add('a', b) %}",
            ),
            (
                "{{ 'a' \"b\" }}{{ {'a': {'b': 1 + 2}} }}",
                "{{ __concat( 'a',\"b\") }}{{ {'a': {'b': __add( 1, 2)}} }}",
            ),
            ("{{ x if -1 else +2 }}", "{{ x if -1 else +2 }}"),
            ("{{ 1.5e-3 - 2 }}{{ m[1:] }}{{ m[::-1] }}", "{{ 1.5e-3 - 2 }}{{ m[1:] }}{{ m[::-1] }}"),
            (
                "a + b {# c ~ d #} {% raw %}{{ a + b }}{% endraw -%} z",
                "a + b {# c ~ d #} {% raw %}{{ a + b }}{% endraw -%} z",
            ),
            ("{{ '}} + ' }}", "{{ '}} + ' }}"),
            (
                "{% macro f(a, b='x' ~ 'y') %}{% endmacro %}",
                "{% macro f(a, b=__concat('x', 'y')) %}{% endmacro %}",
            ),
        ];
        let plain = |text: &str| text.replace(' ', "");
        for (source, wanted) in cases {
            assert_eq!(plain(&rewrite(source).unwrap()), plain(wanted), "{source}");
            assert_eq!(rewrite(source).unwrap().matches('\n').count(), source.matches('\n').count());
        }
    }

    #[test]
    fn what_is_not_understood_or_too_deep_is_refused_with_its_line() {
        assert_eq!(rewrite("a\n{{ 'x }}"), Err(Refusal::Syntax { line: 2 }));
        assert_eq!(rewrite("{{ a"), Err(Refusal::Syntax { line: 1 }));
        for (one, many) in [("1", "+1"), ("a", ".b"), ("", "not "), ("1", "~1"), ("a", "|f"), ("", "(")] {
            let source = format!("\n{{{{ {one}{} }}}}", many.repeat(100_000));
            assert!(rewrite(&source).is_err(), "{many}");
        }
        assert_eq!(rewrite(&format!("{{{{ 1{} }}}}", "+1".repeat(401))), Err(Refusal::Operators { line: 1 }));
    }
}
