//! What is kept of a run, and its evaluation at the end.

use generate::Error;
use serde::{Deserialize, Serialize};

use super::law::Law;
use super::plan::{AnswerBy, Plan};
use super::state::State;
use super::tally::{Choice, Tally};
use super::trace::{Move, Point, Rates, Rung, Trace};
use crate::diagnostics::{Diagnostic, effective_sample_size, split_rhat};
use crate::selection::{Divergence, Importance, importance};

/// Above this R̂ chains are called unmixed.
const RHAT_LIMIT: f64 = 1.1;

/// Fewest base samples whose weights are judged.
const JUDGED_SAMPLES: usize = 4;

/// Everything of a run that the trace is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// States of each chain of the target, from the first draw.
    pub(super) states: Vec<Vec<usize>>,
    pub(super) tally: Tally,
    /// Moves of each rung.
    pub(super) rungs: Vec<Rates>,
    /// Swaps of each rung with the next.
    pub(super) swaps: Vec<Rates>,
    pub(super) by_cut: [Rates; 10],
    /// Slots of the independent draws of the base.
    pub(super) base: Vec<usize>,
    pub(super) samples: usize,
    pub(super) drawn_tokens: u64,
    pub(super) reward_calls: u64,
    pub(super) curve: Vec<Point>,
    pub(super) moves: Vec<Move>,
}

impl Record {
    pub(super) fn new(chains: usize, rungs: usize) -> Self {
        Self {
            states: vec![Vec::new(); chains],
            tally: Tally::default(),
            rungs: vec![Rates::default(); rungs],
            swaps: vec![Rates::default(); rungs - 1],
            by_cut: [Rates::default(); 10],
            base: Vec::new(),
            samples: 0,
            drawn_tokens: 0,
            reward_calls: 0,
            curve: Vec::new(),
            moves: Vec::new(),
        }
    }
}

impl AnswerBy {
    /// Why the divergence of the answer to the base is not known.
    fn kl_reason(self) -> &'static str {
        match self {
            Self::Vote => Divergence::OF_ANSWERS.reason(),
            Self::Mbr => Divergence::OF_SIMILARITIES.reason(),
            Self::Best => Some("the best of the states is no draw from the target"),
            Self::Last => None,
        }
        .unwrap_or("the last state is a draw from nearly the target, and how nearly is not known")
    }
}

impl State {
    /// The trace; `decided_at` is the step of a decided vote.
    pub(super) fn report(
        &self,
        plan: &Plan,
        choice: Choice,
        decided_at: Option<usize>,
    ) -> Result<Trace, Error> {
        let record = &self.record;
        let statistic = |slot: &usize| {
            let scored = self.slots.scored(*slot);
            if plan.scores() {
                scored.reward
            } else if plan.law.uses_log_probs() {
                scored.log_raw
            } else {
                scored.len as f64
            }
        };
        let values: Vec<Vec<f64>> =
            record.states.iter().map(|chain| chain.iter().map(statistic).collect()).collect();
        let counted: Vec<Vec<f64>> =
            values.iter().map(|chain| chain[plan.common.burn_in..].to_vec()).collect();
        let is_vote = plan.common.answer == AnswerBy::Vote;
        let wins =
            |slot: &usize| f64::from(u8::from(Some(self.slots.answer(*slot)) == choice.answer.as_deref()));
        let indicator: Vec<Vec<f64>> = record
            .states
            .iter()
            .map(|chain| chain[plan.common.burn_in..].iter().map(wins).collect())
            .collect();
        let mean_at =
            |t: usize| objective::numeric::sum(values.iter().map(|chain| chain[t])) / values.len() as f64;
        let law = plan.law.with(self.rungs[0]);
        let importance = self.importance(plan, law)?;
        let rhat = Diagnostic::new(split_rhat(&counted));
        let warnings = self.warnings(plan, law, importance.as_ref(), &rhat);
        let rung = |(number, parameter): (usize, &f64)| Rung {
            parameter: *parameter,
            rates: record.rungs[number],
            swaps: record.swaps.get(number).copied(),
        };
        let ladder = if self.rungs.len() > 1 { &self.rungs[..] } else { &[] };
        Ok(Trace {
            chains: plan.common.chains,
            steps: self.step,
            decided_at,
            parameter: law.parameter(),
            target: Some(law),
            rates: record.rungs[0],
            by_cut: record.by_cut.to_vec(),
            rungs: ladder.iter().enumerate().map(rung).collect(),
            rewards: if plan.scores() { (0..=self.step).map(mean_at).collect() } else { Vec::new() },
            rhat,
            ess: Diagnostic::new(effective_sample_size(&counted)),
            answer_rhat: is_vote.then(|| Diagnostic::new(split_rhat(&indicator))),
            answer_ess: is_vote.then(|| Diagnostic::new(effective_sample_size(&indicator))),
            unique_texts: record.tally.distinct(),
            unique_answers: is_vote.then_some(choice.votes.len()),
            votes: choice.votes,
            importance,
            kl_reason: Some(plan.common.answer.kl_reason().to_owned()),
            curve: record.curve.clone(),
            moves: record.moves.clone(),
            warnings,
            candidates: Vec::new(),
        })
    }

    /// What the independent draws of the base say of the target; one of them says nothing.
    fn importance(&self, plan: &Plan, law: Law) -> Result<Option<Importance>, Error> {
        let base = &self.record.base;
        if base.len() < 2 {
            return Ok(None);
        }
        let first = self.slots.scored(base[0]);
        let logs: Vec<f64> =
            base.iter().map(|slot| law.log_ratio(&first, &self.slots.scored(*slot))).collect();
        let weighed = importance(&logs, 1.0)
            .map_err(|error| Error::Method { method: plan.method, message: error.to_string() })?;
        Ok(Some(weighed.1))
    }

    fn warnings(
        &self,
        plan: &Plan,
        law: Law,
        importance: Option<&Importance>,
        rhat: &Diagnostic,
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        if let (Some(Importance { samples, ess, .. }), Some(parameter)) = (importance, law.parameter()) {
            // An independent draw of the target costs about samples / ess base draws; a chain shorter than that has hardly
            // left its first draw, and where one sample has all the weight even that cost is underestimated.
            let tried = self.step * plan.tries;
            let far = *ess < 2.0 || *samples as f64 / ess > tried as f64;
            if *samples >= JUDGED_SAMPLES && far {
                warnings.push(format!(
                    "{samples} base samples are worth {ess:.2} of the target: {} steps at {} = {parameter} cannot have \
                     mixed; {}",
                    self.step,
                    law.key(),
                    law.easier()
                ));
            }
        }
        if let Some(rhat) = rhat.value.filter(|rhat| *rhat > RHAT_LIMIT) {
            let what = if plan.scores() { "the reward" } else { "the states" };
            warnings.push(format!("split-R̂ of {what} is {rhat:.2}: the chains have not mixed; raise steps"));
        }
        let states = &self.record.states;
        let stuck = states.iter().filter(|chain| chain.iter().all(|state| *state == chain[0])).count();
        if stuck > 0 {
            warnings.push(format!("{stuck} of {} chains never left their first draw", plan.common.chains));
        }
        warnings
    }
}
