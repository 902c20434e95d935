//! Filters of a law by rank: the k likeliest tokens, and the smallest set of a share of the law. What they keep is found among the few tokens
//! above a bound that surely has it, so that no vocabulary is sorted.

use super::loops::{at_least, replace_below, sum_of_at_least};

/// So many tokens are sorted as they are.
const FEW: usize = 512;

/// Puts the logits below the `k`-th greatest at `−∞`; those tied with it stay. `k` is below their number and not 0.
pub(super) fn keep_top_k(logits: &mut [f32], k: usize, greatest: f32) {
    // Twice as far down each time.
    let bounds = (1..12).map(|power| greatest - (1 << power) as f32).chain([f32::NEG_INFINITY]);
    for bound in bounds {
        let mut candidates = at_least(logits, bound);
        if candidates.len() < k {
            continue;
        }
        let descending = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]);
        let (_, pivot, _) = candidates.select_nth_unstable_by(k - 1, descending);
        let least = logits[*pivot as usize];
        replace_below(logits, least, f32::NEG_INFINITY);
        return;
    }
}

/// Zeroes all but the smallest set of greatest weights whose sum reaches `target`; of equals, lower ids stay. The greatest weight is 1.
pub(super) fn keep_top_p(weights: &mut [f32], target: f64) {
    // A sixteenth each time, as far as positive numbers go: then all are there.
    let mut bounds = (1..32).map(|power| 0.0625_f32.powi(power)).chain([0.0]);
    let reaches = |bound: &f32| *bound == 0.0 || sum_of_at_least(weights, *bound) >= target;
    // What is at least `all` reaches the target, what is at least `few` does not.
    let mut all = bounds.find(reaches).unwrap_or(0.0);
    let mut few = f32::INFINITY;
    let mut undecided = at_least(weights, all);
    if undecided.len() > FEW && all > 0.0 {
        few = if all < 0.06 { 16.0 * all } else { 2.0 };
        for _ in 0..12 {
            let middle = (all * few).sqrt();
            if reaches(&middle) { all = middle } else { few = middle }
        }
        undecided = at_least(weights, all);
        undecided.retain(|id| weights[*id as usize] < few);
    }
    undecided.sort_unstable_by(|a, b| {
        weights[*b as usize].total_cmp(&weights[*a as usize]).then_with(|| a.cmp(b))
    });
    let mut reached = sum_of_at_least(weights, few);
    replace_below(weights, all, 0.0);
    let mut kept = reached > 0.0;
    for id in undecided {
        let weight = &mut weights[id as usize];
        if kept && reached >= target {
            *weight = 0.0;
        }
        reached += f64::from(*weight);
        kept = true;
    }
}

#[cfg(test)]
mod tests {
    use super::super::greatest;
    use super::*;
    use crate::{Purpose, Stream};

    /// All of a vocabulary sorted.
    fn naive_top_k(logits: &mut [f32], k: usize) {
        let mut sorted = logits.to_vec();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let least = sorted[k - 1];
        logits.iter_mut().filter(|logit| **logit < least).for_each(|logit| *logit = f32::NEG_INFINITY);
    }

    fn naive_top_p(weights: &mut [f32], target: f64) {
        let mut order: Vec<usize> = (0..weights.len()).filter(|id| weights[*id] > 0.0).collect();
        order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]).then(a.cmp(b)));
        let mut reached = 0.0;
        for (kept, id) in order.into_iter().enumerate() {
            if kept > 0 && reached >= target {
                weights[id] = 0.0;
            } else {
                reached += f64::from(weights[id]);
            }
        }
    }

    /// Laws of several kinds: wide, narrow, of few values and so with ties, with tokens that are excluded.
    fn laws() -> Vec<Vec<f32>> {
        let mut stream = Stream::new(5, Purpose::Init, 0, 0);
        let mut laws = Vec::new();
        for count in [2, 3, 64, 65, 700, 5_000] {
            for scale in [0.0, 0.5, 4.0, 60.0] {
                laws.push((0..count).map(|_| (scale * stream.normal()) as f32).collect::<Vec<f32>>());
                laws.push((0..count).map(|_| (scale * (stream.bits() % 3) as f64) as f32).collect());
            }
            let excluded = |at: usize| if at.is_multiple_of(3) { f32::NEG_INFINITY } else { (at % 7) as f32 };
            laws.push((0..count).map(excluded).collect());
            let far = |at: usize| if at == count / 2 { 5_000.0 } else { -(at as f32) };
            laws.push((0..count).map(far).collect());
        }
        laws
    }

    #[test]
    fn the_k_likeliest_are_those_of_a_sorted_vocabulary() {
        for law in laws() {
            for k in [1, 2, 5, 50, 699, law.len() - 1] {
                if k >= law.len() {
                    continue;
                }
                let (mut got, mut want) = (law.clone(), law.clone());
                keep_top_k(&mut got, k, greatest(&law));
                naive_top_k(&mut want, k);
                assert!(got == want, "{k} of {}", law.len());
            }
        }
    }

    #[test]
    fn the_share_of_a_law_is_that_of_a_sorted_vocabulary() {
        for law in laws() {
            let most = greatest(&law);
            let weights: Vec<f32> = law.iter().map(|logit| (logit - most).exp()).collect();
            let total: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            for p in [1e-6, 0.1, 0.5, 0.9, 0.95, 0.999_999, 1.0] {
                let (mut got, mut want) = (weights.clone(), weights.clone());
                keep_top_p(&mut got, p * total);
                naive_top_p(&mut want, p * total);
                assert!(got == want, "{p} of {}", law.len());
                assert!(got.iter().any(|weight| *weight > 0.0));
            }
        }
    }
}
