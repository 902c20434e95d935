//! What is kept of a run, and its evaluation at the end.

use generate::Error;
use serde::{Deserialize, Serialize};

use super::law::Law;
use super::plan::{AnswerBy, Plan};
use super::state::State;
use super::tally::{Choice, Tally};
use super::trace::{Move, Point, Rates, Rung, Trace};
use crate::diagnostics::{Diagnostic, effective_sample_size, split_rhat};
use crate::selection::{Importance, importance};

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
    /// Independent draws of the base: their slot and `ln(law drawn from / raw law)`.
    pub(super) base: Vec<(usize, f64)>,
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

/// Divergence of the target to the raw law, with the importance weights behind it.
struct Divergence {
    importance: Option<Importance>,
    kl: Option<f64>,
    reason: Option<String>,
}

impl State {
    /// The estimate of the divergence (to the raw law) and the trace; `decided_at` is the step of a decided vote.
    pub(super) fn report(
        &self,
        plan: &Plan,
        choice: Choice,
        decided_at: Option<usize>,
    ) -> Result<(Option<f64>, Trace), Error> {
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
        let divergence = self.divergence(plan, law)?;
        let rhat = Diagnostic::new(split_rhat(&counted));
        let warnings = self.warnings(plan, law, divergence.importance.as_ref(), &rhat);
        let rung = |(number, parameter): (usize, &f64)| Rung {
            parameter: *parameter,
            rates: record.rungs[number],
            swaps: record.swaps.get(number).copied(),
        };
        let ladder = if self.rungs.len() > 1 { &self.rungs[..] } else { &[] };
        let trace = Trace {
            chains: plan.common.chains,
            steps: self.step,
            decided_at,
            parameter: law.parameter(),
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
            importance: divergence.importance,
            kl_reason: divergence.reason,
            curve: record.curve.clone(),
            moves: record.moves.clone(),
            warnings,
            candidates: Vec::new(),
        };
        Ok((divergence.kl, trace))
    }

    fn divergence(&self, plan: &Plan, law: Law) -> Result<Divergence, Error> {
        let base = &self.record.base;
        if base.len() < 2 {
            let reason = "one base sample says nothing about the target; run more chains".to_owned();
            return Ok(Divergence { importance: None, kl: None, reason: Some(reason) });
        }
        let first = self.slots.scored(base[0].0);
        let logs: Vec<f64> =
            base.iter().map(|(slot, _)| law.log_ratio(&first, &self.slots.scored(*slot))).collect();
        let (weights, summary) = importance(&logs, 1.0)
            .map_err(|error| Error::Method { method: plan.method, message: error.to_string() })?;
        if plan.common.answer == AnswerBy::Best {
            let reason = "the best of the states is no draw from the target".to_owned();
            return Ok(Divergence { importance: Some(summary), kl: None, reason: Some(reason) });
        }
        // KL to the raw law = KL to the law drawn from + the target's mean of the log-ratio of the two.
        let ratio: f64 = weights.iter().zip(base).map(|(weight, (_, ratio))| weight * ratio).sum();
        Ok(Divergence { importance: Some(summary), kl: Some(summary.kl + ratio), reason: None })
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
                     mixed, and kl is too small; {}",
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
