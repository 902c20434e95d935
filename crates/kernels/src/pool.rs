//! The paged key-value pool of a layer for burn tensors: the kernels' own memory on flex, tensors elsewhere.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::cpu::{self, AttentionRule, KvPool, LayerWeights, PAGE, PageTables, PassTokens, Precision};
use crate::naive;

/// Keys and values of many sequences in pages of [`PAGE`] positions.
///
/// It holds no gradients: under autodiff, what is written is detached, and what is read is a constant.
#[derive(Clone, Debug)]
pub struct PagedPool(Held);

#[derive(Clone, Debug)]
enum Held {
    Host(KvPool),
    Tensors(Box<PoolTensors>),
}

/// A pool as tensors, for devices without kernels of their own.
#[derive(Clone, Debug)]
pub struct PoolTensors {
    /// Keys `[pages, kv_heads, head_dim, 16]`.
    pub k: Tensor<4>,
    /// Values `[pages, kv_heads, 16, head_dim]`.
    pub v: Tensor<4>,
}

impl PoolTensors {
    /// A pool of zeros on the device (without autodiff), in its default float type.
    pub fn new(pages: usize, kv_heads: usize, head_dim: usize, device: &Device) -> Self {
        let device = if device.is_autodiff() { device.clone().inner() } else { device.clone() };
        Self {
            k: Tensor::zeros([pages, kv_heads, head_dim, PAGE], &device),
            v: Tensor::zeros([pages, kv_heads, PAGE, head_dim], &device),
        }
    }

    /// The tensors, moved out so that they have one owner while they are written.
    fn take(&mut self) -> Self {
        let nothing = Tensor::zeros([1, 1, 1, 1], &self.k.device());
        std::mem::replace(self, Self { k: nothing.clone(), v: nothing })
    }

    fn grow(&mut self, pages: usize) {
        let [held, kv_heads, head_dim, _] = self.k.dims();
        if pages > held {
            let more = Self::new(grown(held, pages) - held, kv_heads, head_dim, &self.k.device());
            self.k = Tensor::cat(vec![self.k.clone(), more.k], 0);
            self.v = Tensor::cat(vec![self.v.clone(), more.v], 0);
        }
    }
}

/// Pages to make room for when `held` are too few for `pages`: twice as many at first, an eighth more of many. What is made is
/// written, so that rows that grow in step would hold twice the memory that they need.
fn grown(held: usize, pages: usize) -> usize {
    const FEW: usize = 512;
    pages.max(if held < FEW { 2 * held } else { held + held / 8 }).max(64)
}

impl PagedPool {
    /// A pool that has to grow before it is written to. On flex keys and values are held in 32 bits for [`Precision::F32`] and in bf16 for fewer bits; elsewhere
    /// in the device's default float type.
    pub fn new(kv_heads: usize, head_dim: usize, precision: Precision, device: &Device) -> Self {
        Self(if crate::packs(device) {
            Held::Host(KvPool::new(kv_heads, head_dim, precision))
        } else {
            // Not every device has tensors of nothing.
            Held::Tensors(Box::new(PoolTensors::new(1, kv_heads, head_dim, device)))
        })
    }

    /// Pages that there are.
    pub fn pages(&self) -> usize {
        match &self.0 {
            Held::Host(pool) => pool.pages(),
            Held::Tensors(pool) => pool.k.dims()[0],
        }
    }

    /// Makes room for at least `pages` pages behind those that are there.
    pub fn grow(&mut self, pages: usize) {
        match &mut self.0 {
            Held::Host(pool) => pool.grow(pages),
            Held::Tensors(pool) => pool.grow(pages),
        }
    }

    /// Copies whole pages, page `from[i]` to page `to[i]`.
    ///
    /// # Panics
    /// When the lists differ in length or name a page beyond the pool.
    pub fn copy(&mut self, from: &[u32], to: &[u32]) {
        let pages = self.pages();
        assert!(from.len() == to.len(), "PagedPool::copy: {} pages to {}", from.len(), to.len());
        for &page in from.iter().chain(to) {
            assert!((page as usize) < pages, "PagedPool::copy: page {page} in a pool of {pages}");
        }
        match &mut self.0 {
            Held::Host(pool) => pool.copy(from, to),
            Held::Tensors(_) if from.is_empty() => {}
            Held::Tensors(pool) => **pool = naive::copy(pool.take(), from, to),
        }
    }

    /// Writes the tokens' keys and values to their slots (`page · 16 + offset`); slots must differ.
    ///
    /// # Shapes
    /// - `k`, `v`: `[n, kv_heads, head_dim]`; `slots`: `[n]`
    ///
    /// # Panics
    /// When shapes disagree or a slot is beyond the pool.
    pub fn write(&mut self, k: Tensor<3>, v: Tensor<3>, slots: &[u32]) {
        let (pages, [kv_heads, head_dim]) = (self.pages(), self.head());
        let expected = [slots.len(), kv_heads, head_dim];
        assert!(
            k.dims() == expected && v.dims() == expected,
            "PagedPool::write: k {:?} and v {:?}, expected [n, kv_heads, head_dim] = {expected:?}",
            k.dims(),
            v.dims()
        );
        for &slot in slots {
            assert!(
                (slot as usize) < pages * PAGE,
                "PagedPool::write: slot {slot} in a pool of {pages} pages of {PAGE}"
            );
        }
        let (k, v) = (plain(k), plain(v));
        match &mut self.0 {
            Held::Host(pool) => pool.write(&floats(k), &floats(v), slots),
            Held::Tensors(pool) => **pool = naive::write(pool.take(), k, v, slots),
        }
    }

    /// Key and value heads, and the elements of one.
    fn head(&self) -> [usize; 2] {
        match &self.0 {
            Held::Host(pool) => [pool.kv_heads(), pool.head_dim()],
            Held::Tensors(pool) => {
                let [_, kv_heads, head_dim, _] = pool.k.dims();
                [kv_heads, head_dim]
            }
        }
    }

    /// The kernels' memory, on flex.
    #[cfg(test)]
    pub(crate) fn host(&self) -> &KvPool {
        match &self.0 {
            Held::Host(pool) => pool,
            Held::Tensors(_) => panic!("a pool of tensors"),
        }
    }
}

/// Attention of single tokens over their sequences' keys in the pool, bit for bit what [`crate::attention`] gives at
/// that position on flex, of keys and values as the pool holds them. Not differentiable: the result is a constant.
///
/// Token `i` attends to the first `lengths[i]` keys (its own included) of the pages `pages[starts[i]..]`.
///
/// # Shapes
/// - `q`, result: `[n, heads, head_dim]`
///
/// # Panics
/// When shapes disagree, a length is zero, or a table names a page that is not there.
pub fn paged_attention(
    q: Tensor<3>,
    pool: &PagedPool,
    tables: PageTables<'_>,
    rule: AttentionRule,
) -> Tensor<3> {
    let ([n, heads, head_dim], [kv_heads, pool_dim]) = (q.dims(), pool.head());
    assert!(
        head_dim == pool_dim && kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "paged_attention: q [n {n}, heads {heads}, head_dim {head_dim}] against pool [kv_heads {kv_heads}, head_dim {pool_dim}]"
    );
    tables.check(n, pool.pages());
    let (autodiff, device) = (q.device().is_autodiff(), q.device());
    let q = plain(q);
    let o = match &pool.0 {
        Held::Host(pool) => {
            let q = floats(q);
            let mut o = vec![0.0; q.len()];
            cpu::paged_attention(&q, pool, tables, rule, &mut o);
            let device = if autodiff { device.inner() } else { device };
            Tensor::from_data(TensorData::new(o, [n, heads, head_dim]), &device)
        }
        Held::Tensors(pool) => naive::paged_attention(q, pool, tables, rule),
    };
    if autodiff { Tensor::from_inner(o) } else { o }
}

/// Runs decoder layers of packed weights, one after the other, on tokens whose keys and values join the layers' pools
/// ([`decoder_layer`](crate::cpu::decoder_layer)); bit for bit what their operations give one by one. Not differentiable: the result
/// is a constant.
///
/// # Shapes
/// - `x`, result: `[tokens, hidden]`
///
/// # Panics
/// When shapes disagree, or on a device without packed weights ([`crate::packs`]).
pub fn decoder_layers(
    x: Tensor<2>,
    pools: &mut [PagedPool],
    layers: &[Arc<LayerWeights>],
    tokens: &PassTokens,
) -> Tensor<2> {
    let (shape, device) = (x.dims(), x.device());
    assert_eq!(pools.len(), layers.len(), "decoder_layers: pools and layers");
    let mut values = floats(plain(x));
    for (layer, pool) in layers.iter().zip(pools) {
        let Held::Host(pool) = &mut pool.0 else {
            panic!("decoder_layers: {device:?} has no packed weights")
        };
        cpu::decoder_layer(&mut values, pool, layer, tokens);
    }
    Tensor::from_data(TensorData::new(values, shape), &device)
}

/// The elements of a tensor in the host's memory.
fn floats<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    let data = x.into_data();
    if data.dtype() == DType::F32 {
        return data.try_into_vec().expect("the type was looked at");
    }
    data.iter::<f32>().collect()
}

/// Without autodiff.
fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.device().is_autodiff() { x.inner() } else { x }
}

#[cfg(test)]
mod tests {
    use super::grown;

    #[test]
    fn a_pool_of_many_pages_has_little_more_room_than_it_needs() {
        let (mut held, mut copied) = (0, 0);
        for pages in 1..20_000 {
            if pages > held {
                copied += held;
                held = grown(held, pages);
            }
            assert!(held >= pages && held <= (2 * pages).max(64));
            assert!(pages < 1024 || held <= pages + pages / 8, "{held} for {pages}");
        }
        assert!(copied < 10 * held, "{copied} copied for {held}");
        assert_eq!(grown(64, 5000), 5000);
    }
}
