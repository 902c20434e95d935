//! Rules that choose from a pool of samples, as pure functions.
//!
//! Ties: the first index wins; among answers, the one that appears first.

mod best;
mod chi_square;
mod importance;
mod mbr;
mod reference;
mod rule;
mod similarity;
mod soft;
mod transport;
mod vote;

pub(crate) use best::negated;
pub use best::{BestBy, best_of_n, worst_of_n};
pub use chi_square::ChiSquare;
pub use importance::{Importance, effective_sample_size, importance};
pub use mbr::{Mbr, mbr};
pub use reference::Reference;
pub(crate) use reference::scaled_rewards;
pub use rule::{Divergence, PoolLaw, PoolRule, PoolView, selection_weights};
pub use similarity::{EmbeddingTable, Similarities, SimilarityTable, rouge1_f1};
pub use soft::{soft_best_of_n, soft_best_of_n_law};
pub(crate) use soft::{soft_kl, tempered};
pub use transport::transport;
pub use vote::{Vote, majority, vote, weighted_majority};

use objective::error::InputError;

/// Refuses empty pools.
fn not_empty(what: &'static str, size: usize) -> Result<(), InputError> {
    if size == 0 { Err(InputError::TooFew { what, least: 1 }) } else { Ok(()) }
}

/// Refuses lists of another length than the pool.
fn same_length(what: &'static str, expected: usize, actual: usize) -> Result<(), InputError> {
    if expected == actual { Ok(()) } else { Err(InputError::Length { what, expected, actual }) }
}

/// Refuses NaN, and infinities too where they make no sense.
fn numbers(what: &'static str, values: &[f64], infinite: bool) -> Result<(), InputError> {
    match values.iter().position(|x| x.is_nan() || (!infinite && x.is_infinite())) {
        Some(index) => Err(InputError::NotFinite { what, index, value: values[index] }),
        None => Ok(()),
    }
}

/// First index of the greatest value; values are not empty and not NaN.
fn first_greatest(values: &[f64]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

/// A sum that depends on the terms alone and not on their order, so that equal multisets of weights tie exactly.
fn ordered_sum(mut terms: Vec<f64>) -> f64 {
    terms.sort_unstable_by(f64::total_cmp);
    objective::numeric::sum(terms)
}
