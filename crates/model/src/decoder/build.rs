//! Decoders of given weights and of new ones.

use burn::tensor::{Device, Tensor, TensorData};
use kernels::Precision;

use super::{Decoder, Layer};
use crate::config::{Config, Head};
use crate::family::{FEEDFORWARD_NORMS, HEAD_NORMS};
use crate::linear::Linear;
use crate::norm::Norm;

/// Gives the flat values of the parameter of a name and shape.
pub type Values<'v, E> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, E> + 'v;

impl Decoder {
    /// A decoder whose parameters are given by name: `weight(name, shape)` returns the flat values.
    pub fn build<E>(config: Config, device: &Device, weight: &mut Values<'_, E>) -> Result<Self, E> {
        let (d, names, maps) = (config.hidden_size, config.names(), config.maps());
        let norms = Norms {
            layer_norm: config.gpt.is_some(),
            one_plus: config.gemma.is_some(),
            eps: config.norm_eps,
        };
        let mut build = Builder { weight, device, norms };
        let embed_tokens = build.matrix(&names.top(names.embedding), config.vocab_size, d)?;
        let positions = match names.positions {
            Some(name) => Some(build.matrix(&names.top(name), config.max_position_embeddings, d)?),
            None => None,
        };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            let at = |part: &str| names.layer(index, part);
            layers.push(Layer {
                input_norm: build.norm(&at(names.input_norm), d)?,
                head_norms: if config.head_norms {
                    let mut norm = |name| build.norm(&at(name), config.head_dim);
                    Some([norm(HEAD_NORMS[0])?, norm(HEAD_NORMS[1])?])
                } else {
                    None
                },
                post_norm: build.norm(&at(names.post_norm), d)?,
                feedforward_norms: if config.gemma.is_some() {
                    let mut norm = |name| build.norm(&at(name), d);
                    Some([norm(FEEDFORWARD_NORMS[0])?, norm(FEEDFORWARD_NORMS[1])?])
                } else {
                    None
                },
                maps: maps.try_map(|map| build.linear(&at(map.name), map.out, map.inn, map.bias))?,
            });
        }
        let norm = build.norm(&names.top(names.norm), d)?;
        let head = match config.head {
            Head::Score | Head::Vocabulary | Head::Quantile { .. } => {
                Some(build.linear("score", config.head.outputs(config.vocab_size), d, false)?)
            }
            Head::Language if config.tie_word_embeddings => None,
            Head::Language => Some(build.linear(names.head(), config.vocab_size, d, false)?),
        };
        let inverse_frequencies =
            config.rope_scaling.inverse_frequencies(config.rope_theta, config.rotary_dims);
        Ok(Self {
            config,
            embed_tokens,
            positions,
            layers,
            norm,
            head,
            value: None,
            tied: None,
            cache: Precision::F32,
            inverse_frequencies,
        })
    }

    /// A decoder with new weights: normal with deviation 0.02, the projections back into the residual stream divided by
    /// `√(2 · layers)`, norms that change nothing, biases zero.
    pub fn random(config: Config, device: &Device, draw: &mut dyn FnMut() -> f64) -> Self {
        let depth = (2.0 * config.num_hidden_layers as f64).sqrt();
        let (norm, names) = (if config.gemma.is_some() { 0.0 } else { 1.0 }, config.names());
        let result = Self::build(config, device, &mut |name, shape| {
            let count = shape.iter().product();
            let std = if names.is_residual(name) { 0.02 / depth } else { 0.02 };
            let values = if names.is_norm(name) {
                vec![norm; count]
            } else if name.ends_with("bias") {
                vec![0.0; count]
            } else {
                (0..count).map(|_| (draw() * std) as f32).collect()
            };
            Ok::<_, std::convert::Infallible>(values)
        });
        match result {
            Ok(decoder) => decoder,
            Err(never) => match never {},
        }
    }
}

/// Makes parameters of named values.
struct Builder<'b, E> {
    weight: &'b mut Values<'b, E>,
    device: &'b Device,
    norms: Norms,
}

/// What all norms of a decoder have in common.
struct Norms {
    layer_norm: bool,
    one_plus: bool,
    eps: f64,
}

impl<E> Builder<'_, E> {
    fn vector(&mut self, name: &str, n: usize) -> Result<Tensor<1>, E> {
        let values = (self.weight)(name, &[n])?;
        Ok(Tensor::from_data(TensorData::new(values, [n]), self.device))
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Norm, E> {
        let weight = self.vector(&format!("{name}.weight"), width)?;
        let bias =
            if self.norms.layer_norm { Some(self.vector(&format!("{name}.bias"), width)?) } else { None };
        Ok(Norm::new(weight, bias, self.norms.eps).with_one_plus(self.norms.one_plus))
    }

    fn matrix(&mut self, name: &str, out: usize, inn: usize) -> Result<Tensor<2>, E> {
        let values = (self.weight)(&format!("{name}.weight"), &[out, inn])?;
        Ok(Tensor::from_data(TensorData::new(values, [out, inn]), self.device))
    }

    fn linear(&mut self, name: &str, out: usize, inn: usize, bias: bool) -> Result<Linear, E> {
        let weight = self.matrix(name, out, inn)?;
        let bias = if bias { Some(self.vector(&format!("{name}.bias"), out)?) } else { None };
        Ok(Linear::new(weight, bias))
    }
}
