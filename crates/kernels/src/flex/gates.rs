//! Gradients of the activations of feed-forward blocks.

use burn::backend::Flex;
use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};

use super::forward::{self, Flexible, contiguous, dims, floats, tensor};
use super::matrix::{Matrix, dweight};
use crate::cpu::{self, Gelu};

/// Registers the gradients of operands that are tracked.
fn register(grads: &mut Gradients, nodes: [Option<NodeId>; 2], gradients: [Flexible; 2]) {
    for (node, gradient) in nodes.into_iter().zip(gradients) {
        if let Some(node) = node {
            grads.register::<Flex>(node, gradient);
        }
    }
}

/// See [`cpu::silu_mul_backward`].
#[derive(Debug)]
pub(super) struct SiluMulBackward;

/// The gradients of the gate and of what it multiplies.
fn silu_mul_gradients(gate: &Flexible, up: &Flexible, dy: &Flexible) -> [Flexible; 2] {
    let (mut dgate, mut dup) = (vec![0.0; floats(gate).len()], vec![0.0; floats(up).len()]);
    cpu::silu_mul_backward(floats(gate), floats(up), floats(dy), &mut dgate, &mut dup);
    [dgate, dup].map(|gradient| tensor(gradient, dims::<2>(gate)))
}

impl Backward<Flex, 2> for SiluMulBackward {
    type State = (Flexible, Flexible);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (nodes, (gate, up)) = (ops.parents.map(|node| node.map(|node| node.id)), ops.state);
        register(grads, nodes, silu_mul_gradients(&gate, &up, &dy));
    }
}

/// Gate, what it multiplies, and the weight.
#[derive(Clone, Debug)]
pub(super) struct GatedState {
    pub(super) gate: Flexible,
    pub(super) up: Flexible,
    pub(super) matrix: Matrix,
}

/// That of the product, whose left operand is computed again, and that of the gate.
#[derive(Debug)]
pub(super) struct SiluMulLinearBackward;

impl Backward<Flex, 3> for SiluMulLinearBackward {
    type State = GatedState;

    fn backward(self, ops: Ops<GatedState, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [gate_node, up_node, weight_node] = ops.parents.map(|node| node.map(|node| node.id));
        let GatedState { gate, up, matrix } = ops.state;
        if let Some(node) = weight_node {
            grads.register::<Flex>(node, dweight(&forward::silu_mul(&gate, &up), &dy));
        }
        if gate_node.is_some() || up_node.is_some() {
            let dx = tensor(matrix.dx(&dy), dims::<2>(&gate));
            register(grads, [gate_node, up_node], silu_mul_gradients(&gate, &up, &dx));
        }
    }
}

/// See [`cpu::gelu_backward`].
#[derive(Debug)]
pub(super) struct GeluBackward;

impl Backward<Flex, 1> for GeluBackward {
    type State = (Flexible, Gelu);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let ([node], (x, form)) = (ops.parents, ops.state);
        if let Some(node) = node {
            let mut dx = vec![0.0; floats(&x).len()];
            cpu::gelu_backward(floats(&x), form, floats(&dy), &mut dx);
            grads.register::<Flex>(node.id, tensor(dx, dims::<2>(&x)));
        }
    }
}

/// See [`cpu::gelu_mul_backward`].
#[derive(Debug)]
pub(super) struct GeluMulBackward;

impl Backward<Flex, 2> for GeluMulBackward {
    type State = (Flexible, Flexible, Gelu);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let (nodes, (gate, up, form)) = (ops.parents.map(|node| node.map(|node| node.id)), ops.state);
        let (mut dgate, mut dup) = (vec![0.0; floats(&gate).len()], vec![0.0; floats(&up).len()]);
        cpu::gelu_mul_backward(floats(&gate), floats(&up), form, floats(&dy), &mut dgate, &mut dup);
        let gradients = [dgate, dup].map(|gradient| tensor(gradient, dims::<2>(&gate)));
        register(grads, nodes, gradients);
    }
}
