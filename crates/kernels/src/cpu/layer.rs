//! A decoder layer in one call, for models that are only run: what a pass over few tokens does thirty times.
//!
//! The arithmetic is that of the kernels one by one, bit for bit. What is saved are a dozen hand-overs to the other threads and
//! as many allocations, which take as long as the work where there are few tokens.

mod pass;
#[cfg(test)]
mod tests;
mod weights;

use super::kv_pool::KvPool;
use super::paged::paged_attention;
use super::rope::{Rotation, rope};
use super::tables::PageTables;
use pass::Pass;
pub use weights::{Gate, LayerMap, LayerQkv, LayerUp, LayerWeights, PassTokens, Residual, RowNorm};

/// Runs a layer on tokens: `x` becomes what the next layer gets, and the tokens' keys and values join the pool.
///
/// # Shapes
/// - `x`: `[tokens, hidden]`
///
/// # Panics
/// When a slice does not have the length its shape says, or a slot or table names a page that is not there.
pub fn decoder_layer(x: &mut [f32], pool: &mut KvPool, weights: &LayerWeights, tokens: &PassTokens) {
    let count = tokens.positions.len();
    if count == 0 {
        return;
    }
    let pass = Pass { count, users: &tokens.users };
    let mut h = vec![0.0; x.len()];
    weights.attention_norm.apply(x, &mut h);
    let o = attended(&pass, &h, pool, weights, tokens);
    let mut activated = |x: &[f32]| {
        weights.feedforward_norm.apply(x, &mut h);
        pass.activated(&h, &weights.up)
    };
    match &weights.residual {
        Residual::InTurn => {
            pass.add_product(&o, &weights.o, x);
            let inner = activated(x);
            pass.add_product(&inner, &weights.down, x);
        }
        Residual::Parallel => {
            let inner = activated(x);
            pass.add_product(&o, &weights.o, x);
            pass.add_product(&inner, &weights.down, x);
        }
        Residual::Normed([of_attention, of_feedforward]) => {
            pass.add_normed(&o, &weights.o, of_attention, x);
            let inner = activated(x);
            pass.add_normed(&inner, &weights.down, of_feedforward, x);
        }
    }
}

/// What attention gives for normed rows, before it is mapped back to the residual stream: `[tokens, heads, head_dim]`.
fn attended(
    pass: &Pass<'_>,
    h: &[f32],
    pool: &mut KvPool,
    weights: &LayerWeights,
    tokens: &PassTokens,
) -> Vec<f32> {
    let head_dim = pool.head_dim();
    let [mut q, mut k, v] = pass.queries_keys_values(h, &weights.qkv, head_dim);
    if let Some(norms) = &weights.head_norms {
        for (x, norm) in [&mut q, &mut k].into_iter().zip(norms) {
            let mut normed = vec![0.0; x.len()];
            norm.apply(x, &mut normed);
            *x = normed;
        }
    }
    for x in [&mut q, &mut k] {
        let heads = x.len() / (pass.count * head_dim).max(1);
        rope(x, heads, &tokens.positions, &tokens.table, Rotation::Forward);
    }
    pool.copy(&tokens.copies.0, &tokens.copies.1);
    pool.write(&k, &v, &tokens.slots);
    let tables = PageTables { pages: &tokens.pages, starts: &tokens.starts, lengths: &tokens.lengths };
    let mut o = vec![0.0; q.len()];
    paged_attention(&q, pool, tables, weights.rule, &mut o);
    o
}
