//! Order and shape of batches: permutations without state, batches of similar length, right padding.

use std::ops::Range;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::render::Example;

/// A uniformly random permutation of `0..n`, a function of its arguments alone: another seed, purpose or counter gives
/// an independent one.
///
/// The generator is ChaCha8 keyed by BLAKE3 of (seed, purpose, counter); the shuffle is Fisher–Yates from the end, with
/// indices drawn without bias by rejection. The sequence is part of the format of a run: changing it changes resumed runs.
pub fn permutation(seed: u64, purpose: &str, counter: u64, n: usize) -> Vec<usize> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.update(&(purpose.len() as u64).to_le_bytes());
    hasher.update(purpose.as_bytes());
    hasher.update(&counter.to_le_bytes());
    let mut rng = ChaCha8Rng::from_seed(*hasher.finalize().as_bytes());
    let mut order: Vec<usize> = (0..n).collect();
    for last in (1..n).rev() {
        order.swap(last, below(&mut rng, last as u64 + 1) as usize);
    }
    order
}

/// A uniform draw from `0..bound`.
fn below(rng: &mut ChaCha8Rng, bound: u64) -> u64 {
    // Draws in the incomplete last stretch of length `bound` would favour small values.
    let limit = u64::MAX - (u64::MAX % bound + 1) % bound;
    loop {
        let draw = rng.next_u64();
        if draw <= limit {
            return draw % bound;
        }
    }
}

/// The order in which epoch `epoch` visits `n` rows.
pub fn epoch_order(seed: u64, epoch: u64, n: usize) -> Vec<usize> {
    permutation(seed, "order", epoch, n)
}

/// Visits rows epoch after epoch, each epoch in its own order. The only state is how many rows were visited, so a run
/// resumes by that number.
///
/// ```
/// use data::batch::Sampler;
///
/// let mut sampler = Sampler::new(7, 5);
/// let first = sampler.take(3);
/// let next = sampler.take(3); // the rest of the first epoch, then the second
/// let mut epoch = [first, next[..2].to_vec()].concat();
/// epoch.sort();
/// assert_eq!(epoch, [0, 1, 2, 3, 4]);
/// assert_eq!(Sampler::resume(7, 5, 3).take(3), next);
/// ```
#[derive(Clone, Debug)]
pub struct Sampler {
    seed: u64,
    rows: usize,
    position: u64,
    /// The epoch whose order is at hand.
    order: Option<(u64, Vec<usize>)>,
}

impl Sampler {
    /// From the beginning, over `rows` rows.
    pub fn new(seed: u64, rows: usize) -> Self {
        Self::resume(seed, rows, 0)
    }

    /// As if `position` rows had been visited.
    pub fn resume(seed: u64, rows: usize, position: u64) -> Self {
        Self { seed, rows, position, order: None }
    }

    /// How many rows were visited since the beginning.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Epochs since the beginning, as a fraction.
    pub fn epoch(&self) -> f64 {
        if self.rows == 0 { 0.0 } else { self.position as f64 / self.rows as f64 }
    }

    /// The next `count` rows; none if there are no rows at all.
    pub fn take(&mut self, count: usize) -> Vec<usize> {
        if self.rows == 0 {
            return Vec::new();
        }
        let rows = self.rows as u64;
        let mut taken = Vec::with_capacity(count);
        for _ in 0..count {
            let epoch = self.position / rows;
            let order = match self.order.take() {
                Some((known, order)) if known == epoch => order,
                _ => epoch_order(self.seed, epoch, self.rows),
            };
            taken.push(order[(self.position % rows) as usize]);
            self.order = Some((epoch, order));
            self.position += 1;
        }
        taken
    }
}

/// Cuts an epoch's order into batches of `size` rows of similar length, to save padding: within each window of
/// `window` batches rows are sorted by length, and the batches of a window come in random order. The last batch of the
/// epoch may be smaller. With `window` 1 rows keep their order.
pub fn length_batches(
    seed: u64,
    epoch: u64,
    lengths: &[usize],
    size: usize,
    window: usize,
) -> Vec<Vec<usize>> {
    let (size, window) = (size.max(1), window.max(1));
    let order = epoch_order(seed, epoch, lengths.len());
    let mut batches = Vec::with_capacity(order.len().div_ceil(size));
    for (number, rows) in order.chunks(size * window).enumerate() {
        let mut rows = rows.to_vec();
        if window > 1 {
            rows.sort_by_key(|&row| lengths[row]);
        }
        let mut chunk: Vec<Vec<usize>> = rows.chunks(size).map(<[usize]>::to_vec).collect();
        // The small batch stays last, so that every step but the epoch's last has the same number of rows.
        let whole = rows.len() / size;
        let tail = chunk.split_off(whole);
        if window > 1 {
            let counter = epoch.wrapping_mul(1 << 32).wrapping_add(number as u64);
            for index in permutation(seed, "batches", counter, whole) {
                batches.push(std::mem::take(&mut chunk[index]));
            }
        } else {
            batches.extend(chunk);
        }
        batches.extend(tail);
    }
    batches
}

/// Groups rows for evaluation: sorted by length, longest first, as many to a batch as keep rows × longest within
/// `max_tokens`. A row longer than that is a batch of its own.
///
/// ```
/// assert_eq!(data::batch::budget_batches(&[2, 9, 3, 4], 10), [vec![1], vec![3, 2], vec![0]]);
/// ```
pub fn budget_batches(lengths: &[usize], max_tokens: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&row| std::cmp::Reverse(lengths[row]));
    let mut batches: Vec<Vec<usize>> = Vec::new();
    for row in order {
        match batches.last_mut() {
            Some(batch) if (batch.len() + 1) * lengths[batch[0]] <= max_tokens => batch.push(row),
            _ => batches.push(vec![row]),
        }
    }
    batches
}

/// Examples padded on the right to the longest of them, row after row.
///
/// # Shapes
/// `ids` and `loss` hold `rows × width` entries; row `r` is `r * width .. (r + 1) * width`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Padded {
    /// Token ids; the padding id beyond a row's length.
    pub ids: Vec<u32>,
    /// Whether a token is to be predicted; false beyond a row's length.
    pub loss: Vec<bool>,
    /// Number of tokens of each row.
    pub lengths: Vec<usize>,
    /// Number of columns.
    pub width: usize,
}

impl Padded {
    /// Pads `examples` with `pad`.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>, pad: u32) -> Self {
        let examples: Vec<&Example> = examples.into_iter().collect();
        let lengths: Vec<usize> = examples.iter().map(|example| example.len()).collect();
        let width = lengths.iter().copied().max().unwrap_or_default();
        let mut ids = Vec::with_capacity(width * examples.len());
        let mut loss = Vec::with_capacity(width * examples.len());
        for example in examples {
            ids.extend_from_slice(&example.ids);
            loss.extend_from_slice(&example.loss);
            let end = ids.len() + width - example.len();
            ids.resize(end, pad);
            loss.resize(end, false);
        }
        Self { ids, loss, lengths, width }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.lengths.len()
    }

    /// Where row `row` lies, without its padding.
    pub fn row(&self, row: usize) -> Range<usize> {
        row * self.width..row * self.width + self.lengths[row]
    }

    /// Whether each entry is a token and not padding.
    pub fn attention(&self) -> Vec<bool> {
        self.lengths.iter().flat_map(|&length| (0..self.width).map(move |column| column < length)).collect()
    }

    /// Number of tokens to be predicted: what a mean loss divides by.
    pub fn loss_tokens(&self) -> usize {
        self.loss.iter().filter(|&&loss| loss).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permutations_are_uniform_and_independent() {
        // Chi-square over the 24 permutations of 4, 23 degrees of freedom: 49.7 is the 0.999 quantile.
        let mut counts = std::collections::BTreeMap::new();
        let draws = 24_000;
        for counter in 0..draws {
            *counts.entry(permutation(1, "test", counter, 4)).or_insert(0_u32) += 1;
        }
        let expected = draws as f64 / 24.0;
        let chi: f64 = counts.values().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
        assert_eq!(counts.len(), 24);
        assert!(chi < 49.7, "chi-square {chi}");
        let base = permutation(1, "a", 0, 50);
        for other in [permutation(2, "a", 0, 50), permutation(1, "b", 0, 50), permutation(1, "a", 1, 50)] {
            assert_ne!(base, other);
        }
        // Part of the format: a change breaks resumed runs.
        assert_eq!(epoch_order(0, 0, 8), [2, 3, 1, 7, 0, 4, 6, 5]);
    }

    #[test]
    fn a_sampler_resumes_at_every_position() {
        let whole = Sampler::new(3, 7).take(40);
        for position in 0..40 {
            let mut resumed = Sampler::resume(3, 7, position as u64);
            assert_eq!(resumed.take(40 - position), whole[position..]);
            assert_eq!(resumed.position(), 40);
        }
        for epoch in whole.chunks(7).take(5) {
            let mut epoch = epoch.to_vec();
            epoch.sort_unstable();
            assert_eq!(epoch, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_eq!(Sampler::new(0, 0).take(3), Vec::<usize>::new());
    }

    #[test]
    fn length_batches_cover_each_row_once_and_pad_less() {
        let lengths: Vec<usize> = (0..103).map(|i| (i * 37) % 101 + 1).collect();
        let padding = |batches: &[Vec<usize>]| -> usize {
            batches
                .iter()
                .map(|batch| {
                    let longest = batch.iter().map(|&row| lengths[row]).max().unwrap_or_default();
                    batch.iter().map(|&row| longest - lengths[row]).sum::<usize>()
                })
                .sum()
        };
        let plain = length_batches(5, 1, &lengths, 8, 1);
        let sorted = length_batches(5, 1, &lengths, 8, 4);
        assert_eq!(plain.concat(), epoch_order(5, 1, 103));
        for batches in [&plain, &sorted] {
            let mut all = batches.concat();
            all.sort_unstable();
            assert_eq!(all, (0..103).collect::<Vec<_>>());
            assert!(batches[..batches.len() - 1].iter().all(|batch| batch.len() == 8));
        }
        assert!(padding(&sorted) * 2 < padding(&plain), "{} {}", padding(&sorted), padding(&plain));
        assert_ne!(sorted, length_batches(5, 2, &lengths, 8, 4));
    }

    #[test]
    fn padding_is_on_the_right_and_masked() {
        let example = |ids: &[u32], from: usize| Example {
            ids: ids.to_vec(),
            loss: (0..ids.len()).map(|i| i >= from).collect(),
        };
        let examples = [example(&[5, 6, 7], 1), example(&[], 0), example(&[8], 0)];
        let padded = Padded::new(&examples, 0);
        assert_eq!((padded.rows(), padded.width), (3, 3));
        assert_eq!(padded.ids, [5, 6, 7, 0, 0, 0, 8, 0, 0]);
        assert_eq!(padded.loss_tokens(), 3);
        assert_eq!(&padded.ids[padded.row(2)], [8]);
        let attention: Vec<u8> = padded.attention().into_iter().map(u8::from).collect();
        assert_eq!(attention, [1, 1, 1, 0, 0, 0, 1, 0, 0]);
        assert_eq!(Padded::new(&[], 0).width, 0);
    }
}
