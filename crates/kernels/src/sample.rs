//! Tokens drawn from logits on the device that has them, so that only what was drawn has to leave it. Compositions of burn operations, for devices
//! on which a vocabulary does not pass through the host; bounds of filters are found by bisection, since a vocabulary is not sorted there either.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData, activation};

use crate::naive::widen;

/// Weights added up in parts of so many.
const BLOCK: usize = 256;

/// Halvings of an interval of [`RANGE`] logits: to 5e-7 of a nat, below which `f32` ends.
const HALVINGS: usize = 28;

/// Tokens so many nats less likely than the likeliest have no weight in `f32`.
const RANGE: f64 = 128.0;

/// Just below 1 in `f32`: a running sum that is passed by this share of its total is passed within it.
const INSIDE: f64 = 1.0 - 1.2e-7;

/// The law that is drawn from: that of the logits, changed in this order. Logits that are equal to within 5e-7 nats count as tied.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleRule {
    /// Divides the logits; 0 takes the first of the greatest.
    pub temperature: f64,
    /// Keeps the k likeliest tokens and those tied with the last; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of likeliest tokens whose probability reaches this, of equals those before; 1 keeps all.
    pub top_p: f64,
    /// Keeps tokens at least this share as likely as the likeliest; 0 keeps all.
    pub min_p: f64,
}

/// What [`sample`] gives.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// `[draws]`: the tokens, as numbers (exact below 2²⁴).
    pub tokens: Tensor<1>,
    /// `[draws]`: their natural log-probabilities under the law that they were drawn from; NaN where the logits are not numbers.
    pub log_prob: Tensor<1>,
    /// `[draws]`: their natural log-probabilities under the raw law.
    pub raw_log_prob: Tensor<1>,
    /// `[n]`: divergence of the law drawn from to the raw law, in nats.
    pub kl: Tensor<1>,
}

/// Draws from rows of logits: a token for each number in `[0, 1)`, from the row that `rows` names for it, where the law's running sum, in the
/// order of ids, passes it. The raw law is that of the logits, or of a `reference`. Sums are in `f32`: near the border of two tokens another order of summing may give the other one.
///
/// # Shapes
/// - `logits`, `reference`: `[n, vocab]`; `rows`, `uniforms`: `[draws]`
///
/// # Panics
/// When `rows` and `uniforms` differ in length or there are no tokens.
pub fn sample(
    logits: Tensor<2>,
    reference: Option<Tensor<2>>,
    rule: SampleRule,
    rows: &[usize],
    uniforms: &[f64],
) -> Sampled {
    let ([n, vocab], device) = (logits.dims(), logits.device());
    assert_eq!(rows.len(), uniforms.len(), "sample: rows [draws] against uniforms [draws]");
    assert!(vocab > 0, "sample: logits [n {n}, vocab 0]");
    let (logits, _) = widen(logits);
    let is_own = reference.is_none();
    let reference = reference.map_or_else(|| logits.clone(), |reference| widen(reference).0);
    let raw = || activation::log_softmax(reference.clone(), 1);
    if rule.temperature == 0.0 {
        let best = first_greatest(logits.clone());
        let of_best = raw().gather(1, best.clone());
        let own = activation::log_softmax(logits, 1).gather(1, best.clone());
        let certain = own.mul_scalar(0.0).abs();
        let chosen = ints(rows, &device);
        let raw_log_prob = of_best.clone().select(0, chosen.clone()).reshape([rows.len()]);
        return Sampled {
            tokens: best.float().select(0, chosen.clone()).reshape([rows.len()]),
            // 0, and NaN where the logits that are drawn from are no numbers, whatever the reference.
            log_prob: certain.select(0, chosen).reshape([rows.len()]),
            raw_log_prob,
            kl: of_best.neg().reshape([n]),
        };
    }
    let below = (logits.clone() - logits.clone().max_dim(1)).mul_scalar(1.0 / rule.temperature);
    let weights = filtered(&below, rule);
    let total = weights.clone().sum_dim(1);
    let (tokens, weight) = inverse(weights.clone(), rows, uniforms);
    let chosen = ints(rows, &device);
    let log_total = total.clone().log();
    let log_prob = (weight.log() - log_total.clone().select(0, chosen)).reshape([rows.len()]);
    let is_raw = rule == SampleRule { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };
    let (raw_log_prob, kl) = if is_raw && is_own {
        (log_prob.clone(), Tensor::zeros([n], &device))
    } else {
        let places = ints(&rows.iter().map(|row| row * vocab).collect::<Vec<_>>(), &device);
        let raw = raw();
        let raw_log_prob = raw.clone().reshape([n * vocab]).select(0, places + tokens.clone().int());
        // What has no weight adds nothing, whatever its logits.
        let terms = (weights.clone() * (below - raw)).mask_fill(weights.equal_elem(0.0), 0.0);
        (raw_log_prob, (terms.sum_dim(1) / total - log_total).reshape([n]))
    };
    Sampled { tokens, log_prob, raw_log_prob, kl }
}

/// Tokens so many nats below the likeliest have weight 0 on the host, where exponentials end at the least normal number.
const LEAST: f32 = -87.0;

/// Which of each row's tokens a rule leaves out: those that have no weight in the law that is drawn from. None is where a logit is NaN.
///
/// # Shapes
/// - `logits`, result: `[n, vocab]`
pub fn left_out(logits: Tensor<2>, rule: SampleRule) -> Tensor<2, Bool> {
    let (logits, _) = widen(logits);
    if rule.temperature == 0.0 {
        let ([n, vocab], device) = (logits.dims(), logits.device());
        let places = Tensor::<1, Int>::arange(0..vocab as i64, &device).unsqueeze::<2>().expand([n, vocab]);
        let numbers = logits.clone().is_nan().bool_not();
        return places.not_equal(first_greatest(logits).expand([n, vocab])).bool_and(numbers);
    }
    let below = (logits.clone() - logits.max_dim(1)).mul_scalar(1.0 / rule.temperature);
    let least = below.clone().lower_elem(LEAST);
    filtered(&below, rule).equal_elem(0.0).bool_or(least)
}

fn ints(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i32> = values.iter().map(|value| *value as i32).collect();
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), device)
}

/// The first index of each row's greatest value, `[n, 1]`.
fn first_greatest(values: Tensor<2>) -> Tensor<2, Int> {
    let ([_, vocab], device) = (values.dims(), values.device());
    let places = Tensor::<1, Int>::arange(0..vocab as i64, &device).float().unsqueeze::<2>();
    let less = values.clone().lower(values.max_dim(1));
    let places = places.expand(less.dims()).mask_fill(less, vocab as f64 - 1.0);
    places.min_dim(1).int()
}

/// The greatest bound `b`, to rounding, for which `holds` is true of what is at least `b`, and the least for which it is not, `[n, 1]` each.
fn bounds(below: &Tensor<2>, holds: impl Fn(Tensor<2, Bool>) -> Tensor<2, Bool>) -> [Tensor<2>; 2] {
    let ([n, vocab], device) = (below.dims(), below.device());
    let mut least = Tensor::<2>::full([n, 1], -RANGE, &device);
    let mut width = RANGE + 1.0;
    for _ in 0..HALVINGS {
        width *= 0.5;
        let middle = least.clone().add_scalar(width);
        let inside = below.clone().greater_equal(middle.clone().expand([n, vocab]));
        least = least.mask_where(holds(inside), middle);
    }
    // A step that no number of this size loses.
    [least.clone(), least.mul_scalar(1.0 - 2.4e-7).add_scalar(width)]
}

/// Weights `e^below` without what the rule leaves out.
fn filtered(below: &Tensor<2>, rule: SampleRule) -> Tensor<2> {
    let [n, vocab] = below.dims();
    let mut weights = below.clone().exp();
    if rule.top_k > 0 && rule.top_k < vocab {
        let count = |inside: Tensor<2, Bool>| inside.float().sum_dim(1);
        let [least, _] = bounds(below, |inside| count(inside).greater_equal_elem(rule.top_k as f64));
        weights = weights.mask_fill(below.clone().lower(least.expand([n, vocab])), 0.0);
    }
    if rule.top_p < 1.0 {
        weights = nucleus(below, weights, rule.top_p);
    }
    if rule.min_p > 0.0 {
        let small = weights.clone().lower_elem(rule.min_p);
        weights = weights.mask_fill(small, 0.0);
    }
    weights
}

/// The smallest set of greatest weights whose share of the sum reaches `share`; of equals, those before.
fn nucleus(below: &Tensor<2>, weights: Tensor<2>, share: f64) -> Tensor<2> {
    let [n, vocab] = below.dims();
    let target = weights.clone().sum_dim(1).mul_scalar(share);
    let sum_inside = |inside: Tensor<2, Bool>| weights.clone().mask_fill(inside.bool_not(), 0.0).sum_dim(1);
    let [least, most] = bounds(below, |inside| sum_inside(inside).greater_equal(target.clone()));
    let surely = below.clone().greater_equal(most.expand([n, vocab]));
    let out = below.clone().lower(least.expand([n, vocab]));
    // Between the two bounds weights are equal: as many stay as are wanting.
    let tied = surely.clone().bool_or(out.clone()).bool_not();
    let weight = weights.clone().mask_fill(tied.clone().bool_not(), 0.0).max_dim(1);
    let wanting = (target - sum_inside(surely)) / weight;
    let place = running_count(tied.clone());
    let late = place.sub_scalar(1.0).greater_equal(wanting.clamp_min(0.5).expand([n, vocab]));
    weights.mask_fill(out.bool_or(tied.bool_and(late)), 0.0)
}

/// `[n, vocab]` as `[n, blocks, BLOCK]`, with zeros at the end.
fn in_blocks(values: Tensor<2>) -> Tensor<3> {
    let ([n, vocab], device) = (values.dims(), values.device());
    let blocks = vocab.div_ceil(BLOCK);
    let short = blocks * BLOCK - vocab;
    let values =
        if short == 0 { values } else { Tensor::cat(vec![values, Tensor::zeros([n, short], &device)], 1) };
    values.reshape([n, blocks, BLOCK])
}

/// How many are true up to each, itself included.
fn running_count(of: Tensor<2, Bool>) -> Tensor<2> {
    let [n, vocab] = of.dims();
    let counted = in_blocks(of.float());
    let [_, blocks, _] = counted.dims();
    let sums = counted.clone().sum_dim(2);
    let before = sums.clone().cumsum(1) - sums;
    (counted.cumsum(2) + before).reshape([n, blocks * BLOCK]).narrow(1, 0, vocab)
}

/// For each draw the token at which the running sum of its row's weights passes its number's share of the total, and its weight, `[draws, 1]`.
fn inverse(weights: Tensor<2>, rows: &[usize], uniforms: &[f64]) -> (Tensor<1>, Tensor<2>) {
    let ([n, vocab], device, draws) = (weights.dims(), weights.device(), rows.len());
    let weights = in_blocks(weights);
    let [_, blocks, _] = weights.dims();
    let chosen = ints(rows, &device);
    // Zero stands before the running sum, so that what is before a block is at its place.
    let sums = weights.clone().sum_dim(2).reshape([n, blocks]).select(0, chosen);
    let running = sums.cumsum(1);
    let total = running.clone().narrow(1, blocks - 1, 1);
    let numbers: Vec<f32> = uniforms.iter().map(|u| *u as f32).collect();
    let numbers = Tensor::<2>::from_data(TensorData::new(numbers, [draws, 1]), &device);
    let target = total * numbers.clamp(0.0, INSIDE);
    let before = Tensor::cat(vec![Tensor::zeros([draws, 1], &device), running.clone()], 1);
    let block = passed(running, target.clone());
    let rest = target - before.gather(1, block.clone());
    let first: Vec<usize> = rows.iter().map(|row| row * blocks).collect();
    let place = ints(&first, &device) + block.clone().reshape([draws]);
    let inside = weights.reshape([n * blocks, BLOCK]).select(0, place);
    let running = inside.clone().cumsum(1);
    let most = running.clone().narrow(1, BLOCK - 1, 1).mul_scalar(INSIDE);
    let rest = rest.clamp_min(0.0).min_pair(most);
    let at = passed(running, rest);
    let token = block.mul_scalar(BLOCK as i64) + at.clone();
    let token = token.clamp_max(vocab as i64 - 1).float().reshape([draws]);
    (token, inside.gather(1, at))
}

/// The first place of each row at which a running sum is above `target`, `[draws, 1]`; the last where none is.
fn passed(running: Tensor<2>, target: Tensor<2>) -> Tensor<2, Int> {
    let [draws, count] = running.dims();
    let not_yet = running.lower_equal(target.expand([draws, count]));
    not_yet.int().sum_dim(1).clamp_max(count as i64 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::noise;

    const RAW: SampleRule = SampleRule { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0 };

    /// Draws from each row, at equal distances.
    const NUMBERS: usize = 2_000;

    fn rules() -> Vec<SampleRule> {
        let mut rules = vec![RAW];
        for temperature in [0.0, 0.3, 1.0, 1.9] {
            rules.push(SampleRule { temperature, ..RAW });
            rules.extend([1, 3, 40].map(|top_k| SampleRule { temperature, top_k, ..RAW }));
            rules.extend([1e-6, 0.5, 0.95].map(|top_p| SampleRule { temperature, top_p, ..RAW }));
            rules.push(SampleRule { temperature, min_p: 0.1, ..RAW });
            rules.push(SampleRule { temperature, top_k: 30, top_p: 0.9, min_p: 0.02 });
        }
        rules
    }

    /// The law of a row in `f64`, from the words of [`SampleRule`], by sorting.
    fn law(logits: &[f32], rule: SampleRule) -> Vec<f64> {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        let most = f64::from(logits[order[0]]);
        if rule.temperature == 0.0 {
            return (0..logits.len()).map(|id| f64::from(u8::from(id == order[0]))).collect();
        }
        let mut weights: Vec<f64> =
            logits.iter().map(|logit| ((f64::from(*logit) - most) / rule.temperature).exp()).collect();
        if rule.top_k > 0 && rule.top_k < logits.len() {
            let last = logits[order[rule.top_k - 1]];
            weights.iter_mut().zip(logits).filter(|(_, l)| **l < last).for_each(|(w, _)| *w = 0.0);
        }
        if rule.top_p < 1.0 {
            let target = rule.top_p * weights.iter().sum::<f64>();
            let mut reached = 0.0;
            for (kept, id) in order.iter().enumerate() {
                if kept > 0 && reached >= target {
                    weights[*id] = 0.0;
                }
                reached += weights[*id];
            }
        }
        weights.iter_mut().filter(|w| **w < rule.min_p).for_each(|w| *w = 0.0);
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| w / total).collect()
    }

    /// Rows of which some have many equal logits, and excluded ones.
    fn rows(vocab: usize) -> Vec<Vec<f32>> {
        let mut rows = vec![
            noise(vocab, 1).iter().map(|x| 9.0 * x).collect(),
            noise(vocab, 2),
            noise(vocab, 3).iter().map(|x| (3.0 * x).round()).collect::<Vec<f32>>(),
            vec![0.25; vocab],
        ];
        if vocab > 2 {
            let mut far = noise(vocab, 4);
            far[vocab / 2] = 300.0;
            far[1] = f32::NEG_INFINITY;
            rows.push(far);
        }
        rows
    }

    fn host(values: Tensor<1>) -> Vec<f32> {
        values.into_data().try_into_vec().expect("f32")
    }

    #[test]
    fn what_is_drawn_follows_the_law_of_the_rule() {
        let device = Device::flex();
        for vocab in [1, 2, 255, 256, 257, 1_000] {
            let logits = rows(vocab);
            let n = logits.len();
            let tensor = Tensor::<2>::from_data(TensorData::new(logits.concat(), [n, vocab]), &device);
            let places: Vec<usize> = (0..n * NUMBERS).map(|at| at % n).collect();
            let uniforms: Vec<f64> =
                (0..n * NUMBERS).map(|at| ((at / n) as f64 + 0.5) / NUMBERS as f64).collect();
            for rule in rules() {
                let given = sample(tensor.clone(), None, rule, &places, &uniforms);
                let [tokens, log_prob, raw, kl] =
                    [given.tokens, given.log_prob, given.raw_log_prob, given.kl].map(host);
                for (row, logits) in logits.iter().enumerate() {
                    let (drawn, plain) = (law(logits, rule), law(logits, RAW));
                    // Of equals at the border of a set one more or less may be in it: sums are rounded.
                    let kept = logits.iter().zip(&drawn).filter(|(_, q)| **q > 0.0);
                    let (least, share) = kept.fold((f32::INFINITY, 0.0), |(least, share), (logit, q)| {
                        if *logit < least { (*logit, *q) } else { (least, share) }
                    });
                    let equals = logits.iter().filter(|logit| **logit == least).count();
                    let border = (rule.top_p < 1.0 && equals > 1).then_some(least);
                    let slack = if border.is_some() { share * NUMBERS as f64 } else { 0.0 };
                    let mut counts = vec![0_usize; vocab];
                    for at in (row..places.len()).step_by(n) {
                        let id = tokens[at] as usize;
                        counts[id] += 1;
                        let (q, p) = (drawn[id].ln(), plain[id].ln());
                        let what = format!("{rule:?}, token {id} of {vocab}, row {row}");
                        if q == f64::NEG_INFINITY && border == Some(logits[id]) {
                            continue;
                        }
                        assert!((f64::from(log_prob[at]) - q).abs() < 1e-4, "{what}: {} {q}", log_prob[at]);
                        assert!((f64::from(raw[at]) - p).abs() < 1e-4, "{what}: {} {p}", raw[at]);
                    }
                    for (id, (count, q)) in counts.iter().zip(&drawn).enumerate() {
                        let (count, share) = (*count as f64, q * NUMBERS as f64);
                        assert!(
                            (count - share).abs() < 1.1 + slack,
                            "{rule:?} {id}: {count} and not {share}"
                        );
                    }
                    let terms = drawn.iter().zip(&plain).filter(|(q, _)| **q > 0.0);
                    let want: f64 = terms.map(|(q, p)| q * (q.ln() - p.ln())).sum();
                    assert!((f64::from(kl[row]) - want).abs() < 1e-4, "{rule:?}: {} {want}", kl[row]);
                }
            }
        }
    }

    #[test]
    fn logits_that_are_no_numbers_give_no_probability() {
        for spoiled in [f32::NAN, f32::INFINITY] {
            let mut values = noise(2 * 300, 1);
            values[310] = spoiled;
            let logits = Tensor::<2>::from_data(TensorData::new(values, [2, 300]), &Device::flex());
            let sound = Tensor::<2>::from_data(TensorData::new(noise(2 * 300, 2), [2, 300]), &Device::flex());
            for (rule, reference) in
                rules().into_iter().flat_map(|rule| [None, Some(&sound)].map(|other| (rule, other)))
            {
                let given = sample(logits.clone(), reference.cloned(), rule, &[0, 1], &[0.4, 0.4]);
                let (tokens, log_prob) = (host(given.tokens), host(given.log_prob));
                assert!(log_prob[0].is_finite() && log_prob[1].is_nan(), "{rule:?}: {log_prob:?}");
                assert!(tokens.iter().all(|token| (0.0..300.0).contains(token)));
            }
        }
    }
}
