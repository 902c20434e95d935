//! Held-out pairwise accuracy of a reward, and what may be claimed on top of it.

use crate::report::Section;
use crate::stats::{Interval, Resamples, Sums, wilson};

/// Margins from which no accuracy follows.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum PairwiseError {
    /// There is no pair.
    #[error("pairwise accuracy: no pairs; hold some out of training")]
    Empty,
    /// A margin is NaN. (Infinite margins are ordered, and allowed.)
    #[error(
        "pairwise accuracy: the margin of pair {0} is not a number; look at the scores of its two completions"
    )]
    NotANumber(usize),
    /// The level is not a probability strictly between zero and one.
    #[error("pairwise accuracy: level {0} is not strictly between 0 and 1; 0.95 is usual")]
    Level(f64),
    /// The groups are not those of the resamples.
    #[error("pairwise accuracy: {groups} groups of pairs, but resamples of {resampled} groups")]
    Groups {
        /// How many were given.
        groups: usize,
        /// How many the resamples are of.
        resampled: usize,
    },
}

/// How often a reward scores the chosen completion of a held-out pair above the rejected one.
#[derive(Clone, Debug, PartialEq)]
pub struct PairwiseAccuracy {
    /// Pairs ordered right, ties counting one half, over all pairs.
    pub accuracy: f64,
    /// Its interval.
    pub interval: Interval,
    /// Confidence level of the interval.
    pub level: f64,
    /// Number of pairs.
    pub pairs: u64,
    /// Pairs of equal scores.
    pub ties: u64,
}

impl PairwiseAccuracy {
    /// From margins `r(chosen) − r(rejected)`, with Wilson's interval, which takes the pairs as independent.
    ///
    /// ```
    /// # use evaluate::pairwise::PairwiseAccuracy;
    /// let found = PairwiseAccuracy::new(&[0.3, 1.2, 0.0, -0.1], 0.95)?;
    /// assert_eq!((found.accuracy, found.pairs, found.ties), (0.625, 4, 1));
    /// assert!(found.covers_half());
    /// # Ok::<(), evaluate::pairwise::PairwiseError>(())
    /// ```
    ///
    /// # Errors
    /// No pairs, a margin that is NaN, or a level outside (0, 1).
    pub fn new(margins: &[f64], level: f64) -> Result<Self, PairwiseError> {
        if !(level > 0.0 && level < 1.0) {
            return Err(PairwiseError::Level(level));
        }
        let right = outcomes(margins, 0)?;
        let accuracy = right.mean().ok_or(PairwiseError::Empty)?;
        let interval = wilson(right.sum(), right.count(), level).ok_or(PairwiseError::Empty)?;
        Ok(Self { accuracy, interval, level, pairs: right.count(), ties: ties(margins) })
    }

    /// From margins grouped by prompt, with an interval that keeps each prompt's pairs together: pairs that share a prompt,
    /// or a completion, are not independent, and Wilson's interval over them would be too narrow.
    ///
    /// The interval is the wider of the two to each side, so that a few prompts that agree by chance do not make it a point.
    ///
    /// # Errors
    /// As [`new`](Self::new), or resamples of another number of groups.
    pub fn grouped(margins: &[Vec<f64>], resamples: &Resamples) -> Result<Self, PairwiseError> {
        if margins.len() != resamples.prompts() {
            return Err(PairwiseError::Groups { groups: margins.len(), resampled: resamples.prompts() });
        }
        let flat: Vec<f64> = margins.concat();
        let mut found = Self::new(&flat, resamples.level())?;
        let mut first = 0;
        let mut groups = Vec::with_capacity(margins.len());
        for group in margins {
            groups.push(outcomes(group, first)?);
            first += group.len();
        }
        if let Ok(Interval { low, high }) = resamples.ratio(&groups).and_then(|estimate| estimate.interval) {
            found.interval =
                Interval { low: low.min(found.interval.low), high: high.max(found.interval.high) };
        }
        Ok(found)
    }

    /// Whether the interval covers one half: the reward is not known to order pairs better (or worse) than chance, and
    /// nothing may be claimed about methods that follow it.
    pub fn covers_half(&self) -> bool {
        self.interval.contains(0.5)
    }

    /// Whether the reward is known to order pairs better than chance: a claim about methods has a footing.
    pub fn supports_claims(&self) -> bool {
        self.interval.low > 0.5
    }

    /// The sentence for the report.
    pub fn sentence(&self, model: &str) -> String {
        let Interval { low, high } = self.interval;
        let found = format!(
            "On {} held-out pairs, {model} orders {:.1} % as the labels do [{:.1}, {:.1}]",
            self.pairs,
            100.0 * self.accuracy,
            100.0 * low,
            100.0 * high
        );
        if self.supports_claims() {
            format!("{found}, which is better than chance.")
        } else if self.covers_half() {
            format!(
                "{found}: the interval covers one half, so no claim is made about methods that follow this reward."
            )
        } else {
            format!(
                "{found}: it orders pairs against their labels; check which side is the chosen one. No claim is made about \
                 methods that follow this reward."
            )
        }
    }
}

/// The report's section on the rewards of a comparison; first among the sections by custom.
pub fn section(models: &[(String, PairwiseAccuracy)]) -> Section {
    let row = |(name, found): &(String, PairwiseAccuracy)| {
        vec![
            name.clone(),
            found.pairs.to_string(),
            found.ties.to_string(),
            format!("{:.3} [{:.3}, {:.3}]", found.accuracy, found.interval.low, found.interval.high),
            if found.supports_claims() { "yes" } else { "no" }.to_owned(),
        ]
    };
    Section {
        title: "Held-out pairwise accuracy".to_owned(),
        columns: ["reward", "pairs", "ties", "accuracy", "better than chance"].map(str::to_owned).to_vec(),
        rows: models.iter().map(row).collect(),
        text: models.iter().map(|(name, found)| found.sentence(name)).collect(),
    }
}

/// One for right, one half for a tie, zero for wrong; `first` is the number of the first pair, for the error.
fn outcomes(margins: &[f64], first: usize) -> Result<Sums, PairwiseError> {
    let mut right = Sums::default();
    for (index, margin) in margins.iter().enumerate() {
        right.push(match margin.partial_cmp(&0.0) {
            Some(std::cmp::Ordering::Greater) => 1.0,
            Some(std::cmp::Ordering::Equal) => 0.5,
            Some(std::cmp::Ordering::Less) => 0.0,
            None => return Err(PairwiseError::NotANumber(first + index)),
        });
    }
    Ok(right)
}

fn ties(margins: &[f64]) -> u64 {
    margins.iter().filter(|margin| **margin == 0.0).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn margins(right: usize, wrong: usize) -> Vec<f64> {
        std::iter::repeat_n(1.0, right).chain(std::iter::repeat_n(-1.0, wrong)).collect()
    }

    #[test]
    fn the_rule_about_claims_follows_the_interval() {
        let chance = PairwiseAccuracy::new(&margins(54, 46), 0.95).unwrap();
        assert!(chance.covers_half() && !chance.supports_claims());
        assert!(chance.sentence("arm").contains("no claim is made"), "{}", chance.sentence("arm"));
        let good = PairwiseAccuracy::new(&margins(540, 460), 0.95).unwrap();
        assert!(!good.covers_half() && good.supports_claims());
        assert_eq!(
            good.sentence("arm"),
            "On 1000 held-out pairs, arm orders 54.0 % as the labels do [50.9, 57.1], which is better than chance."
        );
        let inverted = PairwiseAccuracy::new(&margins(300, 700), 0.95).unwrap();
        assert!(!inverted.covers_half() && !inverted.supports_claims());
        assert!(inverted.sentence("arm").contains("against their labels"));
    }

    #[test]
    fn swapping_the_sides_mirrors_it() {
        let margins = [0.2, -0.4, 0.0, 1.0, 3.0, 0.0];
        let swapped: Vec<f64> = margins.iter().map(|m| -m).collect();
        let (a, b) =
            (PairwiseAccuracy::new(&margins, 0.9).unwrap(), PairwiseAccuracy::new(&swapped, 0.9).unwrap());
        assert!((a.accuracy + b.accuracy - 1.0).abs() < 1e-12);
        assert!((a.interval.low + b.interval.high - 1.0).abs() < 1e-12);
        assert_eq!((a.ties, b.ties), (2, 2));
    }

    #[test]
    fn pairs_of_one_prompt_count_less_than_independent_ones() {
        // Twenty prompts whose eight pairs agree with each other: only twenty independent facts.
        let grouped: Vec<Vec<f64>> = (0..20).map(|i| vec![if i % 3 == 0 { -1.0 } else { 1.0 }; 8]).collect();
        let resamples = Resamples::new(0, 20, 2000, 0.95).unwrap();
        let found = PairwiseAccuracy::grouped(&grouped, &resamples).unwrap();
        let naive = PairwiseAccuracy::new(&grouped.concat(), 0.95).unwrap();
        assert_eq!((found.accuracy, found.pairs), (naive.accuracy, naive.pairs));
        let width = |i: Interval| i.high - i.low;
        assert!(width(found.interval) > 2.0 * width(naive.interval));
        assert!(naive.supports_claims() && !found.supports_claims());
    }

    #[test]
    fn what_gives_no_accuracy_is_refused() {
        assert_eq!(PairwiseAccuracy::new(&[], 0.95), Err(PairwiseError::Empty));
        assert_eq!(PairwiseAccuracy::new(&[1.0, f64::NAN], 0.95), Err(PairwiseError::NotANumber(1)));
        assert_eq!(PairwiseAccuracy::new(&[1.0], 2.0), Err(PairwiseError::Level(2.0)));
        let resamples = Resamples::new(0, 3, 100, 0.95).unwrap();
        let error = PairwiseAccuracy::grouped(&[vec![1.0]], &resamples).unwrap_err();
        assert_eq!(error, PairwiseError::Groups { groups: 1, resampled: 3 });
    }
}
