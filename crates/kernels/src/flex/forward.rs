//! Forward passes: tensors to slices and back.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::tensor::TensorData;

use super::lora::factors;
use super::matrix::Matrix;
use super::{Fused, PackedHead};
use crate::cpu::{
    self, AdamStep, AttentionRule, AttentionShape, Gelu, HeadOutputs, HeadStates, LowRank, Packed, RopeTable,
    Rotation,
};
use crate::ops::{Entropy, HeadOptions};

/// A tensor of the flex backend.
pub(super) type Flexible = FloatTensor<Flex>;

/// The dimensions, as many as asked for.
pub(super) fn dims<const D: usize>(x: &Flexible) -> [usize; D] {
    std::array::from_fn(|i| x.layout().shape()[i])
}

/// In row-major order, copied only if it is not so already.
pub(super) fn contiguous(x: Flexible) -> Flexible {
    if x.as_slice::<f32>().is_some() { x } else { x.to_contiguous() }
}

/// The elements of a [`contiguous`] tensor.
pub(super) fn floats(x: &Flexible) -> &[f32] {
    x.as_slice().expect("a contiguous f32 tensor: the caller made it so")
}

/// A tensor of these elements.
pub(super) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Flexible {
    Flexible::from_data(TensorData::new(values, shape))
}

/// The product with its change, and `s · x Aᵀ`.
pub(super) fn lora_linear(
    x: &Flexible,
    matrix: &Matrix,
    bias: Option<&Flexible>,
    (a, b): (&Flexible, &Flexible),
    scale: f64,
) -> (Flexible, Vec<f32>) {
    let ([n, _], [out, _]) = (dims(x), matrix.shape());
    let (y, low) = factors(a, b, scale).product(floats(x), n, &matrix.packed(), bias.map(floats));
    (tensor(y, [n, out]), low)
}

pub(super) fn rms_norm(x: &Flexible, weight: &Flexible, eps: f64) -> Flexible {
    let mut y = vec![0.0; floats(x).len()];
    cpu::rms_norm(floats(x), floats(weight), eps as f32, &mut y);
    tensor(y, dims::<2>(x))
}

pub(super) fn silu_mul(gate: &Flexible, up: &Flexible) -> Flexible {
    let mut y = vec![0.0; floats(gate).len()];
    cpu::silu_mul(floats(gate), floats(up), &mut y);
    tensor(y, dims::<2>(gate))
}

pub(super) fn layer_norm(x: &Flexible, weight: &Flexible, bias: &Flexible, eps: f64) -> Flexible {
    let mut y = vec![0.0; floats(x).len()];
    cpu::layer_norm(floats(x), floats(weight), floats(bias), eps as f32, &mut y);
    tensor(y, dims::<2>(x))
}

pub(super) fn gelu(x: &Flexible, form: Gelu) -> Flexible {
    let mut y = vec![0.0; floats(x).len()];
    cpu::gelu(floats(x), form, &mut y);
    tensor(y, dims::<2>(x))
}

pub(super) fn gelu_mul(gate: &Flexible, up: &Flexible, form: Gelu) -> Flexible {
    let mut y = vec![0.0; floats(gate).len()];
    cpu::gelu_mul(floats(gate), floats(up), form, &mut y);
    tensor(y, dims::<2>(gate))
}

/// Rotates in place if nobody else holds the memory.
pub(super) fn rope(x: Flexible, positions: &[u32], table: &RopeTable, rotation: Rotation) -> Flexible {
    let [_, heads, _] = dims(&x);
    in_place::<3>(x, |x| cpu::rope(x, heads, positions, table, rotation))
}

/// Changes a tensor in its place if nobody else holds the memory, else a copy of it.
fn in_place<const D: usize>(x: Flexible, change: impl FnOnce(&mut [f32])) -> Flexible {
    let shape = dims::<D>(&x);
    let mut x = x;
    if x.is_contiguous()
        && let Some(storage) = x.try_storage_mut::<f32>()
        && storage.len() == shape.iter().product::<usize>()
    {
        change(storage);
        return x;
    }
    let mut values = floats(&contiguous(x)).to_vec();
    change(&mut values);
    tensor(values, shape)
}

/// Output and logs of the softmaxes' sums.
pub(super) fn attention(
    q: &Flexible,
    k: &Flexible,
    v: &Flexible,
    rule: AttentionRule,
) -> (Flexible, Vec<f32>) {
    let shape = attention_shape(q, k);
    let mut o = vec![0.0; floats(q).len()];
    let mut log_sum = vec![0.0; shape.batch * shape.heads * shape.time];
    cpu::attention(floats(q), floats(k), floats(v), shape, rule, &mut o, &mut log_sum);
    (tensor(o, dims::<4>(q)), log_sum)
}

pub(super) fn attention_shape(q: &Flexible, k: &Flexible) -> AttentionShape {
    let ([batch, time, heads, head_dim], [_, _, kv_heads, _]) = (dims(q), dims(k));
    AttentionShape { batch, time, heads, kv_heads, head_dim }
}

/// Log-probabilities and logs of the sums.
pub(super) fn gather_log_prob(logits: &Flexible, targets: &[u32]) -> (Flexible, Vec<f32>) {
    let [n, vocab] = dims(logits);
    let (mut log_prob, mut log_sum) = (vec![0.0; n], vec![0.0; n]);
    cpu::gather_log_prob(floats(logits), vocab, targets, &mut log_prob, &mut log_sum);
    (tensor(log_prob, [n]), log_sum)
}

/// What the head's gradient starts from, beside its operands.
pub(super) struct HeadSums {
    pub(super) log_sum: Vec<f32>,
    pub(super) entropy: Option<Vec<f32>>,
    pub(super) logits: Option<Vec<f32>>,
}

/// Log-probabilities, behind them entropies if they are wanted, and what the gradient needs; the logits if they are to be kept.
pub(super) fn head_log_prob(
    h: &Flexible,
    matrix: &Matrix,
    targets: &[u32],
    options: HeadOptions,
) -> (Flexible, HeadSums) {
    let ([n, _], [vocab, _]) = (dims(h), matrix.shape());
    let mut log_prob = vec![0.0; n];
    let entropy = (options.entropy != Entropy::Unwanted).then(|| vec![0.0; n]);
    let logits = options.keep_logits.then(|| vec![0.0; n * vocab]);
    let mut sums = HeadSums { log_sum: vec![0.0; n], entropy, logits };
    let outputs = HeadOutputs {
        log_prob: &mut log_prob,
        log_sum: &mut sums.log_sum,
        entropy: sums.entropy.as_deref_mut(),
        logits: sums.logits.as_deref_mut(),
    };
    cpu::head_log_prob(floats(h), &matrix.packed(), targets, outputs);
    log_prob.extend(sums.entropy.iter().flatten());
    let count = log_prob.len();
    (tensor(log_prob, [count]), sums)
}

/// A head and its states, and the cap of its logits.
#[derive(Clone, Debug)]
pub(super) struct HeadSide {
    pub(super) h: Flexible,
    pub(super) matrix: Matrix,
    pub(super) soft_cap: Option<f32>,
}

impl HeadSide {
    /// It as the kernels read it, beside its packed matrix.
    pub(super) fn states<'a>(&'a self, head: &'a Packed) -> HeadStates<'a> {
        HeadStates { h: floats(&self.h), head, soft_cap: self.soft_cap }
    }
}

/// The divergence of the laws of two heads.
pub(super) fn head_kl(sides: &[HeadSide; 2]) -> Vec<f32> {
    let [n, _] = dims(&sides[0].h);
    let packed = sides.each_ref().map(|side| side.matrix.packed());
    let states = [0, 1].map(|side| sides[side].states(&packed[side]));
    let mut kl = vec![0.0; n];
    cpu::head_kl(states[0], states[1], &mut kl);
    kl
}

impl Fused for Flex {
    fn kernels_linear(x: Flexible, weight: Flexible, packed: Option<Arc<Packed>>) -> Flexible {
        Matrix::new(weight, packed, false).forward(&contiguous(x), None)
    }

    fn kernels_linear_biased(
        x: Flexible,
        weight: Flexible,
        bias: Flexible,
        packed: Option<Arc<Packed>>,
    ) -> Flexible {
        Matrix::new(weight, packed, false).forward(&contiguous(x), Some(&contiguous(bias)))
    }

    fn kernels_lora_linear(
        x: Flexible,
        weight: Flexible,
        packed: Option<Arc<Packed>>,
        a: Flexible,
        b: Flexible,
        scale: f64,
    ) -> Flexible {
        let matrix = Matrix::new(weight, packed, false);
        lora_linear(&contiguous(x), &matrix, None, (&contiguous(a), &contiguous(b)), scale).0
    }

    fn kernels_lora_linear_biased(
        x: Flexible,
        weight: Flexible,
        packed: Option<Arc<Packed>>,
        bias: Flexible,
        a: Flexible,
        b: Flexible,
        scale: f64,
    ) -> Flexible {
        let (matrix, bias) = (Matrix::new(weight, packed, false), contiguous(bias));
        lora_linear(&contiguous(x), &matrix, Some(&bias), (&contiguous(a), &contiguous(b)), scale).0
    }

    fn kernels_add_low_rank(y: Flexible, x: Flexible, changes: Vec<LowRank>) -> Flexible {
        let (x, [n, _]) = (contiguous(x), dims(&y));
        in_place::<2>(y, |y| cpu::add_low_rank(floats(&x), n, &changes, y))
    }

    fn kernels_rms_norm(x: Flexible, weight: Flexible, eps: f64) -> Flexible {
        rms_norm(&contiguous(x), &contiguous(weight), eps)
    }

    fn kernels_silu_mul(gate: Flexible, up: Flexible) -> Flexible {
        silu_mul(&contiguous(gate), &contiguous(up))
    }

    fn kernels_silu_mul_linear(
        gate: Flexible,
        up: Flexible,
        weight: Flexible,
        packed: Option<Arc<Packed>>,
    ) -> Flexible {
        Self::kernels_linear(Self::kernels_silu_mul(gate, up), weight, packed)
    }

    fn kernels_layer_norm(x: Flexible, weight: Flexible, bias: Flexible, eps: f64) -> Flexible {
        layer_norm(&contiguous(x), &contiguous(weight), &contiguous(bias), eps)
    }

    fn kernels_gelu(x: Flexible, form: Gelu) -> Flexible {
        gelu(&contiguous(x), form)
    }

    fn kernels_gelu_mul(gate: Flexible, up: Flexible, form: Gelu) -> Flexible {
        gelu_mul(&contiguous(gate), &contiguous(up), form)
    }

    fn kernels_rope(x: Flexible, positions: Arc<[u32]>, table: Arc<RopeTable>) -> Flexible {
        rope(x, &positions, &table, Rotation::Forward)
    }

    fn kernels_attention(q: Flexible, k: Flexible, v: Flexible, rule: AttentionRule) -> Flexible {
        attention(&contiguous(q), &contiguous(k), &contiguous(v), rule).0
    }

    fn kernels_gather_log_prob(logits: Flexible, targets: Arc<[u32]>) -> Flexible {
        gather_log_prob(&contiguous(logits), &targets).0
    }

    fn kernels_head_log_prob(
        h: Flexible,
        weight: Flexible,
        packed: Option<Arc<Packed>>,
        targets: Arc<[u32]>,
        options: HeadOptions,
    ) -> Flexible {
        // No gradient will want the logits.
        let options = HeadOptions { keep_logits: false, ..options };
        head_log_prob(&contiguous(h), &Matrix::new(weight, packed, false), &targets, options).0
    }

    fn kernels_head_kl(
        p: Flexible,
        p_weight: Flexible,
        q: Flexible,
        q_weight: Flexible,
        heads: [PackedHead; 2],
    ) -> Flexible {
        let [p_head, q_head] = heads;
        let side = |h, weight, head: PackedHead| HeadSide {
            h: contiguous(h),
            matrix: Matrix::new(weight, head.packed, false),
            soft_cap: head.soft_cap,
        };
        let kl = head_kl(&[side(p, p_weight, p_head), side(q, q_weight, q_head)]);
        let n = kl.len();
        tensor(kl, [n])
    }

    fn kernels_ema(mean: Flexible, x: Flexible, beta: f64, squared: bool) -> Flexible {
        let x = contiguous(x);
        in_place::<1>(mean, |mean| cpu::ema(mean, floats(&x), beta, squared))
    }

    fn kernels_adamw(p: Flexible, mean: Flexible, square: Flexible, step: AdamStep) -> Flexible {
        let (mean, square) = (contiguous(mean), contiguous(square));
        in_place::<1>(p, |p| cpu::adamw(p, floats(&mean), floats(&square), step))
    }

    fn kernels_sum_of_squares(x: Flexible) -> Flexible {
        tensor(vec![cpu::sum_of_squares(floats(&contiguous(x))) as f32], [1])
    }

    fn kernels_scale(x: Flexible, factor: f64) -> Flexible {
        in_place::<1>(x, |x| cpu::scale(x, factor))
    }
}
