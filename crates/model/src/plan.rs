//! Layers made ready for passes that need no gradient: one call of a kernel each.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use kernels::cpu::RopeTable;
use kernels::{LayerMap, LayerWeights, LowRank, PagedPool, PassTokens};

use crate::cache::{Appended, host};
use crate::decoder::{Decoder, Map};

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
        if config.gemma.is_some()
            || device.is_autodiff()
            || !kernels::packs(&device)
            || first.embed_tokens.dtype() != DType::F32
        {
            return None;
        }
        let map = |index: usize, map: Map| -> Option<LayerMap> {
            let own = map(&first.layers[index]);
            let adapter = |decoder: &&Decoder| -> Option<Option<LowRank>> {
                match &map(&decoder.layers[index]).lora {
                    None => Some(None),
                    Some(lora) => lora.change_of(0..0).map(Some),
                }
            };
            Some(LayerMap {
                weight: own.packed()?.clone(),
                bias: own.bias.as_ref().map(|bias| host(bias.clone()).into()),
                adapters: decoders.iter().map(adapter).collect::<Option<_>>()?,
            })
        };
        let layer = |index: usize| -> Option<Arc<LayerWeights>> {
            let layer = &first.layers[index];
            let norm = |weights: &Tensor<1>| host(weights.clone());
            Some(Arc::new(LayerWeights {
                input_norm: norm(&layer.input_layernorm),
                post_norm: norm(&layer.post_attention_layernorm),
                head_norms: layer.self_attn.head_norms.as_ref().map(|norms| norms.each_ref().map(norm)),
                eps: config.rms_norm_eps as f32,
                rule: config.attention_rule(index),
                qkv: [
                    map(index, |layer| &layer.self_attn.q_proj)?,
                    map(index, |layer| &layer.self_attn.k_proj)?,
                    map(index, |layer| &layer.self_attn.v_proj)?,
                ],
                o: map(index, |layer| &layer.self_attn.o_proj)?,
                gate_up: [map(index, |layer| &layer.mlp.gate_proj)?, map(index, |layer| &layer.mlp.up_proj)?],
                down: map(index, |layer| &layer.mlp.down_proj)?,
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
