//! Queries, keys and values that come out of one map.
#![allow(unsafe_code, reason = "threads write disjoint rows of three outputs")]

use super::parallel::{Shared, for_each, rows_per_task};

/// How the outputs of one map for queries, keys and values lie in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fusion {
    /// `[(q, k, v), head, head_dim]`, GPT-2's.
    ByPart,
    /// `[head, (q, k, v), head_dim]`, GPT-NeoX's.
    ByHead,
}

impl Fusion {
    /// First element of a head of queries (part 0), keys (1) or values (2) in a row of `heads` heads of each.
    fn at(self, part: usize, head: usize, heads: usize, head_dim: usize) -> usize {
        let place = match self {
            Self::ByPart => part * heads + head,
            Self::ByHead => head * 3 + part,
        };
        place * head_dim
    }

    /// Queries, keys and values apart.
    ///
    /// # Shapes
    /// - `fused`: `[n, 3 · heads · head_dim]`; each of the results: `[n, heads, head_dim]`
    ///
    /// # Panics
    /// When `fused` is not `n` rows of three times as many whole heads.
    pub(super) fn split(self, fused: &[f32], n: usize, head_dim: usize) -> [Vec<f32>; 3] {
        let heads = fused.len() / (3 * n * head_dim).max(1);
        let (row, wide) = (heads * head_dim, 3 * heads * head_dim);
        assert_eq!(fused.len(), n * wide, "{self:?}: queries, keys and values of {n} rows");
        let mut parts = [(); 3].map(|()| vec![0.0; n * row]);
        let outputs = parts.each_mut().map(|part| Shared::new(part));
        let step = rows_per_task(wide);
        for_each(n.div_ceil(step), |task| {
            for token in task * step..n.min((task + 1) * step) {
                let from = &fused[token * wide..(token + 1) * wide];
                for (part, output) in outputs.iter().enumerate() {
                    // SAFETY: each task has its own rows of each part.
                    let to = unsafe { output.slice(token * row, row) };
                    for (head, to) in to.chunks_exact_mut(head_dim).enumerate() {
                        to.copy_from_slice(&from[self.at(part, head, heads, head_dim)..][..head_dim]);
                    }
                }
            }
        });
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_goes_to_its_part_head_and_place() {
        for (n, heads, d) in [(0, 2, 3), (1, 1, 1), (2, 2, 3), (70, 5, 64)] {
            let wide = 3 * heads * d;
            let fused: Vec<f32> = (0..n * wide).map(|at| at as f32).collect();
            for fusion in [Fusion::ByPart, Fusion::ByHead] {
                let parts = fusion.split(&fused, n, d);
                for (part, values) in parts.iter().enumerate() {
                    assert_eq!(values.len(), n * heads * d);
                    for (at, value) in values.iter().enumerate() {
                        let (token, head, i) = (at / (heads * d), at / d % heads, at % d);
                        let place = match fusion {
                            Fusion::ByPart => (part * heads + head) * d + i,
                            Fusion::ByHead => (head * 3 + part) * d + i,
                        };
                        assert_eq!(*value, (token * wide + place) as f32, "{fusion:?}");
                    }
                }
            }
        }
    }
}
