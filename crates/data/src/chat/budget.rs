//! What a rendering may take: instructions, text, memory. A template comes with a downloaded model and may be
//! hostile.

use std::cell::Cell;
use std::fmt;

use minijinja::{Error, ErrorKind, Value};

/// The longest source of a template, in bytes.
pub(super) const MAX_SOURCE: usize = 256 << 10;
/// The stack that templates are compiled and rendered on: nested values are walked and dropped level by
/// level.
const STACK: usize = 512 << 20;
/// Instructions of a rendering, and those for each byte of what it is given.
const FUEL: u64 = 1_500_000;
const FUEL_PER_BYTE: u64 = 200;
/// A conversation of so many bytes has the instructions of every other up to it.
pub(super) const SHORT: usize = 4 << 10;
/// Bytes of text and values that a rendering may make, and those for each byte of what it is given.
const BYTES: usize = 64 << 20;
const BYTES_PER_BYTE: usize = 200;
/// The widest padding, and the most parts that a list is cut into.
const MAX_WIDTH: usize = 4096;

thread_local! {
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Instructions for a rendering of so many bytes.
pub(super) fn fuel(input: usize) -> u64 {
    FUEL.saturating_add(FUEL_PER_BYTE.saturating_mul(input as u64))
}

/// Runs `run` on a stack of its own with the memory for `input` bytes. A panic in it is an error with its
/// message.
pub(super) fn bounded<T: Send>(input: usize, run: impl FnOnce() -> T + Send) -> Result<T, String> {
    let bytes = BYTES.saturating_add(BYTES_PER_BYTE.saturating_mul(input));
    std::thread::scope(|scope| {
        let body = move || {
            LEFT.set(bytes);
            crate::caught::caught(run)
        };
        let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK);
        match thread.spawn_scoped(scope, body) {
            Ok(handle) => handle.join().unwrap_or_else(|_| Err("the rendering thread failed".to_owned())),
            Err(error) => Err(format!("no thread to render it on: {error}")),
        }
    })
}

/// Takes so many bytes from what the rendering has left.
pub(super) fn charge(bytes: usize) -> Result<(), Error> {
    if let Some(left) = LEFT.get().checked_sub(bytes) {
        LEFT.set(left);
        Ok(())
    } else {
        LEFT.set(0);
        Err(Error::new(
            ErrorKind::InvalidOperation,
            format!(
                "the template makes more text than its {BYTES} bytes and {BYTES_PER_BYTE} for each byte of the conversation"
            ),
        ))
    }
}

/// A number of columns or parts.
pub(super) fn width(count: usize) -> Result<usize, Error> {
    if count <= MAX_WIDTH {
        return Ok(count);
    }
    Err(Error::new(ErrorKind::InvalidOperation, format!("{count} is more than the most, {MAX_WIDTH}")))
}

/// The text of a value as Python prints it.
pub(super) fn text_of(value: &Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        charge(text.len())?;
        return Ok(text.to_owned());
    }
    if let Some(float) = float(value) {
        return Ok(super::json::python_float(float, ["nan", "inf", "-inf"]));
    }
    let mut out = Charged { text: String::new(), failed: None };
    let done = fmt::write(&mut out, format_args!("{value}"));
    match (out.failed, done) {
        (Some(error), _) => Err(error),
        (None, Ok(())) => Ok(out.text),
        (None, Err(_)) => Err(Error::new(ErrorKind::InvalidOperation, "the value cannot be printed")),
    }
}

/// The number, where the value is one with a fraction.
pub(super) fn float(value: &Value) -> Option<f64> {
    let number = value.kind() == minijinja::value::ValueKind::Number && !value.is_integer();
    number.then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// Text whose bytes are charged as they are written.
struct Charged {
    text: String,
    failed: Option<Error>,
}

impl fmt::Write for Charged {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // A write costs time too, however short its text.
        if let Err(error) = charge(text.len().max(32)) {
            self.failed = Some(error);
            return Err(fmt::Error);
        }
        self.text.push_str(text);
        Ok(())
    }
}
