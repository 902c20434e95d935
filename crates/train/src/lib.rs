//! The training loop, checkpoints and resume, one file per method, and the binary that runs recipes.

pub mod anchor;
mod board;
pub mod calibration;
pub mod card;
pub mod checkpoint;
mod closing;
pub mod dry_run;
mod error;
pub mod identity;
pub mod idle;
pub mod lanes;
pub mod meters;
pub mod methods;
pub mod metrics;
pub mod on_policy;
pub mod optimizer;
pub mod oracle;
pub mod pairs;
pub mod pipeline;
pub mod pooled;
pub mod progress;
pub mod provenance;
pub mod recipe;
pub mod reference;
pub mod schedule;
pub mod sinks;
pub mod stage;
pub mod supervised;
pub mod trainer;

pub use error::Error;
