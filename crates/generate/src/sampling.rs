//! From logits to the law that is drawn from: temperature, top-k, top-p, min-p.

use pulp::Arch;
use serde::{Deserialize, Serialize};

use crate::capability::Error;

/// Sums over a vocabulary go on in so many lanes: their order, and so their bits, are those of every processor.
const LANES: usize = 8;

/// How next tokens are drawn. The law that these settings make *is* the prior of every method that samples: a
/// temperature other than 1 changes the target, not only the efficiency.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Keeps the k likeliest tokens (and those tied with the last); 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of likeliest tokens whose probability reaches this; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Texts that end a completion.
    pub stop: Vec<String>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, stop: Vec::new() }
    }
}

impl Sampling {
    /// Always the likeliest token; of equals, the first.
    pub fn greedy() -> Self {
        Self { temperature: 0.0, ..Self::default() }
    }

    /// Whether the law drawn from is the model's own.
    pub fn is_raw(&self) -> bool {
        self.temperature == 1.0 && self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0
    }

    /// Refuses settings out of range.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key, value: f32, limit| Err(Error::Setting { key, value: value.to_string(), limit });
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refuse("temperature", self.temperature, "at least 0 and finite; 0 is greedy");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refuse("top_p", self.top_p, "above 0 and at most 1; 1 keeps all tokens");
        }
        if !(0.0..=1.0).contains(&self.min_p) {
            return refuse("min_p", self.min_p, "between 0 and 1; 0 keeps all tokens");
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(Error::Setting {
                key: "stop",
                value: "\"\"".into(),
                limit: "texts that are not empty",
            });
        }
        Ok(())
    }

    /// Turns `logits` into weights proportional to the law drawn from (zero for what is filtered out) and returns the
    /// natural logarithm of their sum relative to the *logits' scale after temperature*, so that the log-probability of
    /// token `i` is `ln(weights[i]) − ln(sum)`.
    ///
    /// Filters apply in this order, each on what the one before left: temperature, top-k, top-p, min-p.
    pub fn weights(&self, logits: &mut [f32], order: &mut Vec<u32>) -> f64 {
        if self.temperature == 0.0 {
            let best = argmax(logits);
            logits.fill(0.0);
            logits[best] = 1.0;
            return 1.0;
        }
        if self.temperature != 1.0 {
            let inverse = 1.0 / self.temperature;
            for logit in logits.iter_mut() {
                *logit *= inverse;
            }
        }
        if self.top_k > 0 && self.top_k < logits.len() {
            order.clear();
            order.extend(0..logits.len() as u32);
            let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]);
            let (_, pivot, _) = order.select_nth_unstable_by(self.top_k - 1, by_logit);
            let least = logits[*pivot as usize];
            for logit in logits.iter_mut() {
                if *logit < least {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let greatest = greatest(logits);
        exponentials(logits, greatest);
        let weights = logits;
        let mut total = sum(weights);
        if self.top_p < 1.0 {
            keep_top_p(weights, f64::from(self.top_p) * total, order);
            total = sum(weights);
        }
        if self.min_p > 0.0 {
            // The likeliest has weight 1.
            for weight in weights.iter_mut() {
                if *weight < self.min_p {
                    *weight = 0.0;
                }
            }
            total = sum(weights);
        }
        total
    }
}

/// Zeroes all but the smallest set of greatest weights whose sum reaches `target`; of equals, lower ids stay.
fn keep_top_p(weights: &mut [f32], target: f64, order: &mut Vec<u32>) {
    order.clear();
    order.extend((0..weights.len() as u32).filter(|i| weights[*i as usize] > 0.0));
    order.sort_unstable_by(|a, b| {
        weights[*b as usize].total_cmp(&weights[*a as usize]).then_with(|| a.cmp(b))
    });
    let mut reached = 0.0;
    let mut kept = 0;
    for index in order.iter() {
        if kept > 0 && reached >= target {
            break;
        }
        reached += f64::from(weights[*index as usize]);
        kept += 1;
    }
    for index in &order[kept..] {
        weights[*index as usize] = 0.0;
    }
}

/// The first index of the greatest value.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

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

/// Whether all are numbers; infinities are. All are looked at, for a loop that stops early does not become vectors.
pub(crate) fn are_numbers(values: &[f32]) -> bool {
    Arch::new().dispatch(|| values.iter().filter(|value| value.is_nan()).count()) == 0
}

/// `exp(logit − greatest)` of each, in place.
fn exponentials(logits: &mut [f32], greatest: f32) {
    Arch::new().dispatch(|| {
        for logit in logits {
            *logit = exp(*logit - greatest);
        }
    });
}

/// `ln Σ exp(logits)`.
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let greatest = greatest(logits);
    if greatest == f32::NEG_INFINITY {
        return f64::NEG_INFINITY;
    }
    let (chunks, rest) = logits.as_chunks::<LANES>();
    let mut lanes = Arch::new().dispatch(|| {
        let mut lanes = [0.0_f64; LANES];
        for chunk in chunks {
            for (lane, logit) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(exp(*logit - greatest));
            }
        }
        lanes
    });
    for (lane, logit) in lanes.iter_mut().zip(rest) {
        *lane += f64::from(exp(*logit - greatest));
    }
    f64::from(greatest) + lanes.iter().sum::<f64>().ln()
}

/// `Σ w`.
pub(crate) fn sum(weights: &[f32]) -> f64 {
    let (chunks, rest) = weights.as_chunks::<LANES>();
    let lanes = Arch::new().dispatch(|| {
        let mut lanes = [0.0_f64; LANES];
        for chunk in chunks {
            for (lane, weight) in lanes.iter_mut().zip(chunk) {
                *lane += f64::from(*weight);
            }
        }
        lanes
    });
    lanes.iter().sum::<f64>() + rest.iter().map(|weight| f64::from(*weight)).sum::<f64>()
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

    fn law(settings: &Sampling, logits: &[f32]) -> Vec<f64> {
        let mut values = logits.to_vec();
        let total = settings.weights(&mut values, &mut Vec::new());
        values.iter().map(|w| f64::from(*w) / total).collect()
    }

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
            let whole = len / LANES * LANES;
            let mut lanes = [0.0_f64; LANES];
            plain[..whole].iter().enumerate().for_each(|(i, w)| lanes[i % LANES] += f64::from(*w));
            let rest: f64 = plain[whole..].iter().map(|w| f64::from(*w)).sum();
            assert_eq!(greatest(&logits), most, "{len}");
            let mut weights = logits.clone();
            exponentials(&mut weights, most);
            assert!(weights.iter().map(|w| w.to_bits()).eq(plain.iter().map(|w| w.to_bits())), "{len}");
            assert_eq!(sum(&weights), lanes.iter().sum::<f64>() + rest, "{len}");
            assert!(are_numbers(&logits));
            plain[whole..].iter().enumerate().for_each(|(i, w)| lanes[i] += f64::from(*w));
            let total =
                if len == 0 { f64::NEG_INFINITY } else { f64::from(most) + lanes.iter().sum::<f64>().ln() };
            assert_eq!(log_sum_exp(&logits), total, "{len}");
            for at in 0..len {
                let mut spoiled = logits.clone();
                spoiled[at] = f32::NAN;
                assert!(!are_numbers(&spoiled), "{at} of {len}");
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

    #[test]
    fn filters_agree_with_transformers() {
        let text = include_str!("../tests/fixtures/logits_processors.json");
        let fixture: serde_json::Value = serde_json::from_str(text).expect("the fixture is JSON");
        let numbers = |value: &serde_json::Value| -> Vec<f32> {
            value.as_array().expect("a list").iter().map(|x| x.as_f64().expect("a number") as f32).collect()
        };
        let mut seen = 0;
        for case in fixture["cases"].as_array().or(fixture.as_array()).expect("a list of cases") {
            let params = case["params"].as_object().expect("parameters");
            let mut settings = Sampling::default();
            let known = params.iter().all(|(key, value)| match key.as_str() {
                "temperature" => value.as_f64().map(|x| settings.temperature = x as f32).is_some(),
                "top_k" => value.as_u64().map(|x| settings.top_k = x as usize).is_some(),
                "top_p" => value.as_f64().map(|x| settings.top_p = x as f32).is_some(),
                "min_p" => value.as_f64().map(|x| settings.min_p = x as f32).is_some(),
                _ => false,
            });
            if !known {
                continue;
            }
            let ours = law(&settings, &numbers(&case["logits"]));
            for (index, (got, want)) in ours.iter().zip(numbers(&case["probs"])).enumerate() {
                assert!(
                    (got - f64::from(want)).abs() < 1e-5,
                    "{params:?} token {index}: {got} against {want}"
                );
            }
            let kept: Vec<u64> = (0..ours.len() as u64).filter(|i| ours[*i as usize] > 0.0).collect();
            let expected: Vec<u64> =
                case["kept"].as_array().expect("ids").iter().map(|x| x.as_u64().expect("an id")).collect();
            assert_eq!(kept, expected, "{params:?}");
            seen += 1;
        }
        assert!(seen >= 5, "only {seen} cases were understood");
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(law(&Sampling::greedy(), &[1.0, 3.0, 3.0]), vec![0.0, 1.0, 0.0]);
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for bad in [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { temperature: f32::NAN, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { min_p: 1.5, ..Sampling::default() },
            Sampling { stop: vec![String::new()], ..Sampling::default() },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
