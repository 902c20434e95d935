//! Speed of attention: floating-point operations per second of whole sequences, bytes of keys and values per second of decoding.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use kernels::cpu::{
    AttentionRule, AttentionSaved, AttentionShape, KvPool, PAGE, PageTables, Precision, attention,
    attention_backward, on_pool, paged_attention,
};

#[global_allocator]
static ALLOCATOR: kernels::memory::Allocator = kernels::memory::Allocator;

fn main() {
    kernels::memory::keep();
    divan::main();
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37) % 101) as f32 / 101.0 - 0.5).collect()
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

/// One new token of each row, whose pages lie among those of the others as decoding leaves them. Caches of as many layers as make
/// 256 MiB take turns, as they do in a model, so that keys and values come from memory.
fn decode(bencher: Bencher<'_, '_>, rows: usize, keys: usize, precision: Precision) {
    let (heads, kv_heads, width) = (9, 3, 64);
    let per_row = keys.div_ceil(PAGE);
    let mut pool = KvPool::new(kv_heads, width, precision);
    pool.grow(rows * per_row);
    let kv = values(rows * keys * kv_heads * width);
    let slot = |row: usize, key: usize| ((key / PAGE * rows + row) * PAGE + key % PAGE) as u32;
    let slots: Vec<u32> = (0..rows).flat_map(|row| (0..keys).map(move |key| slot(row, key))).collect();
    pool.write(&kv, &kv, &slots);
    let bytes = 2 * kv.len() * if precision == Precision::F32 { 4 } else { 2 };
    let layers = vec![pool; (256 << 20) / bytes + 1];
    let pages: Vec<u32> =
        (0..rows).flat_map(|row| (0..per_row).map(move |page| (page * rows + row) as u32)).collect();
    let starts: Vec<u32> = (0..rows).map(|row| (row * per_row) as u32).collect();
    let lengths = vec![keys as u32; rows];
    let tables = PageTables { pages: &pages, starts: &starts, lengths: &lengths };
    let q = values(rows * heads * width);
    let mut o = q.clone();
    bencher.counter(BytesCount::new(bytes * layers.len())).bench_local(|| {
        on_pool(|| {
            for pool in &layers {
                paged_attention(black_box(&q), pool, tables, AttentionRule::scaled(0.125), black_box(&mut o));
            }
        });
    });
}

#[divan::bench(args = [(1, 4096), (4, 256), (4, 1024), (4, 4096), (32, 256)])]
fn decode_f32(bencher: Bencher<'_, '_>, (rows, keys): (usize, usize)) {
    decode(bencher, rows, keys, Precision::F32);
}

#[divan::bench(args = [(1, 4096), (4, 256), (4, 1024), (4, 4096), (32, 256)])]
fn decode_bf16(bencher: Bencher<'_, '_>, (rows, keys): (usize, usize)) {
    decode(bencher, rows, keys, Precision::Bf16);
}
