//! What a method may ask of a policy, and the batched engine that answers.
//!
//! This crate knows token ids and numbers on the host: no tensor library, no text. A model gives it [`Step`]: sessions
//! over a key-value cache. The [`Engine`] turns one or several of them into a sampler ([`Sample`]) that finds the
//! longest cached prefix itself, lets finished rows leave the batch, and counts what it costs in a [`Ledger`].
//! Methods are state machines ([`Scheduled`]; [`TextMethod`] where they need no more than texts) that [`schedule::run`]
//! serves in lock step, so that the asks of all prompts and chains share batches.
//!
//! All chance comes from [`objective::draw::Draw`]: [`Stream`] in production, `Exhaustive` in tests, which turns any of
//! this into an exact law on the [`tabular`] policy.

pub mod capability;
pub mod completion;
pub mod engine;
pub mod ledger;
pub mod mix;
pub mod prefix;
pub mod sampling;
pub mod schedule;
pub mod stream;
pub mod tabular;

pub use capability::{
    Draws, Error, Logits, NextAsk, NextToken, PrefixReward, Reward, RowDraw, RowId, Sample, SampleAsk, Score,
    Session, Step, TokenDraw,
};
pub use completion::{Candidate, Completion, End, Prefix, Prompt, TokenId};
pub use engine::Engine;
pub use ledger::Ledger;
pub use mix::{Mix, Rule, Source};
pub use sampling::Sampling;
pub use schedule::{Ask, Reply, Scheduled, Services, TextMethod};
pub use stream::{Chance, Purpose, Stream};
