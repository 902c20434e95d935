//! Statistics: sums and counts, paired bootstrap, proportions, rank agreement, importance weights.

mod bootstrap;
mod importance;
mod interval;
mod power_law;
mod proportion;
mod rank;
mod sums;
mod tilt;

pub use bootstrap::{Difference, Resamples, ResamplesError};
pub use importance::{ImportanceSample, WeightsError};
pub use interval::{Estimate, Interval, Undetermined};
pub use power_law::PowerLaw;
pub use proportion::{normal_quantile, wilson};
pub use rank::{mid_ranks, spearman};
pub use sums::Sums;
pub use tilt::{Tilted, tilted};
