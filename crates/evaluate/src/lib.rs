//! Tasks, pools, statistics, head-to-head comparison, report.

pub mod attempts;
pub mod compare;
pub mod frontier;
pub mod pairwise;
pub mod report;
pub mod stats;
