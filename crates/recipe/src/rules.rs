//! Cross-field rules: what a schema cannot say.

use crate::path::KeyPath;

/// A recipe, or a part of one, whose values must agree with each other.
///
/// Each rule is one function from the values to a [`Violation`]; `validate` names the keys that it reads, relative
/// to this part. A broken rule is reported at the first of those keys that the recipe sets. A rule is not judged
/// while one of its keys has a problem of its own.
///
/// ```
/// use recipe::{Rules, Validate, Violation};
///
/// struct Schedule { warmup_steps: usize, steps: usize }
///
/// fn warmup_ends(schedule: &Schedule) -> Result<(), Violation> {
///     if schedule.warmup_steps < schedule.steps {
///         return Ok(());
///     }
///     let message = format!("{} warm-up steps do not fit in {} steps", schedule.warmup_steps, schedule.steps);
///     Err(Violation::new(message).hint("lower `warmup_steps`"))
/// }
///
/// impl Validate for Schedule {
///     fn validate(&self, rules: &mut Rules) {
///         rules.check(&["warmup_steps", "steps"], warmup_ends(self));
///     }
/// }
/// ```
pub trait Validate {
    /// Checks every rule, those of nested parts included (see [`Rules::within`]).
    fn validate(&self, rules: &mut Rules);
}

impl<T: Validate> Validate for Option<T> {
    fn validate(&self, rules: &mut Rules) {
        if let Some(part) = self {
            part.validate(rules);
        }
    }
}

/// What a broken rule has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl Violation {
    /// States the values and the limit they break.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Collects the rules that a recipe breaks.
#[derive(Debug, Default)]
pub struct Rules {
    prefix: KeyPath,
    pub(crate) broken: Vec<Broken>,
}

/// A broken rule with the full paths of its keys.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) keys: Vec<KeyPath>,
    pub(crate) violation: Violation,
}

impl Rules {
    /// Records the outcome of one rule that reads `keys` (dotted, relative to this part, the main one first).
    pub fn check(&mut self, keys: &[&str], outcome: Result<(), Violation>) {
        if let Err(violation) = outcome {
            let keys = keys.iter().map(|key| self.prefix.join(&KeyPath::dotted(key))).collect();
            self.broken.push(Broken { keys, violation });
        }
    }

    /// Checks the rules of the part under `key` (dotted).
    pub fn within(&mut self, key: &str, part: &impl Validate) {
        let longer = self.prefix.join(&KeyPath::dotted(key));
        self.scoped(longer, part);
    }

    /// Checks the rules of every item of the array under `key` (dotted).
    pub fn within_each<'a, T: Validate + 'a>(&mut self, key: &str, items: impl IntoIterator<Item = &'a T>) {
        let array = self.prefix.join(&KeyPath::dotted(key));
        for (index, item) in items.into_iter().enumerate() {
            self.scoped(array.index(index), item);
        }
    }

    fn scoped(&mut self, prefix: KeyPath, part: &impl Validate) {
        let outer = std::mem::replace(&mut self.prefix, prefix);
        part.validate(self);
        self.prefix = outer;
    }
}
