//! The way back through a packed matrix: its transpose packed, and the matrix itself row by row. What is packed needs no second copy for
//! its gradient.
#![allow(unsafe_code, reason = "memory that is written whole and not cleared before")]

use std::mem::MaybeUninit;
use std::ops::Range;

use rayon::iter::{IndexedParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;

use super::isa::multiversion;
use super::pack::{Line, PANEL, Packed, STRIP, STRIPS};
use super::pairs::{Pairs, lines_in_pairs, words};
use super::precision::GROUP;

impl Packed {
    /// Packs the transpose of some columns, rounded as they are held, in the memory at hand: the product is `dx = dy·W` of the
    /// part of `dy` that belongs to these columns. It is in `f32`, or in bf16 where that [rounds](super::Precision::rounds_inputs)
    /// what it is multiplied with.
    ///
    /// ```
    /// use kernels::{Packed, cpu::gemm};
    /// let packed = Packed::from_out_in(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 2);
    /// let mut back = Packed::empty();
    /// back.fill_transposed(&packed, 0..3);
    /// let mut dx = [0.0; 2];
    /// gemm(&[1.0, 10.0, 100.0], (3, 1), 1, &back, None, &mut dx);
    /// assert_eq!(dx, [531.0, 642.0]);
    /// ```
    ///
    /// # Panics
    /// When the columns do not begin with a panel ([`PANEL`]) or end beyond the last.
    pub fn fill_transposed(&mut self, of: &Self, columns: Range<usize>) {
        assert!(
            columns.start.is_multiple_of(PANEL) && columns.end <= of.columns(),
            "Packed::fill_transposed: columns {columns:?} of {}, panels of {PANEL}",
            of.columns()
        );
        let inner = columns.len();
        if inner == 0 || of.inner() == 0 {
            self.reset(of.inner(), inner);
        } else if of.precision().rounds_inputs() {
            let (lines, stride) = (self.reset_pairs(of.inner(), inner), words(inner));
            transpose(of, columns, lines, stride, |rows, width, first, lines| {
                transpose_strip_in_pairs(rows, width, &mut lines[first / 2..], stride);
            });
        } else {
            let lines = self.reset(of.inner(), inner);
            transpose(of, columns, lines, inner, |rows, width, first, lines| {
                transpose_strip(rows, width, &mut lines[first..], inner);
            });
            // SAFETY: each group of inner indices writes its panels, at all columns.
            unsafe { self.written() };
        }
    }

    /// The matrix `[out, in]`, row-major, rounded as it is held.
    pub fn to_out_in(&self) -> Vec<f32> {
        let (out, inner) = (self.columns(), self.inner());
        let mut weight = vec![0.0; out * inner];
        if weight.is_empty() {
            return weight;
        }
        weight.par_chunks_mut(PANEL * inner).enumerate().for_each(|(panel, rows)| {
            for k in (0..inner).step_by(GROUP) {
                let depth = GROUP.min(inner - k);
                self.with_lines(panel, k, depth, |strips| {
                    for (column, row) in rows.chunks_exact_mut(inner).enumerate() {
                        let lines = strips[column / STRIP];
                        for (value, line) in row[k..k + depth].iter_mut().zip(lines) {
                            *value = line.0[column % STRIP];
                        }
                    }
                });
            }
        });
        weight
    }
}

/// Calls `strip` with each strip of some columns, a group of inner indices at a time, how many of its columns there are, the first of them, and the
/// lines of two panels of the transpose, `stride` of them in a strip.
fn transpose<L: Send>(
    of: &Packed,
    columns: Range<usize>,
    lines: &mut [L],
    stride: usize,
    strip: impl Fn(&[Line], usize, usize, &mut [L]) + Sync,
) {
    // What shares a scale is widened together: two panels of the transpose.
    lines.par_chunks_mut(GROUP / PANEL * STRIPS * stride).enumerate().for_each(|(group, lines)| {
        let k = group * GROUP;
        let depth = GROUP.min(of.inner() - k);
        for panel in columns.start / PANEL..columns.end.div_ceil(PANEL) {
            of.with_lines(panel, k, depth, |strips| {
                for (index, rows) in strips.into_iter().enumerate() {
                    let first = panel * PANEL + index * STRIP;
                    if first < columns.end {
                        let width = STRIP.min(columns.end - first);
                        strip(rows, width, first - columns.start, lines);
                    }
                }
            });
        }
    });
}

/// The square of some rows of a strip, the last of them filled up with zeros, transposed.
#[allow(clippy::inline_always, reason = "compiled into each instruction set's version of the caller")]
#[inline(always)]
fn transposed_block(block: &[Line]) -> [Line; STRIP] {
    let mut square = [[0.0; STRIP]; STRIP];
    for (row, line) in square.iter_mut().zip(block) {
        *row = line.0;
    }
    transposed(square).map(Line)
}

multiversion! {
    /// Writes the first `width` columns of a strip's rows as rows of strips, `stride` lines from strip to strip; strips up to a whole
    /// panel of the target become zero where there are no rows.
    fn transpose_strip(rows: &[Line], width: usize, target: &mut [MaybeUninit<Line>], stride: usize) {
        let mut first = 0;
        for (strip, block) in rows.chunks(STRIP).enumerate() {
            target[strip * stride..][..width].write_copy_of_slice(&transposed_block(block)[..width]);
            first = strip + 1;
        }
        for strip in first..first.next_multiple_of(STRIPS) {
            target[strip * stride..][..width].fill(MaybeUninit::new(Line([0.0; STRIP])));
        }
    }
}

multiversion! {
    /// The same in pairs of columns.
    fn transpose_strip_in_pairs(rows: &[Line], width: usize, target: &mut [Pairs], stride: usize) {
        let mut first = 0;
        for (strip, block) in rows.chunks(STRIP).enumerate() {
            // All of it, whatever is wanted: loops of known length become vectors.
            let mut lines = transposed_block(block);
            lines[width..].fill(Line([0.0; STRIP]));
            let mut pairs = [Pairs([0; STRIP]); STRIP / 2];
            lines_in_pairs(&lines, &mut pairs);
            target[strip * stride..][..words(width)].copy_from_slice(&pairs[..words(width)]);
            first = strip + 1;
        }
        for strip in first..first.next_multiple_of(STRIPS) {
            target[strip * stride..][..words(width)].fill(Pairs([0; STRIP]));
        }
    }
}

/// Four times over, the first half of the rows is interleaved with the second.
#[allow(clippy::inline_always, reason = "compiled into each instruction set's version of the caller")]
#[inline(always)]
fn transposed(mut square: [[f32; STRIP]; STRIP]) -> [[f32; STRIP]; STRIP] {
    for _ in 0..STRIP.ilog2() {
        square = std::array::from_fn(|row| {
            let (a, b) = (&square[row / 2], &square[row / 2 + STRIP / 2]);
            let from = (row % 2) * (STRIP / 2);
            std::array::from_fn(|lane| if lane % 2 == 0 { a[from + lane / 2] } else { b[from + lane / 2] })
        });
    }
    square
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, noise};
    use crate::cpu::{Precision, gemm};

    /// Odd sizes, and more than one panel and group either way.
    const SHAPES: [(usize, usize); 7] =
        [(1, 1), (3, 2), (17, 33), (64, 64), (65, 129), (130, 300), (200, 576)];

    #[test]
    fn the_product_with_the_transpose_is_that_of_the_rounded_matrix_bit_for_bit() {
        for (out, inner) in SHAPES {
            let (weight, dy) = (noise(out * inner, 1), noise(5 * out, 2));
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                let packed = Packed::from_out_in(&weight, out, inner).with_precision(precision);
                let rounded = packed.to_out_in();
                let dx = |back: &Packed| {
                    let mut dx = vec![f32::NAN; 5 * inner];
                    gemm(&dy, (out, 1), 5, back, None, &mut dx);
                    dx
                };
                let got = forced::same_bits(|| {
                    // In memory that held something else.
                    let mut back = Packed::from_in_out(&noise(70 * 700, 3), 70, 700);
                    forced::with_dots(false, || back.fill_transposed(&packed, 0..out));
                    dx(&back)
                });
                let want = dx(&Packed::from_in_out(&rounded, out, inner));
                assert_bits(&format!("{precision:?} [{out}, {inner}]"), &got, &want);
            }
        }
    }

    #[test]
    fn for_dot_products_the_transpose_is_in_bf16_too() {
        for (out, inner) in SHAPES {
            let (weight, dy) = (noise(out * inner, 1), noise(5 * out, 2));
            let packed = Packed::from_out_in(&weight, out, inner).with_precision(Precision::Bf16);
            let want = Packed::from_in_out(&packed.to_out_in(), out, inner).with_precision(Precision::Bf16);
            forced::with_dots(true, || {
                for mut back in [Packed::empty(), want.clone(), Packed::from_in_out(&noise(4000, 3), 40, 100)]
                {
                    back.fill_transposed(&packed, 0..out);
                    assert_eq!(back.precision(), Precision::Bf16);
                    let [got, want] = [&back, &want].map(|back| {
                        let mut dx = vec![f32::NAN; 5 * inner];
                        gemm(&dy, (out, 1), 5, back, None, &mut dx);
                        dx
                    });
                    assert_bits(&format!("[{out}, {inner}]"), &got, &want);
                }
            });
        }
    }

    #[test]
    fn a_matrix_comes_back_as_it_is_held() {
        for (out, inner) in SHAPES {
            let weight = noise(out * inner, 4);
            let packed = Packed::from_out_in(&weight, out, inner);
            assert_bits("f32", &packed.to_out_in(), &weight);
            let bf16: Vec<f32> = weight.iter().map(|w| half::bf16::from_f32(*w).to_f32()).collect();
            assert_bits("bf16", &packed.with_precision(Precision::Bf16).to_out_in(), &bf16);
        }
        assert!(Packed::from_out_in(&[], 0, 3).to_out_in().is_empty());
    }

    #[test]
    fn parts_of_the_columns_add_up_to_all() {
        for (precision, dots) in [(Precision::Int8, false), (Precision::Bf16, true)] {
            forced::with_dots(dots, || parts(precision));
        }
    }

    fn parts(precision: Precision) {
        let (out, inner) = (200, 70);
        let (weight, dy) = (noise(out * inner, 5), noise(3 * out, 6));
        let packed = Packed::from_out_in(&weight, out, inner).with_precision(precision);
        let (mut back, mut whole) = (Packed::empty(), vec![0.0; 3 * inner]);
        back.fill_transposed(&packed, 0..out);
        gemm(&dy, (out, 1), 3, &back, None, &mut whole);
        let mut parts = vec![0.0; 3 * inner];
        for columns in [0..128, 128..200] {
            back.fill_transposed(&packed, columns.clone());
            crate::cpu::gemm::gemm_onto(&dy[columns.start..], (out, 1), 3, &back, &mut parts);
        }
        assert_bits("in two parts", &parts, &whole);
    }

    #[test]
    fn a_part_may_end_within_a_strip() {
        let (out, inner) = (200, 70);
        let (weight, dy) = (noise(out * inner, 7), noise(3 * 69, 8));
        let packed = Packed::from_out_in(&weight, out, inner).with_precision(Precision::Bf16);
        let rounded = packed.to_out_in();
        for dots in [false, true] {
            forced::with_dots(dots, || {
                let mut back = Packed::empty();
                back.fill_transposed(&packed, 64..133);
                let want = Packed::from_in_out(&rounded[64 * inner..133 * inner], 69, inner);
                let [got, want] = [back, want.with_precision(Precision::Bf16)].map(|back| {
                    let mut dx = vec![f32::NAN; 3 * inner];
                    gemm(&dy, (69, 1), 3, &back, None, &mut dx);
                    dx
                });
                assert_bits(&format!("dot products: {dots}"), &got, &want);
            });
        }
    }

    #[test]
    #[should_panic(expected = "columns 10..20 of 64")]
    fn a_part_within_a_panel_is_refused() {
        let packed = Packed::from_out_in(&[0.0; 64], 64, 1);
        Packed::empty().fill_transposed(&packed, 10..20);
    }
}
