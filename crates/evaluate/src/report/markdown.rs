//! `report.md`.

use std::fmt::Write;

use super::cells::{
    bases, by_policy, count, label, leads, legend_of_marks, method_of_intervals, printable, seconds,
    tokens_per_prompt,
};
use super::columns::{columns, gaps, gold_is_accuracy};
use super::figure::Figure;
use super::glossary;
use super::model::{Report, Section};

/// The report as Markdown; `figures` are linked by their file names.
pub fn markdown(report: &Report, figures: &[Figure]) -> String {
    let mut text = String::new();
    let title = report.title.as_deref().unwrap_or(&report.run);
    line(&mut text, &format!("# {}\n", escape(title)));
    line(
        &mut text,
        &format!(
            "Run `{}`, seed {}, {} prompts; {}. What was run, and what the columns mean, is said at the end.\n",
            printable(&report.run),
            report.seed,
            report.prompts,
            method_of_intervals(report)
        ),
    );
    for note in &report.notes {
        line(&mut text, &format!("> **Note.** {}\n", escape(note)));
    }
    results(&mut text, report);
    differences(&mut text, report);
    for figure in figures {
        line(&mut text, &format!("![{}]({})\n", escape(&figure.caption), figure.file));
    }
    costs(&mut text, report);
    diagnostics(&mut text, report);
    for section in &report.sections {
        section_text(&mut text, section);
    }
    let facts = report.about.iter().map(|fact| (&fact.name, &fact.value)).chain(&report.settings);
    let facts: Vec<Vec<String>> = facts.map(|(name, value)| vec![name.clone(), value.clone()]).collect();
    if !facts.is_empty() {
        line(&mut text, "## What was run\n");
        grid(&mut text, &["", ""], facts.into_iter());
    }
    line(&mut text, "## What the columns mean\n");
    let meanings = glossary::of(report).into_iter();
    grid(
        &mut text,
        &["column", "what it is"],
        meanings.map(|(name, meaning)| vec![name, meaning.to_owned()]),
    );
    // One line break at the end of the file.
    format!("{}\n", text.trim_end())
}

fn results(text: &mut String, report: &Report) {
    line(text, "## Results\n");
    let columns = columns(report);
    let mut heads = vec!["policy", "method", "n"];
    heads.extend(columns.iter().map(|column| column.name));
    heads.push("tokens/prompt");
    let mut marked = false;
    let mut rows = Vec::new();
    for (policy, group) in by_policy(report) {
        for (index, row) in group {
            let mut cells = vec![policy.to_owned(), label(row), row.n.to_string()];
            for column in &columns {
                let cell =
                    row.metrics.get(column.name).map_or_else(|| "–".to_owned(), |metric| column.cell(metric));
                let best = leads(report, column.name, index);
                marked |= best;
                cells.push(if best { format!("**{cell}**") } else { cell });
            }
            cells.push(count(tokens_per_prompt(report, row)));
            rows.push(cells);
        }
    }
    grid(text, &heads, rows.into_iter());
    if marked {
        line(text, &format!("Bold: {}.\n", legend_of_marks(report)));
    }
    if gold_is_accuracy(report) {
        line(text, "The gold reward is the accuracy: 1 for a right answer, 0 for a wrong one.\n");
    }
    for basis in bases(report) {
        line(text, &format!("{}.\n", escape(&basis)));
    }
    for gap in gaps(report) {
        line(text, &format!("– {}.\n", escape(&gap)));
    }
}

fn differences(text: &mut String, report: &Report) {
    if report.rows.iter().all(|row| row.versus_base.is_empty()) {
        return;
    }
    let Some(base) = report.rows.get(report.base) else { return };
    line(text, &format!("## Difference from {} on {}\n", escape(&label(base)), escape(&base.policy)));
    line(text, "Paired on prompts. In parentheses: the interval covers zero, the sign is not known.\n");
    let columns: Vec<_> = columns(report)
        .into_iter()
        .filter(|column| report.rows.iter().any(|row| row.versus_base.contains_key(column.name)))
        .collect();
    let mut heads = vec!["policy", "method", "n"];
    heads.extend(columns.iter().map(|column| column.name));
    let mut rows = Vec::new();
    for (policy, group) in by_policy(report) {
        for (_, row) in group.into_iter().filter(|(index, _)| *index != report.base) {
            let mut cells = vec![policy.to_owned(), label(row), row.n.to_string()];
            cells.extend(columns.iter().map(|column| match row.versus_base.get(column.name) {
                None => "–".to_owned(),
                Some(found) if found.covers_zero => format!("({})", column.signed(&found.difference)),
                Some(found) => column.signed(&found.difference),
            }));
            rows.push(cells);
        }
    }
    grid(text, &heads, rows.into_iter());
}

fn costs(text: &mut String, report: &Report) {
    line(text, "## Cost\n");
    line(text, "All prompts together.\n");
    let weighed = report.rows.iter().any(|row| row.cost.parameter_tokens > 0.0);
    let mut heads = vec![
        "policy",
        "method",
        "n",
        "decode tokens",
        "prefill tokens",
        "reward tokens",
        "forward passes",
        "reward calls",
        "seconds",
    ];
    heads.extend(weighed.then_some(glossary::PARAMETER_TOKENS));
    let mut rows = Vec::new();
    for (policy, group) in by_policy(report) {
        for (_, row) in group {
            let cost = &row.cost;
            let mut cells = vec![policy.to_owned(), label(row), row.n.to_string()];
            cells.extend(
                [
                    cost.decode_tokens,
                    cost.prefill_tokens,
                    cost.reward_tokens,
                    cost.forward_passes,
                    cost.reward_calls,
                ]
                .map(|count| count.to_string()),
            );
            cells.push(seconds(cost.seconds));
            cells.extend(weighed.then(|| format!("{:.2e}", cost.parameter_tokens)));
            rows.push(cells);
        }
    }
    grid(text, &heads, rows.into_iter());
}

fn diagnostics(text: &mut String, report: &Report) {
    let names: std::collections::BTreeSet<&str> =
        report.rows.iter().flat_map(|row| row.diagnostics.keys().map(String::as_str)).collect();
    if names.is_empty() {
        return;
    }
    line(text, "## Diagnostics\n");
    let mut heads = vec!["policy", "method", "n"];
    heads.extend(names.iter().copied());
    let rows = by_policy(report).into_iter().flat_map(|(policy, group)| {
        group.into_iter().filter(|(_, row)| !row.diagnostics.is_empty()).map(move |(_, row)| (policy, row))
    });
    let rows = rows.map(|(policy, row)| {
        let mut cells = vec![policy.to_owned(), label(row), row.n.to_string()];
        cells.extend(names.iter().map(|name| {
            row.diagnostics
                .get(*name)
                .map_or_else(|| "–".to_owned(), |value| super::columns::fixed(*value, 3))
        }));
        cells
    });
    grid(text, &heads, rows);
}

fn section_text(text: &mut String, section: &Section) {
    line(text, &format!("## {}\n", escape(&section.title)));
    if !section.columns.is_empty() {
        let heads: Vec<&str> = section.columns.iter().map(String::as_str).collect();
        grid(text, &heads, section.rows.iter().cloned());
    }
    for paragraph in &section.text {
        line(text, &format!("{}\n", escape(paragraph)));
    }
}

/// A table and an empty line.
fn grid(text: &mut String, heads: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let join = |cells: Vec<String>| format!("| {} |", cells.join(" | "));
    line(text, &join(heads.iter().map(|head| escape(head)).collect()));
    line(text, &join(vec!["---".to_owned(); heads.len()]));
    for row in rows {
        line(text, &join(row.iter().map(|cell| escape(cell)).collect()));
    }
    text.push('\n');
}

/// Keeps bars and line breaks from ending a cell, and angle brackets from being tags.
fn escape(cell: &str) -> String {
    printable(cell).replace('|', "\\|").replace('<', "\\<")
}

fn line(text: &mut String, content: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{content}");
}
