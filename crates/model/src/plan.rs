//! Layers made ready for passes that need no gradient: one call of a kernel each.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use kernels::cpu::RopeTable;
use kernels::{LayerMap, LayerQkv, LayerUp, LayerWeights, LowRank, PagedPool, PassTokens, Residual};

use crate::cache::{Appended, host};
use crate::decoder::Decoder;
use crate::linear::Linear;
use crate::maps::{Maps, Qkv, Up};
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
    /// or an adapter lies in the way of gradients or depends on weights of objectives.
    pub(crate) fn of(decoders: &[&Decoder]) -> Option<Self> {
        let first = decoders.first()?;
        let (config, device) = (&first.config, first.device());
        if device.is_autodiff() || !kernels::packs(&device) || first.embed_tokens.dtype() != DType::F32 {
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
            let mut each: Vec<_> = decoders.iter().map(|other| other.layers[index].maps.iter()).collect();
            let next = |_: &Linear| {
                let each = each.iter_mut().map(Iterator::next).collect::<Option<Vec<_>>>();
                each.and_then(|each| map(&each)).ok_or(())
            };
            let Maps { qkv, output, up, down } = layer.maps.try_map(next).ok()?;
            let (feedforward_norm, residual) = match &layer.feedforward_norms {
                Some([before, after]) => {
                    (before, Residual::Normed([layer.post_norm.of_rows(), after.of_rows()]))
                }
                None if config.parallel_residual() => (&layer.post_norm, Residual::Parallel),
                None => (&layer.post_norm, Residual::InTurn),
            };
            Some(Arc::new(LayerWeights {
                attention_norm: layer.input_norm.of_rows(),
                feedforward_norm: feedforward_norm.of_rows(),
                head_norms: layer.head_norms.as_ref().map(|norms| norms.each_ref().map(Norm::of_rows)),
                rule: config.attention_rule(index),
                qkv: match qkv {
                    Qkv::Separate(maps) => LayerQkv::Separate(maps),
                    Qkv::Fused(map, fusion) => LayerQkv::Fused(map, fusion),
                },
                o: output,
                up: match up {
                    Up::Gated(maps) => LayerUp::Gated(maps, config.gate()),
                    Up::Plain(map) => LayerUp::Plain(map, config.gelu()),
                },
                down,
                residual,
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
