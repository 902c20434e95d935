//! The operations as plain compositions of burn operations: what runs on GPU backends, and the reference the fused
//! kernels are tested against. Norms, softmaxes and rotations are computed in `f32` and cast back.

use burn::tensor::{Bool, DType, FloatDType, Int, Tensor, TensorData, activation};

use crate::cpu::{AdamStep, AttentionRule, Gelu, PAGE, PageTables};
use crate::ops::{Entropy, HeadLogProb, HeadOf, HeadOptions};
use crate::pool::PoolTensors;

/// In `f32`, with the type to go back to.
pub(crate) fn widen<const D: usize>(x: Tensor<D>) -> (Tensor<D>, DType) {
    let dtype = x.dtype();
    (if dtype == DType::F32 { x } else { x.cast(FloatDType::F32) }, dtype)
}

fn narrow<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// See [`crate::linear`].
///
/// # Shapes
/// - `x`: `[n, in]`; `weight`: `[out, in]`; `bias`: `[out]`; result: `[n, out]`
pub fn linear(x: Tensor<2>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let y = x.matmul(weight.transpose());
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// See [`crate::lora_linear`].
///
/// # Shapes
/// - `x`: `[n, in]`; `weight`: `[out, in]`; `bias`: `[out]`; `a`: `[r, in]`; `b`: `[out, r]`; result: `[n, out]`
pub fn lora_linear(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    (a, b): (Tensor<2>, Tensor<2>),
    scale: f64,
) -> Tensor<2> {
    let change = linear(linear(x.clone(), a, None), b, None) * scale;
    linear(x, weight, bias) + change
}

/// See [`crate::rms_norm`].
///
/// # Shapes
/// - `x`, result: `[n, d]`; `weight`: `[d]`
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f64) -> Tensor<2> {
    let (x, dtype) = widen(x);
    let scale = (x.clone() * x.clone()).mean_dim(1).add_scalar(eps).sqrt().recip();
    narrow(x * scale, dtype) * weight.unsqueeze()
}

/// See [`crate::silu_mul`].
///
/// # Shapes
/// - `gate`, `up`, result: `[n, d]`
pub fn silu_mul(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    activation::silu(gate) * up
}

/// See [`crate::layer_norm`].
///
/// # Shapes
/// - `x`, result: `[n, d]`; `weight`, `bias`: `[d]`
pub fn layer_norm(x: Tensor<2>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<2> {
    let (x, dtype) = widen(x);
    let centred = x.clone() - x.mean_dim(1);
    let scale = (centred.clone() * centred.clone()).mean_dim(1).add_scalar(eps).sqrt().recip();
    narrow(centred * scale, dtype) * weight.unsqueeze() + bias.unsqueeze()
}

/// See [`crate::gelu`].
///
/// # Shapes
/// - `x`, result: `[n, d]`
pub fn gelu(x: Tensor<2>, form: Gelu) -> Tensor<2> {
    let (x, dtype) = widen(x);
    let inner = match form {
        Gelu::Exact => (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf(),
        Gelu::Tanh => {
            let cube = x.clone() * x.clone() * x.clone();
            ((x.clone() + cube * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt()).tanh()
        }
    };
    narrow(x * 0.5 * (inner + 1.0), dtype)
}

/// See [`crate::gelu_mul`].
///
/// # Shapes
/// - `gate`, `up`, result: `[n, d]`
pub fn gelu_mul(gate: Tensor<2>, up: Tensor<2>, form: Gelu) -> Tensor<2> {
    gelu(gate, form) * up
}

/// See [`crate::ema`].
pub fn ema(mean: Tensor<1>, x: Tensor<1>, beta: f64, squared: bool) -> Tensor<1> {
    let x = if squared { x.clone() * x } else { x };
    mean * beta + x * (1.0 - beta)
}

/// See [`crate::adamw`].
pub fn adamw(p: Tensor<1>, mean: Tensor<1>, square: Tensor<1>, step: AdamStep) -> Tensor<1> {
    let root = (square / step.correction).sqrt() + step.eps;
    p * step.decay - mean / root * step.rate
}

/// See [`crate::sum_of_squares`].
pub fn sum_of_squares(x: Tensor<1>) -> Tensor<1> {
    (x.clone() * x).sum()
}

/// See [`crate::scale`].
pub fn scale(x: Tensor<1>, factor: f64) -> Tensor<1> {
    x * factor
}

/// See [`crate::rope`].
///
/// # Shapes
/// - `x`, result: `[n, heads, d]`; `positions`: `[n]`; `inv_freq`: `[rot / 2]`, `rot` at most `d`
pub fn rope(x: Tensor<3>, positions: &[u32], inv_freq: &[f32], attention_factor: f32) -> Tensor<3> {
    let ([n, _, d], device) = (x.dims(), x.device());
    let half = inv_freq.len();
    if half == 0 {
        return x;
    }
    let table = |turn: fn(f64) -> f64| {
        let values: Vec<f32> = positions
            .iter()
            .flat_map(|&p| {
                inv_freq.iter().map(move |f| turn(f64::from(p as f32 * f)) as f32 * attention_factor)
            })
            .collect();
        Tensor::<3>::from_data(TensorData::new(values, [n, 1, half]), (&device, DType::F32))
    };
    let (cos, sin) = (table(f64::cos), table(f64::sin));
    let (x, dtype) = widen(x);
    let (low, high) = (x.clone().narrow(2, 0, half), x.clone().narrow(2, half, half));
    let mut parts = vec![low.clone() * cos.clone() - high.clone() * sin.clone(), high * cos + low * sin];
    if 2 * half < d {
        parts.push(x.narrow(2, 2 * half, d - 2 * half));
    }
    narrow(Tensor::cat(parts, 2), dtype)
}

/// See [`crate::attention`].
///
/// # Shapes
/// - `q`, result: `[batch, time, heads, head_dim]`; `k`, `v`: `[batch, time, kv_heads, head_dim]`
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, rule: AttentionRule) -> Tensor<4> {
    let [batch, time, heads, head_dim] = q.dims();
    let kv_heads = k.dims()[2];
    let group = heads / kv_heads;
    // [batch, kv_heads, group·time, head_dim] against [batch, kv_heads, time, head_dim].
    let q = q.swap_dims(1, 2).reshape([batch, kv_heads, group * time, head_dim]);
    let scores = q.matmul(k.swap_dims(1, 2).swap_dims(2, 3));
    let mut unseen = Tensor::<2, Bool>::tril_mask([time, time], 0, &scores.device());
    if let Some(window) = rule.window {
        let before = Tensor::<2, Bool>::triu_mask([time, time], 1 - window as i64, &scores.device());
        unseen = unseen.bool_or(before);
    }
    let unseen = unseen
        .reshape([1, 1, 1, time, time])
        .expand([batch, kv_heads, group, time, time])
        .reshape([batch, kv_heads, group * time, time]);
    let (scores, dtype) = widen(scores);
    let scores = capped(scores, rule).mask_fill(unseen, f32::NEG_INFINITY);
    let p = narrow(activation::softmax(scores, 3), dtype);
    p.matmul(v.swap_dims(1, 2)).reshape([batch, heads, time, head_dim]).swap_dims(1, 2)
}

/// Scores scaled and, where the rule says so, capped.
fn capped(scores: Tensor<4>, rule: AttentionRule) -> Tensor<4> {
    let scores = scores.mul_scalar(rule.scale);
    match rule.soft_cap {
        Some(cap) => scores.div_scalar(cap).tanh().mul_scalar(cap),
        None => scores,
    }
}

/// See [`crate::gather_log_prob`].
///
/// # Shapes
/// - `logits`: `[n, vocab]`; `targets`, result: `[n]`
pub fn gather_log_prob(logits: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let (logits, _) = widen(logits);
    activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1)).squeeze_dim(1)
}

/// See [`crate::head_log_prob`].
///
/// # Shapes
/// - `h`: `[n, width]`; `weight`: `[vocab, width]`; `targets`, result: `[n]`
pub fn head_log_prob(
    h: Tensor<2>,
    weight: Tensor<2>,
    targets: Tensor<1, Int>,
    options: HeadOptions,
) -> HeadLogProb {
    let logits = linear(h, weight, None);
    let entropy = entropies(&logits, options.entropy);
    HeadLogProb { log_prob: gather_log_prob(logits, targets), entropy }
}

/// [`entropy`] as it is wanted.
pub fn entropies(logits: &Tensor<2>, wanted: Entropy) -> Option<Tensor<1>> {
    match wanted {
        Entropy::Unwanted => None,
        Entropy::Constant => Some(entropy(logits.clone().detach())),
        Entropy::Tracked => Some(entropy(logits.clone())),
    }
}

/// Entropy of each row's law in nats.
///
/// # Shapes
/// - `logits`: `[n, vocab]`; result: `[n]`
pub fn entropy(logits: Tensor<2>) -> Tensor<1> {
    let n = logits.dims()[0];
    let (logits, _) = widen(logits);
    // A logit of −∞ has no probability, and adds nothing.
    let log_p = activation::log_softmax(logits, 1).clamp_min(-1e30);
    (log_p.clone().exp() * log_p).sum_dim(1).neg().reshape([n])
}

/// See [`crate::head_kl`].
pub fn head_kl(p: HeadOf<'_>, q: HeadOf<'_>) -> Tensor<1> {
    let logits = |HeadOf { h, weight, soft_cap, .. }: HeadOf<'_>| {
        let logits = linear(h, weight, None);
        match soft_cap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        }
    };
    kl(logits(p), logits(q))
}

/// `KL(p ‖ q)` in nats of the laws of rows of logits.
///
/// # Shapes
/// - `p`, `q`: `[n, vocab]`; result: `[n]`
pub fn kl(p: Tensor<2>, q: Tensor<2>) -> Tensor<1> {
    let n = p.dims()[0];
    // As in an entropy, a logit of −∞ adds nothing.
    let [p, q] = [p, q].map(|logits| activation::log_softmax(widen(logits).0, 1).clamp_min(-1e30));
    (p.clone().exp() * (p - q)).sum_dim(1).reshape([n])
}

/// See [`crate::PagedPool::write`]: returns the pool's keys and values with the tokens' written.
///
/// # Shapes
/// - `k`, `v`: `[n, kv_heads, head_dim]`; `slots`: `[n]`
pub fn write(pool: PoolTensors, k: Tensor<3>, v: Tensor<3>, slots: &[u32]) -> PoolTensors {
    use burn::tensor::IndexingUpdateOp::Assign;
    let [pages, kv_heads, head_dim, _] = pool.k.dims();
    let (n, device) = (slots.len(), k.device());
    if n == 0 {
        return pool;
    }
    let (mut key_index, mut value_index) =
        (Vec::with_capacity(n * kv_heads * head_dim), Vec::with_capacity(n * kv_heads));
    for &slot in slots {
        let (page, offset) = (slot as usize / PAGE, slot as usize % PAGE);
        for head in 0..kv_heads {
            let block = page * kv_heads + head;
            value_index.push((block * PAGE + offset) as i64);
            key_index.extend((0..head_dim).map(|j| ((block * head_dim + j) * PAGE + offset) as i64));
        }
    }
    let index = |values: Vec<i64>| {
        let len = values.len();
        Tensor::<1, Int>::from_data(TensorData::new(values, [len]), &device)
    };
    let keys = pool
        .k
        .reshape([pages * kv_heads * head_dim * PAGE, 1])
        .select_assign(0, index(key_index), k.reshape([n * kv_heads * head_dim, 1]), Assign)
        .reshape([pages, kv_heads, head_dim, PAGE]);
    let values = pool
        .v
        .reshape([pages * kv_heads * PAGE, head_dim])
        .select_assign(0, index(value_index), v.reshape([n * kv_heads, head_dim]), Assign)
        .reshape([pages, kv_heads, PAGE, head_dim]);
    PoolTensors { k: keys, v: values }
}

/// See [`crate::PagedPool::copy`]: returns the pool with the pages copied.
pub fn copy(pool: PoolTensors, from: &[u32], to: &[u32]) -> PoolTensors {
    use burn::tensor::IndexingUpdateOp::Assign;
    let device = pool.k.device();
    let index = |pages: &[u32]| {
        let pages: Vec<i64> = pages.iter().map(|page| i64::from(*page)).collect();
        let len = pages.len();
        Tensor::<1, Int>::from_data(TensorData::new(pages, [len]), &device)
    };
    let pages = |tensor: Tensor<4>| {
        let copied = tensor.clone().select(0, index(from));
        tensor.select_assign(0, index(to), copied, Assign)
    };
    PoolTensors { k: pages(pool.k), v: pages(pool.v) }
}

/// See [`crate::paged_attention`].
///
/// # Shapes
/// - `q`, result: `[n, heads, head_dim]`; `starts`, `lengths`: `[n]`
pub fn paged_attention(
    q: Tensor<3>,
    pool: &PoolTensors,
    tables: PageTables<'_>,
    rule: AttentionRule,
) -> Tensor<3> {
    let PageTables { pages: tables, starts, lengths } = tables;
    let ([n, heads, head_dim], kv_heads, device) = (q.dims(), pool.k.dims()[1], q.device());
    let longest = lengths.iter().copied().max().unwrap_or(0) as usize;
    let pages = longest.div_ceil(PAGE);
    if n == 0 {
        return q;
    }
    let mut chosen = vec![0_i64; n * pages];
    let mut unseen = vec![true; n * pages * PAGE];
    for token in 0..n {
        let (start, length) = (starts[token] as usize, lengths[token] as usize);
        for (page, chosen) in chosen[token * pages..].iter_mut().take(length.div_ceil(PAGE)).enumerate() {
            *chosen = i64::from(tables[start + page]);
        }
        unseen[token * pages * PAGE..][rule.first(length)..length].fill(false);
    }
    let chosen = Tensor::<1, Int>::from_data(TensorData::new(chosen, [n * pages]), &device);
    let unseen = Tensor::<4, Bool>::from_data(TensorData::new(unseen, [n, 1, 1, pages * PAGE]), &device);
    let k = pool
        .k
        .clone()
        .select(0, chosen.clone())
        .reshape([n, pages, kv_heads, head_dim, PAGE])
        .permute([0, 2, 3, 1, 4])
        .reshape([n, kv_heads, head_dim, pages * PAGE]);
    let v = pool
        .v
        .clone()
        .select(0, chosen)
        .reshape([n, pages, kv_heads, PAGE, head_dim])
        .permute([0, 2, 1, 3, 4])
        .reshape([n, kv_heads, pages * PAGE, head_dim]);
    let group = heads / kv_heads;
    let scores = q.reshape([n, kv_heads, group, head_dim]).matmul(k);
    let (scores, dtype) = widen(scores);
    let unseen = unseen.expand([n, kv_heads, group, pages * PAGE]);
    let scores = capped(scores, rule).mask_fill(unseen, f32::NEG_INFINITY);
    let p = narrow(activation::softmax(scores, 3), dtype);
    p.matmul(v).reshape([n, heads, head_dim])
}
