//! The report of a comparison: data, terminal table, and files.

mod build;
mod cells;
mod checks;
mod columns;
mod figure;
mod files;
mod glossary;
mod html;
mod hypervolume;
mod markdown;
pub mod metric;
mod model;
mod sweep;
mod table;

pub use build::{Comparison, ComparisonError, RowInput};
pub(crate) use cells::label;
pub use figure::{Figure, FigureError, figures};
pub use files::{WriteError, write};
pub use glossary::page as glossary;
pub use html::html;
pub use hypervolume::{Hypervolume, Hypervolumes};
pub use markdown::markdown;
pub use model::{Cost, Fact, Metric, PairedDifference, Report, Row, Section};
pub use sweep::{Front, Sweep, SweepPlace, SweepPoint};
pub use table::{table, table_within};
