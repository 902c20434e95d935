//! The llama-family decoder. Fields have the names of the checkpoint, so that loading needs no table of names.
//!
//! One forward serves training, scoring and decoding: it works on flat rows of tokens, `[tokens, hidden]`, and leaves
//! the mixing of positions to the caller ([`Mix`]): a padded batch that gradients flow through, or a paged cache.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use kernels::{Gelu, HeadLogProb, HeadOptions, Packed, Precision};

use crate::config::{Config, Head};
use crate::linear::Linear;
use crate::params::{Slot, Visitor};

/// Self-attention of a layer: queries `[tokens, heads, head_dim]`, keys and values `[tokens, kv_heads, head_dim]`, all
/// rotated, to outputs `[tokens, heads, head_dim]`.
pub type Mix<'m> = dyn FnMut(usize, Tensor<3>, Tensor<3>, Tensor<3>) -> Tensor<3> + 'm;

/// One of a layer's linear maps.
pub(crate) type Map = fn(&Layer) -> &Linear;

/// Where the parameters of a value head are visited, by the name that TRL has for them.
pub const VALUE_HEAD: &str = "v_head.summary";

/// Where the norms of the heads of queries and keys are, in a layer.
const HEAD_NORMS: [&str; 2] = ["self_attn.q_norm.weight", "self_attn.k_norm.weight"];

/// The paths of [`Layer::feedforward_norms`] in a layer.
const FEEDFORWARD_NORMS: [&str; 2] =
    ["pre_feedforward_layernorm.weight", "post_feedforward_layernorm.weight"];

/// Gives the flat values of the parameter of a name and shape.
pub type Values<'v, E> = dyn FnMut(&str, &[usize]) -> Result<Vec<f32>, E> + 'v;

/// `self_attn` of a layer.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// Queries.
    pub q_proj: Linear,
    /// Keys.
    pub k_proj: Linear,
    /// Values.
    pub v_proj: Linear,
    /// Outputs.
    pub o_proj: Linear,
    /// `q_norm` and `k_norm`, `[head_dim]`: norms of every head before it is rotated, where the family has them.
    pub head_norms: Option<[Tensor<1>; 2]>,
}

/// `mlp` of a layer.
#[derive(Debug, Clone)]
pub struct Mlp {
    /// What is passed through SiLU.
    pub gate_proj: Linear,
    /// What it multiplies.
    pub up_proj: Linear,
    /// Back to the residual stream.
    pub down_proj: Linear,
}

/// A layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Norm before attention.
    pub input_layernorm: Tensor<1>,
    /// Attention.
    pub self_attn: SelfAttention,
    /// Norm before the feed-forward block; where [`Layer::feedforward_norms`] are, norm of what attention gives.
    pub post_attention_layernorm: Tensor<1>,
    /// Norms before the feed-forward block and of what it gives, `pre_feedforward_layernorm` and `post_feedforward_layernorm`.
    pub feedforward_norms: Option<[Tensor<1>; 2]>,
    /// Feed-forward block.
    pub mlp: Mlp,
}

/// A decoder with its head.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Its shape.
    pub config: Config,
    /// Token embeddings, `[vocab, hidden]`.
    pub embed_tokens: Tensor<2>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// The last norm.
    pub norm: Tensor<1>,
    /// `lm_head` or `score`; `None` where the output matrix is the embedding.
    pub head: Option<Linear>,
    /// A scalar head beside the language head, on the same hidden states: the value of a text so far, for PPO. It belongs to
    /// training and is no part of the model's own files.
    pub value: Option<Linear>,
    tied: Option<Arc<Packed>>,
    /// How keys and values are kept where it is only run.
    cache: Precision,
    inverse_frequencies: Vec<f32>,
}

impl Decoder {
    /// A decoder whose parameters are given by name: `weight(name, shape)` returns the flat values.
    pub fn build<E>(config: Config, device: &Device, weight: &mut Values<'_, E>) -> Result<Self, E> {
        let (d, f) = (config.hidden_size, config.intermediate_size);
        let q = config.num_attention_heads * config.head_dim;
        let kv = config.num_key_value_heads * config.head_dim;
        let mut build = Builder { weight, device };
        let embed_tokens = build.matrix("model.embed_tokens.weight", config.vocab_size, d)?;
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for index in 0..config.num_hidden_layers {
            let at = |part: &str| format!("model.layers.{index}.{part}");
            layers.push(Layer {
                input_layernorm: build.vector(&at("input_layernorm.weight"), d)?,
                self_attn: SelfAttention {
                    q_proj: build.linear(&at("self_attn.q_proj"), q, d, config.qkv_bias)?,
                    k_proj: build.linear(&at("self_attn.k_proj"), kv, d, config.qkv_bias)?,
                    v_proj: build.linear(&at("self_attn.v_proj"), kv, d, config.qkv_bias)?,
                    o_proj: build.linear(&at("self_attn.o_proj"), d, q, config.o_bias)?,
                    head_norms: if config.head_norms {
                        let mut norm = |name| build.vector(&at(name), config.head_dim);
                        Some([norm(HEAD_NORMS[0])?, norm(HEAD_NORMS[1])?])
                    } else {
                        None
                    },
                },
                post_attention_layernorm: build.vector(&at("post_attention_layernorm.weight"), d)?,
                feedforward_norms: if config.gemma.is_some() {
                    let mut norm = |name| build.vector(&at(name), d);
                    Some([norm(FEEDFORWARD_NORMS[0])?, norm(FEEDFORWARD_NORMS[1])?])
                } else {
                    None
                },
                mlp: Mlp {
                    gate_proj: build.linear(&at("mlp.gate_proj"), f, d, config.mlp_bias)?,
                    up_proj: build.linear(&at("mlp.up_proj"), f, d, config.mlp_bias)?,
                    down_proj: build.linear(&at("mlp.down_proj"), d, f, config.mlp_bias)?,
                },
            });
        }
        let norm = build.vector("model.norm.weight", d)?;
        let head = match config.head {
            Head::Score | Head::Vocabulary | Head::Quantile { .. } => {
                Some(build.linear("score", config.head.outputs(config.vocab_size), d, false)?)
            }
            Head::Language if config.tie_word_embeddings => None,
            Head::Language => Some(build.linear("lm_head", config.vocab_size, d, false)?),
        };
        let inverse_frequencies = config.rope_scaling.inverse_frequencies(config.rope_theta, config.head_dim);
        Ok(Self {
            config,
            embed_tokens,
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
        let norm = if config.gemma.is_some() { 0.0 } else { 1.0 };
        let result = Self::build(config, device, &mut |name, shape| {
            let count = shape.iter().product();
            let std = if name.ends_with("o_proj.weight") || name.ends_with("down_proj.weight") {
                0.02 / depth
            } else {
                0.02
            };
            let values = if name.contains("norm") {
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

    /// The device its weights are on.
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// Runs the layers on flat tokens and returns what the last norm gets.
    ///
    /// # Shapes
    /// `ids` and `positions` have one entry a token; returns `[tokens, hidden]`.
    pub fn hidden(&self, ids: &[u32], positions: &[u32], mix: &mut Mix<'_>) -> Tensor<2> {
        let mut x = self.embed(ids);
        for index in 0..self.layers.len() {
            x = self.layer(index, x, positions, mix);
        }
        x
    }

    /// The embeddings of `ids`, `[tokens, hidden]`.
    pub fn embed(&self, ids: &[u32]) -> Tensor<2> {
        let device = self.device();
        let ids: Vec<i32> = ids.iter().map(|id| *id as i32).collect();
        let count = ids.len();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device);
        let x = self.embed_tokens.clone().select(0, ids);
        match self.config.gemma {
            Some(_) => x.mul_scalar((self.config.hidden_size as f64).sqrt()),
            None => x,
        }
    }

    /// Inverse frequencies of the rotation, and the factor of its cosines and sines.
    pub(crate) fn rotation(&self) -> (&[f32], f32) {
        (&self.inverse_frequencies, self.config.rope_scaling.attention_factor())
    }

    /// Runs layer `index`.
    pub fn layer(&self, index: usize, x: Tensor<2>, positions: &[u32], mix: &mut Mix<'_>) -> Tensor<2> {
        let layer = &self.layers[index];
        let config = &self.config;
        let [tokens, _] = x.dims();
        let heads = |rows: Tensor<2>, count: usize| rows.reshape([tokens, count, config.head_dim]);
        let (frequencies, factor) = self.rotation();

        let h = self.rms_norm(x.clone(), &layer.input_layernorm);
        let q = heads(layer.self_attn.q_proj.forward(h.clone()), config.num_attention_heads);
        let k = heads(layer.self_attn.k_proj.forward(h.clone()), config.num_key_value_heads);
        let v = heads(layer.self_attn.v_proj.forward(h), config.num_key_value_heads);
        let (q, k) = match &layer.self_attn.head_norms {
            None => (q, k),
            Some([of_q, of_k]) => (self.head_norm(q, of_q), self.head_norm(k, of_k)),
        };
        let q = kernels::rope(q, positions, frequencies, factor);
        let k = kernels::rope(k, positions, frequencies, factor);
        let o = mix(index, q, k, v).reshape([tokens, config.num_attention_heads * config.head_dim]);
        let o = layer.self_attn.o_proj.forward(o);
        let Some([before, after]) = &layer.feedforward_norms else {
            let x = x + o;
            let h = self.rms_norm(x.clone(), &layer.post_attention_layernorm);
            return x + self.feedforward(layer, h);
        };
        let x = x + self.rms_norm(o, &layer.post_attention_layernorm);
        let h = self.rms_norm(x.clone(), before);
        x + self.rms_norm(self.feedforward(layer, h), after)
    }

    fn feedforward(&self, layer: &Layer, h: Tensor<2>) -> Tensor<2> {
        let gate = layer.mlp.gate_proj.forward(h.clone());
        let up = layer.mlp.up_proj.forward(h);
        match self.config.gemma {
            Some(_) => layer.mlp.down_proj.forward(kernels::gelu_mul(gate, up, Gelu::Tanh)),
            None => layer.mlp.down_proj.of_silu_mul(gate, up),
        }
    }

    /// An RMS norm by its weight, in a Gemma by one plus its weight.
    fn rms_norm(&self, rows: Tensor<2>, weight: &Tensor<1>) -> Tensor<2> {
        let weight = weight.clone();
        let weight = if self.config.gemma.is_some() { weight.add_scalar(1.0) } else { weight };
        kernels::rms_norm(rows, weight, self.config.rms_norm_eps)
    }

    /// The norm of every head, `[tokens, heads, head_dim]`.
    fn head_norm(&self, heads: Tensor<3>, weight: &Tensor<1>) -> Tensor<3> {
        let shape @ [tokens, count, width] = heads.dims();
        let rows = heads.reshape([tokens * count, width]);
        self.rms_norm(rows, weight).reshape(shape)
    }

    /// Norm and head on rows of [`Decoder::hidden`]: `[rows, width]`.
    pub fn output(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.unembed(self.normed(hidden))
    }

    /// What the heads get: the last norm of rows of [`Decoder::hidden`].
    pub(crate) fn normed(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.rms_norm(hidden, &self.norm)
    }

    /// The head on rows of [`Decoder::normed`].
    pub(crate) fn unembed(&self, h: Tensor<2>) -> Tensor<2> {
        let logits = match &self.head {
            Some(head) => head.forward(h),
            None => kernels::linear(h, self.embed_tokens.clone(), None, self.tied.as_ref()),
        };
        match self.config.logit_cap() {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    }

    /// Log-probabilities of `targets`, from rows of [`Decoder::normed`].
    pub(crate) fn log_probs(
        &self,
        h: Tensor<2>,
        targets: Tensor<1, Int>,
        options: HeadOptions,
    ) -> HeadLogProb {
        let (weight, packed) = match &self.head {
            None if self.config.logit_cap().is_none() => (&self.embed_tokens, self.tied.as_ref()),
            Some(head) if head.is_plain() && self.config.logit_cap().is_none() => {
                (&head.weight, head.packed())
            }
            _ => {
                let logits = self.unembed(h);
                let entropy = options.entropy.then(|| kernels::naive::entropy(logits.clone()));
                return HeadLogProb { log_prob: kernels::gather_log_prob(logits, targets), entropy };
            }
        };
        kernels::head_log_prob(h, weight.clone(), packed, targets, options)
    }

    /// The packed head over the vocabulary, where it is packed and the product with it is all there is.
    pub(crate) fn packed_head(&self) -> Option<&Arc<Packed>> {
        match &self.head {
            _ if self.config.head != Head::Language || self.config.logit_cap().is_some() => None,
            None => self.tied.as_ref(),
            Some(head) => head.is_plain().then(|| head.packed()).flatten(),
        }
    }

    /// The width of the output.
    pub fn width(&self) -> usize {
        self.config.head.outputs(self.config.vocab_size)
    }

    /// Calls `visitor` with every parameter.
    pub fn visit(&mut self, visitor: &mut Visitor<'_>) {
        visitor("model.embed_tokens.weight", Slot::Weight(&mut self.embed_tokens, &mut self.tied));
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let at = |part: &str| format!("model.layers.{index}.{part}");
            visitor(&at("input_layernorm.weight"), Slot::Vector(&mut layer.input_layernorm));
            layer.self_attn.q_proj.visit(&at("self_attn.q_proj"), visitor);
            layer.self_attn.k_proj.visit(&at("self_attn.k_proj"), visitor);
            layer.self_attn.v_proj.visit(&at("self_attn.v_proj"), visitor);
            layer.self_attn.o_proj.visit(&at("self_attn.o_proj"), visitor);
            for (name, norm) in HEAD_NORMS.iter().zip(layer.self_attn.head_norms.iter_mut().flatten()) {
                visitor(&at(name), Slot::Vector(norm));
            }
            visitor(
                &at("post_attention_layernorm.weight"),
                Slot::Vector(&mut layer.post_attention_layernorm),
            );
            for (name, norm) in FEEDFORWARD_NORMS.iter().zip(layer.feedforward_norms.iter_mut().flatten()) {
                visitor(&at(name), Slot::Vector(norm));
            }
            layer.mlp.gate_proj.visit(&at("mlp.gate_proj"), visitor);
            layer.mlp.up_proj.visit(&at("mlp.up_proj"), visitor);
            layer.mlp.down_proj.visit(&at("mlp.down_proj"), visitor);
        }
        visitor("model.norm.weight", Slot::Vector(&mut self.norm));
        let name = if self.config.head.is_score() { "score" } else { "lm_head" };
        if let Some(head) = &mut self.head {
            head.visit(name, visitor);
        }
        if let Some(value) = &mut self.value {
            value.visit(VALUE_HEAD, visitor);
        }
    }

    /// Calls `apply` with the path of every linear map of the layers (`model.layers.0.self_attn.q_proj`) and of the head.
    pub fn each_linear(&mut self, apply: &mut dyn FnMut(&str, &mut Linear)) {
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let maps = [
                ("self_attn.q_proj", &mut layer.self_attn.q_proj),
                ("self_attn.k_proj", &mut layer.self_attn.k_proj),
                ("self_attn.v_proj", &mut layer.self_attn.v_proj),
                ("self_attn.o_proj", &mut layer.self_attn.o_proj),
                ("mlp.gate_proj", &mut layer.mlp.gate_proj),
                ("mlp.up_proj", &mut layer.mlp.up_proj),
                ("mlp.down_proj", &mut layer.mlp.down_proj),
            ];
            for (part, linear) in maps {
                apply(&format!("model.layers.{index}.{part}"), linear);
            }
        }
        let name = if self.config.head.is_score() { "score" } else { "lm_head" };
        if let Some(head) = &mut self.head {
            apply(name, head);
        }
    }

    /// Sets the weights of objectives that adapters depend on ([`crate::bilinear`]): one for each objective, or so many for
    /// each of the tokens that will be run.
    pub fn prefer(&mut self, weights: &[f32]) {
        let weights = Arc::from(weights);
        self.each_linear(&mut |_, linear| {
            if let Some(bilinear) = linear.lora.as_mut().and_then(|lora| lora.bilinear.as_mut()) {
                bilinear.prefer(&weights);
            }
        });
    }

    /// A copy without adapters.
    #[must_use]
    pub fn without_adapter(&self) -> Self {
        let mut copy = self.clone();
        copy.each_linear(&mut |_, linear| linear.lora = None);
        copy
    }

    /// A copy with the adapter of `other`, a decoder of the same shape, in the place of its own; the weights are held once.
    #[must_use]
    pub fn with_adapter_of(&self, other: &Self) -> Self {
        let mut loras = std::collections::BTreeMap::new();
        other.clone().each_linear(&mut |path, linear| {
            if let Some(lora) = linear.lora.take() {
                loras.insert(path.to_owned(), lora);
            }
        });
        let mut copy = self.clone();
        copy.each_linear(&mut |path, linear| {
            linear.lora = loras.remove(path);
            if linear.packed().is_some()
                && let Some(lora) = &mut linear.lora
            {
                lora.pack();
            }
        });
        copy
    }

    /// Whether both are language models that are only run, multiply by the same packed weights, held once, and differ in
    /// adapters at most; never of a family whose layers are composed of their operations.
    pub fn shares_weights(&self, other: &Self) -> bool {
        let (a, b) = (self, other);
        let languages = a.config.head == Head::Language && b.config.head == Head::Language;
        let trained = a.device().is_autodiff() || b.device().is_autodiff();
        if !languages || trained || a.config.gemma.is_some() || a.layers.len() != b.layers.len() {
            return false;
        }
        let heads = match (&a.head, &b.head) {
            (Some(a), Some(b)) => a.shares_weights(b),
            (None, None) => matches!((&self.tied, &other.tied), (Some(a), Some(b)) if Arc::ptr_eq(a, b)),
            _ => false,
        };
        let maps: [Map; 7] = [
            |layer| &layer.self_attn.q_proj,
            |layer| &layer.self_attn.k_proj,
            |layer| &layer.self_attn.v_proj,
            |layer| &layer.self_attn.o_proj,
            |layer| &layer.mlp.gate_proj,
            |layer| &layer.mlp.up_proj,
            |layer| &layer.mlp.down_proj,
        ];
        let layers = || a.layers.iter().zip(&b.layers);
        let shared = layers().all(|(a, b)| maps.iter().all(|map| map(a).shares_weights(map(b))));
        if !heads || !shared {
            return false;
        }
        // What is not packed is small, but for embeddings that are not the head's.
        let same = |a: &Tensor<1>, b: &Tensor<1>| a.clone().into_data() == b.clone().into_data();
        let norms = layers().all(|(a, b)| {
            let head_norms = match (&a.self_attn.head_norms, &b.self_attn.head_norms) {
                (None, None) => true,
                (Some(a), Some(b)) => a.iter().zip(b).all(|(a, b)| same(a, b)),
                _ => false,
            };
            head_norms
                && same(&a.input_layernorm, &b.input_layernorm)
                && same(&a.post_attention_layernorm, &b.post_attention_layernorm)
        });
        let embeddings =
            || a.head.is_none() || a.embed_tokens.clone().into_data() == b.embed_tokens.clone().into_data();
        norms && same(&a.norm, &b.norm) && embeddings()
    }

    /// A copy for inference: off the differentiating device, weights packed, without a value head.
    #[must_use]
    pub fn frozen(&self) -> Self {
        self.frozen_as(Precision::F32)
    }

    /// [`Decoder::frozen`] with the matrices of its products in a number format, where the device has packed weights.
    /// Embeddings that are looked up, norms and adapters stay as they are.
    #[must_use]
    pub fn frozen_as(&self, precision: Precision) -> Self {
        let mut copy = self.clone();
        copy.value = None;
        copy.cache = precision;
        copy.visit(&mut |_, mut slot| slot.freeze());
        copy.pack_where(precision, |_| true);
        copy
    }

    /// The number format that keys and values of its sessions are held in: 32 bits, or bf16 where the weights have fewer bits.
    pub(crate) fn cache_precision(&self) -> Precision {
        self.cache
    }

    /// The same decoder with a new value head of zeros: at first it says nothing, so that it misleads no advantage.
    #[must_use]
    pub fn with_value_head(mut self) -> Self {
        let (device, width) = (self.device(), self.config.hidden_size);
        self.value = Some(Linear::new(Tensor::zeros([1, width], &device), Some(Tensor::zeros([1], &device))));
        self
    }

    /// Whether its device holds the weights of policies in any [`Precision`].
    pub fn packs(&self) -> bool {
        kernels::packs(&self.embed_tokens.device())
    }

    /// Packs the weights for decoding, where the device profits from it.
    pub fn pack(&mut self) {
        self.pack_where(Precision::F32, |_| true);
    }

    /// Packs the weights that are not trained: they are multiplied by at every step and never change.
    pub fn pack_frozen(&mut self) {
        self.pack_where(Precision::F32, |weight| !weight.is_require_grad());
    }

    fn pack_where(&mut self, precision: Precision, wanted: impl Fn(&Tensor<2>) -> bool) {
        self.each_linear(&mut |_, linear| {
            if wanted(&linear.weight) {
                linear.pack(precision);
            }
        });
        if self.head.is_none() && self.tied.is_none() && wanted(&self.embed_tokens) {
            self.tied = kernels::pack(&self.embed_tokens, precision);
        }
    }

    /// The value of one next token for each row of [`Decoder::hidden`], `[rows]`, by a head of values of all of them
    /// ([`Head::Vocabulary`]): two rows of the head are multiplied by, and not all of them. `None` for another head.
    pub fn token_values(&self, hidden: Tensor<2>, tokens: &[u32]) -> Option<Tensor<1>> {
        let head = self.head.as_ref().filter(|_| self.config.head == Head::Vocabulary)?;
        let (count, device) = (tokens.len(), self.device());
        let h = self.normed(hidden);
        let ids: Vec<i32> = tokens.iter().map(|id| *id as i32).collect();
        let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [count]), &device);
        let own = head.weight.clone().select(0, ids);
        let state = Tensor::<1, Int>::from_data([self.config.vocab_size as i32], &device);
        let state = head.weight.clone().select(0, state);
        Some((h * (own + state)).sum_dim(1).reshape([count]))
    }

    /// The same decoder with a new, small reward head in place of the language head.
    #[must_use]
    pub fn with_score_head(self, pad: Option<u32>, draw: &mut dyn FnMut() -> f64) -> Self {
        self.with_head(Head::Score, pad, draw)
    }

    /// The same decoder with a new head of scores in place of the one it has. A score is drawn small; so is the value of the
    /// text in a head of values of tokens, whose tokens begin with nothing of their own; a law of rewards begins as the one
    /// that no prompt changes.
    #[must_use]
    pub fn with_head(mut self, head: Head, pad: Option<u32>, draw: &mut dyn FnMut() -> f64) -> Self {
        let (width, device) = (self.config.hidden_size, self.device());
        let rows = head.outputs(self.config.vocab_size);
        let drawn = usize::from(!matches!(head, Head::Quantile { .. }));
        let mut values = vec![0.0; (rows - drawn) * width];
        let std = 1.0 / (width as f64 + 1.0).sqrt();
        values.extend((0..drawn * width).map(|_| (draw() * std) as f32));
        self.config = self.config.with_head(head, pad);
        self.head = Some(Linear::new(crate::linear::tensor(values, [rows, width], &device), None));
        self.tied = None;
        self
    }
}

/// Makes parameters of named values.
struct Builder<'b, E> {
    weight: &'b mut Values<'b, E>,
    device: &'b Device,
}

impl<E> Builder<'_, E> {
    fn vector(&mut self, name: &str, n: usize) -> Result<Tensor<1>, E> {
        let values = (self.weight)(name, &[n])?;
        Ok(Tensor::from_data(TensorData::new(values, [n]), self.device))
    }

    fn matrix(&mut self, name: &str, out: usize, inn: usize) -> Result<Tensor<2>, E> {
        let values = (self.weight)(name, &[out, inn])?;
        Ok(Tensor::from_data(TensorData::new(values, [out, inn]), self.device))
    }

    fn linear(&mut self, name: &str, out: usize, inn: usize, bias: bool) -> Result<Linear, E> {
        let weight = self.matrix(&format!("{name}.weight"), out, inn)?;
        let bias = if bias { Some(self.vector(&format!("{name}.bias"), out)?) } else { None };
        Ok(Linear::new(weight, bias))
    }
}
