//! Dotted key paths: `method.vbon.n`, `stages.0.run.seed`.

use std::fmt;

/// One step from a table or an array to something inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    Key(String),
    Index(usize),
}

/// The way from the root of a recipe to a value.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KeyPath(pub(crate) Vec<Segment>);

impl KeyPath {
    /// A path of plain keys, as rules write them: `"vbon.n"`.
    pub(crate) fn dotted(keys: &str) -> Self {
        Self(keys.split('.').filter(|key| !key.is_empty()).map(|key| Segment::Key(key.to_owned())).collect())
    }

    pub(crate) fn key(&self, key: &str) -> Self {
        self.then(Segment::Key(key.to_owned()))
    }

    pub(crate) fn index(&self, index: usize) -> Self {
        self.then(Segment::Index(index))
    }

    pub(crate) fn join(&self, tail: &Self) -> Self {
        Self(self.0.iter().chain(&tail.0).cloned().collect())
    }

    /// Whether one of the two lies inside the other, or they are the same.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// The path without the indices at its end: the innermost key that can be taken out of its table.
    pub(crate) fn to_last_key(&self) -> Self {
        let last = self.0.iter().rposition(|segment| matches!(segment, Segment::Key(_)));
        Self(self.0[..last.map_or(0, |last| last + 1)].to_vec())
    }

    /// Whether `other` is this path or inside it.
    pub(crate) fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    fn then(&self, segment: Segment) -> Self {
        let mut longer = self.clone();
        longer.0.push(segment);
        longer
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, segment) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(".")?;
            }
            match segment {
                Segment::Key(key) if is_bare(key) => f.write_str(key)?,
                Segment::Key(key) => write!(f, "{key:?}")?,
                Segment::Index(index) => write!(f, "{index}")?,
            }
        }
        Ok(())
    }
}

/// Whether TOML lets a key stand without quotes.
fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_print_as_they_are_written_after_set() {
        let path = KeyPath::dotted("method.vbon").key("a b").index(3);
        assert_eq!(path.to_string(), "method.vbon.\"a b\".3");
    }

    #[test]
    fn overlap_is_containment_in_either_direction() {
        let optim = KeyPath::dotted("optim");
        assert!(optim.overlaps(&KeyPath::dotted("optim.steps")));
        assert!(KeyPath::dotted("optim.steps").overlaps(&optim));
        assert!(!KeyPath::dotted("optim.steps").overlaps(&KeyPath::dotted("optim.epochs")));
    }
}
