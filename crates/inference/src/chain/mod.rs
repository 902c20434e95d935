//! Markov chains over completions: what `qalign`, `quest`, `power`, `independence-mh` and `random-cut` share.
//!
//! A state is a completion `y` of `n` tokens, the end-of-sequence token counted. A move draws a cut `i` from a law
//! `c(i | y)`, keeps `y[..i]`, draws one or several new suffixes from the policy up to the horizon, and takes one of them
//! or stays. With `q` the law drawn from and `w = target / q`, it is accepted with `min(1, w(y') c(i|y') / (w(y) c(i|y)))`:
//! the cut is an auxiliary variable, each cut is balanced by itself, and `q` cancels.
//!
//! [`Law`] says what `w` is, [`CutLaw`] what `c` is, [`Kernel`] makes a move. `Plan` is a method's settings with
//! everything resolved; the machine made from it runs the chains of a prompt in lock step and can be saved at any ask.

mod budget;
mod cuts;
mod kernel;
mod law;
mod machine;
mod plan;
mod record;
mod settings;
mod slots;
mod state;
mod tally;
mod trace;

pub use cuts::CutLaw;
pub use kernel::{Cut, Decision, Kernel, Odds};
pub use law::{Law, Scored};
pub use plan::AnswerBy;
pub use trace::{Move, Point, Rates, Rung, Trace};

pub(crate) use budget::Budget;
pub(crate) use machine::Chains;
pub(crate) use plan::{Common, Plan};
pub(crate) use settings::chain_settings;
