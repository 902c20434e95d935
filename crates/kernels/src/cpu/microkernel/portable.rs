//! Blocks in plain loops, which the compiler vectorises for the processor it compiles for.
#![allow(unsafe_code, reason = "unchecked strided access in the innermost loop")]

use super::{Block, Lines};
use crate::cpu::pack::STRIP;
use crate::cpu::pairs::{high, low};

/// Any block of one strip.
///
/// # Safety
/// As [`Block::run`].
pub(super) unsafe fn portable<const M: usize>(block: Block) {
    debug_assert_eq!(block.strips, 1);
    let mut sums = [[0.0_f32; STRIP]; M];
    if block.resume {
        for (i, row) in sums.iter_mut().enumerate() {
            for (c, sum) in row.iter_mut().enumerate() {
                // SAFETY: `y` is readable there when resuming, by the contract of `Block::run`.
                *sum = unsafe { *block.y.add(i * block.y_stride + c) };
            }
        }
    }
    let mut add = |k: usize, of_x: fn(f32) -> f32, w: [f32; STRIP]| {
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: `x` is readable there by the contract of `Block::run`.
            let value = of_x(unsafe { *block.x.add(i * block.row_stride + k * block.inner_stride) });
            for (sum, w) in row.iter_mut().zip(w) {
                *sum = value.mul_add(w, *sum);
            }
        }
    };
    // SAFETY: the strip has that line, 16 numbers, by the contract of `Block::run`.
    let line = |line: usize| unsafe { *block.weights.add(line * block.line_stride).cast::<[f32; STRIP]>() };
    let whole = |x: f32| x;
    let [low, high]: [fn(f32) -> f32; 2] = [|word| low(word.to_bits()), |word| high(word.to_bits())];
    for k in 0..block.inner {
        match block.lines {
            Lines::Single => add(k, whole, line(k)),
            Lines::Pairs => add(k, whole, line(k / 2).map(if k % 2 == 0 { low } else { high })),
            Lines::Dots => {
                add(k, high, line(k).map(high));
                add(k, low, line(k).map(low));
            }
            Lines::Bytes => {
                // SAFETY: the strip has these 16 bytes, and its columns scales, by the contract of `Block::run`.
                let (bytes, scales) = unsafe {
                    let bytes = &*block.weights.cast::<i8>().add(k * STRIP).cast::<[i8; STRIP]>();
                    (bytes, &*block.scales.cast::<[f32; STRIP]>())
                };
                add(k, whole, std::array::from_fn(|c| f32::from(bytes[c]) * scales[c]));
            }
        }
    }
    for (i, row) in sums.iter().enumerate() {
        for (c, &sum) in row.iter().enumerate() {
            // SAFETY: `y` is writable there by the contract of `Block::run`.
            unsafe { *block.y.add(i * block.y_stride + c) = sum };
        }
    }
}
