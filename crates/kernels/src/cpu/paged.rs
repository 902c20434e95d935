//! Attention of tokens over a key-value cache in pages.
#![allow(unsafe_code, reason = "threads write disjoint heads of one output")]

use std::ops::Range;

use super::attention::{AttentionRule, softmax_row};
use super::isa::Isa;
use super::kv_pool::{HeadPages, KvPool, PAGE, on_chunks};
use super::page::{add_page, score_page};
use super::parallel::{Shared, for_each};
use super::stored::Stored;
use super::tables::{Bundle, PageTables};

/// Attention of each token over the keys its table names, in their logical order.
///
/// Bit for bit what [`attention`](super::attention) computes at that position of the same sequence, of keys and values as the pool
/// holds them. Sequences that share pages are taken over them together: a page is read once for all of their rows.
///
/// # Shapes
/// - `q`, `o`: `[n, heads, head_dim]`
///
/// # Panics
/// When a slice does not have the length its shape says or a table names a page that is not there.
pub fn paged_attention(q: &[f32], pool: &KvPool, tables: PageTables<'_>, rule: AttentionRule, o: &mut [f32]) {
    let (n, d, kv_heads) = (tables.starts.len(), pool.head_dim(), pool.kv_heads());
    tables.check(n, pool.pages());
    assert_eq!(o.len(), q.len(), "paged_attention: o has {} elements, q {}", o.len(), q.len());
    if q.is_empty() {
        return;
    }
    let heads = q.len() / (n * d).max(1);
    assert!(
        q.len() == n * heads * d && heads.is_multiple_of(kv_heads),
        "paged_attention: q has {} elements for {n} tokens of {d} elements a head, {kv_heads} key heads",
        q.len()
    );
    let queries = Queries { q, heads, group: heads / kv_heads, d };
    let o = Shared::new(o);
    on_chunks!(pool.numbers(), chunks => {
        let head = |kv| HeadPages::new(pool, chunks, kv);
        attend(&queries, kv_heads, &head, tables, rule, o);
    });
}

/// Queries of all tokens.
struct Queries<'a> {
    q: &'a [f32],
    heads: usize,
    /// Query heads of a key head.
    group: usize,
    d: usize,
}

fn attend<'p, E: Stored>(
    queries: &Queries<'_>,
    kv_heads: usize,
    head: &(impl Fn(usize) -> HeadPages<'p, E> + Sync),
    tables: PageTables<'_>,
    rule: AttentionRule,
    o: Shared<'_>,
) {
    let bundles = tables.bundles(kv_heads);
    let tasks = bundles.len() * kv_heads;
    let run = |task: usize| {
        let (bundle, kv) = (&bundles[task / kv_heads], task % kv_heads);
        let pages = head(kv);
        let rows = Rows { isa: Isa::current(), queries, kv, tables, bundle, rule, pages: &pages };
        rows.attend(o);
    };
    let keys: usize = tables.lengths.iter().map(|&l| l as usize).sum();
    // Below this the hand-over to another thread takes longer than the work.
    if keys * queries.heads * queries.d < 32 * 1024 {
        (0..tasks).for_each(run);
    } else {
        for_each(tasks, run);
    }
}

/// The rows of a bundle with one key head: each query head of each token.
struct Rows<'a, E> {
    isa: Isa,
    queries: &'a Queries<'a>,
    kv: usize,
    tables: PageTables<'a>,
    bundle: &'a Bundle,
    rule: AttentionRule,
    pages: &'a HeadPages<'a, E>,
}

/// Some rows and the pages that they see, of which the first is page `first` of their sequences.
struct Stage<'a> {
    rows: Range<usize>,
    pages: &'a [u32],
    first: usize,
}

impl Stage<'_> {
    /// The page at `index`, and the one to fetch meanwhile: the one behind it, or itself where there is none, or where several
    /// blocks of rows go over the pages and have them in the cache.
    fn with_next<'p, const R: usize, E: 'p>(
        &self,
        index: usize,
        of: impl Fn(u32) -> &'p [E],
    ) -> [&'p [E]; 2] {
        let next = if self.rows.len() <= R { (index + 1).min(self.pages.len() - 1) } else { index };
        [of(self.pages[index]), of(self.pages[next])]
    }
}

impl<E: Stored> Rows<'_, E> {
    /// First element of a row in queries and outputs.
    fn at(&self, row: usize) -> usize {
        let (token, head) = (self.bundle.tokens.start + row / self.queries.group, row % self.queries.group);
        (token * self.queries.heads + self.kv * self.queries.group + head) * self.queries.d
    }

    /// The keys that a row sees.
    fn keys(&self, row: usize) -> Range<usize> {
        let to = self.tables.lengths[self.bundle.tokens.start + row / self.queries.group] as usize;
        self.rule.first(to)..to
    }

    /// The shared pages for all rows, then those of each sequence for its own.
    fn stages(&self) -> impl Iterator<Item = Stage<'_>> {
        let (bundle, group) = (self.bundle, self.queries.group);
        let shared = bundle.shared;
        let of = move |tokens: Range<usize>| {
            let start = bundle.tokens.start;
            let rows = (tokens.start - start) * group..(tokens.end - start) * group;
            (rows, self.tables.longest(tokens))
        };
        let (rows, pages) = of(bundle.tokens.clone());
        let together = (shared > 0).then(|| Stage { rows, pages: &pages[..shared], first: 0 });
        let own = bundle.sequences().map(of);
        together.into_iter().chain(own.map(move |(rows, pages)| Stage {
            rows,
            pages: &pages[shared..],
            first: shared,
        }))
    }

    fn attend(&self, o: Shared<'_>) {
        let d = self.queries.d;
        let rows = self.bundle.tokens.len() * self.queries.group;
        let stride = self.tables.longest(self.bundle.tokens.clone()).len() * PAGE;
        // Rows are taken eight abreast; those of a last block that do not exist lie behind the others, and nobody reads them.
        let mut scores = vec![0.0; (rows + 8) * stride];
        for stage in self.stages() {
            if stage.rows.len() <= 4 {
                self.score::<4>(&stage, &mut scores, stride);
            } else {
                self.score::<8>(&stage, &mut scores, stride);
            }
        }
        let mut sums = vec![0.0; rows];
        for (row, (scores, sum)) in scores.chunks_exact_mut(stride).zip(&mut sums).enumerate() {
            *sum = softmax_row(&mut scores[self.keys(row)], self.rule).1;
        }
        let mut outputs = vec![0.0; rows * d];
        for stage in self.stages() {
            if stage.rows.len() <= 4 {
                self.add::<4>(&stage, &scores, stride, &mut outputs);
            } else {
                self.add::<8>(&stage, &scores, stride, &mut outputs);
            }
        }
        for (row, (output, sum)) in outputs.chunks_exact(d).zip(sums).enumerate() {
            let inverse = 1.0 / sum;
            // SAFETY: each task has its own tokens and heads.
            let o = unsafe { o.slice(self.at(row), d) };
            for (o, output) in o.iter_mut().zip(output) {
                *o = output * inverse;
            }
        }
    }

    /// The places of a stage's pages that hold keys of a block of rows.
    fn seen(&self, stage: &Stage<'_>, block: &Range<usize>) -> Range<usize> {
        let keys = || block.clone().map(|row| self.keys(row));
        let from = keys().map(|keys| keys.start).min().unwrap_or(0) / PAGE;
        let to = keys().map(|keys| keys.end).max().unwrap_or(0).div_ceil(PAGE);
        let place = |page: usize| page.saturating_sub(stage.first).min(stage.pages.len());
        place(from)..place(to)
    }

    /// Scores of a stage, into rows `stride` apart.
    fn score<const R: usize>(&self, stage: &Stage<'_>, scores: &mut [f32], stride: usize) {
        let mut abreast = vec![[0.0_f32; R]; self.queries.d];
        for first in stage.rows.clone().step_by(R) {
            let block = first..stage.rows.end.min(first + R);
            for (lane, row) in block.clone().enumerate() {
                let q = &self.queries.q[self.at(row)..][..self.queries.d];
                abreast.iter_mut().zip(q).for_each(|(abreast, &q)| abreast[lane] = q);
            }
            for index in self.seen(stage, &block) {
                let keys = stage.with_next::<R, E>(index, |page| self.pages.keys(page));
                let scores = &mut scores[first * stride + (stage.first + index) * PAGE..];
                score_page::<E, R>(self.isa, &abreast, keys, scores, stride);
            }
        }
    }

    /// Adds the values of a stage to the outputs of its rows.
    fn add<const R: usize>(&self, stage: &Stage<'_>, scores: &[f32], stride: usize, outputs: &mut [f32]) {
        let d = self.queries.d;
        let mut partial = vec![0.0; R * d];
        for first in stage.rows.clone().step_by(R) {
            let block = first..stage.rows.end.min(first + R);
            let own = &mut outputs[first * d..block.end * d];
            if block.len() == R {
                self.add_block::<R>(stage, &block, scores, stride, own);
            } else {
                partial[..own.len()].copy_from_slice(own);
                self.add_block::<R>(stage, &block, scores, stride, &mut partial);
                own.copy_from_slice(&partial[..own.len()]);
            }
        }
    }

    /// [`Rows::add`] to a block of rows, whose outputs `[R, head_dim]` may have more.
    fn add_block<const R: usize>(
        &self,
        stage: &Stage<'_>,
        block: &Range<usize>,
        scores: &[f32],
        stride: usize,
        o: &mut [f32],
    ) {
        let d = self.queries.d;
        let all = block.clone().map(|row| self.keys(row));
        let all = all.reduce(|a, b| a.start.max(b.start)..a.end.min(b.end)).unwrap_or(0..0);
        for index in self.seen(stage, block) {
            let begin = (stage.first + index) * PAGE;
            let within = |key: usize| key.saturating_sub(begin).min(PAGE);
            let values = stage.with_next::<R, E>(index, |page| self.pages.values(page));
            let scores = &scores[block.start * stride + begin..];
            // Each row's keys in their order: those before the ones that all rows see, these, and those behind them.
            let common = within(all.start)..within(all.end);
            let alone = |keys: &dyn Fn(Range<usize>) -> Range<usize>, o: &mut [f32]| {
                for (lane, row) in block.clone().enumerate() {
                    let all = self.keys(row);
                    let keys = keys(within(all.start)..within(all.end));
                    if !keys.is_empty() {
                        let (scores, o) = (&scores[lane * stride..], &mut o[lane * d..][..d]);
                        add_page::<E, 1>(self.isa, scores, stride, keys, values, o);
                    }
                }
            };
            if common.len() == PAGE && block.len() > 1 {
                // Nobody has keys alone, which asking every row for its own would find out more slowly.
                add_page::<E, R>(self.isa, scores, stride, common, values, o);
            } else if block.len() == 1 || common.is_empty() {
                alone(&|keys| keys, o);
            } else {
                alone(&|keys| keys.start..common.start, o);
                add_page::<E, R>(self.isa, scores, stride, common.clone(), values, o);
                alone(&|keys| common.end..keys.end, o);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;
    use crate::cpu::Precision;
    use crate::cpu::attention::tests::{rules, shapes};
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

    fn pool(s: AttentionShape, pages: usize, precision: Precision) -> KvPool {
        let mut pool = KvPool::new(s.kv_heads, s.head_dim, precision);
        pool.grow(pages);
        // What lies in slots nobody wrote must not matter.
        pool.fill(f32::NAN);
        pool
    }

    fn equals_whole_sequence_attention(s: AttentionShape, rule: AttentionRule, precision: Precision) {
        let round = |x: Vec<f32>| -> Vec<f32> {
            let bf = precision != Precision::F32;
            x.into_iter().map(|x| if bf { bf16::from_f32(x).to_f32() } else { x }).collect()
        };
        let (q, k, v) = (noise(s.q_len(), 1), round(noise(s.kv_len(), 2)), round(noise(s.kv_len(), 3)));
        let (mut whole, mut log_sum) = (vec![0.0; s.q_len()], vec![0.0; s.rows()]);
        attention(&q, &k, &v, s, rule, &mut whole, &mut log_sum);
        let (pages, total) = layout(s);
        let mut pool = pool(s, total, precision);
        let per = s.time.div_ceil(PAGE);
        let tokens: Vec<(usize, usize)> =
            (0..s.batch).flat_map(|b| (0..s.time).map(move |i| (b, i))).collect();
        let slots: Vec<u32> = tokens
            .iter()
            .map(|&(b, i)| pages[b * per + i / PAGE] * PAGE as u32 + (i % PAGE) as u32)
            .collect();
        pool.write(&k, &v, &slots);
        let starts: Vec<u32> = tokens.iter().map(|&(b, _)| (b * per) as u32).collect();
        let lengths: Vec<u32> = tokens.iter().map(|&(_, i)| i as u32 + 1).collect();
        let tables = PageTables { pages: &pages, starts: &starts, lengths: &lengths };
        let got = forced::same_bits(|| {
            let mut o = vec![f32::NAN; s.q_len()];
            paged_attention(&q, &pool, tables, rule, &mut o);
            o
        });
        assert_bits(&format!("{s:?} {rule:?} {precision:?}"), &got, &whole);
        // One token alone.
        if let Some(last) = tokens.len().checked_sub(1) {
            let row = s.heads * s.head_dim;
            let tables = PageTables { pages: &pages, starts: &starts[last..], lengths: &lengths[last..] };
            let mut o = vec![f32::NAN; row];
            paged_attention(&q[last * row..], &pool, tables, rule, &mut o);
            assert_bits("last token alone", &o, &whole[last * row..]);
        }
    }

    #[test]
    fn equals_whole_sequence_attention_bit_for_bit() {
        for (s, rule) in shapes().into_iter().flat_map(|s| rules().map(|rule| (s, rule))) {
            for precision in [Precision::F32, Precision::Bf16] {
                equals_whole_sequence_attention(s, rule, precision);
            }
        }
    }

    /// Rows of several lengths behind one beginning, together and each alone.
    #[test]
    fn rows_that_share_pages_get_what_they_get_alone_bit_for_bit() {
        for (heads, kv_heads, head_dim, rows) in
            [(3, 3, 16, 9), (9, 3, 64, 21), (4, 1, 5, 30), (8, 2, 32, 13)]
        {
            let s = AttentionShape { batch: 1, time: 40 * PAGE, heads, kv_heads, head_dim };
            let mut pool = pool(s, 40, Precision::F32);
            let slots: Vec<u32> = (0..s.time as u32).collect();
            pool.write(&noise(s.kv_len(), 2), &noise(s.kv_len(), 3), &slots);
            let (mut pages, mut starts, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
            for row in 0..rows as u32 {
                starts.push(pages.len() as u32);
                // Between two and five pages of the beginning, then their own.
                let shared = if row < 3 { 2 } else { 5 };
                pages.extend((0..shared).chain([6 + row, 7 + row]));
                lengths.push((shared * PAGE as u32) + 1 + row % 32);
            }
            let row = heads * head_dim;
            let q = noise(rows * row, 4);
            let tables = PageTables { pages: &pages, starts: &starts, lengths: &lengths };
            assert!(tables.bundles(kv_heads).iter().any(|bundle| bundle.shared > 0), "some go together");
            for rule in rules() {
                let all = forced::same_bits(|| {
                    let mut o = vec![f32::NAN; q.len()];
                    paged_attention(&q, &pool, tables, rule, &mut o);
                    o
                });
                for at in 0..rows {
                    let tables =
                        PageTables { starts: &starts[at..=at], lengths: &lengths[at..=at], ..tables };
                    let mut o = vec![f32::NAN; row];
                    paged_attention(&q[at * row..(at + 1) * row], &pool, tables, rule, &mut o);
                    assert_bits(&format!("row {at} of {rows}"), &all[at * row..(at + 1) * row], &o);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "page 64 of token 0 in a pool of 64")]
    fn a_page_beyond_the_pool_is_refused() {
        let mut pool = KvPool::new(1, 1, Precision::F32);
        pool.grow(2);
        let tables = PageTables { pages: &[64], starts: &[0], lengths: &[1] };
        paged_attention(&[0.0], &pool, tables, AttentionRule::scaled(1.0), &mut [0.0]);
    }
}
