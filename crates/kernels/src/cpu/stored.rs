//! Number formats in which keys and values are kept. The arithmetic is in `f32`: what is loaded is exact, what is stored is rounded.
#![allow(unsafe_code, reason = "vector intrinsics")]
#![allow(clippy::inline_always, reason = "compiled into each instruction set's version of the caller")]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256, __m512, _mm_loadu_si128, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_loadu_ps,
    _mm256_loadu_si256, _mm256_slli_epi32, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_loadu_ps,
    _mm512_slli_epi32,
};

use half::bf16;

/// A number of the cache.
pub(super) trait Stored: Copy + Send + Sync + 'static {
    const ZERO: Self;

    /// The nearest one, ties to even.
    fn store(value: f32) -> Self;

    fn load(self) -> f32;

    /// Eight of them.
    ///
    /// # Safety
    /// There are eight at `from`, and the processor has AVX2.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_256(from: *const Self) -> __m256;

    /// Sixteen of them.
    ///
    /// # Safety
    /// There are sixteen at `from`, and the processor has AVX-512 F.
    #[cfg(target_arch = "x86_64")]
    unsafe fn load_512(from: *const Self) -> __m512;
}

impl Stored for f32 {
    const ZERO: Self = 0.0;

    #[inline(always)]
    fn store(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn load(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_256(from: *const Self) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_512(from: *const Self) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_ps(from) }
    }
}

impl Stored for bf16 {
    const ZERO: Self = Self::ZERO;

    #[inline(always)]
    fn store(value: f32) -> Self {
        Self::from_f32(value)
    }

    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_256(from: *const Self) -> __m256 {
        // SAFETY: the caller's promise; 8 numbers are 16 bytes.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn load_512(from: *const Self) -> __m512 {
        // SAFETY: the caller's promise; 16 numbers are 32 bytes.
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
}
