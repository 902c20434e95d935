//! Blocks in vectors of 512 and of 256 bits.
#![allow(unsafe_code, reason = "vector intrinsics and unchecked strided access in the innermost loop")]
#![allow(clippy::inline_always, reason = "compiled into the versions for two instruction sets")]

use std::arch::x86_64::{
    __m256, __m512, __m512bh, _MM_HINT_T1, _mm_loadl_epi64, _mm_loadu_si128, _mm_prefetch, _mm256_and_ps,
    _mm256_castps_si256, _mm256_castsi256_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps, _mm256_slli_epi32,
    _mm256_storeu_ps, _mm512_and_si512, _mm512_castps_si512, _mm512_castsi512_ps, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

use super::{Block, Lines};
use crate::cpu::pack::STRIP;
use crate::cpu::precision::QUAD;

/// Where the second of a pair lies.
const HIGH: i32 = 0xffff_0000_u32.cast_signed();

/// [`Lines`] as constants that a version is compiled for.
const SINGLE: u8 = Lines::Single as u8;
const PAIRS: u8 = Lines::Pairs as u8;
const DOTS: u8 = Lines::Dots as u8;
const BYTES: u8 = Lines::Bytes as u8;

/// Elements of `x` that a line multiplies.
const fn of_a_line(lines: u8) -> usize {
    match lines {
        PAIRS => 2,
        BYTES => QUAD,
        _ => 1,
    }
}

/// A kernel of `M` rows and `S` strips, in which a line of `FETCH` strips is fetched with each line. It is a macro, so that what it is made of is
/// compiled for the instruction set of the function it stands in.
macro_rules! avx512_kernel {
    ($block:ident, $rows:ident, $strips:ident, $fetch:ident, $lines:expr) => {{
        debug_assert_eq!(($block.strips, $block.lines as u8), ($strips, $lines));
        let mut sums = [[_mm512_setzero_ps(); $strips]; $rows];
        if $block.resume {
            for (i, row) in sums.iter_mut().enumerate() {
                for (s, sum) in row.iter_mut().enumerate() {
                    // SAFETY: `y` is readable there when resuming, by the contract of `Block::run`.
                    *sum = unsafe { _mm512_loadu_ps($block.y.add(i * $block.y_stride + STRIP * s)) };
                }
            }
        }
        let mut x: [*const f32; $rows] = std::array::from_fn(|i| $block.x.wrapping_add(i * $block.row_stride));
        let (mut weights, mut ahead, stride) = ($block.weights, $block.ahead.from, $block.strip_stride);
        let of_a_line = of_a_line($lines);
        for k in (0..$block.inner).step_by(of_a_line) {
            // SAFETY: `weights` advances over the lines of each strip and `x` over `inner` strides, by the contract of
            // `Block::run`; a prefetch may name any address.
            unsafe {
                for strip in 0..$fetch {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(strip * stride).cast());
                }
                let w = || std::array::from_fn::<_, $strips, _>(|s| _mm512_loadu_ps(weights.add(s * stride)));
                let x_at = |at: usize| x.map(|x| x.wrapping_add(at * $block.inner_stride));
                match $lines {
                    SINGLE => add_512(&mut sums, x, w()),
                    PAIRS => {
                        let w = w();
                        add_512(&mut sums, x, w.map(|w| low_512(w)));
                        if k + 1 < $block.inner {
                            add_512(&mut sums, x_at(1), w.map(|w| high_512(w)));
                        }
                    }
                    BYTES => {
                        for at in 0..QUAD.min($block.inner - k) {
                            let w = std::array::from_fn(|strip| {
                                let bytes = weights.add(strip * stride).cast::<i8>().add(at * STRIP);
                                scaled_512(bytes, $block.scales.add(strip * STRIP))
                            });
                            add_512(&mut sums, x_at(at), w);
                        }
                    }
                    _ => {
                        let w = w().map(halves);
                        for (row, x) in sums.iter_mut().zip(x) {
                            let value = halves(_mm512_set1_ps(*x));
                            for (sum, w) in row.iter_mut().zip(w) {
                                *sum = _mm512_dpbf16_ps(*sum, value, w);
                            }
                        }
                    }
                }
            }
            weights = weights.wrapping_add($block.line_stride);
            ahead = ahead.wrapping_add($block.line_stride);
            for x in &mut x {
                *x = x.wrapping_add(of_a_line * $block.inner_stride);
            }
        }
        for (i, row) in sums.iter().enumerate() {
            for (s, &sum) in row.iter().enumerate() {
                // SAFETY: `y` is writable there by the contract of `Block::run`.
                unsafe { _mm512_storeu_ps($block.y.add(i * $block.y_stride + STRIP * s), sum) };
            }
        }
    }};
}

/// Fused multiply-adds.
///
/// # Safety
/// As [`Block::run`]; the processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn avx512<const M: usize, const S: usize, const FETCH: usize, const LINES: u8>(
    block: Block,
) {
    const { assert!(LINES != DOTS) };
    avx512_kernel!(block, M, S, FETCH, LINES);
}

/// Dot products of pairs.
///
/// # Safety
/// As [`Block::run`]; the processor has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn avx512_dots<const M: usize, const S: usize, const FETCH: usize>(block: Block) {
    avx512_kernel!(block, M, S, FETCH, DOTS);
}

/// # Safety
/// There is a number at each `x`, and the processor has AVX-512 F.
#[inline(always)]
unsafe fn add_512<const M: usize, const S: usize>(
    sums: &mut [[__m512; S]; M],
    x: [*const f32; M],
    weights: [__m512; S],
) {
    for (row, x) in sums.iter_mut().zip(x) {
        // SAFETY: the caller's promises.
        unsafe {
            let value = _mm512_set1_ps(*x);
            for (sum, w) in row.iter_mut().zip(weights) {
                *sum = _mm512_fmadd_ps(value, w, *sum);
            }
        }
    }
}

/// The first of each pair.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn low_512(words: __m512) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_castps_si512(words))) }
}

/// The second of each pair.
///
/// # Safety
/// The processor has AVX-512 F.
#[inline(always)]
unsafe fn high_512(words: __m512) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(words), _mm512_set1_epi32(HIGH))) }
}

/// Sixteen weights in 8 bits, times their scales.
///
/// # Safety
/// There are sixteen of both, and the processor has AVX-512 F.
#[inline(always)]
unsafe fn scaled_512(bytes: *const i8, scales: *const f32) -> __m512 {
    // SAFETY: the caller's promises.
    unsafe {
        let values = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.cast())));
        _mm512_mul_ps(values, _mm512_loadu_ps(scales))
    }
}

#[inline(always)]
fn halves(words: __m512) -> __m512bh {
    // SAFETY: both are 64 bytes of which each pattern is a value.
    unsafe { std::mem::transmute(words) }
}

/// `S` strips of `M` rows; a line of `FETCH` strips is fetched every `EVERY` lines.
///
/// # Safety
/// As [`Block::run`]; the processor has AVX2 and FMA.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn avx2<
    const M: usize,
    const S: usize,
    const FETCH: usize,
    const EVERY: usize,
    const LINES: u8,
>(
    block: Block,
) {
    debug_assert!(block.strips == S && (FETCH == 0 || block.ahead.every == EVERY));
    debug_assert_eq!(block.lines as u8, LINES);
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
    let of_a_line = of_a_line(LINES);
    for (line, k) in (0..block.inner).step_by(of_a_line).enumerate() {
        if FETCH > 0 && line % EVERY == 0 {
            for strip in 0..FETCH {
                _mm_prefetch::<_MM_HINT_T1>(ahead.wrapping_add(strip * stride).cast());
            }
            ahead = ahead.wrapping_add(block.line_stride);
        }
        // SAFETY: `weights` advances over the lines of each strip, by the contract of `Block::run`.
        let line_of = |strip: usize| unsafe {
            let line = weights.add(strip * stride);
            [_mm256_loadu_ps(line), _mm256_loadu_ps(line.add(8))]
        };
        let x_at = |at: usize| x.map(|x| x.wrapping_add(at * block.inner_stride));
        // SAFETY: `x` advances over `inner` strides, and columns have scales, by the contract of `Block::run`.
        unsafe {
            match LINES {
                PAIRS => {
                    add_256(&mut sums, x, |strip| line_of(strip).map(|w| low_256(w)));
                    if k + 1 < block.inner {
                        add_256(&mut sums, x_at(1), |strip| line_of(strip).map(|w| high_256(w)));
                    }
                }
                BYTES => {
                    for at in 0..QUAD.min(block.inner - k) {
                        add_256(&mut sums, x_at(at), |strip| {
                            let bytes = weights.add(strip * stride).cast::<i8>().add(at * STRIP);
                            let scales = block.scales.add(strip * STRIP);
                            [scaled_256(bytes, scales), scaled_256(bytes.add(8), scales.add(8))]
                        });
                    }
                }
                _ => add_256(&mut sums, x, line_of),
            }
        }
        weights = weights.wrapping_add(block.line_stride);
        for x in &mut x {
            *x = x.wrapping_add(of_a_line * block.inner_stride);
        }
    }
    for (i, row) in sums.iter().enumerate() {
        for (c, &sum) in row.as_flattened().iter().enumerate() {
            // SAFETY: `y` is writable there by the contract of `Block::run`.
            unsafe { _mm256_storeu_ps(block.y.add(i * block.y_stride + 8 * c), sum) };
        }
    }
}

/// # Safety
/// There is a number at each `x`, and the processor has AVX2 and FMA.
#[inline(always)]
unsafe fn add_256<const M: usize, const S: usize>(
    sums: &mut [[[__m256; 2]; S]; M],
    x: [*const f32; M],
    weights: impl Fn(usize) -> [__m256; 2],
) {
    // SAFETY: the caller's promises.
    let (value_of, fma) = (
        |x: *const f32| unsafe { _mm256_set1_ps(*x) },
        |value, w, sum| unsafe { _mm256_fmadd_ps(value, w, sum) },
    );
    // What there is less of waits in registers beside the accumulators.
    if S == 1 {
        let w = weights(0);
        for (row, x) in sums.iter_mut().zip(x) {
            let value = value_of(x);
            for (sum, w) in row[0].iter_mut().zip(w) {
                *sum = fma(value, w, *sum);
            }
        }
    } else {
        let values: [_; M] = std::array::from_fn(|i| value_of(x[i]));
        for strip in 0..S {
            let w = weights(strip);
            for (row, value) in sums.iter_mut().zip(values) {
                for (sum, w) in row[strip].iter_mut().zip(w) {
                    *sum = fma(value, w, *sum);
                }
            }
        }
    }
}

/// The first of each pair.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn low_256(words: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_castps_si256(words))) }
}

/// The second of each pair.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn high_256(words: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_and_ps(words, _mm256_castsi256_ps(_mm256_set1_epi32(HIGH))) }
}

/// Eight weights in 8 bits, times their scales.
///
/// # Safety
/// There are eight of both, and the processor has AVX2.
#[inline(always)]
unsafe fn scaled_256(bytes: *const i8, scales: *const f32) -> __m256 {
    // SAFETY: the caller's promises.
    unsafe {
        let values = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.cast())));
        _mm256_mul_ps(values, _mm256_loadu_ps(scales))
    }
}
