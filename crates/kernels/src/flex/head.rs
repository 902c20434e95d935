//! Gradients of what is made of heads over the vocabulary.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};

use super::PackedHead;
use super::forward::{self, Flexible, HeadSide, HeadSums, contiguous, dims, floats, tensor};
use super::matrix::Matrix;
use crate::cpu::{self, HeadGrads, HeadLosses, HeadSaved, HeadWeight};
use crate::ops::HeadOptions;

/// The head as its gradient reads it.
fn weight(matrix: &Matrix) -> HeadWeight<'_> {
    match matrix {
        Matrix::Rows(weight, packed) => HeadWeight::Rows(floats(weight), packed.as_deref()),
        Matrix::Packed(packed) => HeadWeight::Packed(packed),
    }
}

/// See [`cpu::head_log_prob_backward`].
#[derive(Debug)]
pub(super) struct HeadLogProbBackward;

#[derive(Clone, Debug)]
pub(super) struct HeadState {
    h: Flexible,
    matrix: Matrix,
    targets: Arc<[u32]>,
    log_sum: Arc<[f32]>,
    entropy: Option<Arc<[f32]>>,
    logits: Option<Arc<Vec<f32>>>,
}

impl HeadState {
    /// Log-probabilities and entropies, and what their gradient needs.
    pub(super) fn run(
        h: Flexible,
        matrix: Matrix,
        targets: Arc<[u32]>,
        options: HeadOptions,
    ) -> (Self, Flexible) {
        let (given, sums) = forward::head_log_prob(&h, &matrix, &targets, options);
        let HeadSums { log_sum, entropy, logits } = sums;
        let (log_sum, entropy, logits) = (log_sum.into(), entropy.map(Arc::from), logits.map(Arc::new));
        (Self { h, matrix, targets, log_sum, entropy, logits }, given)
    }
}

impl Backward<Flex, 2> for HeadLogProbBackward {
    type State = HeadState;

    fn backward(self, ops: Ops<HeadState, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let ([h_node, weight_node], mut state) = (ops.parents, ops.state);
        // Nobody else holds them, unless burn has copied the state.
        let mut logits = state.logits.take().map(Arc::unwrap_or_clone);
        let [vocab, width] = state.matrix.shape();
        let saved = HeadSaved {
            h: floats(&state.h),
            weight: weight(&state.matrix),
            logits: logits.as_deref_mut(),
            targets: &state.targets,
            log_sum: &state.log_sum,
        };
        let (log_prob, rest) = floats(&dy).split_at(state.targets.len());
        let losses = HeadLosses { log_prob, entropy: state.entropy.as_deref().map(|nats| [nats, rest]) };
        let mut dh = h_node.as_ref().map(|_| vec![0.0; saved.h.len()]);
        let mut dweight = weight_node.as_ref().map(|_| vec![0.0; vocab * width]);
        let wanted = HeadGrads { h: dh.as_deref_mut(), weight: dweight.as_deref_mut() };
        cpu::head_log_prob_backward(saved, (vocab, width), losses, wanted);
        if let (Some(node), Some(dh)) = (h_node, dh) {
            grads.register::<Flex>(node.id, tensor(dh, dims::<2>(&state.h)));
        }
        if let (Some(node), Some(dweight)) = (weight_node, dweight) {
            grads.register::<Flex>(node.id, tensor(dweight, [vocab, width]));
        }
    }
}

/// See [`cpu::head_kl_backward`].
#[derive(Debug)]
pub(super) struct HeadKlBackward;

#[derive(Clone, Debug)]
pub(super) struct HeadKlState {
    sides: [HeadSide; 2],
    kl: Arc<[f32]>,
}

impl HeadKlState {
    /// Divergences, and what their gradient needs.
    pub(super) fn run(
        [p, q]: [Flexible; 2],
        [p_weight, q_weight]: [Flexible; 2],
        [p_head, q_head]: [PackedHead; 2],
        tracked: [bool; 2],
    ) -> (Self, Flexible) {
        let side = |h, weight, head: PackedHead, tracked| HeadSide {
            h: contiguous(h),
            matrix: Matrix::new(weight, head.packed, tracked),
            soft_cap: head.soft_cap,
        };
        let sides = [side(p, p_weight, p_head, tracked[0]), side(q, q_weight, q_head, tracked[1])];
        let kl = forward::head_kl(&sides);
        let n = kl.len();
        (Self { sides, kl: kl.clone().into() }, tensor(kl, [n]))
    }
}

impl Backward<Flex, 4> for HeadKlBackward {
    type State = HeadKlState;

    fn backward(self, ops: Ops<HeadKlState, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let ([p_node, p_weight_node, q_node, q_weight_node], HeadKlState { sides, kl }) =
            (ops.parents, ops.state);
        let nodes = [(p_node, p_weight_node), (q_node, q_weight_node)];
        let packed = sides.each_ref().map(|side| side.matrix.packed());
        let states = [0, 1].map(|side| sides[side].states(&packed[side]));
        let mut wanted = [0, 1].map(|side| {
            let ((h_node, weight_node), [vocab, width]) = (&nodes[side], sides[side].matrix.shape());
            let dh = h_node.as_ref().map(|_| vec![0.0; states[side].h.len()]);
            (dh, weight_node.as_ref().map(|_| vec![0.0; vocab * width]))
        });
        let into = wanted
            .each_mut()
            .map(|(dh, dweight)| HeadGrads { h: dh.as_deref_mut(), weight: dweight.as_deref_mut() });
        let weights = sides.each_ref().map(|side| weight(&side.matrix));
        cpu::head_kl_backward(states, weights, &kl, floats(&dy), into);
        for ((side, (h_node, weight_node)), (dh, dweight)) in sides.iter().zip(nodes).zip(wanted) {
            if let (Some(node), Some(dh)) = (h_node, dh) {
                grads.register::<Flex>(node.id, tensor(dh, dims::<2>(&side.h)));
            }
            if let (Some(node), Some(dweight)) = (weight_node, dweight) {
                grads.register::<Flex>(node.id, tensor(dweight, side.matrix.shape()));
            }
        }
    }
}
