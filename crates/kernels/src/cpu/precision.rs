//! Weights held in fewer bits than the numbers that are multiplied by them.
//!
//! A product widens them to `f32`, in registers for few rows, otherwise piece by piece into memory that stays in the
//! first cache, and goes on with the kernel for `f32`: its bits are those of the product with the rounded weights, so nothing but
//! the rounding is approximate. Where the processor is fast at multiplying bf16 itself, the left operand is rounded too, and sums stay in `f32`.

use std::cell::RefCell;

use super::isa::{Isa, multiversion};
use super::pack::{Line, PANEL, STRIP, STRIPS};
use super::pairs::{Pairs, high, lines_in_pairs, low, words};

/// Inner indices that are widened at a time, 32 KB of `f32`, and that share a scale in 8 bits.
pub(super) const GROUP: usize = 128;
/// Inner indices of a line in 8 bits.
pub(super) const QUAD: usize = 4;

/// The number format of packed weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32 bits: the weights as they are.
    #[default]
    F32,
    /// 16 bits with the range of `f32`, rounded to nearest, ties to even.
    Bf16,
    /// 8 bits: `round(w / s)` with `s = max |w| / 127` over 128 inner indices of a column.
    Int8,
}

impl Precision {
    /// Whether products with weights of this format round what they are multiplied with: bf16 on a processor that multiplies it
    /// itself (AVX512-BF16) in less time than it takes to widen it and to multiply that. Everywhere else a product is that of the
    /// rounded weights with numbers as they are.
    pub fn rounds_inputs(self) -> bool {
        self == Self::Bf16 && Isa::of_dots().is_some()
    }
}

/// The scales of a panel's columns.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Scales(pub(super) [f32; PANEL]);

/// A strip's weights in 8 bits of [`QUAD`] inner indices, one after the other.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Quad(pub(super) [[i8; STRIP]; QUAD]);

/// Weights in fewer bits, in strips as [`super::Packed`] has them: in bf16 a line of pairs stands for two of numbers, in 8 bits a
/// [`Quad`] for four. The scales of a panel's group of inner indices are at `panel·⌈inner / 128⌉ + k / 128`.
#[derive(Clone, Debug)]
pub(super) enum Narrow {
    Bf16(Vec<Pairs>),
    Int8 { values: Vec<Quad>, scales: Vec<Scales> },
}

impl Narrow {
    /// Rounds panels of four strips of `inner` lines each; `None` where nothing is to be rounded.
    pub(super) fn of(lines: &[Line], inner: usize, precision: Precision) -> Option<Self> {
        let panels = lines.len().checked_div(inner * STRIPS).unwrap_or(0);
        let value =
            |panel: usize, k: usize, c: usize| lines[(panel * STRIPS + c / STRIP) * inner + k].0[c % STRIP];
        match precision {
            Precision::F32 => None,
            Precision::Bf16 => {
                let mut pairs = vec![Pairs([0; STRIP]); panels * STRIPS * words(inner)];
                for (lines, pairs) in
                    lines.chunks_exact(inner.max(1)).zip(pairs.chunks_exact_mut(words(inner).max(1)))
                {
                    lines_in_pairs(lines, pairs);
                }
                Some(Self::Bf16(pairs))
            }
            Precision::Int8 => {
                let of_strip = inner.div_ceil(QUAD);
                let mut values = vec![Quad([[0; STRIP]; QUAD]); panels * STRIPS * of_strip];
                let mut scales = Vec::new();
                for panel in 0..panels {
                    for group in (0..inner).step_by(GROUP) {
                        let group = group..inner.min(group + GROUP);
                        let scale: [f32; PANEL] = std::array::from_fn(|c| {
                            group.clone().fold(0.0, |most: f32, k| most.max(value(panel, k, c).abs() / 127.0))
                        });
                        let round = |value: f32, scale: f32| {
                            if scale > 0.0 { (value / scale).round().clamp(-127.0, 127.0) as i8 } else { 0 }
                        };
                        for (strip, k) in (0..STRIPS).flat_map(|strip| group.clone().map(move |k| (strip, k)))
                        {
                            let line = &mut values[(panel * STRIPS + strip) * of_strip + k / QUAD];
                            line.0[k % QUAD] = std::array::from_fn(|lane| {
                                let c = strip * STRIP + lane;
                                round(value(panel, k, c), scale[c])
                            });
                        }
                        scales.push(Scales(scale));
                    }
                }
                Some(Self::Int8 { values, scales })
            }
        }
    }

    pub(super) fn precision(&self) -> Precision {
        match self {
            Self::Bf16(_) => Precision::Bf16,
            Self::Int8 { .. } => Precision::Int8,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Bf16(pairs) => std::mem::size_of_val(pairs.as_slice()),
            Self::Int8 { values, scales } => {
                std::mem::size_of_val(values.as_slice()) + std::mem::size_of_val(scales.as_slice())
            }
        }
    }

    /// The first line, and the inner indices of a line.
    pub(super) fn lines(&self) -> (*const f32, usize) {
        match self {
            Self::Bf16(pairs) => (pairs.as_ptr().cast(), 2),
            Self::Int8 { values, .. } => (values.as_ptr().cast(), QUAD),
        }
    }

    /// Calls `with` with rows `k .. k + depth` of a panel's strips as `f32`, and the lines from strip to strip; `k` is a multiple of [`GROUP`].
    pub(super) fn widened<R>(
        &self,
        panel: usize,
        inner: usize,
        k: usize,
        depth: usize,
        with: impl FnOnce(&[Line], usize) -> R,
    ) -> R {
        thread_local! {
            static WIDE: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
        }
        debug_assert!(k.is_multiple_of(GROUP) && k + depth <= inner);
        let stride = depth.next_multiple_of(QUAD).max(QUAD);
        WIDE.with_borrow_mut(|wide| {
            if wide.len() < stride * STRIPS {
                wide.resize(stride * STRIPS, Line([0.0; 16]));
            }
            match self {
                Self::Bf16(pairs) => {
                    let of_strip = words(inner);
                    let panel = &pairs[panel * STRIPS * of_strip..][..STRIPS * of_strip];
                    for (pairs, wide) in panel.chunks_exact(of_strip).zip(wide.chunks_exact_mut(stride)) {
                        widen_bf16(&pairs[k / 2..][..words(depth)], wide);
                    }
                }
                Self::Int8 { values, scales } => {
                    let of_strip = inner.div_ceil(QUAD);
                    let scales =
                        &scales[panel * inner.div_ceil(GROUP) + k / GROUP..][..depth.div_ceil(GROUP)];
                    let panel = &values[panel * STRIPS * of_strip..][..STRIPS * of_strip];
                    let strips = panel.chunks_exact(of_strip).zip(wide.chunks_exact_mut(stride));
                    for (strip, (values, wide)) in strips.enumerate() {
                        let groups = values[k / QUAD..][..depth.div_ceil(QUAD)].chunks(GROUP / QUAD);
                        for ((values, wide), scales) in groups.zip(wide.chunks_mut(GROUP)).zip(scales) {
                            widen_int8(values, &scales.0.as_chunks::<STRIP>().0[strip], wide);
                        }
                    }
                }
            }
            with(wide, stride)
        })
    }
}

multiversion! {
    fn widen_bf16(pairs: &[Pairs], wide: &mut [Line]) {
        for (pairs, [first, second]) in pairs.iter().zip(wide.as_chunks_mut::<2>().0) {
            for ((word, first), second) in pairs.0.iter().zip(&mut first.0).zip(&mut second.0) {
                (*first, *second) = (low(*word), high(*word));
            }
        }
    }
}

multiversion! {
    fn widen_int8(values: &[Quad], scales: &[f32; STRIP], wide: &mut [Line]) {
        for (line, wide) in values.iter().zip(wide.as_chunks_mut::<QUAD>().0) {
            for (values, wide) in line.0.iter().zip(wide) {
                for ((value, scale), wide) in values.iter().zip(scales).zip(&mut wide.0) {
                    *wide = f32::from(*value) * scale;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;
    use proptest::prelude::*;

    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, noise};
    use crate::cpu::{Packed, gemm};

    /// The weights `[out, in]` as the narrow formats hold them: the plain twin.
    fn rounded(weight: &[f32], inn: usize, precision: Precision) -> Vec<f32> {
        match precision {
            Precision::F32 => weight.to_vec(),
            Precision::Bf16 => weight.iter().map(|w| bf16::from_f32(*w).to_f32()).collect(),
            Precision::Int8 => weight
                .chunks(inn)
                .flat_map(|column| column.chunks(GROUP))
                .flat_map(|group| {
                    let scale = group.iter().fold(0.0_f32, |most, w| most.max(w.abs() / 127.0));
                    group.iter().map(move |w| if scale > 0.0 { (w / scale).round() * scale } else { 0.0 })
                })
                .collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn equals_the_product_with_rounded_weights_bit_for_bit(
            m in 1_usize..40, k in 1_usize..300, n in 1_usize..150, seed: u64,
        ) {
            let (x, w, b) = (noise(m * k, seed), noise(n * k, seed ^ 1), noise(n, seed ^ 2));
            for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
                let run = |packed: &Packed| {
                    let mut y = vec![f32::NAN; m * n];
                    gemm(&x, (k, 1), m, packed, Some(&b), &mut y);
                    y
                };
                let narrow = Packed::from_out_in(&w, n, k).with_precision(precision);
                let plain = Packed::from_out_in(&rounded(&w, k, precision), n, k);
                let got = forced::same_bits(|| forced::with_dots(false, || run(&narrow)));
                assert_bits(&format!("{precision:?}"), &got, &run(&plain));
            }
        }

        #[test]
        fn dot_products_round_both_and_depend_on_row_and_column_alone(
            m in 1_usize..20, k in 1_usize..300, n in 1_usize..150, seed: u64, transposed: bool,
        ) {
            let (x, w, b) = (noise(m * k, seed), noise(n * k, seed ^ 1), noise(n, seed ^ 2));
            let strides = if transposed { (1, m) } else { (k, 1) };
            let packed = Packed::from_out_in(&w, n, k).with_precision(Precision::Bf16);
            let run = |x: &[f32], strides, m: usize| {
                let mut y = vec![f32::NAN; m * n];
                gemm(x, strides, m, &packed, Some(&b), &mut y);
                y
            };
            let round = |value: f32| bf16::from_f32(value).to_f32();
            // In words: pairs in order, of each the second before the first.
            let twin = |i: usize, j: usize| {
                let mut sum = 0.0_f32;
                for pair in 0..k.div_ceil(2) {
                    for p in [2 * pair + 1, 2 * pair].into_iter().filter(|p| *p < k) {
                        sum = round(x[i * strides.0 + p * strides.1]).mul_add(round(w[j * k + p]), sum);
                    }
                }
                sum + b[j]
            };
            let want: Vec<f32> = (0..m * n).map(|o| twin(o / n, o % n)).collect();
            for (isa, y) in forced::on_each(|| forced::with_dots(true, || run(&x, strides, m))) {
                for (got, want) in y.iter().zip(&want) {
                    // A processor may round the sum of two products once.
                    let bound = if isa == Isa::Portable { 0.0 } else { 1e-6 * k as f32 };
                    prop_assert!((got - want).abs() <= bound, "{isa:?}: {got} for {want}");
                }
            }
            let together = forced::with_dots(true, || run(&x, strides, m));
            for i in 0..m {
                let row: Vec<f32> = (0..k).map(|p| x[i * strides.0 + p * strides.1]).collect();
                let alone = forced::with_dots(true, || run(&row, (k, 1), 1));
                assert_bits("a row alone", &alone, &together[i * n..][..n]);
            }
        }
    }

    #[test]
    fn long_products_are_widened_pass_by_pass_without_changing_a_bit() {
        for (m, k, n) in [(30, 1701, 130), (5, 1701, 70)] {
            let (x, w) = (noise(m * k, 5), noise(n * k, 6));
            let run = |packed: &Packed| {
                let mut y = vec![f32::NAN; m * n];
                gemm(&x, (k, 1), m, packed, None, &mut y);
                y
            };
            for precision in [Precision::Bf16, Precision::Int8] {
                let narrow = Packed::from_out_in(&w, n, k).with_precision(precision);
                let plain = Packed::from_out_in(&rounded(&w, k, precision), n, k);
                let got = forced::same_bits(|| forced::with_dots(false, || run(&narrow)));
                assert_bits(&format!("{m} rows in {precision:?}"), &got, &run(&plain));
            }
        }
    }

    #[test]
    fn long_dot_products_are_split_over_passes_and_threads_without_changing_a_bit() {
        let (m, k, n) = (97, 3301, 130);
        let (x, w) = (noise(m * k, 5), noise(n * k, 6));
        let packed = Packed::from_out_in(&w, n, k).with_precision(Precision::Bf16);
        let y = forced::with_dots(true, || {
            let mut y = vec![f32::NAN; m * n];
            gemm(&x, (k, 1), m, &packed, None, &mut y);
            y
        });
        for i in [0, 50, m - 1] {
            let mut row = vec![f32::NAN; n];
            forced::with_dots(true, || gemm(&x[i * k..][..k], (k, 1), 1, &packed, None, &mut row));
            assert_bits("row", &row, &y[i * n..][..n]);
        }
        let exact = (0..k).map(|p| f64::from(x[p]) * f64::from(w[p])).sum::<f64>();
        let scale = (0..k).map(|p| f64::from(x[p] * w[p]).powi(2)).sum::<f64>().sqrt();
        assert!((f64::from(y[0]) - exact).abs() < 4.0 * scale / 256.0, "{} for {exact}", y[0]);
        assert!((f64::from(y[0]) - exact).abs() > 0.0, "both are rounded");
    }

    #[test]
    fn fewer_bits_take_less_memory() {
        let packed = Packed::from_out_in(&noise(640 * 576, 1), 640, 576);
        let bytes = |precision| packed.clone().with_precision(precision).bytes();
        assert_eq!(bytes(Precision::F32), 640 * 576 * 4);
        assert_eq!(bytes(Precision::Bf16), 640 * 576 * 2);
        assert_eq!(bytes(Precision::Int8), 640 * 576 + 640 * 5 * 4);
        assert_eq!(packed.with_precision(Precision::Int8).precision(), Precision::Int8);
    }

    #[test]
    fn columns_of_zeros_stay_zero() {
        let packed = Packed::from_out_in(&[0.0; 6], 2, 3).with_precision(Precision::Int8);
        let mut y = [f32::NAN; 2];
        gemm(&[1.0, 2.0, 3.0], (3, 1), 1, &packed, None, &mut y);
        assert_eq!(y, [0.0; 2]);
    }
}
