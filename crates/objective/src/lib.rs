//! The mathematics of alignment, in `f64`, without models and without input or output.
//!
//! - [`draw`]: the one door for randomness, and the exact law of any method that uses it;
//! - [`tabular`]: language models small enough to enumerate, their guided products, chains, and a learnable table;
//! - [`law`], [`bon`], [`pool`]: tilts, divergences, best-of-N with ties, and its estimates from pools of samples;
//! - [`power_mean`]: what several aligned policies make together under an α-divergence;
//! - [`rank`], [`reward_law`], [`tilt`], [`design`], [`oracle`]: rewards seen through ranks among cached samples or by a learned
//!   law, tilts of them, what those win, and what estimation costs;
//! - [`algebra`], [`game`]: on-policy methods as value, divergence and estimator; the win-rate game;
//! - [`losses`], [`advantage`], [`kl`]: objectives as pure functions with analytic gradients.
//!
//! Quantities are natural logarithms and nats. Functions that take data from outside return typed errors
//! ([`error::InputError`], [`tabular::TabularError`], [`draw::DrawError`]).
//!
//! Best-of-2 by a sampler and by its closed form:
//!
//! ```
//! use objective::{bon, draw::{Draw, Exhaustive}};
//!
//! let (p, r) = ([0.5, 0.25, 0.25], [0.0, 1.0, 1.0]);
//! let log_p = p.map(f64::ln);
//! let sampled = Exhaustive::law(|draw| {
//!     let (first, second) = (draw.pick(&log_p), draw.pick(&log_p));
//!     if r[second] > r[first] { second } else { first }
//! })?;
//! for ((_, sampled), exact) in sampled.iter().zip(bon::law(&p, &r, 2.0)?) {
//!     assert!((sampled - exact).abs() < 1e-15);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod advantage;
pub mod algebra;
pub mod bon;
pub mod design;
pub mod draw;
pub mod error;
pub mod game;
pub mod kl;
pub mod law;
pub mod losses;
pub mod numeric;
pub mod oracle;
pub mod pool;
pub mod power_mean;
pub mod rank;
pub mod reward_law;
pub mod tabular;
pub mod tilt;
