//! Recipes as their users meet them: texts in, values or printed problems out.

#![allow(clippy::unwrap_used, reason = "a test says what failed by failing")]

mod overrides;
mod pipeline;
mod problems;
mod properties;
mod sample;
mod schema;
