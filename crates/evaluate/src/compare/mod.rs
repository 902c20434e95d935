//! Policies and test-time methods head to head, on one set of prompts.
//!
//! One pool of samples per policy serves every rule that chooses from samples, for every n, by its exact expectation over
//! subsets. Methods that act while a text is made run by themselves, on the same prompts. Every row carries what it cost.

mod about;
mod alarms;
mod config;
mod error;
mod fate;
mod labels;
mod length;
mod pairs;
mod price;
mod rows;
mod rule;
mod run;
mod runs;
mod target;
mod under;

pub use config::{Compare, PolicyTable, RunTable};
pub use error::Error;
pub use rule::RuleTable;
pub use run::{Settings, run};
