//! Rewards made of rewards.

use generate::{Candidate, Error, Ledger, Prefix, PrefixReward, Reward};
use objective::rank::Ties;

use crate::calibration::{Calibration, CalibrationError};
use crate::error::SetupError;

/// `Σ_i w_i r_i`. A part of weight −1 is negated; one of weight 0 is not run.
#[expect(missing_debug_implementations, reason = "rewards have nothing to show")]
pub struct WeightedSum<R> {
    name: String,
    parts: Vec<(f64, R)>,
    /// The sum of the parts' ledgers, as of the last call.
    ledger: Ledger,
}

impl<R: Reward> WeightedSum<R> {
    /// A sum named after its parts, such as `1·gold − 0.5·brevity`.
    ///
    /// # Errors
    /// A weight that is not finite, or none other than 0.
    pub fn new(parts: Vec<(f64, R)>) -> Result<Self, SetupError> {
        if let Some((value, _)) = parts.iter().find(|(weight, _)| !weight.is_finite()) {
            return Err(SetupError::Setting { key: "weight", value: *value, limit: "a finite number" });
        }
        let parts: Vec<_> = parts.into_iter().filter(|(weight, _)| *weight != 0.0).collect();
        if parts.is_empty() {
            return Err(SetupError::NoParts);
        }
        let term = |(place, (weight, part)): (usize, &(f64, R))| {
            let sign = match (place, *weight < 0.0) {
                (0, false) => "",
                (0, true) => "−",
                (_, false) => " + ",
                (_, true) => " − ",
            };
            format!("{sign}{}·{}", weight.abs(), part.name())
        };
        let name = parts.iter().enumerate().map(term).collect();
        let mut sum = Self { name, parts, ledger: Ledger::default() };
        sum.count();
        Ok(sum)
    }

    fn count(&mut self) {
        self.ledger = self.parts.iter().fold(Ledger::default(), |sum, (_, part)| sum + *part.ledger());
    }
}

impl<R: Reward> WeightedSum<R> {
    fn sum(
        &mut self,
        count: usize,
        mut score: impl FnMut(&mut R) -> Result<Vec<f64>, Error>,
    ) -> Result<Vec<f64>, Error> {
        let mut sums = vec![0.0; count];
        let outcome = self.parts.iter_mut().try_for_each(|(weight, part)| {
            for (sum, reward) in sums.iter_mut().zip(score(part)?) {
                *sum += *weight * reward;
            }
            Ok(())
        });
        self.count();
        outcome.map(|()| sums)
    }
}

impl<R: PrefixReward> PrefixReward for WeightedSum<R> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        self.sum(prefixes.len(), |part| part.prefix_rewards(prefixes))
    }
}

impl<R: Reward> Reward for WeightedSum<R> {
    fn name(&self) -> &str {
        &self.name
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        self.sum(candidates.len(), |part| part.rewards(candidates))
    }

    fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    fn range(&self) -> (f64, f64) {
        // In the order of the sum, so that rounding is the same: rounding is monotone.
        self.parts.iter().fold((0.0, 0.0), |(low, high), (weight, part)| {
            let (a, b) = part.range();
            let (a, b) = if *weight < 0.0 { (b, a) } else { (a, b) };
            (low + weight * a, high + weight * b)
        })
    }
}

/// A reward cut off at the ends of a range, counting how often.
///
/// What is cut off is information lost: where many scores are, the range is too narrow or the reward is being exploited.
#[derive(Debug, Clone)]
pub struct Clipped<R> {
    inner: R,
    low: f64,
    high: f64,
    cut: u64,
    scored: u64,
}

impl<R: Reward> Clipped<R> {
    /// Cuts `inner` off below `low` and above `high`; either end may be infinite.
    ///
    /// # Errors
    /// The ends are not in order.
    pub fn new(inner: R, low: f64, high: f64) -> Result<Self, SetupError> {
        if low.partial_cmp(&high) != Some(std::cmp::Ordering::Less) {
            return Err(SetupError::Range { low, high });
        }
        Ok(Self { inner, low, high, cut: 0, scored: 0 })
    }

    /// How many scores were cut off, of how many so far.
    pub fn clipped(&self) -> (u64, u64) {
        (self.cut, self.scored)
    }

    fn clip(&mut self, mut rewards: Vec<f64>) -> Vec<f64> {
        self.scored += rewards.len() as u64;
        for reward in &mut rewards {
            let inside = reward.clamp(self.low, self.high);
            self.cut += u64::from(inside != *reward && !reward.is_nan());
            *reward = inside;
        }
        rewards
    }
}

impl<R: Reward> Reward for Clipped<R> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        let rewards = self.inner.rewards(candidates)?;
        Ok(self.clip(rewards))
    }

    fn ledger(&self) -> &Ledger {
        self.inner.ledger()
    }

    fn range(&self) -> (f64, f64) {
        let (low, high) = self.inner.range();
        (low.clamp(self.low, self.high), high.clamp(self.low, self.high))
    }
}

impl<R: PrefixReward> PrefixReward for Clipped<R> {
    fn prefix_rewards(&mut self, prefixes: &[Prefix<'_>]) -> Result<Vec<f64>, Error> {
        let rewards = self.inner.prefix_rewards(prefixes)?;
        Ok(self.clip(rewards))
    }
}

/// A reward as its rank among the cached rewards of samples of the same prompt: the share of them that it beats.
///
/// The same for every strictly increasing map of the reward; `(0, 1)` for every prompt, so that prompts can be compared.
#[derive(Debug, Clone)]
pub struct Calibrated<R> {
    inner: R,
    calibration: Calibration,
    ties: Ties,
}

impl<R: Reward> Calibrated<R> {
    /// Ranks `inner` against rewards of the same reward; equal rewards count as `ties` says (`MidRank` is the calibrated
    /// reward of the literature, `F< + c/2`).
    pub fn new(inner: R, calibration: Calibration, ties: Ties) -> Self {
        Self { inner, calibration, ties }
    }
}

impl<R: Reward> Reward for Calibrated<R> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
        // Before the model runs: is there a rank to be had for all of them?
        for candidate in candidates {
            self.calibration.cached(candidate.prompt).map_err(|error| self.refuse(error))?;
        }
        let rewards = self.inner.rewards(candidates)?;
        let one = |(candidate, reward): (&Candidate<'_>, f64)| {
            let rank = self.calibration.rank(candidate.prompt, reward).map_err(|error| self.refuse(error))?;
            Ok(rank.fraction(self.ties))
        };
        candidates.iter().zip(rewards).map(one).collect()
    }

    fn ledger(&self) -> &Ledger {
        self.inner.ledger()
    }

    fn range(&self) -> (f64, f64) {
        (0.0, 1.0)
    }
}

impl<R: Reward> Calibrated<R> {
    fn refuse(&self, error: CalibrationError) -> Error {
        Error::Reward { name: self.inner.name().into(), message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use generate::{End, Prompt};
    use objective::rank::CachedRewards;
    use proptest::prelude::*;

    use super::*;

    /// Scores by table: the reward of token `i` is entry `i`.
    #[derive(Debug)]
    struct Table {
        scores: Vec<f64>,
        ledger: Ledger,
    }

    impl Table {
        fn new(scores: &[f64]) -> Self {
            Self { scores: scores.to_vec(), ledger: Ledger { reward_tokens: 5, ..Ledger::default() } }
        }
    }

    impl Reward for Table {
        fn name(&self) -> &'static str {
            "table"
        }
        fn rewards(&mut self, candidates: &[Candidate<'_>]) -> Result<Vec<f64>, Error> {
            self.ledger.reward_calls += candidates.len() as u64;
            let at = |candidate: &Candidate<'_>| self.scores.get(candidate.ids[0] as usize).copied();
            let refuse = || Error::Reward { name: "table".into(), message: "not in it".into() };
            candidates.iter().map(|candidate| at(candidate).ok_or_else(refuse)).collect()
        }
        fn ledger(&self) -> &Ledger {
            &self.ledger
        }
        fn range(&self) -> (f64, f64) {
            let ends = |pick: fn(f64, f64) -> f64, start| self.scores.iter().copied().fold(start, pick);
            (ends(f64::min, f64::INFINITY), ends(f64::max, f64::NEG_INFINITY))
        }
    }

    /// The rewards of the completions `[0]`, `[1]`, … of one prompt.
    fn rewards(reward: &mut dyn Reward, count: u32) -> Result<Vec<f64>, Error> {
        let prompt = Prompt::from_ids(0, vec![1]);
        let ids: Vec<[u32; 1]> = (0..count).map(|id| [id]).collect();
        let candidates: Vec<_> =
            ids.iter().map(|ids| Candidate { prompt: &prompt, ids, end: End::Eos }).collect();
        reward.rewards(&candidates)
    }

    fn sum<'a>(parts: &[(f64, &[f64])]) -> Result<WeightedSum<Box<dyn Reward + 'a>>, SetupError> {
        let part =
            |(weight, scores): &(f64, &[f64])| (*weight, Box::new(Table::new(scores)) as Box<dyn Reward>);
        WeightedSum::new(parts.iter().map(part).collect())
    }

    #[test]
    fn a_sum_weighs_counts_and_skips_parts_of_weight_zero() {
        let mut sum = sum(&[(1.0, &[1.0, 2.0]), (0.0, &[f64::NAN]), (-0.5, &[4.0, 0.0])]).expect("a sum");
        assert_eq!(sum.name(), "1·table − 0.5·table");
        assert_eq!(sum.range(), (1.0 - 2.0, 2.0));
        assert_eq!((sum.ledger().reward_tokens, sum.ledger().reward_calls), (10, 0));
        assert_eq!(rewards(&mut sum, 2).expect("scores"), [-1.0, 2.0]);
        assert_eq!((sum.ledger().reward_tokens, sum.ledger().reward_calls), (10, 4));
        assert!(rewards(&mut sum, 3).is_err());
        assert_eq!(sum.ledger().reward_calls, 7, "what failed has cost something too");
    }

    #[test]
    fn sums_that_mean_nothing_are_refused() {
        let error = |parts: &[(f64, &[f64])]| sum(parts).err().expect("an error").to_string();
        let none = "a weighted sum needs at least one reward with a weight other than 0";
        assert_eq!(error(&[]), none);
        assert_eq!(error(&[(0.0, &[1.0])]), none);
        assert_eq!(
            error(&[(1.0, &[1.0]), (f64::NAN, &[1.0])]),
            "weight = NaN is out of range: a finite number"
        );
    }

    #[test]
    fn clipping_counts_what_it_cuts() {
        let mut clipped = Clipped::new(Table::new(&[-3.0, -1.0, 0.5, 1.0, 9.0]), -1.0, 1.0).expect("a range");
        assert_eq!(rewards(&mut clipped, 5).expect("scores"), [-1.0, -1.0, 0.5, 1.0, 1.0]);
        assert_eq!((clipped.clipped(), clipped.range()), ((2, 5), (-1.0, 1.0)));
        let inside = Clipped::new(Table::new(&[0.25, 0.5]), -1.0, f64::INFINITY).expect("a range");
        assert_eq!(inside.range(), (0.25, 0.5));
        for (low, high) in [(1.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0)] {
            let error = Clipped::new(Table::new(&[]), low, high).unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "the range {low} to {high} is empty or not a number\n  hint: the lower end comes first"
                )
            );
        }
    }

    fn calibration(cached: &[f64]) -> Calibration {
        let cached = CachedRewards::new(cached.to_vec()).expect("finite");
        Calibration::from_cached(BTreeMap::from([(vec![1], cached)]))
    }

    #[test]
    fn calibrated_rewards_are_shares_beaten() {
        let table = || Table::new(&[0.0, 1.0, 1.5, 2.0, 7.0]);
        let of = |ties| {
            let mut reward = Calibrated::new(table(), calibration(&[2.0, 1.0, 2.0, 3.0]), ties);
            assert_eq!(reward.range(), (0.0, 1.0));
            rewards(&mut reward, 5).expect("ranks")
        };
        assert_eq!(of(Ties::Strict), [0.0, 0.0, 0.25, 0.25, 1.0]);
        assert_eq!(of(Ties::NonStrict), [0.0, 0.25, 0.25, 0.75, 1.0]);
        assert_eq!(of(Ties::MidRank), [0.0, 0.125, 0.25, 0.5, 1.0]);
    }

    #[test]
    fn a_prompt_without_cached_rewards_is_refused_before_the_model_runs() {
        let mut reward = Calibrated::new(Table::new(&[0.0]), calibration(&[1.0]), Ties::MidRank);
        let other = Prompt::from_ids(5, vec![2]);
        let candidate = Candidate { prompt: &other, ids: &[0], end: End::Eos };
        assert_eq!(
            reward.rewards(&[candidate]).unwrap_err().to_string(),
            "reward table: no cached rewards for prompt 5\n  hint: the pool is of other prompts; sample one of these prompts"
        );
        assert_eq!(reward.ledger().reward_calls, 0);
    }

    proptest! {
        #[test]
        fn every_score_lies_in_the_range(
            tables in prop::collection::vec((-3.0..3.0, prop::collection::vec(-5.0..5.0, 4)), 1..4),
            low in -4.0..0.0, width in 0.1..4.0,
        ) {
            let parts: Vec<(f64, &[f64])> = tables.iter().map(|(w, scores)| (*w, &scores[..])).collect();
            let Ok(sum) = sum(&parts) else { return Ok(()) };
            let mut clipped = Clipped::new(sum, low, low + width).expect("a range");
            let inner = clipped.inner.range();
            let sums = rewards(&mut clipped.inner, 4).expect("scores");
            prop_assert!(sums.iter().all(|score| (inner.0..=inner.1).contains(score)), "{:?} {:?}", sums, inner);
            let range = clipped.range();
            let scores = rewards(&mut clipped, 4).expect("scores");
            prop_assert!(scores.iter().all(|score| (range.0..=range.1).contains(score)), "{:?} {:?}", scores, range);
            prop_assert_eq!(clipped.clipped().0, sums.iter().zip(&scores).filter(|(a, b)| a != b).count() as u64);
        }

        #[test]
        fn calibration_is_blind_to_increasing_maps(
            cached in prop::collection::vec(-4_i8..5, 1..9), scores in prop::collection::vec(-4_i8..5, 5),
        ) {
            let map = |x: f64| (x / 2.0).exp() - 3.0;
            let to = |values: &[i8], f: &dyn Fn(f64) -> f64| values.iter().map(|x| f(f64::from(*x))).collect::<Vec<_>>();
            let ranks = |f: &dyn Fn(f64) -> f64| {
                let table = Table::new(&to(&scores, f));
                rewards(&mut Calibrated::new(table, calibration(&to(&cached, f)), Ties::MidRank), 5).expect("ranks")
            };
            prop_assert_eq!(ranks(&|x| x), ranks(&map));
        }
    }
}
