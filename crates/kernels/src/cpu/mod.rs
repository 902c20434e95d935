//! The kernels on slices: `f32` in, `f32` out, shapes as numbers, threads by rayon.
//!
//! One invariant holds everywhere: the bits of an output row do not depend on how many rows there are, on the row's
//! place among them, on the number of threads or on the instruction set. Every element of a matrix product is one
//! chain of fused multiply-adds in the order of the inner index; every other reduction runs in `math::LANES` fixed
//! lanes joined by a fixed tree; every exponential is the crate's own. A sequence decoded alone, in a batch, or
//! scored by the trainer therefore has the same log-probabilities, bit for bit.
//!
//! One thing depends on the processor: where it has fast dot products of bf16, weights in bf16 are multiplied by them, and what
//! they are multiplied with is rounded too ([`Precision::rounds_inputs`]).

mod attention;
mod attention_backward;
mod columns;
#[cfg(target_arch = "x86_64")]
mod dots;
mod fusion;
mod gelu;
mod gemm;
mod head;
mod isa;
mod kv_pool;
mod layer;
mod layer_norm;
mod lora;
mod low_rank;
mod math;
mod microkernel;
mod norm;
mod optim;
mod pack;
mod page;
mod paged;
mod pairs;
mod parallel;
mod precision;
mod rope;
mod rows;
mod silu;
mod softmax;
mod split;
mod stored;
mod tables;
mod team;
mod transpose;

pub use attention::{AttentionRule, AttentionShape, attention};
pub use attention_backward::{AttentionSaved, attention_backward};
pub use columns::column_sums;
pub use fusion::Fusion;
pub use gelu::{Gelu, gelu, gelu_backward, gelu_mul, gelu_mul_backward};
pub use gemm::{gemm, gemm_new};
pub use head::{
    HeadGrads, HeadLosses, HeadOutputs, HeadSaved, HeadStates, HeadWeight, each_row, head_kl,
    head_kl_backward, head_log_prob, head_log_prob_backward, head_rows,
};
pub use kv_pool::{KvPool, PAGE};
pub use layer::{
    Gate, LayerMap, LayerQkv, LayerUp, LayerWeights, PassTokens, Residual, RowNorm, decoder_layer,
};
pub use layer_norm::{LayerNormGrads, layer_norm, layer_norm_backward};
pub use lora::{Factors, LoraGrads};
pub use low_rank::{LowRank, add_low_rank};
pub use norm::{rms_norm, rms_norm_backward};
pub use optim::{AdamStep, adamw, ema, scale, sum_of_squares};
pub use pack::{PANEL, Packed};
pub use paged::paged_attention;
pub use parallel::{choosing_pools, on_pool};
pub use precision::Precision;
pub use rope::{RopeTable, Rotation, rope};
pub use silu::{silu_mul, silu_mul_backward};
pub use softmax::{gather_log_prob, gather_log_prob_backward, log_softmax};
pub use tables::PageTables;

#[cfg(test)]
pub(crate) use math::noise;
