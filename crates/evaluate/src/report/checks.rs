//! What became of completions: whether so many were cut, empty or without an answer that the numbers mean
//! something else.

use super::metric::{self, EMPTY, NO_ANSWER, TRUNCATED};
use super::model::Row;

/// The share of a row's completions from which on the report says it before all numbers.
const LARGE: f64 = 0.2;

/// Rows that are written out for one kind.
const NAMED: usize = 4;

/// A note for each kind of completion that is a large share of some row.
pub(super) fn notes(rows: &[Row]) -> Vec<String> {
    let kinds = [
        (
            TRUNCATED,
            "Completions cut at the limit of new tokens",
            "They are judged as they stand. Raise `sampling.max_new_tokens`, or read every number as one of cut texts.",
        ),
        (
            EMPTY,
            "Completions without text",
            "They end with their first token or are blank. Look at the prompt format (`data.chat`) and at `sampling.stop`.",
        ),
        (
            NO_ANSWER,
            "Completions without an answer that the grader can read",
            "They count as wrong. Look at `form` of the gold answer, and at the limit of new tokens.",
        ),
    ];
    kinds.into_iter().filter_map(|(name, what, then)| note(rows, name, what, then)).collect()
}

fn note(rows: &[Row], name: &str, what: &str, then: &str) -> Option<String> {
    let share = |row: &Row| row.metrics.get(name).and_then(|metric| metric.mean);
    let mut large: Vec<(f64, &Row)> =
        rows.iter().filter_map(|row| Some((share(row).filter(|share| *share >= LARGE)?, row))).collect();
    large.sort_by(|a, b| b.0.total_cmp(&a.0));
    let named: Vec<String> = large
        .iter()
        .take(NAMED)
        .map(|(share, row)| {
            let n = if row.n > 1 { format!(", n={}", row.n) } else { String::new() };
            format!("{:.0} % of {} on {}{n}", 100.0 * share, row.method, row.policy)
        })
        .collect();
    let more = match large.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and at least {:.0} % of {more} other rows", 100.0 * LARGE),
    };
    (!named.is_empty()).then(|| format!("{what}: {}{more}. {then}", named.join("; ")))
}

/// Whether a column of the metric says anything: shares of what never occurred do not, but for those that
/// were cut.
pub(super) fn is_shown(rows: &[Row], name: &str) -> bool {
    let occurs =
        |row: &Row| row.metrics.get(name).and_then(|metric| metric.mean).is_some_and(|mean| mean > 0.0);
    !metric::is_check(name) || name == TRUNCATED || rows.iter().any(occurs)
}

#[cfg(test)]
mod tests {
    use super::super::model::Metric;
    use super::*;

    fn row(n: usize, truncated: f64) -> Row {
        let metric = |mean| Metric { mean: Some(mean), ..Metric::default() };
        Row {
            method: "sample".into(),
            policy: "base".into(),
            n,
            metrics: [(TRUNCATED.to_owned(), metric(truncated)), (EMPTY.to_owned(), metric(0.0))].into(),
            ..Row::default()
        }
    }

    #[test]
    fn many_cut_completions_are_said_and_few_are_not() {
        assert!(notes(&[row(1, 0.1), row(2, 0.19)]).is_empty());
        let found = notes(&[row(1, 0.3), row(2, 0.1), row(4, 0.87)]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with(
                "Completions cut at the limit of new tokens: 87 % of sample on base, n=4; 30 % of sample on base. They"
            ),
            "{}",
            found[0]
        );
        let many: Vec<Row> = (1..8).map(|n| row(n, 0.5)).collect();
        assert!(notes(&many)[0].contains("and at least 20 % of 3 other rows"), "{}", notes(&many)[0]);
    }

    #[test]
    fn columns_of_what_never_occurred_are_left_out() {
        let rows = [row(1, 0.0)];
        assert!(is_shown(&rows, TRUNCATED) && !is_shown(&rows, EMPTY) && is_shown(&rows, "accuracy"));
    }
}
