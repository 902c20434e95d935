//! The decoder. A layer is norms and linear maps, whatever a family's files call them (`crate::family`).
//!
//! One forward serves training, scoring and decoding: it works on flat rows of tokens, `[tokens, hidden]`, and leaves
//! the mixing of positions to the caller ([`Mix`]): a padded batch that gradients flow through, or a paged cache.

mod build;
mod copies;
pub(crate) mod draw;

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};
use kernels::{Gate, HeadLogProb, HeadOf, HeadOptions, Packed, Precision};

use crate::config::{Config, Head};
use crate::family::{FEEDFORWARD_NORMS, HEAD_NORMS};
use crate::linear::Linear;
use crate::maps::{Maps, Qkv, Up, split};
use crate::norm::Norm;
use crate::params::{Slot, Visitor};
pub use build::Values;

/// Self-attention of a layer: queries `[tokens, heads, head_dim]`, keys and values `[tokens, kv_heads, head_dim]`, all
/// rotated, to outputs `[tokens, heads, head_dim]`.
pub type Mix<'m> = dyn FnMut(usize, Tensor<3>, Tensor<3>, Tensor<3>) -> Tensor<3> + 'm;

/// Where the parameters of a value head are visited, by the name that TRL has for them.
pub const VALUE_HEAD: &str = "v_head.summary";

/// A layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Norm before attention.
    pub input_norm: Norm,
    /// Norm before the feed-forward block; where [`Layer::feedforward_norms`] are, norm of what attention gives.
    pub post_norm: Norm,
    /// Norms before the feed-forward block and of what it gives.
    pub feedforward_norms: Option<[Norm; 2]>,
    /// Norms, `[head_dim]`, of every head of queries and keys before it is rotated, where the family has them.
    pub head_norms: Option<[Norm; 2]>,
    /// The linear maps.
    pub maps: Maps<Linear>,
}

impl Layer {
    /// All of its norms.
    fn norms(&self) -> impl Iterator<Item = &Norm> {
        let own = [&self.input_norm, &self.post_norm].into_iter();
        own.chain(self.head_norms.iter().flatten()).chain(self.feedforward_norms.iter().flatten())
    }
}

/// A decoder with its head.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Its shape.
    pub config: Config,
    /// Token embeddings, `[vocab, hidden]`.
    pub embed_tokens: Tensor<2>,
    /// Embeddings of positions, `[max_position_embeddings, hidden]`, where they are learned.
    pub positions: Option<Tensor<2>>,
    /// The layers.
    pub layers: Vec<Layer>,
    /// The last norm.
    pub norm: Norm,
    /// The head over the vocabulary or `score`; `None` where the output matrix is the embedding.
    pub head: Option<Linear>,
    /// A scalar head beside the language head, on the same hidden states: the value of a text so far, for PPO. It belongs to
    /// training and is no part of the model's own files.
    pub value: Option<Linear>,
    pub(crate) tied: Option<Arc<Packed>>,
    /// How keys and values are kept where it is only run.
    cache: Precision,
    inverse_frequencies: Vec<f32>,
}

impl Decoder {
    /// The device its weights are on.
    pub fn device(&self) -> Device {
        self.embed_tokens.device()
    }

    /// Runs the layers on flat tokens and returns what the last norm gets.
    ///
    /// # Shapes
    /// `ids` and `positions` have one entry a token; returns `[tokens, hidden]`.
    pub fn hidden(&self, ids: &[u32], positions: &[u32], mix: &mut Mix<'_>) -> Tensor<2> {
        let mut x = self.embed(ids, positions);
        for index in 0..self.layers.len() {
            x = self.layer(index, x, positions, mix);
        }
        x
    }

    /// What the first layer gets: the embeddings of tokens, and where positions are learned theirs.
    ///
    /// # Shapes
    /// `ids` and `positions` have one entry a token; returns `[tokens, hidden]`.
    ///
    /// # Panics
    /// A learned position is beyond [`Config::max_position_embeddings`]; sessions and the data's own limits refuse such rows before.
    pub fn embed(&self, ids: &[u32], positions: &[u32]) -> Tensor<2> {
        let device = self.device();
        let rows = |table: &Tensor<2>, places: &[u32]| {
            let places: Vec<i32> = places.iter().map(|place| *place as i32).collect();
            let count = places.len();
            let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &device);
            table.clone().select(0, places)
        };
        let x = rows(&self.embed_tokens, ids);
        if let Some(table) = &self.positions {
            let (limit, last) = (self.config.max_position_embeddings, positions.iter().max());
            let room = last.is_none_or(|last| (*last as usize) < limit);
            assert!(room, "position {last:?} of a decoder that has learned {limit}");
            return x + rows(table, positions);
        }
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
        let (frequencies, factor) = self.rotation();

        let [q, k, v] = self.queries_keys_values(layer, layer.input_norm.forward(x.clone()));
        let (q, k) = match &layer.head_norms {
            None => (q, k),
            Some([of_q, of_k]) => (of_q.of_heads(q), of_k.of_heads(k)),
        };
        let rotated = |x: Tensor<3>| match frequencies {
            [] => x,
            _ => kernels::rope(x, positions, frequencies, factor),
        };
        let (q, k) = (rotated(q), rotated(k));
        let o = mix(index, q, k, v).reshape([tokens, config.num_attention_heads * config.head_dim]);
        let o = layer.maps.output.forward(o);
        if let Some([before, after]) = &layer.feedforward_norms {
            let x = x + layer.post_norm.forward(o);
            let h = before.forward(x.clone());
            return x + after.forward(self.feedforward(layer, h));
        }
        let attended = x.clone() + o;
        let h = layer.post_norm.forward(if config.parallel_residual() { x } else { attended.clone() });
        attended + self.feedforward(layer, h)
    }

    /// Queries `[tokens, heads, head_dim]`, keys and values `[tokens, kv_heads, head_dim]` of rows `[tokens, hidden]`.
    fn queries_keys_values(&self, layer: &Layer, h: Tensor<2>) -> [Tensor<3>; 3] {
        let (config, [tokens, _]) = (&self.config, h.dims());
        match &layer.maps.qkv {
            Qkv::Separate([q, k, v]) => {
                let heads = |map: &Linear, count: usize| {
                    map.forward(h.clone()).reshape([tokens, count, config.head_dim])
                };
                let kv_heads = config.num_key_value_heads;
                [heads(q, config.num_attention_heads), heads(k, kv_heads), heads(v, kv_heads)]
            }
            Qkv::Fused(map, fusion) => split(map.forward(h), *fusion, config.num_attention_heads),
        }
    }

    /// The feed-forward block on rows `[tokens, hidden]`.
    fn feedforward(&self, layer: &Layer, h: Tensor<2>) -> Tensor<2> {
        let down = &layer.maps.down;
        match &layer.maps.up {
            Up::Gated([gate, up]) => {
                let (gate, up) = (gate.forward(h.clone()), up.forward(h));
                match self.config.gate() {
                    Gate::Gelu(form) => down.forward(kernels::gelu_mul(gate, up, form)),
                    Gate::Silu => down.of_silu_mul(gate, up),
                }
            }
            Up::Plain(up) => down.forward(kernels::gelu(up.forward(h), self.config.gelu())),
        }
    }

    /// Norm and head on rows of [`Decoder::hidden`]: `[rows, width]`.
    pub fn output(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.unembed(self.normed(hidden))
    }

    /// What the heads get: the last norm of rows of [`Decoder::hidden`].
    pub(crate) fn normed(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.norm.forward(hidden)
    }

    /// The head on rows of [`Decoder::normed`].
    pub(crate) fn unembed(&self, h: Tensor<2>) -> Tensor<2> {
        let logits = match &self.head {
            Some(head) => head.forward(h),
            None => kernels::linear(h, self.embed_tokens.clone(), None, self.tied.as_ref()),
        };
        self.capped(logits)
    }

    /// Products with the head as the logits that they are: below a soft cap, where the family has one.
    pub(crate) fn capped(&self, logits: Tensor<2>) -> Tensor<2> {
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
        if let Some((weight, packed)) = self.plain_head().filter(|_| self.config.logit_cap().is_none()) {
            return kernels::head_log_prob(h, weight.clone(), packed, targets, options);
        }
        let logits = self.unembed(h);
        let entropy = kernels::naive::entropies(&logits, options.entropy);
        HeadLogProb { log_prob: kernels::gather_log_prob(logits, targets), entropy }
    }

    /// `KL(this ‖ other)` in nats of the next-token laws of rows of [`Decoder::normed`], each decoder's own.
    pub(crate) fn kl(&self, h: Tensor<2>, other: &Self, other_h: Tensor<2>) -> Tensor<1> {
        let (Some(p), Some(q)) = (self.plain_head(), other.plain_head()) else {
            return kernels::naive::kl(self.unembed(h), other.unembed(other_h));
        };
        let of = |decoder: &Self, h, (weight, packed): (&Tensor<2>, _)| HeadOf {
            h,
            weight: weight.clone(),
            packed,
            soft_cap: decoder.config.logit_cap(),
        };
        kernels::head_kl(of(self, h, p), of(other, other_h, q))
    }

    /// The weight of the head, and the same packed where it is, where the product with it is all there is but for a soft cap.
    fn plain_head(&self) -> Option<(&Tensor<2>, Option<&Arc<Packed>>)> {
        match &self.head {
            None => Some((&self.embed_tokens, self.tied.as_ref())),
            Some(head) => head.is_plain().then(|| (&head.weight, head.packed())),
        }
    }

    /// The width of the output.
    pub fn width(&self) -> usize {
        self.config.head.outputs(self.config.vocab_size)
    }

    /// Calls `visitor` with every parameter.
    pub fn visit(&mut self, visitor: &mut Visitor<'_>) {
        let names = self.config.names();
        let embedding = format!("{}.weight", names.top(names.embedding));
        visitor(&embedding, Slot::Weight(&mut self.embed_tokens, &mut self.tied));
        if let (Some(name), Some(positions)) = (names.positions, &mut self.positions) {
            visitor(&format!("{}.weight", names.top(name)), Slot::Matrix(positions));
        }
        for (index, layer) in self.layers.iter_mut().enumerate() {
            let at = |part: &str| names.layer(index, part);
            layer.input_norm.visit(&at(names.input_norm), visitor);
            for (name, norm) in HEAD_NORMS.iter().zip(layer.head_norms.iter_mut().flatten()) {
                norm.visit(&at(name), visitor);
            }
            layer.post_norm.visit(&at(names.post_norm), visitor);
            for (name, norm) in FEEDFORWARD_NORMS.iter().zip(layer.feedforward_norms.iter_mut().flatten()) {
                norm.visit(&at(name), visitor);
            }
            for (name, map) in names.maps.iter().zip(layer.maps.iter_mut()) {
                map.visit(&at(name), visitor);
            }
        }
        self.norm.visit(&names.top(names.norm), visitor);
        let name = self.head_name();
        if let Some(head) = &mut self.head {
            head.visit(name, visitor);
        }
        if let Some(value) = &mut self.value {
            value.visit(VALUE_HEAD, visitor);
        }
    }

    /// Calls `apply` with the path of every linear map of the layers (`model.layers.0.self_attn.q_proj`) and of the head.
    pub fn each_linear(&mut self, apply: &mut dyn FnMut(&str, &mut Linear)) {
        let names = self.config.names();
        for (index, layer) in self.layers.iter_mut().enumerate() {
            for (name, map) in names.maps.iter().zip(layer.maps.iter_mut()) {
                apply(&names.layer(index, name), map);
            }
        }
        let name = self.head_name();
        if let Some(head) = &mut self.head {
            apply(name, head);
        }
    }

    /// What the head is called in files.
    fn head_name(&self) -> &'static str {
        if self.config.head.is_score() { "score" } else { self.config.names().head() }
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
