//! The fused operations on burn's flex backend.

mod backward;
mod forward;
mod gates;
mod head;
mod lora;
mod matrix;

use std::sync::Arc;

use burn::backend::backend_extension;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;

use crate::cpu::{AdamStep, AttentionRule, Gelu, LowRank, Packed, RopeTable};
use crate::ops::HeadOptions;

/// What there is of a head beside its rows.
#[derive(Clone, Debug)]
pub(crate) struct PackedHead {
    pub(crate) packed: Option<Arc<Packed>>,
    pub(crate) soft_cap: Option<f32>,
}

/// What a backend with fused kernels offers. Only flex does; other devices are sent to [`crate::naive`] before.
#[backend_extension(Flex, Autodiff)]
pub(crate) trait Fused: burn::backend::Backend {
    fn kernels_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
    ) -> FloatTensor<Self>;
    fn kernels_linear_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
    ) -> FloatTensor<Self>;
    fn kernels_lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
    fn kernels_lora_linear_biased(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
    fn kernels_add_low_rank(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        changes: Vec<LowRank>,
    ) -> FloatTensor<Self>;
    fn kernels_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    fn kernels_silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn kernels_silu_mul_linear(
        gate: FloatTensor<Self>,
        up: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
    ) -> FloatTensor<Self>;
    fn kernels_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self>;
    fn kernels_gelu(x: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self>;
    fn kernels_gelu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>, form: Gelu) -> FloatTensor<Self>;
    fn kernels_rope(x: FloatTensor<Self>, positions: Arc<[u32]>, table: Arc<RopeTable>) -> FloatTensor<Self>;
    fn kernels_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rule: AttentionRule,
    ) -> FloatTensor<Self>;
    fn kernels_gather_log_prob(logits: FloatTensor<Self>, targets: Arc<[u32]>) -> FloatTensor<Self>;
    /// Log-probabilities, and behind them entropies where they are wanted.
    fn kernels_head_log_prob(
        h: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        packed: Option<Arc<Packed>>,
        targets: Arc<[u32]>,
        options: HeadOptions,
    ) -> FloatTensor<Self>;
    fn kernels_head_kl(
        p: FloatTensor<Self>,
        p_weight: FloatTensor<Self>,
        q: FloatTensor<Self>,
        q_weight: FloatTensor<Self>,
        heads: [PackedHead; 2],
    ) -> FloatTensor<Self>;
    fn kernels_ema(
        mean: FloatTensor<Self>,
        x: FloatTensor<Self>,
        beta: f64,
        squared: bool,
    ) -> FloatTensor<Self>;
    fn kernels_adamw(
        p: FloatTensor<Self>,
        mean: FloatTensor<Self>,
        square: FloatTensor<Self>,
        step: AdamStep,
    ) -> FloatTensor<Self>;
    fn kernels_sum_of_squares(x: FloatTensor<Self>) -> FloatTensor<Self>;
    fn kernels_scale(x: FloatTensor<Self>, factor: f64) -> FloatTensor<Self>;
}

/// Packs a weight `[out, in]` on the flex backend without autodiff.
pub(crate) fn pack(weight: Tensor<2>) -> Packed {
    let [out, inn] = weight.dims();
    let data = weight.into_data();
    let values = data.as_slice::<f32>().expect("the caller checked the element type");
    Packed::from_out_in(values, out, inn)
}
