//! Copies of a decoder: for inference, with another adapter, with packed weights; and whether two hold theirs once.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::Tensor;
use kernels::Precision;

use super::Decoder;
use crate::config::Head;
use crate::linear::Linear;

impl Decoder {
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
        let mut loras = BTreeMap::new();
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
    /// adapters at most.
    pub fn shares_weights(&self, other: &Self) -> bool {
        let (a, b) = (self, other);
        let languages = a.config.head == Head::Language && b.config.head == Head::Language;
        let trained = a.device().is_autodiff() || b.device().is_autodiff();
        if !languages || trained || a.layers.len() != b.layers.len() {
            return false;
        }
        let heads = match (&a.head, &b.head) {
            (Some(a), Some(b)) => a.shares_weights(b),
            (None, None) => matches!((&self.tied, &other.tied), (Some(a), Some(b)) if Arc::ptr_eq(a, b)),
            _ => false,
        };
        let layers = || a.layers.iter().zip(&b.layers);
        let shared =
            layers().all(|(a, b)| a.maps.iter().zip(b.maps.iter()).all(|(a, b)| a.shares_weights(b)));
        if !heads || !shared {
            return false;
        }
        // What is not packed is small, but for embeddings that are not the head's.
        let norms = layers().all(|(a, b)| {
            a.norms().count() == b.norms().count() && a.norms().zip(b.norms()).all(|(a, b)| a.equals(b))
        });
        let same = |a: &Tensor<2>, b: &Tensor<2>| a.clone().into_data() == b.clone().into_data();
        let embeddings = || a.head.is_none() || same(&a.embed_tokens, &b.embed_tokens);
        let positions = || match (&a.positions, &b.positions) {
            (None, None) => true,
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        };
        norms && a.norm.equals(&b.norm) && embeddings() && positions()
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
        copy.pack_as(precision);
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
        self.pack_as(Precision::F32);
    }

    /// Holds the matrices of its linear maps, but for a head of scores, as packed weights alone, in a number format: for training
    /// beside them, since they give gradients to what they are applied to. Nothing happens on a device without packed weights.
    pub fn hold(&mut self, precision: Precision) {
        if !self.packs() {
            return;
        }
        let score = self.config.head.is_score().then(|| self.head_name());
        self.each_linear(&mut |path, linear| {
            if Some(path) != score {
                linear.pack(precision);
                linear.release();
            }
        });
        if self.head.is_none() {
            self.tied = kernels::pack(&self.embed_tokens, precision);
        }
    }

    /// Lets go of the matrices of its linear maps on a device that packs weights: products read the packed ones, its own or those of
    /// a copy. Nothing else may be done with the matrices afterwards; what reads them gets NaN.
    pub fn release(&mut self) {
        if self.packs() {
            self.each_linear(&mut |_, linear| linear.release());
        }
    }

    fn pack_as(&mut self, precision: Precision) {
        self.each_linear(&mut |_, linear| linear.pack(precision));
        if self.head.is_none() && self.tied.is_none() {
            self.tied = kernels::pack(&self.embed_tokens, precision);
        }
    }
}
