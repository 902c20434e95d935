//! The strings over a few symbols, ended by EOS or cut at the horizon.

use crate::error::InputError;

/// A symbol, `0..vocab`.
pub type Symbol = u32;

/// Largest number of strings that a space may have. Laws and kernels over more are no longer a toy.
const MAX_SEQUENCES: usize = 1 << 20;

/// The set of complete strings: those that end in EOS within the horizon, and those of the horizon's length without EOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    vocab: Symbol,
    eos: Symbol,
    horizon: usize,
}

/// A table or a string does not fit the space.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TabularError {
    /// The space itself is impossible or too large.
    #[error("no tabular space with {vocab} symbols, EOS {eos} and horizon {horizon}: {reason}")]
    Space {
        /// Number of symbols.
        vocab: Symbol,
        /// The EOS symbol.
        eos: Symbol,
        /// Largest length.
        horizon: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A prefix that can be reached has no conditional.
    #[error(
        "no conditional after the prefix {prefix:?}; the table needs one for every prefix that can be reached"
    )]
    MissingPrefix {
        /// The prefix.
        prefix: Vec<Symbol>,
    },
    /// A string is no prefix or sequence of the space.
    #[error("{sequence:?} is not {expected} over {vocab} symbols with EOS {eos} and horizon {horizon}")]
    Outside {
        /// The string.
        sequence: Vec<Symbol>,
        /// What was needed: `a prefix`, `a complete sequence`.
        expected: &'static str,
        /// Number of symbols.
        vocab: Symbol,
        /// The EOS symbol.
        eos: Symbol,
        /// Largest length.
        horizon: usize,
    },
    /// The conditional after a prefix is no law over the symbols.
    #[error("conditional after the prefix {prefix:?}: {source}")]
    Conditional {
        /// The prefix.
        prefix: Vec<Symbol>,
        /// What is wrong with it.
        source: InputError,
    },
    /// The key of a table read from a file is no prefix.
    #[error(
        "prefix key {key:?} is not a string of symbols; write \"012\", or \"0,11,2\" for symbols above 9"
    )]
    Key {
        /// The key.
        key: String,
    },
    /// Two tables that are combined live on different spaces.
    #[error("tables over different spaces: {left:?} and {right:?}")]
    DifferentSpaces {
        /// Space of the first table.
        left: Space,
        /// Space of the other table.
        right: Space,
    },
    /// Another argument makes no sense.
    #[error(transparent)]
    Input(#[from] InputError),
}

impl Space {
    /// Strings over `0..vocab` with the terminator `eos`, of at most `horizon` symbols including it.
    pub fn new(vocab: Symbol, eos: Symbol, horizon: usize) -> Result<Self, TabularError> {
        let refuse = |reason| Err(TabularError::Space { vocab, eos, horizon, reason });
        if eos >= vocab {
            return refuse("EOS must be one of the symbols");
        }
        if horizon == 0 {
            return refuse("the horizon must be at least 1");
        }
        // Complete strings: one per prefix that stops, and b^horizon that are cut, b = symbols that continue.
        let branching = vocab as usize - 1;
        let mut prefixes = 1_usize;
        let mut total = 0_usize;
        for _ in 0..horizon {
            total = total.saturating_add(prefixes);
            prefixes = prefixes.saturating_mul(branching);
        }
        if total.saturating_add(prefixes) > MAX_SEQUENCES {
            return refuse("more than 2^20 strings; use fewer symbols or a shorter horizon");
        }
        Ok(Self { vocab, eos, horizon })
    }

    /// Number of symbols, EOS included.
    pub fn vocab(&self) -> Symbol {
        self.vocab
    }

    /// The terminator.
    pub fn eos(&self) -> Symbol {
        self.eos
    }

    /// Largest length, EOS included.
    pub fn horizon(&self) -> usize {
        self.horizon
    }

    /// Whether a sequence ends in EOS, in contrast to one cut at the horizon.
    pub fn finished(&self, sequence: &[Symbol]) -> bool {
        sequence.last() == Some(&self.eos)
    }

    /// Whether `prefix` can be continued: shorter than the horizon, valid symbols, no EOS.
    pub fn is_prefix(&self, prefix: &[Symbol]) -> bool {
        prefix.len() < self.horizon && prefix.iter().all(|s| *s < self.vocab && *s != self.eos)
    }

    /// Whether `sequence` is one of [`Space::sequences`].
    pub fn is_complete(&self, sequence: &[Symbol]) -> bool {
        sequence.split_last().is_some_and(|(last, prefix)| {
            self.is_prefix(prefix)
                && *last < self.vocab
                && (*last == self.eos || sequence.len() == self.horizon)
        })
    }

    /// All complete sequences in lexicographic order: the order of all laws over this space.
    pub fn sequences(&self) -> Vec<Vec<Symbol>> {
        self.extensions(&[])
    }

    /// All complete sequences that start with `prefix`, in lexicographic order; none if it is no prefix.
    pub fn extensions(&self, prefix: &[Symbol]) -> Vec<Vec<Symbol>> {
        let mut found = Vec::new();
        if self.is_prefix(prefix) {
            self.walk(&mut prefix.to_vec(), &mut |sequence, complete| {
                if complete {
                    found.push(sequence.to_vec());
                }
            });
        }
        found
    }

    /// All prefixes that need a conditional, in lexicographic order; the empty one first.
    pub fn prefixes(&self) -> Vec<Vec<Symbol>> {
        let mut found = Vec::new();
        self.walk(&mut Vec::new(), &mut |sequence, complete| {
            if !complete {
                found.push(sequence.to_vec());
            }
        });
        found
    }

    /// Visits the tree of strings below `prefix`, parents first.
    fn walk(&self, prefix: &mut Vec<Symbol>, visit: &mut dyn FnMut(&[Symbol], bool)) {
        visit(prefix, false);
        for symbol in 0..self.vocab {
            prefix.push(symbol);
            if self.is_complete(prefix) {
                visit(prefix, true);
            } else {
                self.walk(prefix, visit);
            }
            prefix.pop();
        }
    }

    /// Refuses strings that cannot be continued.
    pub(super) fn need_prefix(&self, prefix: &[Symbol]) -> Result<(), TabularError> {
        if self.is_prefix(prefix) { Ok(()) } else { Err(self.outside(prefix, "a prefix")) }
    }

    /// Refuses strings that are not complete.
    pub(super) fn need_complete(&self, sequence: &[Symbol]) -> Result<(), TabularError> {
        if self.is_complete(sequence) { Ok(()) } else { Err(self.outside(sequence, "a complete sequence")) }
    }

    pub(super) fn outside(&self, sequence: &[Symbol], expected: &'static str) -> TabularError {
        let Self { vocab, eos, horizon } = *self;
        TabularError::Outside { sequence: sequence.to_vec(), expected, vocab, eos, horizon }
    }

    /// Refuses tables over another space.
    pub(super) fn need_same(&self, other: &Self) -> Result<(), TabularError> {
        if self == other { Ok(()) } else { Err(TabularError::DifferentSpaces { left: *self, right: *other }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_of_a_small_space() {
        let space = Space::new(3, 2, 2).expect("space");
        let expected: [&[Symbol]; 7] = [&[0, 0], &[0, 1], &[0, 2], &[1, 0], &[1, 1], &[1, 2], &[2]];
        assert_eq!(space.sequences(), expected.map(<[Symbol]>::to_vec));
        assert_eq!(space.prefixes(), vec![vec![], vec![0], vec![1]]);
        assert_eq!(space.extensions(&[1]).len(), 3);
        assert!(space.extensions(&[2]).is_empty() && space.extensions(&[0, 1]).is_empty());
    }

    #[test]
    fn an_item_space_has_one_string_per_symbol() {
        assert_eq!(Space::new(4, 3, 1).expect("space").sequences(), vec![vec![0], vec![1], vec![2], vec![3]]);
        assert_eq!(Space::new(1, 0, 5).expect("space").sequences(), vec![vec![0]]);
    }

    #[test]
    fn impossible_and_huge_spaces_are_refused() {
        for (vocab, eos, horizon) in [(3, 3, 2), (3, 2, 0), (0, 0, 1), (50_000, 0, 20), (3, 0, 60)] {
            assert!(matches!(Space::new(vocab, eos, horizon), Err(TabularError::Space { .. })));
        }
    }
}
