//! The bootstrap over prompts: percentile intervals of means, paired differences, and other statistics.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{Estimate, Interval, Sums, Undetermined};

/// Names the use of the seed: replicate `b` draws from stream `BOOTSTRAP + b`, which nothing else uses.
const BOOTSTRAP: u64 = 0x426f_6f74_0000_0000;

/// A request that cannot be resampled.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum ResamplesError {
    /// Too few replicates to find the ends of the interval.
    #[error(
        "bootstrap: {given} replicates cannot place the ends of an interval of level {level}; take at least {least}"
    )]
    Replicates {
        /// What was asked for.
        given: usize,
        /// The level that was asked for.
        level: f64,
        /// The fewest that leave one replicate beyond each end.
        least: usize,
    },
    /// The level is not a probability strictly between zero and one.
    #[error("bootstrap: level {0} is not strictly between 0 and 1; 0.95 is usual")]
    Level(f64),
    /// More prompts than a replicate can index.
    #[error("bootstrap: {0} prompts are more than 4294967295")]
    Prompts(usize),
}

/// Resamples of the prompts with replacement, shared by every method and metric of a comparison.
///
/// Sharing makes differences paired: in each replicate all methods are seen on the same prompts, so that what makes a
/// prompt easy or hard for all of them cancels (Efron & Tibshirani 1993, chapter 8).
/// A replicate is stored as how often it holds each prompt.
///
/// The intervals are percentile intervals (ibid., chapter 13). Over `n` prompts they are short by a factor of about
/// `sqrt((n − 1)/n)`, and rough below some twenty prompts.
///
/// The prompts are known by their position. Means do not depend on the order of the prompts; the ends of an interval do,
/// within the noise of resampling (about 2 % of its width at 2000 replicates), because another order gives each prompt
/// other draws. Callers keep the prompts in one order, and the same seed then gives the same bits.
#[derive(Clone, Debug)]
pub struct Resamples {
    prompts: usize,
    replicates: usize,
    level: f64,
    /// `[replicate, prompt]`, row-major.
    counts: Vec<u32>,
}

/// A paired difference `method − base` on the prompts where both have a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// The estimate of the difference of means.
    pub estimate: Estimate,
}

impl Difference {
    /// Whether the sign is not known: zero lies in the interval, or there is no interval.
    pub fn covers_zero(&self) -> bool {
        self.estimate.interval.as_ref().map_or(true, Interval::covers_zero)
    }
}

impl Resamples {
    /// Replicates that are enough for two decimals of a standard error.
    pub const REPLICATES: usize = 2000;
    /// The usual level.
    pub const LEVEL: f64 = 0.95;

    /// Draws `replicates` resamples of `prompts` prompts; memory is four bytes for each of their product.
    ///
    /// # Errors
    /// A `level` outside (0, 1), or fewer replicates than leave one beyond each end of the interval.
    pub fn new(seed: u64, prompts: usize, replicates: usize, level: f64) -> Result<Self, ResamplesError> {
        if !(level > 0.0 && level < 1.0) {
            return Err(ResamplesError::Level(level));
        }
        let least = (2.0 / (1.0 - level)).ceil() as usize;
        if replicates < least {
            return Err(ResamplesError::Replicates { given: replicates, level, least });
        }
        if u32::try_from(prompts).is_err() {
            return Err(ResamplesError::Prompts(prompts));
        }
        let mut counts = vec![0_u32; prompts * replicates];
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        if prompts > 0 {
            for (replicate, counts) in counts.chunks_exact_mut(prompts).enumerate() {
                generator.set_stream(BOOTSTRAP + replicate as u64);
                generator.set_word_pos(0);
                for _ in 0..prompts {
                    counts[below(&mut generator, prompts as u64)] += 1;
                }
            }
        }
        Ok(Self { prompts, replicates, level, counts })
    }

    /// The number of prompts.
    pub fn prompts(&self) -> usize {
        self.prompts
    }

    /// The number of replicates.
    pub fn replicates(&self) -> usize {
        self.replicates
    }

    /// The level of the intervals.
    pub fn level(&self) -> f64 {
        self.level
    }

    /// The mean of one value per prompt, with its interval. Prompts without a value are left out of sum and count.
    ///
    /// # Errors
    /// [`Undetermined::NoValues`] where no prompt has a value.
    ///
    /// # Panics
    /// If there is not one entry per prompt.
    pub fn mean(&self, values: &[Option<f64>]) -> Result<Estimate, Undetermined> {
        let sums: Vec<Sums> = values.iter().map(|value| value.iter().copied().collect()).collect();
        self.ratio(&sums)
    }

    /// Sum over count, where each prompt brings a sum and a count (pairs, tokens): a ratio of totals, prompts being
    /// resampled whole.
    ///
    /// # Errors
    /// [`Undetermined::NoValues`] where all counts are zero.
    ///
    /// # Panics
    /// If there is not one entry per prompt.
    pub fn ratio(&self, per_prompt: &[Sums]) -> Result<Estimate, Undetermined> {
        let total = per_prompt.iter().fold(Sums::default(), |total, part| total + *part);
        let mean = total.mean().ok_or(Undetermined::NoValues)?;
        let parts: Vec<(f64, f64)> =
            per_prompt.iter().map(|part| (part.sum(), part.count() as f64)).collect();
        let present = parts.iter().filter(|part| part.1 > 0.0).count();
        let interval = if present < 2 {
            Err(Undetermined::OneValue)
        } else {
            self.interval(|counts| {
                let (mut sum, mut count) = (0.0, 0.0);
                for (weight, part) in counts.iter().zip(&parts) {
                    sum += f64::from(*weight) * part.0;
                    count += f64::from(*weight) * part.1;
                }
                (count > 0.0).then(|| sum / count)
            })
        };
        // Where all values are equal the resampled quotient is that value but for rounding.
        let interval =
            interval.map(|found| Interval { low: found.low.min(mean), high: found.high.max(mean) });
        let count = usize::try_from(total.count()).unwrap_or(usize::MAX);
        Ok(Estimate { mean, interval, count })
    }

    /// The paired difference of means `method − base`, over the prompts where both have a value.
    ///
    /// # Errors
    /// [`Undetermined::NoValues`] where there is no such prompt.
    ///
    /// # Panics
    /// If there is not one entry per prompt on both sides.
    pub fn difference(
        &self,
        method: &[Option<f64>],
        base: &[Option<f64>],
    ) -> Result<Difference, Undetermined> {
        assert_eq!(method.len(), base.len(), "a paired difference needs the same prompts on both sides");
        // Means of equal values over other weights differ by rounding, which must not look like a difference
        // of known sign.
        let between = |method: f64, base: f64| {
            let difference = method - base;
            if difference.abs() <= 1e-12 * method.abs().max(base.abs()).max(1.0) { 0.0 } else { difference }
        };
        let differences: Vec<Option<f64>> =
            method.iter().zip(base).map(|(method, base)| Some(between((*method)?, (*base)?))).collect();
        Ok(Difference { estimate: self.mean(&differences)? })
    }

    /// Percentile interval of any statistic of how often each prompt occurs (`counts[i]` times prompt `i`).
    ///
    /// Replicates on which the statistic does not exist (`None`) are left out.
    ///
    /// # Errors
    /// [`Undetermined::Undefined`] if it exists on fewer than half of the replicates.
    pub fn interval(
        &self,
        mut statistic: impl FnMut(&[u32]) -> Option<f64>,
    ) -> Result<Interval, Undetermined> {
        assert!(self.prompts > 0, "no prompts, no replicates of them");
        let mut found: Vec<f64> = self.counts.chunks_exact(self.prompts).filter_map(&mut statistic).collect();
        if found.len() * 2 < self.replicates {
            return Err(Undetermined::Undefined("undefined on most bootstrap replicates"));
        }
        found.sort_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        Ok(Interval { low: quantile(&found, tail), high: quantile(&found, 1.0 - tail) })
    }
}

/// A uniform integer below `limit`: the high word of a product, whose bias is below `limit · 2⁻⁶⁴`.
fn below(generator: &mut ChaCha8Rng, limit: u64) -> usize {
    ((u128::from(generator.next_u64()) * u128::from(limit)) >> 64) as usize
}

/// The quantile of sorted values by linear interpolation (type 7 of Hyndman & Fan 1996).
fn quantile(sorted: &[f64], p: f64) -> f64 {
    let place = p * (sorted.len() - 1) as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    sorted[below] + (place - place.floor()) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resamples(seed: u64, prompts: usize) -> Resamples {
        Resamples::new(seed, prompts, Resamples::REPLICATES, Resamples::LEVEL).unwrap()
    }

    fn some(values: impl IntoIterator<Item = f64>) -> Vec<Option<f64>> {
        values.into_iter().map(Some).collect()
    }

    /// A standard normal number by summing uniform ones (Irwin–Hall), enough to test coverage.
    fn normal(generator: &mut ChaCha8Rng) -> f64 {
        (0..12).map(|_| generator.next_u64() as f64 / 2_f64.powi(64)).sum::<f64>() - 6.0
    }

    #[test]
    fn intervals_cover_the_truth_about_as_often_as_they_say() {
        // 500 data sets of 40 prompts; a 95 % percentile interval over 40 prompts covers about 94 % of them, and the
        // count over 500 has a standard error of 1.1 %: the band is over four of them wide to each side.
        let (sets, prompts) = (500, 40);
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        let (mut plain, mut paired) = (0, 0);
        for set in 0..sets {
            let resamples = Resamples::new(set, prompts, 400, 0.95).unwrap();
            let difficulty: Vec<f64> = (0..prompts).map(|_| normal(&mut generator)).collect();
            let base = some(difficulty.iter().map(|d| d + 0.2 * normal(&mut generator)));
            let method = some(difficulty.iter().map(|d| d + 0.3 + 0.2 * normal(&mut generator)));
            plain += u32::from(resamples.mean(&base).unwrap().interval.unwrap().contains(0.0));
            let difference = resamples.difference(&method, &base).unwrap().estimate;
            paired += u32::from(difference.interval.unwrap().contains(0.3));
        }
        for covered in [plain, paired] {
            let share = f64::from(covered) / sets as f64;
            assert!((0.89..=0.985).contains(&share), "covered in {share} of the data sets");
        }
    }

    #[test]
    fn pairing_cancels_what_prompts_have_in_common() {
        let mut generator = ChaCha8Rng::seed_from_u64(2);
        let difficulty: Vec<f64> = (0..100).map(|_| 10.0 * normal(&mut generator)).collect();
        let base = some(difficulty.iter().copied());
        let method = some(difficulty.iter().map(|d| d + 0.5));
        let resamples = resamples(0, 100);
        let (one, two) = (resamples.mean(&base).unwrap(), resamples.mean(&method).unwrap());
        assert!(
            one.interval.unwrap().overlaps(&two.interval.unwrap()),
            "unpaired, they cannot be told apart"
        );
        let difference = resamples.difference(&method, &base).unwrap();
        assert!(!difference.covers_zero());
        assert!((difference.estimate.mean - 0.5).abs() < 1e-12);
    }

    #[test]
    fn the_width_is_that_of_the_standard_error() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let interval = resamples(3, 400).mean(&some(values)).unwrap().interval.unwrap();
        let expected = 2.0 * 1.96 * 0.5 / 20.0;
        let width = interval.high - interval.low;
        assert!((width / expected - 1.0).abs() < 0.06, "width {width}, expected {expected}");
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_and_another_gives_others() {
        let values = some((0..50).map(|i| f64::from(i * i % 17)));
        let interval = |seed| resamples(seed, 50).mean(&values).unwrap().interval.unwrap();
        assert_eq!(interval(7), interval(7));
        assert_ne!(interval(7), interval(8));
    }

    #[test]
    fn a_longer_run_keeps_the_replicates_of_a_shorter_one() {
        let short = Resamples::new(5, 9, 100, 0.9).unwrap();
        let long = Resamples::new(5, 9, 200, 0.9).unwrap();
        assert_eq!(short.counts[..], long.counts[..900]);
        assert!(long.counts.chunks(9).all(|counts| counts.iter().sum::<u32>() == 9));
    }

    #[test]
    fn too_little_to_tell_is_a_typed_answer() {
        assert_eq!(resamples(0, 0).mean(&[]), Err(Undetermined::NoValues));
        assert_eq!(resamples(0, 2).mean(&[None, None]), Err(Undetermined::NoValues));
        let one = resamples(0, 1).mean(&[Some(2.5)]).unwrap();
        assert_eq!((one.mean, one.count, one.interval), (2.5, 1, Err(Undetermined::OneValue)));
        let difference = resamples(0, 2).difference(&[Some(3.0), None], &[Some(1.0), Some(1.0)]).unwrap();
        assert!(difference.covers_zero(), "no interval, no claim");
        assert_eq!(difference.estimate.mean, 2.0);
    }

    #[test]
    fn missing_values_change_neither_sum_nor_count() {
        let estimate = resamples(0, 4).mean(&[Some(1.0), None, Some(3.0), None]).unwrap();
        assert_eq!((estimate.mean, estimate.count), (2.0, 2));
        let interval = estimate.interval.unwrap();
        assert!(interval.low >= 1.0 && interval.high <= 3.0);
    }

    #[test]
    fn a_ratio_weighs_prompts_by_their_counts() {
        let per_prompt: Vec<Sums> =
            vec![[1.0, 1.0, 1.0].into_iter().collect(), [0.0].into_iter().collect(), Sums::default()];
        let estimate = resamples(0, 3).ratio(&per_prompt).unwrap();
        assert_eq!((estimate.mean, estimate.count), (0.75, 4));
    }

    #[test]
    fn a_request_that_cannot_work_is_refused() {
        assert_eq!(Resamples::new(0, 5, 2000, 1.0).unwrap_err(), ResamplesError::Level(1.0));
        let few = Resamples::new(0, 5, 20, 0.95).unwrap_err();
        assert!(few.to_string().contains("take at least 40"), "{few}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn order_of_the_prompts_changes_the_ends_only_by_noise(
            values in prop::collection::vec(-1.0_f64..1.0, 30..60),
            seed in 0_u64..1000,
        ) {
            let resamples = resamples(seed, values.len());
            let mut reversed = values.clone();
            reversed.reverse();
            let (a, b) = (resamples.mean(&some(values)).unwrap(), resamples.mean(&some(reversed)).unwrap());
            prop_assert!((a.mean - b.mean).abs() < 1e-12);
            let (a, b) = (a.interval.unwrap(), b.interval.unwrap());
            let width = a.high - a.low;
            prop_assert!((a.low - b.low).abs() < 0.15 * width && (a.high - b.high).abs() < 0.15 * width);
        }

        #[test]
        fn equal_values_give_a_point(value in -5.0_f64..5.0, prompts in 2_usize..20) {
            let estimate = resamples(0, prompts).mean(&some(std::iter::repeat_n(value, prompts))).unwrap();
            let interval = estimate.interval.unwrap();
            prop_assert!(interval.contains(estimate.mean));
            prop_assert!(interval.high - interval.low < 1e-12);
        }
    }
}
