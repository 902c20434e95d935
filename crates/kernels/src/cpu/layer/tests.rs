//! A layer of each family against its kernels one by one.

use std::sync::Arc;

use super::*;
use crate::cpu::isa::forced;
use crate::cpu::kv_pool::PAGE;
use crate::cpu::math::{assert_bits, noise};
use crate::cpu::{
    AttentionRule, Fusion, Gelu, LowRank, Packed, Precision, RopeTable, add_low_rank, gelu, gelu_mul, gemm,
    layer_norm, rms_norm, silu_mul,
};

const HEADS: usize = 4;
const HEAD_DIM: usize = 6;

/// What families differ in.
#[derive(Clone, Copy, Debug)]
struct Family {
    kv_heads: usize,
    fusion: Option<Fusion>,
    head_norms: bool,
    centred: bool,
    up: Up,
    residual: Kind,
    /// Inverse frequencies of the rotation.
    frequencies: &'static [f32],
    rule: AttentionRule,
}

#[derive(Clone, Copy, Debug)]
enum Up {
    Gated(Gate),
    Plain(Gelu),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    InTurn,
    Parallel,
    Normed,
}

const LLAMA: Family = Family {
    kv_heads: 2,
    fusion: None,
    head_norms: false,
    centred: false,
    up: Up::Gated(Gate::Silu),
    residual: Kind::InTurn,
    frequencies: &[1.0, 0.3, 0.1],
    rule: AttentionRule { scale: 0.4, window: Some(25), soft_cap: None },
};

const NEOX: Family = Family {
    kv_heads: HEADS,
    fusion: Some(Fusion::ByHead),
    centred: true,
    up: Up::Plain(Gelu::Exact),
    residual: Kind::Parallel,
    frequencies: &[1.0, 0.2],
    rule: AttentionRule { scale: 0.4, window: None, soft_cap: None },
    ..LLAMA
};

/// A llama; a Qwen 3; GPT-NeoX of both kinds; a GPT-2; a Gemma 2.
const FAMILIES: [Family; 6] = [
    LLAMA,
    Family { head_norms: true, ..LLAMA },
    NEOX,
    Family { residual: Kind::InTurn, ..NEOX },
    Family {
        fusion: Some(Fusion::ByPart),
        up: Up::Plain(Gelu::Tanh),
        residual: Kind::InTurn,
        frequencies: &[],
        ..NEOX
    },
    Family {
        up: Up::Gated(Gate::Gelu(Gelu::Tanh)),
        residual: Kind::Normed,
        rule: AttentionRule { scale: 0.4, window: Some(9), soft_cap: Some(1.5) },
        ..LLAMA
    },
];

/// A layer of odd sizes, some of whose maps have biases and adapters of the second of two users.
fn layer(family: Family, hidden: usize, inner: usize, adapted: bool) -> LayerWeights {
    let mut seed = hidden as u64;
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
    let (q, kv) = (HEADS * HEAD_DIM, family.kv_heads * HEAD_DIM);
    let qkv = match family.fusion {
        None => LayerQkv::Separate([
            map(q, hidden, true, adapted),
            map(kv, hidden, false, false),
            map(kv, hidden, true, adapted),
        ]),
        Some(fusion) => LayerQkv::Fused(map(3 * q, hidden, true, adapted), fusion),
    };
    let o = map(hidden, q, false, adapted);
    let up = match family.up {
        Up::Gated(gate) => {
            LayerUp::Gated([map(inner, hidden, false, false), map(inner, hidden, true, adapted)], gate)
        }
        Up::Plain(form) => LayerUp::Plain(map(inner, hidden, true, adapted), form),
    };
    let down = map(hidden, inner, true, false);
    let mut norm = |width| {
        let (weight, eps) = (draw(width), 1e-5);
        if family.centred {
            RowNorm::Centred { weight, bias: draw(width), eps }
        } else {
            RowNorm::RootMeanSquare { weight, eps }
        }
    };
    LayerWeights {
        qkv,
        o,
        up,
        down,
        attention_norm: norm(hidden),
        feedforward_norm: norm(hidden),
        head_norms: family.head_norms.then(|| [norm(HEAD_DIM), norm(HEAD_DIM)]),
        residual: match family.residual {
            Kind::InTurn => Residual::InTurn,
            Kind::Parallel => Residual::Parallel,
            Kind::Normed => Residual::Normed([norm(hidden), norm(hidden)]),
        },
        rule: family.rule,
    }
}

/// Two sequences: the first `first` tokens of both, then one more token of each after a page of the second was copied.
fn passes(frequencies: &[f32], first: usize) -> [PassTokens; 2] {
    let table = RopeTable::kept(frequencies, 1.0, &[first as u32]);
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
    let norm = |norm: &RowNorm, x: &[f32]| {
        let mut h = vec![0.0; x.len()];
        match norm {
            RowNorm::RootMeanSquare { weight, eps } => rms_norm(x, weight, *eps, &mut h),
            RowNorm::Centred { weight, bias, eps } => layer_norm(x, weight, bias, *eps, &mut h),
        }
        h
    };
    let add = |x: &[f32], y: &[f32]| -> Vec<f32> { x.iter().zip(y).map(|(x, y)| x + y).collect() };

    let h = norm(&layer.attention_norm, x);
    let [mut q, mut k, v] = match &layer.qkv {
        LayerQkv::Separate(maps) => maps.each_ref().map(|map| apply(map, &h)),
        LayerQkv::Fused(map, fusion) => {
            let all = apply(map, &h);
            [0, 1, 2].map(|part| {
                let heads = all.chunks(HEAD_DIM).enumerate().filter(|(at, _)| match fusion {
                    Fusion::ByPart => at % (3 * HEADS) / HEADS == part,
                    Fusion::ByHead => at % 3 == part,
                });
                heads.flat_map(|(_, head)| head).copied().collect()
            })
        }
    };
    if let Some([of_q, of_k]) = &layer.head_norms {
        (q, k) = (norm(of_q, &q), norm(of_k, &k));
    }
    for x in [&mut q, &mut k] {
        let heads = x.len() / (n * HEAD_DIM);
        rope(x, heads, &tokens.positions, &tokens.table, Rotation::Forward);
    }
    pool.copy(&tokens.copies.0, &tokens.copies.1);
    pool.write(&k, &v, &tokens.slots);
    let tables = PageTables { pages: &tokens.pages, starts: &tokens.starts, lengths: &tokens.lengths };
    let mut o = vec![0.0; q.len()];
    paged_attention(&q, pool, tables, layer.rule, &mut o);
    let o = apply(&layer.o, &o);

    let feedforward = |x: &[f32]| {
        let h = norm(&layer.feedforward_norm, x);
        let inner = match &layer.up {
            LayerUp::Gated(maps, gate) => {
                let [gates, ups] = maps.each_ref().map(|map| apply(map, &h));
                let mut y = vec![0.0; gates.len()];
                match gate {
                    Gate::Silu => silu_mul(&gates, &ups, &mut y),
                    Gate::Gelu(form) => gelu_mul(&gates, &ups, *form, &mut y),
                }
                y
            }
            LayerUp::Plain(map, form) => {
                let h = apply(map, &h);
                let mut y = vec![0.0; h.len()];
                gelu(&h, *form, &mut y);
                y
            }
        };
        apply(&layer.down, &inner)
    };
    let result = match &layer.residual {
        Residual::InTurn => {
            let x = add(x, &o);
            add(&x, &feedforward(&x))
        }
        Residual::Parallel => add(&add(x, &o), &feedforward(x)),
        Residual::Normed([of_attention, of_feedforward]) => {
            let x = add(x, &norm(of_attention, &o));
            add(&x, &norm(of_feedforward, &feedforward(&x)))
        }
    };
    x.copy_from_slice(&result);
}

#[test]
fn equals_its_kernels_one_by_one_bit_for_bit() {
    let shapes = [(10, 7, 1, false), (33, 70, 20, true), (600, 300, 40, false), (600, 200, 30, true)];
    for (family, (hidden, inner, first, adapted)) in
        FAMILIES.into_iter().flat_map(|family| shapes.map(|shape| (family, shape)))
    {
        let layer = layer(family, hidden, inner, adapted);
        let passes = passes(family.frequencies, first);
        let run = |by: &Run| {
            let mut pool = KvPool::new(family.kv_heads, HEAD_DIM, Precision::F32);
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
        for got in [forced::same_bits(|| run(&decoder_layer)), crate::cpu::on_pool(|| run(&decoder_layer))] {
            assert_bits(&format!("{family:?}: {hidden} × {inner}, {first} tokens"), &got, &expected);
        }
    }
}
