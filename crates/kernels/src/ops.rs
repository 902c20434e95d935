//! The operations on burn tensors: fused on flex, composed elsewhere.

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor};

#[cfg(feature = "flex")]
use crate::cpu::RopeTable;
use crate::cpu::{AdamStep, AttentionRule, Gelu, LowRank, Packed, Precision};
#[cfg(feature = "flex")]
use crate::flex::Fused;
use crate::naive;
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// Whether tensors of this device and element type go to the fused kernels.
#[cfg(feature = "flex")]
pub(crate) fn is_fused(device: &Device, dtypes: &[burn::tensor::DType]) -> bool {
    use burn::backend::DispatchDevice;
    let flex = match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(device) => matches!(**device, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns, reason = "other devices exist with other features")]
        _ => false,
    };
    flex && dtypes.iter().all(|&dtype| dtype == burn::tensor::DType::F32)
}

/// Whether weights of this device are packed, and so held in any [`Precision`].
pub fn packs(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return is_fused(device, &[]);
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// Packs a weight `[out, in]` for [`linear`] in a number format; `None` where packing is of no use. Pack again when the
/// weight changes.
///
/// # Shapes
/// - `weight`: `[out, in]`
pub fn pack(weight: &Tensor<2>, precision: Precision) -> Option<Arc<Packed>> {
    #[cfg(feature = "flex")]
    if is_fused(&weight.device(), &[weight.dtype()]) {
        let weight = if weight.device().is_autodiff() { weight.clone().inner() } else { weight.clone() };
        return Some(Arc::new(crate::flex::pack(weight).with_precision(precision)));
    }
    let _ = (weight, precision);
    None
}

/// `y = x·Wᵀ + bias`.
///
/// With `packed` (from [`pack`] of the same weight) the forward product skips packing. The gradient of each operand is
/// computed only if that operand is tracked: a frozen weight costs none. A weight that is packed and frozen is not read, way back
/// included: what is multiplied by is what is packed, rounded as it may be.
///
/// # Shapes
/// - `x`: `[n, in]`; `weight`: `[out, in]`; `bias`: `[out]`; result: `[n, out]`
///
/// # Panics
/// When shapes disagree, or `packed` has another shape than `weight`.
pub fn linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    packed: Option<&Arc<Packed>>,
) -> Tensor<2> {
    check_linear("linear", x.dims(), weight.dims(), bias.as_ref(), packed);
    #[cfg(feature = "flex")]
    if is_fused(&x.device(), &[x.dtype(), weight.dtype()]) {
        let (x, weight, packed) = (x.into_dispatch(), weight.into_dispatch(), packed.cloned());
        return Tensor::from_dispatch(match bias {
            None => <Dispatch as Fused>::kernels_linear(x, weight, packed),
            Some(bias) => <Dispatch as Fused>::kernels_linear_biased(x, weight, bias.into_dispatch(), packed),
        });
    }
    naive::linear(x, weight, bias)
}

/// [`linear`] with a low-rank change, `y = x·Wᵀ + bias + s·(x·Aᵀ)·Bᵀ` (LoRA, arXiv 2106.09685, eq. 3). The bits are those of
/// [`add_low_rank`] onto [`linear`].
///
/// # Shapes
/// - `x`: `[n, in]`; `weight`: `[out, in]`; `bias`: `[out]`; `a`: `[r, in]`; `b`: `[out, r]`; result: `[n, out]`
///
/// # Panics
/// As [`linear`], and when a factor has another shape.
pub fn lora_linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    packed: Option<&Arc<Packed>>,
    (a, b): (Tensor<2>, Tensor<2>),
    scale: f64,
) -> Tensor<2> {
    check_linear("lora_linear", x.dims(), weight.dims(), bias.as_ref(), packed);
    let ([out, inn], [r, a_in], [b_out, b_r]) = (weight.dims(), a.dims(), b.dims());
    assert!(
        a_in == inn && b_out == out && b_r == r,
        "lora_linear: A [r {r}, in {a_in}], B [out {b_out}, r {b_r}] against weight [out {out}, in {inn}]"
    );
    #[cfg(feature = "flex")]
    if is_fused(&x.device(), &[x.dtype(), weight.dtype(), a.dtype(), b.dtype()]) {
        let (packed, a, b) = (packed.cloned(), a.into_dispatch(), b.into_dispatch());
        let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
        return Tensor::from_dispatch(match bias {
            None => <Dispatch as Fused>::kernels_lora_linear(x, weight, packed, a, b, scale),
            Some(bias) => {
                let bias = bias.into_dispatch();
                <Dispatch as Fused>::kernels_lora_linear_biased(x, weight, packed, bias, a, b, scale)
            }
        });
    }
    naive::lora_linear(x, weight, bias, (a, b), scale)
}

/// Panics when the shapes of a product disagree.
fn check_linear(
    what: &str,
    [n, x_in]: [usize; 2],
    [out, inn]: [usize; 2],
    bias: Option<&Tensor<1>>,
    packed: Option<&Arc<Packed>>,
) {
    assert_eq!(x_in, inn, "{what}: x [n {n}, in {x_in}] against weight [out {out}, in {inn}]");
    if let Some(bias) = bias {
        assert_eq!(bias.dims(), [out], "{what}: bias against weight [out {out}, in {inn}]");
    }
    if let Some(packed) = packed {
        let shape = (packed.columns(), packed.inner());
        assert_eq!(shape, (out, inn), "{what}: packed (out, in) against weight [out {out}, in {inn}]");
    }
}

/// Adds the changes of adapters to rows of `y`, products of `x`, in their place where nobody else holds them. Not
/// differentiable: the result is a constant.
///
/// # Shapes
/// - `y`, result: `[n, out]`; `x`: `[n, in]`; of a change, `a`: `[r, in]`, `b`: `[out, r]`, from [`pack`]
///
/// # Panics
/// When shapes disagree, or on a device without packed weights ([`packs`]).
pub fn add_low_rank(y: Tensor<2>, x: Tensor<2>, changes: Vec<LowRank>) -> Tensor<2> {
    let device = y.device();
    assert!(packs(&device), "add_low_rank: {device:?} has no packed weights");
    #[cfg(feature = "flex")]
    return Tensor::from_dispatch(<Dispatch as Fused>::kernels_add_low_rank(
        y.into_dispatch(),
        x.into_dispatch(),
        changes,
    ));
    #[cfg(not(feature = "flex"))]
    {
        let _ = (x, changes);
        y
    }
}

/// Root-mean-square normalisation of rows: `x / √(mean(x²) + eps) · weight` (Zhang & Sennrich 2019, eq. 4).
///
/// # Shapes
/// - `x`: `[n, d]`; `weight`: `[d]`; result: `[n, d]`
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    let ([n, d], [weight_d]) = (x.dims(), weight.dims());
    assert_eq!(d, weight_d, "rms_norm: x [n {n}, d {d}] against weight [d {weight_d}]");
    #[cfg(feature = "flex")]
    if is_fused(&x.device(), &[x.dtype(), weight.dtype()]) {
        let y = <Dispatch as Fused>::kernels_rms_norm(x.into_dispatch(), weight.into_dispatch(), eps);
        return Tensor::from_dispatch(y);
    }
    naive::rms_norm(x, weight, eps)
}

/// `silu(gate)·up`, the gate of SwiGLU (Shazeer 2020, eq. 6).
///
/// # Shapes
/// - `gate`, `up`, result: `[n, d]`
pub fn silu_mul(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    let ([n, d], [up_n, up_d]) = (gate.dims(), up.dims());
    assert_eq!((n, d), (up_n, up_d), "silu_mul: gate [n, d] against up [n, d]");
    #[cfg(feature = "flex")]
    if is_fused(&gate.device(), &[gate.dtype(), up.dtype()]) {
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_silu_mul(
            gate.into_dispatch(),
            up.into_dispatch(),
        ));
    }
    naive::silu_mul(gate, up)
}

/// `(silu(gate)·up)·Wᵀ`: [`linear`] of [`silu_mul`], bit for bit. What the weight multiplies is not kept for the gradient but
/// computed again, which saves a tensor of `[n, in]` for a moment of work.
///
/// # Shapes
/// - `gate`, `up`: `[n, in]`; `weight`: `[out, in]`; result: `[n, out]`
///
/// # Panics
/// As [`linear`] and [`silu_mul`].
pub fn silu_mul_linear(
    gate: Tensor<2>,
    up: Tensor<2>,
    weight: Tensor<2>,
    packed: Option<&Arc<Packed>>,
) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if is_fused(&gate.device(), &[gate.dtype(), up.dtype(), weight.dtype()]) {
        assert_eq!(gate.dims(), up.dims(), "silu_mul_linear: gate [n, in] against up [n, in]");
        check_linear("silu_mul_linear", gate.dims(), weight.dims(), None, packed);
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_silu_mul_linear(
            gate.into_dispatch(),
            up.into_dispatch(),
            weight.into_dispatch(),
            packed.cloned(),
        ));
    }
    linear(silu_mul(gate, up), weight, None, packed)
}

/// Layer normalisation of rows: `(x − mean(x)) / √(var(x) + eps) · weight + bias` (Ba et al. 2016, eq. 4).
///
/// # Shapes
/// - `x`: `[n, d]`; `weight`, `bias`: `[d]`; result: `[n, d]`
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<2> {
    let ([n, d], [weight_d], [bias_d]) = (x.dims(), weight.dims(), bias.dims());
    assert!(
        d == weight_d && d == bias_d,
        "layer_norm: x [n {n}, d {d}] against weight [d {weight_d}] and bias [d {bias_d}]"
    );
    #[cfg(feature = "flex")]
    if is_fused(&x.device(), &[x.dtype(), weight.dtype(), bias.dtype()]) {
        let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_layer_norm(x, weight, bias, eps));
    }
    naive::layer_norm(x, weight, bias, eps)
}

/// The Gaussian error linear unit (Hendrycks & Gimpel 2016), in one of its forms.
///
/// # Shapes
/// - `x`, result: `[n, d]`
pub fn gelu(x: Tensor<2>, form: Gelu) -> Tensor<2> {
    #[cfg(feature = "flex")]
    if is_fused(&x.device(), &[x.dtype()]) {
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_gelu(x.into_dispatch(), form));
    }
    naive::gelu(x, form)
}

/// `gelu(gate)·up`, the gate of GEGLU (Shazeer 2020, eq. 6).
///
/// # Shapes
/// - `gate`, `up`, result: `[n, d]`
pub fn gelu_mul(gate: Tensor<2>, up: Tensor<2>, form: Gelu) -> Tensor<2> {
    let ([n, d], [up_n, up_d]) = (gate.dims(), up.dims());
    assert_eq!((n, d), (up_n, up_d), "gelu_mul: gate [n, d] against up [n, d]");
    #[cfg(feature = "flex")]
    if is_fused(&gate.device(), &[gate.dtype(), up.dtype()]) {
        let (gate, up) = (gate.into_dispatch(), up.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_gelu_mul(gate, up, form));
    }
    naive::gelu_mul(gate, up, form)
}

/// Rotary position embedding (Su et al. 2021), dimension `i` paired with `i + rot/2` as in Hugging Face checkpoints;
/// dimensions of a head from `rot` on stay as they are.
///
/// `inv_freq` holds `rot/2` inverse frequencies in radians per position; cosines and sines are multiplied by
/// `attention_factor` (1 for models without scaled context).
///
/// # Shapes
/// - `x`, result: `[n, heads, d]`; `positions`: `[n]`; `inv_freq`: `[rot / 2]`, `rot` at most `d`
pub fn rope(x: Tensor<3>, positions: &[u32], inv_freq: &[f32], attention_factor: f32) -> Tensor<3> {
    let [n, heads, d] = x.dims();
    assert_eq!(positions.len(), n, "rope: positions [n] against x [n {n}, heads {heads}, d {d}]");
    let rot = 2 * inv_freq.len();
    assert!(rot <= d, "rope: {rot} dimensions to rotate of x [n {n}, heads {heads}, d {d}]");
    #[cfg(feature = "flex")]
    if is_fused(&x.device(), &[x.dtype()]) {
        let table = RopeTable::kept(inv_freq, attention_factor, positions);
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_rope(
            x.into_dispatch(),
            positions.into(),
            table,
        ));
    }
    naive::rope(x, positions, inv_freq, attention_factor)
}

/// Causal self-attention with grouped queries: `softmax(q·kᵀ·scale)·v`, position `i` attending to `0..=i` or to the last keys of
/// a window, scores capped where the rule says so. Sequences
/// padded on the right need no mask. The gradient recomputes the probabilities instead of keeping them.
///
/// # Shapes
/// - `q`, result: `[batch, time, heads, head_dim]`; `k`, `v`: `[batch, time, kv_heads, head_dim]`
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, rule: AttentionRule) -> Tensor<4> {
    let ([batch, time, heads, head_dim], [_, _, kv_heads, _]) = (q.dims(), k.dims());
    let kv = [batch, time, kv_heads, head_dim];
    assert!(
        k.dims() == kv && v.dims() == kv && kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "attention: q {:?}, k {:?}, v {:?}",
        q.dims(),
        k.dims(),
        v.dims()
    );
    #[cfg(feature = "flex")]
    if is_fused(&q.device(), &[q.dtype(), k.dtype(), v.dtype()]) {
        let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_attention(q, k, v, rule));
    }
    naive::attention(q, k, v, rule)
}

/// Log-probability of each row's target, `log softmax(logits)[target]`, in one pass over the logits.
///
/// # Shapes
/// - `logits`: `[n, vocab]`; `targets`, result: `[n]`
///
/// # Panics
/// When shapes disagree, and on flex when a target is not below `vocab`.
pub fn gather_log_prob(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let ([n, vocab], [targets_n]) = (logits.dims(), targets.dims());
    assert_eq!(
        n, targets_n,
        "gather_log_prob: logits [n {n}, vocab {vocab}] against targets [n {targets_n}]"
    );
    #[cfg(feature = "flex")]
    if is_fused(&logits.device(), &[logits.dtype()]) {
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_gather_log_prob(
            logits.into_dispatch(),
            indices(targets),
        ));
    }
    naive::gather_log_prob(logits, targets)
}

/// What [`head_log_prob`] gives.
#[derive(Clone, Debug)]
pub struct HeadLogProb {
    /// `[n]`: log-probability of each row's target.
    pub log_prob: Tensor<1>,
    /// `[n]`: entropy of each row's law in nats, where it was wanted.
    pub entropy: Option<Tensor<1>>,
}

/// What [`head_log_prob`] does beside the log-probabilities.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadOptions {
    /// Keep the logits of all rows for the gradient, which computes them again otherwise.
    pub keep_logits: bool,
    /// The entropies.
    pub entropy: Entropy,
}

/// Whether [`head_log_prob`] gives entropies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Entropy {
    /// None.
    #[default]
    Unwanted,
    /// As constants, for which other devices keep nothing for the way back.
    Constant,
    /// With a gradient.
    Tracked,
}

/// Log-probability of each row's target and entropy of its law, from hidden states and the head over the vocabulary. The logits of
/// all rows are in memory together only where [`HeadOptions::keep_logits`] wants them. Bit for bit [`gather_log_prob`] of
/// [`linear`].
///
/// With `packed` (from [`pack`] of the same weight) the head is not packed.
///
/// # Shapes
/// - `h`: `[n, width]`; `weight`: `[vocab, width]`; `targets`: `[n]`
///
/// # Panics
/// When shapes disagree, and on flex when a target is not below `vocab`.
pub fn head_log_prob(
    h: Tensor<2>,
    weight: Tensor<2>,
    packed: Option<&Arc<Packed>>,
    targets: Tensor<1, Int>,
    options: HeadOptions,
) -> HeadLogProb {
    let ([n, width], [vocab, inn], [count]) = (h.dims(), weight.dims(), targets.dims());
    assert_eq!(
        width, inn,
        "head_log_prob: h [n {n}, width {width}] against weight [vocab {vocab}, width {inn}]"
    );
    assert_eq!(n, count, "head_log_prob: h [n {n}, width {width}] against targets [n {count}]");
    #[cfg(feature = "flex")]
    if is_fused(&h.device(), &[h.dtype(), weight.dtype()]) {
        let given: Tensor<1> = Tensor::from_dispatch(<Dispatch as Fused>::kernels_head_log_prob(
            h.into_dispatch(),
            weight.into_dispatch(),
            packed.cloned(),
            indices(targets),
            options,
        ));
        if options.entropy == Entropy::Unwanted {
            return HeadLogProb { log_prob: given, entropy: None };
        }
        let [log_prob, entropy] = [given.clone().narrow(0, 0, n), given.narrow(0, n, n)];
        let entropy = if options.entropy == Entropy::Constant { entropy.detach() } else { entropy };
        return HeadLogProb { log_prob, entropy: Some(entropy) };
    }
    let _ = packed;
    naive::head_log_prob(h, weight, targets, options)
}

/// A head over the vocabulary and what it is given.
#[derive(Clone, Debug)]
pub struct HeadOf<'a> {
    /// `[n, width]`.
    pub h: Tensor<2>,
    /// `[vocab, width]`.
    pub weight: Tensor<2>,
    /// The same packed (from [`pack`]), where it is.
    pub packed: Option<&'a Arc<Packed>>,
    /// A product `s` becomes the logit `cap·tanh(s / cap)` (Gemma 2, arXiv 2408.00118, section 2).
    pub soft_cap: Option<f64>,
}

/// `KL(p ‖ q)` in nats of the next-token laws that two heads give row by row, exact: a sum over the vocabulary. The logits of all rows are not
/// in memory together on flex, neither forth nor back, where the gradient of each operand that is tracked is computed from logits made again.
///
/// # Shapes
/// - `p`, `q`: of as many rows and tokens, of any widths; result: `[n]`
///
/// # Panics
/// When shapes disagree.
pub fn head_kl(p: HeadOf<'_>, q: HeadOf<'_>) -> Tensor<1> {
    let shape = |of: &HeadOf<'_>| {
        let ([n, width], [vocab, inn]) = (of.h.dims(), of.weight.dims());
        assert_eq!(
            width, inn,
            "head_kl: h [n {n}, width {width}] against weight [vocab {vocab}, width {inn}]"
        );
        (n, vocab)
    };
    assert_eq!(shape(&p), shape(&q), "head_kl: (n, vocab) of p against those of q");
    let [p, q] = alike([p, q]);
    #[cfg(feature = "flex")]
    if is_fused(&p.h.device(), &[&p.h, &p.weight, &q.h, &q.weight].map(Tensor::dtype)) {
        let heads = [&p, &q].map(|of| crate::flex::PackedHead {
            packed: of.packed.cloned(),
            soft_cap: of.soft_cap.map(|cap| cap as f32),
        });
        let [p, p_weight, q, q_weight] = [p.h, p.weight, q.h, q.weight].map(Tensor::into_dispatch);
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_head_kl(p, p_weight, q, q_weight, heads));
    }
    naive::head_kl(p, q)
}

/// Both heads under autodiff where an operand is.
fn alike(heads: [HeadOf<'_>; 2]) -> [HeadOf<'_>; 2] {
    let tracked = |x: &Tensor<2>| x.device().is_autodiff();
    let any = heads.iter().any(|head| tracked(&head.h) || tracked(&head.weight));
    let lift = |x: Tensor<2>| if any && !tracked(&x) { Tensor::from_inner(x) } else { x };
    heads.map(|head| HeadOf { h: lift(head.h), weight: lift(head.weight), ..head })
}

/// Targets on the host. A negative one wraps to one far beyond the vocabulary, which the kernels refuse.
#[cfg(feature = "flex")]
fn indices(targets: Tensor<1, Int>) -> Arc<[u32]> {
    targets.into_data().iter::<i64>().map(|target| target as u32).collect()
}

/// `β·mean + (1 − β)·x`, or of `x²` if `squared`: a running mean. It is changed in its place where nobody else holds it.
///
/// # Shapes
/// - `mean`, `x`, result: `[n]`
pub fn ema(mean: Tensor<1>, x: Tensor<1>, beta: f64, squared: bool) -> Tensor<1> {
    assert_eq!(mean.dims(), x.dims(), "ema: mean [n] against x [n]");
    #[cfg(feature = "flex")]
    if is_fused(&mean.device(), &[mean.dtype(), x.dtype()]) {
        let (mean, x) = (mean.into_dispatch(), x.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_ema(mean, x, beta, squared));
    }
    naive::ema(mean, x, beta, squared)
}

/// A parameter after a step of AdamW (Loshchilov & Hutter 2019, algorithm 2), given the moments after it.
///
/// # Shapes
/// - `p`, `mean`, `square`, result: `[n]`
pub fn adamw(p: Tensor<1>, mean: Tensor<1>, square: Tensor<1>, step: AdamStep) -> Tensor<1> {
    let n = p.dims();
    assert!(n == mean.dims() && n == square.dims(), "adamw: p [n], mean [n] and square [n] differ in n");
    #[cfg(feature = "flex")]
    if is_fused(&p.device(), &[p.dtype(), mean.dtype(), square.dtype()]) {
        let (p, mean, square) = (p.into_dispatch(), mean.into_dispatch(), square.into_dispatch());
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_adamw(p, mean, square, step));
    }
    naive::adamw(p, mean, square, step)
}

/// `Σ x²`.
///
/// # Shapes
/// - `x`: `[n]`; result: `[1]`
pub fn sum_of_squares(x: Tensor<1>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if is_fused(&x.device(), &[x.dtype()]) {
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_sum_of_squares(x.into_dispatch()));
    }
    naive::sum_of_squares(x)
}

/// `x·factor`, in its place where nobody else holds it.
///
/// # Shapes
/// - `x`, result: `[n]`
pub fn scale(x: Tensor<1>, factor: f64) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if is_fused(&x.device(), &[x.dtype()]) {
        return Tensor::from_dispatch(<Dispatch as Fused>::kernels_scale(x.into_dispatch(), factor));
    }
    naive::scale(x, factor)
}
