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
            let mut silent = true;
            for (index, sample) in samples.iter().enumerate() {
                let others = samples.iter().enumerate().filter(|(other, _)| *other != index);
                let wins: f64 =
                    others.map(|(_, other)| self.preference.of(sample.reward, other.reward)).sum();
                let rate = wins / (samples.len() - 1) as f64;
                silent &= rate == 0.5;
                targets.push(self.game.target(sample.log_anchor, sample.log_reference, rate));
                record("objective/scores", sample.reward, 1.0);
            }
            record("frac_reward_zero_std", f64::from(u8::from(silent)), 1.0);
            let losses: Vec<TermLoss> = match self.loss {
                WindLoss::Squared => {
                    targets.iter().map(|target| TermLoss::Squared { target: *target }).collect()
                }
                // Without the normaliser, which weighs prompts and moves no prompt's optimum.
                WindLoss::Kl => {
                    let weight = |(target, sample): (&f64, &AnchorSample)| (target - sample.log_anchor).exp();
                    targets.iter().zip(samples).map(weight).map(|weight| TermLoss::Linear(-weight)).collect()
                }
                WindLoss::Nce => {
                    let contrast = |(target, sample): (&f64, &AnchorSample)| TermLoss::Contrast {
                        noise: sample.log_anchor,
                        weight: (target - sample.log_anchor).exp(),
                    };
                    targets.iter().zip(samples).map(contrast).collect()
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
