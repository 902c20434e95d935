//! How a policy does under the procedure that it is used with.

use std::collections::BTreeMap;

use objective::error::InputError;
use objective::pool::Pool;

use super::rows::Scored;
use crate::report::metric;

/// Per prompt: the win rates of the best and of the worst of `n` against the base's best and worst of `n` (InfAlign, arXiv
/// 2412.19792, definition of the inference-time win rate; ties count one half), and where the gold reward says right or wrong
/// the chance that one of `n` is right. All are unbiased from the two pools: each subset of `n` samples counts alike.
pub(super) fn under_inference(
    own: &Scored<'_>,
    base: &Scored<'_>,
    n: usize,
) -> Result<BTreeMap<String, Vec<Option<f64>>>, InputError> {
    let mut values: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    let mut put = |name: String, value: f64| values.entry(name).or_default().push(Some(value));
    for prompt in 0..own.gold.len() {
        let (ours, theirs) = (chooser(own, prompt)?, chooser(base, prompt)?);
        let (gold, other) = (own.gold[prompt], base.gold[prompt]);
        let best = win_rate(&ours.best_of(n)?, gold, &theirs.best_of(n)?, other);
        put(metric::win_rate_best_of(n), best);
        let worst = win_rate(&ours.worst_of(n)?, gold, &theirs.worst_of(n)?, other);
        put(metric::win_rate_worst_of(n), worst);
        if own.gold_is_accuracy {
            put(metric::pass_at(n), Pool::new(gold.to_vec())?.expected_best(n)?);
        }
    }
    Ok(values)
}

/// What chooses among the samples of a prompt: the proxy, or without one the gold reward.
fn chooser(scored: &Scored<'_>, prompt: usize) -> Result<Pool, InputError> {
    Pool::new(scored.proxy.as_ref().unwrap_or(&scored.gold)[prompt].to_vec())
}

/// `P(X > Y) + P(X = Y) / 2` of two independent draws.
fn win_rate(weights: &[f64], gold: &[f64], other_weights: &[f64], other_gold: &[f64]) -> f64 {
    // Sorted, so that each sample's losers are a prefix.
    let mut others: Vec<(f64, f64)> = other_gold.iter().copied().zip(other_weights.iter().copied()).collect();
    others.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = vec![0.0];
    for (_, weight) in &others {
        below.push(below[below.len() - 1] + weight);
    }
    let mass = |count: usize| below[count];
    weights
        .iter()
        .zip(gold)
        .map(|(weight, gold)| {
            let less = others.partition_point(|(other, _)| other < gold);
            let at_most = others.partition_point(|(other, _)| other <= gold);
            weight * (mass(less) + mass(at_most)) / 2.0
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of subsets of `n`, counted.
    fn naive(ours: &[f64], theirs: &[f64], n: usize, worst: bool) -> f64 {
        let chosen = |rewards: &[f64]| -> Vec<f64> {
            (0_u32..1 << rewards.len())
                .filter(|set| set.count_ones() as usize == n)
                .map(|set| {
                    let members = (0..rewards.len()).filter(|i| set >> i & 1 == 1).map(|i| rewards[i]);
                    if worst {
                        members.fold(f64::INFINITY, f64::min)
                    } else {
                        members.fold(f64::NEG_INFINITY, f64::max)
                    }
                })
                .collect()
        };
        let (ours, theirs) = (chosen(ours), chosen(theirs));
        let points = ours.iter().flat_map(|a| {
            theirs.iter().map(move |b| f64::from(u8::from(a > b)) + 0.5 * f64::from(u8::from(a == b)))
        });
        points.sum::<f64>() / (ours.len() * theirs.len()) as f64
    }

    #[test]
    fn equals_counting_all_pairs_of_subsets() {
        let (ours, theirs) = ([0.3, 0.1, 0.9, 0.9, 0.2, 0.5], [0.5, 0.1, 0.1, 0.9, 0.0]);
        for n in 1..=5 {
            let (a, b) =
                (Pool::new(ours.to_vec()).expect("finite"), Pool::new(theirs.to_vec()).expect("finite"));
            let best = win_rate(&a.best_of(n).expect("n"), &ours, &b.best_of(n).expect("n"), &theirs);
            assert!((best - naive(&ours, &theirs, n, false)).abs() < 1e-12, "best of {n}: {best}");
            let worst = win_rate(&a.worst_of(n).expect("n"), &ours, &b.worst_of(n).expect("n"), &theirs);
            assert!((worst - naive(&ours, &theirs, n, true)).abs() < 1e-12, "worst of {n}: {worst}");
            let even = win_rate(&a.best_of(n).expect("n"), &ours, &a.best_of(n).expect("n"), &ours);
            assert!((even - 0.5).abs() < 1e-12, "against itself: {even}");
        }
    }
}
