//! Twisted sequential Monte Carlo (arXiv 2404.17546): particles that follow `p(y) exp(r(y) / β) / Z`.
//!
//! Each particle is a text under way with a weight. Twists `ψ(s) = exp(V(s) / β)` guess what becomes of a partial text, and
//! `ψ(y) = exp(r(y) / β)` of a whole one is the target itself. A step from `s` to `s'` by a proposal `q` multiplies the weight
//! by `p(s'|s) ψ(s') / (ψ(s) q(s'|s))`; where the weights have become uneven (ESS below a share of the particles) particles
//! are drawn anew by them. The answer is drawn by the final weights: its law tends to the target as particles are added.
//! The product of the mean weights is an unbiased estimate of `Z`, whatever the twists.
//!
//! Two proposals. *Base*: blocks from the policy. *Twisted*: every token from `p(v|s) ψ(s, v)`, normalised: with
//! `V = β ln E_p[e^{r/β} | s]` all weights are equal, and one particle has the target's law.
//!
//! Deviations from the paper: 1. twists are read from `[value.…]` and not learned here. 2. With `k` above 0 only the k
//! likeliest tokens are looked at and the others are proposed with the twist of the text before them: their weights say so,
//! and the estimate stays unbiased. 3. Multinomial resampling.

mod config;
mod machine;
mod potentials;

pub use config::{INFO, Pick, Proposal, TwistedSmc};
pub use machine::Trace;
