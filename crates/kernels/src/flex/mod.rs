//! The fused operations on burn's flex backend.

mod backward;
mod forward;

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::backend_extension;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Tensor;

use crate::cpu::{AdamStep, Packed, RopeTable};

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
    fn kernels_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self>;
    fn kernels_silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;
    fn kernels_rope(x: FloatTensor<Self>, positions: Arc<[u32]>, table: Arc<RopeTable>) -> FloatTensor<Self>;
    fn kernels_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;
    fn kernels_gather_log_prob(logits: FloatTensor<Self>, targets: Arc<[u32]>) -> FloatTensor<Self>;
    fn kernels_write_keys(
        pool: FloatTensor<Self>,
        k: FloatTensor<Self>,
        slots: Vec<u32>,
    ) -> FloatTensor<Self>;
    fn kernels_write_values(
        pool: FloatTensor<Self>,
        v: FloatTensor<Self>,
        slots: Vec<u32>,
    ) -> FloatTensor<Self>;
    fn kernels_copy_pages(pool: FloatTensor<Self>, from: Vec<u32>, to: Vec<u32>) -> FloatTensor<Self>;
    fn kernels_paged_attention(
        q: FloatTensor<Self>,
        k_pool: FloatTensor<Self>,
        v_pool: FloatTensor<Self>,
        pages: Vec<u32>,
        starts: Vec<u32>,
        lengths: Vec<u32>,
        scale: f64,
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

/// The table of cosines and sines for these positions, kept between calls: a model asks for the same one in every layer.
pub(crate) fn rope_table(inv_freq: &[f32], attention_factor: f32, positions: &[u32]) -> Arc<RopeTable> {
    /// Different rotations in use at once: one per model, rarely more than a policy's and a reward model's.
    const KEPT: usize = 4;
    type Kept = (Vec<u32>, Arc<RopeTable>);
    static TABLES: Mutex<Vec<Kept>> = Mutex::new(Vec::new());

    let key: Vec<u32> = inv_freq.iter().chain([&attention_factor]).map(|f| f.to_bits()).collect();
    let needed = positions.iter().map(|&p| p as usize + 1).max().unwrap_or(0);
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    let found = tables.iter().position(|(k, _)| *k == key);
    if let Some(index) = found
        && tables[index].1.positions() >= needed
    {
        return Arc::clone(&tables[index].1);
    }
    if let Some(index) = found {
        tables.remove(index);
    } else if tables.len() == KEPT {
        tables.remove(0);
    }
    let table = Arc::new(RopeTable::new(inv_freq, attention_factor, needed.next_power_of_two().max(256)));
    tables.push((key, Arc::clone(&table)));
    table
}
