//! What methods that search over prefixes share.
//!
//! [`Rounds`] serves those that draw completions in blocks and choose between blocks which go on: a method is a [`Plan`].
//! [`Walk`] serves those that choose every token among candidates. Neither holds a cache: policies and values find what
//! they have seen of a prefix themselves.

mod beam;
mod rounds;
mod walk;

pub use rounds::{RoundTrace, SearchTrace};
pub use walk::WalkTrace;

pub(crate) use beam::Beam;
pub use rounds::Choose;
pub(crate) use rounds::{Plan, Rounds, Standing, best_first};
pub use walk::Decode;
pub(crate) use walk::{Walk, finite, guided};

/// Why a search does not know its divergence to the base.
pub(crate) const KL_REASON: &str = "the law of a search has no closed form";
