//! Finds what is already cached of a token prefix.
//!
//! Rows that ended are kept, within a budget, and the next request forks the one that shares the most tokens with it.
//! A plain scan over the kept rows takes the place of a radix tree: there are at most some hundred, and comparing a
//! prefix costs less than a microsecond, against milliseconds for the tokens that it saves.

use std::collections::VecDeque;

use crate::capability::{RowId, Session};
use crate::completion::TokenId;

/// Rows kept for reuse, the most recently used last.
#[derive(Debug)]
pub struct Prefixes {
    kept: VecDeque<(RowId, Vec<TokenId>)>,
    tokens: usize,
    max_tokens: usize,
}

impl Prefixes {
    /// Keeps rows of at most `max_tokens` tokens in all; 0 keeps none.
    pub fn new(max_tokens: usize) -> Self {
        Self { kept: VecDeque::new(), tokens: 0, max_tokens }
    }

    /// Opens a row that begins with as much of `ids` as is cached, all but the last token at most (its output is wanted),
    /// and returns it with the number of tokens that it has.
    pub fn resume(&mut self, session: &mut dyn Session, ids: &[TokenId]) -> (RowId, usize) {
        let most = ids.len().saturating_sub(1);
        let mut best = (0, 0);
        for (place, (_, kept)) in self.kept.iter().enumerate() {
            let shared = kept.iter().zip(&ids[..most]).take_while(|(a, b)| a == b).count();
            if shared > best.0 {
                best = (shared, place);
            }
        }
        let (shared, place) = best;
        if shared == 0 {
            return (session.open(), 0);
        }
        if let Some(used) = self.kept.remove(place) {
            self.kept.push_back(used);
        }
        let (row, _) = self.kept[self.kept.len() - 1];
        (session.fork(row, shared), shared)
    }

    /// Takes over `row`, which holds `ids`, and drops the rows used longest ago when there is no room.
    pub fn keep(&mut self, session: &mut dyn Session, row: RowId, ids: Vec<TokenId>) {
        if ids.is_empty() || ids.len() > self.max_tokens {
            session.close(row);
            return;
        }
        // A row that another continues is no longer needed.
        let continued = self.kept.iter().position(|(_, kept)| ids.starts_with(kept));
        if let Some((old, kept)) = continued.and_then(|place| self.kept.remove(place)) {
            self.tokens -= kept.len();
            session.close(old);
        }
        self.tokens += ids.len();
        self.kept.push_back((row, ids));
        while self.tokens > self.max_tokens {
            if let Some((old, kept)) = self.kept.pop_front() {
                self.tokens -= kept.len();
                session.close(old);
            }
        }
    }

    /// Drops all rows, as after a change of weights.
    pub fn clear(&mut self, session: &mut dyn Session) {
        for (row, _) in self.kept.drain(..) {
            session.close(row);
        }
        self.tokens = 0;
    }
}
