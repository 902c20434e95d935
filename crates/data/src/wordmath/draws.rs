//! Counter-based random draws: a stream per (seed, purpose, split, index), no state between problems.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::config::Split;

/// What a stream is for. Questions, styles and distractors draw from streams of their own, so that changing one never
/// moves another.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    Story,
    Style,
    Distractor,
}

/// A stream of random choices. The reductions to ranges are written here and not taken from `rand`, whose sampling
/// algorithms may change between releases and would change every problem with them.
#[derive(Debug)]
pub(super) struct Draws(ChaCha8Rng);

impl Draws {
    pub(super) fn new(seed: u64, purpose: Purpose, split: Split, index: u64) -> Self {
        let name = match purpose {
            Purpose::Story => "story",
            Purpose::Style => "style",
            Purpose::Distractor => "distractor",
        };
        let key = blake3::hash(format!("wordmath/{seed}/{name}/{split}/{index}").as_bytes());
        Self(ChaCha8Rng::from_seed(*key.as_bytes()))
    }

    /// Uniform in `0..bound`, without modulo bias. `bound` is at least 1.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        let unbiased = u64::MAX - u64::MAX % bound;
        loop {
            let word = self.0.next_u64();
            if word < unbiased {
                return (word % bound) as usize;
            }
        }
    }

    /// Uniform in `low..=high`.
    pub(super) fn range(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1) as usize) as i64
    }

    /// One of `options` (copied), equally likely. `options` is not empty.
    pub(super) fn pick<T: Copy>(&mut self, options: &[T]) -> T {
        options[self.below(options.len())]
    }

    /// True with probability `share`.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        // 53 bits: every double of the unit interval's grid is reached, and 1.0 is always true.
        ((self.0.next_u64() >> 11) as f64) < share * (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(seed: u64, purpose: Purpose, split: Split, index: u64) -> Vec<usize> {
        let mut draws = Draws::new(seed, purpose, split, index);
        (0..8).map(|_| draws.below(1_000_000)).collect()
    }

    #[test]
    fn a_stream_depends_on_each_of_its_coordinates_and_on_nothing_else() {
        let base = stream(1, Purpose::Story, Split::Train, 5);
        assert_eq!(base, stream(1, Purpose::Story, Split::Train, 5));
        assert_ne!(base, stream(2, Purpose::Story, Split::Train, 5));
        assert_ne!(base, stream(1, Purpose::Style, Split::Train, 5));
        assert_ne!(base, stream(1, Purpose::Story, Split::Test, 5));
        assert_ne!(base, stream(1, Purpose::Story, Split::Train, 6));
    }

    #[test]
    fn draws_cover_their_range_evenly() {
        let mut draws = Draws::new(0, Purpose::Story, Split::Train, 0);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[(draws.range(3, 9) - 3) as usize] += 1;
        }
        // Standard deviation of a count is 93: five of them.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 465), "{counts:?}");
    }

    #[test]
    fn chance_is_exact_at_both_ends() {
        let mut draws = Draws::new(0, Purpose::Style, Split::Train, 0);
        assert!((0..1000).all(|_| draws.chance(1.0)));
        assert!((0..1000).all(|_| !draws.chance(0.0)));
        let half = (0..10_000).filter(|_| draws.chance(0.5)).count();
        assert!(half.abs_diff(5_000) < 250, "{half}");
    }
}
