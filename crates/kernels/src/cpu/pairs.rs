//! Numbers in bf16, two to a word of 32 bits: the first in its low half.
#![allow(clippy::inline_always, reason = "compiled into each instruction set's version of the caller")]

use half::bf16;

use super::isa::multiversion;
use super::pack::{Line, STRIP};

/// A line of pairs: of each column of a strip the weights of two inner indices that follow each other.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Pairs(pub(super) [u32; STRIP]);

/// The pair of the nearest numbers in bf16, ties to even.
#[inline(always)]
pub(super) fn pair(first: f32, second: f32) -> u32 {
    let [first, second] = [first, second].map(|value| u32::from(bf16::from_f32(value).to_bits()));
    first | (second << 16)
}

/// The first of a pair.
#[inline(always)]
pub(super) fn low(pair: u32) -> f32 {
    f32::from_bits(pair << 16)
}

/// The second of a pair.
#[inline(always)]
pub(super) fn high(pair: u32) -> f32 {
    f32::from_bits(pair & 0xffff_0000)
}

/// `⌈len / 2⌉` words of a row's numbers; beside the last of an odd number there is zero.
pub(super) fn words(len: usize) -> usize {
    len.div_ceil(2)
}

multiversion! {
    /// Rows of `inner` numbers that follow each other, in rows of words.
    pub(super) fn rows_in_pairs(rows: &[f32], inner: usize, pairs: &mut [u32]) {
        if inner == 0 {
            return;
        }
        for (row, pairs) in rows.chunks_exact(inner).zip(pairs.chunks_exact_mut(words(inner))) {
            let (both, last) = row.as_chunks::<2>();
            for (word, [first, second]) in pairs.iter_mut().zip(both) {
                *word = pair(*first, *second);
            }
            if let ([last], Some(word)) = (last, pairs.last_mut()) {
                *word = pair(*last, 0.0);
            }
        }
    }
}

/// Every two lines of numbers as one of pairs.
#[inline(always)]
pub(super) fn lines_in_pairs(lines: &[Line], pairs: &mut [Pairs]) {
    let (both, last) = lines.as_chunks::<2>();
    for (pairs, [first, second]) in pairs.iter_mut().zip(both) {
        for ((word, first), second) in pairs.0.iter_mut().zip(first.0).zip(second.0) {
            *word = pair(first, second);
        }
    }
    if let ([last], Some(pairs)) = (last, pairs.get_mut(both.len())) {
        for (word, last) in pairs.0.iter_mut().zip(last.0) {
            *word = pair(last, 0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::isa::forced;

    proptest! {
        #[test]
        fn rounds_as_half_does(bits: u32, other: u32) {
            let [a, b] = [bits, other].map(f32::from_bits);
            let (word, want) = (pair(a, b), [a, b].map(bf16::from_f32));
            for (got, want) in [low(word), high(word)].into_iter().zip(want) {
                prop_assert!(got.to_bits() == want.to_f32().to_bits() || got.is_nan() && want.is_nan());
            }
        }

        #[test]
        fn a_row_of_an_odd_number_ends_beside_zero(rows in 0_usize..4, inner in 1_usize..40) {
            let values: Vec<f32> = (0..rows * inner).map(|i| i as f32).collect();
            for (_, pairs) in forced::on_each(|| {
                let mut pairs = vec![u32::MAX; rows * words(inner)];
                rows_in_pairs(&values, inner, &mut pairs);
                pairs
            }) {
                for row in 0..rows {
                    for k in 0..inner.next_multiple_of(2) {
                        let word = pairs[row * words(inner) + k / 2];
                        let got = if k % 2 == 0 { low(word) } else { high(word) };
                        let want = if k < inner { values[row * inner + k] } else { 0.0 };
                        prop_assert_eq!(got, bf16::from_f32(want).to_f32());
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_number_stays_so() {
        for value in [f32::NAN, f32::from_bits(0x7f80_0001), f32::from_bits(0xffff_ffff)] {
            assert!(low(pair(value, 0.0)).is_nan() && high(pair(0.0, value)).is_nan());
        }
        assert_eq!(low(pair(f32::INFINITY, 0.0)), f32::INFINITY);
        assert_eq!(high(pair(0.0, f32::NEG_INFINITY)), f32::NEG_INFINITY);
        assert_eq!(low(pair(f32::MAX, 0.0)), f32::INFINITY, "the nearest");
    }
}
