//! Layers made ready for passes that need no gradient: one call of a kernel each.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use kernels::cpu::RopeTable;
use kernels::{LayerMap, LayerWeights, LowRank, PagedPool, PassTokens};

use crate::cache::{Appended, host};
use crate::decoder::Decoder;
use crate::linear::Linear;
use crate::norm::Norm;

/// The layers of decoders that share their packed weights and differ in adapters at most.
#[derive(Debug)]
pub(crate) struct Plan {
    layers: Vec<Arc<LayerWeights>>,
    inverse_frequencies: Vec<f32>,
    factor: f32,
}

impl Plan {
    /// The plan of decoders of one backbone; `None` where a layer has to be composed of its operations: weights are not packed,
    /// the family has norms or gates that the kernel has not, or an adapter lies in the way of gradients or depends on weights of objectives.
    pub(crate) fn of(decoders: &[&Decoder]) -> Option<Self> {
        let first = decoders.first()?;
        let (config, device) = (&first.config, first.device());
        if config.is_composed()
            || device.is_autodiff()
            || !kernels::packs(&device)
            || first.embed_tokens.dtype() != DType::F32
        {
            return None;
        }
        // One map of a layer, as each of the decoders has it.
        let map = |each: &[&Linear]| -> Option<LayerMap> {
            let own = each.first()?;
            let adapter = |map: &&Linear| -> Option<Option<LowRank>> {
                match &map.lora {
                    None => Some(None),
                    Some(lora) => lora.change_of(0..0).map(Some),
                }
            };
            Some(LayerMap {
                weight: own.packed()?.clone(),
                bias: own.bias.as_ref().map(|bias| host(bias.clone()).into()),
                adapters: each.iter().map(adapter).collect::<Option<_>>()?,
            })
        };
        let layer = |index: usize| -> Option<Arc<LayerWeights>> {
            let layer = &first.layers[index];
            let norm = |norm: &Norm| host(norm.weight.clone());
            let mut each: Vec<_> = decoders.iter().map(|other| other.layers[index].maps.iter()).collect();
            let maps = std::iter::from_fn(|| each.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>());
            let maps: Vec<LayerMap> = maps.map(|each| map(&each)).collect::<Option<_>>()?;
            let [q, k, v, o, gate, up, down] = <[LayerMap; 7]>::try_from(maps).ok()?;
            Some(Arc::new(LayerWeights {
                input_norm: norm(&layer.input_norm),
                post_norm: norm(&layer.post_norm),
                head_norms: layer.head_norms.as_ref().map(|norms| norms.each_ref().map(norm)),
                eps: config.norm_eps as f32,
                rule: config.attention_rule(index),
                qkv: [q, k, v],
                o,
                gate_up: [gate, up],
                down,
            }))
        };
        let (inverse_frequencies, factor) = first.rotation();
        Some(Self {
            layers: (0..first.layers.len()).map(layer).collect::<Option<_>>()?,
            inverse_frequencies: inverse_frequencies.to_vec(),
            factor,
        })
    }

    /// Runs all layers on the embeddings of tokens, of which `users[i]` are those of decoder `i`.
    pub(crate) fn run(
        &self,
        x: Tensor<2>,
        new: &Appended,
        users: &[Range<usize>],
        pools: &mut [PagedPool],
    ) -> Tensor<2> {
        let tokens = PassTokens {
            positions: new.positions.clone(),
            slots: new.slots.clone(),
            pages: new.tables.clone(),
            starts: new.starts.clone(),
            lengths: new.lengths.clone(),
            copies: (new.from.clone(), new.to.clone()),
            users: users.to_vec(),
            table: RopeTable::kept(&self.inverse_frequencies, self.factor, &new.positions),
        };
        kernels::decoder_layers(x, pools, &self.layers, &tokens)
    }
}
