//! Sums of columns: the gradient of a bias.

use super::isa::multiversion;

multiversion! {
    /// `sums[j] = Σᵢ x[i, j]`, the rows taken in order.
    ///
    /// # Shapes
    /// - `x`: `[n, columns]`; `sums`: `[columns]`, overwritten
    ///
    /// # Panics
    /// When `x` is not rows of `sums.len()` elements.
    pub fn column_sums(x: &[f32], sums: &mut [f32]) {
        let columns = sums.len();
        assert!(x.is_empty() || columns > 0 && x.len().is_multiple_of(columns), "column_sums: {} elements in rows of {columns}", x.len());
        sums.fill(0.0);
        for row in x.chunks_exact(columns.max(1)) {
            for (sum, x) in sums.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_rows_up() {
        let mut sums = [f32::NAN; 2];
        column_sums(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &mut sums);
        assert_eq!(sums, [9.0, 12.0]);
        column_sums(&[], &mut sums);
        assert_eq!(sums, [0.0; 2]);
    }
}
