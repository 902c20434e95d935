//! From rows to series of points.

use std::collections::BTreeSet;

use super::style::Style;
use crate::report::cells::params;
use crate::report::model::{Report, Row};
use crate::report::sweep::SweepPoint;

/// A coordinate with its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Span {
    pub(super) mean: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Span {
    /// A coordinate without uncertainty.
    pub(super) fn point(mean: f64) -> Self {
        Self { mean, low: mean, high: mean }
    }
}

/// A row in a plot.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) x: Span,
    pub(super) y: Span,
    /// What tells it from the other points of its series; empty for the only one.
    pub(super) label: String,
}

/// The rows of one method on one policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) style: Style,
    /// Points connected by a line: those of equal settings, by growing `n`.
    pub(super) lines: Vec<Vec<Point>>,
}

/// The series with at least one point, styled by their place in the whole report, so that all panels agree.
pub(super) fn collect(report: &Report, point: impl Fn(&Row) -> Option<(Span, Span)>) -> Vec<Series> {
    let policies: BTreeSet<&str> =
        report.rows.iter().filter(|row| row.sweep.is_none()).map(|row| row.policy.as_str()).collect();
    let key = |row: &Row| (row.policy.clone(), row.method.clone());
    let mut keys = Vec::new();
    for row in report.rows.iter().filter(|row| row.sweep.is_none()) {
        if !keys.contains(&key(row)) {
            keys.push(key(row));
        }
    }
    let base = report.rows.get(report.base).map(key);
    let mut others = 0;
    let of_rows: Vec<Series> = keys
        .into_iter()
        .filter_map(|of| {
            let style = if Some(&of) == base.as_ref() {
                Style::BASE
            } else {
                others += 1;
                Style::nth(others - 1)
            };
            let rows: Vec<&Row> = report.rows.iter().filter(|row| key(row) == of).collect();
            let lines = lines(&rows, &point);
            let (policy, method) = of;
            let name = if policies.len() > 1 { format!("{method} on {policy}") } else { method };
            (!lines.is_empty()).then_some(Series { name, style, lines })
        })
        .collect();
    of_rows.into_iter().chain(swept(report, others, point)).collect()
}

/// A series for each sweep, its settings connected in their order; styled after `others` series.
fn swept(report: &Report, others: usize, point: impl Fn(&Row) -> Option<(Span, Span)>) -> Vec<Series> {
    let points = report.sweep.iter().flat_map(|sweep| &sweep.points);
    let mut names: Vec<&str> = Vec::new();
    for point in points.clone() {
        if !names.contains(&point.series.as_str()) {
            names.push(&point.series);
        }
    }
    let place = |of: &SweepPoint| {
        let row = Row { metrics: of.metrics.clone(), ..Row::default() };
        let (x, y) = point(&row)?;
        Some(Point { x, y, label: of.setting.clone() })
    };
    names
        .into_iter()
        .enumerate()
        .filter_map(|(index, name)| {
            let line: Vec<Point> = points.clone().filter(|of| of.series == name).filter_map(place).collect();
            let style = Style::nth(others + index);
            (!line.is_empty()).then(|| Series { name: name.to_owned(), style, lines: vec![line] })
        })
        .collect()
}

fn lines(rows: &[&Row], point: &impl Fn(&Row) -> Option<(Span, Span)>) -> Vec<Vec<Point>> {
    let several_n = rows.iter().any(|row| row.n != rows[0].n);
    let several_settings = rows.iter().any(|row| row.params != rows[0].params);
    let mut settings: Vec<_> = Vec::new();
    for row in rows {
        if !settings.contains(&&row.params) {
            settings.push(&row.params);
        }
    }
    settings
        .into_iter()
        .filter_map(|params_of_line| {
            let mut of_line: Vec<&Row> =
                rows.iter().copied().filter(|row| row.params == *params_of_line).collect();
            of_line.sort_by_key(|row| row.n);
            let points: Vec<Point> = of_line
                .into_iter()
                .filter_map(|row| {
                    let (x, y) = point(row)?;
                    let n = several_n.then(|| row.n.to_string());
                    let settings = several_settings.then(|| params(row)).filter(|params| !params.is_empty());
                    let label = n.into_iter().chain(settings).collect::<Vec<_>>().join(", ");
                    Some(Point { x, y, label })
                })
                .collect();
            (!points.is_empty()).then_some(points)
        })
        .collect()
}
