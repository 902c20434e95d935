//! What a distilled policy can be at best, and what it loses because quantiles are estimated from cached samples.
//!
//! Without ties an optimum is a density of the reward's quantile, the same for every prompt ([`QuantileLaw`]). With M cached
//! samples of a prompt the quantile of an answer is known up to its place among them: the optimum that training can reach is
//! then a step function of the quantile, another one for every prompt's samples, and what it wins is worse on average.

use crate::design::{Procedure, QuantileLaw};
use crate::error::{InputError, in_range};
use crate::numeric::mean;
use crate::rank::CachedRewards;
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

/// The optimum of estimated quantiles, on average over prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimated {
    /// What it spends and wins.
    pub promise: Promise,
    /// `KL(estimated ‖ exact)`, nats.
    pub regret: f64,
}

/// The optimum of `tilt` with KL coefficient `beta` where the quantile is estimated from `samples` cached ones: the mean over
/// `prompts` draws of them. `uniform` gives numbers in `[0, 1)`.
pub fn estimated(
    tilt: &Tilt,
    beta: f64,
    samples: usize,
    n: f64,
    prompts: usize,
    uniform: &mut dyn FnMut() -> f64,
) -> Result<Estimated, InputError> {
    let exact = QuantileLaw::of(tilt, beta)?;
    if samples == 0 || prompts == 0 {
        return Err(InputError::TooFew { what: "cached samples and prompts", least: 1 });
    }
    let mut promises = Vec::with_capacity(prompts);
    let mut regrets = Vec::with_capacity(prompts);
    for _ in 0..prompts {
        let cached = CachedRewards::new((0..samples).map(|_| uniform()).collect())?;
        let mut weights = Vec::with_capacity(GRID);
        for at in 0..GRID {
            let quantile = (at as f64 + 0.5) / GRID as f64;
            weights.push(tilt.of_rank(cached.rank(quantile)?) / beta);
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

/// The best answer to itself in the win-rate game with KL coefficient `beta`: density `beta k / (1 - k u)` with
/// `k = 1 - exp(-1/beta)`.
pub fn game(beta: f64) -> Result<QuantileLaw, InputError> {
    in_range("beta of the game", beta, "above 0", |b| b > 0.0)?;
    let k = -(-1.0 / beta).exp_m1();
    let weights: Vec<f64> = (0..GRID).map(|at| -(-k * (at as f64 + 0.5) / GRID as f64).ln_1p()).collect();
    Ok(QuantileLaw::from_log_weights(&weights))
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
                estimated(&tilt, beta, samples, 4.0, prompts, &mut uniforms(7)).expect("in range")
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
        let got = estimated(&Tilt::Identity, beta, 1, 1.0, 1500, &mut uniforms(3)).expect("in range");
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
    fn the_game_has_its_closed_forms_and_pays_more_than_the_tilt_of_the_same_strength() {
        for beta in [0.2_f64, 0.5] {
            let k = 1.0 - (-1.0 / beta).exp();
            let law = Promise::of(&game(beta).expect("in range"), 1.0);
            assert!((law.win_rate - (1.0 / k - beta)).abs() < 1e-3, "beta = {beta}: {}", law.win_rate);
            assert!(
                (law.kl - ((beta * k).ln() + 1.0 / (2.0 * beta))).abs() < 2e-3,
                "beta = {beta}: {}",
                law.kl
            );
            let tilt = Promise::of(&QuantileLaw::of(&Tilt::Identity, beta).expect("in range"), 1.0);
            assert!((tilt.win_rate - law.win_rate).abs() < 1e-3 && tilt.kl < law.kl);
        }
        assert!(game(0.0).is_err());
        assert!(estimated(&Tilt::Identity, 0.5, 0, 1.0, 1, &mut || 0.5).is_err());
    }
}
