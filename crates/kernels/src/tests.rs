//! Fused operations against their compositions on flex: values, gradients, and what is tracked.
#![cfg(feature = "flex")]

use std::sync::Arc;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{
    AttentionRule, Entropy, Gelu, HeadOptions, LowRank, PAGE, Packed, PageTables, PagedPool, PoolTensors,
    Precision, naive,
};

fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let len = shape.iter().product();
    Tensor::from_data(TensorData::new(crate::cpu::noise(len, seed), shape), device)
}

fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32")
}

fn assert_close<const D: usize>(what: &str, actual: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
    assert_eq!(actual.dims(), expected.dims(), "{what}: shapes");
    let (actual, expected) = (values(actual), values(expected));
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        assert!((a - e).abs() <= tolerance * (1.0 + e.abs()), "{what}: element {i} is {a}, expected {e}");
    }
}

/// Compares an operation of two-dimensional inputs with its composition: values without autodiff, then gradients with
/// every subset of the inputs tracked. An input that is not tracked gets none.
fn compare<const D: usize, const O: usize>(
    what: &str,
    inputs: &[Tensor<D>],
    fused: impl Fn(&[Tensor<D>]) -> Tensor<O>,
    composed: impl Fn(&[Tensor<D>]) -> Tensor<O>,
) {
    assert_close(what, fused(inputs), composed(inputs), 1e-5);
    for tracked in 0..1_u32 << inputs.len() {
        let leaves = || -> Vec<Tensor<D>> {
            inputs
                .iter()
                .enumerate()
                .map(|(i, x)| {
                    let x = Tensor::from_inner(x.clone());
                    if tracked >> i & 1 == 1 { x.require_grad() } else { x }
                })
                .collect()
        };
        let run = |operation: &dyn Fn(&[Tensor<D>]) -> Tensor<O>| {
            let leaves = leaves();
            let y = operation(&leaves);
            let weight = Tensor::from_inner(random(y.dims(), 77, &Device::flex()));
            let loss = (y.clone() * weight).sum();
            let gradients: Vec<Option<Tensor<D>>> = if tracked == 0 {
                vec![None; leaves.len()]
            } else {
                let gradients = loss.backward();
                leaves.iter().map(|x| x.grad(&gradients)).collect()
            };
            (y.inner(), gradients)
        };
        let ((y, got), (exact, expected)) = (run(&fused), run(&composed));
        assert_close(what, y, exact, 1e-5);
        for (i, (got, expected)) in got.into_iter().zip(expected).enumerate() {
            assert_eq!(
                got.is_some(),
                tracked >> i & 1 == 1,
                "{what}: gradient of input {i}, tracked {tracked:b}"
            );
            if let (Some(got), Some(expected)) = (got, expected) {
                assert_close(&format!("{what}: gradient {i}, tracked {tracked:b}"), got, expected, 1e-4);
            }
        }
    }
}

#[test]
fn linear_equals_its_composition() {
    let device = Device::flex();
    for (n, inn, out) in [(1, 3, 2), (7, 64, 65), (13, 33, 130)] {
        let inputs = [random([n, inn], 1, &device), random([out, inn], 2, &device)];
        let packed = crate::pack(&inputs[1], Precision::F32).expect("flex packs");
        let composed = |x: &[Tensor<2>]| naive::linear(x[0].clone(), x[1].clone(), None);
        compare("linear", &inputs, |x| crate::linear(x[0].clone(), x[1].clone(), None, None), composed);
        compare(
            "packed",
            &inputs,
            |x| crate::linear(x[0].clone(), x[1].clone(), None, Some(&packed)),
            composed,
        );
        let inputs = [inputs[0].clone(), inputs[1].clone(), random([1, out], 3, &device)];
        let bias = |x: &[Tensor<2>]| Some(x[2].clone().reshape([out]));
        compare(
            "biased",
            &inputs,
            |x| crate::linear(x[0].clone(), x[1].clone(), bias(x), Some(&packed)),
            |x| naive::linear(x[0].clone(), x[1].clone(), bias(x)),
        );
    }
}

#[test]
fn linear_takes_strided_operands() {
    let device = Device::flex();
    let (x, w) = (random([9, 5], 1, &device), random([9, 70], 2, &device));
    let fused = crate::linear(x.clone().transpose(), w.clone().transpose(), None, None);
    assert_close("transposed views", fused, naive::linear(x.transpose(), w.transpose(), None), 1e-5);
}

#[test]
fn packed_and_unpacked_products_have_the_same_bits() {
    let device = Device::flex();
    let (x, w) = (random([5, 40], 1, &device), random([90, 40], 2, &device));
    let packed =
        crate::pack(&Tensor::from_inner(w.clone()).require_grad(), Precision::F32).expect("flex packs");
    let with = crate::linear(x.clone(), w.clone(), None, Some(&packed));
    assert_eq!(values(with), values(crate::linear(x, w, None, None)));
}

#[test]
fn a_product_with_a_low_rank_change_equals_its_composition() {
    let device = Device::flex();
    for (n, inn, r, out) in [(1, 3, 1, 2), (7, 64, 5, 65), (13, 33, 20, 130)] {
        let inputs = [
            random([n, inn], 1, &device),
            random([out, inn], 2, &device),
            random([r, inn], 3, &device),
            random([out, r], 4, &device),
        ];
        let packed = crate::pack(&inputs[1], Precision::F32).expect("flex packs");
        for packed in [None, Some(&packed)] {
            let fused = |x: &[Tensor<2>], bias| {
                let factors = (x[2].clone(), x[3].clone());
                crate::lora_linear(x[0].clone(), x[1].clone(), bias, packed, factors, -0.75)
            };
            let composed = |x: &[Tensor<2>], bias| {
                naive::lora_linear(x[0].clone(), x[1].clone(), bias, (x[2].clone(), x[3].clone()), -0.75)
            };
            compare("lora_linear", &inputs, |x| fused(x, None), |x| composed(x, None));
            let [x, w, a, b] = inputs.clone();
            let inputs = [x, w, a, b, random([1, out], 5, &device)];
            let bias = |x: &[Tensor<2>]| Some(x[4].clone().reshape([out]));
            compare("biased", &inputs, |x| fused(x, bias(x)), |x| composed(x, bias(x)));

            let [a, b] =
                [2, 3].map(|factor| crate::pack(&inputs[factor], Precision::F32).expect("flex packs"));
            let y = crate::linear(inputs[0].clone(), inputs[1].clone(), bias(&inputs), packed);
            let change = LowRank { rows: 0..n, a, b, scale: -0.75 };
            let run = crate::add_low_rank(y, inputs[0].clone(), vec![change]);
            assert_eq!(values(fused(&inputs, bias(&inputs))), values(run), "the bits of what is only run");
        }
    }
}

/// Forth and back, what a frozen matrix is multiplied by is what is packed: the rows it was made of may be gone.
#[test]
fn of_a_frozen_matrix_only_what_is_packed_is_read() {
    let device = Device::flex();
    let (n, inn, out) = (7, 150, 65);
    let weight = random([out, inn], 1, &device);
    let [x, up] = [2, 3].map(|seed| random([n, inn], seed, &device));
    let (a, b) = (random([4, inn], 4, &device), random([out, 4], 5, &device));
    let targets: Vec<i32> = (0..n as i32).collect();
    let targets = || Tensor::<1, Int>::from_data(TensorData::new(targets.clone(), [n]), &device);
    let gone = Tensor::<2>::full([1, 1], f32::NAN, &device).expand([out, inn]);
    for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
        let packed = crate::pack(&weight, precision).expect("flex packs");
        let rounded = Tensor::from_data(TensorData::new(packed.to_out_in(), [out, inn]), &device);
        let run = |operation: usize, weight: &Tensor<2>, packed: Option<&Arc<Packed>>| {
            let [x, up, a, b] = [&x, &up, &a, &b].map(|x| Tensor::from_inner(x.clone()).require_grad());
            let weight = Tensor::from_inner(weight.clone());
            let y = match operation {
                0 => crate::linear(x.clone(), weight, None, packed),
                1 => crate::silu_mul_linear(x.clone(), up.clone(), weight, packed),
                2 => crate::lora_linear(x.clone(), weight, None, packed, (a.clone(), b.clone()), 2.0),
                _ => {
                    let options = HeadOptions { keep_logits: operation == 3, entropy: Entropy::Unwanted };
                    let targets = Tensor::from_inner(targets());
                    crate::head_log_prob(x.clone(), weight, packed, targets, options).log_prob.unsqueeze()
                }
            };
            let grads = (y.clone() * y.clone()).sum().backward();
            let grads = [x, up, a, b].map(|input| input.grad(&grads).map(values));
            (values(y.inner()), grads)
        };
        for operation in 0..5 {
            // Unpacked rows are in `f32`, and multiply what is not rounded.
            let packed_too = precision.rounds_inputs().then_some(&packed);
            let (got, want) = (run(operation, &gone, Some(&packed)), run(operation, &rounded, packed_too));
            assert!(got.0.iter().all(|y| y.is_finite()), "{precision:?}, operation {operation}");
            assert_eq!(got, want, "{precision:?}, operation {operation}");
        }
    }
}

#[test]
fn rms_norm_equals_its_composition() {
    let device = Device::flex();
    for (n, d) in [(1, 4), (6, 33), (40, 64)] {
        let inputs = [random([n, d], 1, &device), random([1, d], 2, &device)];
        compare(
            "rms_norm",
            &inputs,
            |x| crate::rms_norm(x[0].clone(), x[1].clone().reshape([d]), 1e-5),
            |x| naive::rms_norm(x[0].clone(), x[1].clone().reshape([d]), 1e-5),
        );
    }
}

#[test]
fn silu_mul_equals_its_composition() {
    let device = Device::flex();
    let inputs = [random([6, 33], 1, &device).mul_scalar(8.0), random([6, 33], 2, &device)];
    compare(
        "silu_mul",
        &inputs,
        |x| crate::silu_mul(x[0].clone(), x[1].clone()),
        |x| naive::silu_mul(x[0].clone(), x[1].clone()),
    );
}

#[test]
fn the_product_of_a_gate_equals_its_composition_and_the_separate_operations_bit_for_bit() {
    let device = Device::flex();
    for (n, inn, out) in [(1, 3, 2), (7, 64, 65), (13, 33, 130)] {
        let inputs = [
            random([n, inn], 1, &device).mul_scalar(8.0),
            random([n, inn], 2, &device),
            random([out, inn], 3, &device),
        ];
        let packed = crate::pack(&inputs[2], Precision::F32).expect("flex packs");
        for packed in [None, Some(&packed)] {
            let fused =
                |x: &[Tensor<2>]| crate::silu_mul_linear(x[0].clone(), x[1].clone(), x[2].clone(), packed);
            compare("silu_mul_linear", &inputs, fused, |x| {
                naive::linear(naive::silu_mul(x[0].clone(), x[1].clone()), x[2].clone(), None)
            });
            let run = |operation: &dyn Fn(&[Tensor<2>]) -> Tensor<2>| {
                let inputs = inputs.clone().map(|input| Tensor::from_inner(input).require_grad());
                let y = operation(&inputs);
                let grads = (y.clone() * y.clone()).sum().backward();
                let grads = inputs.map(|input| values(input.grad(&grads).expect("it is tracked")));
                (values(y.inner()), grads)
            };
            let separate = run(&|x| {
                crate::linear(crate::silu_mul(x[0].clone(), x[1].clone()), x[2].clone(), None, packed)
            });
            assert_eq!(run(&fused), separate);
        }
    }
}

#[test]
fn layer_norm_equals_its_composition() {
    let device = Device::flex();
    for (n, d) in [(1, 4), (6, 33), (40, 64)] {
        let inputs = [random([n, d], 1, &device), random([1, d], 2, &device), random([1, d], 3, &device)];
        let row = |x: &Tensor<2>| x.clone().reshape([d]);
        compare(
            "layer_norm",
            &inputs,
            |x| crate::layer_norm(x[0].clone(), row(&x[1]), row(&x[2]), 1e-5),
            |x| naive::layer_norm(x[0].clone(), row(&x[1]), row(&x[2]), 1e-5),
        );
    }
}

#[test]
fn gelu_and_its_gate_equal_their_compositions() {
    let device = Device::flex();
    let inputs = [random([6, 33], 1, &device).mul_scalar(5.0), random([6, 33], 2, &device)];
    for form in [Gelu::Exact, Gelu::Tanh] {
        compare(
            "gelu",
            &inputs[..1],
            |x| crate::gelu(x[0].clone(), form),
            |x| naive::gelu(x[0].clone(), form),
        );
        compare(
            "gelu_mul",
            &inputs,
            |x| crate::gelu_mul(x[0].clone(), x[1].clone(), form),
            |x| naive::gelu_mul(x[0].clone(), x[1].clone(), form),
        );
    }
}

#[test]
fn rope_equals_its_composition_and_leaves_shared_memory_alone() {
    let device = Device::flex();
    let positions = [0, 5, 300, 2];
    let inv_freq = [1.0, 0.3, 0.01];
    let inputs = [random([4, 2, 6], 1, &device)];
    let before = values(inputs[0].clone());
    compare(
        "rope",
        &inputs,
        |x| crate::rope(x[0].clone(), &positions, &inv_freq, 1.2),
        |x| naive::rope(x[0].clone(), &positions, &inv_freq, 1.2),
    );
    assert_eq!(values(inputs[0].clone()), before);
    for width in [7, 11, 33] {
        compare(
            "rope of a part of each head",
            &[random([4, 3, width], 1, &device)],
            |x| crate::rope(x[0].clone(), &positions, &inv_freq, 1.2),
            |x| naive::rope(x[0].clone(), &positions, &inv_freq, 1.2),
        );
    }
    let strided = random([2, 4, 6], 1, &device).swap_dims(0, 1);
    let expected = naive::rope(strided.clone(), &positions, &inv_freq, 1.2);
    assert_close("strided", crate::rope(strided, &positions, &inv_freq, 1.2), expected, 1e-5);
}

/// All of the past; a window with a cap; a window of the own key alone.
fn rules() -> [AttentionRule; 3] {
    let plain = AttentionRule::scaled(0.4);
    let both = AttentionRule { scale: 2.0, window: Some(7), soft_cap: Some(3.0) };
    [plain, both, AttentionRule { window: Some(1), ..plain }]
}

#[test]
fn attention_equals_its_composition() {
    let device = Device::flex();
    for (b, t, h, kv, d) in [(1, 1, 1, 1, 4), (2, 7, 4, 2, 8), (1, 50, 3, 1, 16)] {
        let inputs = [
            random([b, t, h, d], 1, &device),
            random([b, t, kv, d], 2, &device),
            random([b, t, kv, d], 3, &device),
        ];
        for rule in rules() {
            compare(
                "attention",
                &inputs,
                |x| crate::attention(x[0].clone(), x[1].clone(), x[2].clone(), rule),
                |x| naive::attention(x[0].clone(), x[1].clone(), x[2].clone(), rule),
            );
        }
    }
}

#[test]
fn gather_log_prob_equals_its_composition() {
    let device = Device::flex();
    let inputs = [random([5, 37], 1, &device).mul_scalar(10.0)];
    let targets = |x: &Tensor<2>| Tensor::<1, Int>::from_data([0, 36, 5, 5, 17], &x.device());
    compare(
        "gather_log_prob",
        &inputs,
        |x| crate::gather_log_prob(x[0].clone(), targets(&x[0])),
        |x| naive::gather_log_prob(x[0].clone(), targets(&x[0])),
    );
}

#[test]
fn head_log_prob_equals_its_composition_and_the_separate_operations() {
    let device = Device::flex();
    let inputs = [random([5, 12], 1, &device).mul_scalar(5.0), random([37, 12], 2, &device)];
    let targets = |x: &Tensor<2>| Tensor::<1, Int>::from_data([0, 36, 5, 5, 17], &x.device());
    let packed = crate::pack(&inputs[1], Precision::F32).expect("flex packs");
    for keep_logits in [false, true] {
        let options = HeadOptions { keep_logits, entropy: Entropy::Tracked };
        for packed in [None, Some(&packed)] {
            let fused = |x: &[Tensor<2>]| {
                crate::head_log_prob(x[0].clone(), x[1].clone(), packed, targets(&x[0]), options)
            };
            compare(
                "head_log_prob",
                &inputs,
                |x| fused(x).log_prob,
                |x| naive::head_log_prob(x[0].clone(), x[1].clone(), targets(&x[0]), options).log_prob,
            );
            // One loss of both, and one of the entropies alone.
            let both = |of: crate::HeadLogProb, share: f64| {
                Tensor::cat(vec![of.log_prob * share, of.entropy.expect("wanted")], 0)
            };
            for share in [0.7, 0.0] {
                compare(
                    "entropy",
                    &inputs,
                    |x| both(fused(x), share),
                    |x| {
                        let (h, w) = (x[0].clone(), x[1].clone());
                        both(naive::head_log_prob(h, w, targets(&x[0]), options), share)
                    },
                );
            }
            let composed =
                naive::head_log_prob(inputs[0].clone(), inputs[1].clone(), targets(&inputs[0]), options);
            let (got, want) = (fused(&inputs).entropy.expect("wanted"), composed.entropy.expect("wanted"));
            assert_close("entropy", got, want, 1e-5);
            let constant = HeadOptions { keep_logits, entropy: Entropy::Constant };
            let (h, w) = (Tensor::from_inner(inputs[0].clone()).require_grad(), inputs[1].clone());
            let given = crate::head_log_prob(
                h.clone(),
                Tensor::from_inner(w),
                packed,
                Tensor::from_inner(targets(&inputs[0])),
                constant,
            );
            let loss = given.log_prob.sum() + given.entropy.expect("wanted").sum();
            let gradient = h.grad(&loss.backward()).expect("tracked");
            let alone = Tensor::from_inner(inputs[0].clone()).require_grad();
            let logits = naive::linear(alone.clone(), Tensor::from_inner(inputs[1].clone()), None);
            let log_prob = naive::gather_log_prob(logits, Tensor::from_inner(targets(&inputs[0])));
            let expected = alone.grad(&log_prob.sum().backward()).expect("tracked");
            assert_close("a constant has no gradient", gradient, expected, 1e-4);
            let unwanted = HeadOptions { keep_logits, entropy: Entropy::Unwanted };
            let (h, w) = (inputs[0].clone(), inputs[1].clone());
            assert!(crate::head_log_prob(h, w, packed, targets(&inputs[0]), unwanted).entropy.is_none());
            let logits = crate::linear(inputs[0].clone(), inputs[1].clone(), None, None);
            let separate = crate::gather_log_prob(logits, targets(&inputs[0]));
            assert_eq!(values(fused(&inputs).log_prob), values(separate), "the bits of the two operations");
        }
    }
}

#[test]
fn head_kl_equals_its_composition() {
    let device = Device::flex();
    let inputs = [
        random([5, 12], 1, &device).mul_scalar(3.0),
        random([37, 12], 2, &device),
        random([5, 7], 3, &device).mul_scalar(3.0),
        random([37, 7], 4, &device),
    ];
    let packed = [1, 3].map(|place| crate::pack(&inputs[place], Precision::F32).expect("flex packs"));
    for caps in [[None, None], [Some(2.5), None], [Some(1.0), Some(0.7)]] {
        for packed in [[None, None], [Some(&packed[0]), None], packed.each_ref().map(Some)] {
            let side = |x: &[Tensor<2>], side: usize| crate::HeadOf {
                h: x[2 * side].clone(),
                weight: x[2 * side + 1].clone(),
                packed: packed[side],
                soft_cap: caps[side],
            };
            compare(
                "head_kl",
                &inputs,
                |x| crate::head_kl(side(x, 0), side(x, 1)),
                |x| naive::head_kl(side(x, 0), side(x, 1)),
            );
        }
    }
    // A policy in training beside a reference that is not under autodiff.
    let own = Tensor::from_inner(inputs[0].clone()).require_grad();
    let side = |h: Tensor<2>, weight: &Tensor<2>| crate::HeadOf {
        h,
        weight: weight.clone(),
        packed: None,
        soft_cap: None,
    };
    let kl = crate::head_kl(side(own.clone(), &inputs[1]), side(inputs[2].clone(), &inputs[3]));
    let gradient = own.grad(&kl.sum().backward()).expect("tracked");
    let lifted = [1, 2, 3].map(|place| Tensor::from_inner(inputs[place].clone()));
    let kl = naive::head_kl(side(own.clone(), &lifted[0]), side(lifted[1].clone(), &lifted[2]));
    let expected = own.grad(&kl.sum().backward()).expect("tracked");
    assert!(values(expected.clone()).iter().any(|g| g.abs() > 1e-3));
    assert_close("gradient beside a reference", gradient, expected, 1e-4);
}

#[test]
#[should_panic(expected = "target 4294967295 of row 0 in 3 columns")]
fn a_negative_target_is_refused() {
    let device = Device::flex();
    let _ = crate::gather_log_prob(random([1, 3], 1, &device), Tensor::from_data([-1], &device));
}

/// Slots of `time` tokens on scattered pages, and their page table.
fn scattered(time: usize) -> (Vec<u32>, Vec<u32>) {
    let table: Vec<u32> = (0..time.div_ceil(PAGE) as u32).rev().map(|page| page + 1).collect();
    let slots = (0..time).map(|i| table[i / PAGE] * PAGE as u32 + (i % PAGE) as u32).collect();
    (table, slots)
}

#[test]
fn paged_write_and_attention_equal_their_compositions_and_whole_attention() {
    let device = Device::flex();
    for ((time, heads, kv, d), rule) in [(1, 2, 1, 4), (37, 4, 2, 8), (64, 3, 3, 16)]
        .into_iter()
        .flat_map(|shape| rules().map(|rule| (shape, rule)))
    {
        let (table, slots) = scattered(time);
        let (k, v) = (random([time, kv, d], 1, &device), random([time, kv, d], 2, &device));
        let mut pool = PagedPool::new(kv, d, Precision::F32, &device.clone().autodiff());
        pool.grow(table.len() + 2);
        let composed = PoolTensors::new(table.len() + 2, kv, d, &device);
        let composed = naive::write(composed, k.clone(), v.clone(), &slots);
        // Under autodiff the tokens are detached.
        pool.write(Tensor::from_inner(k.clone()), Tensor::from_inner(v.clone()), &slots);
        let q = random([time, heads, d], 3, &Device::flex());
        let (starts, lengths) = (vec![0; time], (1..=time as u32).collect::<Vec<_>>());
        let tables = PageTables { pages: &table, starts: &starts, lengths: &lengths };
        let o = crate::paged_attention(q.clone(), &pool, tables, rule);
        let expected = naive::paged_attention(q.clone(), &composed, tables, rule);
        assert_close("paged", o.clone(), expected, 1e-5);
        let (k, v): (Tensor<4>, Tensor<4>) = (k.unsqueeze(), v.unsqueeze());
        let whole = crate::attention(q.clone().unsqueeze(), k.clone(), v.clone(), rule);
        assert_eq!(values(whole.clone()), values(o.clone()), "the bits of whole attention");
        assert_close("whole", whole, naive::attention(q.clone().unsqueeze(), k, v, rule), 1e-5);
        let under_autodiff = crate::paged_attention(Tensor::from_inner(q), &pool, tables, rule);
        assert!(under_autodiff.device().is_autodiff());
        assert_eq!(values(under_autodiff.inner()), values(o));
    }
}

#[test]
fn a_row_of_linear_has_the_same_bits_alone_and_in_a_batch() {
    let device = Device::flex();
    let (x, w) = (random([13, 96], 1, &device), random([70, 96], 2, &device));
    let batch = values(crate::linear(x.clone(), w.clone(), None, None));
    for i in 0..13 {
        let alone = crate::linear(x.clone().narrow(0, i, 1), w.clone(), None, None);
        assert_eq!(values(alone), batch[i * 70..(i + 1) * 70]);
    }
}

#[test]
fn pools_grow_and_copy_pages_as_tensors_do() {
    let device = Device::flex();
    let kv = |from: f32| {
        let values: Vec<f32> = (0..3 * 2 * 4).map(|i| from + i as f32).collect();
        Tensor::<3>::from_data(TensorData::new(values, [3, 2, 4]), &device)
    };
    let slots = [0, 17, 31];
    let mut pool = PagedPool::new(2, 4, Precision::F32, &device);
    pool.grow(2);
    pool.write(kv(1.0), kv(100.0), &slots);
    let held = pool.pages();
    pool.grow(held + 1);
    pool.copy(&[1, 0], &[held as u32, 2]);
    let twin = naive::write(PoolTensors::new(pool.pages(), 2, 4, &device), kv(1.0), kv(100.0), &slots);
    let twin = naive::copy(twin, &[1, 0], &[held as u32, 2]);
    let [keys, kept] = [twin.k.swap_dims(2, 3), twin.v].map(|x| values(x.swap_dims(1, 2)));
    for slot in 0..pool.pages() * PAGE {
        let part = slot * 8..(slot + 1) * 8;
        assert_eq!(pool.host().read(slot), [keys[part.clone()].to_vec(), kept[part].to_vec()], "slot {slot}");
    }
}

#[test]
fn the_optimiser_equals_its_composition_and_leaves_shared_tensors_alone() {
    let device = Device::flex();
    let step = crate::AdamStep { rate: 0.01, correction: 0.3, eps: 1e-8, decay: 0.9 };
    for n in [1, 33, 70_000] {
        let [p, m, g] = [1, 2, 3].map(|seed| random::<1>([n], seed, &device));
        let v = random::<1>([n], 4, &device);
        let v = v.clone() * v;
        let before = values(m.clone());
        let mean = crate::ema(m.clone(), g.clone(), 0.9, false);
        assert_eq!(values(m.clone()), before, "a shared tensor is copied");
        assert_close("mean", mean.clone(), naive::ema(m, g.clone(), 0.9, false), 1e-5);
        let square = crate::ema(v.clone(), g.clone(), 0.99, true);
        assert_close("square", square.clone(), naive::ema(v, g.clone(), 0.99, true), 1e-5);
        let after = crate::adamw(p.clone(), mean.clone(), square.clone(), step);
        assert_close("adamw", after, naive::adamw(p, mean, square, step), 1e-5);
        assert_close("norm", crate::sum_of_squares(g.clone()), naive::sum_of_squares(g.clone()), 1e-4);
        assert_close("scale", crate::scale(g.clone(), 0.3), naive::scale(g, 0.3), 1e-6);
    }
}
