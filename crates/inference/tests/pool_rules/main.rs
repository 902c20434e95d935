//! The rules on pools: their laws through the machine against all tuples of samples, and what must hold of any pool.

#[path = "../common/mod.rs"]
mod common;
mod laws;
mod limits;
mod transport;

use std::collections::BTreeMap;

use common::{Toy, answer, assert_law, method, small, toys};
use generate::{Chance, Prompt, Purpose, Stream};
use inference::selection::{Similarities, SimilarityTable, rouge1_f1, soft_best_of_n_law, transport};
use inference::{METHODS, Method, MethodConfig, PoolLaw, PoolTrace, PoolView};
use objective::law::{kl, tilt, total_variation, win_rate};
use serde_json::{Value, json};

/// Logits are `f32`.
const TOLERANCE: f64 = 2e-6;

// --- A slow and obvious second version of every rule, on tuples of sequences.
