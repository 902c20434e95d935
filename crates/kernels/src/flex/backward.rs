//! Gradients of the fused operations for burn's autodiff. Each keeps what the tracked operands' gradients need, no more.

use std::sync::Arc;

use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};

use super::forward::{self, Flexible, attention_shape, contiguous, dims, floats, tensor};
use super::gates::{GatedState, GeluBackward, GeluMulBackward, SiluMulBackward, SiluMulLinearBackward};
use super::head::{HeadKlBackward, HeadKlState, HeadLogProbBackward, HeadState};
use super::lora::{LoraLinearBackward, LoraState};
use super::matrix::{Matrix, dbias, dweight};
use super::{Fused, PackedHead};
use crate::cpu::{
    self, AdamStep, AttentionRule, AttentionSaved, Gelu, LayerNormGrads, LowRank, Packed, RopeTable, Rotation,
};
use crate::ops::HeadOptions;

/// Runs a fused operation under autodiff: `$forward` computes `(state, output)`; the state is dropped if nothing is tracked.
macro_rules! tracked {
    ($backward:expr, $C:ty, [$($parent:expr),+], $forward:expr) => {
        match $backward.prepare::<$C>([$($parent),+]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let (state, output) = $forward;
                prep.finish(state, output)
            }
            OpsKind::UnTracked(prep) => prep.finish($forward.1),
        }
    };
}

/// `dx = dy·W`, `dW = dyᵀ·x`, `dbias = Σ dy`.
#[derive(Debug)]
struct LinearBackward;

/// The input if the weight is tracked, the weight if the input is.
#[derive(Clone, Debug)]
struct LinearState {
    x: Option<Flexible>,
    matrix: Option<Matrix>,
}

impl LinearState {
    fn dx(&self, dy: &Flexible) -> Option<Flexible> {
        let matrix = self.matrix.as_ref()?;
        let ([n, _], [_, inn]) = (dims(dy), matrix.shape());
        Some(tensor(matrix.dx(dy), [n, inn]))
    }

    fn dweight(&self, dy: &Flexible) -> Option<Flexible> {
        self.x.as_ref().map(|x| dweight(x, dy))
    }
}

impl Backward<Flex, 2> for LinearBackward {
    type State = LinearState;

    fn backward(self, ops: Ops<LinearState, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [x, weight] = ops.parents;
        if let (Some(node), Some(dx)) = (x, ops.state.dx(&dy)) {
            grads.register::<Flex>(node.id, dx);
        }
        if let (Some(node), Some(dweight)) = (weight, ops.state.dweight(&dy)) {
            grads.register::<Flex>(node.id, dweight);
        }
    }
}

impl Backward<Flex, 3> for LinearBackward {
    type State = LinearState;

    fn backward(self, ops: Ops<LinearState, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let [x, weight, bias] = ops.parents;
        if let (Some(node), Some(dx)) = (x, ops.state.dx(&dy)) {
            grads.register::<Flex>(node.id, dx);
        }
        if let (Some(node), Some(dweight)) = (weight, ops.state.dweight(&dy)) {
            grads.register::<Flex>(node.id, dweight);
        }
        if let Some(node) = bias {
            grads.register::<Flex>(node.id, dbias(&dy));
        }
    }
}

/// See [`cpu::rms_norm_backward`].
#[derive(Debug)]
struct RmsNormBackward;

impl Backward<Flex, 2> for RmsNormBackward {
    type State = (Flexible, Flexible, f64);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let ([x_node, weight_node], (x, weight, eps)) = (ops.parents, ops.state);
        let mut dx = x_node.as_ref().map(|_| vec![0.0; floats(&x).len()]);
        let mut dweight = weight_node.as_ref().map(|_| vec![0.0; floats(&weight).len()]);
        cpu::rms_norm_backward(
            floats(&x),
            floats(&weight),
            eps as f32,
            floats(&dy),
            dx.as_deref_mut(),
            dweight.as_deref_mut(),
        );
        if let (Some(node), Some(dx)) = (x_node, dx) {
            grads.register::<Flex>(node.id, tensor(dx, dims::<2>(&x)));
        }
        if let (Some(node), Some(dweight)) = (weight_node, dweight) {
            grads.register::<Flex>(node.id, tensor(dweight, dims::<1>(&weight)));
        }
    }
}

/// See [`cpu::layer_norm_backward`].
#[derive(Debug)]
struct LayerNormBackward;

impl Backward<Flex, 3> for LayerNormBackward {
    type State = (Flexible, Flexible, f64);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let ([x_node, weight_node, bias_node], (x, weight, eps)) = (ops.parents, ops.state);
        let d = floats(&weight).len();
        let mut dx = x_node.as_ref().map(|_| vec![0.0; floats(&x).len()]);
        let [mut dweight, mut dbias] =
            [&weight_node, &bias_node].map(|node| node.as_ref().map(|_| vec![0.0; d]));
        let wanted = LayerNormGrads {
            x: dx.as_deref_mut(),
            weight: dweight.as_deref_mut(),
            bias: dbias.as_deref_mut(),
        };
        cpu::layer_norm_backward(floats(&x), floats(&weight), eps as f32, floats(&dy), wanted);
        if let (Some(node), Some(dx)) = (x_node, dx) {
            grads.register::<Flex>(node.id, tensor(dx, dims::<2>(&x)));
        }
        for (node, gradient) in [(weight_node, dweight), (bias_node, dbias)] {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<Flex>(node.id, tensor(gradient, [d]));
            }
        }
    }
}

/// The rotation back.
#[derive(Debug)]
struct RopeBackward;

impl Backward<Flex, 1> for RopeBackward {
    type State = (Arc<[u32]>, Arc<RopeTable>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<Flex>(&ops.node);
        let ([node], (positions, table)) = (ops.parents, ops.state);
        if let Some(node) = node {
            grads.register::<Flex>(node.id, forward::rope(dy, &positions, &table, Rotation::Backward));
        }
    }
}

/// See [`cpu::attention_backward`].
#[derive(Debug)]
struct AttentionBackward;

/// Inputs, output, logs of the softmaxes' sums and the rule.
#[derive(Clone, Debug)]
struct AttentionState {
    q: Flexible,
    k: Flexible,
    v: Flexible,
    o: Flexible,
    log_sum: Arc<[f32]>,
    rule: AttentionRule,
}

impl Backward<Flex, 3> for AttentionBackward {
    type State = AttentionState;

    fn backward(self, ops: Ops<AttentionState, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let AttentionState { q, k, v, o, log_sum, rule } = ops.state;
        let saved =
            AttentionSaved { q: floats(&q), k: floats(&k), v: floats(&v), o: floats(&o), log_sum: &log_sum };
        let shape = attention_shape(&q, &k);
        let mut dq = vec![0.0; saved.q.len()];
        let (mut dk, mut dv) = (vec![0.0; saved.k.len()], vec![0.0; saved.v.len()]);
        cpu::attention_backward(saved, shape, rule, floats(&dy), &mut dq, &mut dk, &mut dv);
        for ((node, gradient), like) in ops.parents.into_iter().zip([dq, dk, dv]).zip([&q, &k, &v]) {
            if let Some(node) = node {
                grads.register::<Flex>(node.id, tensor(gradient, dims::<4>(like)));
            }
        }
    }
}

/// See [`cpu::gather_log_prob_backward`].
#[derive(Debug)]
struct GatherLogProbBackward;

impl Backward<Flex, 1> for GatherLogProbBackward {
    type State = (Flexible, Arc<[u32]>, Arc<[f32]>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = contiguous(grads.consume::<Flex>(&ops.node));
        let ([node], (logits, targets, log_sum)) = (ops.parents, ops.state);
        if let Some(node) = node {
            let [n, vocab] = dims(&logits);
            let mut dlogits = vec![0.0; n * vocab];
            cpu::gather_log_prob_backward(
                floats(&logits),
                vocab,
                &targets,
                &log_sum,
                floats(&dy),
                &mut dlogits,
            );
            grads.register::<Flex>(node.id, tensor(dlogits, [n, vocab]));
        }
    }
}

impl<C: CheckpointStrategy> Fused for Autodiff<Flex, C> {
    fn kernels_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
    ) -> FloatTensor<Self> {
        let tracked = (x.is_tracked(), weight.is_tracked());
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        tracked!(LinearBackward, C, [x_node, weight_node], linear(x, weight, None, packed, tracked))
    }

    fn kernels_linear_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
    ) -> FloatTensor<Self> {
        let tracked = (x.is_tracked(), weight.is_tracked());
        let ((x, x_node), (weight, weight_node), (bias, bias_node)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        tracked!(
            LinearBackward,
            C,
            [x_node, weight_node, bias_node],
            linear(x, weight, Some(contiguous(bias)), packed, tracked)
        )
    }

    fn kernels_lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let tracked = weight.is_tracked();
        let [(x, x_node), (weight, weight_node), (a, a_node), (b, b_node)] =
            [x, weight, a, b].map(<FloatTensor<Self>>::into_parts);
        let run = LoraState::run(x, Matrix::new(weight, packed, tracked), None, [a, b], scale);
        tracked!(LoraLinearBackward, C, [x_node, weight_node, a_node, b_node], run)
    }

    fn kernels_lora_linear_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let tracked = weight.is_tracked();
        let [(x, x_node), (weight, weight_node), (a, a_node), (b, b_node), (bias, bias_node)] =
            [x, weight, a, b, bias].map(<FloatTensor<Self>>::into_parts);
        let bias = contiguous(bias);
        let run = LoraState::run(x, Matrix::new(weight, packed, tracked), Some(&bias), [a, b], scale);
        tracked!(LoraLinearBackward, C, [x_node, weight_node, a_node, b_node, bias_node], run)
    }

    fn kernels_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node)) = (x.into_parts(), weight.into_parts());
        let (x, weight) = (contiguous(x), contiguous(weight));
        let y = forward::rms_norm(&x, &weight, eps);
        tracked!(RmsNormBackward, C, [x_node, weight_node], ((x, weight, eps), y))
    }

    fn kernels_silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let (gate, up) = (contiguous(gate), contiguous(up));
        let y = forward::silu_mul(&gate, &up);
        tracked!(SiluMulBackward, C, [gate_node, up_node], ((gate, up), y))
    }

    fn kernels_silu_mul_linear(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
    ) -> FloatTensor<Self> {
        let tracked = weight.is_tracked();
        let ((gate, gate_node), (up, up_node), (weight, weight_node)) =
            (gate.into_parts(), up.into_parts(), weight.into_parts());
        let [gate, up] = [gate, up].map(contiguous);
        let matrix = Matrix::new(weight, packed, tracked);
        let y = matrix.forward(&forward::silu_mul(&gate, &up), None);
        let state = GatedState { gate, up, matrix };
        tracked!(SiluMulLinearBackward, C, [gate_node, up_node, weight_node], (state, y))
    }

    fn kernels_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let ((x, x_node), (weight, weight_node), (bias, bias_node)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        let (x, weight) = (contiguous(x), contiguous(weight));
        let y = forward::layer_norm(&x, &weight, &contiguous(bias), eps);
        tracked!(LayerNormBackward, C, [x_node, weight_node, bias_node], ((x, weight, eps), y))
    }

    fn kernels_gelu(x: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let x = contiguous(x);
        let y = forward::gelu(&x, form);
        tracked!(GeluBackward, C, [node], ((x, form), y))
    }

    fn kernels_gelu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self> {
        let ((gate, gate_node), (up, up_node)) = (gate.into_parts(), up.into_parts());
        let (gate, up) = (contiguous(gate), contiguous(up));
        let y = forward::gelu_mul(&gate, &up, form);
        tracked!(GeluMulBackward, C, [gate_node, up_node], ((gate, up, form), y))
    }

    fn kernels_rope(x: FloatTensor<Self>, positions: Arc<[u32]>, table: Arc<RopeTable>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let y = forward::rope(x, &positions, &table, Rotation::Forward);
        tracked!(RopeBackward, C, [node], ((positions, table), y))
    }

    fn kernels_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rule: AttentionRule,
    ) -> FloatTensor<Self> {
        let ((q, q_node), (k, k_node), (v, v_node)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let (q, k, v) = (contiguous(q), contiguous(k), contiguous(v));
        let (o, log_sum) = forward::attention(&q, &k, &v, rule);
        let state = AttentionState { q, k, v, o: o.clone(), log_sum: Arc::from(log_sum), rule };
        tracked!(AttentionBackward, C, [q_node, k_node, v_node], (state, o))
    }

    fn kernels_gather_log_prob(logits: FloatTensor<Self>, targets: Arc<[u32]>) -> FloatTensor<Self> {
        let (logits, node) = logits.into_parts();
        let logits = contiguous(logits);
        let (log_prob, log_sum) = forward::gather_log_prob(&logits, &targets);
        tracked!(GatherLogProbBackward, C, [node], ((logits, targets, Arc::<[f32]>::from(log_sum)), log_prob))
    }

    fn kernels_head_log_prob(
        h: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
        targets: Arc<[u32]>,
        options: HeadOptions,
    ) -> FloatTensor<Self> {
        let keep_logits = options.keep_logits && (h.is_tracked() || weight.is_tracked());
        let options = HeadOptions { keep_logits, ..options };
        let tracked = weight.is_tracked();
        let ((h, h_node), (weight, weight_node)) = (h.into_parts(), weight.into_parts());
        let run = HeadState::run(contiguous(h), Matrix::new(weight, packed, tracked), targets, options);
        tracked!(HeadLogProbBackward, C, [h_node, weight_node], run)
    }

    fn kernels_head_kl(
        p: FloatTensor<Self>,
        p_weight: FloatTensor<Self>,
        q: FloatTensor<Self>,
        q_weight: FloatTensor<Self>,
        heads: [PackedHead; 2],
    ) -> FloatTensor<Self> {
        let tracked = [p_weight.is_tracked(), q_weight.is_tracked()];
        let [(p, p_node), (p_weight, p_weight_node), (q, q_node), (q_weight, q_weight_node)] =
            [p, p_weight, q, q_weight].map(<FloatTensor<Self>>::into_parts);
        let run = HeadKlState::run([p, q], [p_weight, q_weight], heads, tracked);
        tracked!(HeadKlBackward, C, [p_node, p_weight_node, q_node, q_weight_node], run)
    }

    fn kernels_add_low_rank(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        changes: Vec<LowRank>,
    ) -> FloatTensor<Self> {
        constant::<C>(Flex::kernels_add_low_rank(y.into_primitive(), x.into_primitive(), changes))
    }

    fn kernels_ema(
        mean: FloatTensor<Self>,
        x: FloatTensor<Self>,
        beta: f64,
        squared: bool,
    ) -> FloatTensor<Self> {
        constant::<C>(Flex::kernels_ema(mean.into_primitive(), x.into_primitive(), beta, squared))
    }

    fn kernels_adamw(
        p: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        square: FloatTensor<Self>,
        step: AdamStep,
    ) -> FloatTensor<Self> {
        let (p, mean, square) = (p.into_primitive(), mean.into_primitive(), square.into_primitive());
        constant::<C>(Flex::kernels_adamw(p, mean, square, step))
    }

    fn kernels_sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self> {
        constant::<C>(Flex::kernels_sum_of_squares(x.into_primitive()))
    }

    fn kernels_scale(x: FloatTensor<Self>, factor: f64) -> FloatTensor<Self> {
        constant::<C>(Flex::kernels_scale(x.into_primitive(), factor))
    }
}

/// The product and what its gradient needs.
fn linear(
    x: Flexible,
    weight: Flexible,
    bias: Option<Flexible>,
    packed: Option<Arc<Packed>>,
    (x_tracked, weight_tracked): (bool, bool),
) -> (LinearState, Flexible) {
    let (x, matrix) = (contiguous(x), Matrix::new(weight, packed, weight_tracked));
    let y = matrix.forward(&x, bias.as_ref());
    (LinearState { x: weight_tracked.then_some(x), matrix: x_tracked.then_some(matrix) }, y)
}

/// A tensor without a gradient.
fn constant<C: CheckpointStrategy>(x: Flexible) -> FloatTensor<Autodiff<Flex, C>> {
    use burn::backend::AutodiffBackend;
    <Autodiff<Flex, C> as AutodiffBackend>::from_inner(x)
}
