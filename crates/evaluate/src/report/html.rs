//! `report.html`: one file, nothing loaded from elsewhere.

use std::fmt::Write;

use plotters::style::RGBColor;

use super::cells::{
    bases, by_policy, count, label, leads, legend_of_marks, method_of_intervals, printable, seconds,
    tokens_per_prompt,
};
use super::columns::{Column, columns, fixed, gaps, gold_is_accuracy};
use super::figure::{BACKGROUND, Figure, INK};
use super::glossary;
use super::model::{Report, Row, Section};

const STYLE: &str = include_str!("report.css");

/// The report as a self-contained page that follows the reader's choice of light or dark.
pub fn html(report: &Report, figures: &[Figure]) -> String {
    let title = escape(report.title.as_deref().unwrap_or(&report.run));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n"
    );
    push(
        &mut page,
        &format!(
            "<p class=\"meta\">Run <code>{}</code> · seed {} · {} prompts · {} · <a href=\"#about\">what was run</a> · \
             <a href=\"#columns\">what the columns mean</a></p>",
            escape(&report.run),
            report.seed,
            report.prompts,
            method_of_intervals(report)
        ),
    );
    if !report.notes.is_empty() {
        push(&mut page, "<aside><strong>Read this first</strong><ul>");
        for note in &report.notes {
            push(&mut page, &format!("<li>{}</li>", rich(note)));
        }
        push(&mut page, "</ul></aside>");
    }
    push(&mut page, "<h2>Results</h2>");
    results(&mut page, report);
    for figure in figures {
        push(&mut page, &format!("<figure>\n{}", inline(figure)));
        push(&mut page, &format!("<figcaption>{}</figcaption>\n</figure>", escape(&figure.caption)));
    }
    differences(&mut page, report);
    costs(&mut page, report);
    diagnostics(&mut page, report);
    report.sections.iter().for_each(|section| section_html(&mut page, section));
    about(&mut page, report);
    definitions(&mut page, report);
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn about(page: &mut String, report: &Report) {
    push(page, "<h2 id=\"about\">What was run</h2>\n<dl>");
    let facts = report.about.iter().map(|fact| (&fact.name, &fact.value));
    for (name, value) in facts.chain(&report.settings) {
        push(page, &format!("<dt>{}</dt><dd>{}</dd>", escape(name), escape(value)));
    }
    push(page, "</dl>");
}

fn definitions(page: &mut String, report: &Report) {
    push(page, "<h2 id=\"columns\">What the columns mean</h2>\n<dl>");
    for (name, meaning) in glossary::of(report) {
        let anchor = anchor(&name);
        push(page, &format!("<dt id=\"{anchor}\">{}</dt><dd>{}</dd>", escape(&name), rich(meaning)));
    }
    push(page, "</dl>");
}

/// The place of a column's definition in the page.
fn anchor(column: &str) -> String {
    format!("column-{}", column.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
}

/// A head of a table, which leads to its definition where there is one.
fn head(name: &str) -> String {
    match glossary::meaning(name) {
        Some(meaning) => format!(
            "<th scope=\"col\" title=\"{}\"><a href=\"#{}\">{}</a></th>",
            escape(meaning),
            anchor(name),
            escape(name)
        ),
        None => format!("<th scope=\"col\">{}</th>", escape(name)),
    }
}

fn results(page: &mut String, report: &Report) {
    let columns = columns(report);
    let heads: Vec<&str> = ["method", "n"]
        .into_iter()
        .chain(columns.iter().map(|c| c.name))
        .chain(["tokens/prompt", "seconds"])
        .collect();
    let mut marked = false;
    grouped(page, report, &heads, |index, row| {
        let cells = columns.iter().map(|column| {
            let best = leads(report, column.name, index);
            marked |= best;
            metric_cell(column, row, best)
        });
        let costs = [count(tokens_per_prompt(report, row)), seconds(row.cost.seconds)];
        Some(cells.chain(costs.into_iter().map(|cost| format!("<td>{cost}</td>"))).collect())
    });
    if marked {
        push(
            page,
            &format!(
                "<p class=\"key\"><b class=\"best\">Marked</b>: {}.</p>",
                escape(&legend_of_marks(report))
            ),
        );
    }
    if gold_is_accuracy(report) {
        push(
            page,
            "<p class=\"key\">The gold reward is the accuracy: 1 for a right answer, 0 for a wrong one.</p>",
        );
    }
    for basis in bases(report) {
        push(page, &format!("<p class=\"key\">{}.</p>", rich(&basis)));
    }
    for gap in gaps(report) {
        push(page, &format!("<p class=\"key\">– {}.</p>", rich(&gap)));
    }
}

/// A mean above its interval.
fn metric_cell(column: &Column<'_>, row: &Row, best: bool) -> String {
    let Some(metric) = row.metrics.get(column.name) else { return "<td>–</td>".to_owned() };
    let title = metric.reason.as_ref().map(|why| format!(" title=\"{}\"", escape(why))).unwrap_or_default();
    let mean = column.mean(metric);
    let mean = if best { format!("<b class=\"best\">{mean}</b>") } else { mean };
    let interval =
        column.interval(metric).map(|interval| format!("<small>{interval}</small>")).unwrap_or_default();
    format!("<td{title}>{mean}{interval}</td>")
}

fn differences(page: &mut String, report: &Report) {
    let Some(base) = report.rows.get(report.base) else { return };
    let columns: Vec<Column<'_>> = columns(report)
        .into_iter()
        .filter(|column| report.rows.iter().any(|row| row.versus_base.contains_key(column.name)))
        .collect();
    if columns.is_empty() {
        return;
    }
    push(page, &format!("<h2>Difference from {} on {}</h2>", escape(&label(base)), escape(&base.policy)));
    push(
        page,
        "<p class=\"key\">Paired on prompts. Grey: the interval covers zero, the sign is not known.</p>",
    );
    let heads: Vec<&str> = ["method", "n"].into_iter().chain(columns.iter().map(|c| c.name)).collect();
    grouped(page, report, &heads, |index, row| {
        let cell = |column: &Column<'_>| match row.versus_base.get(column.name) {
            None => "<td>–</td>".to_owned(),
            Some(found) => {
                let class = if found.covers_zero { " class=\"open\"" } else { "" };
                let text = column.signed(&found.difference);
                let (mean, interval) = text.split_once(' ').unwrap_or((&text, ""));
                format!("<td{class}>{mean}<small>{interval}</small></td>")
            }
        };
        (index != report.base).then(|| columns.iter().map(cell).collect())
    });
}

fn costs(page: &mut String, report: &Report) {
    push(page, "<h2>Cost</h2>\n<p class=\"key\">All prompts together.</p>");
    let weighed = report.rows.iter().any(|row| row.cost.parameter_tokens > 0.0);
    let mut heads = vec![
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
    grouped(page, report, &heads, |_, row| {
        let cost = &row.cost;
        let counts = [
            cost.decode_tokens,
            cost.prefill_tokens,
            cost.reward_tokens,
            cost.forward_passes,
            cost.reward_calls,
        ];
        let cells = counts.map(|n| n.to_string()).into_iter().chain([seconds(cost.seconds)]);
        let cells = cells.chain(weighed.then(|| format!("{:.2e}", cost.parameter_tokens)));
        Some(cells.map(|cell| format!("<td>{cell}</td>")).collect())
    });
}

fn diagnostics(page: &mut String, report: &Report) {
    let names: std::collections::BTreeSet<&str> =
        report.rows.iter().flat_map(|row| row.diagnostics.keys().map(String::as_str)).collect();
    if names.is_empty() {
        return;
    }
    push(page, "<h2>Diagnostics</h2>");
    let heads: Vec<&str> = ["method", "n"].into_iter().chain(names.iter().copied()).collect();
    grouped(page, report, &heads, |_, row| {
        let cell = |name: &&str| row.diagnostics.get(*name).map_or_else(|| "–".to_owned(), |v| fixed(*v, 3));
        (!row.diagnostics.is_empty())
            .then(|| names.iter().map(|name| format!("<td>{}</td>", cell(name))).collect())
    });
}

/// A table with a line for each policy and its rows below; rows without cells are left out.
fn grouped(
    page: &mut String,
    report: &Report,
    heads: &[&str],
    mut cells: impl FnMut(usize, &Row) -> Option<Vec<String>>,
) {
    push(page, "<div class=\"scroll\"><table>\n<thead><tr>");
    for name in heads {
        push(page, &head(name));
    }
    push(page, "</tr></thead>");
    for (policy, rows) in by_policy(report) {
        let rows: Vec<String> = rows
            .into_iter()
            .filter_map(|(index, row)| {
                let cells = cells(index, row)?.concat();
                Some(format!(
                    "<tr><th scope=\"row\">{}</th><td>{}</td>{cells}</tr>",
                    escape(&label(row)),
                    row.n
                ))
            })
            .collect();
        if !rows.is_empty() {
            push(
                page,
                &format!(
                    "<tbody>\n<tr class=\"policy\"><th scope=\"rowgroup\" colspan=\"{}\">{}</th></tr>\n{}\n</tbody>",
                    heads.len(),
                    escape(policy),
                    rows.join("\n")
                ),
            );
        }
    }
    push(page, "</table></div>");
}

fn section_html(page: &mut String, section: &Section) {
    push(page, &format!("<h2>{}</h2>", escape(&section.title)));
    if !section.columns.is_empty() {
        push(page, "<div class=\"scroll\"><table>\n<thead><tr>");
        for head in &section.columns {
            push(page, &format!("<th scope=\"col\">{}</th>", escape(head)));
        }
        push(page, "</tr></thead>\n<tbody>");
        for row in &section.rows {
            let cells: Vec<String> = row.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
            push(page, &format!("<tr>{}</tr>", cells.concat()));
        }
        push(page, "</tbody>\n</table></div>");
    }
    for paragraph in &section.text {
        push(page, &format!("<p>{}</p>", rich(paragraph)));
    }
}

/// The SVG for a page: ink and ground take the page's colours, and the drawing its width.
fn inline(figure: &Figure) -> String {
    let paint = |colour: RGBColor| format!("\"#{:02X}{:02X}{:02X}\"", colour.0, colour.1, colour.2);
    figure
        .svg
        .replace(&paint(INK), "\"currentColor\"")
        .replace(&paint(BACKGROUND), "\"var(--ground)\"")
        .replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{}\" ", escape(&figure.caption)), 1)
}

/// Text with what stands between backticks as code.
fn rich(text: &str) -> String {
    let escaped = escape(text);
    let parts: Vec<&str> = escaped.split('`').collect();
    // A backtick without a partner stays one.
    if parts.len().is_multiple_of(2) {
        return escaped;
    }
    let part = |(place, part): (usize, &&str)| {
        if place % 2 == 1 { format!("<code>{part}</code>") } else { (*part).to_owned() }
    };
    parts.iter().enumerate().map(part).collect()
}

/// Text for elements and quoted attributes.
fn escape(text: &str) -> String {
    printable(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn push(page: &mut String, line: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(page, "{line}");
}
