//! Fused CPU kernels behind burn's backend extension, each with a naive twin.
//!
//! The functions at the root take burn tensors. On the flex backend with `f32` tensors they run this crate's kernels,
//! with hand-written gradients under autodiff; on every other device, and for other element types, they run the plain
//! compositions of burn operations in [`naive`], which compute the same to rounding. [`cpu`] has the kernels on slices.
//!
//! On flex the bits of an output row depend on that row alone: not on its batch, its place or the number of threads
//! (see [`cpu`]). Run a model inside [`cpu::on_pool`] to save the hand-over of small products.

pub mod cpu;
#[cfg(feature = "flex")]
mod flex;
pub mod memory;
pub mod naive;
mod ops;
mod pool;
mod sample;
#[cfg(test)]
mod tests;

pub use cpu::{
    AdamStep, AttentionRule, Fusion, Gate, Gelu, LayerMap, LayerQkv, LayerUp, LayerWeights, LowRank, PAGE,
    Packed, PageTables, PassTokens, Precision, Residual, RowNorm,
};
pub use ops::{
    Entropy, HeadLogProb, HeadOf, HeadOptions, adamw, add_low_rank, attention, ema, gather_log_prob, gelu,
    gelu_mul, head_kl, head_log_prob, layer_norm, linear, lora_linear, pack, packs, rms_norm, rope, scale,
    silu_mul, silu_mul_linear, sum_of_squares,
};
pub use pool::{PagedPool, PoolTensors, decoder_layers, paged_attention};
pub use sample::{SampleRule, Sampled, left_out, sample};
