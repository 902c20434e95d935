//! A law of rewards that numbers describe: a mixture of logistic laws, and the loss that fits it.
//!
//! Calibration asks for `F(r | x)`, the probability that a fresh answer of the reference to `x` has a reward of at most `r`.
//! BOND's learned alternative to counting (Sessa et al. 2025, arXiv 2407.14622, Appendix B.1) is a classifier of
//! `1{r(y') <= r(y)}` trained by binary cross-entropy; here its logit is that of
//!
//! `F(r | x) = sum_k w_k sigmoid((r - m_k) / s_k)`, `w`, `m` and `s` read off numbers that depend on `x`,
//!
//! which increases strictly in `r` whatever the numbers are, and reaches any law in the limit of many components. The
//! cross-entropy is a proper score, so its least expectation over `x`, `y` and `y'` is at the true `F` wherever `y` falls.

use serde::{Deserialize, Serialize};

use crate::error::{InputError, finite, in_range, same_length};
use crate::numeric::{log_sigmoid, log_sum_exp, mean, sigmoid};
use crate::rank::{CachedRewards, LogCdf, Ties};

/// Standard deviation of the logistic law of scale 1: `pi / sqrt(3)`.
const LOGISTIC_DEVIATION: f64 = 1.813_799_364_234_217_8;

/// Smallest scale of a component, in standard deviations of all rewards: a step, for rewards that take few values, without
/// slopes that overflow.
const SHARPEST: f64 = 1e-3;

/// How numbers are read as a mixture; the same for all prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct MixtureShape {
    /// Number of components, at least 1.
    pub components: usize,
    /// Where the rewards of all prompts together lie.
    pub location: f64,
    /// Their standard deviation, above 0; the unit of means and scales.
    pub scale: f64,
}

impl MixtureShape {
    /// The shape for rewards such as these: numbers that are all zero give about their law.
    pub fn of_rewards(components: usize, rewards: &[f64]) -> Result<Self, InputError> {
        if rewards.is_empty() {
            return Err(InputError::TooFew { what: "rewards", least: 1 });
        }
        finite("rewards", rewards)?;
        let location = mean(rewards);
        let squares: Vec<f64> = rewards.iter().map(|r| (r - location).powi(2)).collect();
        let deviation = mean(&squares).sqrt();
        let shape = Self { components, location, scale: if deviation > 0.0 { deviation } else { 1.0 } };
        shape.validate()?;
        Ok(shape)
    }

    /// Refuses values out of range.
    pub fn validate(&self) -> Result<(), InputError> {
        in_range("number of components", self.components as f64, "at least 1", |k| k >= 1.0)?;
        in_range("location of the rewards", self.location, "a number", |_| true)?;
        in_range("scale of the rewards", self.scale, "above 0", |s| s > 0.0)
    }

    /// How many numbers make a mixture: weights, means and scales.
    pub fn outputs(&self) -> usize {
        3 * self.components
    }

    /// The mean of component `k` where its number is zero, in units of the shape: a quantile of a law of deviation 1.
    fn mean(&self, k: usize) -> f64 {
        let p = (k as f64 + 0.5) / self.components as f64;
        (p / (1.0 - p)).ln() / LOGISTIC_DEVIATION
    }

    /// The scale of a component whose number is zero.
    fn spread(&self) -> f64 {
        1.0 / (LOGISTIC_DEVIATION * (self.components as f64).sqrt())
    }

    /// The law that numbers describe: logits of the weights, then shifts of the means, then logarithms of the scales.
    pub fn read(&self, outputs: &[f64]) -> Result<RewardLaw, InputError> {
        same_length("numbers of a law of rewards", self.outputs(), outputs.len())?;
        finite("numbers of a law of rewards", outputs)?;
        let count = self.components;
        let log_total = log_sum_exp(&outputs[..count]);
        let part = |k: usize| Part {
            log_weight: outputs[k] - log_total,
            mean: self.mean(k) + outputs[count + k],
            // Bounded, so that a number out of all proportion makes a flat component and no infinite one.
            scale: SHARPEST + self.spread() * outputs[2 * count + k].min(50.0).exp(),
        };
        Ok(RewardLaw {
            location: self.location,
            unit: self.scale,
            parts: (0..count).map(part).collect(),
            floor: f64::NEG_INFINITY,
        })
    }

    /// The cross-entropy `-t log F(r) - (1 - t) log(1 - F(r))` of the law of `outputs` at reward `r`, for the share `t` of
    /// fresh answers that `r` beats or equals, and its gradient with respect to the outputs.
    pub fn cross_entropy(&self, outputs: &[f64], r: f64, t: f64) -> Result<(f64, Vec<f64>), InputError> {
        let law = self.read(outputs)?;
        finite("reward", &[r])?;
        in_range("share of beaten answers", t, "between 0 and 1", |t| (0.0..=1.0).contains(&t))?;
        let count = self.components;
        let z = law.standardised(r);
        let (below, above) = (law.logs(&z, 1.0), law.logs(&z, -1.0));
        let (log_f, log_s) = (log_sum_exp(&below), log_sum_exp(&above));
        let mut gradient = vec![0.0; self.outputs()];
        for (k, (part, z)) in law.parts.iter().zip(&z).enumerate() {
            let weight = part.log_weight.exp();
            // Shares of the component in F and in 1 - F.
            let (in_f, in_s) = ((below[k] - log_f).exp(), (above[k] - log_s).exp());
            let by_z = -t * in_f * sigmoid(-z) + (1.0 - t) * in_s * sigmoid(*z);
            gradient[k] = -t * (in_f - weight) - (1.0 - t) * (in_s - weight);
            gradient[count + k] = -by_z / part.scale;
            let grows = if outputs[2 * count + k] < 50.0 { part.scale - SHARPEST } else { 0.0 };
            gradient[2 * count + k] = -by_z * z * grows / part.scale;
        }
        Ok((-t * log_f - (1.0 - t) * log_s, gradient))
    }
}

/// A mixture of logistic laws of a reward.
#[derive(Clone, Debug, PartialEq)]
pub struct RewardLaw {
    location: f64,
    unit: f64,
    parts: Vec<Part>,
    floor: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Part {
    log_weight: f64,
    mean: f64,
    scale: f64,
}

impl RewardLaw {
    fn standardised(&self, r: f64) -> Vec<f64> {
        let r = (r - self.location) / self.unit;
        self.parts.iter().map(|part| (r - part.mean) / part.scale).collect()
    }

    /// `log(w_k sigmoid(sign z_k))`.
    fn logs(&self, z: &[f64], sign: f64) -> Vec<f64> {
        self.parts.iter().zip(z).map(|(part, z)| part.log_weight + log_sigmoid(sign * z)).collect()
    }

    /// The law with a floor of `log F` at the least that so many cached samples can say, `-H_M`: in its tail
    /// a law that was fitted to
    /// few samples of a prompt is a guess, of -20 at five deviations below and of -1000 beside a sharp
    /// component, and one bad answer
    /// would then outweigh a batch.
    #[must_use]
    pub fn with_floor_of(self, samples: usize) -> Self {
        Self { floor: LogCdf::HarmonicDifference.floor(samples), ..self }
    }

    /// `log F(r)`, or the floor where that is larger.
    pub fn floored_log_cdf(&self, r: f64) -> Result<f64, InputError> {
        Ok(self.log_cdf(r)?.max(self.floor))
    }

    /// Whether `log F(r)` is at the floor.
    pub fn is_floored(&self, r: f64) -> Result<bool, InputError> {
        Ok(self.log_cdf(r)? <= self.floor)
    }

    /// `log F(r)`, below 0 and finite for a finite reward.
    pub fn log_cdf(&self, r: f64) -> Result<f64, InputError> {
        finite("reward", &[r])?;
        Ok(log_sum_exp(&self.logs(&self.standardised(r), 1.0)).min(0.0))
    }

    /// `F(r)`.
    pub fn cdf(&self, r: f64) -> Result<f64, InputError> {
        self.log_cdf(r).map(f64::exp)
    }
}

/// For each of a prompt's rewards the share of the *others* that it beats: an unbiased `F(r)` of the law they were all drawn
/// from, which a share among all of them is not. At least two rewards.
pub fn shares_among_others(rewards: &[f64], ties: Ties) -> Result<Vec<f64>, InputError> {
    if rewards.len() < 2 {
        return Err(InputError::TooFew { what: "rewards of a prompt", least: 2 });
    }
    let pool = CachedRewards::new(rewards.to_vec())?;
    rewards.iter().map(|r| Ok(pool.rank(*r)?.among_others().fraction(ties))).collect()
}

/// What separates shares from the law that predicts them, over all probes: the mean over ten classes of predictions, each
/// by its size, of `|mean prediction - mean share|` (the expected calibration error); `None` without probes.
pub fn calibration_error(predictions: &[f64], shares: &[f64]) -> Option<f64> {
    let mut classes = [(0.0, 0.0); 10];
    for (u, t) in predictions.iter().zip(shares) {
        let class = &mut classes[((u * 10.0) as usize).min(9)];
        *class = (class.0 + u, class.1 + t);
    }
    let count = predictions.len().min(shares.len());
    (count > 0).then(|| classes.iter().map(|(u, t)| (u - t).abs()).sum::<f64>() / count as f64)
}

/// How far values are from uniform on `[0, 1]`: the mean over them, sorted, of `|u_k - (k - 1/2)/n|`; `None` without values.
/// A right law of a reward that does not tie gives uniform values (the probability integral transform).
pub fn uniformity_error(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len() as f64;
    let miss = |(k, u): (usize, &f64)| (u - (k as f64 + 0.5) / n).abs();
    (n > 0.0).then(|| sorted.iter().enumerate().map(miss).sum::<f64>() / n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Exhaustive;

    fn shape(components: usize) -> MixtureShape {
        MixtureShape { components, location: 2.0, scale: 3.0 }
    }

    fn numbers(count: usize) -> Vec<f64> {
        (0..count).map(|i| (1.7 * i as f64 + 0.4).sin()).collect()
    }

    #[test]
    fn a_law_increases_and_its_tails_are_finite() {
        for components in [1, 3, 8] {
            let law = shape(components).read(&numbers(3 * components)).expect("numbers");
            let grid: Vec<f64> = (-400..400).map(|i| f64::from(i) * 0.05).collect();
            let logs: Vec<f64> = grid.iter().map(|r| law.log_cdf(*r).expect("finite")).collect();
            assert!(logs.windows(2).all(|pair| pair[0] < pair[1] || pair[1] > -1e-12));
            assert!(
                law.log_cdf(-1e9).expect("finite").is_finite() && law.log_cdf(1e9).expect("finite") <= 0.0
            );
            assert!(law.log_cdf(f64::NAN).is_err());
        }
    }

    #[test]
    fn a_floor_is_that_of_a_pool_of_samples() {
        let shape = MixtureShape::of_rewards(8, &[-1.0, 1.0]).expect("finite");
        let law = shape.read(&[0.0; 24]).expect("numbers");
        let floored = law.clone().with_floor_of(16);
        let floor = LogCdf::HarmonicDifference.floor(16);
        assert!((floor + 3.3807).abs() < 1e-4);
        for deviations in [3.0, 5.0, 10.0] {
            assert!(law.log_cdf(-deviations).expect("finite") < floor);
            assert_eq!(floored.floored_log_cdf(-deviations).expect("finite"), floor);
            assert!(floored.is_floored(-deviations).expect("finite"));
        }
        for r in [-0.5, 0.0, 2.0] {
            assert_eq!(floored.floored_log_cdf(r), law.log_cdf(r));
            assert!(!floored.is_floored(r).expect("finite"));
        }
        assert_eq!(law.floored_log_cdf(-10.0), law.log_cdf(-10.0));
    }

    #[test]
    fn numbers_of_zero_give_about_the_law_of_all_rewards() {
        let rewards: Vec<f64> = (0..1000).map(|i| (f64::from(i) + 0.5) / 100.0).collect();
        let shape = MixtureShape::of_rewards(8, &rewards).expect("finite");
        assert!((shape.location - 5.0).abs() < 1e-9 && (shape.scale - 10.0 / 12.0_f64.sqrt()).abs() < 1e-3);
        let law = shape.read(&[0.0; 24]).expect("numbers");
        for r in [1.0, 3.0, 5.0, 7.0, 9.0] {
            assert!((law.cdf(r).expect("finite") - r / 10.0).abs() < 0.1, "{r}");
        }
        let one = MixtureShape::of_rewards(2, &[4.0, 4.0]).expect("finite");
        assert_eq!((one.location, one.scale), (4.0, 1.0));
    }

    #[test]
    fn the_gradient_is_that_of_the_cross_entropy() {
        let (shape, h) = (shape(3), 1e-5);
        let base = numbers(9);
        for (r, t) in [(2.0, 0.3), (-4.0, 1.0), (9.0, 0.0), (1.0, 0.5)] {
            let (_, gradient) = shape.cross_entropy(&base, r, t).expect("finite");
            for at in 0..9 {
                let moved = |by: f64| {
                    let mut outputs = base.clone();
                    outputs[at] += by;
                    shape.cross_entropy(&outputs, r, t).expect("finite").0
                };
                let numeric = (moved(h) - moved(-h)) / (2.0 * h);
                assert!((gradient[at] - numeric).abs() < 1e-7, "{at} at {r}: {} {numeric}", gradient[at]);
            }
            // The loss is that of the law itself.
            let f = shape.read(&base).expect("numbers").cdf(r).expect("finite");
            let direct = -t * f.ln() - (1.0 - t) * (1.0 - f).ln();
            assert!((shape.cross_entropy(&base, r, t).expect("finite").0 - direct).abs() < 1e-9);
        }
    }

    #[test]
    fn shares_among_the_others_are_unbiased_and_among_all_are_not() {
        let (p, r) = ([0.5_f64, 0.3, 0.2], [0.0, 1.0, 2.0]);
        let log_p = p.map(f64::ln);
        for (ties, exact) in [
            (Ties::NonStrict, [0.5, 0.8, 1.0]),
            (Ties::Strict, [0.0, 0.5, 0.8]),
            (Ties::MidRank, [0.25, 0.65, 0.9]),
        ] {
            for m in [2, 4] {
                // The mean share of the first of m samples where it is item `place`, over the probability that it is.
                let mean = |all: bool, place: usize| {
                    let mean = Exhaustive::mean(|draw| {
                        let items: Vec<usize> = (0..m).map(|_| draw.pick(&log_p)).collect();
                        let rewards: Vec<f64> = items.iter().map(|item| r[*item]).collect();
                        let share = if all {
                            let pool = CachedRewards::new(rewards.clone()).expect("finite");
                            pool.rank(rewards[0]).expect("finite").fraction(ties)
                        } else {
                            shares_among_others(&rewards, ties).expect("shares")[0]
                        };
                        vec![if items[0] == place { share } else { 0.0 }]
                    });
                    mean.expect("a mean")[0] / p[place]
                };
                for (place, exact) in exact.iter().enumerate() {
                    assert!((mean(false, place) - exact).abs() < 1e-12, "{ties:?} {m} {place}");
                }
                assert!((mean(true, 1) - exact[1]).abs() > 0.03, "{ties:?} {m}");
            }
        }
        assert!(shares_among_others(&[1.0], Ties::MidRank).is_err());
    }

    #[test]
    fn the_least_expected_loss_is_at_the_true_law() {
        // Two rewards, so that F at both is any two numbers: the expected loss over y and y', by enumeration.
        let (p, r) = ([0.3_f64, 0.7], [0.0, 1.0]);
        let exact = [0.15, 0.65];
        let expected = |f: [f64; 2]| -> f64 {
            let mut loss = 0.0;
            for y in 0..2 {
                for other in 0..2 {
                    let t = shares_among_others(&[r[y], r[other]], Ties::MidRank).expect("shares")[0];
                    loss -= p[y] * p[other] * (t * f[y].ln() + (1.0 - t) * (1.0 - f[y]).ln());
                }
            }
            loss
        };
        let least = expected(exact);
        for step in [-0.1, -0.01, 0.01, 0.1] {
            assert!(
                expected([exact[0] + step, exact[1]]) > least
                    && expected([exact[0], exact[1] + step]) > least
            );
        }
    }

    #[test]
    fn trained_by_one_fresh_sample_at_a_time_it_becomes_the_law() {
        // Uniform rewards on [0, 4], answers of two prompts: the second's are squared, F = sqrt(r / 4) r >= 0.
        let law = |prompt: usize, u: f64| if prompt == 0 { 4.0 * u } else { 4.0 * u * u };
        let exact = |prompt: usize, r: f64| if prompt == 0 { r / 4.0 } else { (r / 4.0).sqrt() };
        let mut state = 7_u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        };
        let pool: Vec<f64> = (0..200).map(|i| law(i % 2, uniform())).collect();
        let shape = MixtureShape::of_rewards(8, &pool).expect("finite");
        let train = |with_itself: bool, uniform: &mut dyn FnMut() -> f64| {
            let mut outputs = vec![vec![0.0; shape.outputs()]; 2];
            let mut moments = vec![vec![(0.0, 0.0); shape.outputs()]; 2];
            let steps = 6000;
            for step in 0..steps {
                let rate = 0.03 * (1.0 - f64::from(step) / f64::from(steps));
                for prompt in 0..2 {
                    let mut gradient = vec![0.0; shape.outputs()];
                    for _ in 0..8 {
                        let rewards = [law(prompt, uniform()), law(prompt, uniform())];
                        let mut share = shares_among_others(&rewards, Ties::MidRank).expect("shares")[0];
                        if with_itself {
                            share = 0.5 * share + 0.25;
                        }
                        let one = shape.cross_entropy(&outputs[prompt], rewards[0], share).expect("finite").1;
                        gradient.iter_mut().zip(one).for_each(|(sum, g)| *sum += g / 8.0);
                    }
                    for (at, g) in gradient.into_iter().enumerate() {
                        let (m, v) = &mut moments[prompt][at];
                        *m = 0.9 * *m + 0.1 * g;
                        *v = 0.99 * *v + 0.01 * g * g;
                        outputs[prompt][at] -= rate * *m / (v.sqrt() + 1e-8);
                    }
                }
            }
            let worst = |prompt: usize| {
                let law = shape.read(&outputs[prompt]).expect("numbers");
                let miss = |i: i32| {
                    let r = f64::from(i) / 5.0;
                    (law.cdf(r).expect("finite") - exact(prompt, r)).abs()
                };
                (1..20).map(miss).fold(0.0, f64::max)
            };
            worst(0).max(worst(1))
        };
        let right = train(false, &mut uniform);
        assert!(right < 0.03, "{right}");
        // A sample ranked among all, itself included, teaches another law.
        let wrong = train(true, &mut uniform);
        assert!(wrong > 0.15, "{wrong}");
    }

    #[test]
    fn errors_of_calibration_are_zero_for_what_is_calibrated() {
        let even: Vec<f64> = (0..100).map(|k| (f64::from(k) + 0.5) / 100.0).collect();
        assert!(uniformity_error(&even).expect("values") < 1e-12);
        let squared: Vec<f64> = even.iter().map(|u| u * u).collect();
        assert!((uniformity_error(&squared).expect("values") - 1.0 / 6.0).abs() < 1e-3);
        assert!(calibration_error(&even, &even).expect("values") < 1e-12);
        let ones: Vec<f64> = vec![1.0; 100];
        assert!((calibration_error(&even, &ones).expect("values") - 0.5).abs() < 1e-9);
        assert_eq!((uniformity_error(&[]), calibration_error(&[], &[])), (None, None));
    }

    #[test]
    fn shapes_and_numbers_that_make_no_law_are_refused() {
        assert!(MixtureShape { components: 0, ..shape(1) }.validate().is_err());
        assert!(MixtureShape { scale: 0.0, ..shape(1) }.validate().is_err());
        assert!(shape(2).read(&[0.0; 5]).is_err() && shape(1).read(&[0.0, f64::NAN, 0.0]).is_err());
        assert!(shape(1).cross_entropy(&[0.0; 3], 1.0, 1.5).is_err());
        let far = shape(1).read(&[0.0, 0.0, 1e6]).expect("numbers");
        assert!(far.cdf(0.0).expect("finite").is_finite());
    }
}
