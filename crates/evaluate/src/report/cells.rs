//! Words and numbers of tables that are not metrics.

use super::columns::fixed;
use super::model::{Report, Row};

/// `genarm (alpha=1.5)`: the method with its settings.
pub(crate) fn label(row: &Row) -> String {
    let params = params(row);
    if params.is_empty() { row.method.clone() } else { format!("{} ({params})", row.method) }
}

/// `alpha=1.5, top_p=0.9`.
pub(super) fn params(row: &Row) -> String {
    let one = |(name, value): (&String, &serde_json::Value)| match value {
        serde_json::Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    };
    row.params.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// What the values of prompts are, each kind with the methods that it is of.
pub(super) fn bases(report: &Report) -> Vec<String> {
    let mut found: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in report.rows.iter().filter(|row| row.sweep.is_none()) {
        let Some(basis) = row.basis.as_deref() else { continue };
        match found.iter_mut().find(|(known, _)| *known == basis) {
            Some((_, methods)) if methods.contains(&row.method.as_str()) => {}
            Some((_, methods)) => methods.push(&row.method),
            None => found.push((basis, vec![&row.method])),
        }
    }
    found.into_iter().map(|(basis, methods)| format!("{}: {basis}", methods.join(", "))).collect()
}

/// How intervals were found.
pub(super) fn method_of_intervals(report: &Report) -> String {
    format!(
        "{} intervals by bootstrap over prompts ({} replicates; differences paired on prompts; Wilson's interval for shares \
         whose outcomes are all 0 or all 1)",
        percent(report.level),
        report.replicates
    )
}

/// The text with control characters, and those that turn the direction of text, written out: they must not
/// act in a
/// terminal or page.
pub(super) fn printable(text: &str) -> String {
    let turns =
        |c: char| matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => shown.push(' '),
            c if c.is_control() || turns(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

/// A count in three significant digits: `950`, `1.25k`, `38.0k`, `1.20M`.
pub(super) fn count(value: f64) -> String {
    let (scaled, unit) = match value {
        v if v < 999.5 => (v, ""),
        v if v < 999.5e3 => (v / 1e3, "k"),
        v if v < 999.5e6 => (v / 1e6, "M"),
        v => (v / 1e9, "G"),
    };
    let decimals = match scaled {
        _ if unit.is_empty() => usize::from(scaled < 9.95 && scaled.fract() != 0.0),
        s if s < 9.995 => 2,
        s if s < 99.95 => 1,
        _ => 0,
    };
    format!("{}{unit}", fixed(scaled, decimals))
}

/// Seconds in about three digits.
pub(super) fn seconds(value: f64) -> String {
    if value < 9.995 { fixed(value, 2) } else { fixed(value, usize::from(value < 99.95)) }
}

/// Tokens of all models for one prompt.
pub(super) fn tokens_per_prompt(report: &Report, row: &Row) -> f64 {
    row.cost.total_tokens() as f64 / report.prompts.max(1) as f64
}

/// Rows by policy and within it by method, both in the order of their first rows. Those of sweeps have tables of their own.
pub(super) fn by_policy(report: &Report) -> Vec<(&str, Vec<(usize, &Row)>)> {
    let first = |same: &dyn Fn(&Row) -> bool| report.rows.iter().position(same).unwrap_or(usize::MAX);
    let mut rows: Vec<(usize, usize, usize, &Row)> = report
        .rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.sweep.is_none())
        .map(|(index, row)| {
            let policy = first(&|other| other.policy == row.policy);
            let method = first(&|other| other.policy == row.policy && other.method == row.method);
            (policy, method, index, row)
        })
        .collect();
    rows.sort_by_key(|(policy, method, index, _)| (*policy, *method, *index));
    rows.chunk_by(|a, b| a.0 == b.0)
        .map(|group| {
            (group[0].3.policy.as_str(), group.iter().map(|(_, _, index, row)| (*index, *row)).collect())
        })
        .collect()
}

/// Whether to mark a cell as best: it cannot be told from the best one, and some other can.
pub(super) fn leads(report: &Report, metric: &str, row: usize) -> bool {
    report.leaders.get(metric).is_some_and(|leaders| {
        let rivals =
            report.rows.iter().filter(|row| row.metrics.get(metric).is_some_and(|m| m.mean.is_some()));
        leaders.len() < rivals.count() && leaders.contains(&row)
    })
}

/// What the mark of [`leads`] means.
pub(super) fn legend_of_marks(report: &Report) -> String {
    format!(
        "not told apart from the best of its column: the {} paired bootstrap interval of the difference covers zero \
         (each comparison by itself; {} replicates over {} prompts)",
        percent(report.level),
        report.replicates,
        report.prompts
    )
}

/// `95 %`.
pub(super) fn percent(level: f64) -> String {
    let percent = (level * 1e4).round() / 1e2;
    format!("{percent} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(printable("a\u{1b}[31mred\u{7}\nb\u{202e}c é"), r"a\u{1b}[31mred\u{7} b\u{202e}c é");
    }

    #[test]
    fn counts_keep_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (3.25, "3.2"),
            (12.0, "12"),
            (999.0, "999"),
            (999.7, "1.00k"),
            (1250.0, "1.25k"),
            (38_000.0, "38.0k"),
            (999_600.0, "1.00M"),
            (2.5e9, "2.50G"),
        ] {
            assert_eq!(count(value), text);
        }
        assert_eq!(percent(0.95), "95 %");
        assert_eq!(percent(0.999), "99.9 %");
    }
}
