//! Weights laid out for the matrix product: strips of 16 output columns, four to a panel.
#![allow(unsafe_code, reason = "memory that is written whole and not cleared before")]

use std::mem::MaybeUninit;

use super::microkernel::Lines;
use super::pairs::{Pairs, words};
use super::precision::{GROUP, Narrow, Precision, QUAD};

/// Output columns of a panel, which one thread computes at a time.
pub const PANEL: usize = 64;
/// Output columns of a strip, a cache line for each inner index. A strip is read from its first byte to its last, whatever the
/// number of accumulators a processor has.
pub(super) const STRIP: usize = 16;
/// Strips of a panel.
pub(super) const STRIPS: usize = PANEL / STRIP;
/// Lines of a strip that are put together at a time.
const BLOCK: usize = 64;

/// One cache line, so that no vector load of a panel crosses two.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [f32; 16]);

/// A `[inner, columns]` matrix in strips of 16 columns, each `[inner, 16]`, filled up with zeros to whole panels of [`PANEL`]
/// columns.
///
/// Element `(k, c)` lies at `(c / 16)·inner·16 + k·16 + c mod 16`.
///
/// ```
/// let weight = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [out = 3, in = 2]
/// let packed = kernels::Packed::from_out_in(&weight, 3, 2);
/// assert_eq!((packed.columns(), packed.inner()), (3, 2));
/// let mut y = [0.0; 3];
/// kernels::cpu::gemm(&[1.0, 10.0], (2, 1), 1, &packed, None, &mut y);
/// assert_eq!(y, [21.0, 43.0, 65.0]);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Packed {
    /// Empty where the weights are held in fewer bits.
    lines: Vec<Line>,
    narrow: Option<Narrow>,
    columns: usize,
    inner: usize,
}

impl Packed {
    /// Packs `weight` `[out, in]`, row-major as Hugging Face stores it: the product is `y = x Wᵀ`.
    ///
    /// # Panics
    /// When `weight.len() != out * inn`.
    pub fn from_out_in(weight: &[f32], out: usize, inn: usize) -> Self {
        assert_eq!(
            weight.len(),
            out * inn,
            "Packed::from_out_in: {} elements for [out {out}, in {inn}]",
            weight.len()
        );
        let mut packed = Self::default();
        packed.fill(weight, out, inn, inn, 1);
        packed
    }

    /// Packs `weight` `[in, out]`, row-major: the product is `y = x W`.
    ///
    /// # Panics
    /// When `weight.len() != inn * out`.
    pub fn from_in_out(weight: &[f32], inn: usize, out: usize) -> Self {
        assert_eq!(
            weight.len(),
            inn * out,
            "Packed::from_in_out: {} elements for [in {inn}, out {out}]",
            weight.len()
        );
        let mut packed = Self::default();
        packed.fill(weight, out, inn, 1, out);
        packed
    }

    /// A packed matrix of nothing, to [`fill`](Self::fill) later.
    pub const fn empty() -> Self {
        Self { lines: Vec::new(), narrow: None, columns: 0, inner: 0 }
    }

    /// Packs anew in the memory at hand: column `c`, inner index `k` is read from `source[c·column_stride + k·inner_stride]`.
    ///
    /// # Panics
    /// When an index would lie beyond the source.
    pub fn fill(
        &mut self,
        source: &[f32],
        columns: usize,
        inner: usize,
        column_stride: usize,
        inner_stride: usize,
    ) {
        if columns > 0 && inner > 0 {
            let last = (columns - 1) * column_stride + (inner - 1) * inner_stride;
            assert!(last < source.len(), "Packed::fill: index {last} of {} elements", source.len());
        }
        let panel_lines = inner * STRIPS;
        let whole = PackTask { source, columns, inner, column_stride, inner_stride };
        let lines = self.reset(columns, inner);
        if lines.is_empty() {
            return;
        }
        if columns * inner < 64 * 1024 {
            for (panel, lines) in lines.chunks_mut(panel_lines).enumerate() {
                whole.panel(panel, lines);
            }
        } else {
            use rayon::iter::{IndexedParallelIterator, ParallelIterator};
            use rayon::slice::ParallelSliceMut;
            lines
                .par_chunks_mut(panel_lines)
                .enumerate()
                .for_each(|(panel, lines)| whole.panel(panel, lines));
        }
        // SAFETY: each panel has written all of its lines.
        unsafe { self.written() };
    }

    /// Number of output columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Length of the inner dimension.
    pub fn inner(&self) -> usize {
        self.inner
    }

    /// Number of panels.
    pub fn panels(&self) -> usize {
        self.columns.div_ceil(PANEL)
    }

    /// Memory taken, in bytes.
    pub fn bytes(&self) -> usize {
        self.narrow.as_ref().map_or(self.lines.len() * size_of::<Line>(), Narrow::bytes)
    }

    /// The same weights in another number format; those in fewer bits stay as rounded as they are.
    #[must_use]
    pub fn with_precision(mut self, precision: Precision) -> Self {
        if self.narrow.is_none() {
            self.narrow = Narrow::of(&self.lines, self.inner, precision);
            if self.narrow.is_some() {
                self.lines = Vec::new();
            }
        }
        self
    }

    /// The number format.
    pub fn precision(&self) -> Precision {
        self.narrow.as_ref().map_or(Precision::F32, Narrow::precision)
    }

    /// Lines of a strip that [`Packed::with_lines_of`] is to be asked for at a time, about `wanted`.
    pub(super) fn depth(&self, lines: Lines, wanted: usize) -> usize {
        match lines {
            Lines::Single if self.narrow.is_some() => wanted.next_multiple_of(GROUP),
            Lines::Bytes => GROUP / QUAD,
            _ => wanted,
        }
    }

    /// Calls `with` with lines `first .. first + depth` of each strip of a panel; weights in fewer bits are widened where single lines
    /// are asked for; those in bf16 alone have lines of pairs, those in 8 bits alone lines of bytes, of which a pass has one group.
    pub(super) fn with_lines_of<R>(
        &self,
        lines: Lines,
        panel: usize,
        first: usize,
        depth: usize,
        with: impl FnOnce(Strips) -> R,
    ) -> R {
        let mut scales = std::ptr::null();
        let more = panel + 1 < self.panels();
        let (all, count, of_strip): (*const f32, usize, usize) = match (lines, &self.narrow) {
            (Lines::Single, Some(narrow)) => {
                let (all, per_line) = narrow.lines();
                let of_strip = self.inner.div_ceil(per_line);
                let place = STRIPS * ((panel + 1) * of_strip + first / per_line);
                let from = all.wrapping_add(place * STRIP);
                let next = if more { Next::Narrow { from, per_line } } else { Next::Nothing };
                return narrow.widened(panel, self.inner, first, depth, |wide, stride| {
                    with(Strips { start: wide.as_ptr().cast(), stride: stride * STRIP, next, scales })
                });
            }
            (Lines::Pairs | Lines::Dots, Some(Narrow::Bf16(pairs))) => {
                (pairs.as_ptr().cast(), pairs.len(), words(self.inner))
            }
            (Lines::Bytes, Some(Narrow::Int8 { values, scales: all })) => {
                let group = panel * self.inner.div_ceil(GROUP) + first * QUAD / GROUP;
                scales = all.get(group).map_or(scales, |scales| scales.0.as_ptr());
                (values.as_ptr().cast(), values.len(), self.inner.div_ceil(QUAD))
            }
            (Lines::Single, None) => (self.lines.as_ptr().cast(), self.lines.len(), self.inner),
            (lines, _) => unreachable!("{lines:?} of weights in {:?}", self.precision()),
        };
        let of_panel = STRIPS * of_strip;
        assert!((panel + 1) * of_panel <= count && first + depth <= of_strip, "lines of a packed matrix");
        let panel_start = all.wrapping_add(panel * of_panel * STRIP);
        let start = panel_start.wrapping_add(first * STRIP);
        let next = if first + depth < of_strip {
            Next::Strips(start.wrapping_add(depth * STRIP))
        } else if more {
            Next::Strips(panel_start.wrapping_add(of_panel * STRIP))
        } else {
            Next::Nothing
        };
        with(Strips { start, stride: of_strip * STRIP, next, scales })
    }

    /// Calls `with` with the numbers of inner indices `k .. k + depth` of each strip of a panel, `k` and `depth` as [`Packed::depth`] allows for single
    /// lines.
    pub(super) fn with_lines<R>(
        &self,
        panel: usize,
        k: usize,
        depth: usize,
        with: impl FnOnce([&[Line]; STRIPS]) -> R,
    ) -> R {
        if let Some(narrow) = &self.narrow {
            return narrow.widened(panel, self.inner, k, depth, |wide, stride| {
                with(std::array::from_fn(|strip| &wide[strip * stride..][..depth]))
            });
        }
        let strip = |strip: usize| &self.lines[(panel * STRIPS + strip) * self.inner + k..][..depth];
        with(std::array::from_fn(strip))
    }

    /// Makes it a matrix of this shape in bf16 in the memory at hand, and gives its lines of pairs, whatever they hold.
    pub(super) fn reset_pairs(&mut self, columns: usize, inner: usize) -> &mut [Pairs] {
        let mut pairs = match self.narrow.take() {
            Some(Narrow::Bf16(pairs)) => pairs,
            _ => Vec::new(),
        };
        self.reset(0, 0);
        (self.columns, self.inner) = (columns, inner);
        pairs.resize(self.panels() * STRIPS * words(inner), Pairs([0; STRIP]));
        match self.narrow.insert(Narrow::Bf16(pairs)) {
            Narrow::Bf16(pairs) => pairs,
            Narrow::Int8 { .. } => &mut [],
        }
    }

    /// Makes it a matrix of this shape in the memory at hand, and gives its lines to be [`written`](Self::written), which are not cleared before.
    pub(super) fn reset(&mut self, columns: usize, inner: usize) -> &mut [MaybeUninit<Line>] {
        (self.columns, self.inner, self.narrow) = (columns, inner, None);
        let total = self.panels() * STRIPS * inner;
        self.lines.clear();
        self.lines.reserve_exact(total);
        &mut self.lines.spare_capacity_mut()[..total]
    }

    /// Takes over the lines.
    ///
    /// # Safety
    /// All that [`Packed::reset`] gave have been written.
    pub(super) unsafe fn written(&mut self) {
        // SAFETY: reserved for this shape, and written by the caller's promise.
        unsafe { self.lines.set_len(self.panels() * STRIPS * self.inner) };
    }
}

/// Some lines of a panel's strips.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strips {
    /// The first element of the first strip, 64-byte aligned; the strip's lines follow each other.
    pub(super) start: *const f32,
    /// Distance between strips.
    pub(super) stride: usize,
    /// What comes after these lines.
    pub(super) next: Next,
    /// The scales of the panel's columns, of lines of bytes.
    pub(super) scales: *const f32,
}

/// Where the lines lie that a product wants next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// Nowhere: these are the last.
    Nothing,
    /// From there, strips as far apart as these.
    Strips(*const f32),
    /// From there, one after the other, those of all strips: a line holds what `per_line` lines are widened from it.
    Narrow {
        /// The first of them.
        from: *const f32,
        /// Two in bf16, four in 8 bits.
        per_line: usize,
    },
}

/// What one thread needs to fill a panel.
struct PackTask<'a> {
    source: &'a [f32],
    columns: usize,
    inner: usize,
    column_stride: usize,
    inner_stride: usize,
}

impl PackTask<'_> {
    /// Fills the strips of a panel; columns past the end become zero.
    fn panel(&self, panel: usize, lines: &mut [MaybeUninit<Line>]) {
        debug_assert_eq!(lines.len(), self.inner * STRIPS);
        let (first, inner) = (panel * PANEL, self.inner);
        let width = PANEL.min(self.columns - first);
        if self.column_stride == 1 {
            for k in 0..inner {
                let mut rest = &self.source[first + k * self.inner_stride..][..width];
                for strip in 0..STRIPS {
                    let (part, after) = rest.split_at(rest.len().min(STRIP));
                    let line = part.try_into().unwrap_or_else(|_| {
                        let mut line = [0.0; STRIP];
                        line[..part.len()].copy_from_slice(part);
                        line
                    });
                    lines[strip * inner + k].write(Line(line));
                    rest = after;
                }
            }
            return;
        }
        let mut block = [Line([0.0; STRIP]); BLOCK];
        for (strip, lines) in lines.chunks_exact_mut(inner).enumerate() {
            // Some rows of the strip at a time, which stay in the first cache while each source line is read once.
            for (index, rows) in lines.chunks_mut(BLOCK).enumerate() {
                for lane in 0..STRIP {
                    let c = strip * STRIP + lane;
                    let block = &mut block[..rows.len()];
                    if c >= width {
                        for row in block {
                            row.0[lane] = 0.0;
                        }
                        continue;
                    }
                    let source =
                        &self.source[(first + c) * self.column_stride + index * BLOCK * self.inner_stride..];
                    if self.inner_stride == 1 {
                        for (row, value) in block.iter_mut().zip(source) {
                            row.0[lane] = *value;
                        }
                    } else {
                        for (row, value) in block.iter_mut().zip(source.iter().step_by(self.inner_stride)) {
                            row.0[lane] = *value;
                        }
                    }
                }
                for (row, line) in rows.iter_mut().zip(&block) {
                    row.write(*line);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::math::noise;

    fn element(packed: &Packed, k: usize, c: usize) -> f32 {
        packed.lines[(c / STRIP) * packed.inner + k].0[c % STRIP]
    }

    #[test]
    fn both_layouts_put_every_element_in_its_place_and_zeros_after() {
        for (out, inn) in [(1, 1), (3, 2), (64, 16), (65, 17), (130, 33), (700, 150)] {
            let weight = noise(out * inn, 3);
            let transposed: Vec<f32> = (0..inn * out).map(|i| weight[(i % out) * inn + i / out]).collect();
            let a = Packed::from_out_in(&weight, out, inn);
            let b = Packed::from_in_out(&transposed, inn, out);
            let mut c = Packed::from_in_out(&noise(4000, 9), 40, 100);
            c.fill(&weight, out, inn, inn, 1);
            for k in 0..inn {
                for column in 0..out.next_multiple_of(PANEL) {
                    let expected = if column < out { weight[column * inn + k] } else { 0.0 };
                    for packed in [&a, &b, &c] {
                        assert_eq!(
                            element(packed, k, column),
                            expected,
                            "[{out}, {inn}] k {k} column {column}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn empty_dimensions_pack_to_nothing() {
        assert_eq!(Packed::from_out_in(&[], 0, 5).panels(), 0);
        assert_eq!(Packed::from_out_in(&[], 5, 0).bytes(), 0);
    }

    #[test]
    #[should_panic(expected = "5 elements for [out 2, in 3]")]
    fn wrong_length_is_refused() {
        let _ = Packed::from_out_in(&[0.0; 5], 2, 3);
    }
}
