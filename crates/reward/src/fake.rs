//! Models for tests: outputs are hashes of all tokens of a row, so that any token lost, doubled or swapped shows.

use std::cell::Cell;
use std::collections::BTreeMap;

use generate::capability::Logits;
use generate::{Error, RowId, Score, Session, Step, TokenId};

/// Characters as token ids.
pub(crate) fn encode(text: &str) -> Vec<TokenId> {
    text.chars().map(TokenId::from).collect()
}

/// Token ids as characters; what is no character is dropped.
pub(crate) fn decode(ids: &[TokenId]) -> String {
    ids.iter().copied().filter_map(char::from_u32).collect()
}

/// A model of any width that counts what it runs.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    pub(crate) width: usize,
    /// Tokens run through the model so far.
    pub(crate) tokens: Cell<u64>,
    /// Passes so far, and tokens of the greatest one.
    pub(crate) passes: Cell<u64>,
    pub(crate) widest: Cell<usize>,
    /// Rows open in all sessions.
    pub(crate) open: Cell<usize>,
    /// The token whose row gives NaN, and the one whose row fails.
    pub(crate) poison: Option<TokenId>,
    pub(crate) trap: Option<TokenId>,
    /// Models of different salts differ.
    pub(crate) salt: u32,
}

impl Fake {
    pub(crate) const CONTEXT: usize = 64;

    pub(crate) fn new(width: usize) -> Self {
        Self { width, ..Self::default() }
    }

    /// Output `at` after `ids`, in `[−1, 1)`.
    pub(crate) fn output(&self, ids: &[TokenId], at: usize) -> f32 {
        if self.poison.is_some_and(|poison| ids.contains(&poison)) {
            return f32::NAN;
        }
        let mut hasher = blake3::Hasher::new();
        for id in ids.iter().copied().chain([at as u32 ^ self.salt.rotate_right(8)]) {
            hasher.update(&id.to_le_bytes());
        }
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..4]);
        u32::from_le_bytes(bytes) as f32 / 2_f32.powi(31) - 1.0
    }

    fn count(&self, tokens: usize) {
        self.tokens.set(self.tokens.get() + tokens as u64);
        self.passes.set(self.passes.get() + 1);
        self.widest.set(self.widest.get().max(tokens));
    }
}

impl Score for Fake {
    fn score(&self, items: &[(&[TokenId], &[TokenId])]) -> Result<Vec<Vec<f32>>, Error> {
        self.count(items.iter().map(|(prefix, continuation)| prefix.len() + continuation.len()).sum());
        let one = |(prefix, continuation): &(&[TokenId], &[TokenId])| {
            let text = [*prefix, *continuation].concat();
            // Any negative number will do for a log-probability.
            (prefix.len()..text.len()).map(|at| self.output(&text[..at], text[at] as usize) - 1.0).collect()
        };
        Ok(items.iter().map(one).collect())
    }
}

impl Step for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn width(&self) -> usize {
        self.width
    }

    fn context(&self) -> usize {
        Self::CONTEXT
    }

    fn eos(&self) -> &[TokenId] {
        &[0]
    }

    fn session(&self) -> Box<dyn Session + '_> {
        Box::new(FakeSession { model: self, rows: BTreeMap::new(), next: 0 })
    }
}

struct FakeSession<'a> {
    model: &'a Fake,
    rows: BTreeMap<RowId, Vec<TokenId>>,
    next: u32,
}

impl FakeSession<'_> {
    fn add(&mut self, ids: Vec<TokenId>) -> RowId {
        let row = RowId(self.next);
        self.next += 1;
        self.rows.insert(row, ids);
        self.model.open.set(self.rows.len());
        row
    }
}

impl Session for FakeSession<'_> {
    fn open(&mut self) -> RowId {
        self.add(Vec::new())
    }

    fn fork(&mut self, row: RowId, len: usize) -> RowId {
        let ids = self.rows[&row][..len].to_vec();
        self.add(ids)
    }

    fn truncate(&mut self, row: RowId, len: usize) {
        self.rows.get_mut(&row).expect("the row is open").truncate(len);
    }

    fn close(&mut self, row: RowId) {
        self.rows.remove(&row).expect("the row is open");
        self.model.open.set(self.rows.len());
    }

    fn extend(&mut self, rows: &[(RowId, &[TokenId])]) -> Result<Logits, Error> {
        self.model.count(rows.iter().map(|(_, ids)| ids.len()).sum());
        let mut values = Vec::new();
        for (row, ids) in rows {
            assert!(!ids.is_empty(), "a pass extends every row");
            if self.model.trap.is_some_and(|trap| ids.contains(&trap)) {
                return Err(Error::Backend("the device is gone".into()));
            }
            let held = self.rows.get_mut(row).expect("the row is open");
            held.extend_from_slice(ids);
            assert!(held.len() <= Fake::CONTEXT, "a row exceeds the context");
            values.extend((0..self.model.width).map(|at| self.model.output(held, at)));
        }
        Ok(Logits { width: self.model.width, values })
    }

    fn log_probs(
        &mut self,
        rows: &[(RowId, &[TokenId])],
        targets: &[&[TokenId]],
    ) -> Result<Vec<Vec<f32>>, Error> {
        self.extend(rows)?;
        let one = |((row, _), targets): (&(RowId, &[TokenId]), &&[TokenId])| {
            let held = &self.rows[row];
            let first = held.len() - targets.len();
            let after = |(place, target): (usize, &TokenId)| {
                self.model.output(&held[..=first + place], *target as usize) - 1.0
            };
            targets.iter().enumerate().map(after).collect()
        };
        Ok(rows.iter().zip(targets).map(one).collect())
    }
}
