//! Weights held in fewer bits than the numbers that are multiplied by them.
//!
//! A product widens them to `f32` piece by piece, into memory that stays in the first cache, and goes on with the kernel
//! for `f32`: its bits are those of the product with the rounded weights, so nothing but the rounding is approximate.

use std::cell::RefCell;

use half::bf16;

use super::isa::multiversion;
use super::pack::{Line, PANEL, STRIP, STRIPS};

/// Inner indices that are widened at a time, 32 KB of `f32`, and that share a scale in 8 bits.
pub(super) const GROUP: usize = 128;

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

/// One row of a panel, a part of a cache line or two whole ones.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Row<T>([T; PANEL]);

/// Panels in fewer bits: row `k` of panel `p` is at `p·inner + k`, scales at `p·⌈inner / 128⌉ + k / 128`.
#[derive(Clone, Debug)]
pub(super) enum Narrow {
    Bf16(Vec<Row<u16>>),
    Int8 { values: Vec<Row<i8>>, scales: Vec<Row<f32>> },
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
                let row = |row: usize| {
                    let bits = |c| bf16::from_f32(value(row / inner, row % inner, c)).to_bits();
                    Row(std::array::from_fn(bits))
                };
                Some(Self::Bf16((0..panels * inner).map(row).collect()))
            }
            Precision::Int8 => {
                let (mut values, mut scales) = (Vec::new(), Vec::new());
                for panel in 0..panels {
                    for group in (0..inner).step_by(GROUP) {
                        let group = group..inner.min(group + GROUP);
                        let scale: [f32; PANEL] = std::array::from_fn(|c| {
                            group.clone().fold(0.0, |most: f32, k| most.max(value(panel, k, c).abs() / 127.0))
                        });
                        let round = |value: f32, scale: f32| {
                            if scale > 0.0 { (value / scale).round().clamp(-127.0, 127.0) as i8 } else { 0 }
                        };
                        let row =
                            |k: usize| Row(std::array::from_fn(|c| round(value(panel, k, c), scale[c])));
                        values.extend(group.clone().map(row));
                        scales.push(Row(scale));
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
            Self::Bf16(rows) => std::mem::size_of_val(rows.as_slice()),
            Self::Int8 { values, scales } => {
                std::mem::size_of_val(values.as_slice()) + std::mem::size_of_val(scales.as_slice())
            }
        }
    }

    /// Calls `with` with rows `k .. k + depth` of a panel's strips as `f32`, [`GROUP`] lines from strip to strip; `k` is a multiple
    /// of [`GROUP`] and `depth` at most that.
    pub(super) fn widened<R>(
        &self,
        panel: usize,
        inner: usize,
        k: usize,
        depth: usize,
        with: impl FnOnce(&[Line]) -> R,
    ) -> R {
        thread_local! {
            static WIDE: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
        }
        debug_assert!(k.is_multiple_of(GROUP) && depth <= GROUP && k + depth <= inner);
        WIDE.with_borrow_mut(|wide| {
            wide.resize(GROUP * STRIPS, Line([0.0; 16]));
            let rows = panel * inner + k..panel * inner + k + depth;
            match self {
                Self::Bf16(values) => widen_bf16(&values[rows], wide),
                Self::Int8 { values, scales } => {
                    widen_int8(&values[rows], &scales[panel * inner.div_ceil(GROUP) + k / GROUP], wide);
                }
            }
            with(wide)
        })
    }
}

multiversion! {
    fn widen_bf16(rows: &[Row<u16>], wide: &mut [Line]) {
        for (strip, lines) in wide.chunks_exact_mut(GROUP).enumerate() {
            for (row, line) in rows.iter().zip(lines) {
                for (value, wide) in row.0[strip * STRIP..][..STRIP].iter().zip(&mut line.0) {
                    *wide = f32::from_bits(u32::from(*value) << 16);
                }
            }
        }
    }
}

multiversion! {
    fn widen_int8(rows: &[Row<i8>], scale: &Row<f32>, wide: &mut [Line]) {
        for (strip, lines) in wide.chunks_exact_mut(GROUP).enumerate() {
            let columns = strip * STRIP..(strip + 1) * STRIP;
            let scale = &scale.0[columns.clone()];
            for (row, line) in rows.iter().zip(lines) {
                for ((value, scale), wide) in row.0[columns.clone()].iter().zip(scale).zip(&mut line.0) {
                    *wide = f32::from(*value) * scale;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
            m in 1_usize..20, k in 1_usize..300, n in 1_usize..150, seed: u64,
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
                assert_bits(&format!("{precision:?}"), &forced::same_bits(|| run(&narrow)), &run(&plain));
            }
        }
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
