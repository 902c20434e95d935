//! A decoder layer in one call, for models that are only run: what a pass over few tokens does thirty times.
//!
//! The arithmetic is that of the kernels one by one, bit for bit. What is saved are a dozen hand-overs to the other threads and
//! as many allocations, which take as long as the work where there are few tokens.
#![allow(unsafe_code, reason = "threads write disjoint panels of one output")]

use std::ops::Range;
use std::sync::Arc;

use super::attention::AttentionRule;
use super::gemm::{Area, Rows, Split};
use super::isa::Isa;
use super::kv_pool::KvPool;
use super::low_rank::{LowRank, add_low_rank};
use super::norm::rms_norm;
use super::pack::Packed;
use super::paged::paged_attention;
use super::rope::{RopeTable, Rotation, rope};
use super::silu::{gate_panel, silu_mul};
use super::tables::PageTables;

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

/// The weights of a layer of the llama family.
#[derive(Clone, Debug)]
pub struct LayerWeights {
    /// Norm before attention.
    pub input_norm: Vec<f32>,
    /// Norm before the feed-forward block.
    pub post_norm: Vec<f32>,
    /// Norms of every head of queries and of keys before they are rotated, where the layer has them.
    pub head_norms: Option<[Vec<f32>; 2]>,
    /// Added to the mean of squares in all of them.
    pub eps: f32,
    /// How scores become weights.
    pub rule: AttentionRule,
    /// Queries, keys and values.
    pub qkv: [LayerMap; 3],
    /// From heads to the residual stream.
    pub o: LayerMap,
    /// What goes through SiLU, and what it multiplies.
    pub gate_up: [LayerMap; 2],
    /// Back to the residual stream.
    pub down: LayerMap,
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
    /// Cosines and sines.
    pub table: Arc<RopeTable>,
}

impl LayerMap {
    /// What adapters add to a pass.
    fn changes(&self, users: &[Range<usize>]) -> Vec<LowRank> {
        let of = |(adapter, rows): (&Option<LowRank>, &Range<usize>)| {
            adapter.as_ref().filter(|_| !rows.is_empty()).map(|a| LowRank { rows: rows.clone(), ..a.clone() })
        };
        self.adapters.iter().zip(users).filter_map(of).collect()
    }
}

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
    rms_norm(x, &weights.input_norm, weights.eps, &mut h);
    let [mut q, mut k, v] = pass.products(&h, &weights.qkv);
    if let Some(norms) = &weights.head_norms {
        for (x, weight) in [&mut q, &mut k].into_iter().zip(norms) {
            let mut normed = vec![0.0; x.len()];
            rms_norm(x, weight, weights.eps, &mut normed);
            *x = normed;
        }
    }
    for x in [&mut q, &mut k] {
        let heads = x.len() / (count * pool.head_dim()).max(1);
        rope(x, heads, &tokens.positions, &tokens.table, Rotation::Forward);
    }
    pool.copy(&tokens.copies.0, &tokens.copies.1);
    pool.write(&k, &v, &tokens.slots);
    let tables = PageTables { pages: &tokens.pages, starts: &tokens.starts, lengths: &tokens.lengths };
    let mut o = vec![0.0; q.len()];
    paged_attention(&q, pool, tables, weights.rule, &mut o);
    pass.add_product(&o, &weights.o, x);

    rms_norm(x, &weights.post_norm, weights.eps, &mut h);
    let gated = pass.gated(&h, &weights.gate_up);
    pass.add_product(&gated, &weights.down, x);
}

/// The rows of a pass.
struct Pass<'p> {
    count: usize,
    users: &'p [Range<usize>],
}

impl Pass<'_> {
    fn rows<'x>(&self, x: &'x [f32], inner: usize) -> Rows<'x> {
        let rows = Rows::new(x, (inner, 1), self.count);
        rows.check(inner);
        rows
    }

    /// Several maps of the same rows, as one set of tasks.
    fn products<const N: usize>(&self, x: &[f32], maps: &[LayerMap; N]) -> [Vec<f32>; N] {
        let mut outputs: [Vec<f32>; N] =
            std::array::from_fn(|map| vec![0.0; self.count * maps[map].weight.columns()]);
        let inner = maps[0].weight.inner();
        let (isa, rows) = (Isa::current(), self.rows(x, inner));
        let areas: Vec<Area<'_>> = maps
            .iter()
            .zip(&mut outputs)
            .map(|(map, y)| {
                assert_eq!(map.weight.inner(), inner, "decoder_layer: maps of one input");
                Area::new(&map.weight, map.bias.as_deref(), self.count, y)
            })
            .collect();
        let panels = maps.iter().map(|map| map.weight.panels()).sum();
        Split::new(self.count, inner, panels).run(|panel, part| {
            let mut panel = panel;
            for (area, map) in areas.iter().zip(maps) {
                if panel < map.weight.panels() {
                    // SAFETY: each task has its own panel of its own map, and its own rows; the lengths were checked.
                    unsafe { area.panel(isa, rows, part, panel) };
                    return;
                }
                panel -= map.weight.panels();
            }
        });
        drop(areas);
        for (map, y) in maps.iter().zip(&mut outputs) {
            add_low_rank(x, self.count, &map.changes(self.users), y);
        }
        outputs
    }

    /// `silu(gate) · up`.
    fn gated(&self, x: &[f32], maps: &[LayerMap; 2]) -> Vec<f32> {
        let [gate, up] = maps;
        let adapted = maps.iter().any(|map| !map.changes(self.users).is_empty());
        if adapted || gate.weight.columns() != up.weight.columns() {
            let [gate, up] = self.products(x, maps);
            let mut y = vec![0.0; gate.len()];
            silu_mul(&gate, &up, &mut y);
            return y;
        }
        let len = self.count * gate.weight.columns();
        let (mut gates, mut ups) = (vec![0.0; len], vec![0.0; len]);
        let inner = gate.weight.inner();
        let (isa, rows) = (Isa::current(), self.rows(x, inner));
        assert_eq!(up.weight.inner(), inner, "decoder_layer: maps of one input");
        let gate_area = Area::new(&gate.weight, gate.bias.as_deref(), self.count, &mut gates);
        let up_area = Area::new(&up.weight, up.bias.as_deref(), self.count, &mut ups);
        Split::new(self.count, inner, gate.weight.panels()).run(|panel, part| {
            // SAFETY: each task has its own panel and rows of both; the lengths were checked.
            unsafe {
                gate_area.panel(isa, rows, part.clone(), panel);
                up_area.panel(isa, rows, part.clone(), panel);
                for row in part {
                    gate_panel(gate_area.outputs(row, panel), up_area.outputs(row, panel));
                }
            }
        });
        gates
    }

    /// `y += map(x)`.
    fn add_product(&self, x: &[f32], map: &LayerMap, y: &mut [f32]) {
        let changes = map.changes(self.users);
        let mut product = vec![0.0; y.len()];
        let inner = map.weight.inner();
        let (isa, rows) = (Isa::current(), self.rows(x, inner));
        let area = Area::new(&map.weight, map.bias.as_deref(), self.count, &mut product);
        let split = Split::new(self.count, inner, map.weight.panels());
        if changes.is_empty() {
            let shared = super::parallel::Shared::new(y);
            split.run(|panel, part| {
                // SAFETY: each task has its own panel and rows of the product and of `y`; the lengths were checked.
                unsafe {
                    area.panel(isa, rows, part.clone(), panel);
                    for row in part {
                        let product = area.outputs(row, panel);
                        let start = row * map.weight.columns() + panel * super::pack::PANEL;
                        add(shared.slice(start, product.len()), product);
                    }
                }
            });
            return;
        }
        split.run(|panel, part| {
            // SAFETY: each task has its own panel and rows; the lengths were checked.
            unsafe { area.panel(isa, rows, part, panel) };
        });
        add_low_rank(x, self.count, &changes, &mut product);
        add(y, &product);
    }
}

fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::isa::forced;
    use crate::cpu::kv_pool::PAGE;
    use crate::cpu::math::{assert_bits, noise};
    use crate::cpu::{Precision, gemm};

    /// A layer of odd sizes, some of whose maps have biases and adapters of the second of two users.
    fn layer(hidden: usize, inner: usize, adapted: bool, head_norms: bool, seed: u64) -> LayerWeights {
        let (kv_heads, head_dim, heads) = (2, 6, 4);
        let mut seed = seed;
        let mut draw = |count: usize| {
            seed += 1;
            noise(count, seed)
        };
        let mut map = |out: usize, inn: usize, biased: bool, adapted: bool| {
            let packed = |values: Vec<f32>, out, inn| Arc::new(Packed::from_out_in(&values, out, inn));
            let adapter = LowRank {
                rows: 0..0,
                a: packed(draw(3 * inn), 3, inn),
                b: packed(draw(out * 3), out, 3),
                scale: 0.5,
            };
            LayerMap {
                weight: packed(draw(out * inn), out, inn),
                bias: biased.then(|| draw(out).into()),
                adapters: vec![None, adapted.then_some(adapter)],
            }
        };
        let (q, kv) = (heads * head_dim, kv_heads * head_dim);
        LayerWeights {
            qkv: [
                map(q, hidden, true, adapted),
                map(kv, hidden, false, false),
                map(kv, hidden, true, adapted),
            ],
            o: map(hidden, q, false, adapted),
            gate_up: [map(inner, hidden, false, false), map(inner, hidden, true, adapted)],
            down: map(hidden, inner, true, false),
            input_norm: draw(hidden),
            post_norm: draw(hidden),
            head_norms: head_norms.then(|| [draw(head_dim), draw(head_dim)]),
            eps: 1e-5,
            rule: AttentionRule { scale: 0.4, window: Some(25), soft_cap: None },
        }
    }

    /// Two sequences: the first `first` tokens of both, then one more token of each after a page of the second was copied.
    fn passes(first: usize) -> [PassTokens; 2] {
        let table = RopeTable::kept(&[1.0, 0.3, 0.1], 1.0, &[first as u32]);
        let pages = vec![3, 1, 0, 4, 2, 5];
        let slot = |table: usize, position: usize| {
            pages[table + position / PAGE] * PAGE as u32 + (position % PAGE) as u32
        };
        let tokens = |positions: Vec<(usize, usize)>, copies| PassTokens {
            positions: positions.iter().map(|(_, position)| *position as u32).collect(),
            slots: positions.iter().map(|(table, position)| slot(*table, *position)).collect(),
            starts: positions.iter().map(|(table, _)| *table as u32).collect(),
            lengths: positions.iter().map(|(_, position)| *position as u32 + 1).collect(),
            users: vec![0..positions.len() / 2, positions.len() / 2..positions.len()],
            pages: pages.clone(),
            copies,
            table: table.clone(),
        };
        let all = (0..first).map(|at| (0, at)).chain((0..first).map(|at| (3, at))).collect();
        [tokens(all, (vec![], vec![])), tokens(vec![(0, first), (3, first)], (vec![4], vec![6]))]
    }

    /// Runs a layer: on `x` and a pool.
    type Run = dyn Fn(&mut [f32], &mut KvPool, &LayerWeights, &PassTokens);

    /// The kernels one by one.
    fn naive(x: &mut [f32], pool: &mut KvPool, layer: &LayerWeights, tokens: &PassTokens) {
        let n = tokens.positions.len();
        let apply = |map: &LayerMap, x: &[f32]| {
            let mut y = vec![0.0; n * map.weight.columns()];
            gemm(x, (map.weight.inner(), 1), n, &map.weight, map.bias.as_deref(), &mut y);
            for (adapter, rows) in map.adapters.iter().zip(&tokens.users) {
                if let Some(adapter) = adapter {
                    add_low_rank(x, n, &[LowRank { rows: rows.clone(), ..adapter.clone() }], &mut y);
                }
            }
            y
        };
        let norm = |x: &[f32], weight: &[f32]| {
            let mut h = vec![0.0; x.len()];
            rms_norm(x, weight, layer.eps, &mut h);
            h
        };
        let h = norm(x, &layer.input_norm);
        let [mut q, mut k, v] = [0, 1, 2].map(|map| apply(&layer.qkv[map], &h));
        if let Some([of_q, of_k]) = &layer.head_norms {
            (q, k) = (norm(&q, of_q), norm(&k, of_k));
        }
        rope(&mut q, 4, &tokens.positions, &tokens.table, Rotation::Forward);
        rope(&mut k, 2, &tokens.positions, &tokens.table, Rotation::Forward);
        pool.copy(&tokens.copies.0, &tokens.copies.1);
        pool.write(&k, &v, &tokens.slots);
        let tables = PageTables { pages: &tokens.pages, starts: &tokens.starts, lengths: &tokens.lengths };
        let mut o = vec![0.0; q.len()];
        paged_attention(&q, pool, tables, layer.rule, &mut o);
        x.iter_mut().zip(apply(&layer.o, &o)).for_each(|(x, y)| *x += y);
        let h = norm(x, &layer.post_norm);
        let [gate, up] = [0, 1].map(|map| apply(&layer.gate_up[map], &h));
        let mut gated = vec![0.0; gate.len()];
        silu_mul(&gate, &up, &mut gated);
        x.iter_mut().zip(apply(&layer.down, &gated)).for_each(|(x, y)| *x += y);
    }

    #[test]
    fn equals_its_kernels_one_by_one_bit_for_bit() {
        let shapes = [(10, 7, 1, false), (33, 70, 20, true), (600, 300, 40, false), (600, 200, 30, true)];
        for ((hidden, inner, first, adapted), head_norms) in
            shapes.into_iter().flat_map(|shape| [(shape, false), (shape, true)])
        {
            let layer = layer(hidden, inner, adapted, head_norms, hidden as u64);
            let passes = passes(first);
            let run = |by: &Run| {
                let mut pool = KvPool::new(2, 6, Precision::F32);
                pool.grow(7);
                let mut given = Vec::new();
                for (seed, tokens) in (0..).zip(&passes) {
                    let mut x = noise(tokens.positions.len() * hidden, seed);
                    by(&mut x, &mut pool, &layer, tokens);
                    given.extend(x);
                }
                given.extend((0..7 * PAGE).flat_map(|slot| pool.read(slot)).flatten());
                given
            };
            let expected = run(&naive);
            assert!(expected.iter().all(|x| x.is_finite()));
            for got in
                [forced::same_bits(|| run(&decoder_layer)), crate::cpu::on_pool(|| run(&decoder_layer))]
            {
                assert_bits(&format!("{hidden} × {inner}, {first} tokens"), &got, &expected);
            }
        }
    }
}
