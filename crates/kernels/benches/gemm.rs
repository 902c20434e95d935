//! Speed of the matrix product and of attention: the items of a run are floating-point operations, so that divan's
//! throughput column reads as FLOP/s.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use kernels::Packed;
use kernels::cpu::{
    AttentionRule, AttentionSaved, AttentionShape, KvPool, PAGE, PageTables, Precision, attention,
    attention_backward, gemm, paged_attention,
};

fn main() {
    divan::main();
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37) % 101) as f32 / 101.0 - 0.5).collect()
}

const ROWS: [usize; 6] = [1, 8, 32, 128, 512, 2048];

fn product(bencher: Bencher<'_, '_>, rows: usize, (inner, columns): (usize, usize), transposed: bool) {
    let (x, weight) = (values(rows * inner), Packed::from_out_in(&values(columns * inner), columns, inner));
    let strides = if transposed { (1, rows) } else { (inner, 1) };
    let mut y = vec![0.0; rows * columns];
    bencher
        .counter(ItemsCount::new(2 * rows * inner * columns))
        .bench_local(|| gemm(black_box(&x), strides, rows, &weight, None, black_box(&mut y)));
}

#[divan::bench(args = ROWS)]
fn gemm_576x1536(bencher: Bencher<'_, '_>, rows: usize) {
    product(bencher, rows, (576, 1536), false);
}

#[divan::bench(args = ROWS)]
fn gemm_1536x576(bencher: Bencher<'_, '_>, rows: usize) {
    product(bencher, rows, (1536, 576), false);
}

#[divan::bench(args = ROWS)]
fn gemm_576x1536_transposed_x(bencher: Bencher<'_, '_>, rows: usize) {
    product(bencher, rows, (576, 1536), true);
}

/// Weights of 216 MiB, each used once per run as a decode step does: rows wait for memory.
#[divan::bench(args = ROWS)]
fn gemm_576x1536_from_memory(bencher: Bencher<'_, '_>, rows: usize) {
    const WEIGHTS: usize = 64;
    let (inner, columns) = (576, 1536);
    let packed = Packed::from_out_in(&values(columns * inner), columns, inner);
    let (x, weights) = (values(rows * inner), vec![packed; WEIGHTS]);
    let mut y = vec![0.0; rows * columns];
    bencher.counter(ItemsCount::new(2 * WEIGHTS * rows * inner * columns)).bench_local(|| {
        for weight in &weights {
            gemm(black_box(&x), (inner, 1), rows, weight, None, black_box(&mut y));
        }
    });
}

#[divan::bench]
fn pack_1536x576(bencher: Bencher<'_, '_>) {
    let weight = values(1536 * 576);
    bencher
        .counter(ItemsCount::new(weight.len()))
        .bench_local(|| Packed::from_out_in(black_box(&weight), 1536, 576));
}

const SHAPES: [AttentionShape; 2] = [
    AttentionShape { batch: 4, time: 128, heads: 9, kv_heads: 3, head_dim: 64 },
    AttentionShape { batch: 1, time: 1024, heads: 9, kv_heads: 3, head_dim: 64 },
];

/// Multiplications and additions of the causal half of both products.
fn operations(s: AttentionShape) -> usize {
    2 * s.batch * s.heads * s.time * (s.time + 1) * s.head_dim
}

#[divan::bench(args = [0, 1])]
fn attention_forward(bencher: Bencher<'_, '_>, shape: usize) {
    let s = SHAPES[shape];
    let (q, kv) =
        (values(s.batch * s.time * s.heads * s.head_dim), values(s.batch * s.time * s.kv_heads * s.head_dim));
    let (mut o, mut log_sum) = (q.clone(), vec![0.0; s.batch * s.heads * s.time]);
    bencher.counter(ItemsCount::new(operations(s))).bench_local(|| {
        attention(black_box(&q), &kv, &kv, s, AttentionRule::scaled(0.125), &mut o, &mut log_sum);
    });
}

#[divan::bench(args = [0, 1])]
fn attention_gradient(bencher: Bencher<'_, '_>, shape: usize) {
    let s = SHAPES[shape];
    let (q, kv) =
        (values(s.batch * s.time * s.heads * s.head_dim), values(s.batch * s.time * s.kv_heads * s.head_dim));
    let (mut o, mut log_sum) = (q.clone(), vec![0.0; s.batch * s.heads * s.time]);
    attention(&q, &kv, &kv, s, AttentionRule::scaled(0.125), &mut o, &mut log_sum);
    let (mut dq, mut dk, mut dv) = (q.clone(), kv.clone(), kv.clone());
    bencher.counter(ItemsCount::new(operations(s) * 5 / 2)).bench_local(|| {
        let saved = AttentionSaved { q: black_box(&q), k: &kv, v: &kv, o: &o, log_sum: &log_sum };
        attention_backward(saved, s, AttentionRule::scaled(0.125), &q, &mut dq, &mut dk, &mut dv);
    });
}

/// A prompt of so many tokens, all new, over a cache in pages.
#[divan::bench(args = [64, 512])]
fn paged_attention_of_prompts(bencher: Bencher<'_, '_>, time: usize) {
    let (tokens, heads, kv_heads) = (2048, 9, 3);
    let (q, kv) = (values(tokens * heads * 64), values(tokens * kv_heads * 64));
    let mut pool = KvPool::new(kv_heads, 64, Precision::F32);
    pool.grow(tokens / PAGE);
    pool.write(&kv, &kv, &(0..tokens as u32).collect::<Vec<_>>());
    let pages: Vec<u32> = (0..(tokens / PAGE) as u32).collect();
    let starts: Vec<u32> = (0..tokens).map(|token| (token / time * (time / PAGE)) as u32).collect();
    let lengths: Vec<u32> = (0..tokens).map(|token| (token % time) as u32 + 1).collect();
    let tables = PageTables { pages: &pages, starts: &starts, lengths: &lengths };
    let mut o = q.clone();
    let work = AttentionShape { batch: tokens / time, time, heads, kv_heads: 3, head_dim: 64 };
    bencher.counter(ItemsCount::new(operations(work))).bench_local(|| {
        paged_attention(black_box(&q), &pool, tables, AttentionRule::scaled(0.125), black_box(&mut o));
    });
}
