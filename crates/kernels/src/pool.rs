//! The paged key-value pool as burn tensors.

use burn::tensor::{Device, Tensor};

use crate::cpu::{PAGE, PageTables};
#[cfg(feature = "flex")]
use crate::flex::Fused;
use crate::naive;
#[cfg(feature = "flex")]
use crate::ops::is_fused;
#[cfg(feature = "flex")]
use burn::backend::Dispatch;

/// Keys and values of many sequences in pages of [`PAGE`] positions.
///
/// It holds no gradients: under autodiff, what is written is detached, and what is read is a constant.
#[derive(Clone, Debug)]
pub struct PagedPool {
    /// Keys `[pages, kv_heads, head_dim, 16]`, transposed within the page so that sixteen scores are one vector.
    pub k: Tensor<4>,
    /// Values `[pages, kv_heads, 16, head_dim]`.
    pub v: Tensor<4>,
}

impl PagedPool {
    /// A pool of zeros on the device (without autodiff), in its default float type.
    pub fn new(pages: usize, kv_heads: usize, head_dim: usize, device: &Device) -> Self {
        let device = if device.is_autodiff() { device.clone().inner() } else { device.clone() };
        Self {
            k: Tensor::zeros([pages, kv_heads, head_dim, PAGE], &device),
            v: Tensor::zeros([pages, kv_heads, PAGE, head_dim], &device),
        }
    }

    /// Makes room for `pages` pages, zeros behind those that are there. Fewer than there are change nothing.
    pub fn grow(&mut self, pages: usize) {
        let [held, kv_heads, head_dim, _] = self.k.dims();
        if pages <= held {
            return;
        }
        let more = Self::new(pages - held, kv_heads, head_dim, &self.k.device());
        self.k = Tensor::cat(vec![self.k.clone(), more.k], 0);
        self.v = Tensor::cat(vec![self.v.clone(), more.v], 0);
    }

    /// The tensors, moved out so that the pool's memory has one owner while it is written; they are to be put back.
    pub(crate) fn take(&mut self) -> (Tensor<4>, Tensor<4>) {
        let nothing = Tensor::zeros([1, 1, 1, 1], &self.k.device());
        (std::mem::replace(&mut self.k, nothing.clone()), std::mem::replace(&mut self.v, nothing))
    }

    /// Copies whole pages, page `from[i]` to page `to[i]`; on flex in place, as [`PagedPool::write`].
    ///
    /// # Panics
    /// When the lists differ in length or name a page beyond the pool.
    pub fn copy(&mut self, from: &[u32], to: &[u32]) {
        let [pages, ..] = self.k.dims();
        assert!(from.len() == to.len(), "PagedPool::copy: {} pages to {}", from.len(), to.len());
        for &page in from.iter().chain(to) {
            assert!((page as usize) < pages, "PagedPool::copy: page {page} in a pool of {pages}");
        }
        if from.is_empty() {
            return;
        }
        let (k, v) = self.take();
        let pool = Self { k, v };
        #[cfg(feature = "flex")]
        if is_fused(&pool.k.device(), &[pool.k.dtype(), pool.v.dtype()]) {
            let copy = |tensor: Tensor<4>| {
                let (from, to) = (from.to_vec(), to.to_vec());
                Tensor::from_dispatch(<Dispatch as Fused>::kernels_copy_pages(
                    tensor.into_dispatch(),
                    from,
                    to,
                ))
            };
            *self = Self { k: copy(pool.k), v: copy(pool.v) };
            return;
        }
        *self = naive::copy(pool, from, to);
    }

    /// Writes the tokens' keys and values to their slots (`page · 16 + offset`); slots must differ.
    ///
    /// On flex in place, as long as nobody else holds the pool's tensors; otherwise they are copied first.
    ///
    /// # Shapes
    /// - `k`, `v`: `[n, kv_heads, head_dim]`; `slots`: `[n]`
    ///
    /// # Panics
    /// When shapes disagree or a slot is beyond the pool.
    pub fn write(&mut self, k: Tensor<3>, v: Tensor<3>, slots: &[u32]) {
        let [pages, kv_heads, head_dim, _] = self.k.dims();
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
        let (own_k, own_v) = self.take();
        let pool = Self { k: own_k, v: own_v };
        #[cfg(feature = "flex")]
        if is_fused(&k.device(), &[k.dtype(), v.dtype(), pool.k.dtype(), pool.v.dtype()]) {
            let (pool_k, pool_v, slots) = (pool.k.into_dispatch(), pool.v.into_dispatch(), slots.to_vec());
            let keys = <Dispatch as Fused>::kernels_write_keys(pool_k, k.into_dispatch(), slots.clone());
            let values = <Dispatch as Fused>::kernels_write_values(pool_v, v.into_dispatch(), slots);
            *self = Self { k: Tensor::from_dispatch(keys), v: Tensor::from_dispatch(values) };
            return;
        }
        *self = naive::write(pool, k, v, slots);
    }
}

/// Attention of single tokens over their sequences' keys in the pool, bit for bit what [`crate::attention`] gives at
/// that position on flex. Not differentiable: the result is a constant.
///
/// Token `i` attends to the first `lengths[i]` keys (its own included) of the pages `tables[starts[i]..]`.
///
/// # Shapes
/// - `q`, result: `[n, heads, head_dim]`; `starts`, `lengths`: `[n]`; `tables`: page numbers of all sequences
///
/// # Panics
/// When shapes disagree, a length is zero, or a table names a page that is not there.
pub fn paged_attention(
    q: Tensor<3>,
    pool: &PagedPool,
    tables: &[u32],
    starts: &[u32],
    lengths: &[u32],
    scale: f64,
) -> Tensor<3> {
    let ([n, heads, head_dim], [pages, kv_heads, pool_dim, _]) = (q.dims(), pool.k.dims());
    assert!(
        head_dim == pool_dim && kv_heads > 0 && heads.is_multiple_of(kv_heads),
        "paged_attention: q [n {n}, heads {heads}, head_dim {head_dim}] against pool [kv_heads {kv_heads}, head_dim {pool_dim}]"
    );
    let checked = PageTables { pages: tables, starts, lengths };
    checked.check(n, pages);
    let autodiff = q.device().is_autodiff();
    let q = plain(q);
    let fused = || {
        #[cfg(feature = "flex")]
        if is_fused(&q.device(), &[q.dtype(), pool.k.dtype(), pool.v.dtype()]) {
            return Some(Tensor::from_dispatch(<Dispatch as Fused>::kernels_paged_attention(
                q.clone().into_dispatch(),
                pool.k.clone().into_dispatch(),
                pool.v.clone().into_dispatch(),
                tables.to_vec(),
                starts.to_vec(),
                lengths.to_vec(),
                scale,
            )));
        }
        None
    };
    let o =
        fused().unwrap_or_else(|| naive::paged_attention(q.clone(), pool, tables, starts, lengths, scale));
    if autodiff { Tensor::from_inner(o) } else { o }
}

/// Without autodiff.
fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if x.device().is_autodiff() { x.inner() } else { x }
}
