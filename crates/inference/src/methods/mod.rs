//! The methods, one file each: the settings, their defaults and where they come from, and what the method does.

pub mod best_of_n;
pub mod genarm;
pub mod greedy;
pub mod majority;
pub mod qalign;
pub mod sample;
pub mod weighted_majority;
