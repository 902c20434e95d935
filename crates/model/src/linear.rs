//! A linear map with an optional low-rank adapter.
//!
//! The adapter is two thin products, `y = x Wᵀ + s · (x Aᵀ) Bᵀ` (LoRA, arXiv 2106.09685), so that a frozen `W` costs
//! neither a gradient nor a copy of its own shape.

use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use kernels::{Packed, Precision};

use crate::bilinear::Bilinear;
use crate::params::{Slot, Visitor};

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
}

impl Lora {
    /// `s B A`.
    pub fn new(a: Tensor<2>, b: Tensor<2>, scaling: f64) -> Self {
        Self { a, b, scaling, bilinear: None }
    }
}

/// `y = x Wᵀ + bias`, `W` as the checkpoint has it: `[out, in]`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor<2>,
    /// `[out]`.
    pub bias: Option<Tensor<1>>,
    /// The adapter, where one is attached and switched on.
    pub lora: Option<Lora>,
    packed: Option<Arc<Packed>>,
}

impl Linear {
    /// A map of the given weights.
    pub fn new(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self { weight, bias, lora: None, packed: None }
    }

    /// Applies the map to rows.
    ///
    /// # Shapes
    /// `x` is `[rows, in]`; returns `[rows, out]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let base = self.unadapted(x.clone());
        match self.change(x) {
            None => base,
            Some(change) => base + change,
        }
    }

    /// The map without its adapter.
    pub(crate) fn unadapted(&self, x: Tensor<2>) -> Tensor<2> {
        kernels::linear(x, self.weight.clone(), self.bias.clone(), self.packed.as_ref())
    }

    /// What the adapter adds.
    pub(crate) fn change(&self, x: Tensor<2>) -> Option<Tensor<2>> {
        let lora = self.lora.as_ref()?;
        let low = kernels::linear(x, lora.a.clone(), None, None);
        let low = match &lora.bilinear {
            None => low,
            Some(bilinear) => bilinear.apply(low),
        };
        Some(kernels::linear(low, lora.b.clone(), None, None) * lora.scaling)
    }

    /// Whether both multiply by the same packed weights, held once, and differ in ordinary adapters at most.
    pub(crate) fn shares_weights(&self, other: &Self) -> bool {
        let same = matches!((&self.packed, &other.packed), (Some(a), Some(b)) if Arc::ptr_eq(a, b));
        let ordinary = |map: &Self| map.lora.as_ref().is_none_or(|lora| lora.bilinear.is_none());
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
            self.weight = self.weight.clone() + delta;
            self.packed = None;
        }
    }

    /// Packs the weights once for many products, where the device profits from it and it was not done before.
    pub fn pack(&mut self, precision: Precision) {
        if self.packed.as_ref().is_none_or(|packed| packed.precision() != precision) {
            self.packed = kernels::pack(&self.weight, precision);
        }
    }

    pub(crate) fn visit(&mut self, name: &str, visitor: &mut Visitor<'_>) {
        visitor(&format!("{name}.weight"), Slot::Weight(&mut self.weight, &mut self.packed));
        if let Some(bias) = &mut self.bias {
            visitor(&format!("{name}.bias"), Slot::Vector(bias));
        }
        if let Some(lora) = &mut self.lora {
            match &mut lora.bilinear {
                None => {
                    visitor(&format!("{name}.lora_A.weight"), Slot::Matrix(&mut lora.a));
                    visitor(&format!("{name}.lora_B.weight"), Slot::Matrix(&mut lora.b));
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

    pub(crate) fn unpack(&mut self) {
        self.packed = None;
    }
}

/// A matrix of host values.
pub(crate) fn tensor(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Tensor<2> {
    Tensor::from_data(burn::tensor::TensorData::new(values, shape), device)
}
