//! The matrix product with a packed weight.
#![allow(unsafe_code, reason = "threads write disjoint column blocks of one output")]

use super::isa::Isa;
use super::microkernel::{Ahead, Block, Lines, ROWS, strips};
use super::pack::{Next, PANEL, Packed, STRIP, STRIPS, Strips};
use super::pairs::words;
use super::parallel::{Output, Shared};
use super::precision::{Precision, QUAD};
use super::rows::{Left, Rows, grouped};
use super::split::Split;

/// Lines of a strip per pass over the rows. The chains rest in `y` between passes, so the bits do not depend on it; a
/// pass's part of a panel (256 B per line of its strips) stays in the second cache while all rows go over it.
const DEPTH: usize = 768;
/// The same for some blocks of rows by vectors of 512 bits: four strips of it, 24 KiB, stay in the first cache for all of them, and those that
/// follow are fetched meanwhile, in one stream. Of more blocks each goes back to its sums too often for what that saves.
#[cfg(target_arch = "x86_64")]
const SHALLOW: usize = 96;
/// Lines ahead of which one row fetches its weights: 256 bytes each, enough to cover the latency of memory.
const AHEAD: usize = 12;

/// `y = x·W + bias`, threaded.
///
/// Every output is one chain of fused multiply-adds over `k = 0, 1, …` from zero, then the bias is added: its bits
/// depend on its own row and column only. Call it from a rayon thread to save the hand-over of small products.
/// Weights in bf16 make it a chain of dot products of two where the processor is fast at them ([`Precision::rounds_inputs`]).
///
/// # Shapes
/// - `x`: `[rows, inner]`, element `(i, k)` at `x[i·strides.0 + k·strides.1]`: a transposed `x` needs no copy
/// - `weight`: `[inner, columns]`
/// - `bias`: `[columns]`
/// - `y`: `[rows, columns]`, row-major
///
/// # Panics
/// When a slice does not have the length its shape says.
pub fn gemm(
    x: &[f32],
    strides: (usize, usize),
    rows: usize,
    weight: &Packed,
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    product(Rows::new(x, strides, rows), Area::new(weight, bias, rows, Shared::new(y)), None);
}

/// [`gemm`] in memory of its own.
pub fn gemm_new(
    x: &[f32],
    strides: (usize, usize),
    rows: usize,
    weight: &Packed,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    gemm_and(Rows::new(x, strides, rows), weight, bias, None)
}

/// `x·W + bias + x₂·W₂` in memory of its own, the bits those of [`gemm`] and of [`gemm_onto`] after it: each part of the outputs is taken on
/// while it is still near.
///
/// # Panics
/// When a slice does not have the length its shape says, or the two products do not have one shape.
pub(super) fn gemm_and(
    x: Rows<'_>,
    weight: &Packed,
    bias: Option<&[f32]>,
    then: Option<(Rows<'_>, &Packed)>,
) -> Vec<f32> {
    let mut y = Output::new(x.count * weight.columns());
    let shared = y.shared();
    let area = |weight, bias, resume| Area { resume, ..Area::new(weight, bias, x.count, shared) };
    let then = then.map(|(rows, weight)| (rows, area(weight, None, true)));
    product(x, area(weight, bias, false), then);
    // SAFETY: a product writes all rows of all columns.
    unsafe { y.written() }
}

/// `y += x·W` as [`gemm`] has it, the chains of multiply-adds going on from what `y` holds: a product over a long inner dimension,
/// some of it at a time, has the bits of the whole.
pub(super) fn gemm_onto(x: &[f32], strides: (usize, usize), rows: usize, weight: &Packed, y: &mut [f32]) {
    let area = Area { resume: true, ..Area::new(weight, None, rows, Shared::new(y)) };
    product(Rows::new(x, strides, rows), area, None);
}

/// A product, and another that goes on from its outputs.
fn product(x: Rows<'_>, area: Area<'_>, then: Option<(Rows<'_>, Area<'_>)>) {
    let (rows, strides, weight) = (x.count, x.strides, area.weight);
    let mut split = Split::new(rows, weight.inner(), weight.panels());
    let left = Left::new(x, weight.inner(), std::iter::once(weight));
    let mut x = left.rows();
    let then = then.map(|(rows, area)| {
        assert_eq!(
            (rows.count, area.columns),
            (x.count, weight.columns()),
            "gemm: rows and columns of the two products"
        );
        (Left::new(rows, area.weight.inner(), std::iter::once(area.weight)), area)
    });
    // A transposed `x` gives six numbers of a cache line at a time, a page further on for each inner index.
    let laid_out;
    if strides.0 == 1 && strides.1 > 1 && !split.is_small() && area.lines != Lines::Dots {
        split.keep_groups();
        laid_out = grouped(x, weight.inner());
        x = Rows { data: laid_out.as_flattened(), strides: (weight.inner(), ROWS), grouped: true, ..x };
    }
    split.run(|panel, rows| {
        // SAFETY: each task has its own pair of panel and rows, hence its own outputs, of both products; `x` was checked.
        unsafe {
            area.panel(x, rows.clone(), panel);
            if let Some((left, area)) = &then {
                area.panel(left.rows(), rows, panel);
            }
        }
    });
}

/// A product on the calling thread that may stop short of the packed matrix's size and may resume chains.
pub(crate) struct Serial<'a> {
    /// The packed right operand.
    pub weight: &'a Packed,
    /// Inner indices used, from the first.
    pub inner: usize,
    /// Columns computed, from the first.
    pub columns: usize,
    /// Distance between rows of `y`.
    pub y_stride: usize,
    /// Add to what `y` holds.
    pub resume: bool,
}

impl Serial<'_> {
    /// Writes (or continues) `y[i, c]` for all rows of `x` and the first `columns` columns.
    pub(crate) fn run(&self, isa: Isa, x: Rows<'_>, y: &mut [f32]) {
        assert!(self.inner <= self.weight.inner() && self.columns <= self.weight.columns());
        if x.count == 0 || self.columns == 0 {
            return;
        }
        assert!(self.columns <= self.y_stride && (x.count - 1) * self.y_stride + self.columns <= y.len());
        x.check(self.inner);
        let (weight, inner, columns) = (self.weight, self.inner, self.columns);
        let (y, y_stride, resume) = (Shared::new(y), self.y_stride, self.resume);
        let lines = Lines::Single;
        let area = Area { weight, isa, lines, inner, columns, y, y_stride, resume, bias: None };
        for panel in 0..columns.div_ceil(PANEL) {
            // SAFETY: this thread alone holds `y`, whose bounds were checked above.
            unsafe { area.panel(x, 0..x.count, panel) };
        }
    }
}

/// The output and what is multiplied into it.
pub(super) struct Area<'a> {
    weight: &'a Packed,
    isa: Isa,
    lines: Lines,
    inner: usize,
    columns: usize,
    y: Shared<'a>,
    y_stride: usize,
    resume: bool,
    bias: Option<&'a [f32]>,
}

impl<'a> Area<'a> {
    /// The whole of a product of so many rows.
    ///
    /// # Panics
    /// When a slice does not have the length its shape says.
    pub(super) fn new(weight: &'a Packed, bias: Option<&'a [f32]>, rows: usize, y: Shared<'a>) -> Self {
        let columns = weight.columns();
        assert_eq!(
            y.len(),
            rows * columns,
            "gemm: y has {} elements for [rows {rows}, columns {columns}]",
            y.len()
        );
        if let Some(bias) = bias {
            assert_eq!(bias.len(), columns, "gemm: bias has {} elements for [columns {columns}]", bias.len());
        }
        let (isa, lines) = match (weight.precision(), Isa::of_dots()) {
            (Precision::Bf16, Some(isa)) => (isa, Lines::Dots),
            (precision, _) => (Isa::current(), widened(precision, Isa::current(), rows)),
        };
        let inner = weight.inner();
        Self { weight, isa, lines, inner, columns, y, y_stride: columns, resume: false, bias }
    }

    /// One pass over the rows, strip after strip, which stay in the first cache for all blocks of rows. Blocks have nearly equal
    /// height: 8 rows run as 4 + 4, not as 6 + 2, whose two rows starve the multipliers.
    ///
    /// # Safety
    /// As [`Area::panel`]; `weights` are the pass's lines of the panel.
    unsafe fn blocks(&self, x: Rows<'_>, rows: std::ops::Range<usize>, pass: Pass, weights: Strips) {
        let (data, strides): (*const f32, _) = match self.lines {
            Lines::Dots => (x.pairs.as_ptr().cast(), (words(self.inner), 1)),
            _ => (x.data.as_ptr(), x.strides),
        };
        let (mut first, all) = (0, pass.width.div_ceil(STRIP));
        while first < all {
            let abreast = strips(self.isa, self.lines, rows.len(), all - first);
            let mut row = rows.start;
            let mut blocks = rows.len().div_ceil(ROWS);
            let (shares, count) = (pass.fetch(weights, first, abreast, blocks), blocks);
            let width = (abreast * STRIP).min(pass.width - first * STRIP);
            while row < rows.end {
                let height =
                    if x.grouped { ROWS.min(rows.end - row) } else { (rows.end - row).div_ceil(blocks) };
                let ahead = shares.of(count - blocks);
                blocks -= 1;
                let block = Block {
                    x: data.wrapping_add(row * strides.0 + pass.k * strides.1),
                    row_stride: if x.grouped { 1 } else { strides.0 },
                    inner_stride: strides.1,
                    inner: pass.inner,
                    lines: self.lines,
                    weights: weights.start.wrapping_add(first * weights.stride),
                    line_stride: STRIP,
                    strip_stride: weights.stride,
                    strips: abreast,
                    scales: weights.scales.wrapping_add(first * STRIP),
                    y: self.y.at(row * self.y_stride + pass.first + first * STRIP),
                    y_stride: self.y_stride,
                    resume: pass.resume,
                    ahead,
                };
                // SAFETY: the caller's promises; narrow last strips go through a block of full width.
                unsafe {
                    if width == abreast * STRIP {
                        block.run(self.isa, height);
                    } else {
                        narrow(self.isa, block, height, width);
                    }
                }
                row += height;
            }
            first += abreast;
        }
    }

    /// The outputs of a row that lie in a panel.
    ///
    /// # Safety
    /// No other thread touches them while the slice is alive, and no other slice of them is.
    pub(super) unsafe fn outputs(&self, row: usize, panel: usize) -> &'a mut [f32] {
        let first = panel * PANEL;
        // SAFETY: the caller's promise.
        unsafe { self.y.slice(row * self.y_stride + first, PANEL.min(self.columns - first)) }
    }

    /// Computes the rows' outputs of one panel.
    ///
    /// # Safety
    /// `x` and `y` cover the rows, `x` in pairs too where [`Left`] has them, and no other thread touches these rows' outputs of
    /// this panel.
    pub(super) unsafe fn panel(&self, x: Rows<'_>, rows: std::ops::Range<usize>, panel: usize) {
        let first = panel * PANEL;
        let width = PANEL.min(self.columns - first);
        // Elements of `x` in all, and those that a line multiplies.
        let (inner, of_a_line) = match self.lines {
            Lines::Single => (self.inner, 1),
            Lines::Pairs => (self.inner, 2),
            Lines::Dots => (words(self.inner), 1),
            Lines::Bytes => (self.inner, QUAD),
        };
        let (total, most) =
            (inner.div_ceil(of_a_line), self.weight.depth(self.lines, depth(self.isa, rows.len())));
        debug_assert!(self.lines != Lines::Dots || x.pairs.len() >= rows.end * inner);
        let mut line = 0;
        loop {
            let (depth, k) = (most.min(total - line), line * of_a_line);
            let resume = self.resume || line > 0;
            let pass = Pass { first, width, k, inner: (depth * of_a_line).min(inner - k), depth, resume };
            // SAFETY: the caller's promises.
            self.weight.with_lines_of(self.lines, panel, line, depth, |weights| unsafe {
                self.blocks(x, rows.clone(), pass, weights);
            });
            line += depth;
            if line >= total {
                break;
            }
        }
        if let Some(bias) = self.bias {
            for row in rows {
                // SAFETY: these outputs are this task's own.
                let y = unsafe { self.y.slice(row * self.y_stride + first, width) };
                for (y, bias) in y.iter_mut().zip(&bias[first..first + width]) {
                    *y += bias;
                }
            }
        }
    }
}

/// A pass over the rows: `inner` elements of `x` from `k` on, which `depth` lines multiply, against `width` columns from `first` on.
#[derive(Clone, Copy)]
struct Pass {
    first: usize,
    width: usize,
    k: usize,
    inner: usize,
    depth: usize,
    resume: bool,
}

impl Pass {
    /// What each of the `blocks` blocks on `abreast` strips from `first` on fetches meanwhile: each its share of the strips that come next, so
    /// that memory is read all the time and not by the first block alone. One row, which passes weights faster than they come, fetches its own a
    /// little ahead.
    fn fetch(self, weights: Strips, first: usize, abreast: usize, blocks: usize) -> Shares {
        let strip = |from: *const f32, strip: usize| from.wrapping_add(strip * weights.stride);
        let next = match weights.next {
            Next::Nothing => None,
            Next::Narrow { from, per_line } => return self.fetch_narrow(from, per_line, first, abreast),
            Next::Strips(_) if first + abreast < STRIPS => Some(strip(weights.start, first + abreast)),
            Next::Strips(next) => Some(next),
        };
        // By strips where there are several, by lines of the one strip otherwise.
        let (from, count) = match (next, abreast, blocks) {
            (None, ..) => (weights.start, 0),
            (_, STRIPS, 1) => (strip(weights.start, first).wrapping_add(AHEAD * STRIP), 1),
            (Some(next), _, 1) => (next, 1),
            (Some(next), _, 2 | 3) => (next, 2),
            (Some(next), ..) => (next, 4),
        };
        match count {
            0 => Shares { from, count, apart: 0, strips: 0, every: 1 },
            _ if abreast >= count => {
                let strips = abreast / count;
                Shares { from, count, apart: strips * weights.stride, strips, every: 1 }
            }
            _ => Shares { from, count, apart: self.depth / count * STRIP, strips: 1, every: count },
        }
    }

    /// The same where the next lines are to be widened: a pass's share of the next panel, all of whose strips follow each other, and of it that of
    /// these strips.
    fn fetch_narrow(self, from: *const f32, per_line: usize, first: usize, abreast: usize) -> Shares {
        let from = from.wrapping_add(first * self.depth / per_line * STRIP);
        let (count, every) = ((abreast / per_line).max(1), (per_line / abreast).max(1));
        Shares { from, count, apart: self.depth * STRIP, strips: 1, every }
    }
}

/// What the first `count` blocks fetch ([`Ahead`]), each from a place `apart` from the last one's.
#[derive(Clone, Copy)]
struct Shares {
    from: *const f32,
    count: usize,
    apart: usize,
    strips: usize,
    every: usize,
}

impl Shares {
    /// The share of a block, by its number.
    fn of(self, block: usize) -> Ahead {
        if block < self.count {
            Ahead { from: self.from.wrapping_add(block * self.apart), strips: self.strips, every: self.every }
        } else {
            Ahead::NONE
        }
    }
}

/// Lines by which so many rows are multiplied without dot products. Few rows have weights in fewer bits widened in registers, by each block of them
/// anew; beyond that, widening them once for all rows costs less. A block of four vectors of 512 bits has 24 multiply-adds for the four instructions
/// that widen bf16, which pays for any number.
fn widened(precision: Precision, isa: Isa, rows: usize) -> Lines {
    match (precision, isa) {
        #[cfg(target_arch = "x86_64")]
        (Precision::Bf16, Isa::Avx512) => Lines::Pairs,
        (Precision::Bf16, _) if rows <= 4 * ROWS => Lines::Pairs,
        (Precision::Int8, _) if rows <= 2 * ROWS => Lines::Bytes,
        _ => Lines::Single,
    }
}

/// Lines of a strip per pass over so many rows.
fn depth(isa: Isa, rows: usize) -> usize {
    match (isa, rows.div_ceil(ROWS)) {
        #[cfg(target_arch = "x86_64")]
        (Isa::Avx512, 2..=6) => SHALLOW,
        _ => DEPTH,
    }
}

/// A block whose last columns do not exist in `y`.
///
/// # Safety
/// As [`Block::run`], with `width` columns of `y`.
unsafe fn narrow(isa: Isa, block: Block, height: usize, width: usize) {
    let mut whole = [0.0_f32; ROWS * PANEL];
    if block.resume {
        for i in 0..height {
            // SAFETY: row `i` of `y` has `width` elements of this task.
            let y = unsafe { std::slice::from_raw_parts(block.y.add(i * block.y_stride), width) };
            whole[i * PANEL..i * PANEL + width].copy_from_slice(y);
        }
    }
    // SAFETY: `whole` has room for all rows at full width.
    unsafe { Block { y: whole.as_mut_ptr(), y_stride: PANEL, ..block }.run(isa, height) };
    for i in 0..height {
        // SAFETY: row `i` of `y` has `width` elements of this task; they may be unwritten so far.
        unsafe {
            whole[i * PANEL..].as_ptr().copy_to_nonoverlapping(block.y.add(i * block.y_stride), width);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, assert_near, noise};
    use proptest::prelude::*;

    /// The invariant in plain words: a chain of fused multiply-adds per output.
    fn naive(
        x: &[f32],
        strides: (usize, usize),
        m: usize,
        w: &[f32],
        k: usize,
        n: usize,
        bias: Option<&[f32]>,
    ) -> Vec<f32> {
        let mut y = vec![0.0_f32; m * n];
        for i in 0..m {
            for j in 0..n {
                let mut sum = 0.0_f32;
                for p in 0..k {
                    sum = x[i * strides.0 + p * strides.1].mul_add(w[j * k + p], sum);
                }
                y[i * n + j] = bias.map_or(sum, |b| sum + b[j]);
            }
        }
        y
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn equals_the_chain_bit_for_bit(m in 0_usize..30, k in 0_usize..80, n in 0_usize..200, seed: u64, biased: bool) {
            let (x, w, b) = (noise(m * k, seed), noise(n * k, seed ^ 1), noise(n, seed ^ 2));
            let bias = biased.then_some(&b[..]);
            let packed = Packed::from_out_in(&w, n, k);
            let expected = naive(&x, (k, 1), m, &w, k, n, bias);
            let got = forced::same_bits(|| {
                let mut y = vec![f32::NAN; m * n];
                gemm(&x, (k, 1), m, &packed, bias, &mut y);
                y
            });
            assert_bits("row-major x", &got, &expected);
            // The same x stored transposed.
            let transposed: Vec<f32> = (0..k * m).map(|i| x[(i % m) * k + i / m]).collect();
            let mut y = vec![f32::NAN; m * n];
            gemm(&transposed, (1, m), m, &packed, bias, &mut y);
            assert_bits("transposed x", &y, &expected);
        }
    }

    #[test]
    fn large_products_are_threaded_and_blocked_without_changing_a_bit() {
        for (m, k, n) in [(13, 2500, 130), (40, 600, 180), (200, 300, 64), (97, 1025, 70), (1, 3000, 512)] {
            let (x, w) = (noise(m * k, 5), noise(n * k, 6));
            let packed = Packed::from_out_in(&w, n, k);
            let mut y = vec![f32::NAN; m * n];
            gemm(&x, (k, 1), m, &packed, None, &mut y);
            let expected = naive(&x, (k, 1), m, &w, k, n, None);
            assert_bits(&format!("{m}×{k}×{n}"), &y, &expected);
            let transposed: Vec<f32> = (0..k * m).map(|i| x[(i % m) * k + i / m]).collect();
            y.fill(f32::NAN);
            gemm(&transposed, (1, m), m, &packed, None, &mut y);
            assert_bits(&format!("{m}×{k}×{n}, x transposed"), &y, &expected);
        }
    }

    #[test]
    fn a_row_alone_equals_the_row_in_a_batch() {
        let (m, k, n) = (13, 576, 100);
        let (x, w) = (noise(m * k, 7), noise(n * k, 8));
        let packed = Packed::from_out_in(&w, n, k);
        let mut batch = vec![0.0; m * n];
        gemm(&x, (k, 1), m, &packed, None, &mut batch);
        for i in 0..m {
            let mut alone = vec![0.0; n];
            gemm(&x[i * k..(i + 1) * k], (k, 1), 1, &packed, None, &mut alone);
            assert_bits("row", &alone, &batch[i * n..(i + 1) * n]);
        }
    }

    #[test]
    fn is_close_to_the_exact_product() {
        let (m, k, n) = (7, 576, 65);
        let (x, w) = (noise(m * k, 9), noise(n * k, 10));
        let mut y = vec![0.0; m * n];
        gemm(&x, (k, 1), m, &Packed::from_out_in(&w, n, k), None, &mut y);
        let exact: Vec<f64> = (0..m * n)
            .map(|o| (0..k).map(|p| f64::from(x[o / n * k + p]) * f64::from(w[o % n * k + p])).sum())
            .collect();
        assert_near("gemm", &y, &exact, 2e-5);
    }

    #[test]
    fn resuming_over_parts_of_the_inner_dimension_equals_one_pass() {
        let (m, k, n) = (9, 50, 70);
        let (x, w) = (noise(m * k, 11), noise(k * n, 12));
        let packed = Packed::from_in_out(&w, k, n);
        let mut whole = vec![0.0; m * n];
        gemm(&x, (k, 1), m, &packed, None, &mut whole);
        let mut parts = vec![0.0; m * n];
        for (from, to) in [(0, 20), (20, 50)] {
            let part = Packed::from_in_out(&w[from * n..to * n], to - from, n);
            let rows = Rows::new(&x[from..], (k, 1), m);
            Serial { weight: &part, inner: to - from, columns: n, y_stride: n, resume: true }.run(
                Isa::current(),
                rows,
                &mut parts,
            );
        }
        assert_bits("resumed", &parts, &whole);
    }

    #[test]
    #[should_panic(expected = "x has 5 elements, index 5 is read")]
    fn a_short_x_is_refused() {
        gemm(&[0.0; 5], (3, 1), 2, &Packed::from_out_in(&[0.0; 6], 2, 3), None, &mut [0.0; 4]);
    }
}
