//! Gradients of a product with a low-rank change.

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};

use super::forward::{self, Flexible, contiguous, dims, floats, tensor};
use super::matrix::{Matrix, dbias, dweight};
use crate::cpu::Factors;

/// The gradients of `x`, the weight, the factors `A` and `B`, and the bias where there is one.
#[derive(Debug)]
pub(super) struct LoraLinearBackward;

/// What they need.
#[derive(Clone, Debug)]
pub(super) struct LoraState {
    x: Flexible,
    matrix: Matrix,
    factors: [Flexible; 2],
    scale: f64,
    /// `s · x Aᵀ`.
    low: Vec<f32>,
}

/// The factors on slices.
pub(super) fn factors<'f>(a: &'f Flexible, b: &'f Flexible, scale: f64) -> Factors<'f> {
    let ([rank, inner], [out, _]) = (dims(a), dims(b));
    Factors { a: floats(a), b: floats(b), scale: scale as f32, shape: (inner, rank, out) }
}

impl LoraState {
    /// The product with its change, and what its gradients need.
    pub(super) fn run(
        x: Flexible,
        matrix: Matrix,
        bias: Option<&Flexible>,
        factors: [Flexible; 2],
        scale: f64,
    ) -> (Self, Flexible) {
        let (x, factors) = (contiguous(x), factors.map(contiguous));
        let (y, low) = forward::lora_linear(&x, &matrix, bias, (&factors[0], &factors[1]), scale);
        (Self { x, matrix, factors, scale, low }, y)
    }

    /// Registers the gradients of `x`, the weight and the factors that are tracked.
    fn register(&self, dy: &Flexible, nodes: [Option<NodeId>; 4], grads: &mut Gradients) {
        let Self { x, matrix, factors: [a, b], scale, low } = self;
        let [x_node, weight_node, a_node, b_node] = nodes;
        let (back, wanted) = (x_node.map(|_| matrix.back()), [a_node, b_node].map(|node| node.is_some()));
        let got = factors(a, b, *scale).backward(floats(x), low, floats(dy), back.as_ref(), wanted);
        for (node, gradient, like) in [(x_node, got.x, x), (a_node, got.a, a), (b_node, got.b, b)] {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node, tensor(gradient, dims::<2>(like)));
            }
        }
        if let Some(node) = weight_node {
            grads.register::<Flex>(node, dweight(x, dy));
        }
    }
}

impl Backward<Flex, 4> for LoraLinearBackward {
    type State = LoraState;

    fn backward(self, ops: Ops<LoraState, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        ops.state.register(&dy, ops.parents.map(|node| node.map(|node| node.id)), grads);
    }
}

impl Backward<Flex, 5> for LoraLinearBackward {
    type State = LoraState;

    fn backward(self, ops: Ops<LoraState, 5>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [x, weight, a, b, bias] = ops.parents.map(|node| node.map(|node| node.id));
        ops.state.register(&dy, [x, weight, a, b], grads);
        if let Some(node) = bias {
            grads.register::<Flex>(node, dbias(&dy));
        }
    }
}
