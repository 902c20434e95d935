//! Speed of the matrix product: the items of a run are floating-point operations, so that divan's
//! throughput column reads as FLOP/s.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use kernels::cpu::gemm;
use kernels::{Packed, Precision};
use rayon::prelude::*;

#[global_allocator]
static ALLOCATOR: kernels::memory::Allocator = kernels::memory::Allocator;

fn main() {
    kernels::memory::keep();
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

/// What the way back to the input packs before its product: of rows as they are in memory, and of what is packed for the way forth.
#[divan::bench(args = ["rows", "f32", "bf16", "int8"])]
fn packing_576x1536_for_the_way_back(bencher: Bencher<'_, '_>, of: &str) {
    const WEIGHTS: usize = 32;
    let (inner, columns) = (576, 1536);
    let rows = vec![values(columns * inner); WEIGHTS];
    let precision = match of {
        "bf16" => Precision::Bf16,
        "int8" => Precision::Int8,
        _ => Precision::F32,
    };
    let pack = |rows: &Vec<f32>| Packed::from_out_in(rows, columns, inner).with_precision(precision);
    let weights: Vec<Packed> = rows.iter().map(pack).collect();
    let mut back = Packed::empty();
    bencher.counter(ItemsCount::new(WEIGHTS * inner * columns)).bench_local(|| {
        for (rows, weight) in rows.iter().zip(&weights) {
            match of {
                "rows" => back.fill(black_box(rows), inner, columns, 1, inner),
                _ => back.fill_transposed(black_box(weight), 0..columns),
            }
            black_box(&mut back);
        }
    });
}

/// The bound of decoding: 256 MiB read by all threads and added up, nothing else; one part after the other, as weights are, or at
/// scattered places, as pages of keys and values are.
#[divan::bench(args = [false, true])]
fn reading_parts_of_4_kib(bencher: Bencher<'_, '_>, scattered: bool) {
    const PART: usize = 1 << 10;
    let values = vec![0.5_f32; 64 << 20];
    let parts = values.len() / PART;
    // Odd, so that it meets every part of the power of two that there are.
    let place = |part: usize| if scattered { part * 12_289 % parts } else { part };
    bencher.counter(BytesCount::new(size_of_val(&values[..]))).bench_local(|| {
        let sum = |part: usize| {
            let mut sums = [0.0_f32; 64];
            for lanes in black_box(&values)[place(part) * PART..][..PART].as_chunks::<64>().0 {
                sums.iter_mut().zip(lanes).for_each(|(sum, value)| *sum += value);
            }
            sums.iter().sum::<f32>()
        };
        (0..parts).into_par_iter().with_min_len(1 << 10).map(sum).sum::<f32>()
    });
}

#[divan::bench]
fn pack_1536x576(bencher: Bencher<'_, '_>) {
    let weight = values(1536 * 576);
    bencher
        .counter(ItemsCount::new(weight.len()))
        .bench_local(|| Packed::from_out_in(black_box(&weight), 1536, 576));
}
