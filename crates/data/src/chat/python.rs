//! Where Jinja's rules are Python's and minijinja's are not: arithmetic, tests, filters and methods of text.

use minijinja::value::{Kwargs, Rest, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, State};

use super::budget::{charge, float, text_of, width};

/// Registers all of it.
pub(super) fn install(env: &mut Environment<'static>) {
    env.set_formatter(|out, _, value| {
        if !value.is_undefined() {
            out.write_str(&text_of(value)?)?;
        }
        Ok(())
    });
    env.set_unknown_method_callback(method);
    env.add_function("__add", add);
    env.add_function("__concat", |values: Rest<Value>| -> Result<String, Error> {
        let mut out = String::new();
        for value in values.iter().filter(|value| !value.is_undefined()) {
            out.push_str(&text_of(value)?);
        }
        charge(out.len())?;
        Ok(out)
    });
    env.add_function("__mul", multiply);
    env.add_function("__mod", modulo);
    env.add_test("iterable", |value: &Value| value.is_undefined() || is_iterable(value));
    env.add_test("sequence", |value: &Value| {
        value.is_undefined() || is_iterable(value) && value.len().is_some()
    });
    env.add_test("callable", |value: &Value| value.is_undefined() || value.kind() == ValueKind::Plain);
    filters(env);
}

fn filters(env: &mut Environment<'static>) {
    env.add_filter("tojson", super::json::tojson);
    env.add_filter("string", |value: &Value| -> Result<Value, Error> {
        if value.as_str().is_some() { Ok(value.clone()) } else { text_of(value).map(Value::from) }
    });
    env.add_filter("int", int);
    env.add_filter("float", |value: &Value, arguments: Rest<ValueOrKwargs>| -> Result<Value, Error> {
        let mut arguments = Arguments::new(arguments)?;
        let default = arguments.take("default")?.unwrap_or_else(|| Value::from(0.0));
        arguments.done()?;
        Ok(number(value).map_or(default, Value::from))
    });
    for name in ["length", "count"] {
        env.add_filter(name, |value: &Value| -> Result<usize, Error> {
            if value.is_undefined() { Ok(0) } else { minijinja::filters::length(value) }
        });
    }
    for name in ["default", "d"] {
        env.add_filter(name, |value: &Value, arguments: Rest<ValueOrKwargs>| -> Result<Value, Error> {
            let mut arguments = Arguments::new(arguments)?;
            let default = arguments.take("default_value")?.unwrap_or_else(|| Value::from(""));
            let falsy = arguments.take("boolean")?.is_some_and(|boolean| boolean.is_true());
            arguments.done()?;
            Ok(if value.is_undefined() || falsy && !value.is_true() { default } else { value.clone() })
        });
    }
    env.add_filter("replace", |value: &Value, arguments: Rest<ValueOrKwargs>| -> Result<Value, Error> {
        let mut arguments = Arguments::new(arguments)?;
        let (old, new) = (arguments.text("old")?, arguments.text("new")?);
        let count = arguments.take("count")?.filter(|count| !count.is_none());
        arguments.done()?;
        replaced(&text_of(value)?, &old, &new, count.map(usize::try_from).transpose()?).map(Value::from)
    });
    env.add_filter("join", |value: &Value, arguments: Rest<ValueOrKwargs>| -> Result<Value, Error> {
        let mut arguments = Arguments::new(arguments)?;
        let between = arguments.take("d")?.unwrap_or_else(|| Value::from(""));
        let attribute = arguments.take("attribute")?.filter(|attribute| !attribute.is_none());
        arguments.done()?;
        let items = items(value)?;
        let items = items.into_iter().map(|item| match &attribute {
            Some(attribute) => at_path(&item, attribute),
            None => Ok(item),
        });
        joined(&text_of(&between)?, items).map(Value::from)
    });
    env.add_filter("indent", indent);
    env.add_filter("__format", minijinja::filters::format);
    // Lists that are joined without being made have no length that could be counted; Jinja has neither
    // filter.
    for name in ["chain", "zip"] {
        env.remove_filter(name);
    }
    env.add_filter("list", |value: &Value| items(value).map(Value::from));
    env.add_filter("sum", |value: &Value, arguments: Rest<ValueOrKwargs>| -> Result<Value, Error> {
        let mut arguments = Arguments::new(arguments)?;
        let attribute = arguments.take("attribute")?.filter(|attribute| !attribute.is_none());
        let start = arguments.take("start")?.unwrap_or_else(|| Value::from(0));
        arguments.done()?;
        items(value)?.into_iter().try_fold(start, |sum, item| match &attribute {
            Some(attribute) => added(&sum, &at_path(&item, attribute)?),
            None => added(&sum, &item),
        })
    });
    env.add_filter("format", |state: &mut State<'_, '_>, form: &Value, given: Rest<ValueOrKwargs>| {
        bounded_form(form.as_str().unwrap_or_default())?;
        let given = given.into_values();
        charge_for(form, &given)?;
        let given: Vec<Value> = std::iter::once(form.clone()).chain(given).collect();
        state.apply_filter("__format", &given)
    });
    env.add_filter("batch", |state: &State<'_, '_>, value: Value, count: usize, fill: Option<Value>| {
        minijinja::filters::batch(state, value, width(count)?, fill)
    });
    env.add_filter("slice", |state: &State<'_, '_>, value: Value, count: usize, fill: Option<Value>| {
        minijinja::filters::slice(state, value, width(count)?, fill)
    });
    env.add_filter("center", |value: &Value, columns: Option<usize>| -> Result<String, Error> {
        padded(&text_of(value)?, columns.unwrap_or(80), ' ', Side::Both)
    });
    for name in ["escape", "e"] {
        env.add_filter(name, |value: &Value| -> Result<Value, Error> {
            if value.is_safe() {
                return Ok(value.clone());
            }
            let text = text_of(value)?;
            charge(6 * text.len())?;
            let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
            Ok(Value::from_safe_string(escaped.replace('"', "&#34;").replace('\'', "&#39;")))
        });
    }
    env.add_filter("pprint", text_of);
    env.add_filter("wordcount", |value: &Value| -> Result<usize, Error> {
        let text = text_of(value)?;
        Ok(text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count())
    });
    env.add_filter("truncate", truncate);
    env.add_filter("striptags", |value: &Value| -> Result<String, Error> {
        let mut text = text_of(value)?;
        for (open, close) in [("<!--", "-->"), ("<", ">")] {
            while let Some(start) = text.find(open)
                && let Some(length) = text[start..].find(close)
            {
                text.replace_range(start..start + length + close.len(), "");
            }
        }
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    env.add_filter("urlencode", |value: &Value| -> Result<String, Error> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        let text = text_of(value)?;
        charge(3 * text.len())?;
        let encoded = text
            .bytes()
            .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
        Ok(encoded.collect())
    });
}

/// Arguments by position or by name, in the order that they are taken in.
pub(super) struct Arguments {
    positional: std::vec::IntoIter<Value>,
    named: Kwargs,
}

impl Arguments {
    pub(super) fn new(arguments: Rest<ValueOrKwargs>) -> Result<Self, Error> {
        let values = arguments.into_values();
        let (positional, named): (&[Value], Kwargs) = from_args(&values)?;
        Ok(Self { positional: Vec::from(positional).into_iter(), named })
    }

    pub(super) fn take(&mut self, name: &str) -> Result<Option<Value>, Error> {
        let positional = self.positional.next();
        Ok(self.named.get::<Option<Value>>(name)?.or(positional))
    }

    fn text(&mut self, name: &str) -> Result<String, Error> {
        let value = self.take(name)?;
        value.map_or_else(|| Err(wrong(format!("the argument `{name}` is missing"))), |value| text_of(&value))
    }

    fn flag(&mut self, name: &str) -> Result<bool, Error> {
        Ok(self.take(name)?.is_some_and(|value| value.is_true()))
    }

    pub(super) fn done(mut self) -> Result<(), Error> {
        if self.positional.next().is_some() {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        self.named.assert_all_used()
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn unsupported(operator: &str, left: &Value, right: &Value) -> Error {
    wrong(format!(
        "tried to use {operator} operator on unsupported types {} and {}",
        left.kind(),
        right.kind()
    ))
}

/// Whether Python's `iter` takes the value.
fn is_iterable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

fn items(value: &Value) -> Result<Vec<Value>, Error> {
    if value.is_undefined() {
        return Ok(Vec::new());
    }
    if let Some(text) = value.as_str() {
        charge(32 * text.len())?;
        return Ok(text.chars().map(Value::from).collect());
    }
    let mut out = Vec::new();
    for item in value.try_iter()? {
        charge(32)?;
        out.push(item);
    }
    Ok(out)
}

/// An integer, `true` and `false` among them.
fn integer(value: &Value) -> Option<i128> {
    match value.kind() {
        ValueKind::Bool => Some(i128::from(value.is_true())),
        ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).ok(),
        _ => None,
    }
}

/// Two numbers that are added, multiplied or divided.
fn numbers(left: &Value, right: &Value) -> Option<(f64, f64)> {
    let of = |value: &Value| float(value).or_else(|| integer(value).map(|whole| whole as f64));
    Some((of(left)?, of(right)?))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn add(values: Rest<Value>) -> Result<Value, Error> {
    let mut values = values.0.into_iter();
    let mut sum = values.next().unwrap_or_default();
    for value in values {
        sum = match (sum.as_str(), value.as_str()) {
            (Some(left), Some(right)) => {
                charge(left.len() + right.len())?;
                Value::from([left, right].concat())
            }
            (None, None) => added(&sum, &value)?,
            _ => return Err(unsupported("+", &sum, &value)),
        };
    }
    Ok(sum)
}

fn added(left: &Value, right: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (integer(left), integer(right)) {
        return a.checked_add(b).map(whole).ok_or_else(|| wrong("the sum is too large"));
    }
    if let Some((a, b)) = numbers(left, right) {
        return Ok(Value::from(a + b));
    }
    if is_list(left) && is_list(right) {
        let mut all = items(left)?;
        all.extend(items(right)?);
        return Ok(Value::from(all));
    }
    Err(unsupported("+", left, right))
}

/// A whole number as small a one as holds it.
fn whole(value: i128) -> Value {
    i64::try_from(value).map_or_else(|_| Value::from(value), Value::from)
}

fn multiply(left: Value, right: Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (integer(&left), integer(&right)) {
        return a.checked_mul(b).map(whole).ok_or_else(|| wrong("the product is too large"));
    }
    if let Some((a, b)) = numbers(&left, &right) {
        return Ok(Value::from(a * b));
    }
    let (repeated, times) = match (integer(&left), integer(&right)) {
        (None, Some(times)) => (&left, times),
        (Some(times), None) => (&right, times),
        _ => return Err(unsupported("*", &left, &right)),
    };
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    if let Some(text) = repeated.as_str() {
        charge(text.len().saturating_mul(times))?;
        return Ok(Value::from(text.repeat(times)));
    }
    if !is_list(repeated) {
        return Err(unsupported("*", &left, &right));
    }
    let all = items(repeated)?;
    charge(all.len().saturating_mul(times).saturating_mul(32))?;
    Ok(Value::from(std::iter::repeat_n(all, times).flatten().collect::<Vec<Value>>()))
}

/// The remainder with the sign of the divisor; of text, its `%` places filled in.
fn modulo(state: &mut State<'_, '_>, left: Value, right: Value) -> Result<Value, Error> {
    if let Some(form) = left.as_str() {
        bounded_form(form)?;
        charge_for(&left, std::slice::from_ref(&right))?;
        let mut given = vec![left.clone()];
        // A tuple holds one value for each place; any other value is the one there is.
        if right.kind() == ValueKind::Seq && right.to_string().starts_with('(') {
            given.extend(right.try_iter()?);
        } else {
            given.push(right);
        }
        return state.apply_filter("__format", &given);
    }
    if let (Some(a), Some(b)) = (integer(&left), integer(&right)) {
        let zero = || wrong("division by zero");
        let remainder = a.checked_rem(b).ok_or_else(zero)?;
        return Ok(whole(if remainder != 0 && (remainder < 0) != (b < 0) {
            remainder + b
        } else {
            remainder
        }));
    }
    match numbers(&left, &right) {
        Some((_, 0.0)) => Err(wrong("division by zero")),
        Some((a, b)) => {
            let remainder = a % b;
            Ok(Value::from(if remainder != 0.0 && (remainder < 0.0) != (b < 0.0) {
                remainder + b
            } else {
                remainder
            }))
        }
        None => Err(unsupported("%", &left, &right)),
    }
}

/// Takes the bytes that values have as text, before they are filled into `form`.
fn charge_for(form: &Value, given: &[Value]) -> Result<(), Error> {
    // A field may name a value several times.
    let fields = 1 + form.as_str().unwrap_or_default().matches(['%', '{']).count();
    charge(text_of(form)?.len())?;
    for value in given {
        charge(text_of(value)?.len().saturating_mul(fields))?;
    }
    Ok(())
}

/// Refuses widths beyond any layout, and those that arguments decide.
fn bounded_form(form: &str) -> Result<(), Error> {
    let long = |text: &str| text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 3);
    let places = form.split('%').skip(1).any(|place| {
        let end = place.find(|c: char| !"-+ #0123456789.*".contains(c)).unwrap_or(place.len());
        place[..end].contains('*') || long(&place[..end])
    });
    let fields = form.split('{').skip(1).any(|field| match field.split_once('}') {
        Some((inside, _)) => long(inside),
        // A field within a field is its width.
        None => field.contains(':'),
    });
    if places || fields {
        return Err(wrong(format!(
            "the format {:?} pads beyond 999 columns",
            form.chars().take(40).collect::<String>()
        )));
    }
    Ok(())
}

fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse().ok(),
        None => float(value).or_else(|| integer(value).map(|whole| whole as f64)),
    }
}

fn int(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut arguments = Arguments::new(arguments)?;
    let default = arguments.take("default")?.unwrap_or_else(|| Value::from(0));
    let base = arguments.take("base")?.map_or(Ok(10), u32::try_from)?;
    arguments.done()?;
    if let Some(known) = integer(value) {
        return Ok(whole(known));
    }
    if let Some(text) = value.as_str() {
        let text = text.trim().to_lowercase();
        let digits = match base {
            16 => text.trim_start_matches("0x"),
            8 => text.trim_start_matches("0o"),
            2 => text.trim_start_matches("0b"),
            _ => &text,
        };
        if (2..=36).contains(&base)
            && let Ok(found) = i128::from_str_radix(digits, base)
        {
            return Ok(whole(found));
        }
    }
    Ok(number(value).filter(|found| found.is_finite()).map_or(default, |found| whole(found as i128)))
}

fn replaced(text: &str, old: &str, new: &str, count: Option<usize>) -> Result<String, Error> {
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let found = found.min(count.unwrap_or(usize::MAX));
    charge(text.len().saturating_add(found.saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, found))
}

fn joined(between: &str, items: impl Iterator<Item = Result<Value, Error>>) -> Result<String, Error> {
    let mut out = String::new();
    for (place, item) in items.enumerate() {
        if place > 0 {
            charge(between.len())?;
            out.push_str(between);
        }
        out.push_str(&text_of(&item?)?);
    }
    Ok(out)
}

/// The value at a path as `a.b` or an index.
fn at_path(value: &Value, path: &Value) -> Result<Value, Error> {
    let Some(path) = path.as_str() else { return value.get_item(path) };
    path.split('.').try_fold(value.clone(), |value, part| match part.parse::<usize>() {
        Ok(index) => value.get_item(&Value::from(index)),
        Err(_) => value.get_attr(part),
    })
}

fn indent(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let mut arguments = Arguments::new(arguments)?;
    let by = arguments.take("width")?.unwrap_or_else(|| Value::from(4));
    let (first, blank) = (arguments.flag("first")?, arguments.flag("blank")?);
    arguments.done()?;
    let by = match by.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(width(usize::try_from(by)?)?),
    };
    let text = text_of(value)?;
    let mut out = String::new();
    // As in Jinja, a line break at the end stays, and an empty line gets its indent only where `blank` asks.
    for (place, line) in text.split('\n').enumerate() {
        let wanted = if place == 0 { first } else { blank || !line.is_empty() };
        charge(line.len() + 1 + by.len())?;
        if place > 0 {
            out.push('\n');
        }
        if wanted {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn truncate(value: &Value, arguments: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let mut arguments = Arguments::new(arguments)?;
    let length = arguments.take("length")?.map_or(Ok(255), usize::try_from)?;
    let whole_words = !arguments.flag("killwords")?;
    let end = arguments.take("end")?.map_or_else(|| Ok("...".to_owned()), |end| text_of(&end))?;
    let leeway =
        arguments.take("leeway")?.filter(|leeway| !leeway.is_none()).map_or(Ok(5), usize::try_from)?;
    arguments.done()?;
    let text = text_of(value)?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text);
    }
    let kept = length
        .checked_sub(end.chars().count())
        .ok_or_else(|| wrong(format!("expected a length of at least that of {end:?}, got {length}")))?;
    let kept: String = text.chars().take(kept).collect();
    let kept = if whole_words { kept.rsplit_once(' ').map_or(&*kept, |(before, _)| before) } else { &kept };
    Ok(format!("{kept}{end}"))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
    Both,
}

/// The text filled up to `columns` on one side, or in its middle as Python centers.
fn padded(text: &str, columns: usize, fill: char, side: Side) -> Result<String, Error> {
    let missing = width(columns)?.saturating_sub(text.chars().count());
    charge(missing * fill.len_utf8() + text.len())?;
    let left = match side {
        Side::Left => missing,
        Side::Right => 0,
        Side::Both => missing / 2 + (missing & columns & 1),
    };
    let fill = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    Ok(format!("{}{text}{}", fill(left), fill(missing - left)))
}

/// Methods of Python's strings, beside those of minijinja's `pycompat`.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, given: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        charge(text.len())?;
        if name == "format" {
            charge_for(value, given)?;
        }
        if let Some(found) = text_method(text, name, given)? {
            return Ok(found);
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, given)
}

fn text_method(text: &str, name: &str, given: &[Value]) -> Result<Option<Value>, Error> {
    let pad = |side: Side, given: &[Value]| -> Result<Value, Error> {
        let (columns, fill): (usize, Option<&str>) = from_args(given)?;
        let mut fill = fill.unwrap_or(" ").chars();
        match (fill.next(), fill.next()) {
            (Some(fill), None) => padded(text, columns, fill, side).map(Value::from),
            _ => Err(wrong("the fill must be one character")),
        }
    };
    let all = |test: fn(char) -> bool| Value::from(!text.is_empty() && text.chars().all(test));
    let in_chars = |at: usize| Value::from(text[..at].chars().count());
    let found = match name {
        "ljust" => pad(Side::Right, given)?,
        "rjust" => pad(Side::Left, given)?,
        "center" => pad(Side::Both, given)?,
        "zfill" => {
            let (columns,): (usize,) = from_args(given)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
            let digits = padded(digits, width(columns)?.saturating_sub(sign.len()), '0', Side::Left)?;
            Value::from(format!("{sign}{digits}"))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(given)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(given)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "swapcase" => text
            .chars()
            .flat_map(|c| {
                let swapped: String =
                    if c.is_lowercase() { c.to_uppercase().collect() } else { c.to_lowercase().collect() };
                swapped.chars().collect::<Vec<_>>()
            })
            .collect::<String>()
            .into(),
        "title" => {
            let mut inside = false;
            let mut out = String::with_capacity(text.len());
            for character in text.chars() {
                if inside {
                    out.extend(character.to_lowercase());
                } else {
                    out.extend(character.to_uppercase());
                }
                inside = character.is_alphabetic();
            }
            Value::from(out)
        }
        "casefold" => Value::from(text.to_lowercase().replace('ß', "ss")),
        "isdecimal" => all(|c| c.is_numeric() && c.is_ascii_digit()),
        "partition" | "rpartition" => {
            let (between,): (&str,) = from_args(given)?;
            let parts =
                if name == "partition" { text.split_once(between) } else { text.rsplit_once(between) };
            let parts = match parts {
                Some((before, after)) => (before, between, after),
                None if name == "partition" => (text, "", ""),
                None => ("", "", text),
            };
            Value::from(minijinja::value::Tuple::from(vec![
                Value::from(parts.0),
                Value::from(parts.1),
                Value::from(parts.2),
            ]))
        }
        "index" | "rindex" => {
            let (part,): (&str,) = from_args(given)?;
            let at = if name == "index" { text.find(part) } else { text.rfind(part) };
            in_chars(at.ok_or_else(|| wrong("substring not found"))?)
        }
        "rsplit" => {
            let (between, most): (Option<&str>, Option<i64>) = from_args(given)?;
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX - 1) + 1;
            let mut parts: Vec<&str> = match between {
                Some("") => return Err(wrong("empty separator")),
                Some(between) => text.rsplitn(most, between).collect(),
                None if most > text.len() => text.split_whitespace().rev().collect(),
                None => return Ok(None),
            };
            parts.reverse();
            charge(text.len() + 32 * parts.len())?;
            Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>())
        }
        "replace" => {
            let (old, new, count): (&str, &str, Option<i64>) = from_args(given)?;
            let count = count.and_then(|count| usize::try_from(count).ok());
            replaced(text, old, new, count).map(Value::from)?
        }
        "join" => {
            let (list,): (Value,) = from_args(given)?;
            joined(text, items(&list)?.into_iter().map(Ok)).map(Value::from)?
        }
        "format" => {
            bounded_form(text)?;
            return Ok(None);
        }
        _ => return Ok(None),
    };
    Ok(Some(found))
}
