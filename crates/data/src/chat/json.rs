//! The filter `tojson` as transformers defines it: Python's `json.dumps`, not HTML-safe, non-ASCII text kept.

use std::fmt::Write as _;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, ErrorKind, Value};

use super::budget::{charge, width};
use super::python::Arguments;

/// How `json.dumps` lays out its text.
struct Style {
    ensure_ascii: bool,
    /// What one level of nesting is indented by; without it everything is on one line.
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

/// `value|tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`, by position or by name.
pub(super) fn tojson(value: Value, arguments: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mut arguments = Arguments::new(arguments)?;
    let mut option = |name: &str| arguments.take(name).map(Option::unwrap_or_default);
    let ensure_ascii = option("ensure_ascii")?;
    let indent = option("indent")?;
    let separators = option("separators")?;
    let sort_keys = option("sort_keys")?;
    arguments.done()?;

    let indent = match indent.kind() {
        ValueKind::None | ValueKind::Undefined => None,
        ValueKind::String => Some(indent.to_string()),
        _ => Some(" ".repeat(width(usize::try_from(i64::try_from(indent)?.max(0)).unwrap_or_default())?)),
    };
    let (item, key) = match separators.kind() {
        ValueKind::None | ValueKind::Undefined => {
            (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned())
        }
        _ => match separators.try_iter()?.collect::<Vec<_>>().as_slice() {
            [item, key] => (item.to_string(), key.to_string()),
            other => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("separators must be a pair of strings, found {} values", other.len()),
                ));
            }
        },
    };
    let style =
        Style { ensure_ascii: ensure_ascii.is_true(), indent, item, key, sort_keys: sort_keys.is_true() };
    let mut out = String::new();
    style.value(&mut out, &value, 0)?;
    Ok(Value::from(out))
}

impl Style {
    fn value(&self, out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
        charge(value.as_str().map_or(16, str::len))?;
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number if value.is_integer() => out.push_str(&value.to_string()),
            ValueKind::Number => {
                out.push_str(&python_float(f64::try_from(value.clone())?, ["NaN", "Infinity", "-Infinity"]));
            }
            ValueKind::String => self.string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.nested(out, ('[', ']'), depth, &items, |out, item| self.value(out, item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sort_keys {
                    keys.sort();
                }
                self.nested(out, ('{', '}'), depth, &keys, |out, key| {
                    self.map_key(out, key)?;
                    out.push_str(&self.key);
                    self.value(out, &value.get_item(key)?, depth + 1)
                })?;
            }
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: {kind} has no JSON form"),
                ));
            }
        }
        Ok(())
    }

    fn map_key(&self, out: &mut String, key: &Value) -> Result<(), Error> {
        let mut text = String::new();
        match key.kind() {
            ValueKind::String => text.push_str(key.as_str().unwrap_or_default()),
            ValueKind::None | ValueKind::Bool | ValueKind::Number => self.value(&mut text, key, 0)?,
            kind => {
                return Err(Error::new(
                    ErrorKind::InvalidOperation,
                    format!("tojson: {kind} cannot be a key"),
                ));
            }
        }
        self.string(out, &text);
        Ok(())
    }

    fn nested(
        &self,
        out: &mut String,
        (open, close): (char, char),
        depth: usize,
        items: &[Value],
        mut write: impl FnMut(&mut String, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                out.push_str(&self.item);
            }
            self.new_line(out, depth + 1)?;
            write(out, item)?;
        }
        if !items.is_empty() {
            self.new_line(out, depth)?;
        }
        out.push(close);
        Ok(())
    }

    fn new_line(&self, out: &mut String, depth: usize) -> Result<(), Error> {
        if let Some(indent) = &self.indent {
            charge(1 + indent.len() * depth)?;
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
        Ok(())
    }

    fn string(&self, out: &mut String, text: &str) {
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                other if other < ' ' || (self.ensure_ascii && !(' '..='~').contains(&other)) => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                other => out.push(other),
            }
        }
        out.push('"');
    }
}

/// Python's `repr` of a float: the shortest digits that read back equal, positional from 1e-4 up to below
/// 1e16; what is not
/// finite under the names that are given for it.
pub(super) fn python_float(value: f64, [nan, infinity, below]: [&str; 3]) -> String {
    if value.is_nan() {
        return nan.to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { infinity } else { below }.to_owned();
    }
    if value == 0.0 || (1e-4..1e16).contains(&value.abs()) {
        return format!("{value:?}");
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let (sign, magnitude) = exponent.strip_prefix('-').map_or(('+', exponent), |rest| ('-', rest));
    format!("{digits}e{sign}{magnitude:0>2}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (21.5, "21.5"),
            (0.1, "0.1"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e100, "-1.25e+100"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "Infinity"),
            (f64::NAN, "NaN"),
        ];
        for (value, text) in cases {
            assert_eq!(python_float(value, ["NaN", "Infinity", "-Infinity"]), text);
        }
    }

    #[test]
    fn options_follow_json_dumps() {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        let data =
            serde_json::json!({"v": {"b": [1, 2.0, []], "a": {"é😀<\u{7f}\u{1}": null, "t": true}, "e": {}}});
        let render = |source: &str| {
            let value = minijinja::value::Value::from(minijinja::value::Serde(&data));
            super::super::budget::bounded(1024, || env.render_str(source, value)).unwrap()
        };
        let cases = [
            (
                "{{ v|tojson }}",
                "{\"b\": [1, 2.0, []], \"a\": {\"é😀<\u{7f}\\u0001\": null, \"t\": true}, \"e\": {}}",
            ),
            (
                "{{ v|tojson(ensure_ascii=true, sort_keys=true, separators=(',', ':')) }}",
                r#"{"a":{"t":true,"\u00e9\ud83d\ude00<\u007f\u0001":null},"b":[1,2.0,[]],"e":{}}"#,
            ),
            ("{{ v.b|tojson(indent=1) }}", "[\n 1,\n 2.0,\n []\n]"),
            ("{{ v.b|tojson(false, 2) }}", "[\n  1,\n  2.0,\n  []\n]"),
            ("{{ v.b|tojson(indent=0) }}", "[\n1,\n2.0,\n[]\n]"),
            ("{{ v.b|tojson(indent='\t') }}", "[\n\t1,\n\t2.0,\n\t[]\n]"),
        ];
        for (source, text) in cases {
            assert_eq!(render(source).unwrap(), text, "{source}");
        }
        let error = render("{{ v.nothing|tojson }}").unwrap_err();
        assert!(error.to_string().contains("undefined has no JSON form"), "{error}");
        assert!(render("{{ v|tojson(indents=1) }}").is_err());
    }
}
