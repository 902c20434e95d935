//! The win-rate game against oneself (WIND): `pi*` is the best answer to itself,
//! `pi* = argmax E_{y ~ pi} P(y > pi*) - beta KL(pi || ref)`, with the fixed point `ref exp(P(. > pi*) / beta) / Z`.
//!
//! The exact iterate with step `eta` is `pi_t^a ref^c exp(d P(. > pi_t)) / Z` with `a = 1/(1 + beta eta)`,
//! `c = beta eta a`, `d = eta a`. Trained, it is a squared loss of log-probabilities on answers of `pi_t` (Yang et al. 2025);
//! at `beta -> 0` that is SPPO's. With `log P` in the place of `P` the game is that of iterated best-of-N.

use crate::algebra::{AnchorSample, Draws, Group, Objective, Record, Term, TermLoss, Terms};
use crate::error::{InputError, in_range, same_length};
use crate::law::{check, expectation, tilt};

/// Strength of the regularisation and the step of an iterate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Game {
    /// KL coefficient, at least 0; 0 is SPPO, which has no equilibrium at a finite distance.
    pub beta: f64,
    /// Step, above 0.
    pub eta: f64,
}

/// What a player is paid for a win rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payoff {
    /// The win rate (WIND).
    WinRate,
    /// Its logarithm (iterated best-of-N).
    Log,
}

impl Game {
    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("beta of the game", self.beta, "at least 0", |b| b >= 0.0)?;
        in_range("eta of the game", self.eta, "above 0", |e| e > 0.0)
    }

    /// `(a, c, d)`: the exponents of the current policy, of the reference, and of the payoff.
    pub fn exponents(&self) -> (f64, f64, f64) {
        let a = 1.0 / (1.0 + self.beta * self.eta);
        (a, self.beta * self.eta * a, self.eta * a)
    }

    /// The log-probability that an answer of `pi_t` is to have: `a log pi_t + c log ref + d (w - 1/2)`, where the half stands
    /// for the logarithm of the normaliser. A constant does not move the stationary point.
    pub fn target(&self, log_current: f64, log_reference: f64, win_rate: f64) -> f64 {
        let (a, c, d) = self.exponents();
        a * log_current + c * log_reference + d * (win_rate - 0.5)
    }

    /// The exact next law, for preferences `preference[y][z] = P(y > z)` (ties one half).
    pub fn step(
        &self,
        payoff: Payoff,
        current: &[f64],
        reference: &[f64],
        preference: &[Vec<f64>],
    ) -> Result<Vec<f64>, InputError> {
        self.validate()?;
        check("reference", reference)?;
        let paid = payoffs(payoff, current, preference)?;
        let (a, c, d) = self.exponents();
        // Relative to the current law the weights are pi^(a-1) ref^c exp(d paid), and a - 1 = -c.
        let weights: Vec<f64> =
            (0..current.len()).map(|y| c * (reference[y].ln() - current[y].ln()) + d * paid[y]).collect();
        debug_assert!((a + c - 1.0).abs() < 1e-12);
        Ok(tilt(current, &weights)?.law)
    }

    /// Largest difference of a law from `ref exp(payoff / beta) / Z`, its own best answer.
    pub fn residual(
        &self,
        payoff: Payoff,
        law: &[f64],
        reference: &[f64],
        preference: &[Vec<f64>],
    ) -> Result<f64, InputError> {
        in_range("beta of the game", self.beta, "above 0", |b| b > 0.0)?;
        let paid = payoffs(payoff, law, preference)?;
        let best = tilt(reference, &paid.iter().map(|w| w / self.beta).collect::<Vec<_>>())?.law;
        Ok(best.iter().zip(law).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max))
    }
}

/// What each answer earns against a law.
fn payoffs(payoff: Payoff, law: &[f64], preference: &[Vec<f64>]) -> Result<Vec<f64>, InputError> {
    same_length("rows of the preference", law.len(), preference.len())?;
    preference
        .iter()
        .map(|row| {
            same_length("preferences", law.len(), row.len())?;
            let rate = expectation(law, row);
            Ok(if payoff == Payoff::Log { rate.ln() } else { rate })
        })
        .collect()
}

/// How two answers are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Preference {
    /// The larger reward wins; ties count one half.
    Rank,
    /// `sigmoid((r - r') / scale)` (Bradley–Terry).
    Logistic {
        /// Divides the difference, above 0.
        scale: f64,
    },
}

impl Preference {
    /// The probability that an answer of reward `r` beats one of reward `other`.
    pub fn of(self, r: f64, other: f64) -> f64 {
        match self {
            Self::Rank if r == other => 0.5,
            Self::Rank => f64::from(u8::from(r > other)),
            Self::Logistic { scale } => crate::numeric::sigmoid((r - other) / scale),
        }
    }
}

/// How a round of WIND learns the next iterate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WindLoss {
    /// Regression of log-probabilities.
    #[default]
    Squared,
    /// `KL(next ‖ pi)` up to a factor and a constant: likelihood of the answers, weighted by the iterate's ratio to the
    /// round's policy.
    Kl,
    /// Noise-contrastive estimation with the round's policy as noise and the iterate as data, which is the noise weighted by
    /// its ratio ([`TermLoss::Contrast`]). With the exact ratio the loss is least at the iterate. Here, as in the squared
    /// loss, a half stands for the logarithm of the ratio's normaliser: a normaliser counted among the few answers of a
    /// prompt would depend on each of them, and its bias is larger than that of a constant.
    Nce,
}

/// Weights of mean `exp(d (w - 1/2))`, `w` a win rate, from a few comparisons of that rate.
///
/// `exp(d (w_hat - 1/2))` of a counted rate is larger on average: at `d = 3` and three comparisons the
/// equilibrium of the rounds is 3.1
/// nats from the reference instead of 2.7. A polynomial of a degree up to the number of comparisons has
/// unbiased estimates: that of
/// `(w - 1/2)^j` is the mean product of j different comparisons less one half each. The exponential is
/// interpolated by such a
/// polynomial at Chebyshev's points.
#[derive(Clone, Debug, PartialEq)]
pub struct UnbiasedExponential {
    coefficients: Vec<f64>,
    rate: f64,
}

/// Highest degree of the polynomial in the place of the exponential.
const MOST_DEGREE: usize = 8;

impl UnbiasedExponential {
    /// That of rate `d` from so many comparisons.
    pub fn new(d: f64, comparisons: usize) -> Self {
        let degree = comparisons.min(MOST_DEGREE);
        let count = degree + 1;
        let point = |at: usize| 0.5 * (std::f64::consts::PI * (at as f64 + 0.5) / count as f64).cos();
        let points: Vec<f64> = (0..count).map(point).collect();
        // Newton's divided differences, then the coefficients of powers.
        let mut differences: Vec<f64> = points.iter().map(|v| (d * v).exp()).collect();
        for order in 1..count {
            for at in (order..count).rev() {
                let step = points[at] - points[at - order];
                differences[at] = (differences[at] - differences[at - 1]) / step;
            }
        }
        let mut coefficients = vec![0.0; count];
        for at in (0..count).rev() {
            for power in (1..count).rev() {
                coefficients[power] = coefficients[power - 1] - points[at] * coefficients[power];
            }
            coefficients[0] = differences[at] - points[at] * coefficients[0];
        }
        Self { coefficients, rate: d }
    }

    /// The mean weight at a win rate.
    pub fn mean(&self, win_rate: f64) -> f64 {
        self.coefficients.iter().rev().fold(0.0, |sum, c| sum * (win_rate - 0.5) + c)
    }

    /// The weight of an answer with these outcomes of comparisons, each between 0 and 1; as many as the
    /// polynomial was made for, or
    /// more.
    pub fn weight(&self, outcomes: &[f64]) -> f64 {
        let count = outcomes.len();
        // Elementary symmetric polynomials, each divided by its number of products as it grows.
        let mut means = vec![0.0; self.coefficients.len()];
        means[0] = 1.0;
        for (place, outcome) in outcomes.iter().enumerate() {
            for power in (1..means.len().min(place + 2)).rev() {
                means[power] += (outcome - 0.5) * means[power - 1];
            }
        }
        let mut choices = 1.0;
        let mut weight = 0.0;
        for (power, (c, mean)) in self.coefficients.iter().zip(means).enumerate() {
            weight += c * mean / choices;
            choices *= count.saturating_sub(power) as f64 / (power as f64 + 1.0);
            if choices == 0.0 {
                break;
            }
        }
        weight
    }

    /// The largest error of the logarithm of the mean weight over all win rates, relative to the rate `d`;
    /// infinite where a mean or
    /// a weight of wins and losses is not positive, as of a rate far above the number of comparisons.
    pub fn error(&self, comparisons: usize) -> f64 {
        let weights = (0..=comparisons).map(|wins| {
            let outcomes: Vec<f64> = (0..comparisons).map(|at| f64::from(u8::from(at < wins))).collect();
            self.weight(&outcomes)
        });
        let means: Vec<f64> = (0..=200).map(|at| self.mean(f64::from(at) / 200.0)).collect();
        if weights.chain(means.iter().copied()).any(|weight| !(weight > 0.0 && weight.is_finite())) {
            return f64::INFINITY;
        }
        let miss = |(at, mean): (usize, &f64)| (mean.ln() - self.rate * (at as f64 / 200.0 - 0.5)).abs();
        means.iter().enumerate().map(miss).fold(0.0, f64::max) / self.rate
    }
}

/// WIND: answers of the current round's policy, the anchor, are given the log-probability that the next exact iterate has, or
/// its share of their likelihood, their win rate estimated among each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Wind {
    /// The loss.
    pub loss: WindLoss,
    /// The game.
    pub game: Game,
    /// How answers are compared.
    pub preference: Preference,
    /// Answers of the anchor for each prompt, at least 2.
    pub samples: usize,
}

impl Objective for Wind {
    fn draws(&self) -> Draws {
        Draws { policy: 0, anchor: self.samples }
    }

    fn terms(&self, groups: &[Group<'_>], record: &mut Record<'_>) -> Result<Vec<Terms>, InputError> {
        let divisor = groups.iter().map(|group| group.anchor.len()).sum::<usize>() as f64;
        let mut all = Vec::with_capacity(groups.len());
        for group in groups {
            let samples = &group.anchor;
            if samples.len() < 2 {
                return Err(InputError::TooFew { what: "samples of the anchor", least: 2 });
            }
            let mut targets = Vec::with_capacity(samples.len());
            let mut ratios = Vec::with_capacity(samples.len());
            let (_, c, d) = self.game.exponents();
            let exponential = UnbiasedExponential::new(d, samples.len() - 1);
            let mut silent = true;
            for (index, sample) in samples.iter().enumerate() {
                let others = samples.iter().enumerate().filter(|(other, _)| *other != index);
                let outcomes: Vec<f64> =
                    others.map(|(_, other)| self.preference.of(sample.reward, other.reward)).collect();
                let rate = outcomes.iter().sum::<f64>() / outcomes.len() as f64;
                silent &= rate == 0.5;
                targets.push(self.game.target(sample.log_anchor, sample.log_reference, rate));
                let pulled = (c * (sample.log_reference - sample.log_anchor)).exp();
                ratios.push(pulled * exponential.weight(&outcomes));
                record("objective/scores", sample.reward, 1.0);
            }
            record("frac_reward_zero_std", f64::from(u8::from(silent)), 1.0);
            let losses: Vec<TermLoss> = match self.loss {
                WindLoss::Squared => {
                    targets.iter().map(|target| TermLoss::Squared { target: *target }).collect()
                }
                // Without the normaliser, which weighs prompts and moves no prompt's optimum.
                WindLoss::Kl => ratios.iter().map(|ratio| TermLoss::Linear(-ratio)).collect(),
                WindLoss::Nce => {
                    let contrast = |(ratio, sample): (&f64, &AnchorSample)| TermLoss::Contrast {
                        noise: sample.log_anchor,
                        weight: *ratio,
                    };
                    ratios.iter().zip(samples).map(contrast).collect()
                }
            };
            let anchor = losses.into_iter().map(|loss| Some(Term { loss, divisor })).collect();
            all.push(Terms { policy: Vec::new(), anchor });
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bon::kl_bound;
    use crate::law::{kl, win_rate};

    /// Preferences by a fixed pattern, without order: rock, paper, scissors and worse.
    fn intransitive(size: usize) -> Vec<Vec<f64>> {
        let above = |y: usize, z: usize| 0.5 + 0.5 * ((y * 7 + z * 13 + y * z) as f64).sin();
        (0..size)
            .map(|y| {
                (0..size)
                    .map(|z| match y.cmp(&z) {
                        std::cmp::Ordering::Less => above(y, z),
                        std::cmp::Ordering::Equal => 0.5,
                        std::cmp::Ordering::Greater => 1.0 - above(z, y),
                    })
                    .collect()
            })
            .collect()
    }

    fn ordered(size: usize) -> Vec<Vec<f64>> {
        let of = |y: usize, z: usize| Preference::Rank.of(y as f64, z as f64);
        (0..size).map(|y| (0..size).map(|z| of(y, z)).collect()).collect()
    }

    fn solve(
        game: Game,
        payoff: Payoff,
        reference: &[f64],
        preference: &[Vec<f64>],
        steps: usize,
    ) -> Vec<f64> {
        let mut law = reference.to_vec();
        for _ in 0..steps {
            law = game.step(payoff, &law, reference, preference).expect("laws");
        }
        law
    }

    #[test]
    fn exact_iterates_converge_on_intransitive_games() {
        let reference = [0.3, 0.1, 0.2, 0.15, 0.05, 0.2];
        let preference = intransitive(6);
        for beta in [0.1, 0.5] {
            for eta in [0.05, 0.2, 1.0] {
                let game = Game { beta, eta };
                let end = solve(game, Payoff::WinRate, &reference, &preference, 20_000);
                let residual = game.residual(Payoff::WinRate, &end, &reference, &preference).expect("laws");
                assert!(residual < 1e-8, "beta {beta}, eta {eta}: {residual}");
                let (early, late) = (10, 60);
                let at = |steps| kl(&end, &solve(game, Payoff::WinRate, &reference, &preference, steps));
                let rate = (at(late) / at(early)).max(1e-13).ln() / f64::from(50);
                assert!(rate <= -(1.0 + eta * beta).ln() + 1e-3, "beta {beta}, eta {eta}: {rate}");
            }
        }
    }

    #[test]
    fn equilibria_of_ordered_answers_have_their_closed_forms() {
        let size = 300;
        let reference = vec![1.0 / size as f64; size];
        let rewards: Vec<f64> = (0..size).map(|y| y as f64).collect();
        let preference = ordered(size);
        for beta in [0.5_f64, 0.2] {
            let end = solve(Game { beta, eta: 1.0 }, Payoff::WinRate, &reference, &preference, 300);
            let k = 1.0 - (-1.0 / beta).exp();
            let (want_kl, want_win) = ((beta * k).ln() + 1.0 / (2.0 * beta), 1.0 / k - beta);
            assert!((kl(&end, &reference) - want_kl).abs() < 1e-3, "KL at {beta}");
            assert!((win_rate(&end, &reference, &rewards).expect("laws") - want_win).abs() < 1e-3);
            // The tilt of the calibrated reward wins as often at the same beta, for less KL.
            let quantiles: Vec<f64> = rewards.iter().map(|r| (r + 0.5) / size as f64 / beta).collect();
            let ctrl = tilt(&reference, &quantiles).expect("law").law;
            assert!((win_rate(&ctrl, &reference, &rewards).expect("laws") - want_win).abs() < 1e-3);
            assert!(kl(&end, &reference) > kl(&ctrl, &reference) + 5e-3);
        }
    }

    #[test]
    fn weights_of_a_few_comparisons_have_the_mean_of_the_exponential() {
        use crate::draw::Exhaustive;

        for (comparisons, d) in [(1, 0.15), (2, 0.8), (3, 5.0 / 6.0), (3, 2.0), (4, 10.0 / 3.0), (12, 6.0)] {
            let exponential = UnbiasedExponential::new(d, comparisons);
            assert!(exponential.error(comparisons) < 0.01, "{comparisons} {d}");
            // All outcomes of comparisons that are won with probability w, or tied.
            for (win, tie) in [(0.0, 0.0), (0.3, 0.0), (0.2, 0.5), (1.0, 0.0)] {
                let law = [1.0 - win - tie, tie, win].map(f64::ln);
                let outcomes = [0.0, 0.5, 1.0];
                if comparisons <= 4 {
                    let mean = Exhaustive::mean(|draw| {
                        let drawn: Vec<f64> = (0..comparisons).map(|_| outcomes[draw.pick(&law)]).collect();
                        vec![exponential.weight(&drawn)]
                    });
                    let rate = win + 0.5 * tie;
                    let (mean, want) = (mean.expect("finite")[0], exponential.mean(rate));
                    assert!(
                        (mean - want).abs() < 1e-12,
                        "{comparisons} {d} at {rate}: {mean} and not {want}"
                    );
                }
            }
            for at in 0..=20 {
                let rate = f64::from(at) / 20.0;
                let (mean, want) = (exponential.mean(rate), (d * (rate - 0.5)).exp());
                assert!(
                    (mean / want).ln().abs() < 0.011 * d,
                    "{comparisons} {d} at {rate}: {mean} and not {want}"
                );
            }
        }
        // One comparison knows a line alone, and a weight below zero is none.
        assert!(UnbiasedExponential::new(5.0 / 6.0, 1).error(1) > 0.01);
        assert!(UnbiasedExponential::new(10.0, 3).error(3) > 0.01);
    }

    /// The equilibrium of rounds whose weights have the mean `exp` of the win rate: its KL and win rate where
    /// nothing ties.
    fn equilibrium_of_rounds(game: Game, weight: impl Fn(f64) -> f64) -> (f64, f64) {
        const CELLS: usize = 2000;
        let (a, ..) = game.exponents();
        let mut logs = vec![0.0_f64; CELLS];
        for _ in 0..2000 {
            let mut below = 0.0;
            let next: Vec<f64> = logs
                .iter()
                .map(|log| {
                    let mass = log.exp() / CELLS as f64;
                    let rate = below + 0.5 * mass;
                    below += mass;
                    a * log + weight(rate).ln()
                })
                .collect();
            let whole = crate::numeric::log_sum_exp(&next) - (CELLS as f64).ln();
            for (log, next) in logs.iter_mut().zip(&next) {
                *log = 0.5 * *log + 0.5 * (next - whole);
            }
        }
        let each = |of: &dyn Fn(usize, f64) -> f64| {
            logs.iter().enumerate().map(|(at, log)| log.exp() * of(at, *log)).sum::<f64>() / CELLS as f64
        };
        (each(&|_, log| log), each(&|at, _| (at as f64 + 0.5) / CELLS as f64))
    }

    #[test]
    fn rounds_of_the_kl_loss_end_at_the_equilibrium_and_those_of_counted_rates_beyond_it() {
        for (beta, eta, samples, counted) in [
            (0.2_f64, 1.0, 4_usize, (0.912, 0.8143)),
            (0.2, 2.0, 4, (0.930, 0.8194)),
            (0.1, 5.0, 5, (3.03, 0.923)),
        ] {
            let game = Game { beta, eta };
            let (_, _, d) = game.exponents();
            let want = crate::oracle::game(beta, 1.0).expect("in range");
            let exponential = UnbiasedExponential::new(d, samples - 1);
            let got = equilibrium_of_rounds(game, |rate| exponential.mean(rate));
            assert!((got.0 / want.kl - 1.0).abs() < 0.01, "{beta} {eta}: {} and not {}", got.0, want.kl);
            assert!(
                (got.1 - want.win_rate).abs() < 6e-4,
                "{beta} {eta}: {} and not {}",
                got.1,
                want.win_rate
            );
            // E exp(d K / m) is a power of a line.
            let opponents = (samples - 1) as f64;
            let plain =
                |rate: f64| (1.0 + rate * (d / opponents).exp_m1()).powf(opponents) * (-0.5 * d).exp();
            let off = equilibrium_of_rounds(game, plain);
            assert!(
                (off.0 - counted.0).abs() < 6e-3 && (off.1 - counted.1).abs() < 1e-3,
                "{beta} {eta}: {off:?}"
            );
        }
    }

    #[test]
    fn the_log_game_is_best_of_n() {
        let size = 300;
        let reference = vec![1.0 / size as f64; size];
        for beta in [1.5_f64, 2.0, 4.0] {
            let end = solve(Game { beta, eta: 1.0 }, Payoff::Log, &reference, &ordered(size), 400);
            let n = beta / (beta - 1.0);
            assert!(
                (kl(&end, &reference) - kl_bound(n)).abs() < 5e-3,
                "beta {beta}: {}",
                kl(&end, &reference)
            );
        }
    }

    #[test]
    fn without_regularisation_the_target_is_that_of_sppo() {
        let game = Game { beta: 0.0, eta: 3.0 };
        assert_eq!(game.target(-2.0, -9.0, 0.75), -2.0 + 3.0 * 0.25);
        assert!(
            Game { beta: -1.0, eta: 1.0 }.validate().is_err()
                && Game { beta: 1.0, eta: 0.0 }.validate().is_err()
        );
    }
}
