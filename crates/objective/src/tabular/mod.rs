//! Language models small enough to enumerate: conditional tables over a few symbols up to a fixed horizon.
//!
//! Every string has a probability that can be written down, so the exact law of every method is known. Laws are vectors
//! aligned with [`Space::sequences`]; the functions of [`crate::law`] and [`crate::bon`] apply to them.

mod chain;
mod guidance;
mod lm;
mod policy;
mod space;

pub use chain::{Chain, Kernel, stationary};
pub use guidance::{SequenceOptimum, Tokenwise, sequence_optimum, tokenwise};
pub use lm::{TabularLm, TabularTable};
pub use policy::TabularPolicy;
pub use space::{Space, Symbol, TabularError};
