//! A linear map with an optional low-rank adapter.
//!
//! The adapter is two thin products, `y = x Wᵀ + s · (x Aᵀ) Bᵀ` (LoRA, arXiv 2106.09685), so that a frozen `W` costs
//! neither a gradient nor a copy of its own shape.

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use kernels::{LowRank, Packed, Precision};

use crate::bilinear::Bilinear;
use crate::params::{Slot, Visitor, rows_of};

/// A low-rank change of a matrix.
#[derive(Debug, Clone)]
pub struct Lora {
    /// `[r, in]`.
    pub a: Tensor<2>,
    /// `[out, r]`.
    pub b: Tensor<2>,
    /// Factor of the product `B A`.
    pub scaling: f64,
    /// What lies between the factors, where the change depends on weights of objectives.
    pub bilinear: Option<Bilinear>,
    pub(crate) packed_a: Option<Arc<Packed>>,
    pub(crate) packed_b: Option<Arc<Packed>>,
}

impl Lora {
    /// `s B A`.
    pub fn new(a: Tensor<2>, b: Tensor<2>, scaling: f64) -> Self {
        Self { a, b, scaling, bilinear: None, packed_a: None, packed_b: None }
    }

    /// Packs the factors, where they are not trained, nothing lies between them and the device profits from it.
    pub(crate) fn pack(&mut self) {
        let plain = self.bilinear.is_none() && !self.a.is_autodiff();
        if plain && (self.packed_a.is_none() || self.packed_b.is_none()) {
            self.packed_a = kernels::pack(&self.a, Precision::F32);
            self.packed_b = kernels::pack(&self.b, Precision::F32);
        }
    }

    /// What the adapter adds to rows of `x`.
    fn change(&self, x: Tensor<2>) -> Tensor<2> {
        let low = kernels::linear(x, self.a.clone(), None, None);
        let low = match &self.bilinear {
            None => low,
            Some(bilinear) => bilinear.apply(low),
        };
        kernels::linear(low, self.b.clone(), None, None) * self.scaling
    }

    /// The change of some rows, of packed factors.
    pub(crate) fn change_of(&self, rows: Range<usize>) -> Option<LowRank> {
        let (a, b) = (self.packed_a.clone()?, self.packed_b.clone()?);
        Some(LowRank { rows, a, b, scale: self.scaling as f32 })
    }
}

/// `y = x Wᵀ + bias`, `W` as the checkpoint has it: `[out, in]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out, in]`; NaN where the map is held as its packed weights alone ([`crate::Decoder::hold`]).
    pub weight: Tensor<2>,
    /// `[out]`.
    pub bias: Option<Tensor<1>>,
    /// The adapter, where one is attached and switched on.
    pub lora: Option<Lora>,
    packed: Option<Arc<Packed>>,
    /// Whether what is packed is all there is of the weights.
    held: bool,
}

impl Linear {
    /// A map of the given weights.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self { weight, bias, lora: None, packed: None, held: false }
    }

    /// Applies the map to rows.
    ///
    /// # Shapes
    /// `x` is `[rows, in]`; returns `[rows, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let Some(lora) = &self.lora else { return self.unadapted(x) };
        let [rows, _] = x.dims();
        if let Some(change) = lora.change_of(0..rows) {
            return kernels::add_low_rank(self.unadapted(x.clone()), x, vec![change]);
        }
        if lora.bilinear.is_some() {
            return self.unadapted(x.clone()) + lora.change(x);
        }
        let (weight, bias) = (self.weight.clone(), self.bias.clone());
        let factors = (lora.a.clone(), lora.b.clone());
        kernels::lora_linear(x, weight, bias, self.packed.as_ref(), factors, lora.scaling)
    }

    /// [`Linear::forward`] of `silu(gate)·up`. What it is applied to is not kept for the gradient, unless an adapter needs it.
    pub(crate) fn of_silu_mul(&self, gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
        if self.is_plain() {
            return kernels::silu_mul_linear(gate, up, self.weight.clone(), self.packed.as_ref());
        }
        self.forward(kernels::silu_mul(gate, up))
    }

    /// Whether it is the product with its weights alone.
    pub(crate) fn is_plain(&self) -> bool {
        self.bias.is_none() && self.lora.is_none()
    }

    /// The map without its adapter.
    pub(crate) fn unadapted(&self, x: Tensor<2>) -> Tensor<2> {
        kernels::linear(x, self.weight.clone(), self.bias.clone(), self.packed.as_ref())
    }

    /// Whether both multiply by the same packed weights, held once, and differ in ordinary, packed adapters at most.
    pub(crate) fn shares_weights(&self, other: &Self) -> bool {
        let same = matches!((&self.packed, &other.packed), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        let ordinary = |map: &Self| map.lora.as_ref().is_none_or(|lora| lora.change_of(0..0).is_some());
        same && ordinary(self) && ordinary(other)
    }

    /// Attaches an adapter of rank `r`: `A` uniform as PEFT begins it (Kaiming with a = √5), `B` zero.
    pub fn attach(&mut self, r: usize, scaling: f64, uniform: &mut dyn FnMut() -> f64) {
        let [out, width] = self.weight.dims();
        let bound = 1.0 / (width as f64).sqrt();
        let a: Vec<f32> = (0..r * width).map(|_| ((2.0 * uniform() - 1.0) * bound) as f32).collect();
        let device = self.weight.device();
        self.lora =
            Some(Lora::new(tensor(a, [r, width], &device), Tensor::zeros([out, r], &device), scaling));
    }

    /// Attaches an adapter whose change depends on weights of `objectives`: of rank `r`, shared, and `own_r`, theirs.
    pub fn attach_bilinear(
        &mut self,
        (r, own_r): (usize, usize),
        objectives: usize,
        scaling: f64,
        uniform: &mut dyn FnMut() -> f64,
    ) {
        self.attach(r + own_r, scaling, uniform);
        let bilinear = Bilinear::random(r, own_r, objectives, &self.weight.device(), uniform);
        if let Some(lora) = &mut self.lora {
            lora.bilinear = Some(bilinear);
        }
    }

    /// Makes an adapter that depends on weights of objectives the ordinary one that it is under `weights`.
    pub fn fold(&mut self, weights: &[f64]) {
        if let Some(lora) = &mut self.lora
            && let Some(bilinear) = lora.bilinear.take()
        {
            lora.b = bilinear.folded(lora.b.clone(), weights);
        }
    }

    /// Adds the adapter to the weights and drops it. One whose weights of objectives differ from token to token stays.
    pub fn merge(&mut self) {
        let bilinear = self.lora.as_ref().and_then(|lora| lora.bilinear.as_ref());
        match bilinear.map(Bilinear::single) {
            None => {}
            Some(Some(weights)) => self.fold(&weights),
            Some(None) => return,
        }
        if let Some(lora) = self.lora.take() {
            let delta = lora.b.matmul(lora.a) * lora.scaling;
            self.weight = self.rows() + delta;
            (self.packed, self.held) = (None, false);
        }
    }

    /// The weights row by row, rounded as they are held.
    fn rows(&self) -> Tensor<2> {
        rows_of(self.packed.as_ref().filter(|_| self.held), &self.weight)
    }

    /// Packs the weights once for many products, where the device profits from it and it was not done before. What is held packed
    /// alone stays in the number format that it is in.
    pub fn pack(&mut self, precision: Precision) {
        let kept = |packed: &Arc<Packed>| packed.precision() == precision || self.held;
        if !self.packed.as_ref().is_some_and(kept) {
            self.packed = kernels::pack(&self.weight, precision);
        }
        if let Some(lora) = &mut self.lora {
            lora.pack();
        }
    }

    pub(crate) fn visit(&mut self, name: &str, visitor: &mut Visitor<'_>) {
        let weight = if self.held {
            Slot::Held(&mut self.weight, &mut self.packed, &mut self.held)
        } else {
            Slot::Weight(&mut self.weight, &mut self.packed)
        };
        visitor(&format!("{name}.weight"), weight);
        if let Some(bias) = &mut self.bias {
            visitor(&format!("{name}.bias"), Slot::Vector(bias));
        }
        if let Some(lora) = &mut self.lora {
            match &mut lora.bilinear {
                None => {
                    visitor(&format!("{name}.lora_A.weight"), Slot::Weight(&mut lora.a, &mut lora.packed_a));
                    visitor(&format!("{name}.lora_B.weight"), Slot::Weight(&mut lora.b, &mut lora.packed_b));
                }
                Some(bilinear) => {
                    visitor(&format!("{name}.pblora_A"), Slot::Matrix(&mut lora.a));
                    visitor(&format!("{name}.pblora_B"), Slot::Matrix(&mut lora.b));
                    visitor(&format!("{name}.pblora_W1"), Slot::Matrix(&mut bilinear.shared));
                    visitor(&format!("{name}.pblora_W2"), Slot::Matrix(&mut bilinear.own));
                }
            }
        }
    }

    /// Lets go of the weights row by row, in whose place NaN stands from then on: what is packed is all there is.
    pub(crate) fn release(&mut self) {
        let shape = self.weight.dims();
        self.weight = Tensor::<2>::full([1, 1], f32::NAN, &self.weight.device()).expand(shape);
        self.held = self.packed.is_some();
    }

    pub(crate) fn packed(&self) -> Option<&Arc<Packed>> {
        self.packed.as_ref()
    }

    pub(crate) fn unpack(&mut self) {
        (self.packed, self.held) = (None, false);
    }
}

/// A matrix of host values.
pub(crate) fn tensor(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(burn::tensor::TensorData::new(values, shape), device)
}
