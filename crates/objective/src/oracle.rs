//! What a distilled policy can be at best, and what it loses because quantiles are estimated.
//!
//! Without ties an optimum is a density of the reward's quantile, the same for every prompt ([`QuantileLaw`]). With M cached
//! samples of a prompt the quantile of an answer is known up to its place among them. Where they stay, the
//! optimum that training can
//! reach is a step function of the quantile, another one for every prompt's samples, and what it wins is
//! worse on average
//! ([`estimated`]). Where they are drawn anew for every answer, or where a policy learns what many prompts
//! have in common, what counts
//! is the mean over samples ([`averaged`], [`fresh`]), whose only error is the bias of the estimate.

use crate::design::{Procedure, QuantileLaw};
use crate::error::{InputError, in_range};
use crate::numeric::{integral, mean};
use crate::rank::{CachedRewards, Rank};
use crate::tilt::Tilt;

/// Points of the grid that laws are taken on.
const GRID: usize = 4000;

/// What a law of quantiles spends and wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promise {
    /// KL from the reference, nats.
    pub kl: f64,
    /// Win rate against the reference.
    pub win_rate: f64,
    /// Win rate of best-of-n against best-of-n of the reference.
    pub best_of: f64,
    /// Win rate of worst-of-n against worst-of-n of the reference.
    pub worst_of: f64,
}

impl Promise {
    /// That of a law, judged with `n` answers.
    pub fn of(law: &QuantileLaw, n: f64) -> Self {
        Self {
            kl: law.kl(),
            win_rate: law.win_rate(),
            best_of: law.win_rate_under(Procedure::BestOfN, n),
            worst_of: law.win_rate_under(Procedure::WorstOfN, n),
        }
    }
}

/// The optimum of estimated quantiles.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimated {
    /// What it spends and wins.
    pub promise: Promise,
    /// `KL(estimated ‖ exact)`, nats.
    pub regret: f64,
}

/// The optimum of `tilt` with KL coefficient `beta` where the quantile is estimated from `samples` cached
/// ones that stay: the mean
/// over `prompts` draws of them. Its regret is to the exact optimum with coefficient `exact_beta`, which is
/// another one than `beta`
/// where `beta` was solved for a budget. `uniform` gives numbers in `[0, 1)`.
pub fn estimated(
    tilt: &Tilt,
    beta: f64,
    exact_beta: f64,
    samples: usize,
    n: f64,
    prompts: usize,
    uniform: &mut dyn FnMut() -> f64,
) -> Result<Estimated, InputError> {
    in_range("beta", beta, "above 0", |b| b > 0.0)?;
    let exact = QuantileLaw::of(tilt, exact_beta)?;
    if samples == 0 || prompts == 0 {
        return Err(InputError::TooFew { what: "cached samples and prompts", least: 1 });
    }
    let mut promises = Vec::with_capacity(prompts);
    let mut regrets = Vec::with_capacity(prompts);
    for _ in 0..prompts {
        let cached = CachedRewards::new((0..samples).map(|_| uniform()).collect())?;
        let mut weights = Vec::with_capacity(GRID);
        for at in 0..GRID {
            weights.push(tilt.of_rank(cached.rank(midpoint(at))?) / beta);
        }
        let law = QuantileLaw::from_log_weights(&weights);
        regrets.push(law.kl_to(&exact));
        promises.push(Promise::of(&law, n));
    }
    let each = |part: fn(&Promise) -> f64| mean(&promises.iter().map(part).collect::<Vec<_>>());
    let promise = Promise {
        kl: each(|p| p.kl),
        win_rate: each(|p| p.win_rate),
        best_of: each(|p| p.best_of),
        worst_of: each(|p| p.worst_of),
    };
    Ok(Estimated { promise, regret: mean(&regrets) })
}

/// The optimum of `tilt` with KL coefficient `beta` where its values, estimated from `samples` samples,
/// average out over draws of
/// them: that of `E Phi(K / M)`, `K` binomial.
pub fn averaged(tilt: &Tilt, beta: f64, samples: usize, n: f64) -> Result<Estimated, InputError> {
    let exact = QuantileLaw::of(tilt, beta)?;
    if samples == 0 {
        return Err(InputError::TooFew { what: "samples", least: 1 });
    }
    let values: Vec<f64> = (0..=samples)
        .map(|count| tilt.of_rank(Rank { below: count, at_most: count, total: samples }))
        .collect();
    let weights: Vec<f64> = (0..GRID).map(|at| binomial_mean(&values, midpoint(at)) / beta).collect();
    let law = QuantileLaw::from_log_weights(&weights);
    Ok(Estimated { promise: Promise::of(&law, n), regret: law.kl_to(&exact) })
}

/// The mean of `values[K]` for `K` binomial with `values.len() - 1` draws of probability `p` between 0 and 1
/// (de Casteljau).
fn binomial_mean(values: &[f64], p: f64) -> f64 {
    let mut means = values.to_vec();
    for left in (1..means.len()).rev() {
        for at in 0..left {
            means[at] = (1.0 - p) * means[at] + p * means[at + 1];
        }
    }
    means[0]
}

/// The optimum of BOND's loss, `(1-b) KL(best-of-N || pi) + b KL(pi || best-of-N)` with `log F` of the second
/// estimated from `samples`
/// samples that are fresh at every step: they average out to `log F` cut after so many terms, and the best of
/// N is exact.
///
/// Where `b` is between 0 and 1 the density solves
/// `b log f - (1-b) best_of_n / f = b (N-1) E log F + constant`.
pub fn fresh(best_of: f64, b: f64, samples: usize, n: f64) -> Result<Estimated, InputError> {
    in_range("N of best-of-N", best_of, "above 1", |n| n > 1.0)?;
    in_range("weight of the backward divergence", b, "between 0 and 1", |b| (0.0..=1.0).contains(&b))?;
    let beta = 1.0 / (best_of - 1.0);
    if b == 1.0 {
        return averaged(&Tilt::Log, beta, samples, n);
    }
    let exact = QuantileLaw::of(&Tilt::Log, beta)?;
    if b == 0.0 {
        return Ok(Estimated { promise: Promise::of(&exact, n), regret: 0.0 });
    }
    if samples == 0 {
        return Err(InputError::TooFew { what: "samples", least: 1 });
    }
    let target: Vec<f64> = exact.log_density().iter().map(|log| (1.0 - b) / b * log.exp()).collect();
    let paid: Vec<f64> = (0..GRID).map(|at| cut_logarithm(midpoint(at), samples) / beta).collect();
    // The mass rises with the constant, which lies between that of the backward optimum less the most that
    // the likelihood adds and
    // that of the backward optimum.
    let logs = |constant: f64| -> Vec<f64> {
        paid.iter().zip(&target).map(|(paid, target)| lifted(paid + constant, *target)).collect()
    };
    let mass = |constant: f64| logs(constant).iter().map(|log| log.exp()).sum::<f64>() / GRID as f64;
    let (mut low, mut high) = (-1.0, 1.0);
    while mass(low) > 1.0 {
        low *= 2.0;
    }
    while mass(high) < 1.0 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if mass(middle) > 1.0 { high = middle } else { low = middle }
    }
    let law = QuantileLaw::from_log_weights(&logs(f64::midpoint(low, high)));
    Ok(Estimated { promise: Promise::of(&law, n), regret: law.kl_to(&exact) })
}

/// `-sum_{k=1..M} (1-u)^k / k`: `log u` cut after M terms, what `H_K - H_M` is on average.
fn cut_logarithm(u: f64, terms: usize) -> f64 {
    let (mut power, mut whole) = (1.0, 0.0);
    for k in 1..=terms {
        power *= 1.0 - u;
        whole -= power / k as f64;
    }
    whole
}

/// The `x` with `x - target exp(-x) = level`, `target` at least 0. With `x = level + exp(z)` it is
/// `exp(z) + z = log target - level`,
/// whose left side is convex and rises: Newton's method from the right of the root.
fn lifted(level: f64, target: f64) -> f64 {
    if target <= 0.0 {
        return level;
    }
    let right = target.ln() - level;
    let mut z = if right > 1.0 { right.ln() } else { right };
    for _ in 0..100 {
        let step = (z.exp() + z - right) / (z.exp() + 1.0);
        z -= step;
        if step.abs() < 1e-15 * (1.0 + z.abs()) {
            break;
        }
    }
    level + z.exp()
}

/// What the best answer to itself in the win-rate game with KL coefficient `beta` spends and wins, judged
/// with `n` answers.
///
/// Its density is `beta k / (1 - k u)` with `k = 1 - exp(-1/beta)`, steep within `exp(-1/beta)` of the top,
/// so that no grid of
/// quantiles serves; its own quantile function `u(s) = (1 - exp(-s/beta)) / k` is smooth.
pub fn game(beta: f64, n: f64) -> Result<Promise, InputError> {
    in_range("beta of the game", beta, "above 0", |b| b > 0.0)?;
    in_range("number of answers", n, "at least 1", |n| n >= 1.0)?;
    let k = -(-1.0 / beta).exp_m1();
    let quantile = |s: f64| -(-s / beta).exp_m1() / k;
    Ok(Promise {
        kl: (beta * k).ln() + 0.5 / beta,
        win_rate: 1.0 / k - beta,
        // The policy's best of n is at s with density n s^(n-1), and beats the reference's with probability
        // u(s)^n.
        best_of: integral(|s| n * s.powf(n - 1.0) * quantile(s).powf(n)),
        worst_of: integral(|s| n * (1.0 - s).powf(n - 1.0) * (1.0 - (1.0 - quantile(s)).max(0.0).powf(n))),
    })
}

fn midpoint(at: usize) -> f64 {
    (at as f64 + 0.5) / GRID as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uniforms(mut state: u64) -> impl FnMut() -> f64 {
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    #[test]
    fn more_samples_lose_less_and_many_lose_nothing() {
        for tilt in [Tilt::Identity, Tilt::Log, Tilt::Exponential { t: 5.0 }] {
            let beta = crate::design::Design::of_budget(tilt.clone(), 0.7, 4.0).expect("in range").beta;
            let exact = Promise::of(&QuantileLaw::of(&tilt, beta).expect("in range"), 4.0);
            let at = |samples, prompts| {
                estimated(&tilt, beta, beta, samples, 4.0, prompts, &mut uniforms(7)).expect("in range")
            };
            let (few, some, many) = (at(4, 200), at(64, 60), at(40_000, 1));
            assert!(few.regret > 2.0 * some.regret && some.regret > many.regret, "{tilt:?}");
            // Fewer samples may spend more than the exact optimum, but never win more for what they spend.
            let most =
                crate::design::Design::of_budget(Tilt::Identity, few.promise.kl, 4.0).expect("in range");
            assert!(few.promise.win_rate < most.win_rate, "{tilt:?}");
            assert!(many.regret < 1e-3, "{tilt:?}: {}", many.regret);
            for (got, want) in [
                (many.promise.kl, exact.kl),
                (many.promise.win_rate, exact.win_rate),
                (many.promise.best_of, exact.best_of),
                (many.promise.worst_of, exact.worst_of),
            ] {
                assert!((got - want).abs() < 1e-2, "{tilt:?}: {got} and not {want}");
            }
        }
    }

    #[test]
    fn one_sample_is_a_coin_whose_law_is_known() {
        // Identity on one cached sample at quantile s: weight exp(1/beta) above s, 1 below, so the KL of each is closed.
        let beta = 0.5_f64;
        let got = estimated(&Tilt::Identity, beta, beta, 1, 1.0, 1500, &mut uniforms(3)).expect("in range");
        let steps = 2000;
        let kl: f64 = (0..steps)
            .map(|i| {
                let s = (f64::from(i) + 0.5) / f64::from(steps);
                let z = s + (1.0 - s) * (1.0 / beta).exp();
                (1.0 - s) * (1.0 / beta).exp() / z / beta - z.ln()
            })
            .sum::<f64>()
            / f64::from(steps);
        assert!((got.promise.kl - kl).abs() < 0.02, "{} and not {kl}", got.promise.kl);
    }

    #[test]
    fn the_game_has_its_closed_forms_at_every_strength() {
        // KL, W and W of best-of-4 by an independent solution.
        for (beta, want) in [
            (0.2, [0.8838, 0.8068, 0.9243]),
            (0.15, [1.4349, 0.8513, f64::NAN]),
            (0.1, [2.6974, 0.9000, 0.9915]),
            (0.05, [7.0043, 0.9500, 0.9994]),
        ] {
            let got = game(beta, 4.0).expect("in range");
            for (got, want) in [got.kl, got.win_rate, got.best_of].into_iter().zip(want) {
                assert!(want.is_nan() || (got - want).abs() < 5.1e-5, "beta = {beta}: {got} and not {want}");
            }
        }
        for beta in [0.2_f64, 0.5, 2.0] {
            // A grid is fine where the density is no more than exp(5) times the least.
            let k = 1.0 - (-1.0 / beta).exp();
            let weights: Vec<f64> = (0..GRID).map(|at| -(-k * midpoint(at)).ln_1p()).collect();
            let law = Promise::of(&QuantileLaw::from_log_weights(&weights), 4.0);
            let got = game(beta, 4.0).expect("in range");
            for (got, want) in [
                (got.kl, law.kl),
                (got.win_rate, law.win_rate),
                (got.best_of, law.best_of),
                (got.worst_of, law.worst_of),
            ] {
                assert!((got - want).abs() < 3e-4, "beta = {beta}: {got} and not {want}");
            }
            // The tilt of the same strength wins as often for less.
            let tilt = Promise::of(&QuantileLaw::of(&Tilt::Identity, beta).expect("in range"), 1.0);
            assert!((tilt.win_rate - got.win_rate).abs() < 1e-3 && tilt.kl < got.kl);
        }
        for beta in [1e-3, 1e-2, 50.0] {
            let got = game(beta, 1.0).expect("in range");
            assert!((got.best_of - got.win_rate).abs() < 1e-9, "{beta}: {got:?}");
            assert!((got.worst_of - got.win_rate).abs() < 1e-9, "{beta}: {got:?}");
        }
        assert!(game(0.0, 4.0).is_err() && game(0.5, 0.0).is_err());
        assert!(estimated(&Tilt::Identity, 0.5, 0.5, 0, 1.0, 1, &mut || 0.5).is_err());
    }

    #[test]
    fn fresh_samples_average_out() {
        // Of N and k samples: W at b = 1 and b = 1/2, and the distances from best-of-N, by an independent
        // solution.
        for (best_of, samples, win_rates, regrets) in [
            (4.0, 16, [0.7999, 0.7999], [0.00005, 0.00001]),
            (16.0, 16, [0.9412, 0.9412], [0.0, 0.0]),
            (2.0, 8, [0.6582, 0.6628], [0.0066, 0.0016]),
        ] {
            for ((b, win_rate), regret) in [1.0, 0.5].into_iter().zip(win_rates).zip(regrets) {
                let got = fresh(best_of, b, samples, 1.0).expect("in range");
                assert!((got.promise.win_rate - win_rate).abs() < 6e-5, "{best_of} {samples} {b}: {got:?}");
                let limit = if regret > 1e-4 { 6e-5 } else { 6e-6 };
                assert!((got.regret - regret).abs() < limit, "{best_of} {samples} {b}: {got:?}");
            }
            let forward = fresh(best_of, 0.0, samples, 1.0).expect("in range");
            assert!(
                (forward.promise.win_rate - best_of / (best_of + 1.0)).abs() < 1e-4 && forward.regret == 0.0
            );
        }
        assert!(fresh(1.0, 0.5, 4, 1.0).is_err() && fresh(4.0, 2.0, 4, 1.0).is_err());
        assert!(fresh(4.0, 0.5, 0, 1.0).is_err() && averaged(&Tilt::Log, 0.5, 0, 1.0).is_err());
    }

    #[test]
    fn the_mean_over_draws_of_samples_is_that_of_the_estimate() {
        // The identity is unbiased, the logarithm is cut after as many terms as there are samples.
        let identity = averaged(&Tilt::Identity, 0.2, 5, 4.0).expect("in range");
        assert!(identity.regret.abs() < 1e-12, "{identity:?}");
        let values: Vec<f64> =
            (0..=7).map(|k| Tilt::Log.of_rank(Rank { below: k, at_most: k, total: 7 })).collect();
        for u in [0.01, 0.3, 0.9] {
            assert!((binomial_mean(&values, u) - cut_logarithm(u, 7)).abs() < 1e-13);
        }
        for (level, target) in [(-3.0, 0.2), (0.5, 4.0), (2.0, 0.0), (-800.0, 1e-3)] {
            let x = lifted(level, target);
            assert!(
                (x - target * (-x).exp() - level).abs() < 1e-9 * (1.0 + level.abs()),
                "{level} {target}: {x}"
            );
        }
    }
}
