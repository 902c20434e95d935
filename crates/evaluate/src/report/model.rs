//! What `report.json` holds.

use std::collections::BTreeMap;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sweep::{Sweep, SweepPlace};
use crate::frontier::Frontier;
use crate::stats::{Estimate, Undetermined};

/// A finished comparison: every method on the same prompts, with intervals and costs.
///
/// The fields up to `rows` are schema 1; those after it are extras, absent from the file where empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the format: [`Report::SCHEMA`].
    pub schema: u32,
    /// Name of the run.
    pub run: String,
    /// Seed of the run; also of the resamples.
    pub seed: u64,
    /// Number of prompts.
    pub prompts: usize,
    /// One per method and setting.
    pub rows: Vec<Row>,
    /// Which row the paired differences are taken from.
    #[serde(default)]
    pub base: usize,
    /// Confidence level of all intervals.
    #[serde(default)]
    pub level: f64,
    /// Bootstrap replicates behind the intervals.
    #[serde(default)]
    pub replicates: usize,
    /// For each metric with a best value: the rows that the paired bootstrap cannot tell from the best one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub leaders: BTreeMap<String, Vec<usize>>,
    /// Heading of the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What the reader must know before believing a number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Further tables, for instance held-out pairwise accuracy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<Section>,
    /// What was run: data, models, rewards, prompt format, program, command, hardware, in the order of the
    /// report.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub about: Vec<Fact>,
    /// Further settings by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
    /// The most gold reward at each divergence from the base, where its samples tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontier: Option<Frontier>,
    /// Settings of swept policies, averaged over their runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<Sweep>,
}

impl Report {
    /// The version of the format that this code writes.
    pub const SCHEMA: u32 = 1;
}

/// One thing that a report says of how it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is about.
    pub name: String,
    /// What is so.
    pub value: String,
}

impl Fact {
    /// A fact by its name.
    pub fn new(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), value: value.into() }
    }
}

/// One method at one setting.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the method, as in the registry.
    pub method: String,
    /// Name of the policy it ran on.
    pub policy: String,
    /// Its settings, `n` apart.
    pub params: BTreeMap<String, Value>,
    /// Samples, steps, or particles for each answer.
    pub n: usize,
    /// By name; see [`super::metric`].
    pub metrics: BTreeMap<String, Metric>,
    /// Cost of all prompts together.
    pub cost: Cost,
    /// What the value of a prompt is, such as a mean over all subsets of `n` of its samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub basis: Option<String>,
    /// Paired differences from the base row, by metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub versus_base: BTreeMap<String, PairedDifference>,
    /// Numbers that say how far to trust the metrics: effective sample size, acceptance rate, split-R̂.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub diagnostics: BTreeMap<String, f64>,
    /// Where it stands in a sweep, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sweep: Option<SweepPlace>,
}

/// A mean over prompts with its interval; what does not exist is null, and `reason` says why.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The mean.
    pub mean: Option<f64>,
    /// Lower end of its interval.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Why something is null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Metric {
    /// A metric that does not exist, and why.
    pub fn null(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::default() }
    }

    /// Mean and both ends, if all exist.
    pub fn full(&self) -> Option<(f64, f64, f64)> {
        Some((self.mean?, self.low?, self.high?))
    }
}

impl From<Result<Estimate, Undetermined>> for Metric {
    fn from(estimate: Result<Estimate, Undetermined>) -> Self {
        match estimate {
            Err(why) => Self::null(why.to_string()),
            Ok(Estimate { mean, interval: Err(why), .. }) => {
                Self { mean: Some(mean), reason: Some(why.to_string()), ..Self::default() }
            }
            Ok(Estimate { mean, interval: Ok(interval), .. }) => {
                Self { mean: Some(mean), low: Some(interval.low), high: Some(interval.high), reason: None }
            }
        }
    }
}

/// A paired difference from the base row, on the prompts where both have a value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PairedDifference {
    /// Mean of the differences, with its interval.
    #[serde(flatten)]
    pub difference: Metric,
    /// Whether its sign is not known: zero lies in the interval, or there is no interval.
    pub covers_zero: bool,
}

/// What a row cost, all prompts together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Tokens drawn.
    pub decode_tokens: u64,
    /// Tokens of prefixes run through policies.
    pub prefill_tokens: u64,
    /// Tokens run through reward models.
    pub reward_tokens: u64,
    /// Batched forward passes of any model.
    pub forward_passes: u64,
    /// Completions scored.
    pub reward_calls: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
    /// Tokens times the parameters of the model that ran them: tokens of models of different size are told
    /// apart by it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parameter_tokens: f64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

impl Cost {
    /// Tokens run through any model.
    pub fn total_tokens(&self) -> u64 {
        self.decode_tokens + self.prefill_tokens + self.reward_tokens
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.decode_tokens += other.decode_tokens;
        self.prefill_tokens += other.prefill_tokens;
        self.reward_tokens += other.reward_tokens;
        self.forward_passes += other.forward_passes;
        self.reward_calls += other.reward_calls;
        self.seconds += other.seconds;
        self.parameter_tokens += other.parameter_tokens;
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

/// A further table of the report, with a text below it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// Heading.
    pub title: String,
    /// Heads of the columns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// Cells, one per column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<Vec<String>>,
    /// Paragraphs below the table.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub text: Vec<String>,
}
