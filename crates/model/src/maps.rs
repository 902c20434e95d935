//! The linear maps of a layer: queries, keys and values apart or from one map, a feed-forward block with a gate or without.

use burn::tensor::Tensor;
pub use kernels::Fusion;

/// One thing for each linear map of a layer: their names, their shapes, the maps themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Maps<T> {
    /// Queries, keys and values.
    pub qkv: Qkv<T>,
    /// Attention's way back to the residual stream.
    pub output: T,
    /// Into the feed-forward block.
    pub up: Up<T>,
    /// The feed-forward block's way back to the residual stream.
    pub down: T,
}

/// Maps to queries, keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qkv<T> {
    /// One each.
    Separate([T; 3]),
    /// One for all.
    Fused(T, Fusion),
}

/// Maps into a feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Up<T> {
    /// What is passed through the activation, and what that multiplies.
    Gated([T; 2]),
    /// What is passed through the activation.
    Plain(T),
}

/// Queries, keys and values that come out of one map.
///
/// # Shapes
/// `rows` is `[tokens, 3 · heads · head_dim]`; each of the results is `[tokens, heads, head_dim]`.
pub(crate) fn split(rows: Tensor<2>, fusion: Fusion, heads: usize) -> [Tensor<3>; 3] {
    let [tokens, width] = rows.dims();
    let head_dim = width / (3 * heads);
    match fusion {
        Fusion::ByPart => {
            let parts = rows.reshape([tokens, 3 * heads, head_dim]);
            [0, 1, 2].map(|part| parts.clone().narrow(1, part * heads, heads))
        }
        Fusion::ByHead => {
            let parts = rows.reshape([tokens, heads, 3 * head_dim]);
            [0, 1, 2].map(|part| parts.clone().narrow(2, part * head_dim, head_dim))
        }
    }
}

impl<T> Maps<T> {
    /// All of them, in the order in which the layer applies them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        let qkv: &[T] = match &self.qkv {
            Qkv::Separate(maps) => maps,
            Qkv::Fused(map, _) => std::slice::from_ref(map),
        };
        let up: &[T] = match &self.up {
            Up::Gated(maps) => maps,
            Up::Plain(map) => std::slice::from_ref(map),
        };
        qkv.iter().chain([&self.output]).chain(up).chain([&self.down])
    }

    /// [`Maps::iter`], to change them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        let qkv: &mut [T] = match &mut self.qkv {
            Qkv::Separate(maps) => maps,
            Qkv::Fused(map, _) => std::slice::from_mut(map),
        };
        let up: &mut [T] = match &mut self.up {
            Up::Gated(maps) => maps,
            Up::Plain(map) => std::slice::from_mut(map),
        };
        qkv.iter_mut().chain([&mut self.output]).chain(up).chain([&mut self.down])
    }

    /// What `make` makes of each, in the order of [`Maps::iter`]; its first error.
    pub(crate) fn try_map<U, E>(&self, mut make: impl FnMut(&T) -> Result<U, E>) -> Result<Maps<U>, E> {
        Ok(Maps {
            qkv: match &self.qkv {
                Qkv::Separate([q, k, v]) => Qkv::Separate([make(q)?, make(k)?, make(v)?]),
                Qkv::Fused(map, fusion) => Qkv::Fused(make(map)?, *fusion),
            },
            output: make(&self.output)?,
            up: match &self.up {
                Up::Gated([gate, up]) => Up::Gated([make(gate)?, make(up)?]),
                Up::Plain(map) => Up::Plain(make(map)?),
            },
            down: make(&self.down)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn queries_keys_and_values_lie_by_part_or_by_head() {
        // Two tokens, two heads of three: output `o` of token `t` is `100 t + o`.
        let values: Vec<f32> = (0..2).flat_map(|t| (0..18).map(move |o| (100 * t + o) as f32)).collect();
        let rows = Tensor::<2>::from_data(TensorData::new(values, [2, 18]), &Device::flex());
        let first = |fusion: Fusion| {
            split(rows.clone(), fusion, 2).map(|part| {
                assert_eq!(part.dims(), [2, 2, 3]);
                let values: Vec<f32> = part.to_data().iter::<f32>().collect();
                [values[0], values[3], values[6]]
            })
        };
        assert_eq!(first(Fusion::ByPart), [[0.0, 3.0, 100.0], [6.0, 9.0, 106.0], [12.0, 15.0, 112.0]]);
        assert_eq!(first(Fusion::ByHead), [[0.0, 9.0, 100.0], [3.0, 12.0, 103.0], [6.0, 15.0, 106.0]]);
    }
}
