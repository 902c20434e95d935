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

use crate::error::{InputError, in_range};
use crate::numeric::{log_sum_exp, mean, sum};
use crate::rank::CachedRewards;
use crate::tilt::Tilt;

/// Midpoints of the grid that integrals are taken on.
const GRID: usize = 4000;

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
        tilt.validate()?;
        in_range("beta", beta, "above 0", |b| b > 0.0)?;
        Ok(Self::from_log_weights(&values(tilt).iter().map(|v| v / beta).collect::<Vec<_>>()))
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

    /// Derivative of the procedure's win rate with respect to the density, at the midpoints.
    pub fn slope(&self, procedure: Procedure, n: f64) -> Vec<f64> {
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
        values
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
        let beta = 1.0 / inverse_beta(&[(values(&tilt), vec![1.0 / GRID as f64; GRID])], kl, 1.0);
        Self::new(tilt, beta, n)
    }
}

/// The fixed-point tilt of a procedure with `n` answers that spends `kl` nats, normalised to `[0, 1]`.
pub fn fixed_point(procedure: Procedure, n: f64, kl: f64) -> Result<Design, InputError> {
    at_least_one(n)?;
    affordable(kl)?;
    let uniform = vec![1.0 / GRID as f64; GRID];
    let mut law = QuantileLaw::from_log_weights(&vec![0.0; GRID]);
    let mut inverse = 1.0;
    let mut phi = Vec::new();
    for _ in 0..2000 {
        phi = unit(law.slope(procedure, n));
        inverse = inverse_beta(&[(phi.clone(), uniform.clone())], kl, inverse);
        let next =
            QuantileLaw::from_log_weights(&phi.iter().map(|v| inverse * v).collect::<Vec<_>>()).log_density;
        let change = next.iter().zip(&law.log_density).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        let mixed: Vec<f64> =
            law.log_density.iter().zip(&next).map(|(old, new)| 0.9 * old + 0.1 * new).collect();
        law = QuantileLaw::from_log_weights(&mixed);
        if change < 1e-9 {
            break;
        }
    }
    Design::new(Tilt::Table(phi.into()), 1.0 / inverse, n)
}

/// The coefficient of a tilt that spends `kl` nats on average over prompts, given the cached rewards of each: ties leave
/// less to spend than the continuous limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budgeted {
    /// KL coefficient.
    pub beta: f64,
    /// Standard deviation over prompts of the KL of their optima, nats.
    pub spread: f64,
}

/// Solves for the coefficient with which the optima spend `kl` nats on average.
///
/// Each sample of a pool stands for a fresh answer and is ranked among the *others*: among all, it would count itself, and
/// the optimum would spend more than was asked for. An error says how much the ties leave.
pub fn beta_for_budget(tilt: &Tilt, pools: &[CachedRewards], kl: f64) -> Result<Budgeted, InputError> {
    tilt.validate()?;
    if pools.is_empty() {
        return Err(InputError::TooFew { what: "pools", least: 1 });
    }
    let mut laws = Vec::with_capacity(pools.len());
    for pool in pools {
        let (mut phi, mut mass) = (Vec::new(), Vec::new());
        let rewards = pool.sorted();
        if rewards.len() < 2 {
            return Err(InputError::TooFew { what: "samples of a pool", least: 2 });
        }
        for class in rewards.chunk_by(|a, b| a == b) {
            phi.push(tilt.of_rank(pool.rank(class[0])?.among_others()));
            mass.push(class.len() as f64 / rewards.len() as f64);
        }
        laws.push((phi, mass));
    }
    let most = most_on_average(pools);
    in_range("KL budget in nats", kl, "above 0, and below what the ties of the pools leave", |kl| {
        kl > 0.0 && kl < 0.999 * most
    })?;
    let inverse = inverse_beta(&laws, kl, 1.0);
    let spent: Vec<f64> = laws.iter().map(|(phi, mass)| tilted_kl(phi, mass, inverse).0).collect();
    let centre = mean(&spent);
    let spread = mean(&spent.iter().map(|k| (k - centre).powi(2)).collect::<Vec<_>>()).sqrt();
    Ok(Budgeted { beta: 1.0 / inverse, spread })
}

/// The most nats that a rank-based optimum can spend on average over prompts: that of the answers of the best reward alone,
/// `-log` of their share of each pool.
pub fn most_on_average(pools: &[CachedRewards]) -> f64 {
    let spent = pools.iter().map(|pool| {
        let rewards = pool.sorted();
        let best = rewards.iter().filter(|r| **r == rewards[rewards.len() - 1]).count();
        -(best as f64 / rewards.len() as f64).ln()
    });
    mean(&spent.collect::<Vec<_>>())
}

fn values(tilt: &Tilt) -> Vec<f64> {
    (0..GRID).map(|at| tilt.at((at as f64 + 0.5) / GRID as f64)).collect()
}

/// Shifts and scales to `[0, 1]`: the optimum at a given KL does not change.
fn unit(mut values: Vec<f64>) -> Vec<f64> {
    let (low, high) = (values[0], values[values.len() - 1]);
    for value in &mut values {
        *value = (*value - low) / (high - low);
    }
    values
}

fn at_least_one(n: f64) -> Result<(), InputError> {
    in_range("N of the procedure", n, "between 1 and 1000", |n| (1.0..=1000.0).contains(&n))
}

fn affordable(kl: f64) -> Result<(), InputError> {
    in_range("KL budget in nats", kl, "above 0 and at most 5", |kl| kl > 0.0 && kl <= 5.0)
}

/// KL to `mass` of its tilt by `inverse * phi`, and the derivative with respect to `log inverse`, `inverse^2 Var(phi)`.
fn tilted_kl(phi: &[f64], mass: &[f64], inverse: f64) -> (f64, f64) {
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
    let (mut low, mut high) = (-60.0_f64, 60.0_f64);
    let mut log = start.ln();
    for _ in 0..200 {
        let (excess, slope) = at(log);
        if excess > 0.0 {
            high = log;
        } else {
            low = log;
        }
        if excess.abs() < 1e-13 || high - low < 1e-14 {
            break;
        }
        let newton = log - (excess / slope).clamp(-2.0, 2.0);
        log = if newton.is_finite() && newton > low && newton < high { newton } else { 0.5 * (low + high) };
    }
    log.exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(what: &str, got: f64, want: f64) {
        assert!((got - want).abs() < 1e-3, "{what}: {got} and not {want}");
    }

    #[test]
    fn win_rates_at_matched_kl_are_those_of_the_published_table() {
        let exponential = |t| Tilt::Exponential { t };
        let none = f64::NAN;
        let table = [
            (Tilt::Identity, [0.7737, 0.7998, 0.8860, 0.8646, 0.8770, 0.9745]),
            (Tilt::Log, [0.7682, 0.7682, 0.9270, 0.8631, 0.8631, 0.9859]),
            (Tilt::Power { exponent: 2.0 }, [0.7691, 0.8239, 0.8302, 0.8616, 0.8920, 0.9419]),
            (exponential(5.0), [0.7461, 0.8566, 0.7465, 0.8390, 0.9192, 0.8572]),
            (exponential(10.0), [0.7117, 0.8715, none, 0.8010, 0.9351, none]),
            (exponential(-5.0), [0.7539, 0.7230, 0.9439, 0.8567, 0.8352, 0.9912]),
            (exponential(-10.0), [0.7358, 0.6859, 0.9476, 0.8479, 0.8095, 0.9927]),
        ];
        for (tilt, row) in table {
            for (kl, want) in [0.5, 1.0].into_iter().zip(row.chunks_exact(3)) {
                let design = Design::of_budget(tilt.clone(), kl, 4.0).expect("in range");
                assert!((design.kl - kl).abs() < 1e-9);
                let got = [design.win_rate, design.best_of, design.worst_of];
                for (got, want) in got.into_iter().zip(want).filter(|(_, want)| !want.is_nan()) {
                    close(&format!("{tilt:?} at {kl}"), got, *want);
                }
            }
        }
    }

    #[test]
    fn fixed_points_win_most_under_their_procedure() {
        for (procedure, kl, want) in [
            (Procedure::BestOfN, 0.5, 0.8733),
            (Procedure::BestOfN, 1.0, 0.9411),
            (Procedure::WorstOfN, 0.5, 0.9479),
            (Procedure::WorstOfN, 1.0, 0.9929),
        ] {
            let design = fixed_point(procedure, 4.0, kl).expect("in range");
            assert!((design.kl - kl).abs() < 1e-6, "{procedure:?}: {}", design.kl);
            let got = if procedure == Procedure::BestOfN { design.best_of } else { design.worst_of };
            close(&format!("{procedure:?} at {kl}"), got, want);
            for t in [5.0, 10.0, -5.0, -10.0] {
                let other = Design::of_budget(Tilt::Exponential { t }, kl, 4.0).expect("in range");
                let other = if procedure == Procedure::BestOfN { other.best_of } else { other.worst_of };
                assert!(got > other, "{procedure:?} at {kl} against t = {t}");
            }
        }
    }

    #[test]
    fn the_fixed_point_of_one_answer_is_the_identity() {
        let design = fixed_point(Procedure::BestOfN, 1.0, 0.5).expect("in range");
        let identity = Design::of_budget(Tilt::Identity, 0.5, 1.0).expect("in range");
        assert!((design.win_rate - identity.win_rate).abs() < 1e-6);
        assert!((design.best_of - design.win_rate).abs() < 1e-6);
    }

    #[test]
    fn best_of_n_distilled_gains_nothing_more_from_best_of_n() {
        for a in [1.0_f64, 2.5, 8.0] {
            let weights: Vec<f64> =
                (0..GRID).map(|at| (a - 1.0) * ((at as f64 + 0.5) / GRID as f64).ln()).collect();
            let law = QuantileLaw::from_log_weights(&weights);
            for n in [1.0, 2.0, 4.0, 7.5] {
                let got = law.win_rate_under(Procedure::BestOfN, n);
                assert!((got - a / (a + 1.0)).abs() < 1e-4, "a = {a}, N = {n}: {got}");
            }
            let beta = 0.4;
            let log = QuantileLaw::of(&Tilt::Log, beta).expect("in range");
            assert!((log.kl() - crate::bon::kl_bound(1.0 + 1.0 / beta)).abs() < 1e-3);
        }
    }

    #[test]
    fn the_reference_wins_half_and_slopes_are_derivatives() {
        let reference = QuantileLaw::from_log_weights(&vec![0.0; GRID]);
        assert!((reference.win_rate() - 0.5).abs() < 1e-12 && reference.kl().abs() < 1e-12);
        let law = QuantileLaw::of(&Tilt::Identity, 0.3).expect("in range");
        // A little mass moved towards a quantile: the win rate changes by the slope there less the mean slope.
        for procedure in [Procedure::BestOfN, Procedure::WorstOfN] {
            assert!((reference.win_rate_under(procedure, 4.0) - 0.5).abs() < 1e-4);
            let slope = law.slope(procedure, 4.0);
            for at in [400, 2000, 3600] {
                let epsilon = 1e-4;
                let moved: Vec<f64> = law
                    .log_density
                    .iter()
                    .enumerate()
                    .map(|(i, l)| {
                        let bump = if i == at { GRID as f64 } else { 0.0 };
                        ((1.0 - epsilon) * l.exp() + epsilon * bump).ln()
                    })
                    .collect();
                let moved = QuantileLaw::from_log_weights(&moved);
                let change =
                    (moved.win_rate_under(procedure, 4.0) - law.win_rate_under(procedure, 4.0)) / epsilon;
                let mean = law.integral(|i| law.log_density[i].exp() * slope[i]);
                assert!(
                    (change - (slope[at] - mean)).abs() < 3e-3 * (1.0 + change.abs()),
                    "{procedure:?} {at}"
                );
            }
        }
    }

    #[test]
    fn the_identity_has_its_closed_form() {
        for beta in [0.2_f64, 0.5, 2.0] {
            let design = Design::new(Tilt::Identity, beta, 1.0).expect("in range");
            let want = 1.0 / (1.0 - (-1.0 / beta).exp()) - beta;
            assert!((design.win_rate - want).abs() < 1e-6, "beta = {beta}");
        }
    }

    #[test]
    fn a_budget_on_pools_reckons_with_ties() {
        let distinct = CachedRewards::new((0..512).map(f64::from).collect()).expect("finite");
        let halves = CachedRewards::new((0..512).map(|i| f64::from(i / 256)).collect()).expect("finite");
        let fine =
            beta_for_budget(&Tilt::Identity, std::slice::from_ref(&distinct), 0.5).expect("there is one");
        let limit = Design::of_budget(Tilt::Identity, 0.5, 1.0).expect("in range");
        assert!((fine.beta / limit.beta - 1.0).abs() < 1e-2 && fine.spread < 1e-12);
        let both = beta_for_budget(&Tilt::Identity, &[distinct, halves.clone()], 0.5).expect("there is one");
        assert!(both.beta < fine.beta && both.spread > 0.1);
        assert!((most_on_average(std::slice::from_ref(&halves)) - 2.0_f64.ln()).abs() < 1e-12);
        let error = beta_for_budget(&Tilt::Identity, &[halves], 0.8).expect_err("log 2 is the most");
        assert!(error.to_string().contains("ties"), "{error}");
    }

    #[test]
    fn a_budget_solved_on_small_pools_is_what_fresh_answers_spend() {
        let mut state = 5_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        for (samples, off) in [(8, 0.25), (32, 0.1)] {
            for tilt in [Tilt::Identity, Tilt::Exponential { t: 5.0 }] {
                let mut pool = || CachedRewards::new((0..samples).map(|_| uniform()).collect());
                let pools: Vec<CachedRewards> = (0..100).map(|_| pool().expect("finite")).collect();
                let beta = beta_for_budget(&tilt, &pools, 0.5).expect("there is one").beta;
                let spent = crate::oracle::estimated(&tilt, beta, samples, 1.0, 100, &mut uniform);
                let spent = spent.expect("in range").promise.kl;
                assert!((spent / 0.5 - 1.0).abs() < off, "{tilt:?}, {samples} samples: {spent}");
            }
        }
    }

    #[test]
    fn budgets_and_numbers_out_of_range_are_refused() {
        assert!(fixed_point(Procedure::BestOfN, 0.5, 0.5).is_err());
        assert!(fixed_point(Procedure::BestOfN, 4.0, 0.0).is_err());
        assert!(Design::of_budget(Tilt::Identity, 9.0, 4.0).is_err());
        assert!(Design::new(Tilt::Identity, 0.0, 4.0).is_err());
        assert!(beta_for_budget(&Tilt::Identity, &[], 0.5).is_err());
    }
}
