//! QAlign: a Metropolis–Hastings chain over completions whose stationary law is `p(y) exp(r(y) / beta) / Z`, the optimum of
//! KL-regularised reward maximisation (Faria and Smith 2025, arXiv 2504.03790).
//!
//! `p` is the law really drawn from: temperature, filters, stop strings and the horizon `max_new_tokens` are part of it.
//! The kernel is in [`Kernel`]; the answer is a vote over all states of all chains, rejected moves repeating the old
//! state, or the state most alike to all others, or the last state.
//!
//! Where this differs from the public code, which samples another law or wastes work there:
//! 1. a fixed horizon: the suffix after a cut at `i` has the budget `horizon − i`, so texts cannot grow without end;
//! 2. lengths count the end-of-sequence token, and states are token ids, never text that is tokenised anew;
//! 3. a completion is scored once for a prompt: neither the current state nor a repeated proposal is scored again;
//! 4. the log-ratio is not clipped;
//! 5. several chains for a prompt, each with its own first draw and its own random stream.

mod config;
mod kernel;
mod machine;
mod record;
mod slots;
mod tally;
mod trace;

pub use config::{AnswerBy, INFO, QAlign};
pub use kernel::{Cut, Kernel, Scored};
pub use trace::{Point, Rates, Trace};
