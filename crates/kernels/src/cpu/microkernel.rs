//! The innermost loops of the matrix product: up to six rows of `x` against one panel of 64 columns.
//!
//! Each of the outputs lives in one accumulator that is updated by one fused multiply-add per inner index, in order.
//! The three versions differ only in how many accumulators share a register, so their bits are equal.
#![allow(unsafe_code, reason = "vector intrinsics and unchecked strided access in the innermost loop")]

use super::isa::Isa;
use super::pack::PANEL;

/// Most rows of one call: 6 × 4 vectors of 16 leave room for the panel's row among 32 registers.
pub(crate) const ROWS: usize = 6;

/// One call: `y[i, 0..64] (+)= Σₖ x[i, k] · panel[k, 0..64]`.
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
    /// First panel row, 64-byte aligned.
    pub panel: *const f32,
    /// First of 64 outputs of the first row.
    pub y: *mut f32,
    /// Distance between rows of `y`.
    pub y_stride: usize,
    /// Continue the chains found in `y` instead of starting at zero.
    pub resume: bool,
    /// Where memory is fetched into the second cache meanwhile, [`Ahead::lines`] cache lines per inner index.
    pub ahead: Ahead,
}

/// What a block fetches for those after it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    /// Start; may lie anywhere, nothing is read through it.
    pub from: *const f32,
    /// Cache lines per inner index: 0, 1, 2, or 4 for the block's own panel a little ahead.
    pub lines: usize,
}

impl Ahead {
    /// Nothing.
    pub(crate) const NONE: Self = Self { from: std::ptr::null(), lines: 0 };
}

impl Block {
    /// Runs the block on `rows` rows.
    ///
    /// # Safety
    /// For `i < rows`, `k < inner`, `c < 64`: `x + i·row_stride + k·inner_stride` and `panel + 64k + c` are readable,
    /// `y + i·y_stride + c` is writable (and initialised if `resume`) and not accessed by another thread; `isa` is available.
    pub(crate) unsafe fn run(self, isa: Isa, rows: usize) {
        macro_rules! by_rows {
            ($kernel:ident $(, $lines:literal)?) => {
                // SAFETY: the caller's promises are the kernels' own; the instruction set is available.
                unsafe {
                    match rows {
                        1 => $kernel::<1 $(, $lines)?>(self),
                        2 => $kernel::<2 $(, $lines)?>(self),
                        3 => $kernel::<3 $(, $lines)?>(self),
                        4 => $kernel::<4 $(, $lines)?>(self),
                        5 => $kernel::<5 $(, $lines)?>(self),
                        6 => $kernel::<6 $(, $lines)?>(self),
                        _ => unreachable!("a block has 1 to {ROWS} rows, not {rows}"),
                    }
                }
            };
        }
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => match self.ahead.lines {
                0 => by_rows!(avx512, 0),
                1 => by_rows!(avx512, 1),
                2 => by_rows!(avx512, 2),
                _ => by_rows!(avx512, 4),
            },
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => by_rows!(avx2),
            Isa::Portable => by_rows!(portable),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const M: usize, const LINES: usize>(block: Block) {
    use std::arch::x86_64::{
        _MM_HINT_T1, _mm_prefetch, _mm512_fmadd_ps, _mm512_load_ps, _mm512_loadu_ps, _mm512_set1_ps,
        _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let mut sums = [[_mm512_setzero_ps(); 4]; M];
    if block.resume {
        for (i, row) in sums.iter_mut().enumerate() {
            for (c, sum) in row.iter_mut().enumerate() {
                // SAFETY: `y` is readable there when resuming, by the contract of `Block::run`.
                *sum = unsafe { _mm512_loadu_ps(block.y.add(i * block.y_stride + 16 * c)) };
            }
        }
    }
    let mut x: [*const f32; M] = std::array::from_fn(|i| block.x.wrapping_add(i * block.row_stride));
    let (mut panel, mut ahead) = (block.panel, block.ahead.from);
    for _ in 0..block.inner {
        // SAFETY: `panel` advances over `inner` rows of 64 and `x` over `inner` strides, by the contract of
        // `Block::run`; a prefetch may name any address.
        unsafe {
            for line in 0..LINES {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(16 * line).cast());
            }
            let w = [
                _mm512_load_ps(panel),
                _mm512_load_ps(panel.add(16)),
                _mm512_load_ps(panel.add(32)),
                _mm512_load_ps(panel.add(48)),
            ];
            for (row, x) in sums.iter_mut().zip(x) {
                let value = _mm512_set1_ps(*x);
                for (sum, w) in row.iter_mut().zip(w) {
                    *sum = _mm512_fmadd_ps(value, w, *sum);
                }
            }
        }
        panel = panel.wrapping_add(PANEL);
        ahead = ahead.wrapping_add(16 * LINES);
        for x in &mut x {
            *x = x.wrapping_add(block.inner_stride);
        }
    }
    for (i, row) in sums.iter().enumerate() {
        for (c, &sum) in row.iter().enumerate() {
            // SAFETY: `y` is writable there by the contract of `Block::run`.
            unsafe { _mm512_storeu_ps(block.y.add(i * block.y_stride + 16 * c), sum) };
        }
    }
}

/// Sixteen registers hold 6 × 2 accumulators: the panel is passed four times, 16 columns each.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2<const M: usize>(block: Block) {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_load_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    for part in 0..PANEL / 16 {
        let y = block.y.wrapping_add(16 * part);
        let mut sums = [[_mm256_setzero_ps(); 2]; M];
        if block.resume {
            for (i, row) in sums.iter_mut().enumerate() {
                for (c, sum) in row.iter_mut().enumerate() {
                    // SAFETY: `y` is readable there when resuming, by the contract of `Block::run`.
                    *sum = unsafe { _mm256_loadu_ps(y.add(i * block.y_stride + 8 * c)) };
                }
            }
        }
        let mut x: [*const f32; M] = std::array::from_fn(|i| block.x.wrapping_add(i * block.row_stride));
        let mut panel = block.panel.wrapping_add(16 * part);
        for _ in 0..block.inner {
            // SAFETY: `panel` advances over `inner` rows of 64 and `x` over `inner` strides, by the contract of `Block::run`.
            unsafe {
                let w = [_mm256_load_ps(panel), _mm256_load_ps(panel.add(8))];
                for (row, x) in sums.iter_mut().zip(x) {
                    let value = _mm256_set1_ps(*x);
                    for (sum, w) in row.iter_mut().zip(w) {
                        *sum = _mm256_fmadd_ps(value, w, *sum);
                    }
                }
            }
            panel = panel.wrapping_add(PANEL);
            for x in &mut x {
                *x = x.wrapping_add(block.inner_stride);
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (c, &sum) in row.iter().enumerate() {
                // SAFETY: `y` is writable there by the contract of `Block::run`.
                unsafe { _mm256_storeu_ps(y.add(i * block.y_stride + 8 * c), sum) };
            }
        }
    }
}

unsafe fn portable<const M: usize>(block: Block) {
    for part in 0..PANEL / 16 {
        let y = block.y.wrapping_add(16 * part);
        let mut sums = [[0.0_f32; 16]; M];
        if block.resume {
            for (i, row) in sums.iter_mut().enumerate() {
                for (c, sum) in row.iter_mut().enumerate() {
                    // SAFETY: `y` is readable there when resuming, by the contract of `Block::run`.
                    *sum = unsafe { *y.add(i * block.y_stride + c) };
                }
            }
        }
        for k in 0..block.inner {
            // SAFETY: `panel` has `inner` rows of 64 aligned to 64 bytes, by the contract of `Block::run`.
            let w = unsafe { &*block.panel.add(k * PANEL + 16 * part).cast::<[f32; 16]>() };
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
                unsafe { *y.add(i * block.y_stride + c) = sum };
            }
        }
    }
}
