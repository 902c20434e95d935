//! The norms of a decoder: by the root mean square, or LayerNorm.

use burn::tensor::Tensor;
use kernels::RowNorm;

use crate::cache::host;
use crate::params::{Slot, Visitor};

/// A norm of rows: an RMS norm, or with a bias a LayerNorm.
#[derive(Debug, Clone)]
pub struct Norm {
    /// `[width]`.
    pub weight: Tensor<1>,
    /// `[width]`, of a LayerNorm.
    pub bias: Option<Tensor<1>>,
    eps: f64,
    /// Whether it multiplies by one plus its weight, as a Gemma does.
    one_plus: bool,
}

impl Norm {
    /// The RMS norm of a weight, or the LayerNorm of a weight and a bias.
    pub fn new(weight: Tensor<1>, bias: Option<Tensor<1>>, eps: f64) -> Self {
        Self { weight, bias, eps, one_plus: false }
    }

    /// The norm by one plus its weight, where `one_plus` says so.
    #[must_use]
    pub(crate) fn with_one_plus(self, one_plus: bool) -> Self {
        Self { one_plus, ..self }
    }

    /// The norm of every row.
    ///
    /// # Shapes
    /// `rows` and the result are `[rows, width]`.
    pub fn forward(&self, rows: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            None => kernels::rms_norm(rows, self.factors(), self.eps),
            Some(bias) => kernels::layer_norm(rows, self.factors(), bias.clone(), self.eps),
        }
    }

    /// What it multiplies by, `[width]`.
    fn factors(&self) -> Tensor<1> {
        let weight = self.weight.clone();
        if self.one_plus { weight.add_scalar(1.0) } else { weight }
    }

    /// The same norm for the one call of a layer.
    pub(crate) fn of_rows(&self) -> RowNorm {
        let (weight, eps) = (host(self.factors()), self.eps as f32);
        match &self.bias {
            None => RowNorm::RootMeanSquare { weight, eps },
            Some(bias) => RowNorm::Centred { weight, bias: host(bias.clone()), eps },
        }
    }

    /// The norm of every head.
    ///
    /// # Shapes
    /// `heads` and the result are `[tokens, heads, width]`.
    pub fn of_heads(&self, heads: Tensor<3>) -> Tensor<3> {
        let shape @ [tokens, count, width] = heads.dims();
        self.forward(heads.reshape([tokens * count, width])).reshape(shape)
    }

    pub(crate) fn visit(&mut self, name: &str, visitor: &mut Visitor<'_>) {
        visitor(&format!("{name}.weight"), Slot::Vector(&mut self.weight));
        if let Some(bias) = &mut self.bias {
            visitor(&format!("{name}.bias"), Slot::Vector(bias));
        }
    }

    /// Whether both have the same parameters.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        let same = |a: &Tensor<1>, b: &Tensor<1>| a.clone().into_data() == b.clone().into_data();
        let biases = match (&self.bias, &other.bias) {
            (None, None) => true,
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        };
        biases && same(&self.weight, &other.weight)
    }
}
