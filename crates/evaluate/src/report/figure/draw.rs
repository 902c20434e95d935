//! Drawing: panels beside each other, one legend below.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::FigureError;
use super::axis::{Axis, Scale};
use super::place::{Obstacles, Rect};
use super::series::{Point, Series};
use super::style::{BACKGROUND, INK, Marker, Style};

/// Pixels: a panel beside another, and one alone.
const PANEL: (i32, i32) = (500, 380);
const WIDE: (i32, i32) = (760, 440);
const LEGEND_LINE: i32 = 22;
const MARGIN: i32 = 16;
const TEXT: f64 = 12.0;
const SMALL: f64 = 11.0;
/// The legend's words for a panel's curve.
const CURVE: &str = "least KL for the reward";
const FONT: &str = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif";

/// A plot of series.
#[derive(Clone, Debug)]
pub(super) struct Panel {
    pub(super) x_title: String,
    pub(super) y_title: String,
    pub(super) x_scale: Scale,
    pub(super) y_scale: Scale,
    pub(super) series: Vec<Series>,
    /// What no point should be above.
    pub(super) curve: Option<Vec<(f64, f64)>>,
}

/// A figure of panels.
#[derive(Clone, Debug)]
pub(super) struct Sheet {
    pub(super) file: &'static str,
    pub(super) panels: Vec<Panel>,
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

impl Sheet {
    /// The SVG document.
    pub(super) fn svg(&self) -> Result<String, FigureError> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|error| FigureError { file: self.file, message: error.to_string() })?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Drawn {
        let size = if self.panels.len() > 1 { PANEL } else { WIDE };
        let width = size.0 * self.panels.len() as i32;
        let entries = self.legend();
        let lines = flow(&entries, width - 2 * MARGIN);
        let height = size.1 + LEGEND_LINE * lines.len() as i32 + MARGIN;
        let root = SVGBackend::with_string(svg, (width as u32, height as u32)).into_drawing_area();
        root.fill(&BACKGROUND)?;
        for (index, panel) in self.panels.iter().enumerate() {
            panel.draw(&root, index as i32 * size.0, size)?;
        }
        for (number, line) in lines.iter().enumerate() {
            let used: i32 = line.iter().map(|entry| entry_width(&entry.0)).sum();
            let mut x = (width - used).max(2 * MARGIN) / 2;
            let y = size.1 + LEGEND_LINE * number as i32 + LEGEND_LINE / 2;
            for (name, style) in line {
                if style.is_none() {
                    root.draw(&PathElement::new([(x, y), (x + 22, y)], INK.mix(0.55).stroke_width(1)))?;
                }
                if let Some(style) = style {
                    root.draw(&PathElement::new(
                        [(x, y), (x + 22, y)],
                        style.colour.mix(0.6).stroke_width(2),
                    ))?;
                    marker(&root, *style, (x + 11, y))?;
                }
                text(&root, name, (x + 28, y), TEXT, HPos::Left, INK)?;
                x += entry_width(name);
            }
        }
        root.present()?;
        Ok(())
    }

    /// Every series once.
    fn legend(&self) -> Vec<(String, Option<Style>)> {
        let mut entries: Vec<(String, Option<Style>)> = Vec::new();
        for series in self.panels.iter().flat_map(|panel| &panel.series) {
            if !entries.iter().any(|(name, _)| *name == series.name) {
                entries.push((series.name.clone(), Some(series.style)));
            }
        }
        if self.panels.iter().any(|panel| panel.curve.is_some()) {
            entries.push((CURVE.to_owned(), None));
        }
        entries
    }
}

impl Panel {
    fn draw(&self, root: &Area<'_>, left: i32, (width, height): (i32, i32)) -> Drawn {
        let spans = |of: fn(&Point) -> [f64; 2]| {
            self.series.iter().flat_map(|series| series.lines.iter().flatten()).flat_map(of)
        };
        let curve = self.curve.as_deref().unwrap_or_default();
        let x = Axis::new(
            self.x_scale,
            spans(|point| [point.x.low, point.x.high]).chain(curve.iter().map(|point| point.0)),
        );
        let y = Axis::new(
            self.y_scale,
            spans(|point| [point.y.low, point.y.high]).chain(curve.iter().map(|point| point.1)),
        );
        let area = root.clone().shrink((left, 0), (width as u32, height as u32));
        let mut chart = ChartBuilder::on(&area)
            .margin_top(MARGIN)
            .margin_right(MARGIN)
            .margin_bottom(6)
            .margin_left(4)
            .x_label_area_size(48)
            .y_label_area_size(56)
            .build_cartesian_2d(x.clone(), y.clone())?;
        let words = |size: f64| (FONT, size * PLOTTERS_POINT).into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(INK.mix(0.12))
            .light_line_style(TRANSPARENT)
            .axis_style(INK.mix(0.55))
            .label_style(words(SMALL))
            .axis_desc_style(words(TEXT))
            .x_desc(self.x_title.as_str())
            .y_desc(self.y_title.as_str())
            .x_label_formatter(&|value| x.tick(*value))
            .y_label_formatter(&|value| y.tick(*value))
            .draw()?;
        let at = |x: f64, y: f64| chart.backend_coord(&(x, y));
        if !curve.is_empty() {
            let path: Vec<(i32, i32)> = curve.iter().map(|(x, y)| at(*x, *y)).collect();
            root.draw(&PathElement::new(path, INK.mix(0.55).stroke_width(1)))?;
        }
        self.lines(root, &at)?;
        let mut obstacles = self.obstacles(&at, (x.low, x.high), (y.low, y.high));
        for (series, point) in self.points() {
            bars(root, series.style, point, &at, &mut obstacles)?;
        }
        for (series, point) in self.points() {
            let centre = at(point.x.mean, point.y.mean);
            marker(root, series.style, centre)?;
        }
        for (series, point) in self.points().filter(|(_, point)| !point.label.is_empty()) {
            let (px, py) = at(point.x.mean, point.y.mean);
            let width = text_width(&point.label, SMALL);
            if let Some((x, y)) = obstacles.place((f64::from(px), f64::from(py)), width, SMALL) {
                let centre = (x.round() as i32, y.round() as i32);
                text(root, &point.label, centre, SMALL, HPos::Center, series.style.colour)?;
            }
        }
        Ok(())
    }

    fn points(&self) -> impl Iterator<Item = (&Series, &Point)> {
        self.series.iter().flat_map(|series| series.lines.iter().flatten().map(move |point| (series, point)))
    }

    fn lines(&self, root: &Area<'_>, at: &impl Fn(f64, f64) -> (i32, i32)) -> Drawn {
        for series in &self.series {
            for line in series.lines.iter().filter(|line| line.len() > 1) {
                let path: Vec<(i32, i32)> = line.iter().map(|p| at(p.x.mean, p.y.mean)).collect();
                root.draw(&PathElement::new(path, series.style.colour.mix(0.6).stroke_width(2)))?;
            }
        }
        Ok(())
    }

    /// Markers and lines; error bars are added as they are drawn.
    fn obstacles(&self, at: &impl Fn(f64, f64) -> (i32, i32), x: (f64, f64), y: (f64, f64)) -> Obstacles {
        let float = |(x, y): (i32, i32)| (f64::from(x), f64::from(y));
        let ((left, bottom), (right, top)) = (float(at(x.0, y.0)), float(at(x.1, y.1)));
        let boxes =
            self.points().map(|(_, p)| Rect::around(float(at(p.x.mean, p.y.mean)), 6.0, 6.0)).collect();
        let lines = self.series.iter().flat_map(|series| &series.lines);
        let segments = lines
            .flat_map(|line| line.windows(2))
            .map(|pair| {
                (float(at(pair[0].x.mean, pair[0].y.mean)), float(at(pair[1].x.mean, pair[1].y.mean)))
            })
            .collect();
        Obstacles { panel: Rect { left, top, right, bottom }, boxes, segments }
    }
}

/// Error bars with short caps, where there is an interval.
fn bars(
    root: &Area<'_>,
    style: Style,
    point: &Point,
    at: &impl Fn(f64, f64) -> (i32, i32),
    obstacles: &mut Obstacles,
) -> Drawn {
    let centre = at(point.x.mean, point.y.mean);
    let ((left, _), (right, _)) = (at(point.x.low, point.y.mean), at(point.x.high, point.y.mean));
    let ((_, bottom), (_, top)) = (at(point.x.mean, point.y.low), at(point.x.mean, point.y.high));
    let (x, y) = centre;
    let mut strokes = Vec::new();
    if right > left {
        strokes.extend([
            ((left, y), (right, y)),
            ((left, y - 3), (left, y + 3)),
            ((right, y - 3), (right, y + 3)),
        ]);
    }
    if bottom > top {
        strokes.extend([
            ((x, top), (x, bottom)),
            ((x - 3, top), (x + 3, top)),
            ((x - 3, bottom), (x + 3, bottom)),
        ]);
    }
    for (from, to) in strokes {
        root.draw(&PathElement::new([from, to], style.colour.mix(0.75).stroke_width(1)))?;
        let float = |(x, y): (i32, i32)| (f64::from(x), f64::from(y));
        obstacles.segments.push((float(from), float(to)));
    }
    Ok(())
}

fn marker(root: &Area<'_>, style: Style, (x, y): (i32, i32)) -> Drawn {
    // A rim of the ground's colour keeps overlapping markers apart.
    if style.marker == Marker::Circle {
        root.draw(&Circle::new((x, y), 6, BACKGROUND.filled()))?;
        root.draw(&Circle::new((x, y), 5, style.colour.filled()))?;
    } else {
        let corners = |wider: i32| -> Vec<(i32, i32)> {
            let out = |d: i32| d + wider * d.signum();
            style.marker.corners().iter().map(|(dx, dy)| (x + out(*dx), y + out(*dy))).collect()
        };
        root.draw(&Polygon::new(corners(1), BACKGROUND.filled()))?;
        root.draw(&Polygon::new(corners(0), style.colour.filled()))?;
    }
    Ok(())
}

/// plotters writes font sizes divided by this into SVG.
const PLOTTERS_POINT: f64 = 1.24;

fn text(root: &Area<'_>, words: &str, at: (i32, i32), size: f64, side: HPos, colour: RGBColor) -> Drawn {
    let style = (FONT, size * PLOTTERS_POINT).into_font().color(&colour).pos(Pos::new(side, VPos::Center));
    root.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

/// A generous estimate: no font is at hand.
fn text_width(words: &str, size: f64) -> f64 {
    0.58 * size * words.chars().count() as f64
}

fn entry_width(name: &str) -> i32 {
    28 + text_width(name, TEXT).ceil() as i32 + 18
}

/// Entries in lines that fit, each line as full as it gets.
fn flow<T: Clone>(entries: &[(String, T)], width: i32) -> Vec<Vec<(String, T)>> {
    let mut lines: Vec<Vec<(String, T)>> = Vec::new();
    let mut used = i32::MAX;
    for entry in entries {
        let needed = entry_width(&entry.0);
        if used.saturating_add(needed) > width {
            lines.push(Vec::new());
            used = 0;
        }
        used += needed;
        if let Some(line) = lines.last_mut() {
            line.push(entry.clone());
        }
    }
    lines
}
