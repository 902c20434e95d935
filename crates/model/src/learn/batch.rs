//! The tokens that a pass of training runs.

use std::borrow::Cow;

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::Row;
use crate::decoder::Decoder;

/// The tokens of all rows, one row after the other, without what a row begins with as one before it does: that is run once. Padding exists inside
/// attention only, which wants rows of one length, each whole.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) ids: Vec<u32>,
    pub(super) positions: Vec<u32>,
    /// Which of the tokens each row has, in order.
    pub(super) tokens: Vec<Vec<usize>>,
    /// The longest row.
    length: usize,
    padding: Option<Padding>,
    /// Weights of objectives for every token, where adapters depend on them.
    preference: Vec<f32>,
}

/// How rows become whole and of one length, and tokens of their own again.
#[derive(Debug, Clone)]
struct Padding {
    /// For every place of `[rows, length]` the token there; places behind a row's end repeat the first token of all, which no
    /// position that counts sees.
    spread: Tensor<1, Int>,
    /// For every token a place of it.
    gather: Tensor<1, Int>,
}

/// Tokens that two rows must begin with for these to be run once: queries, keys and values are copied for it.
const SHARED: usize = 8;

impl Batch {
    pub(super) fn new(rows: &[Row<'_>], device: &Device) -> Self {
        Self::under(rows, &[], device)
    }

    /// The batch under weights of objectives, those of its row for every token; under none where there are none.
    pub(super) fn under(rows: &[Row<'_>], preferences: &[&[f64]], device: &Device) -> Self {
        let length = rows.iter().map(|row| row.ids.len()).max().unwrap_or(0);
        let (mut ids, mut positions, mut gather) = (Vec::new(), Vec::new(), Vec::new());
        let mut preference = Vec::new();
        let mut tokens: Vec<Vec<usize>> = Vec::new();
        for (index, row) in rows.iter().enumerate() {
            let common =
                |other: &usize| rows[*other].ids.iter().zip(row.ids).take_while(|(a, b)| a == b).count();
            // Equal tokens of rows under different weights are not the same.
            let alike = |other: &usize| preferences.get(*other) == preferences.get(index);
            let nearest = (0..index).filter(alike).max_by_key(common);
            let (shared, from) = nearest.map_or((0, 0), |other| (common(&other), other));
            let shared = if shared < SHARED { 0 } else { shared };
            let mut own = if shared == 0 { Vec::new() } else { tokens[from][..shared].to_vec() };
            own.extend(ids.len()..ids.len() + row.ids.len() - shared);
            tokens.push(own);
            ids.extend_from_slice(&row.ids[shared..]);
            positions.extend(shared as u32..row.ids.len() as u32);
            for _ in shared..row.ids.len() {
                let weights = preferences.get(index).copied().unwrap_or_default();
                preference.extend(weights.iter().map(|weight| *weight as f32));
            }
            gather.extend((shared..row.ids.len()).map(|position| (index * length + position) as i32));
        }
        let tensor = |places: Vec<i32>| {
            let count = places.len();
            Tensor::from_data(TensorData::new(places, [count]), device)
        };
        let padding = (rows.len() * length > gather.len()).then(|| {
            let padded = |row: &Vec<usize>| {
                let behind = std::iter::repeat_n(0, length - row.len());
                row.iter().map(|token| *token as i32).chain(behind).collect::<Vec<_>>()
            };
            let spread = tokens.iter().flat_map(padded).collect();
            Padding { spread: tensor(spread), gather: tensor(gather) }
        });
        Self { ids, positions, tokens, length, padding, preference }
    }

    /// The decoder with the batch's weights of objectives.
    pub(super) fn set<'d>(&self, decoder: &'d Decoder) -> Cow<'d, Decoder> {
        if self.preference.is_empty() {
            return Cow::Borrowed(decoder);
        }
        let mut copy = decoder.clone();
        copy.prefer(&self.preference);
        Cow::Owned(copy)
    }

    pub(super) fn mix(
        &self,
        decoder: &Decoder,
        layer: usize,
        q: Tensor<3>,
        k: Tensor<3>,
        v: Tensor<3>,
    ) -> Tensor<3> {
        let rows = self.tokens.len();
        let shape = q.dims();
        let padded = |x: Tensor<3>| {
            let [tokens, heads, width] = x.dims();
            let x = x.reshape([tokens, heads * width]);
            let x = match &self.padding {
                Some(padding) => x.select(0, padding.spread.clone()),
                None => x,
            };
            x.reshape([rows, self.length, heads, width])
        };
        let output =
            kernels::attention(padded(q), padded(k), padded(v), decoder.config.attention_rule(layer));
        let output = output.reshape([rows * self.length, shape[1] * shape[2]]);
        match &self.padding {
            Some(padding) => output.select(0, padding.gather.clone()),
            None => output,
        }
        .reshape(shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rows_begin_with_alike_is_run_once() {
        let texts: [&[u32]; 4] = [
            &[3, 9, 4, 2, 7, 5, 1, 2, 8, 6],
            &[3, 9, 4, 2, 7, 5, 1, 2, 8, 7, 7],
            &[3, 9, 4, 2],
            &[3, 9, 4, 2, 7, 5, 1, 2, 8, 7],
        ];
        let rows: Vec<Row<'_>> = texts.iter().map(|ids| Row { ids, loss: &[] }).collect();
        let batch = Batch::new(&rows, &Device::flex());
        // Nine tokens of the first; four are too few; all of the last are of the second.
        assert_eq!(batch.ids, [texts[0], &[7, 7], texts[2]].concat());
        assert_eq!(batch.positions, (0..10).chain(9..11).chain(0..4).collect::<Vec<_>>());
        for (tokens, ids) in batch.tokens.iter().zip(texts) {
            let run: Vec<u32> = tokens.iter().map(|token| batch.ids[*token]).collect();
            let at: Vec<u32> = tokens.iter().map(|token| batch.positions[*token]).collect();
            assert_eq!((run, at), (ids.to_vec(), (0..ids.len() as u32).collect()));
        }
        // Under weights of objectives only rows of the same ones share.
        let weights: [&[f64]; 4] = [&[0.5, 0.5], &[1.0, 0.0], &[0.5, 0.5], &[1.0, 0.0]];
        let apart = Batch::under(&rows, &weights, &Device::flex());
        assert_eq!(apart.ids, [texts[0], texts[1], texts[2]].concat());
        let of_tokens = [[0.5, 0.5].repeat(10), [1.0, 0.0].repeat(11), [0.5, 0.5].repeat(4)].concat();
        assert_eq!(apart.preference, of_tokens);
    }
}
