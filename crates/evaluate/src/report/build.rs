//! From values per prompt to a report with intervals.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

use super::checks;
use super::metric::{self, ACCURACY, KL, KL_AS_SAMPLED, REWARD_GOLD, STANDARD, WIN_RATE};
use super::model::{Cost, Fact, Metric, PairedDifference, Report, Row, Section};
use super::sweep::{Sweep, SweepPlace};
use crate::stats::{Interval, Resamples, ResamplesError, wilson};

/// Below this number of prompts percentile intervals are rough, and the report says so.
const FEW_PROMPTS: usize = 20;

/// One method at one setting, before statistics.
#[derive(Clone, Debug, Default)]
pub struct RowInput {
    /// Name of the method, as in the registry.
    pub method: String,
    /// Name of the policy it ran on.
    pub policy: String,
    /// Its settings, `n` apart.
    pub params: BTreeMap<String, Value>,
    /// Samples, steps, or particles for each answer.
    pub n: usize,
    /// By metric: one value per prompt, `None` where the prompt has none. All rows use one order of prompts.
    pub per_prompt: BTreeMap<String, Vec<Option<f64>>>,
    /// By metric: why it, or some of it, is missing.
    pub reasons: BTreeMap<String, String>,
    /// Cost of all prompts together.
    pub cost: Cost,
    /// See [`Row::diagnostics`].
    pub diagnostics: BTreeMap<String, f64>,
    /// Where it stands in a sweep, if it does.
    pub sweep: Option<SweepPlace>,
    /// See [`Row::basis`].
    pub basis: Option<String>,
}

/// What is wrong with the rows of a comparison.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ComparisonError {
    /// There are no prompts.
    #[error("comparison `{0}`: no prompts; an evaluation set needs at least one")]
    NoPrompts(String),
    /// The base row is not among the rows.
    #[error("comparison `{run}`: base is row {base}, but there are {rows} rows; add the base policy's row")]
    NoBase {
        /// The run.
        run: String,
        /// The index that was given.
        base: usize,
        /// How many rows there are.
        rows: usize,
    },
    /// A metric has another number of values than there are prompts.
    #[error(
        "row `{row}`, metric `{metric}`: {given} values for {prompts} prompts; give `None` where a prompt has no value"
    )]
    Length {
        /// Which row.
        row: String,
        /// Which metric.
        metric: String,
        /// How many values it has.
        given: usize,
        /// How many prompts there are.
        prompts: usize,
    },
    /// A value is NaN or infinite.
    #[error(
        "row `{row}`, metric `{metric}`, prompt {prompt}: {value} is not a finite number; give `None` and a reason"
    )]
    NotFinite {
        /// Which row.
        row: String,
        /// Which metric.
        metric: String,
        /// Which prompt.
        prompt: usize,
        /// The value.
        value: f64,
    },
    /// A value lies outside the range of its metric.
    #[error("row `{row}`, metric `{metric}`, prompt {prompt}: {value} is outside [0, 1]")]
    NotAShare {
        /// Which row.
        row: String,
        /// Which metric.
        metric: String,
        /// Which prompt.
        prompt: usize,
        /// The value.
        value: f64,
    },
    /// A diagnostic or the number of seconds is NaN or infinite.
    #[error("row `{row}`: `{name}` is {value}, not a finite number")]
    Diagnostic {
        /// Which row.
        row: String,
        /// Which number.
        name: String,
        /// Its value.
        value: f64,
    },
    /// Two rows have the same method, policy, settings, and `n`.
    #[error("row `{0}` occurs twice; what tells the two apart belongs in `params`")]
    Twice(String),
    /// The resamples cannot be drawn.
    #[error(transparent)]
    Resamples(#[from] ResamplesError),
}

/// Collects rows, then computes all intervals on shared resamples.
#[derive(Clone, Debug)]
pub struct Comparison {
    run: String,
    seed: u64,
    prompts: usize,
    base: usize,
    replicates: usize,
    level: f64,
    rows: Vec<RowInput>,
    names: BTreeSet<String>,
    title: Option<String>,
    notes: Vec<String>,
    sections: Vec<Section>,
    about: Vec<Fact>,
    settings: BTreeMap<String, String>,
    objectives: bool,
}

impl Comparison {
    /// A comparison on `prompts` prompts; paired differences are from row `base`, in the order of [`add`](Self::add).
    ///
    /// # Errors
    /// [`ComparisonError::NoPrompts`].
    pub fn new(
        run: impl Into<String>,
        seed: u64,
        prompts: usize,
        base: usize,
    ) -> Result<Self, ComparisonError> {
        let run = run.into();
        if prompts == 0 {
            return Err(ComparisonError::NoPrompts(run));
        }
        Ok(Self {
            run,
            seed,
            prompts,
            base,
            replicates: Resamples::REPLICATES,
            level: Resamples::LEVEL,
            rows: Vec::new(),
            names: BTreeSet::new(),
            title: None,
            notes: Vec::new(),
            sections: Vec::new(),
            about: Vec::new(),
            settings: BTreeMap::new(),
            objectives: false,
        })
    }

    /// Sets the number of bootstrap replicates and the confidence level; 2000 and 0.95 unless told.
    #[must_use]
    pub fn bootstrap(mut self, replicates: usize, level: f64) -> Self {
        (self.replicates, self.level) = (replicates, level);
        self
    }

    /// Takes the two rewards as two objectives, whose hypervolume each sweep gets.
    #[must_use]
    pub fn objectives(mut self, both: bool) -> Self {
        self.objectives = both;
        self
    }

    /// Sets the heading.
    pub fn title(&mut self, title: impl Into<String>) {
        self.title = Some(title.into());
    }

    /// Adds what the reader must know before believing a number. A note that is there already is not repeated.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Adds a further table.
    pub fn section(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// Says how the comparison was made: data, models, program, hardware.
    pub fn about(&mut self, facts: impl IntoIterator<Item = Fact>) {
        self.about.extend(facts);
    }

    /// Records a further setting.
    pub fn setting(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.settings.insert(name.into(), value.into());
    }

    /// Adds a row.
    ///
    /// # Errors
    /// A metric with another number of values than prompts, a value that is not finite or outside the range of its metric,
    /// or a row that is there already.
    pub fn add(&mut self, row: RowInput) -> Result<(), ComparisonError> {
        let name = name_of(&row);
        for (metric, values) in &row.per_prompt {
            if values.len() != self.prompts {
                return Err(ComparisonError::Length {
                    row: name,
                    metric: metric.clone(),
                    given: values.len(),
                    prompts: self.prompts,
                });
            }
            for (prompt, value) in values.iter().enumerate() {
                let Some(value) = *value else { continue };
                let metric = metric.clone();
                if !value.is_finite() {
                    return Err(ComparisonError::NotFinite { row: name, metric, prompt, value });
                }
                // Expectations over a pool may exceed one by rounding.
                if metric::is_share(&metric) && !(-1e-9..=1.0 + 1e-9).contains(&value) {
                    return Err(ComparisonError::NotAShare { row: name, metric, prompt, value });
                }
            }
        }
        let numbers = row.diagnostics.iter().map(|(name, value)| (name.as_str(), *value));
        if let Some((what, value)) =
            numbers.chain([("seconds", row.cost.seconds)]).find(|(_, value)| !value.is_finite())
        {
            return Err(ComparisonError::Diagnostic { row: name, name: what.to_owned(), value });
        }
        if !self.names.insert(name.clone()) {
            return Err(ComparisonError::Twice(name));
        }
        self.rows.push(row);
        Ok(())
    }

    /// The rows so far.
    pub fn rows(&self) -> &[RowInput] {
        &self.rows
    }

    /// Computes means, intervals, paired differences, and which rows lead.
    ///
    /// # Errors
    /// No base row, or a bootstrap that cannot be drawn.
    pub fn finish(mut self) -> Result<Report, ComparisonError> {
        if self.base >= self.rows.len() {
            return Err(ComparisonError::NoBase { run: self.run, base: self.base, rows: self.rows.len() });
        }
        let resamples = Resamples::new(self.seed, self.prompts, self.replicates, self.level)?;
        if self.prompts < FEW_PROMPTS {
            self.note(format!(
                "{} prompts are few: below {FEW_PROMPTS}, bootstrap intervals are too narrow.",
                self.prompts
            ));
        }
        for note in self.rows.iter().flat_map(|row| partial(row, self.prompts)).collect::<Vec<_>>() {
            self.note(note);
        }
        let names: BTreeSet<&str> = STANDARD
            .into_iter()
            .chain(self.rows.iter().flat_map(|row| row.per_prompt.keys().map(String::as_str)))
            .collect();
        let base = &self.rows[self.base];
        let rows: Vec<Row> = self
            .rows
            .iter()
            .enumerate()
            .map(|(index, row)| Row {
                method: row.method.clone(),
                policy: row.policy.clone(),
                params: row.params.clone(),
                n: row.n,
                metrics: names
                    .iter()
                    // Of those that every row has, one says why it is missing.
                    .filter(|name| STANDARD.contains(name) || row.per_prompt.contains_key(**name))
                    .map(|name| ((*name).to_owned(), mean(row, name, index == self.base, &resamples)))
                    .collect(),
                cost: row.cost,
                versus_base: if index == self.base {
                    BTreeMap::new()
                } else {
                    names
                        .iter()
                        .filter(|name| !metric::is_check(name))
                        .filter_map(|name| {
                            Some(((*name).to_owned(), difference(row, base, name, &resamples)?))
                        })
                        .collect()
                },
                basis: row.basis.clone(),
                diagnostics: row.diagnostics.clone(),
                sweep: row.sweep.clone(),
            })
            .collect();
        self.notes.splice(0..0, checks::notes(&rows));
        let leaders = names
            .iter()
            .filter(|name| metric::has_best(name))
            .filter_map(|name| Some(((*name).to_owned(), leaders(&self.rows, &rows, name, &resamples)?)))
            .collect();
        Ok(Report {
            schema: Report::SCHEMA,
            run: self.run,
            seed: self.seed,
            prompts: self.prompts,
            rows,
            base: self.base,
            level: self.level,
            replicates: self.replicates,
            leaders,
            title: self.title,
            notes: self.notes,
            sections: self.sections,
            about: self.about,
            settings: self.settings,
            frontier: None,
            sweep: Sweep::of(&self.rows, &resamples, self.objectives),
        })
    }
}

/// What tells a row apart, for messages.
fn name_of(row: &RowInput) -> String {
    let mut name = format!("{} on {}, n={}", row.method, row.policy, row.n);
    for (param, value) in &row.params {
        // Writing to a string cannot fail.
        let _ = write!(name, " {param}={value}");
    }
    name
}

/// Notes about metrics that only some of the prompts have.
fn partial(row: &RowInput, prompts: usize) -> Vec<String> {
    row.per_prompt
        .iter()
        .filter_map(|(metric, values)| {
            let present = values.iter().flatten().count();
            let why = row.reasons.get(metric).map(|reason| format!(" ({reason})")).unwrap_or_default();
            (present > 0 && present < prompts).then(|| {
                format!("`{metric}` of {} rests on {present} of {prompts} prompts{why}.", name_of(row))
            })
        })
        .collect()
}

fn mean(row: &RowInput, name: &str, is_base: bool, resamples: &Resamples) -> Metric {
    let Some(values) = row.per_prompt.get(name).filter(|values| values.iter().any(Option::is_some)) else {
        let reason = row.reasons.get(name).cloned();
        return Metric::null(reason.unwrap_or_else(|| "not measured".to_owned()));
    };
    let mut metric = Metric::from(resamples.mean(values));
    if metric.low.is_none() {
        return metric;
    }
    let present: Vec<f64> = values.iter().flatten().copied().collect();
    if present.iter().any(|value| *value != present[0]) {
        return metric;
    }
    // Resampling equal values shows no spread, which would claim certainty. Exact are a divergence of zero,
    // and what the base
    // wins against itself.
    let exact = match name {
        KL | KL_AS_SAMPLED => present[0] == 0.0,
        WIN_RATE => is_base,
        _ => false,
    };
    if exact {
        return metric;
    }
    let outcomes = is_share(row, name).then(|| of_equal_outcomes(&present, resamples.level())).flatten();
    (metric.low, metric.high) = (outcomes.map(|found| found.low), outcomes.map(|found| found.high));
    if outcomes.is_none() {
        metric.reason = Some("every prompt has the same value, which tells nothing of its spread".to_owned());
    }
    metric
}

/// Whether the values are shares. A gold reward that is the accuracy under another name is one.
fn is_share(row: &RowInput, name: &str) -> bool {
    let is_accuracy =
        || row.per_prompt.get(ACCURACY).is_some_and(|own| row.per_prompt.get(name) == Some(own));
    metric::is_share(name) || (name == REWARD_GOLD && is_accuracy())
}

/// The interval of a share where all outcomes are 0, or all are 1: Wilson's, as resampling shows no spread.
fn of_equal_outcomes(values: &[f64], level: f64) -> Option<Interval> {
    let all = |end: f64| values.iter().all(|value| *value == end);
    (all(0.0) || all(1.0)).then(|| wilson(values.iter().sum(), values.len() as u64, level)).flatten()
}

fn difference(
    row: &RowInput,
    base: &RowInput,
    name: &str,
    resamples: &Resamples,
) -> Option<PairedDifference> {
    let (own, other) = (row.per_prompt.get(name)?, base.per_prompt.get(name)?);
    let mut found = resamples.difference(own, other).ok()?;
    if is_share(row, name)
        && found.estimate.interval.is_ok()
        && let Some(interval) = of_equal_changes(own, other, resamples.level())
    {
        found.estimate.interval = Ok(interval);
    }
    let covers_zero = found.covers_zero();
    Some(PairedDifference { difference: Metric::from(Ok(found.estimate)), covers_zero })
}

/// The interval of a difference of outcomes that are 0 or 1, where every prompt has the same difference: no
/// change lies
/// within as many changes to either side as Wilson's interval of none allows, and a change on every prompt
/// likewise.
fn of_equal_changes(own: &[Option<f64>], other: &[Option<f64>], level: f64) -> Option<Interval> {
    let pairs: Vec<(f64, f64)> =
        own.iter().zip(other).filter_map(|(own, other)| (*own).zip(*other)).collect();
    let is_outcome = |value: f64| value == 0.0 || value == 1.0;
    let first = pairs.first().map(|(own, other)| own - other)?;
    if !pairs.iter().all(|(own, other)| is_outcome(*own) && is_outcome(*other) && own - other == first) {
        return None;
    }
    let changed = wilson(pairs.len() as f64 * first.abs(), pairs.len() as u64, level)?;
    Some(match first {
        f if f > 0.0 => changed,
        f if f < 0.0 => Interval { low: -changed.high, high: -changed.low },
        _ => Interval { low: -changed.high, high: changed.high },
    })
}

/// The row of best mean and those whose paired difference from it covers zero, in the order of rows.
fn leaders(inputs: &[RowInput], rows: &[Row], name: &str, resamples: &Resamples) -> Option<Vec<usize>> {
    let mean = |row: usize| rows[row].metrics.get(name).and_then(|metric| metric.mean);
    // The first of equal ones.
    let best = (0..rows.len()).rev().filter(|row| mean(*row).is_some()).max_by(|a, b| {
        let (a, b) = (mean(*a).unwrap_or(f64::NEG_INFINITY), mean(*b).unwrap_or(f64::NEG_INFINITY));
        a.total_cmp(&b)
    })?;
    let values = |row: usize| inputs[row].per_prompt.get(name);
    let ties = |row: usize| match (values(best), values(row)) {
        // Without a common prompt nothing tells the two apart.
        (Some(best), Some(row)) => resamples.difference(best, row).map_or(true, |found| found.covers_zero()),
        _ => false,
    };
    Some((0..rows.len()).filter(|row| mean(*row).is_some() && (*row == best || ties(*row))).collect())
}

#[cfg(test)]
mod tests;
