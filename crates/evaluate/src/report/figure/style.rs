//! Colours and markers: distinct for each series, readable on light and on dark ground.

use plotters::style::RGBColor;

/// Axes and text. HTML replaces it by the colour of its text.
pub(in crate::report) const INK: RGBColor = RGBColor(31, 35, 40);
/// The ground. HTML replaces it by none.
pub(in crate::report) const BACKGROUND: RGBColor = RGBColor(255, 255, 255);

/// Colour of the base row's series.
const BASE: RGBColor = RGBColor(125, 130, 138);

/// Okabe and Ito's colours for all kinds of colour vision, without black, the light ones darkened.
const COLOURS: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(214, 140, 0),
    RGBColor(58, 155, 217),
    RGBColor(145, 97, 60),
    RGBColor(150, 143, 0),
];

/// The shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    Circle,
    Square,
    TriangleUp,
    Diamond,
    TriangleDown,
    Cross,
    Hexagon,
}

impl Marker {
    const ALL: [Self; 7] = [
        Self::Square,
        Self::TriangleUp,
        Self::Diamond,
        Self::Circle,
        Self::TriangleDown,
        Self::Cross,
        Self::Hexagon,
    ];

    /// Corners around the origin in pixels; a circle has none.
    pub(super) fn corners(self) -> &'static [(i32, i32)] {
        match self {
            Self::Circle => &[],
            Self::Square => &[(-4, -4), (4, -4), (4, 4), (-4, 4)],
            Self::TriangleUp => &[(0, -6), (5, 4), (-5, 4)],
            Self::Diamond => &[(0, -6), (6, 0), (0, 6), (-6, 0)],
            Self::TriangleDown => &[(0, 6), (5, -4), (-5, -4)],
            Self::Cross => &[
                (-2, -5),
                (2, -5),
                (2, -2),
                (5, -2),
                (5, 2),
                (2, 2),
                (2, 5),
                (-2, 5),
                (-2, 2),
                (-5, 2),
                (-5, -2),
                (-2, -2),
            ],
            Self::Hexagon => &[(-6, 0), (-3, -5), (3, -5), (6, 0), (3, 5), (-3, 5)],
        }
    }
}

/// How a series looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Style {
    pub(super) colour: RGBColor,
    pub(super) marker: Marker,
}

impl Style {
    /// The style of the base row's series.
    pub(super) const BASE: Self = Self { colour: BASE, marker: Marker::Circle };

    /// The style of the other series by their number: 56 pairs of colour and marker before one returns.
    pub(super) fn nth(index: usize) -> Self {
        Self { colour: COLOURS[index % COLOURS.len()], marker: Marker::ALL[index % Marker::ALL.len()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn styles_are_distinct() {
        let styles: Vec<Style> = (0..56).map(Style::nth).collect();
        for (i, style) in styles.iter().enumerate() {
            assert!(!styles[..i].contains(style), "style {i} occurs before");
        }
    }
}
