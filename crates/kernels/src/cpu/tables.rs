//! Which pages of a key-value cache each token attends to.

use std::ops::Range;

use super::kv_pool::PAGE;

/// Most tokens of a sequence that go over its pages together.
const RUN: usize = 16;
/// Most sequences that go over shared pages together, and the tasks that have to be left for the threads.
const SEQUENCES: usize = 8;
const TASKS: usize = 12;

/// Which keys each token attends to: its past lies in the pages `pages[starts[i]..]`, `lengths[i]` keys of it, its own last.
///
/// Tokens of one sequence share a table: with pages `[7, 2]`, the tokens at positions 15 and 16 have `starts` 0 and 0,
/// `lengths` 16 and 17.
#[derive(Clone, Copy, Debug)]
pub struct PageTables<'a> {
    /// Page tables of all sequences, one after the other.
    pub pages: &'a [u32],
    /// Per token, where its sequence's table starts.
    pub starts: &'a [u32],
    /// Per token, the number of keys it attends to.
    pub lengths: &'a [u32],
}

/// Tokens that go over pages together: some of one sequence, or one of each of several that share their first pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bundle {
    pub(super) tokens: Range<usize>,
    /// Pages at the beginning that all of several sequences have, each with all of its keys.
    pub(super) shared: usize,
    /// Whether they are of one sequence.
    alone: bool,
}

impl Bundle {
    /// The tokens of each sequence.
    pub(super) fn sequences(&self) -> impl Iterator<Item = Range<usize>> {
        let step = if self.alone { self.tokens.len() } else { 1 };
        let end = self.tokens.end;
        self.tokens.clone().step_by(step.max(1)).map(move |first| first..end.min(first + step))
    }
}

impl<'a> PageTables<'a> {
    /// The pages of a token, the last perhaps partly filled.
    pub(crate) fn of(&self, token: usize) -> &'a [u32] {
        let start = self.starts[token] as usize;
        let count = (self.lengths[token] as usize).div_ceil(PAGE);
        assert!(
            start + count <= self.pages.len(),
            "paged_attention: token {token} needs pages {start}..{} of a table of {}",
            start + count,
            self.pages.len()
        );
        &self.pages[start..start + count]
    }

    /// The pages of the token that has most of them.
    pub(super) fn longest(&self, tokens: Range<usize>) -> &'a [u32] {
        tokens.max_by_key(|token| self.lengths[*token]).map_or(&[], |token| self.of(token))
    }

    /// The pages that two tokens share and see all keys of.
    fn shared(&self, a: usize, b: usize) -> usize {
        let full = |token: usize| &self.of(token)[..self.lengths[token] as usize / PAGE];
        full(a).iter().zip(full(b)).take_while(|(a, b)| a == b).count()
    }

    /// Tokens that follow each other in one sequence, at most [`RUN`] together.
    fn runs(&self) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for token in 0..self.starts.len() {
            match runs.last_mut() {
                Some(run) if run.len() < RUN && self.starts[run.start] == self.starts[token] => {
                    run.end = token + 1;
                }
                _ => runs.push(token..token + 1),
            }
        }
        runs
    }

    /// All tokens in bundles, of which there are enough for the threads where each is a task for every one of `kv_heads`.
    pub(super) fn bundles(&self, kv_heads: usize) -> Vec<Bundle> {
        let runs = self.runs();
        let most = (runs.len() * kv_heads / TASKS).clamp(1, SEQUENCES);
        let mut bundles: Vec<Bundle> = Vec::with_capacity(runs.len());
        for tokens in runs {
            if let Some(last) = bundles.last_mut().filter(|last| last.sequences().count() < most)
                && tokens.len() == 1
                && last.sequences().all(|tokens| tokens.len() == 1)
            {
                let first = last.tokens.start;
                let before = if last.alone { self.lengths[first] as usize / PAGE } else { last.shared };
                let shared = self.shared(first, tokens.start).min(before);
                // A sequence that would halve what the others share begins anew.
                if shared > 0 && 2 * shared >= before {
                    *last = Bundle { tokens: first..tokens.end, shared, alone: false };
                    continue;
                }
            }
            bundles.push(Bundle { tokens, shared: 0, alone: true });
        }
        bundles
    }

    /// Checks the tables against the number of tokens and pages.
    pub(crate) fn check(&self, tokens: usize, pages: usize) {
        assert!(
            self.starts.len() == tokens && self.lengths.len() == tokens,
            "paged_attention: {tokens} tokens, {} starts, {} lengths",
            self.starts.len(),
            self.lengths.len()
        );
        for token in 0..tokens {
            assert!(self.lengths[token] > 0, "paged_attention: token {token} attends to no key");
            for &page in self.of(token) {
                assert!(
                    (page as usize) < pages,
                    "paged_attention: page {page} of token {token} in a pool of {pages}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_of_one_beginning_are_taken_together() {
        // Eight rows behind three shared pages of 48 keys, then two that share one page, then a prompt.
        let mut pages = Vec::new();
        let (mut starts, mut lengths) = (Vec::new(), Vec::new());
        for row in 0..8 {
            starts.push(pages.len() as u32);
            lengths.push(50 + row);
            pages.extend([0, 1, 2, 10 + row]);
        }
        for row in 0..2 {
            starts.push(pages.len() as u32);
            lengths.push(20);
            pages.extend([0, 20 + row]);
        }
        for length in 1..=20 {
            starts.push(pages.len() as u32);
            lengths.push(length);
        }
        pages.extend([30, 31]);
        let tables = PageTables { pages: &pages, starts: &starts, lengths: &lengths };
        let several = |tokens, shared| Bundle { tokens, shared, alone: false };
        let one = |tokens| Bundle { tokens, shared: 0, alone: true };
        let given = tables.bundles(8);
        assert_eq!(given, [several(0..8, 3), several(8..10, 1), one(10..26), one(26..30)]);
        assert_eq!(given[0].sequences().count(), 8);
        assert_eq!(given[2].sequences().last(), Some(10..26));
        assert_eq!(tables.longest(10..26), [30]);
        // Fewer heads leave fewer tasks: 12 runs of 2 heads are 24, so that two go together.
        assert_eq!(tables.bundles(2)[..2], [several(0..2, 3), several(2..4, 3)]);
        assert_eq!(tables.bundles(1).len(), 12);
    }

    #[test]
    fn a_page_that_one_of_them_sees_in_part_is_not_shared() {
        let tables = PageTables { pages: &[5, 6, 5, 6], starts: &[0, 2], lengths: &[32, 31] };
        assert_eq!(tables.bundles(100), [Bundle { tokens: 0..2, shared: 1, alone: false }]);
    }
}
