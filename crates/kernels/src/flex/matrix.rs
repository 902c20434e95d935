//! What rows are multiplied by, and the way back through it.

use std::borrow::Cow;
use std::sync::Arc;

use super::forward::{Flexible, contiguous, dims, floats, tensor};
use crate::cpu::{self, Packed};

/// A matrix `[out, in]`.
#[derive(Clone, Debug)]
pub(super) enum Matrix {
    /// Row by row, and packed where somebody did that: a gradient is wanted of it, or nobody packed it.
    Rows(Flexible, Option<Arc<Packed>>),
    /// Packed, and constant. The rows that it was made of are not read: they may be gone, or finer than what is multiplied by.
    Packed(Arc<Packed>),
}

impl Matrix {
    /// Of a weight that is `tracked` or not.
    pub(super) fn new(weight: Flexible, packed: Option<Arc<Packed>>, tracked: bool) -> Self {
        match packed {
            Some(packed) if !tracked => Self::Packed(packed),
            packed => Self::Rows(contiguous(weight), packed),
        }
    }

    /// `[out, in]`.
    pub(super) fn shape(&self) -> [usize; 2] {
        match self {
            Self::Rows(weight, _) => dims(weight),
            Self::Packed(packed) => [packed.columns(), packed.inner()],
        }
    }

    /// It packed, for `x·Wᵀ`.
    pub(super) fn packed(&self) -> Cow<'_, Packed> {
        match self {
            Self::Rows(_, Some(packed)) | Self::Packed(packed) => Cow::Borrowed(packed),
            Self::Rows(weight, None) => {
                let [out, inn] = dims(weight);
                Cow::Owned(Packed::from_out_in(floats(weight), out, inn))
            }
        }
    }

    /// `x·Wᵀ + bias`.
    pub(super) fn forward(&self, x: &Flexible, bias: Option<&Flexible>) -> Flexible {
        let ([n, inn], [out, _]) = (dims(x), self.shape());
        let y = cpu::gemm_new(floats(x), (inn, 1), n, &self.packed(), bias.map(floats));
        tensor(y, [n, out])
    }

    /// It packed for `dy·W`.
    pub(super) fn back(&self) -> Packed {
        let [out, inn] = self.shape();
        match self {
            Self::Rows(weight, _) => Packed::from_in_out(floats(weight), out, inn),
            Self::Packed(packed) => {
                let mut back = Packed::empty();
                back.fill_transposed(packed, 0..out);
                back
            }
        }
    }

    /// `dy·W`.
    pub(super) fn dx(&self, dy: &Flexible) -> Vec<f32> {
        let ([out, _], [n, _]) = (self.shape(), dims(dy));
        cpu::gemm_new(floats(dy), (out, 1), n, &self.back(), None)
    }
}

/// `dyᵀ·x`.
pub(super) fn dweight(x: &Flexible, dy: &Flexible) -> Flexible {
    let ([n, inn], [_, out]) = (dims(x), dims(dy));
    let dweight = cpu::gemm_new(floats(dy), (1, out), out, &Packed::from_in_out(floats(x), n, inn), None);
    tensor(dweight, [out, inn])
}

/// `Σ dy` over rows.
pub(super) fn dbias(dy: &Flexible) -> Flexible {
    let [_, out] = dims(dy);
    let mut dbias = vec![0.0; out];
    cpu::column_sums(floats(dy), &mut dbias);
    tensor(dbias, [out])
}
