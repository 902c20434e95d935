//! Scores and values of one page of the key-value cache, for several rows abreast.
#![allow(unsafe_code, reason = "vector intrinsics")]

use std::ops::Range;

use super::isa::{Isa, multiversion};
use super::kv_pool::PAGE;
use super::stored::Stored;

/// Has a line of the next page on its way while this one is worked on: pages lie apart, and the processor's own fetching ahead
/// stops at the end of each. Line by line, since all lines at once wait for each other and the work for them.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn fetch<E>(line: *const E) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
}

/// Scores of 16 keys for each of `R` rows, into rows `stride` apart: chains of fused multiply-adds over the head, sixteen
/// keys abreast.
///
/// # Shapes
/// - `q`: `[head_dim, R]`; `page`: `[head_dim, 16]`, as `next`, which is fetched; `scores`: 16 in each of `R` rows
pub(super) fn score_page<E: Stored, const R: usize>(
    isa: Isa,
    q: &[[f32; R]],
    [page, next]: [&[E]; 2],
    scores: &mut [f32],
    stride: usize,
) {
    let (lanes, _) = page.as_chunks::<PAGE>();
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::Portable {
        let mut sums = [[0.0; PAGE]; R];
        // SAFETY: the instruction set is available.
        unsafe {
            match isa {
                Isa::Avx512 => score_avx512(q, lanes, next, &mut sums),
                _ => (0..R).step_by(ABREAST).for_each(|first| score_avx2(q, lanes, next, first, &mut sums)),
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            scores[row * stride..][..PAGE].copy_from_slice(sums);
        }
        return;
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (isa, next);
    for row in 0..R {
        score_row(q.as_flattened(), (row, R), lanes, &mut scores[row * stride..][..PAGE]);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn score_avx512<E: Stored, const R: usize>(
    q: &[[f32; R]],
    page: &[[E; PAGE]],
    next: &[E],
    scores: &mut [[f32; PAGE]; R],
) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    let mut sums = [_mm512_setzero_ps(); R];
    for (at, (q, lanes)) in q.iter().zip(page).enumerate() {
        fetch(next.as_ptr().wrapping_add(at * PAGE));
        // SAFETY: 16 elements.
        let keys = unsafe { E::load_512(lanes.as_ptr()) };
        for (sum, &q) in sums.iter_mut().zip(q) {
            *sum = _mm512_fmadd_ps(_mm512_set1_ps(q), keys, *sum);
        }
    }
    for (scores, sum) in scores.iter_mut().zip(&sums) {
        // SAFETY: 16 elements.
        unsafe { _mm512_storeu_ps(scores.as_mut_ptr(), *sum) };
    }
}

/// Rows whose sums fit into sixteen registers, two each.
#[cfg(target_arch = "x86_64")]
const ABREAST: usize = 4;

/// The scores of [`ABREAST`] rows from `first` on, of a multiple of as many.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn score_avx2<E: Stored, const R: usize>(
    q: &[[f32; R]],
    page: &[[E; PAGE]],
    next: &[E],
    first: usize,
    scores: &mut [[f32; PAGE]; R],
) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    let mut sums = [[_mm256_setzero_ps(); 2]; ABREAST];
    for (at, (q, lanes)) in q.iter().zip(page).enumerate() {
        fetch(next.as_ptr().wrapping_add(at * PAGE));
        let q: &[f32; ABREAST] = q[first..].first_chunk().expect("a multiple of the rows abreast");
        // SAFETY: 16 elements.
        let keys = unsafe { [E::load_256(lanes.as_ptr()), E::load_256(lanes.as_ptr().add(8))] };
        for (sums, &q) in sums.iter_mut().zip(q) {
            let q = _mm256_set1_ps(q);
            for (sum, keys) in sums.iter_mut().zip(keys) {
                *sum = _mm256_fmadd_ps(q, keys, *sum);
            }
        }
    }
    for (scores, sums) in scores[first..].iter_mut().zip(&sums) {
        for (half, sum) in sums.iter().enumerate() {
            // SAFETY: 16 elements.
            unsafe { _mm256_storeu_ps(scores.as_mut_ptr().add(8 * half), *sum) };
        }
    }
}

multiversion! {
    /// The scores of one row; its elements are every `step`-th of `q` from `first` on.
    fn score_row<E: Stored>(q: &[f32], place: (usize, usize), page: &[[E; PAGE]], scores: &mut [f32]) {
        let mut sums = [0.0_f32; PAGE];
        let (first, step) = place;
        for (q, lanes) in q.chunks_exact(step).zip(page) {
            let q = q[first];
            for (sum, &key) in sums.iter_mut().zip(lanes) {
                *sum = q.mul_add(key.load(), *sum);
            }
        }
        scores.copy_from_slice(&sums);
    }
}

/// Adds the values of a page's `keys` to the outputs of `R` rows, key after key: chains of fused multiply-adds.
///
/// # Shapes
/// - `scores`: those of the page in each of `R` rows, `stride` apart; `page`: `[16, head_dim]`, as `next`, which is fetched;
///   `o`: `[R, head_dim]`
pub(super) fn add_page<E: Stored, const R: usize>(
    isa: Isa,
    scores: &[f32],
    stride: usize,
    keys: Range<usize>,
    [page, next]: [&[E]; 2],
    o: &mut [f32],
) {
    let d = page.len() / PAGE;
    let of = keys.start * d..keys.end * d;
    let (values, next) = (&page[of.clone()], &next[of]);
    #[cfg(target_arch = "x86_64")]
    if isa != Isa::Portable && d.is_multiple_of(16) && (isa == Isa::Avx512 || R > 1) {
        let mut weights = [[0.0_f32; R]; PAGE];
        for row in 0..R {
            for (weights, &score) in weights.iter_mut().zip(&scores[row * stride..][keys.clone()]) {
                weights[row] = score;
            }
        }
        // SAFETY: the instruction set is available.
        unsafe {
            match isa {
                Isa::Avx512 => add_avx512(&weights[..keys.len()], [values, next], d, o),
                _ => (0..R)
                    .step_by(ABREAST)
                    .for_each(|first| add_avx2(&weights[..keys.len()], [values, next], d, first, o)),
            }
        }
        return;
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (isa, next);
    for (row, o) in o.chunks_exact_mut(d).enumerate() {
        add_row(&scores[row * stride..][keys.clone()], values, o);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn add_avx512<E: Stored, const R: usize>(
    weights: &[[f32; R]],
    [values, next]: [&[E]; 2],
    d: usize,
    o: &mut [f32],
) {
    use std::arch::x86_64::{
        _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    assert!(values.len() == weights.len() * d && o.len() == R * d && d.is_multiple_of(16));
    for part in (0..d).step_by(16) {
        let mut sums = [_mm512_setzero_ps(); R];
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: `row < R` and `part + 16 <= d`.
            *sum = unsafe { _mm512_loadu_ps(o.as_ptr().add(row * d + part)) };
        }
        for (at, (weights, values)) in weights.iter().zip(values.chunks_exact(d)).enumerate() {
            fetch(next.as_ptr().wrapping_add(at * d + part));
            // SAFETY: `part + 16 <= d`.
            let values = unsafe { E::load_512(values.as_ptr().add(part)) };
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                *sum = _mm512_fmadd_ps(_mm512_set1_ps(weight), values, *sum);
            }
        }
        for (row, sum) in sums.iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(o.as_mut_ptr().add(row * d + part), *sum) };
        }
    }
}

/// Adds the values of some keys to the outputs of [`ABREAST`] rows from `first` on, of a multiple of as many.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_avx2<E: Stored, const R: usize>(
    weights: &[[f32; R]],
    [values, next]: [&[E]; 2],
    d: usize,
    first: usize,
    o: &mut [f32],
) {
    use std::arch::x86_64::{
        _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    assert!(values.len() == weights.len() * d && o.len() == R * d && d.is_multiple_of(16));
    assert!(first + ABREAST <= R);
    let o = &mut o[first * d..(first + ABREAST) * d];
    for part in (0..d).step_by(16) {
        let mut sums = [[_mm256_setzero_ps(); 2]; ABREAST];
        for (at, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
            // SAFETY: the row `at / 2` is below `ABREAST` and `part + 16 <= d`.
            *sum = unsafe { _mm256_loadu_ps(o.as_ptr().add(at / 2 * d + part + 8 * (at % 2))) };
        }
        for (at, (weights, values)) in weights.iter().zip(values.chunks_exact(d)).enumerate() {
            fetch(next.as_ptr().wrapping_add(at * d + part));
            let weights: &[f32; ABREAST] =
                weights[first..].first_chunk().expect("a multiple of the rows abreast");
            // SAFETY: `part + 16 <= d`.
            let values = unsafe {
                let from = values.as_ptr().add(part);
                [E::load_256(from), E::load_256(from.add(8))]
            };
            for (sums, &weight) in sums.iter_mut().zip(weights) {
                let weight = _mm256_set1_ps(weight);
                for (sum, values) in sums.iter_mut().zip(values) {
                    *sum = _mm256_fmadd_ps(weight, values, *sum);
                }
            }
        }
        // By reference: taking the array apart by value goes through memory, which took half of this function's time.
        for (at, sum) in sums.as_flattened().iter().enumerate() {
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(o.as_mut_ptr().add(at / 2 * d + part + 8 * (at % 2)), *sum) };
        }
    }
}

multiversion! {
    /// Adds the values of some keys to the output of one row.
    fn add_row<E: Stored>(scores: &[f32], values: &[E], o: &mut [f32]) {
        let d = o.len();
        let (whole, rest) = o.as_chunks_mut::<16>();
        let first_rest = whole.len() * 16;
        for (part, o) in whole.iter_mut().enumerate() {
            let mut sums = *o;
            for (&p, values) in scores.iter().zip(values.chunks_exact(d)) {
                let values: &[E] = &values[part * 16..part * 16 + 16];
                for (sum, &value) in sums.iter_mut().zip(values) {
                    *sum = p.mul_add(value.load(), *sum);
                }
            }
            *o = sums;
        }
        for (&p, values) in scores.iter().zip(values.chunks_exact(d)) {
            for (o, &value) in rest.iter_mut().zip(&values[first_rest..]) {
                *o = p.mul_add(value.load(), *o);
            }
        }
    }
}
