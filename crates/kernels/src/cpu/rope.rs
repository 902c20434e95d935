//! Rotary position embedding (Su et al. 2021, eq. 34) in the half-split convention of Hugging Face.
#![allow(unsafe_code, reason = "threads write disjoint rows")]

use std::sync::{Arc, Mutex, PoisonError};

use super::isa::multiversion;
use super::parallel::{Shared, for_each, rows_per_task};

/// Cosines and sines of every position below a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    half: usize,
    positions: usize,
    /// `[positions, half]` cosines, then as many sines.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// The table of positions `0..positions` for the inverse frequencies `inv_freq` (half of the dimensions that are rotated, radians per
    /// position), each value multiplied by `attention_factor` (1 unless the model scales its context, YaRN eq. 22).
    ///
    /// The angle is the `f32` product position × frequency, as in transformers; its cosine and sine are exact to the last bit or so.
    pub fn new(inv_freq: &[f32], attention_factor: f32, positions: usize) -> Self {
        let angles = || (0..positions).flat_map(|p| inv_freq.iter().map(move |f| f64::from(p as f32 * f)));
        let factor = |v: f64| v as f32 * attention_factor;
        Self {
            half: inv_freq.len(),
            positions,
            cos: angles().map(|a| factor(a.cos())).collect(),
            sin: angles().map(|a| factor(a.sin())).collect(),
        }
    }

    /// The table of these positions, kept between calls: a model asks for the same one in every layer.
    pub fn kept(inv_freq: &[f32], attention_factor: f32, positions: &[u32]) -> Arc<Self> {
        /// Different rotations in use at once: one per model, rarely more than a policy's and a reward model's.
        const KEPT: usize = 4;
        type Kept = (Vec<u32>, Arc<RopeTable>);
        static TABLES: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

        let key: Vec<u32> = inv_freq.iter().chain([&attention_factor]).map(|f| f.to_bits()).collect();
        let needed = positions.iter().map(|&p| p as usize + 1).max().unwrap_or(0);
        let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
        let found = tables.iter().position(|(k, _)| *k == key);
        if let Some(index) = found
            && tables[index].1.positions() >= needed
        {
            return Arc::clone(&tables[index].1);
        }
        if let Some(index) = found {
            tables.remove(index);
        } else if tables.len() == KEPT {
            tables.remove(0);
        }
        let table = Arc::new(Self::new(inv_freq, attention_factor, needed.next_power_of_two().max(256)));
        tables.push((key, Arc::clone(&table)));
        table
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Half of the dimensions of a head that are rotated.
    pub fn half(&self) -> usize {
        self.half
    }

    /// Cosines and sines of one position.
    ///
    /// # Panics
    /// When the table ends before it.
    pub fn at(&self, position: u32) -> (&[f32], &[f32]) {
        let position = position as usize;
        assert!(position < self.positions, "rope: position {position} in a table of {}", self.positions);
        let range = position * self.half..(position + 1) * self.half;
        (&self.cos[range.clone()], &self.sin[range])
    }
}

/// Which way to turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// By the position's angle.
    Forward,
    /// Back by it: the gradient of the forward rotation.
    Backward,
}

/// Rotates dimension `i` with dimension `i + rot/2` by the angle of the token's position, in place, where `rot` is twice
/// `table.half()`. Dimensions of a head from `rot` on stay as they are (partial rotary embedding, as in GPT-NeoX).
///
/// # Shapes
/// - `x`: `[n, heads, head_dim]`; `positions`: `[n]`
///
/// # Panics
/// When `x` is not `n · heads` heads of one width, of at least `2 · table.half()`, or a position is beyond the table.
pub fn rope(x: &mut [f32], heads: usize, positions: &[u32], table: &RopeTable, rotation: Rotation) {
    let (n, rot) = (positions.len(), 2 * table.half);
    let width = x.len() / (n * heads).max(1);
    assert!(
        x.len() == n * heads * width && (x.is_empty() || width >= rot),
        "rope: {} elements for [n {n}, heads {heads}, head_dim of at least {rot}]",
        x.len()
    );
    let row = heads * width;
    if row == 0 || rot == 0 {
        return;
    }
    let rows = rows_per_task(row);
    let x = Shared::new(x);
    for_each(n.div_ceil(rows), |task| {
        let tokens = task * rows..n.min((task + 1) * rows);
        // SAFETY: each task has its own tokens.
        let x = unsafe { x.slice(tokens.start * row, tokens.len() * row) };
        for (x, &position) in x.chunks_exact_mut(row).zip(&positions[tokens]) {
            let (cos, sin) = table.at(position);
            rotate(x, width, cos, sin, if rotation == Rotation::Forward { 1.0 } else { -1.0 });
        }
    });
}

multiversion! {
    fn rotate(x: &mut [f32], width: usize, cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in x.chunks_exact_mut(width) {
            let (low, high) = head[..2 * half].split_at_mut(half);
            for (((a, b), &cos), &sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                let sin = sign * sin;
                let (x, y) = (*a, *b);
                *a = x.mul_add(cos, -(y * sin));
                *b = y.mul_add(cos, x * sin);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::math::{assert_bits, assert_near, noise};

    fn frequencies(half: usize) -> Vec<f32> {
        (0..half).map(|i| 10_000_f32.powf(-(i as f32) / half as f32)).collect()
    }

    #[test]
    fn rotates_pairs_half_a_head_apart() {
        for (n, heads, half) in [(0, 2, 4), (1, 1, 1), (5, 3, 4), (300, 2, 33)] {
            let frequency = frequencies(half);
            let positions: Vec<u32> = (0..n as u32).map(|i| (i * 7) % 100).collect();
            let table = RopeTable::new(&frequency, 1.5, 100);
            let x = noise(n * heads * 2 * half, 1);
            let y = forced::same_bits(|| {
                let mut y = x.clone();
                rope(&mut y, heads, &positions, &table, Rotation::Forward);
                y
            });
            let mut exact = Vec::new();
            for (i, head) in x.chunks(2 * half).enumerate() {
                for j in 0..2 * half {
                    let angle = f64::from(positions[i / heads] as f32 * frequency[j % half]);
                    let other = if j < half { -head[j + half] } else { head[j - half] };
                    exact.push(1.5 * (f64::from(head[j]) * angle.cos() + f64::from(other) * angle.sin()));
                }
            }
            assert_near("rope", &y, &exact, 1e-6);
        }
    }

    #[test]
    fn backward_turns_back_and_position_zero_stands_still() {
        let table = RopeTable::new(&frequencies(8), 1.0, 50);
        let x = noise(3 * 2 * 16, 2);
        let mut y = x.clone();
        rope(&mut y, 2, &[0, 17, 49], &table, Rotation::Forward);
        assert_bits("position 0", &y[..32], &x[..32]);
        rope(&mut y, 2, &[0, 17, 49], &table, Rotation::Backward);
        let exact: Vec<f64> = x.iter().map(|&v| v.into()).collect();
        assert_near("there and back", &y, &exact, 1e-6);
    }

    #[test]
    fn only_the_first_dimensions_of_a_head_may_be_rotated() {
        for (n, heads, half, width) in
            [(0, 1, 2, 5), (1, 1, 1, 3), (3, 2, 3, 11), (5, 3, 17, 35), (3, 2, 0, 7)]
        {
            let table = RopeTable::new(&frequencies(half), 1.2, 50);
            let positions: Vec<u32> = (0..n as u32).map(|i| (i * 23) % 50).collect();
            let x = noise(n * heads * width, 2);
            for rotation in [Rotation::Forward, Rotation::Backward] {
                let y = forced::same_bits(|| {
                    let mut y = x.clone();
                    rope(&mut y, heads, &positions, &table, rotation);
                    y
                });
                let mut first: Vec<f32> =
                    x.chunks(width).flat_map(|head| &head[..2 * half]).copied().collect();
                rope(&mut first, heads, &positions, &table, rotation);
                for (index, (y, x)) in y.chunks(width).zip(x.chunks(width)).enumerate() {
                    assert_bits("rotated", &y[..2 * half], &first[index * 2 * half..][..2 * half]);
                    assert_bits("kept", &y[2 * half..], &x[2 * half..]);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "3 elements for [n 1, heads 1, head_dim of at least 4]")]
    fn a_head_narrower_than_what_is_rotated_is_refused() {
        rope(&mut [0.0; 3], 1, &[0], &RopeTable::new(&frequencies(2), 1.0, 50), Rotation::Forward);
    }

    #[test]
    #[should_panic(expected = "position 50 in a table of 50")]
    fn a_position_beyond_the_table_is_refused() {
        rope(&mut [0.0; 4], 1, &[50], &RopeTable::new(&frequencies(2), 1.0, 50), Rotation::Forward);
    }
}
