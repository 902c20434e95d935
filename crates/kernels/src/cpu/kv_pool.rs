//! The memory of a key-value cache in pages.

use half::bf16;

use super::precision::Precision;
use super::stored::Stored;

/// Positions of a page: one vector of scores.
pub const PAGE: usize = 16;
/// Pages that memory is asked for at a time.
const CHUNK: usize = 64;

/// Keys and values of many sequences in pages of [`PAGE`] positions. It grows by chunks, and nothing in it ever moves.
///
/// A page has, for each head, its keys `[head_dim, 16]`, transposed so that sixteen scores are one vector, and its values
/// `[16, head_dim]`.
#[derive(Clone, Debug)]
pub struct KvPool {
    kv_heads: usize,
    head_dim: usize,
    numbers: Numbers,
}

#[derive(Clone, Debug)]
pub(super) enum Numbers {
    F32(Vec<Chunk<f32>>),
    Bf16(Vec<Chunk<bf16>>),
}

/// The memory of some pages.
#[derive(Clone, Debug)]
pub(super) struct Chunk<E> {
    keys: Vec<E>,
    values: Vec<E>,
}

/// Runs an expression on the chunks, whatever they hold.
macro_rules! on_chunks {
    ($numbers:expr, $chunks:ident => $run:expr) => {
        match $numbers {
            $crate::cpu::kv_pool::Numbers::F32($chunks) => $run,
            $crate::cpu::kv_pool::Numbers::Bf16($chunks) => $run,
        }
    };
}
pub(super) use on_chunks;

impl KvPool {
    /// A pool without pages. Keys and values are held in 32 bits for [`Precision::F32`], in bf16 for fewer bits.
    pub fn new(kv_heads: usize, head_dim: usize, precision: Precision) -> Self {
        let numbers = match precision {
            Precision::F32 => Numbers::F32(Vec::new()),
            Precision::Bf16 | Precision::Int8 => Numbers::Bf16(Vec::new()),
        };
        Self { kv_heads, head_dim, numbers }
    }

    /// Key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Pages that there are.
    pub fn pages(&self) -> usize {
        CHUNK * on_chunks!(&self.numbers, chunks => chunks.len())
    }

    /// Makes room for at least `pages` pages, of zeros where they are new.
    pub fn grow(&mut self, pages: usize) {
        let (count, size) = (pages.div_ceil(CHUNK), CHUNK * self.page());
        on_chunks!(&mut self.numbers, chunks => add_chunks(chunks, count, size));
    }

    /// Elements of a page's keys, and of its values.
    fn page(&self) -> usize {
        self.kv_heads * self.head_dim * PAGE
    }

    pub(super) fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// Writes keys and values of tokens to their slots (`page · 16 + offset`).
    ///
    /// # Shapes
    /// - `k`, `v`: `[n, kv_heads, head_dim]`; `slots`: `[n]`
    ///
    /// # Panics
    /// When a slice does not have the length its shape says or a slot is beyond the pool.
    pub fn write(&mut self, k: &[f32], v: &[f32], slots: &[u32]) {
        let (row, pages, d, page) = (self.kv_heads * self.head_dim, self.pages(), self.head_dim, self.page());
        assert!(
            k.len() == slots.len() * row && v.len() == k.len(),
            "KvPool::write: {} and {} elements for {} tokens of {row}",
            k.len(),
            v.len(),
            slots.len()
        );
        let tokens = k.chunks_exact(row.max(1)).zip(v.chunks_exact(row.max(1)));
        for (&slot, (key, value)) in slots.iter().zip(tokens) {
            let place = (slot as usize / PAGE, slot as usize % PAGE);
            assert!(place.0 < pages, "KvPool::write: slot {slot} in a pool of {pages} pages of {PAGE}");
            on_chunks!(&mut self.numbers, chunks => write(chunks, place, (page, d), key, value));
        }
    }

    /// Copies whole pages, page `from[i]` to page `to[i]`, one after the other.
    ///
    /// # Panics
    /// When a page is beyond the pool.
    pub fn copy(&mut self, from: &[u32], to: &[u32]) {
        let (pages, page) = (self.pages(), self.page());
        for (&from, &to) in from.iter().zip(to) {
            let (from, to) = (from as usize, to as usize);
            assert!(from.max(to) < pages, "KvPool::copy: page {from} to {to} in a pool of {pages}");
            on_chunks!(&mut self.numbers, chunks => copy(chunks, from, to, page));
        }
    }

    /// The keys and the values of a slot, `[kv_heads, head_dim]` each.
    #[cfg(test)]
    pub(crate) fn read(&self, slot: usize) -> [Vec<f32>; 2] {
        let (d, page) = (self.head_dim, self.page());
        let elements = |at: &dyn Fn(usize, usize) -> f32| {
            (0..self.kv_heads)
                .flat_map(|head| (0..d).map(move |i| (head, i)))
                .map(|(h, i)| at(h, i))
                .collect()
        };
        on_chunks!(&self.numbers, chunks => {
            let (chunk, start) = (&chunks[slot / PAGE / CHUNK], slot / PAGE % CHUNK * page);
            let offset = slot % PAGE;
            [
                elements(&|head, i| chunk.keys[start + (head * d + i) * PAGE + offset].load()),
                elements(&|head, i| chunk.values[start + head * d * PAGE + offset * d + i].load()),
            ]
        })
    }

    /// Puts a value everywhere.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, value: f32) {
        fn fill<E: Stored>(chunks: &mut [Chunk<E>], value: f32) {
            for chunk in chunks {
                chunk.keys.fill(E::store(value));
                chunk.values.fill(E::store(value));
            }
        }
        on_chunks!(&mut self.numbers, chunks => fill(chunks, value));
    }
}

fn add_chunks<E: Stored>(chunks: &mut Vec<Chunk<E>>, count: usize, size: usize) {
    while chunks.len() < count {
        chunks.push(Chunk { keys: vec![E::ZERO; size], values: vec![E::ZERO; size] });
    }
}

/// Writes a token to `(page, offset)` of pages of `(elements, elements of a head)`.
fn write<E: Stored>(
    chunks: &mut [Chunk<E>],
    (page, offset): (usize, usize),
    (size, d): (usize, usize),
    key: &[f32],
    value: &[f32],
) {
    let chunk = &mut chunks[page / CHUNK];
    let start = page % CHUNK * size;
    let keys = &mut chunk.keys[start..start + size];
    for (lanes, &value) in keys.chunks_exact_mut(PAGE).zip(key) {
        lanes[offset] = E::store(value);
    }
    let values = chunk.values[start..start + size].chunks_exact_mut(d * PAGE);
    for (head, value) in values.zip(value.chunks_exact(d)) {
        for (kept, &value) in head[offset * d..][..d].iter_mut().zip(value) {
            *kept = E::store(value);
        }
    }
}

fn copy<E: Stored>(chunks: &mut [Chunk<E>], from: usize, to: usize, size: usize) {
    let (source, target) = (from % CHUNK * size, to % CHUNK * size);
    let part = |numbers: &[E]| numbers[source..source + size].to_vec();
    let chunk = &chunks[from / CHUNK];
    let (keys, values) = (part(&chunk.keys), part(&chunk.values));
    let chunk = &mut chunks[to / CHUNK];
    chunk.keys[target..target + size].copy_from_slice(&keys);
    chunk.values[target..target + size].copy_from_slice(&values);
}

/// The parts of one head of the pages of a pool.
#[derive(Debug)]
pub(super) struct HeadPages<'a, E> {
    chunks: &'a [Chunk<E>],
    /// Elements of a page, of a head in it, and where this head begins.
    page: usize,
    size: usize,
    first: usize,
}

impl<'a, E> HeadPages<'a, E> {
    /// Head `head` of the pool that the chunks belong to.
    pub(super) fn new(pool: &KvPool, chunks: &'a [Chunk<E>], head: usize) -> Self {
        let size = pool.head_dim * PAGE;
        Self { chunks, page: pool.page(), size, first: head * size }
    }

    /// Keys of a page, `[head_dim, 16]`.
    pub(super) fn keys(&self, page: u32) -> &'a [E] {
        &self.chunks[page as usize / CHUNK].keys[self.start(page)..][..self.size]
    }

    /// Values of a page, `[16, head_dim]`.
    pub(super) fn values(&self, page: u32) -> &'a [E] {
        &self.chunks[page as usize / CHUNK].values[self.start(page)..][..self.size]
    }

    fn start(&self, page: u32) -> usize {
        page as usize % CHUNK * self.page + self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::noise;

    #[test]
    fn what_is_written_is_read_and_copied_rounded_to_the_precision() {
        let (heads, d) = (2, 5);
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let mut pool = KvPool::new(heads, d, precision);
            let slots = [3, 16, (CHUNK * PAGE + 7) as u32];
            let (k, v) = (noise(3 * heads * d, 1), noise(3 * heads * d, 2));
            let kept = |x: &[f32]| -> Vec<f32> {
                let bf = precision != Precision::F32;
                x.iter().map(|x| if bf { bf16::from_f32(*x).to_f32() } else { *x }).collect()
            };
            pool.grow(1);
            pool.write(&k[..heads * d], &v[..heads * d], &slots[..1]);
            pool.grow(CHUNK + 1);
            assert_eq!(pool.pages(), 2 * CHUNK);
            pool.write(&k[heads * d..], &v[heads * d..], &slots[1..]);
            for (token, slot) in slots.iter().enumerate() {
                let part = token * heads * d..(token + 1) * heads * d;
                assert_eq!(pool.read(*slot as usize), [kept(&k[part.clone()]), kept(&v[part])]);
            }
            let page = CHUNK as u32;
            pool.copy(&[page, page], &[2, 1]);
            assert_eq!(pool.read(2 * PAGE + 7), pool.read(CHUNK * PAGE + 7));
            assert_eq!(pool.read(PAGE + 7), pool.read(CHUNK * PAGE + 7));
        }
    }

    #[test]
    #[should_panic(expected = "slot 1024 in a pool of 64 pages")]
    fn a_slot_beyond_the_pool_is_refused() {
        let mut pool = KvPool::new(1, 1, Precision::F32);
        pool.grow(2);
        pool.write(&[0.0], &[0.0], &[1024]);
    }
}
