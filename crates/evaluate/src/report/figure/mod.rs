//! The figures of a report, as SVG.

mod axis;
mod draw;
mod place;
mod series;
mod style;

use super::cells::{percent, tokens_per_prompt};
use super::metric::{self, ACCURACY, KL, REWARD_GOLD, REWARD_PROXY};
use super::model::{Metric, Report, Row};
use axis::Scale;
use draw::{Panel, Sheet};
use series::{Span, collect};
pub(super) use style::{BACKGROUND, INK};

/// A figure of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Figure {
    /// Its file name.
    pub file: &'static str,
    /// What it shows, for readers who do not see it too.
    pub caption: String,
    /// The SVG document. Text is text, in the reader's sans-serif font.
    pub svg: String,
}

/// A figure that could not be drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("figure {file}: {message}")]
pub struct FigureError {
    /// Its file name.
    pub file: &'static str,
    /// What the plotting library said.
    pub message: String,
}

/// The figures that the report has numbers for: reward against KL (gold and proxy beside each other), and accuracy, or
/// without it reward, against cost.
///
/// # Errors
/// The plotting library fails.
pub fn figures(report: &Report) -> Result<Vec<Figure>, FigureError> {
    let level = percent(report.level);
    let mut figures = Vec::new();

    let kl = |row: &Row| row.metrics.get(KL).and_then(span);
    let panels: Vec<Panel> = [REWARD_GOLD, REWARD_PROXY]
        .into_iter()
        .filter_map(|reward| {
            let mut panel =
                panel(report, reward, metric::axis_title(KL), Scale::Linear { from_zero: true }, kl)?;
            if reward == REWARD_GOLD {
                panel.curve = report.frontier.as_ref().map(|frontier| frontier.points.clone());
            }
            Some(panel)
        })
        .collect();
    if !panels.is_empty() {
        figures.push(Figure {
            file: "reward-versus-kl.svg",
            caption: format!(
                "Reward against KL from the base policy, with {level} intervals; numbers are n."
            ),
            svg: Sheet { file: "reward-versus-kl.svg", panels }.svg()?,
        });
    }

    let cost = |row: &Row| {
        let tokens = tokens_per_prompt(report, row);
        (tokens > 0.0).then(|| Span::point(tokens.log2()))
    };
    for (metric, file) in [(ACCURACY, "accuracy-versus-cost.svg"), (REWARD_GOLD, "reward-versus-cost.svg")] {
        let title = "Tokens per prompt (decoded, prefilled, and reward)";
        if let Some(panel) = panel(report, metric, title, Scale::Log2, cost) {
            let words = metric::axis_title(metric);
            figures.push(Figure {
                file,
                caption: format!(
                    "{words} against tokens of all models per prompt, with {level} intervals; numbers are n."
                ),
                svg: Sheet { file, panels: vec![panel] }.svg()?,
            });
            break;
        }
    }
    Ok(figures)
}

/// A panel of one metric, if any row has a point in it.
fn panel(
    report: &Report,
    metric: &str,
    x_title: &str,
    x_scale: Scale,
    x: impl Fn(&Row) -> Option<Span>,
) -> Option<Panel> {
    let series = collect(report, |row| Some((x(row)?, row.metrics.get(metric).and_then(span)?)));
    (!series.is_empty()).then(|| Panel {
        x_title: x_title.to_owned(),
        y_title: metric::axis_title(metric).to_owned(),
        x_scale,
        y_scale: Scale::Linear { from_zero: false },
        series,
        curve: None,
    })
}

/// Mean and interval; a mean without an interval is drawn without bars.
fn span(metric: &Metric) -> Option<Span> {
    let mean = metric.mean?;
    Some(Span { mean, low: metric.low.unwrap_or(mean), high: metric.high.unwrap_or(mean) })
}
