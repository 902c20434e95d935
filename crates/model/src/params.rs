//! A walk over a model's parameters by their checkpoint names.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Gradients, Tensor};
use kernels::Packed;

use crate::cache::host;
use crate::linear::tensor;

/// A parameter in its place.
#[derive(Debug)]
pub enum Slot<'a> {
    /// A vector.
    Vector(&'a mut Tensor<1>),
    /// A matrix.
    Matrix(&'a mut Tensor<2>),
    /// A matrix and its copy packed for products, which is dropped when the matrix changes.
    Weight(&'a mut Tensor<2>, &'a mut Option<Arc<Packed>>),
    /// A constant matrix that is there as packed weights alone: what stands in its place, the weights, and whether it still does.
    Held(&'a mut Tensor<2>, &'a mut Option<Arc<Packed>>, &'a mut bool),
}

/// What is called with every parameter's name and place.
pub type Visitor<'v> = dyn FnMut(&str, Slot<'_>) + 'v;

impl Slot<'_> {
    /// Its shape.
    pub fn shape(&self) -> Vec<usize> {
        match self {
            Slot::Vector(tensor) => tensor.dims().to_vec(),
            Slot::Matrix(tensor) | Slot::Weight(tensor, _) | Slot::Held(tensor, ..) => tensor.dims().to_vec(),
        }
    }

    /// Whether gradients are wanted for it.
    pub fn is_trained(&self) -> bool {
        match self {
            Slot::Vector(tensor) => tensor.is_require_grad(),
            Slot::Matrix(tensor) | Slot::Weight(tensor, _) => tensor.is_require_grad(),
            Slot::Held(..) => false,
        }
    }

    /// Its values, flat and without a gradient; rounded as they are held.
    pub fn flat(&self) -> Tensor<1> {
        match self {
            Slot::Vector(tensor) => plain((**tensor).clone()),
            Slot::Matrix(tensor) | Slot::Weight(tensor, _) => {
                let [rows, columns] = tensor.dims();
                plain((**tensor).clone()).reshape([rows * columns])
            }
            Slot::Held(tensor, packed, _) => {
                let [rows, columns] = tensor.dims();
                plain(rows_of(packed.as_ref(), tensor)).reshape([rows * columns])
            }
        }
    }

    /// Replaces its values; whether it is trained stays as it is.
    pub fn set_flat(&mut self, values: Tensor<1>) {
        let trained = self.is_trained();
        match self {
            Slot::Weight(_, packed) => **packed = None,
            Slot::Held(_, packed, held) => (**packed, **held) = (None, false),
            Slot::Vector(_) | Slot::Matrix(_) => {}
        }
        match self {
            Slot::Vector(tensor) => **tensor = like(values, tensor.is_autodiff(), trained),
            Slot::Matrix(tensor) | Slot::Weight(tensor, _) | Slot::Held(tensor, ..) => {
                let shape = tensor.dims();
                **tensor = like(values.reshape(shape), tensor.is_autodiff(), trained);
            }
        }
    }

    /// Makes it a leaf that gradients flow to, or a constant, of the differentiating device.
    pub fn set_trained(&mut self, trained: bool) {
        if let Slot::Held(tensor, packed, held) = self
            && trained
        {
            (**tensor, **held) = (rows_of(packed.as_ref(), tensor), false);
        }
        match self {
            Slot::Vector(tensor) => **tensor = like(plain((**tensor).clone()), true, trained),
            Slot::Matrix(tensor) | Slot::Weight(tensor, _) | Slot::Held(tensor, ..) => {
                **tensor = like(plain((**tensor).clone()), true, trained);
            }
        }
    }

    /// Takes it off the differentiating device.
    pub fn freeze(&mut self) {
        match self {
            Slot::Vector(tensor) => **tensor = plain((**tensor).clone()),
            Slot::Matrix(tensor) | Slot::Weight(tensor, _) | Slot::Held(tensor, ..) => {
                **tensor = plain((**tensor).clone());
            }
        }
    }

    /// Its gradient, flat.
    pub fn gradient(&self, gradients: &Gradients) -> Option<Tensor<1>> {
        match self {
            Slot::Vector(tensor) => tensor.grad(gradients),
            Slot::Matrix(tensor) | Slot::Weight(tensor, _) => {
                let [rows, columns] = tensor.dims();
                tensor.grad(gradients).map(|gradient| gradient.reshape([rows * columns]))
            }
            Slot::Held(..) => None,
        }
    }
}

/// A packed matrix row by row, rounded as it is held, on the device of what stands in its place.
pub(crate) fn rows_of(packed: Option<&Arc<Packed>>, place: &Tensor<2>) -> Tensor<2> {
    match packed {
        Some(packed) => tensor(packed.to_out_in(), [packed.columns(), packed.inner()], &place.device()),
        None => place.clone(),
    }
}

fn plain<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() { tensor.inner() } else { tensor }
}

fn like<const D: usize>(values: Tensor<D>, autodiff: bool, trained: bool) -> Tensor<D> {
    if !autodiff {
        return values;
    }
    let lifted = Tensor::from_inner(values);
    if trained { lifted.require_grad() } else { lifted }
}

/// Gradients by parameter name, flat, off the differentiating device; sums over micro-batches.
#[derive(Debug, Default, Clone)]
pub struct Grads {
    by_name: BTreeMap<String, Tensor<1>>,
}

impl Grads {
    /// Adds a gradient to what is there.
    pub fn add(&mut self, name: &str, gradient: Tensor<1>) {
        let gradient = plain(gradient);
        let sum = match self.by_name.remove(name) {
            Some(before) => before + gradient,
            None => gradient,
        };
        self.by_name.insert(name.to_owned(), sum);
    }

    /// Adds another's gradients.
    pub fn merge(&mut self, other: Self) {
        for (name, gradient) in other.by_name {
            self.add(&name, gradient);
        }
    }

    /// The gradient of a parameter.
    pub fn get(&self, name: &str) -> Option<&Tensor<1>> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<1>)> {
        self.by_name.iter().map(|(name, gradient)| (name.as_str(), gradient))
    }

    /// The Euclidean norm over all parameters together.
    pub fn norm(&self) -> f64 {
        if self.by_name.is_empty() {
            return 0.0;
        }
        // Read from the device once, and not once for every parameter.
        let squares =
            self.by_name.values().map(|gradient| kernels::sum_of_squares(gradient.clone())).collect();
        host(Tensor::cat(squares, 0)).into_iter().map(f64::from).sum::<f64>().sqrt()
    }

    /// Multiplies all by a factor.
    pub fn scale(&mut self, factor: f64) {
        // Taken out of the map, so that nobody else holds them and they change in their place.
        let scaled = std::mem::take(&mut self.by_name).into_iter();
        self.by_name = scaled.map(|(name, gradient)| (name, kernels::scale(gradient, factor))).collect();
    }
}
