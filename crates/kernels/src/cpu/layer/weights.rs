//! What a decoder layer is made of, and the tokens that it is run on.

use std::ops::Range;
use std::sync::Arc;

use crate::cpu::attention::AttentionRule;
use crate::cpu::fusion::Fusion;
use crate::cpu::gelu::{Gelu, gelu_mul, gelu_mul_panel};
use crate::cpu::layer_norm::layer_norm;
use crate::cpu::low_rank::LowRank;
use crate::cpu::norm::rms_norm;
use crate::cpu::pack::Packed;
use crate::cpu::rope::RopeTable;
use crate::cpu::silu::{gate_panel, silu_mul};

/// A linear map of a layer.
#[derive(Clone, Debug)]
pub struct LayerMap {
    /// The weights.
    pub weight: Arc<Packed>,
    /// What is added.
    pub bias: Option<Arc<[f32]>>,
    /// For each of the layer's users, the factors of what its adapter adds to its tokens; the rows in them say nothing.
    pub adapters: Vec<Option<LowRank>>,
}

impl LayerMap {
    /// What adapters add to a pass.
    pub(super) fn changes(&self, users: &[Range<usize>]) -> Vec<LowRank> {
        let of = |(adapter, rows): (&Option<LowRank>, &Range<usize>)| {
            adapter.as_ref().filter(|_| !rows.is_empty()).map(|a| LowRank { rows: rows.clone(), ..a.clone() })
        };
        self.adapters.iter().zip(users).filter_map(of).collect()
    }
}

/// A norm of rows.
#[derive(Clone, Debug)]
pub enum RowNorm {
    /// [`rms_norm`].
    RootMeanSquare {
        /// `[width]`.
        weight: Vec<f32>,
        /// Added to the mean of squares.
        eps: f32,
    },
    /// [`layer_norm`].
    Centred {
        /// `[width]`.
        weight: Vec<f32>,
        /// `[width]`.
        bias: Vec<f32>,
        /// Added to the variance.
        eps: f32,
    },
}

impl RowNorm {
    /// The norm of every row of `x`, into `y`.
    pub(super) fn apply(&self, x: &[f32], y: &mut [f32]) {
        match self {
            Self::RootMeanSquare { weight, eps } => rms_norm(x, weight, *eps, y),
            Self::Centred { weight, bias, eps } => layer_norm(x, weight, bias, *eps, y),
        }
    }
}

/// Maps to queries, keys and values.
#[derive(Clone, Debug)]
pub enum LayerQkv {
    /// One each.
    Separate([LayerMap; 3]),
    /// One for all, with as many heads of keys as of queries.
    Fused(LayerMap, Fusion),
}

/// Into the feed-forward block.
#[derive(Clone, Debug)]
pub enum LayerUp {
    /// What is passed through the gate's activation, and what that multiplies.
    Gated([LayerMap; 2], Gate),
    /// What is passed through the activation.
    Plain(LayerMap, Gelu),
}

/// The activation of a feed-forward block that has a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// SwiGLU ([`silu_mul`]).
    Silu,
    /// GeGLU ([`gelu_mul`]).
    Gelu(Gelu),
}

impl Gate {
    /// The activation of `gate` times `up`, into `y`.
    pub(super) fn apply(self, gate: &[f32], up: &[f32], y: &mut [f32]) {
        match self {
            Self::Silu => silu_mul(gate, up, y),
            Self::Gelu(form) => gelu_mul(gate, up, form, y),
        }
    }

    /// [`Gate::apply`] in the place of `gate`, on the calling thread.
    pub(super) fn apply_panel(self, gate: &mut [f32], up: &[f32]) {
        match self {
            Self::Silu => gate_panel(gate, up),
            Self::Gelu(form) => gelu_mul_panel(gate, up, form),
        }
    }
}

/// How attention and the feed-forward block are added to the residual stream.
#[derive(Clone, Debug)]
pub enum Residual {
    /// The feed-forward block gets what attention made of the stream.
    InTurn,
    /// Both get the stream as it was (GPT-NeoX, arXiv 2204.06745, section 2.1).
    Parallel,
    /// As in turn; norms of what attention and the feed-forward block give are added (Gemma 2, arXiv 2408.00118, section 2).
    Normed([RowNorm; 2]),
}

/// The weights of a layer.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Norm before attention.
    pub attention_norm: RowNorm,
    /// Norm before the feed-forward block.
    pub feedforward_norm: RowNorm,
    /// Norms of every head of queries and of keys before they are rotated, where the layer has them.
    pub head_norms: Option<[RowNorm; 2]>,
    /// How scores become weights.
    pub rule: AttentionRule,
    /// Queries, keys and values.
    pub qkv: LayerQkv,
    /// From heads to the residual stream.
    pub o: LayerMap,
    /// Into the feed-forward block.
    pub up: LayerUp,
    /// Back to the residual stream.
    pub down: LayerMap,
    /// How both blocks are added.
    pub residual: Residual,
}

/// The tokens of a pass.
#[derive(Clone, Debug)]
pub struct PassTokens {
    /// The position of each.
    pub positions: Vec<u32>,
    /// Where the keys and values of each go, `page · 16 + offset`.
    pub slots: Vec<u32>,
    /// Page tables of all sequences, one after the other.
    pub pages: Vec<u32>,
    /// Per token, where its sequence's table starts.
    pub starts: Vec<u32>,
    /// Per token, the number of keys it attends to.
    pub lengths: Vec<u32>,
    /// Pages that are copied first, and where to.
    pub copies: (Vec<u32>, Vec<u32>),
    /// The tokens of each of the layers' users.
    pub users: Vec<Range<usize>>,
    /// Cosines and sines; of no dimensions where heads are not rotated.
    pub table: Arc<RopeTable>,
}
