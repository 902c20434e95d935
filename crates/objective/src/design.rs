//! The transform designer: what a tilt of the calibrated reward can win, before anything is trained.
//!
//! Without ties the calibrated reward is uniform under the reference, and every optimum is a density `f` on `[0, 1]`. With
//! `F` its distribution function:
//!
//! - `KL = int f log f`, win rate against the reference `W = int f u`;
//! - win rate of best-of-N of the policy against best-of-N of the reference `1 - N int F^N u^(N-1)`, of worst-of-N
//!   `N int (1-F)^N (1-u)^(N-1)` (derivation: the maximum of N has distribution `F^N`).
//!
//! The fixed-point tilt of such a procedure is the derivative of its win rate at the optimum itself:
//! `Phi(v) = -N^2 int_v^1 F^(N-1) u^(N-1)` for best-of-N, `-N^2 int_v^1 (1-F)^(N-1) (1-u)^(N-1)` for worst-of-N, solved by
//! damped iteration in `log f` (Balashankar et al. 2025, whose theorem states the coupling). It is a stationary point.
//!
//! Of worst-of-N all that matters is how fast `Phi` vanishes towards the top: the optimum of 2 nats for N =
//! 32 has a
//! coefficient of `1 / beta = 1.6e28`. Its tilt is therefore kept as the share of the integral above a
//! quantile, between -1 and 0
//! and zero at the top, where floating-point numbers are dense.

use crate::error::{InputError, in_range};
use crate::numeric::{log_sum_exp, mean, sum};
use crate::rank::{CachedRewards, Rank};
use crate::tilt::Tilt;

/// Midpoints of the grid that integrals are taken on.
const GRID: usize = 4000;

/// How far, relatively, the KL of an optimum may be from the KL that was asked for.
const BUDGET_TOLERANCE: f64 = 1e-6;

/// Most mass that a step of the fixed point may still move at its end.
const SETTLED: f64 = 1e-6;

/// Draws of cells' masses that a budget on pools is averaged over, all pools together; each has one at least.
const CELL_DRAWS: usize = 2048;

/// What is done with the policy at test time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Procedure {
    /// The best of N answers is kept.
    BestOfN,
    /// The worst of N is what counts, as under attack.
    WorstOfN,
}

/// A law of answers by the quantile of their reward: its density at the midpoints of a uniform grid.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantileLaw {
    log_density: Vec<f64>,
}

impl QuantileLaw {
    /// `exp(w) / Z` for log-weights at the midpoints of a uniform grid.
    pub fn from_log_weights(weights: &[f64]) -> Self {
        let log_total = log_sum_exp(weights) - (weights.len() as f64).ln();
        Self { log_density: weights.iter().map(|w| w - log_total).collect() }
    }

    /// The optimum of a tilt with KL coefficient `beta`.
    pub fn of(tilt: &Tilt, beta: f64) -> Result<Self, InputError> {
        Self::on_cells(tilt, beta, GRID)
    }

    /// As [`QuantileLaw::of`], on a grid of so many cells: densities that are steep at an end need many.
    pub fn on_cells(tilt: &Tilt, beta: f64, cells: usize) -> Result<Self, InputError> {
        tilt.validate()?;
        in_range("beta", beta, "above 0", |b| b > 0.0)?;
        if cells == 0 {
            return Err(InputError::TooFew { what: "cells of the grid", least: 1 });
        }
        Ok(Self::from_log_weights(&values(tilt, cells).iter().map(|v| v / beta).collect::<Vec<_>>()))
    }

    /// The logarithm of the density at the midpoints.
    pub fn log_density(&self) -> &[f64] {
        &self.log_density
    }

    fn width(&self) -> f64 {
        1.0 / self.log_density.len() as f64
    }

    fn midpoint(&self, at: usize) -> f64 {
        (at as f64 + 0.5) * self.width()
    }

    /// The distribution function at the midpoints.
    fn cumulative(&self) -> Vec<f64> {
        let mut total = crate::numeric::Sum::default();
        let mut points = Vec::with_capacity(self.log_density.len());
        for log_density in &self.log_density {
            let mass = log_density.exp() * self.width();
            points.push((total.value() + 0.5 * mass).min(1.0));
            total.add(mass);
        }
        points
    }

    fn integral(&self, of: impl Fn(usize) -> f64) -> f64 {
        sum((0..self.log_density.len()).map(of)) * self.width()
    }

    /// `KL` from the reference, nats.
    pub fn kl(&self) -> f64 {
        self.integral(|at| self.log_density[at].exp() * self.log_density[at])
    }

    /// `KL(self ‖ other)`, nats, of laws on the same grid.
    pub fn kl_to(&self, other: &Self) -> f64 {
        self.integral(|at| {
            let log = self.log_density[at];
            log.exp() * (log - other.log_density[at])
        })
    }

    /// Win rate against the reference.
    pub fn win_rate(&self) -> f64 {
        self.integral(|at| self.log_density[at].exp() * self.midpoint(at))
    }

    /// Win rate of best-of-`n` (or worst-of-`n`) of this law against the same of the reference.
    pub fn win_rate_under(&self, procedure: Procedure, n: f64) -> f64 {
        let cumulative = self.cumulative();
        match procedure {
            Procedure::BestOfN => {
                1.0 - n * self.integral(|at| cumulative[at].powf(n) * self.midpoint(at).powf(n - 1.0))
            }
            Procedure::WorstOfN => {
                n * self
                    .integral(|at| (1.0 - cumulative[at]).powf(n) * (1.0 - self.midpoint(at)).powf(n - 1.0))
            }
        }
    }

    /// Derivative of the procedure's win rate with respect to the density, at the midpoints: minus what of
    /// `N^2 int` lies above
    /// each.
    pub fn slope(&self, procedure: Procedure, n: f64) -> Vec<f64> {
        self.slope_and_whole(procedure, n).0
    }

    /// The slope, and the size of the whole integral.
    fn slope_and_whole(&self, procedure: Procedure, n: f64) -> (Vec<f64>, f64) {
        let cumulative = self.cumulative();
        let mut above = 0.0;
        let mut values = vec![0.0; cumulative.len()];
        for at in (0..cumulative.len()).rev() {
            let (f, u) = (cumulative[at], self.midpoint(at));
            let rate = match procedure {
                Procedure::BestOfN => (f * u).powf(n - 1.0),
                Procedure::WorstOfN => ((1.0 - f) * (1.0 - u)).powf(n - 1.0),
            };
            let step = n * n * rate * self.width();
            values[at] = -(above + 0.5 * step);
            above += step;
        }
        (values, above)
    }

    /// The slope as a tilt of size 1: in `[0, 1]` for best-of-N, in `[-1, 0]` for worst-of-N, whose values at
    /// the top are far
    /// below the spacing of numbers near 1. A shift moves no optimum.
    fn unit_slope(&self, procedure: Procedure, n: f64) -> Vec<f64> {
        let (mut values, whole) = self.slope_and_whole(procedure, n);
        match procedure {
            Procedure::BestOfN => {
                let (low, high) = (values[0], values[values.len() - 1]);
                for value in &mut values {
                    *value = (*value - low) / (high - low);
                }
            }
            Procedure::WorstOfN => values.iter_mut().for_each(|value| *value /= whole),
        }
        values
    }

    /// Half of the sum of absolute differences in mass, of laws on the same grid.
    fn distance(&self, other: &Self) -> f64 {
        0.5 * self.integral(|at| (self.log_density[at].exp() - other.log_density[at].exp()).abs())
    }
}

/// A tilt, its coefficient, and what it promises where nothing ties and nothing is estimated.
#[derive(Clone, Debug, PartialEq)]
pub struct Design {
    /// The tilt.
    pub tilt: Tilt,
    /// KL coefficient.
    pub beta: f64,
    /// KL from the reference, nats.
    pub kl: f64,
    /// Win rate against the reference.
    pub win_rate: f64,
    /// Win rate of best-of-`n` against best-of-`n` of the reference.
    pub best_of: f64,
    /// Win rate of worst-of-`n` against worst-of-`n` of the reference.
    pub worst_of: f64,
}

impl Design {
    /// The design of a tilt with KL coefficient `beta`, judged with `n` answers.
    pub fn new(tilt: Tilt, beta: f64, n: f64) -> Result<Self, InputError> {
        at_least_one(n)?;
        let law = QuantileLaw::of(&tilt, beta)?;
        let (best_of, worst_of) =
            (law.win_rate_under(Procedure::BestOfN, n), law.win_rate_under(Procedure::WorstOfN, n));
        Ok(Self { tilt, beta, kl: law.kl(), win_rate: law.win_rate(), best_of, worst_of })
    }

    /// The design of a tilt that spends `kl` nats.
    pub fn of_budget(tilt: Tilt, kl: f64, n: f64) -> Result<Self, InputError> {
        tilt.validate()?;
        affordable(kl)?;
        let beta = 1.0 / inverse_beta(&[(values(&tilt, GRID), vec![1.0 / GRID as f64; GRID])], kl, 1.0);
        Self::new(tilt, beta, n)?.spending(kl)
    }

    /// The design, where it spends what was asked for.
    fn spending(self, kl: f64) -> Result<Self, InputError> {
        if (self.kl - kl).abs() <= BUDGET_TOLERANCE * kl {
            return Ok(self);
        }
        Err(InputError::Missed { what: "KL of the tilt's optimum in nats", asked: kl, reached: self.kl })
    }
}

/// The fixed-point tilt of a procedure with `n` answers that spends `kl` nats: of size 1, zero at the bottom
/// for best-of-N and at
/// the top for worst-of-N.
///
/// # Errors
/// Numbers out of range; the iteration does not settle, or its optimum does not spend `kl`.
pub fn fixed_point(procedure: Procedure, n: f64, kl: f64) -> Result<Design, InputError> {
    at_least_one(n)?;
    affordable(kl)?;
    let uniform = vec![1.0 / GRID as f64; GRID];
    let mut law = QuantileLaw::from_log_weights(&vec![0.0; GRID]);
    let mut inverse = 1.0;
    let mut phi = Vec::new();
    let mut unsettled = f64::INFINITY;
    for _ in 0..2000 {
        phi = law.unit_slope(procedure, n);
        inverse = inverse_beta(&[(phi.clone(), uniform.clone())], kl, inverse);
        let next = QuantileLaw::from_log_weights(&phi.iter().map(|v| inverse * v).collect::<Vec<_>>());
        let logs = next.log_density.iter().zip(&law.log_density);
        let change = logs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        unsettled = next.distance(&law);
        let mixed: Vec<f64> =
            law.log_density.iter().zip(&next.log_density).map(|(old, new)| 0.9 * old + 0.1 * new).collect();
        law = QuantileLaw::from_log_weights(&mixed);
        // Of worst-of-N densities are down to exp(-1e28), whose logarithms never settle and whose masses do
        // not matter.
        if change < 1e-9 || (procedure == Procedure::WorstOfN && unsettled < 1e-10) {
            break;
        }
    }
    if unsettled.is_nan() || unsettled > SETTLED {
        let what = "change of mass in a step of the fixed point";
        return Err(InputError::Missed { what, asked: 0.0, reached: unsettled });
    }
    Design::new(Tilt::Table(phi.into()), 1.0 / inverse, n)?.spending(kl)
}

/// The coefficient of a tilt that spends `kl` nats on average over prompts, given the cached rewards of each: ties leave
/// less to spend than the continuous limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budgeted {
    /// KL coefficient.
    pub beta: f64,
    /// Standard deviation of the KL of single prompts' optima, nats.
    pub spread: f64,
}

/// The tilt's values in the cells that a fresh answer may fall into, and the masses of the cells.
type CellLaw = (Vec<f64>, Vec<f64>);

/// Solves for the coefficient with which the optima spend `kl` nats on average over prompts.
///
/// A fresh answer falls into one of the M + 1 gaps between the M samples of a pool, or ties with some of
/// them. Where nothing
/// ties, the masses of the gaps under the reference are uniform on the simplex, whatever its distribution is,
/// and the mean over
/// draws of them is what the optima spend; with equal masses it would be off by up to a fifth at M = 8. A
/// class of tied samples has
/// the gaps between its own, and of a gap to a neighbour half.
///
/// An error says how much the ties leave.
pub fn beta_for_budget(tilt: &Tilt, pools: &[CachedRewards], kl: f64) -> Result<Budgeted, InputError> {
    tilt.validate()?;
    let laws = cell_laws(tilt, pools)?;
    let most = most_in_cells(&laws);
    in_range("KL budget in nats", kl, "above 0, and below what the ties of the pools leave", |kl| {
        kl > 0.0 && kl < 0.999 * most
    })?;
    let inverse = inverse_beta(&laws, kl, 1.0);
    let spent: Vec<f64> = laws.iter().map(|(phi, mass)| tilted_kl(phi, mass, inverse).0).collect();
    let centre = mean(&spent);
    if (centre - kl).abs() > BUDGET_TOLERANCE * kl {
        let what = "mean KL of the optima on the pools in nats";
        return Err(InputError::Missed { what, asked: kl, reached: centre });
    }
    let spread = mean(&spent.iter().map(|k| (k - centre).powi(2)).collect::<Vec<_>>()).sqrt();
    Ok(Budgeted { beta: 1.0 / inverse, spread })
}

/// The most nats that [`beta_for_budget`] can spend on these pools: that of the cell of the best rewards
/// alone.
pub fn most_affordable(pools: &[CachedRewards]) -> Result<f64, InputError> {
    Ok(most_in_cells(&cell_laws(&Tilt::Identity, pools)?))
}

fn most_in_cells(laws: &[CellLaw]) -> f64 {
    mean(&laws.iter().map(|(_, mass)| -mass[mass.len() - 1].ln()).collect::<Vec<_>>())
}

fn cell_laws(tilt: &Tilt, pools: &[CachedRewards]) -> Result<Vec<CellLaw>, InputError> {
    if pools.is_empty() {
        return Err(InputError::TooFew { what: "pools", least: 1 });
    }
    let draws = CELL_DRAWS.div_ceil(pools.len());
    let mut uniform = uniforms(0x9e37_79b9_7f4a_7c15);
    let mut laws = Vec::with_capacity(pools.len() * draws);
    for pool in pools {
        let cells = cells(pool)?;
        let phi: Vec<f64> = cells.iter().map(|cell| tilt.of_rank(cell.rank)).collect();
        for _ in 0..draws {
            // Exponential draws, divided by their sum, are uniform on the simplex.
            let gaps: Vec<f64> = (0..=pool.sorted().len()).map(|_| -(1.0 - uniform()).ln()).collect();
            let whole = sum(gaps.iter().copied());
            let mass = cells
                .iter()
                .map(|cell| sum(cell.gaps.iter().map(|(gap, share)| share * gaps[*gap])) / whole)
                .collect();
            laws.push((phi.clone(), mass));
        }
    }
    Ok(laws)
}

/// Where a fresh answer may fall among a pool's samples, and which shares of the gaps between them make up
/// the mass of that.
struct Cell {
    rank: Rank,
    gaps: Vec<(usize, f64)>,
}

/// The cells of a pool from the bottom up; gap `k` lies below the sample at place `k` and above the one
/// before it.
fn cells(pool: &CachedRewards) -> Result<Vec<Cell>, InputError> {
    let rewards = pool.sorted();
    let total = rewards.len();
    if total < 2 {
        return Err(InputError::TooFew { what: "samples of a pool", least: 2 });
    }
    let open = |place: usize, share: f64| Cell {
        rank: Rank { below: place, at_most: place, total },
        gaps: vec![(place, share)],
    };
    let mut cells: Vec<Cell> = Vec::new();
    let (mut below, mut tied_before) = (0, None);
    for class in rewards.chunk_by(|a, b| a == b) {
        let (at_most, tied) = (below + class.len(), class.len() > 1);
        // Of a gap between two classes of ties both have half; beside a sample that ties with none it is a
        // cell of its own.
        let (to_before, to_this, apart) = match (tied_before, tied) {
            (None, true) => (0.0, 1.0, 0.0),
            (None | Some(false), false) => (0.0, 0.0, 1.0),
            (Some(false), true) => (0.0, 0.5, 0.5),
            (Some(true), false) => (0.5, 0.0, 0.5),
            (Some(true), true) => (0.5, 0.5, 0.0),
        };
        if to_before > 0.0
            && let Some(before) = cells.last_mut()
        {
            before.gaps.push((below, to_before));
        }
        if apart > 0.0 {
            cells.push(open(below, apart));
        }
        if tied {
            let inner = (below + 1..at_most).map(|gap| (gap, 1.0));
            let gaps = std::iter::once((below, to_this)).chain(inner).collect();
            cells.push(Cell { rank: Rank { below, at_most, total }, gaps });
        }
        (below, tied_before) = (at_most, Some(tied));
    }
    match cells.last_mut() {
        Some(top) if tied_before == Some(true) => top.gaps.push((total, 1.0)),
        _ => cells.push(open(total, 1.0)),
    }
    Ok(cells)
}

/// Numbers in `[0, 1)` by `SplitMix64`, the same in every run.
fn uniforms(mut state: u64) -> impl FnMut() -> f64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The most nats that a law on the pools' own samples can spend on average over prompts: that of the samples
/// of the best reward
/// alone, `-log` of their share of each pool.
pub fn most_on_average(pools: &[CachedRewards]) -> f64 {
    let spent = pools.iter().map(|pool| {
        let rewards = pool.sorted();
        let best = rewards.iter().filter(|r| **r == rewards[rewards.len() - 1]).count();
        -(best as f64 / rewards.len() as f64).ln()
    });
    mean(&spent.collect::<Vec<_>>())
}

fn values(tilt: &Tilt, cells: usize) -> Vec<f64> {
    (0..cells).map(|at| tilt.at((at as f64 + 0.5) / cells as f64)).collect()
}

fn at_least_one(n: f64) -> Result<(), InputError> {
    in_range("N of the procedure", n, "between 1 and 1000", |n| (1.0..=1000.0).contains(&n))
}

fn affordable(kl: f64) -> Result<(), InputError> {
    in_range("KL budget in nats", kl, "above 0 and at most 5", |kl| kl > 0.0 && kl <= 5.0)
}

/// KL to `mass` of its tilt by `inverse * phi`, and the derivative with respect to `log inverse`, `inverse^2 Var(phi)`.
fn tilted_kl(phi: &[f64], mass: &[f64], inverse: f64) -> (f64, f64) {
    let most = phi.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if inverse * most == f64::INFINITY {
        // A shift moves no optimum.
        return tilted_kl(&phi.iter().map(|v| v - most).collect::<Vec<_>>(), mass, inverse);
    }
    let logs: Vec<f64> = phi.iter().zip(mass).map(|(v, q)| q.ln() + inverse * v).collect();
    let log_total = log_sum_exp(&logs);
    let law: Vec<f64> = logs.iter().map(|l| (l - log_total).exp()).collect();
    let mean = sum(law.iter().zip(phi).map(|(p, v)| p * v));
    let variance = sum(law.iter().zip(phi).map(|(p, v)| p * (v - mean).powi(2)));
    (inverse * mean - log_total, inverse * inverse * variance)
}

/// The `1 / beta` with which the tilts of laws, each its values and their masses, spend `kl` nats on average: Newton's method in
/// its logarithm from `start`, kept within a bracket. The KL of an exponential family increases with its parameter, so there is
/// one wherever the laws have so much to spend.
pub fn inverse_beta(laws: &[(Vec<f64>, Vec<f64>)], kl: f64, start: f64) -> f64 {
    let at = |log: f64| {
        let parts: Vec<(f64, f64)> = laws.iter().map(|(phi, mass)| tilted_kl(phi, mass, log.exp())).collect();
        let count = parts.len() as f64;
        (sum(parts.iter().map(|p| p.0)) / count - kl, sum(parts.iter().map(|p| p.1)) / count)
    };
    // As wide as numbers go: worst-of-N has coefficients of 1e28 and far more.
    let (mut low, mut high) = (-700.0_f64, 700.0_f64);
    let mut log = start.ln();
    for _ in 0..400 {
        let (excess, slope) = at(log);
        if excess > 0.0 {
            high = log;
        } else {
            low = log;
        }
        if excess.abs() < 1e-13 || high - low < 1e-14 {
            break;
        }
        // Without a slope all mass is where it can go, and the bracket is halved.
        let newton = if slope > 0.0 { log - (excess / slope).clamp(-2.0, 2.0) } else { f64::NAN };
        log = if newton.is_finite() && newton > low && newton < high { newton } else { 0.5 * (low + high) };
    }
    log.exp()
}

#[cfg(test)]
mod tests;
