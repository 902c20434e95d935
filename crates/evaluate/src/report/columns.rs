//! Which metrics a table shows, with how many decimals, and why others are missing.

use std::collections::{BTreeMap, BTreeSet};

use super::checks;
use super::metric::{self, ACCURACY, REWARD_GOLD};
use super::model::{Metric, Report, Row};

/// One metric of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Column<'a> {
    /// Name of the metric.
    pub(super) name: &'a str,
    /// Decimals of a mean.
    mean: usize,
    /// Decimals of the ends of an interval.
    ends: usize,
}

impl Column<'_> {
    /// `0.512 [0.47, 0.55]`, `0.512` without an interval, `–` without a mean.
    pub(super) fn cell(&self, metric: &Metric) -> String {
        match (self.interval(metric), metric.mean) {
            (Some(interval), _) => format!("{} {interval}", self.mean(metric)),
            (None, Some(_)) => self.mean(metric),
            (None, None) => "–".to_owned(),
        }
    }

    /// `0.512`, or `–`.
    pub(super) fn mean(&self, metric: &Metric) -> String {
        metric.mean.map_or_else(|| "–".to_owned(), |mean| fixed(mean, self.mean))
    }

    /// `[0.47, 0.55]`.
    pub(super) fn interval(&self, metric: &Metric) -> Option<String> {
        let (_, low, high) = metric.full()?;
        Some(format!("[{}, {}]", fixed(low, self.ends), fixed(high, self.ends)))
    }

    /// `+0.120 [+0.08, +0.16]`, of a difference.
    pub(super) fn signed(&self, metric: &Metric) -> String {
        let sign = |value: f64, decimals| {
            let text = fixed(value, decimals);
            if text.starts_with('-') || text.chars().all(|c| matches!(c, '0' | '.')) {
                text
            } else {
                format!("+{text}")
            }
        };
        match (metric.full(), metric.mean) {
            (Some((mean, low, high)), _) => {
                format!("{} [{}, {}]", sign(mean, self.mean), sign(low, self.ends), sign(high, self.ends))
            }
            (None, Some(mean)) => sign(mean, self.mean),
            (None, None) => "–".to_owned(),
        }
    }
}

/// A number with fixed decimals; never `-0.000`.
pub(super) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_owned(),
        _ => text,
    }
}

/// The metrics that some row has, in the order of tables. A gold reward that is the accuracy is there once,
/// as the accuracy.
pub(super) fn columns(report: &Report) -> Vec<Column<'_>> {
    let once = gold_is_accuracy(report);
    names(report)
        .into_iter()
        .filter(|name| !(once && *name == REWARD_GOLD) && checks::is_shown(&report.rows, name))
        .filter_map(|name| {
            let present: Vec<&Metric> = report
                .rows
                .iter()
                .filter_map(|row| row.metrics.get(name))
                .filter(|metric| metric.mean.is_some())
                .collect();
            let largest = present.iter().filter_map(|metric| metric.mean).map(f64::abs).reduce(f64::max)?;
            let mean: usize = match largest {
                l if l < 10.0 => 3,
                l if l < 1000.0 => 1,
                _ => 0,
            };
            // One decimal less reads better, as long as intervals do not collapse.
            let narrowest = present
                .iter()
                .filter_map(|metric| metric.full())
                .map(|(_, low, high)| high - low)
                .filter(|width| *width > 0.0)
                .fold(f64::INFINITY, f64::min);
            let fewer = mean.saturating_sub(usize::from(mean == 3));
            let ends = if narrowest < 4.0 * 0.1_f64.powi(fewer as i32) { mean } else { fewer };
            Some(Column { name, mean, ends })
        })
        .collect()
}

/// Whether the gold reward of every row is its accuracy: 1 for a right answer, 0 for a wrong one.
pub(super) fn gold_is_accuracy(report: &Report) -> bool {
    let value = |row: &Row, name: &str| row.metrics.get(name).and_then(|metric| metric.mean);
    let same = |row: &Row| value(row, ACCURACY) == value(row, REWARD_GOLD);
    report.rows.iter().any(|row| value(row, ACCURACY).is_some()) && report.rows.iter().all(same)
}

/// Sets of metrics, and the `n` of the rows that lack them.
type Gaps<'a> = BTreeMap<BTreeSet<&'a str>, BTreeSet<usize>>;

/// Why cells are empty or lack an interval: for each reason, the metrics and the rows it concerns.
pub(super) fn gaps(report: &Report) -> Vec<String> {
    let policies: BTreeSet<&str> = report.rows.iter().map(|row| row.policy.as_str()).collect();
    // By reason, policy, and method: which metrics of which of its rows.
    let mut found: BTreeMap<(&str, &str, &str), Gaps<'_>> = BTreeMap::new();
    let once = gold_is_accuracy(report);
    for row in report.rows.iter().filter(|row| row.sweep.is_none()) {
        let mut by_reason: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (name, metric) in row.metrics.iter().filter(|(name, _)| !(once && *name == REWARD_GOLD)) {
            if let Some(reason) = &metric.reason {
                by_reason.entry(reason).or_default().insert(name);
            }
        }
        for (reason, metrics) in by_reason {
            let of_method = found.entry((reason, &row.policy, &row.method)).or_default();
            of_method.entry(metrics).or_default().insert(row.n);
        }
    }
    // Rows that lack the same metrics for the same reason share a line.
    let mut lines: BTreeMap<(&str, BTreeSet<&str>), Vec<String>> = BTreeMap::new();
    for ((reason, policy, method), of_method) in found {
        let of_this = report.rows.iter().filter(|row| row.policy == policy && row.method == method);
        let all: BTreeSet<usize> = of_this.map(|row| row.n).collect();
        let place = if policies.len() > 1 { format!("{method} on {policy}") } else { method.to_owned() };
        for (metrics, some) in of_method {
            let ns: Vec<String> = some.iter().map(usize::to_string).collect();
            let at = if some == all { String::new() } else { format!(" at n={}", ns.join(", ")) };
            lines.entry((reason, metrics)).or_default().push(format!("{place}{at}"));
        }
    }
    lines
        .into_iter()
        .map(|((reason, metrics), places)| {
            format!("{} of {}: {reason}", metric::in_order(metrics.into_iter()).join(", "), places.join("; "))
        })
        .collect()
}

fn names(report: &Report) -> Vec<&str> {
    metric::in_order(report.rows.iter().flat_map(|row| row.metrics.keys().map(String::as_str)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(mean: f64, low: f64, high: f64) -> Metric {
        Metric { mean: Some(mean), low: Some(low), high: Some(high), reason: None }
    }

    #[test]
    fn cells_read_as_in_a_paper() {
        let column = Column { name: "accuracy", mean: 3, ends: 2 };
        assert_eq!(column.cell(&metric(0.5123, 0.4712, 0.5499)), "0.512 [0.47, 0.55]");
        assert_eq!(column.cell(&Metric { mean: Some(0.5), ..Metric::default() }), "0.500");
        assert_eq!(column.cell(&Metric::null("no")), "–");
        assert_eq!(column.signed(&metric(0.12, -0.0001, 0.2)), "+0.120 [0.00, +0.20]");
    }

    #[test]
    fn zero_has_no_sign() {
        assert_eq!(fixed(-0.0004, 3), "0.000");
        assert_eq!(fixed(-0.0006, 3), "-0.001");
    }
}
