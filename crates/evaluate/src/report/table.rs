//! The table for the terminal.

use std::fmt::Write;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};

use super::cells::{
    bases, by_policy, count, label, leads, legend_of_marks, percent, printable, seconds, tokens_per_prompt,
};
use super::columns::{Column, columns, gaps, gold_is_accuracy};
use super::model::{Report, Row};
use super::sweep::Sweep;

/// Width of the table where the output is no terminal, and the most that it takes of one.
const WIDTH: usize = 110;

/// The table, fitted to the terminal.
pub fn table(report: &Report) -> String {
    let terminal = Table::new().width().map_or(WIDTH, usize::from);
    table_within(report, Some(terminal.min(WIDTH)))
}

/// The table within `width` characters, or as wide as it needs.
///
/// Where one line per row is too wide, intervals go below their means; where that is too wide, the metrics are spread over
/// several tables. No number is dropped or broken. A star marks what cannot be told from the best of its column.
pub fn table_within(report: &Report, width: Option<usize>) -> String {
    let mut heads = vec![Block::labels(report)];
    if report.rows.iter().any(|row| row.n > 1) {
        heads.push(Block::new("n", report, |row, _| row.n.to_string()));
    }
    let metrics = columns(report);
    let costs = [
        Block::new("tokens/prompt", report, |row, _| count(tokens_per_prompt(report, row))),
        Block::new("seconds", report, |row, _| seconds(row.cost.seconds)),
    ];
    let build = |stacked: bool| -> Vec<Block> {
        metrics.iter().map(|column| Block::metric(column, report, stacked)).chain(costs.clone()).collect()
    };
    let fits =
        |blocks: &[Block]| width.is_none_or(|width| total_width(&heads) + total_width(blocks) <= width);
    let one_line = build(false);
    let parts = if fits(&one_line) {
        vec![one_line]
    } else {
        let mut parts: Vec<Vec<Block>> = vec![Vec::new()];
        for block in build(true) {
            if let Some(part) = parts.last_mut() {
                part.push(block);
                // A part holds at least one column, however narrow the terminal.
                if part.len() > 1
                    && !fits(part)
                    && let Some(block) = part.pop()
                {
                    parts.push(vec![block]);
                }
            }
        }
        parts
    };
    let mut text = String::new();
    for part in parts {
        let blocks: Vec<&Block> = heads.iter().chain(&part).collect();
        text.push_str(&draw(report, &blocks));
        text.push('\n');
    }
    for section in report.sections.iter().filter(|section| Sweep::TITLES.contains(&section.title.as_str())) {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.force_no_tty().set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(&section.columns).add_rows(&section.rows);
        if let Some(width) = width.and_then(|width| u16::try_from(width).ok()) {
            // Cells break between words where the table is too wide.
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        // Writing to a string cannot fail.
        let _ = write!(text, "{}\n{table}\n\n", section.title);
    }
    let mut remarks = vec![format!("{} intervals over {} prompts.", percent(report.level), report.prompts)];
    if gold_is_accuracy(report) {
        remarks.push("The gold reward is the accuracy.".to_owned());
    }
    remarks.extend(bases(report).into_iter().map(|basis| format!("{basis}.")));
    if text.contains('*') {
        remarks.push(format!("* {}.", legend_of_marks(report)));
    }
    remarks.extend(gaps(report).into_iter().map(|gap| format!("– {gap}.")));
    remarks.extend(report.notes.iter().map(|note| format!("! {note}")));
    let remarks: Vec<String> = remarks.iter().map(|remark| printable(remark)).collect();
    text + &remarks.join("\n") + "\n"
}

/// One column, its cells in the order of the grouped rows.
#[derive(Clone, Debug)]
struct Block {
    head: String,
    cells: Vec<String>,
    right: bool,
}

impl Block {
    fn new(head: &str, report: &Report, cell: impl Fn(&Row, usize) -> String) -> Self {
        let cells = grouped(report).map(|(index, row)| cell(row, index)).collect();
        Self { head: head.to_owned(), cells, right: true }
    }

    fn labels(report: &Report) -> Self {
        Self { right: false, ..Self::new("method", report, |row, _| format!("  {}", printable(&label(row)))) }
    }

    /// Means under means: every cell ends with its mark, or a blank in its place.
    fn metric(column: &Column<'_>, report: &Report, stacked: bool) -> Self {
        let mut block = Self::new(column.name, report, |row, index| {
            let Some(metric) = row.metrics.get(column.name) else { return "–".to_owned() };
            let mark = if leads(report, column.name, index) { "*" } else { " " };
            match column.interval(metric) {
                None => format!("{}{mark}", column.mean(metric)),
                Some(interval) if stacked => format!("{}{mark}\n{interval}", column.mean(metric)),
                Some(interval) => format!("{}{mark} {interval}", column.mean(metric)),
            }
        });
        block.right = false;
        block
    }

    fn width(&self) -> usize {
        let lines = self.cells.iter().flat_map(|cell| cell.lines()).chain([self.head.as_str()]);
        lines.map(|line| line.chars().count()).max().unwrap_or(0)
    }
}

/// Rows with their indices, by policy.
fn grouped(report: &Report) -> impl Iterator<Item = (usize, &Row)> {
    by_policy(report).into_iter().flat_map(|(_, rows)| rows)
}

/// Width of columns beside each other, two blanks of padding each.
fn total_width(blocks: &[Block]) -> usize {
    blocks.iter().map(|block| block.width() + 2).sum()
}

fn draw(report: &Report, blocks: &[&Block]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    table.force_no_tty().set_content_arrangement(ContentArrangement::Disabled);
    let align = |block: &Block, text: &str| {
        Cell::new(text).set_alignment(if block.right { CellAlignment::Right } else { CellAlignment::Left })
    };
    table.set_header(blocks.iter().map(|block| align(block, &block.head)));
    let mut line = 0;
    for (policy, rows) in by_policy(report) {
        table.add_row([Cell::new(printable(policy))]);
        for _ in rows {
            table.add_row(blocks.iter().map(|block| align(block, &block.cells[line])));
            line += 1;
        }
    }
    // Rules as in a printed table: above, below the heads (one line), below.
    let mut lines: Vec<String> = table.trim_fmt().lines().map(str::to_owned).collect();
    let rule = "─".repeat(lines.iter().map(|line| line.chars().count()).max().unwrap_or(0));
    lines.insert(0, rule.clone());
    lines.insert(2.min(lines.len()), rule.clone());
    lines.push(rule);
    lines.join("\n")
}
