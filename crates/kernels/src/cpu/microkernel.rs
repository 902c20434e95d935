//! The innermost loops of the matrix product: up to six rows of `x` against some strips of 16 columns.
//!
//! Each of the outputs lives in one accumulator that is updated by one fused multiply-add per inner index, in order.
//! The three versions differ only in how many accumulators share a register, so their bits are equal; those of dot products of
//! bf16 are their own ([`Lines::Dots`]).
#![allow(unsafe_code, reason = "vector intrinsics and unchecked strided access in the innermost loop")]

use super::isa::Isa;

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

use portable::portable;
#[cfg(target_arch = "x86_64")]
use x86::{avx2, avx512, avx512_dots};

/// Most rows of one call: with 6 × 4 vectors of 16 there is room for the weights among 32 registers, with 6 × 2 of 8 among 16.
pub(crate) const ROWS: usize = 6;

/// How many strips a block of a product of so many rows covers, of `left`: as many as have accumulators in registers, and all four where
/// one row waits for memory and not for the multipliers. Strips that are not there are multiplied only where that is faster.
pub(crate) fn strips(isa: Isa, lines: Lines, rows: usize, left: usize) -> usize {
    match (isa, rows) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) if lines == Lines::Single && left <= 2 => left,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) | (Isa::Avx2, 1) => 4,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 2 | 3) => 2,
        _ => 1,
    }
}

/// What a line of a strip, 64 bytes, holds, and how it is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lines {
    /// The 16 columns' weights of an inner index.
    Single,
    /// The 16 columns' pairs of weights in bf16 of two inner indices, widened in registers: two fused multiply-adds in order.
    Pairs,
    /// The same, and `x` in pairs too: an element of `x`, a word, is two inner indices. The second of a pair is multiplied and added
    /// before the first, as `VDPBF16PS` does. Numbers below 2⁻¹²⁶ may count as zero.
    Dots,
    /// The 16 columns' weights in 8 bits of four inner indices, one after the other, each times its column's scale.
    Bytes,
}

/// One call: `y[i, c] (+)= Σₖ x[i, k] · weights[k, c]` for the columns of some strips.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Block {
    /// First element of `x`.
    pub x: *const f32,
    /// Distance between rows of `x`.
    pub row_stride: usize,
    /// Distance between inner indices of `x`.
    pub inner_stride: usize,
    /// Inner length, in elements of `x`.
    pub inner: usize,
    /// What a line of weights is.
    pub lines: Lines,
    /// First line of the first strip.
    pub weights: *const f32,
    /// Distance between lines: [`STRIP`](crate::cpu::pack::STRIP) in what is packed.
    pub line_stride: usize,
    /// Distance between strips.
    pub strip_stride: usize,
    /// Strips covered, as [`strips`] has it.
    pub strips: usize,
    /// The columns' scales, of lines of bytes.
    pub scales: *const f32,
    /// First output of the first row.
    pub y: *mut f32,
    /// Distance between rows of `y`.
    pub y_stride: usize,
    /// Continue the chains found in `y` instead of starting at zero.
    pub resume: bool,
    /// What is fetched into the second cache meanwhile.
    pub ahead: Ahead,
}

/// Cache lines that a block fetches for itself or for those after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// Start; may lie anywhere, nothing is read through it.
    pub from: *const f32,
    /// Strips of which a line is fetched at a time, as far apart as the block's: 0, 1, 2 or 4.
    pub strips: usize,
    /// Inner indices from one time to the next: 1, 2 or 4.
    pub every: usize,
}

impl Ahead {
    /// Nothing.
    pub(crate) const NONE: Self = Self { from: std::ptr::null(), strips: 0, every: 1 };
}

impl Block {
    /// Runs the block on `rows` rows.
    ///
    /// # Safety
    /// For `i < rows`, `k < inner`, `s < strips`, `c < 16`: `x + i·row_stride + k·inner_stride` and `weights + s·strip_stride +
    /// l·line_stride + c` are readable for as many lines `l` as `lines` asks for, of bytes `scales + 16s + c` too; `y + i·y_stride + 16s + c`
    /// is writable (and initialised if `resume`) and not accessed by another thread; `isa` is available, and has dot products where
    /// `lines` wants them.
    pub(crate) unsafe fn run(self, isa: Isa, rows: usize) {
        macro_rules! by_rows {
            ($kernel:ident $(, $constant:tt)*) => {
                // SAFETY: the caller's promises are the kernels' own; the instruction set is available.
                unsafe {
                    match rows {
                        1 => $kernel::<1 $(, $constant)*>(self),
                        2 => $kernel::<2 $(, $constant)*>(self),
                        3 => $kernel::<3 $(, $constant)*>(self),
                        4 => $kernel::<4 $(, $constant)*>(self),
                        5 => $kernel::<5 $(, $constant)*>(self),
                        6 => $kernel::<6 $(, $constant)*>(self),
                        _ => unreachable!("a block has 1 to {ROWS} rows, not {rows}"),
                    }
                }
            };
        }
        #[cfg(target_arch = "x86_64")]
        macro_rules! avx512 {
            ($kernel:ident $(, $constant:tt)*) => {
                match self.ahead.strips {
                    0 => by_rows!($kernel, 4, 0 $(, $constant)*),
                    1 => by_rows!($kernel, 4, 1 $(, $constant)*),
                    2 => by_rows!($kernel, 4, 2 $(, $constant)*),
                    _ => by_rows!($kernel, 4, 4 $(, $constant)*),
                }
            };
        }
        #[cfg(target_arch = "x86_64")]
        macro_rules! one {
            ($($constant:tt),*) => {
                // SAFETY: as above.
                unsafe { avx2::<$($constant),*>(self) }
            };
        }
        #[cfg(target_arch = "x86_64")]
        macro_rules! avx2 {
            ($lines:tt) => {
                match (self.strips, rows, self.ahead.strips) {
                    (4, 1, 0) => one!(1, 4, 0, 1, $lines),
                    (4, 1, _) => one!(1, 4, 4, 1, $lines),
                    (2, 2, 0) => one!(2, 2, 0, 1, $lines),
                    (2, 2, _) => one!(2, 2, 2, 1, $lines),
                    (2, 3, 0) => one!(3, 2, 0, 1, $lines),
                    (2, 3, _) => one!(3, 2, 2, 1, $lines),
                    (1, _, 0) => by_rows!(avx2, 1, 0, 1, $lines),
                    (1, _, _) => match self.ahead.every {
                        1 => by_rows!(avx2, 1, 1, 1, $lines),
                        2 => by_rows!(avx2, 1, 1, 2, $lines),
                        _ => by_rows!(avx2, 1, 1, 4, $lines),
                    },
                    (strips, ..) => unreachable!("{strips} strips of a block of {rows} rows"),
                }
            };
        }
        match (isa, self.lines) {
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Lines::Single) => match self.strips {
                1 => by_rows!(avx512, 1, 0, { Lines::Single as u8 }),
                2 => by_rows!(avx512, 2, 0, { Lines::Single as u8 }),
                _ => avx512!(avx512, { Lines::Single as u8 }),
            },
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Lines::Pairs) => avx512!(avx512, { Lines::Pairs as u8 }),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Lines::Dots) => avx512!(avx512_dots),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512, Lines::Bytes) => avx512!(avx512, { Lines::Bytes as u8 }),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Lines::Single) => avx2!({ Lines::Single as u8 }),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Lines::Pairs) => avx2!({ Lines::Pairs as u8 }),
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2, Lines::Bytes) => avx2!({ Lines::Bytes as u8 }),
            _ => by_rows!(portable),
        }
    }
}
