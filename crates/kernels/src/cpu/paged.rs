//! Attention of tokens over a key-value cache in pages.
#![allow(unsafe_code, reason = "threads write disjoint heads of one output")]

use std::ops::Range;

use super::attention::softmax_row;
use super::isa::Isa;
use super::page::{self, add_page, score_page};
use super::parallel::{Shared, for_each};

/// Positions of a page: one vector of scores.
pub const PAGE: usize = 16;
/// Most tokens of a sequence that go over its pages together.
const RUN: usize = 16;

/// Sizes of a key-value pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolShape {
    /// Pages.
    pub pages: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

impl PoolShape {
    /// Elements of a page.
    fn page(&self) -> usize {
        self.kv_heads * self.head_dim * PAGE
    }

    fn check(&self, k_pool: usize, v_pool: usize) {
        let len = self.pages * self.page();
        assert!(
            k_pool == len && v_pool == len,
            "key-value pool: {k_pool} and {v_pool} elements for {self:?}"
        );
    }
}

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

impl PageTables<'_> {
    /// The pages of a token, the last perhaps partly filled.
    pub(crate) fn of(&self, token: usize) -> &[u32] {
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

/// Writes keys and values of tokens to their slots (`page · 16 + offset`).
///
/// # Shapes
/// - `k_pool`: `[pages, kv_heads, head_dim, 16]`; `v_pool`: `[pages, kv_heads, 16, head_dim]`
/// - `k`, `v`: `[n, kv_heads, head_dim]`; `slots`: `[n]`
///
/// # Panics
/// When a slice does not have the length its shape says or a slot is beyond the pool.
pub fn write_kv(
    k_pool: &mut [f32],
    v_pool: &mut [f32],
    shape: PoolShape,
    k: &[f32],
    v: &[f32],
    slots: &[u32],
) {
    shape.check(k_pool.len(), v_pool.len());
    write_keys(k_pool, shape, k, slots);
    write_values(v_pool, shape, v, slots);
}

/// The keys' half of [`write_kv`].
pub(crate) fn write_keys(pool: &mut [f32], shape: PoolShape, k: &[f32], slots: &[u32]) {
    let d = shape.head_dim;
    for (at, token) in targets(shape, k, slots) {
        for (head, key) in token.chunks_exact(d).enumerate() {
            let page = &mut pool[at.0 * shape.page() + head * d * PAGE..][..d * PAGE];
            for (lanes, &value) in page.chunks_exact_mut(PAGE).zip(key) {
                lanes[at.1] = value;
            }
        }
    }
}

/// The values' half of [`write_kv`].
pub(crate) fn write_values(pool: &mut [f32], shape: PoolShape, v: &[f32], slots: &[u32]) {
    let d = shape.head_dim;
    for (at, token) in targets(shape, v, slots) {
        for (head, value) in token.chunks_exact(d).enumerate() {
            pool[at.0 * shape.page() + head * d * PAGE + at.1 * d..][..d].copy_from_slice(value);
        }
    }
}

/// Copies whole pages of a pool, page `from[i]` to page `to[i]`.
pub(crate) fn copy_pages(pool: &mut [f32], shape: PoolShape, from: &[u32], to: &[u32]) {
    let page = shape.page();
    for (from, to) in from.iter().zip(to) {
        let (from, to) = (*from as usize * page, *to as usize * page);
        pool.copy_within(from..from + page, to);
    }
}

/// Page and offset of each token, with its elements.
fn targets<'a>(
    shape: PoolShape,
    data: &'a [f32],
    slots: &'a [u32],
) -> impl Iterator<Item = ((usize, usize), &'a [f32])> {
    let row = shape.kv_heads * shape.head_dim;
    assert_eq!(
        data.len(),
        slots.len() * row,
        "write_kv: {} elements for {} tokens of {row}",
        data.len(),
        slots.len()
    );
    slots.iter().zip(data.chunks_exact(row.max(1))).map(move |(&slot, token)| {
        let (page, offset) = (slot as usize / PAGE, slot as usize % PAGE);
        assert!(page < shape.pages, "write_kv: slot {slot} in a pool of {} pages of {PAGE}", shape.pages);
        ((page, offset), token)
    })
}

/// Attention of each token over the keys its table names, in their logical order.
///
/// Bit for bit what [`attention`](super::attention) computes at that position of the same sequence.
///
/// # Shapes
/// - `q`, `o`: `[n, heads, head_dim]`
/// - `k_pool`: `[pages, kv_heads, head_dim, 16]`; `v_pool`: `[pages, kv_heads, 16, head_dim]`
///
/// # Panics
/// When a slice does not have the length its shape says or a table names a page that is not there.
pub fn paged_attention(
    q: &[f32],
    k_pool: &[f32],
    v_pool: &[f32],
    shape: PoolShape,
    tables: PageTables<'_>,
    scale: f32,
    o: &mut [f32],
) {
    shape.check(k_pool.len(), v_pool.len());
    let (n, d) = (tables.starts.len(), shape.head_dim);
    tables.check(n, shape.pages);
    assert_eq!(o.len(), q.len(), "paged_attention: o has {} elements, q {}", o.len(), q.len());
    if q.is_empty() {
        return;
    }
    let heads = q.len() / (n * d).max(1);
    assert!(
        q.len() == n * heads * d && heads.is_multiple_of(shape.kv_heads),
        "paged_attention: q has {} elements for {n} tokens over {shape:?}",
        q.len()
    );
    let group = heads / shape.kv_heads;
    let keys: usize = tables.lengths.iter().map(|&l| l as usize).sum();
    let runs = tables.runs();
    let o = Shared::new(o);
    let tasks = runs.len() * shape.kv_heads;
    let run = |task: usize| {
        let (tokens, kv) = (runs[task / shape.kv_heads].clone(), task % shape.kv_heads);
        let lengths = &tables.lengths[tokens.clone()];
        let longest = (0..lengths.len()).max_by_key(|i| lengths[*i]).unwrap_or(0);
        let past = Past { k_pool, v_pool, pages: tables.of(tokens.start + longest), shape, kv };
        let at = |token: usize| (token * heads + kv * group) * d;
        let queries = tokens.clone().map(|token| &q[at(token)..at(token) + group * d]);
        let mut outputs = vec![0.0; lengths.len() * group * d];
        past.attend(queries, lengths, scale, &mut outputs);
        for (token, output) in tokens.zip(outputs.chunks_exact(group * d)) {
            // SAFETY: each task has its own tokens and heads.
            unsafe { o.slice(at(token), group * d) }.copy_from_slice(output);
        }
    };
    // Below this the hand-over to another thread takes longer than the work.
    if keys * heads * d < 32 * 1024 {
        (0..tasks).for_each(run);
    } else {
        for_each(tasks, run);
    }
}

/// The keys and values that tokens of one sequence attend to with one key head.
#[derive(Clone, Copy)]
struct Past<'a> {
    k_pool: &'a [f32],
    v_pool: &'a [f32],
    pages: &'a [u32],
    shape: PoolShape,
    kv: usize,
}

impl<'a> Past<'a> {
    /// Where a page's part of this head starts.
    fn block(&self, pool: &'a [f32], page: u32) -> &'a [f32] {
        let size = self.shape.head_dim * PAGE;
        &pool[page as usize * self.shape.page() + self.kv * size..][..size]
    }

    /// Fetches the page after the one at `index`, where each is read once: several blocks of rows have it in the cache.
    fn fetch_after(&self, index: usize, pool: &[f32], blocks: usize) {
        if let (1, Some(&next)) = (blocks, self.pages.get(index + 1)) {
            page::fetch(self.block(pool, next));
        }
    }

    /// Attention of some tokens, `[heads of a token, head_dim]` each, of which the first `lengths` keys are the past.
    fn attend<'q>(
        &self,
        queries: impl Iterator<Item = &'q [f32]>,
        lengths: &[u32],
        scale: f32,
        o: &mut [f32],
    ) {
        if o.len() <= 4 * self.shape.head_dim {
            self.attend_by::<4>(queries, lengths, scale, o);
        } else {
            self.attend_by::<8>(queries, lengths, scale, o);
        }
    }

    /// [`Past::attend`], `R` rows (heads of tokens) abreast.
    fn attend_by<'q, const R: usize>(
        &self,
        queries: impl Iterator<Item = &'q [f32]>,
        lengths: &[u32],
        scale: f32,
        o: &mut [f32],
    ) {
        let (isa, d) = (Isa::current(), self.shape.head_dim);
        let (rows, stride) = (o.len() / d, self.pages.len() * PAGE);
        let group = rows / lengths.len();
        let len = |row: usize| lengths[row / group] as usize;
        let blocks = rows.div_ceil(R);
        // `R` rows abreast; those of the last block that do not exist are zeros, and nobody reads what they give.
        let mut q = vec![[0.0_f32; R]; blocks * d];
        for (row, values) in queries.flat_map(|token| token.chunks_exact(d)).enumerate() {
            for (abreast, &value) in q[row / R * d..][..d].iter_mut().zip(values) {
                abreast[row % R] = value;
            }
        }
        let mut scores = vec![0.0; blocks * R * stride];
        for (block, q) in q.chunks_exact(d).enumerate() {
            let seen = (block * R..rows.min((block + 1) * R)).map(len).max().unwrap_or(0);
            for (index, &page) in self.pages[..seen.div_ceil(PAGE)].iter().enumerate() {
                self.fetch_after(index, self.k_pool, blocks);
                let scores = &mut scores[block * R * stride + index * PAGE..];
                score_page::<R>(isa, q, self.block(self.k_pool, page), scores, stride);
            }
        }
        let mut sums = vec![0.0; rows];
        for (row, (scores, sum)) in scores.chunks_exact_mut(stride).zip(&mut sums).enumerate() {
            *sum = softmax_row(&mut scores[..len(row)], scale).1;
        }
        let mut outputs = vec![0.0; blocks * R * d];
        for (block, outputs) in outputs.chunks_exact_mut(R * d).enumerate() {
            let rows = R.min(rows - block * R);
            let lens = |row: usize| len(block * R + row);
            let shortest = (0..rows).map(lens).min().unwrap_or(0);
            for (index, &page) in self.pages.iter().enumerate() {
                let scores = &scores[block * R * stride + index * PAGE..];
                let values = self.block(self.v_pool, page);
                self.fetch_after(index, self.v_pool, blocks);
                // The keys that all rows see, then those that some see.
                let common = shortest.saturating_sub(index * PAGE).min(PAGE);
                let mut from = 0;
                if common > 0 && rows > 1 {
                    add_page::<R>(isa, scores, stride, 0..common, values, outputs);
                    from = common;
                }
                for (row, o) in outputs.chunks_exact_mut(d).take(rows).enumerate() {
                    let to = lens(row).saturating_sub(index * PAGE).min(PAGE);
                    if from < to {
                        add_page::<1>(isa, &scores[row * stride..], stride, from..to, values, o);
                    }
                }
            }
        }
        for ((o, output), sum) in o.chunks_exact_mut(d).zip(outputs.chunks_exact(d)).zip(sums) {
            let inverse = 1.0 / sum;
            for (o, output) in o.iter_mut().zip(output) {
                *o = output * inverse;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::attention::tests::shapes;
    use crate::cpu::attention::{AttentionShape, attention};
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, noise};

    /// Scattered pages for each sequence; returns tables, starts of the sequences' tables and the pool's size.
    fn layout(s: AttentionShape) -> (Vec<u32>, usize) {
        let per = s.time.div_ceil(PAGE);
        let total = s.batch * per + 3;
        // A permutation of the pages: 7 is coprime to every total that is not its multiple.
        let total = if total.is_multiple_of(7) { total + 1 } else { total };
        ((0..s.batch * per).map(|i| ((i * 7 + 2) % total) as u32).collect(), total)
    }

    #[test]
    fn equals_whole_sequence_attention_bit_for_bit() {
        for s in shapes() {
            let (q, k, v) = (noise(s.q_len(), 1), noise(s.kv_len(), 2), noise(s.kv_len(), 3));
            let (mut whole, mut log_sum) = (vec![0.0; s.q_len()], vec![0.0; s.rows()]);
            attention(&q, &k, &v, s, 0.3, &mut whole, &mut log_sum);
            let (pages, total) = layout(s);
            let shape = PoolShape { pages: total, kv_heads: s.kv_heads, head_dim: s.head_dim };
            // What lies in slots nobody wrote must not matter.
            let mut k_pool = vec![f32::NAN; total * shape.page()];
            let mut v_pool = k_pool.clone();
            let per = s.time.div_ceil(PAGE);
            let tokens: Vec<(usize, usize)> =
                (0..s.batch).flat_map(|b| (0..s.time).map(move |i| (b, i))).collect();
            let slots: Vec<u32> = tokens
                .iter()
                .map(|&(b, i)| pages[b * per + i / PAGE] * PAGE as u32 + (i % PAGE) as u32)
                .collect();
            write_kv(&mut k_pool, &mut v_pool, shape, &k, &v, &slots);
            let starts: Vec<u32> = tokens.iter().map(|&(b, _)| (b * per) as u32).collect();
            let lengths: Vec<u32> = tokens.iter().map(|&(_, i)| i as u32 + 1).collect();
            let tables = PageTables { pages: &pages, starts: &starts, lengths: &lengths };
            let got = forced::same_bits(|| {
                let mut o = vec![f32::NAN; s.q_len()];
                paged_attention(&q, &k_pool, &v_pool, shape, tables, 0.3, &mut o);
                o
            });
            assert_bits(&format!("{s:?}"), &got, &whole);
            // One token alone.
            if let Some(last) = tokens.len().checked_sub(1) {
                let row = s.heads * s.head_dim;
                let tables = PageTables { pages: &pages, starts: &starts[last..], lengths: &lengths[last..] };
                let mut o = vec![f32::NAN; row];
                paged_attention(&q[last * row..], &k_pool, &v_pool, shape, tables, 0.3, &mut o);
                assert_bits("last token alone", &o, &whole[last * row..]);
            }
        }
    }

    #[test]
    #[should_panic(expected = "page 4 of token 0 in a pool of 2")]
    fn a_page_beyond_the_pool_is_refused() {
        let shape = PoolShape { pages: 2, kv_heads: 1, head_dim: 1 };
        let tables = PageTables { pages: &[4], starts: &[0], lengths: &[1] };
        paged_attention(&[0.0], &[0.0; 32], &[0.0; 32], shape, tables, 1.0, &mut [0.0]);
    }

    #[test]
    #[should_panic(expected = "slot 32 in a pool of 2 pages")]
    fn a_slot_beyond_the_pool_is_refused() {
        let shape = PoolShape { pages: 2, kv_heads: 1, head_dim: 1 };
        write_kv(&mut [0.0; 32], &mut [0.0; 32], shape, &[0.0], &[0.0], &[32]);
    }
}
