//! Ranges and ticks.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

use crate::report::columns::fixed;

/// How values lie on an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scale {
    /// In proportion; `from_zero` where values below zero do not exist.
    Linear {
        /// Whether the axis begins at zero.
        from_zero: bool,
    },
    /// The values are binary logarithms.
    Log2,
}

/// An axis ready to draw.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) ticks: Vec<f64>,
    /// Decimals of the ticks' labels.
    decimals: usize,
    scale: Scale,
}

impl Axis {
    /// An axis that holds all values and a margin.
    pub(super) fn new(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let (mut low, mut high) =
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        match scale {
            Scale::Linear { from_zero } => {
                if from_zero {
                    (low, high) = (low.min(0.0), high.max(0.0));
                }
                if high - low < 1e-9 * high.abs().max(1e-3) {
                    let half = if high.abs() < 1e-9 { 0.5 } else { high.abs() / 4.0 };
                    (low, high) = if from_zero { (0.0, 1.0) } else { (low - half, high + half) };
                }
                let span = high - low;
                let step = nice_step(span / 6.0);
                // A little room below zero keeps points at zero off the axis.
                let below = if from_zero { 0.03 } else { 0.07 };
                let (first, last) = (low - below * span, high + 0.07 * span);
                let ticks = multiples(step, if from_zero { low.min(0.0) } else { first }, last);
                let decimals = (-step.log10().floor()).max(0.0) as usize;
                Self { low: first, high: last, ticks, decimals, scale }
            }
            Scale::Log2 => {
                // Two powers of two at least, so that the scale can be read.
                let (first, last) = (low - 0.3, high + 0.3);
                let (first, last) = if last.floor() - first.ceil() < 1.0 {
                    (first.floor(), last.ceil())
                } else {
                    (first, last)
                };
                let step = ((last - first) / 10.0).ceil().max(1.0);
                let ticks = multiples(step, first, last);
                Self { low: first, high: last, ticks, decimals: 0, scale }
            }
        }
    }

    /// The words at a tick.
    pub(super) fn tick(&self, value: f64) -> String {
        match self.scale {
            Scale::Linear { .. } => fixed(value, self.decimals),
            Scale::Log2 if value < 0.0 => format!("1/{}", grouped(value.abs().exp2())),
            Scale::Log2 => grouped(value.exp2()),
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    /// Our ticks, whatever number the library would like.
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(value: &f64) -> String {
        // Never asked: the mesh is given the axis's own words.
        value.to_string()
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `rough`.
fn nice_step(rough: f64) -> f64 {
    let power = 10_f64.powf(rough.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999).unwrap_or(rough)
}

/// The multiples of `step` from `low` to `high`.
fn multiples(step: f64, low: f64, high: f64) -> Vec<f64> {
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|k| k as f64 * step).collect()
}

/// A whole number with thin blanks between thousands.
fn grouped(value: f64) -> String {
    let digits = fixed(value, 0);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && digits.len() > 4 {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ticks_are_round_numbers() {
        let axis = Axis::new(Scale::Linear { from_zero: true }, [0.0, 2.3].into_iter());
        assert_eq!(
            axis.ticks.iter().map(|t| axis.tick(*t)).collect::<Vec<_>>(),
            ["0.0", "0.5", "1.0", "1.5", "2.0"]
        );
        let axis = Axis::new(Scale::Log2, [100_f64.log2(), 30_000_f64.log2()].into_iter());
        assert_eq!(axis.tick(axis.ticks[0]), "128");
        assert_eq!(axis.tick(15.0), "32\u{202f}768");
    }

    proptest! {
        #[test]
        fn every_value_is_inside_and_has_ticks_about_it(
            values in prop::collection::vec(-1e3_f64..1e3, 1..6),
            kind in 0..3,
        ) {
            let scale = match kind {
                0 => Scale::Linear { from_zero: true },
                1 => Scale::Linear { from_zero: false },
                _ => Scale::Log2,
            };
            let values: Vec<f64> = match scale {
                Scale::Log2 => values.iter().map(|v| v / 100.0).collect(),
                Scale::Linear { .. } => values,
            };
            let axis = Axis::new(scale, values.iter().copied());
            prop_assert!(axis.low < axis.high);
            prop_assert!(values.iter().all(|v| axis.low <= *v && *v <= axis.high));
            prop_assert!((2..=14).contains(&axis.ticks.len()), "{:?}", axis);
            prop_assert!(axis.ticks.iter().all(|t| axis.low <= *t && *t <= axis.high));
        }

        #[test]
        fn one_value_is_enough(value in -1e3_f64..1e3) {
            let axis = Axis::new(Scale::Linear { from_zero: false }, [value].into_iter());
            prop_assert!(axis.low < value && value < axis.high);
        }
    }
}
