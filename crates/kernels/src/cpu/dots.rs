//! Whether dot products of bf16 are worth it on this processor.
#![allow(unsafe_code, reason = "code compiled for an instruction set")]

use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_set1_ps};
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Chains side by side: more than the latency of either instruction times its rate.
const CHAINS: usize = 24;
/// Instructions of a chain in one measurement: half a microsecond of multiply-adds.
const LENGTH: usize = 96;
/// Measurements of each instruction, of which the fastest counts: one that nothing interrupted is enough.
const TIMES: usize = 32;

/// Whether a dot product of two takes less than one and a half times as long as a fused multiply-add of one, so that products in bf16 are faster
/// than those of widened weights. Emerald Rapids takes four times as long for it: widening, which rounds nothing else, is faster there. Where the
/// instruction is issued as often as a multiply-add it takes as long.
///
/// Measured once in a process. One and four are so far apart that runs do not differ in it.
///
/// # Safety
/// The processor has AVX-512 F and BF16.
pub(super) unsafe fn are_worth_it() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    // SAFETY: the caller's promise.
    *ANSWER.get_or_init(|| worth_it(unsafe { measure() }))
}

fn worth_it([multiply_add, dot_product]: [Duration; 2]) -> bool {
    2 * dot_product < 3 * multiply_add
}

/// The least time of so many multiply-adds, and of as many dot products.
///
/// # Safety
/// As [`are_worth_it`].
unsafe fn measure() -> [Duration; 2] {
    let [mut multiply_add, mut dot_product] = [Duration::MAX; 2];
    for _ in 0..TIMES {
        // SAFETY: the caller's promise.
        multiply_add = multiply_add.min(time(|sums| unsafe { multiply_adds(sums) }));
        // SAFETY: the caller's promise.
        dot_product = dot_product.min(time(|sums| unsafe { dot_products(sums) }));
    }
    [multiply_add, dot_product]
}

fn time(chains: impl Fn(&mut [__m512; CHAINS])) -> Duration {
    // SAFETY: every pattern of bits is a value.
    let mut sums: [__m512; CHAINS] = unsafe { std::mem::zeroed() };
    let start = Instant::now();
    chains(black_box(&mut sums));
    black_box(&mut sums);
    start.elapsed()
}

/// # Safety
/// The processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
unsafe fn multiply_adds(sums: &mut [__m512; CHAINS]) {
    let (x, mut own) = (black_box(_mm512_set1_ps(1.0)), *sums);
    for _ in 0..LENGTH {
        for sum in &mut own {
            *sum = _mm512_fmadd_ps(x, x, *sum);
        }
    }
    *sums = own;
}

/// # Safety
/// The processor has AVX-512 F and BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn dot_products(sums: &mut [__m512; CHAINS]) {
    // SAFETY: both are 64 bytes of which every pattern is a value.
    let (x, mut own) =
        (unsafe { std::mem::transmute::<__m512, __m512bh>(black_box(_mm512_set1_ps(1.0))) }, *sums);
    for _ in 0..LENGTH {
        for sum in &mut own {
            *sum = _mm512_dpbf16_ps(*sum, x, x);
        }
    }
    *sums = own;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_the_same_each_time() {
        if !is_x86_feature_detected!("avx512f") || !is_x86_feature_detected!("avx512bf16") {
            eprintln!("skipped: the processor has no dot products of bf16");
            return;
        }
        // SAFETY: it has both.
        let times: Vec<[Duration; 2]> = (0..200).map(|_| unsafe { measure() }).collect();
        let rate = |time: Duration| (CHAINS * LENGTH) as f64 / time.as_secs_f64() / 1e9;
        let [multiply_adds, dot_products] = times[0].map(rate);
        eprintln!("billions a second: {multiply_adds:.1} multiply-adds, {dot_products:.1} dot products");
        assert!(times.iter().all(|each| worth_it(*each) == worth_it(times[0])), "{times:?}");
    }

    #[test]
    fn what_takes_twice_as_long_is_not_worth_it() {
        let answer = |dot_product| worth_it([10, dot_product].map(Duration::from_nanos));
        assert_eq!([10, 14, 16, 20, 40].map(answer), [true, true, false, false, false]);
    }
}
