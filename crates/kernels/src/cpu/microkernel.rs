//! The innermost loops of the matrix product: up to six rows of `x` against some strips of 16 columns.
//!
//! Each of the outputs lives in one accumulator that is updated by one fused multiply-add per inner index, in order.
//! The three versions differ only in how many accumulators share a register, so their bits are equal.
#![allow(unsafe_code, reason = "vector intrinsics and unchecked strided access in the innermost loop")]

use super::isa::Isa;
use super::pack::STRIP;

/// Most rows of one call: with 6 × 4 vectors of 16 there is room for the weights among 32 registers, with 6 × 2 of 8 among 16.
pub(crate) const ROWS: usize = 6;

/// How many strips a block of a product of so many rows covers: as many as have accumulators in registers, and all four where
/// one row waits for memory and not for the multipliers.
pub(crate) fn strips(isa: Isa, rows: usize) -> usize {
    match (isa, rows) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, _) | (Isa::Avx2, 1) => 4,
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx2, 2 | 3) => 2,
        _ => 1,
    }
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
    /// Inner length.
    pub inner: usize,
    /// First row of the first strip, 64-byte aligned.
    pub weights: *const f32,
    /// Distance between strips.
    pub strip_stride: usize,
    /// Strips covered, as [`strips`] has it.
    pub strips: usize,
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
    /// 16k + c` are readable, `y + i·y_stride + 16s + c` is writable (and initialised if `resume`) and not accessed by another
    /// thread; `isa` is available.
    pub(crate) unsafe fn run(self, isa: Isa, rows: usize) {
        macro_rules! by_rows {
            ($kernel:ident $(, $constant:literal)*) => {
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
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => match self.ahead.strips {
                0 => by_rows!(avx512, 0),
                1 => by_rows!(avx512, 1),
                2 => by_rows!(avx512, 2),
                _ => by_rows!(avx512, 4),
            },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                macro_rules! one {
                    ($($constant:literal),*) => {
                        // SAFETY: as above.
                        unsafe { avx2::<$($constant),*>(self) }
                    };
                }
                match (self.strips, rows, self.ahead.strips) {
                    (4, 1, 0) => one!(1, 4, 0, 1),
                    (4, 1, _) => one!(1, 4, 4, 1),
                    (2, 2, 0) => one!(2, 2, 0, 1),
                    (2, 2, _) => one!(2, 2, 2, 1),
                    (2, 3, 0) => one!(3, 2, 0, 1),
                    (2, 3, _) => one!(3, 2, 2, 1),
                    (1, _, 0) => by_rows!(avx2, 1, 0, 1),
                    (1, _, _) => match self.ahead.every {
                        1 => by_rows!(avx2, 1, 1, 1),
                        2 => by_rows!(avx2, 1, 1, 2),
                        _ => by_rows!(avx2, 1, 1, 4),
                    },
                    (strips, ..) => unreachable!("{strips} strips of a block of {rows} rows"),
                }
            }
            Isa::Portable => by_rows!(portable),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const M: usize, const FETCH: usize>(block: Block) {
    use std::arch::x86_64::{
        _MM_HINT_T1, _mm_prefetch, _mm512_fmadd_ps, _mm512_load_ps, _mm512_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    debug_assert_eq!(block.strips, 4);
    let mut sums = [[_mm512_setzero_ps(); 4]; M];
    if block.resume {
        for (i, row) in sums.iter_mut().enumerate() {
            for (s, sum) in row.iter_mut().enumerate() {
                // SAFETY: `y` is readable there when resuming, by the contract of `Block::run`.
                *sum = unsafe { _mm512_loadu_ps(block.y.add(i * block.y_stride + STRIP * s)) };
            }
        }
    }
    let mut x: [*const f32; M] = std::array::from_fn(|i| block.x.wrapping_add(i * block.row_stride));
    let (mut weights, mut ahead, stride) = (block.weights, block.ahead.from, block.strip_stride);
    for _ in 0..block.inner {
        // SAFETY: `weights` advances over `inner` rows of each strip and `x` over `inner` strides, by the contract of
        // `Block::run`; a prefetch may name any address.
        unsafe {
            for strip in 0..FETCH {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(strip * stride).cast());
            }
            let w: [_; 4] = std::array::from_fn(|strip| _mm512_load_ps(weights.add(strip * stride)));
            for (row, x) in sums.iter_mut().zip(x) {
                let value = _mm512_set1_ps(*x);
                for (sum, w) in row.iter_mut().zip(w) {
                    *sum = _mm512_fmadd_ps(value, w, *sum);
                }
            }
        }
        weights = weights.wrapping_add(STRIP);
        ahead = ahead.wrapping_add(STRIP);
        for x in &mut x {
            *x = x.wrapping_add(block.inner_stride);
        }
    }
    for (i, row) in sums.iter().enumerate() {
        for (s, &sum) in row.iter().enumerate() {
            // SAFETY: `y` is writable there by the contract of `Block::run`.
            unsafe { _mm512_storeu_ps(block.y.add(i * block.y_stride + STRIP * s), sum) };
        }
    }
}

/// `S` strips of `M` rows; a line of `FETCH` strips is fetched every `EVERY` inner indices.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const M: usize, const S: usize, const FETCH: usize, const EVERY: usize>(block: Block) {
    use std::arch::x86_64::{
        _MM_HINT_T1, _mm_prefetch, _mm256_fmadd_ps, _mm256_load_ps, _mm256_loadu_ps, _mm256_set1_ps,
        _mm256_setzero_ps, _mm256_storeu_ps,
    };
    debug_assert!(block.strips == S && (FETCH == 0 || block.ahead.every == EVERY));
    let mut sums = [[[_mm256_setzero_ps(); 2]; S]; M];
    if block.resume {
        for (i, row) in sums.iter_mut().enumerate() {
            for (c, sum) in row.as_flattened_mut().iter_mut().enumerate() {
                // SAFETY: `y` is readable there when resuming, by the contract of `Block::run`.
                *sum = unsafe { _mm256_loadu_ps(block.y.add(i * block.y_stride + 8 * c)) };
            }
        }
    }
    let mut x: [*const f32; M] = std::array::from_fn(|i| block.x.wrapping_add(i * block.row_stride));
    let (mut weights, mut ahead, stride) = (block.weights, block.ahead.from, block.strip_stride);
    for k in 0..block.inner {
        if FETCH > 0 && k % EVERY == 0 {
            for strip in 0..FETCH {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(strip * stride).cast());
            }
            ahead = ahead.wrapping_add(STRIP);
        }
        // SAFETY: `weights` advances over `inner` rows of each strip and `x` over `inner` strides, by the contract of
        // `Block::run`.
        let (row_of, value_of) = (
            |strip: usize| unsafe {
                let row = weights.add(strip * stride);
                [_mm256_load_ps(row), _mm256_load_ps(row.add(8))]
            },
            |x: *const f32| unsafe { _mm256_set1_ps(*x) },
        );
        // What there is less of waits in registers beside the accumulators.
        if S == 1 {
            let w = row_of(0);
            for (row, x) in sums.iter_mut().zip(x) {
                let value = value_of(x);
                for (sum, w) in row[0].iter_mut().zip(w) {
                    *sum = _mm256_fmadd_ps(value, w, *sum);
                }
            }
        } else {
            let values: [_; M] = std::array::from_fn(|i| value_of(x[i]));
            for strip in 0..S {
                let w = row_of(strip);
                for (row, value) in sums.iter_mut().zip(values) {
                    for (sum, w) in row[strip].iter_mut().zip(w) {
                        *sum = _mm256_fmadd_ps(value, w, *sum);
                    }
                }
            }
        }
        weights = weights.wrapping_add(STRIP);
        for x in &mut x {
            *x = x.wrapping_add(block.inner_stride);
        }
    }
    for (i, row) in sums.iter().enumerate() {
        for (c, &sum) in row.as_flattened().iter().enumerate() {
            // SAFETY: `y` is writable there by the contract of `Block::run`.
            unsafe { _mm256_storeu_ps(block.y.add(i * block.y_stride + 8 * c), sum) };
        }
    }
}

unsafe fn portable<const M: usize>(block: Block) {
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
    for k in 0..block.inner {
        // SAFETY: the strip has `inner` rows of 16 aligned to 64 bytes, by the contract of `Block::run`.
        let w = unsafe { &*block.weights.add(k * STRIP).cast::<[f32; STRIP]>() };
        for (i, row) in sums.iter_mut().enumerate() {
            // SAFETY: `x` is readable there by the contract of `Block::run`.
            let value = unsafe { *block.x.add(i * block.row_stride + k * block.inner_stride) };
            for (sum, w) in row.iter_mut().zip(w) {
                *sum = value.mul_add(*w, *sum);
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
