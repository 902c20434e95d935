//! What a run keeps an eye on: the KL to the reference, and metrics that mean trouble.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::meters::Meters;
use crate::progress::Progress;

/// Where a checkpoint keeps it.
const FILE: &str = "state/on_policy.json";

/// Which side of a level means trouble.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Level {
    /// At or above it.
    High(f64),
    /// At or below it.
    Low(f64),
}

impl Level {
    fn reached(self, value: f64) -> bool {
        match self {
            Self::High(level) => value >= level,
            Self::Low(level) => value <= level,
        }
    }
}

/// Metrics of a step, the level that means trouble, and what the trouble is.
const ALARMS: [(&str, Level, &str); 12] = [
    (
        "frac_reward_zero_std",
        Level::High(0.9),
        "of the prompts have no two answers of different value: there is nothing to learn from",
    ),
    (
        "bon/floor_hits",
        Level::High(0.5),
        "of the answers are below every sample they are ranked among: ranks say nothing there",
    ),
    (
        "bon/tie_mass",
        Level::High(0.5),
        "of the samples tie with the answer on average: the reward tells few answers apart",
    ),
    (
        "bon/effective_n",
        Level::High(1000.0),
        "is the N that the policy's ranks stand for: more than the samples can tell",
    ),
    ("j-bond/ties", Level::High(0.5), "of the pairs of anchor samples tie: J-BOND's signal fires seldom"),
    (
        "j-bond/firing_rate",
        Level::Low(0.05),
        "of the answers are punished, where a third is expected at first: rewards tie, or the anchor lags",
    ),
    (
        "anchor/kl",
        Level::High(3.0),
        "nats lie between the policy and its anchor: the anchor lags, and its samples say little; raise eta, or move it sooner",
    ),
    (
        "completions/clipped_ratio",
        Level::High(0.5),
        "of the answers reach sampling.max_new_tokens without an end",
    ),
    (
        "completions/eos_rate",
        Level::Low(0.1),
        "of the answers end by themselves: rewards are those of texts cut off",
    ),
    (
        "policy/clipfrac_avg",
        Level::High(0.3),
        "of the tokens are clipped: the policy moves too far on one batch of answers; lower optim.learning_rate or ppo.epochs",
    ),
    (
        "val/pull",
        Level::High(1.0),
        "times the policy's pull is that of the values on the trunk that both share, and values move by no more than ppo.cliprange_value on a batch: returns are large; divide the reward (a weight in [[reward.sum]]), or lower ppo.vf_coef and raise ppo.cliprange_value",
    ),
    (
        "reward/out_of_range",
        Level::High(0.1),
        "of the answers have rewards far outside of what the model that training began with gets: a learned reward is a guess there",
    ),
];

/// A metric that was where it should not be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// The step.
    pub step: usize,
    /// The metric.
    pub metric: String,
    /// Its value.
    pub value: f64,
    /// What that means.
    pub meaning: String,
}

impl std::fmt::Display for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "step {}: {} = {:.3}: {}", self.step, self.metric, self.value, self.meaning)
    }
}

/// The rewards that count as known.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Known {
    low: f64,
    high: f64,
}

impl Known {
    fn of(rewards: impl Iterator<Item = f64>) -> Option<Self> {
        rewards.fold(None, |known: Option<Self>, reward| {
            let Self { low, high } = known.unwrap_or(Self { low: reward, high: reward });
            Some(Self { low: low.min(reward), high: high.max(reward) })
        })
    }

    /// Whether a reward is further outside than the range is wide.
    fn is_far(self, reward: f64) -> bool {
        let width = self.high - self.low;
        width > 0.0 && (reward < self.low - width || reward > self.high + width)
    }
}

/// A decaying mean of the KL to the reference (single steps are noisy), the alarms so far, and the rewards that are known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Watch {
    sum: f64,
    weight: f64,
    #[serde(default)]
    alarms: Vec<Alarm>,
    #[serde(default)]
    known: Option<Known>,
    #[serde(skip)]
    moving: bool,
}

impl Watch {
    /// The rewards of `samples` of the reference are known; where there are none, those of the first step are.
    pub(super) fn new(samples: impl Iterator<Item = f64>) -> Self {
        Self { known: Known::of(samples), ..Self::default() }
    }

    /// The reward is learned meanwhile: no range of it stays known.
    pub(super) fn moving(self) -> Self {
        Self { moving: true, ..self }
    }

    /// Looks at the rewards of a step's answers.
    pub(super) fn rewards(&mut self, rewards: &[f64], meters: &mut Meters) {
        if self.moving {
            return;
        }
        if self.known.is_none() {
            self.known = Known::of(rewards.iter().copied());
        }
        let Some(known) = self.known else { return };
        meters.extend(
            "reward/out_of_range",
            rewards.iter().map(|reward| f64::from(u8::from(known.is_far(*reward)))),
        );
    }

    /// Looks at the metrics of a step; each says once where it should not be.
    pub(super) fn look(&mut self, step: usize, meters: &Meters) {
        if let Some(kl) = meters.mean("objective/kl") {
            self.sum = 0.8 * self.sum + 0.2 * kl;
            self.weight = 0.8 * self.weight + 0.2;
        }
        for (name, level, meaning) in ALARMS {
            if let Some(value) = meters.mean(name).filter(|value| level.reached(*value)) {
                self.raise(step, name, value, meaning);
            }
        }
    }

    fn raise(&mut self, step: usize, metric: &str, value: f64, meaning: &str) {
        if self.alarms.iter().any(|alarm| alarm.metric == metric) {
            return;
        }
        let alarm = Alarm { step, metric: metric.into(), value, meaning: meaning.into() };
        Progress::say(&alarm.to_string());
        self.alarms.push(alarm);
    }

    /// Why a run is to end whose policy may be `limit` nats from the reference.
    pub(super) fn over(&self, limit: Option<f64>) -> Option<String> {
        let (limit, kl) = (limit?, (self.weight > 0.0).then(|| self.sum / self.weight)?);
        (kl > limit).then(|| format!("ended: the KL to the reference is {kl:.3} nats, the limit {limit}"))
    }

    /// The alarms so far, in order.
    pub(super) fn alarms(&self) -> Vec<String> {
        self.alarms.iter().map(ToString::to_string).collect()
    }

    /// Its file of a checkpoint.
    pub(super) fn save(&self) -> Result<(String, Vec<u8>), Error> {
        Ok((FILE.to_owned(), serde_json::to_vec_pretty(self).map_err(Error::other)?))
    }

    /// Takes up that of a checkpoint; older ones may have none.
    pub(super) fn restore(&mut self, checkpoint: &Path) -> Result<(), Error> {
        let path = checkpoint.join(FILE);
        if !path.exists() {
            return Ok(());
        }
        let text = fs_err::read_to_string(&path)?;
        let found: Self = serde_json::from_str(&text).map_err(|error| Error::Checkpoint {
            path,
            message: format!("{error}\n  hint: remove this checkpoint to resume from the one before"),
        })?;
        *self = Self { known: found.known.or(self.known), moving: self.moving, ..found };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alarm_is_raised_at_its_level_once_and_survives_a_checkpoint() {
        for (name, level, meaning) in ALARMS {
            let (quiet, loud) = match level {
                Level::High(level) => (level * 0.99, level),
                Level::Low(level) => (level * 1.01, level),
            };
            let mut watch = Watch::default();
            for (step, value) in [quiet, loud, loud].into_iter().enumerate() {
                let mut meters = Meters::default();
                meters.add(name, value);
                watch.look(step, &meters);
            }
            assert_eq!(watch.alarms().len(), 1, "{name}");
            assert!(watch.alarms()[0].starts_with(&format!("step 1: {name} = ")), "{:?}", watch.alarms());
            assert!(watch.alarms()[0].ends_with(meaning));
            let folder = tempfile::tempdir().expect("a folder");
            let (file, bytes) = watch.save().expect("it serialises");
            fs_err::create_dir_all(folder.path().join("state")).expect("a folder");
            fs_err::write(folder.path().join(file), bytes).expect("a file");
            let mut other = Watch::default();
            other.restore(folder.path()).expect("it is there");
            assert_eq!(other, watch);
        }
    }

    #[test]
    fn rewards_are_out_of_range_where_they_are_further_off_than_the_known_ones_are_apart() {
        let share = |watch: &mut Watch, rewards: &[f64]| {
            let mut meters = Meters::default();
            watch.rewards(rewards, &mut meters);
            meters.mean("reward/out_of_range").expect("observed")
        };
        let mut pooled = Watch::new([0.0, 1.0, 0.5].into_iter());
        assert_eq!(share(&mut pooled, &[2.0, -1.0, 1.5, 0.0]), 0.0);
        assert_eq!(share(&mut pooled, &[2.1, -1.1, 1.5, 0.0]), 0.5);
        // Without a pool the first step's answers are those of the reference.
        let mut first = Watch::new(std::iter::empty());
        assert_eq!(share(&mut first, &[1.0, 3.0]), 0.0);
        assert_eq!(share(&mut first, &[5.5, 3.0]), 0.5);
        // One value tells no width.
        let mut flat = Watch::new(std::iter::once(1.0));
        assert_eq!(share(&mut flat, &[9.0]), 0.0);
    }

    #[test]
    fn the_budget_is_that_of_a_mean_over_steps() {
        let mut watch = Watch::default();
        for (step, kl) in [0.1, 5.0].into_iter().enumerate() {
            let mut meters = Meters::default();
            meters.add("objective/kl", kl);
            watch.look(step, &meters);
        }
        let mean = (0.8 * 0.1 + 5.0) / 1.8;
        assert_eq!(watch.over(None), None);
        assert_eq!(watch.over(Some(mean + 1e-9)), None);
        let reason = watch.over(Some(mean - 1e-9)).expect("over");
        assert!(reason.contains("2.822 nats"), "{reason}");
    }
}
