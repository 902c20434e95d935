//! Loops over a vocabulary, in the processor's own vectors. No sum depends on their width, so that the bits are those of any processor.

use pulp::Arch;

/// Sums over a vocabulary go on in so many lanes: their order, and so their bits, are those of every processor.
const LANES: usize = 32;

/// The greatest value that is a number; −∞ where there is none. In lanes, since a chain of maxima over a vocabulary takes longer than its exponentials.
pub(crate) fn greatest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, rest) = values.as_chunks::<64>();
    // What a closure borrows stays in memory: lanes are its own, to be in registers.
    let lanes = Arch::new().dispatch(|| {
        let mut lanes = [f32::NEG_INFINITY; 64];
        for chunk in chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane = larger(*lane, *value);
            }
        }
        lanes
    });
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, larger)
}

/// The greatest of values that are all numbers, and itself finite; `None` where they are not.
pub(crate) fn finite_greatest(values: &[f32]) -> Option<f32> {
    // A maximum loses NaN. All are looked at, for a loop that stops early does not become vectors.
    let lost: u32 = values
        .chunks(1024)
        .map(|values| {
            Arch::new().dispatch(move || values.iter().map(|value| u32::from(value.is_nan())).sum::<u32>())
        })
        .sum();
    let greatest = greatest(values);
    (lost == 0 && greatest.is_finite()).then_some(greatest)
}

/// `exp(logit − greatest)` of each, in place.
pub(super) fn exponentials(logits: &mut [f32], greatest: f32) {
    Arch::new().dispatch(move || {
        for logit in logits {
            *logit = exp(*logit - greatest);
        }
    });
}

/// Multiplies all by a factor.
pub(super) fn scale(values: &mut [f32], factor: f32) {
    Arch::new().dispatch(|| {
        for value in values {
            *value *= factor;
        }
    });
}

/// Puts `other` in the place of what is below a bound.
pub(super) fn replace_below(values: &mut [f32], bound: f32, other: f32) {
    Arch::new().dispatch(move || {
        for value in values {
            *value = if *value < bound { other } else { *value };
        }
    });
}

/// The places of values that are at least `bound`, in order.
pub(super) fn at_least(values: &[f32], bound: f32) -> Vec<u32> {
    const BLOCK: usize = 128;
    let mut places = Vec::new();
    for (block, values) in values.chunks(BLOCK).enumerate() {
        // Most blocks of a vocabulary have none.
        let count: u32 =
            Arch::new().dispatch(move || values.iter().map(|value| u32::from(*value >= bound)).sum());
        if count > 0 {
            let found = values.iter().enumerate().filter(|(_, value)| **value >= bound);
            places.extend(found.map(|(at, _)| (block * BLOCK + at) as u32));
        }
    }
    places
}

/// Adds weights to the sums of lanes.
fn add(weights: &[f32], mut lanes: [f64; LANES]) -> [f64; LANES] {
    let (chunks, rest) = weights.as_chunks::<LANES>();
    lanes = Arch::new().dispatch(move || {
        let mut lanes = lanes;
        for chunk in chunks {
            for (lane, weight) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*weight);
            }
        }
        lanes
    });
    for (lane, weight) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(*weight);
    }
    lanes
}

/// `Σ w`.
pub(super) fn sum(weights: &[f32]) -> f64 {
    add(weights, [0.0; LANES]).iter().sum()
}

/// The sum of what is made of values: some at a time, since one loop that makes and adds does not become vectors.
fn sum_of(values: &[f32], make: impl Fn(&mut [f32])) -> f64 {
    let (mut made, mut lanes) = ([0.0; 1024], [0.0; LANES]);
    for values in values.chunks(made.len()) {
        let made = &mut made[..values.len()];
        made.copy_from_slice(values);
        make(made);
        lanes = add(made, lanes);
    }
    lanes.iter().sum()
}

/// The sum of weights that are at least `bound`.
pub(super) fn sum_of_at_least(weights: &[f32], bound: f32) -> f64 {
    sum_of(weights, |weights| replace_below(weights, bound, 0.0))
}

/// `ln Σ exp(logits)`.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let greatest = greatest(logits);
    if greatest == f32::NEG_INFINITY { f64::NEG_INFINITY } else { log_sum_exp_below(logits, greatest) }
}

/// The same, of logits whose greatest is known and finite.
pub(super) fn log_sum_exp_below(logits: &[f32], greatest: f32) -> f64 {
    f64::from(greatest) + sum_of(logits, |logits| exponentials(logits, greatest)).ln()
}

/// `Σ w·(mixed·inverse − reference)` over weights that are not zero.
pub(super) fn ratio_sum(weights: &[f32], mixed: &[f32], inverse: f32, reference: &[f32]) -> f64 {
    let term = |weight: f32, mixed: f32, reference: f32| {
        let ratio = f64::from(mixed * inverse) - f64::from(reference);
        if weight > 0.0 { f64::from(weight) * ratio } else { 0.0 }
    };
    let (weights, rest) = weights.as_chunks::<LANES>();
    let ((mixed, mixed_rest), (reference, reference_rest)) =
        (mixed.as_chunks::<LANES>(), reference.as_chunks::<LANES>());
    let mut lanes = Arch::new().dispatch(move || {
        let mut lanes = [0.0_f64; LANES];
        for ((weights, mixed), reference) in weights.iter().zip(mixed).zip(reference) {
            for (at, lane) in lanes.iter_mut().enumerate() {
                *lane += term(weights[at], mixed[at], reference[at]);
            }
        }
        lanes
    });
    for (at, lane) in lanes.iter_mut().enumerate().take(rest.len()) {
        *lane += term(rest[at], mixed_rest[at], reference_rest[at]);
    }
    lanes.iter().sum()
}

/// `e^x` for `x ≤ 0`, to about one unit in the last place of an f32, written so that loops over it vectorise, into whatever vectors the caller
/// is compiled for.
#[allow(clippy::inline_always, reason = "compiled into the callers' versions for several instruction sets")]
#[inline(always)]
fn exp(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x > -87.0 { x } else { -87.0 };
    // Adding and taking away 1.5 · 2²³ rounds to the nearest integer, which the sum's low bits hold.
    let shifted = clamped * LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * LN2_HIGH - n * LN2_LOW;
    let poly = 1.987_569_1e-4_f32;
    let poly = poly * r + 1.398_199_9e-3;
    let poly = poly * r + 8.333_452e-3;
    let poly = poly * r + 4.166_579_6e-2;
    let poly = poly * r + 1.666_666_5e-1;
    let poly = poly * r + 0.500_000_06;
    let value = poly * r * r + r + 1.0;
    let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { value * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_greatest_is_found_wherever_it_is() {
        for len in [1, 31, 32, 33, 63, 64, 65, 100, 130] {
            for at in 0..len {
                let mut values: Vec<f32> = (0..len).map(|i| -((i * 7 % 13) as f32)).collect();
                values[at] = 0.5;
                values[(at + len / 2) % len] = if len > 1 { f32::NAN } else { 0.5 };
                assert_eq!(greatest(&values), 0.5, "{at} of {len}");
            }
        }
        assert_eq!(greatest(&[f32::NAN, f32::NEG_INFINITY]), f32::NEG_INFINITY);
        assert_eq!(greatest(&[]), f32::NEG_INFINITY);
    }

    /// The loops as they are written, compiled for any processor.
    #[test]
    fn the_processors_own_vectors_give_the_bits_of_any() {
        for len in [0, 1, 7, 8, 9, 63, 64, 65, 203, 1000] {
            let mut logits: Vec<f32> = (0..len).map(|i| ((i * 37 % 101) as f32 / 7.0).sin() * 40.0).collect();
            if len > 9 {
                logits[9] = f32::NEG_INFINITY;
            }
            let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let plain: Vec<f32> = logits.iter().map(|logit| exp(logit - most)).collect();
            let mut lanes = [0.0_f64; LANES];
            plain.iter().enumerate().for_each(|(i, w)| lanes[i % LANES] += f64::from(*w));
            let all: f64 = lanes.iter().sum();
            assert_eq!(greatest(&logits), most, "{len}");
            let mut weights = logits.clone();
            exponentials(&mut weights, most);
            assert!(weights.iter().map(|w| w.to_bits()).eq(plain.iter().map(|w| w.to_bits())), "{len}");
            assert_eq!(sum(&weights), all, "{len}");
            assert_eq!(finite_greatest(&logits), (len > 0).then_some(most));
            let total = if len == 0 { f64::NEG_INFINITY } else { f64::from(most) + all.ln() };
            assert_eq!(log_sum_exp(&logits), total, "{len}");
            let few: Vec<f32> = weights.iter().map(|w| if *w >= 0.1 { *w } else { 0.0 }).collect();
            assert_eq!(sum_of_at_least(&weights, 0.1), sum(&few), "{len}");
            let places: Vec<u32> = (0..len as u32).filter(|at| weights[*at as usize] >= 0.1).collect();
            assert_eq!(at_least(&weights, 0.1), places, "{len}");
            for at in 0..len {
                let mut spoiled = logits.clone();
                spoiled[at] = f32::NAN;
                assert_eq!(finite_greatest(&spoiled), None, "{at} of {len}");
            }
        }
    }

    #[test]
    fn exp_is_exp() {
        for i in 0..87_000 {
            let x = -(i as f32) / 1000.0;
            let exact = f64::from(x).exp();
            let relative = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(relative < 2.5e-7, "exp({x}) is off by {relative:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }
}
