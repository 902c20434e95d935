//! The products of a layer on the rows of a pass.
#![allow(unsafe_code, reason = "threads write disjoint panels of one output")]

use std::ops::Range;

use super::weights::{Gate, LayerMap, LayerQkv, LayerUp, RowNorm};
use crate::cpu::gelu::{Gelu, gelu, gelu_panel};
use crate::cpu::gemm::Area;
use crate::cpu::low_rank::add_low_rank;
use crate::cpu::pack::PANEL;
use crate::cpu::parallel::{Output, Shared};
use crate::cpu::rows::{Left, Rows};
use crate::cpu::split::Split;

/// The rows of a pass.
pub(super) struct Pass<'p> {
    pub(super) count: usize,
    pub(super) users: &'p [Range<usize>],
}

impl Pass<'_> {
    /// The rows of `x`, as the maps want them.
    fn left<'x>(&self, x: &'x [f32], maps: &[&LayerMap]) -> Left<'x> {
        let inner = maps[0].weight.inner();
        for map in maps {
            assert_eq!(map.weight.inner(), inner, "decoder_layer: maps of one input");
        }
        Left::new(Rows::new(x, (inner, 1), self.count), inner, maps.iter().map(|map| &*map.weight))
    }

    /// Whether an adapter changes what the map gives to some row.
    fn changes(&self, map: &LayerMap) -> bool {
        !map.changes(self.users).is_empty()
    }

    /// Queries, keys and values of rows, of heads of `head_dim` elements.
    pub(super) fn queries_keys_values(&self, x: &[f32], maps: &LayerQkv, head_dim: usize) -> [Vec<f32>; 3] {
        match maps {
            LayerQkv::Separate(maps) => self.products(x, maps.each_ref()),
            LayerQkv::Fused(map, fusion) => {
                let [fused] = self.products(x, [map]);
                fusion.split(&fused, self.count, head_dim)
            }
        }
    }

    /// What the feed-forward block's last map gets.
    pub(super) fn activated(&self, x: &[f32], maps: &LayerUp) -> Vec<f32> {
        match maps {
            LayerUp::Gated(maps, gate) => self.gated(x, maps, *gate),
            LayerUp::Plain(map, form) => self.plain(x, map, *form),
        }
    }

    /// Several maps of the same rows, as one set of tasks.
    fn products<const N: usize>(&self, x: &[f32], maps: [&LayerMap; N]) -> [Vec<f32>; N] {
        let mut outputs: [Output; N] =
            std::array::from_fn(|map| Output::new(self.count * maps[map].weight.columns()));
        let left = self.left(x, &maps);
        let (inner, rows) = (maps[0].weight.inner(), left.rows());
        let areas: Vec<Area<'_>> = maps
            .iter()
            .zip(&mut outputs)
            .map(|(map, y)| Area::new(&map.weight, map.bias.as_deref(), self.count, y.shared()))
            .collect();
        let panels = maps.iter().map(|map| map.weight.panels()).sum();
        Split::new(self.count, inner, panels).run(|panel, part| {
            let mut panel = panel;
            for (area, map) in areas.iter().zip(maps) {
                if panel < map.weight.panels() {
                    // SAFETY: each task has its own panel of its own map, and its own rows; the lengths were checked.
                    unsafe { area.panel(rows, part, panel) };
                    return;
                }
                panel -= map.weight.panels();
            }
        });
        drop(areas);
        // SAFETY: the tasks have written all panels of all rows.
        let mut outputs = outputs.map(|y| unsafe { y.written() });
        for (map, y) in maps.iter().zip(&mut outputs) {
            add_low_rank(x, self.count, &map.changes(self.users), y);
        }
        outputs
    }

    /// The activation of `maps[0]` times `maps[1]`, panel by panel where no adapter comes between.
    fn gated(&self, x: &[f32], maps: &[LayerMap; 2], activation: Gate) -> Vec<f32> {
        let [gate, up] = maps;
        let adapted = maps.iter().any(|map| self.changes(map));
        if adapted || gate.weight.columns() != up.weight.columns() {
            let [gate, up] = self.products(x, maps.each_ref());
            let mut y = vec![0.0; gate.len()];
            activation.apply(&gate, &up, &mut y);
            return y;
        }
        let len = self.count * gate.weight.columns();
        let [mut gates, mut ups] = [Output::new(len), Output::new(len)];
        let left = self.left(x, &[gate, up]);
        let (inner, rows) = (gate.weight.inner(), left.rows());
        let gate_area = Area::new(&gate.weight, gate.bias.as_deref(), self.count, gates.shared());
        let up_area = Area::new(&up.weight, up.bias.as_deref(), self.count, ups.shared());
        Split::new(self.count, inner, gate.weight.panels()).run(|panel, part| {
            // SAFETY: each task has its own panel and rows of both; the lengths were checked.
            unsafe {
                gate_area.panel(rows, part.clone(), panel);
                up_area.panel(rows, part.clone(), panel);
                for row in part {
                    activation.apply_panel(gate_area.outputs(row, panel), up_area.outputs(row, panel));
                }
            }
        });
        // SAFETY: the tasks have written all panels of all rows.
        unsafe { gates.written() }
    }

    /// The activation of a map, panel by panel where no adapter comes between.
    fn plain(&self, x: &[f32], map: &LayerMap, form: Gelu) -> Vec<f32> {
        if self.changes(map) {
            let [product] = self.products(x, [map]);
            let mut y = vec![0.0; product.len()];
            gelu(&product, form, &mut y);
            return y;
        }
        let mut y = Output::new(self.count * map.weight.columns());
        let left = self.left(x, &[map]);
        let (inner, rows) = (map.weight.inner(), left.rows());
        let area = Area::new(&map.weight, map.bias.as_deref(), self.count, y.shared());
        Split::new(self.count, inner, map.weight.panels()).run(|panel, part| {
            // SAFETY: each task has its own panel and rows; the lengths were checked.
            unsafe {
                area.panel(rows, part.clone(), panel);
                for row in part {
                    gelu_panel(area.outputs(row, panel), form);
                }
            }
        });
        // SAFETY: the tasks have written all panels of all rows.
        unsafe { y.written() }
    }

    /// `y += norm(map(x))`.
    pub(super) fn add_normed(&self, x: &[f32], map: &LayerMap, norm: &RowNorm, y: &mut [f32]) {
        let [product] = self.products(x, [map]);
        let mut normed = vec![0.0; product.len()];
        norm.apply(&product, &mut normed);
        add(y, &normed);
    }

    /// `y += map(x)`.
    pub(super) fn add_product(&self, x: &[f32], map: &LayerMap, y: &mut [f32]) {
        if self.changes(map) {
            let [product] = self.products(x, [map]);
            add(y, &product);
            return;
        }
        let mut product = Output::new(y.len());
        let left = self.left(x, &[map]);
        let (inner, rows) = (map.weight.inner(), left.rows());
        let area = Area::new(&map.weight, map.bias.as_deref(), self.count, product.shared());
        let shared = Shared::new(y);
        Split::new(self.count, inner, map.weight.panels()).run(|panel, part| {
            // SAFETY: each task has its own panel and rows of the product and of `y`; the lengths were checked.
            unsafe {
                area.panel(rows, part.clone(), panel);
                for row in part {
                    let product = area.outputs(row, panel);
                    let start = row * map.weight.columns() + panel * PANEL;
                    add(shared.slice(start, product.len()), product);
                }
            }
        });
    }
}

fn add(y: &mut [f32], x: &[f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}
