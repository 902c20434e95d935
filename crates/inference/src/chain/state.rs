//! All that a run of chains on one prompt knows, as plain data.

use generate::Stream;
use serde::{Deserialize, Serialize};

use super::plan::Plan;
use super::record::Record;
use super::slots::Slots;

/// What the machine waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    Start,
    Samples,
    Rewards,
}

/// A chain that moves: chain `c` of rung `k` is number `k · chains + c`. Those of rung 0 have the method's target and
/// count; with a ladder they exchange states with the chains of the same number on the next rung.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Walker {
    /// Its first draw is made by this stream itself, the moves of step `t` by its child `t`.
    pub(super) stream: Stream,
    /// Slot of the current state.
    pub(super) state: usize,
    pub(super) proposal: Option<Proposal>,
}

/// A move under way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Proposal {
    pub(super) stream: Stream,
    pub(super) cut: usize,
    /// Slots of the tries; empty until they are drawn.
    pub(super) slots: Vec<usize>,
}

/// The state of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) stream: Stream,
    /// `beta` or `alpha` of each rung, frozen before the first move.
    pub(super) rungs: Vec<f64>,
    pub(super) walkers: Vec<Walker>,
    pub(super) slots: Slots,
    pub(super) step: usize,
    pub(super) stage: Stage,
    pub(super) record: Record,
}

impl State {
    /// Before the first draw.
    pub(super) fn new(plan: &Plan, stream: Stream) -> Self {
        // The streams are those of a pool: chain 0 starts at the completion of the method `sample`.
        let walker = |number| Walker { stream: stream.child(number), state: 0, proposal: None };
        let target = plan.law.parameter().unwrap_or(0.0);
        let rungs: Vec<f64> = std::iter::once(target).chain(plan.ladder.iter().copied()).collect();
        Self {
            stream,
            walkers: (0..plan.walkers() as u64).map(walker).collect(),
            slots: Slots::default(),
            step: 0,
            stage: Stage::Start,
            record: Record::new(plan.common.chains, rungs.len()),
            rungs,
        }
    }

    /// Whether it can be one of `plan`'s.
    pub(super) fn fits(&self, plan: &Plan) -> bool {
        self.walkers.len() == plan.walkers()
            && self.rungs.len() == plan.ladder.len() + 1
            && self.record.states.len() == plan.common.chains
            && self.step <= plan.common.steps
    }
}
