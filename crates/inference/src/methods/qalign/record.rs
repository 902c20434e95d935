//! What is kept of a run, and its evaluation at the end.

use generate::Error;

use super::config::{AnswerBy, QAlign};
use super::slots::Slots;
use super::tally::{Choice, Tally};
use super::trace::{Point, Rates, Trace};
use crate::diagnostics::{Diagnostic, effective_sample_size, split_rhat};
use crate::selection::{Importance, importance};

/// Above this R̂ chains are called unmixed.
const RHAT_LIMIT: f64 = 1.1;

/// Fewest base samples whose weights are judged.
const JUDGED_SAMPLES: usize = 4;

/// Everything of a run that the trace is made of.
#[derive(Debug, Default)]
pub(super) struct Record {
    /// States of each chain, from the first draw.
    pub(super) states: Vec<Vec<usize>>,
    pub(super) tally: Tally,
    pub(super) rates: Rates,
    pub(super) by_cut: [Rates; 10],
    /// Independent draws of the base: their slot and `ln(law drawn from / raw law)`.
    pub(super) base: Vec<(usize, f64)>,
    pub(super) drawn_tokens: u64,
    pub(super) reward_calls: u64,
    pub(super) curve: Vec<Point>,
}

/// Divergence of the target to the raw law, with the importance weights behind it.
struct Divergence {
    importance: Option<Importance>,
    kl: Option<f64>,
    reason: Option<String>,
}

impl Record {
    /// The estimate of the divergence (to the raw law) and the trace.
    pub(super) fn finish(
        self,
        config: &QAlign,
        slots: &Slots,
        choice: Choice,
    ) -> Result<(Option<f64>, Trace), Error> {
        let reward = |slot: &usize| slots.get(*slot).reward.unwrap_or(f64::NAN);
        let rewards: Vec<Vec<f64>> =
            self.states.iter().map(|chain| chain.iter().map(reward).collect()).collect();
        let counted: Vec<Vec<f64>> = rewards.iter().map(|chain| chain[config.burn_in..].to_vec()).collect();
        let is_vote = config.answer == AnswerBy::Vote;
        let wins = |slot: &usize| f64::from(u8::from(Some(slots.answer(*slot)) == choice.answer.as_deref()));
        let indicator: Vec<Vec<f64>> =
            self.states.iter().map(|chain| chain[config.burn_in..].iter().map(wins).collect()).collect();
        let mean_at =
            |t: usize| objective::numeric::sum(rewards.iter().map(|chain| chain[t])) / rewards.len() as f64;
        let divergence = self.divergence(config, slots)?;
        let rhat = Diagnostic::new(split_rhat(&counted));
        let warnings = self.warnings(config, divergence.importance.as_ref(), &rhat);
        let trace = Trace {
            chains: config.chains,
            steps: config.steps,
            rates: self.rates,
            by_cut: self.by_cut.to_vec(),
            rewards: (0..=config.steps).map(mean_at).collect(),
            rhat,
            ess: Diagnostic::new(effective_sample_size(&counted)),
            answer_rhat: is_vote.then(|| Diagnostic::new(split_rhat(&indicator))),
            answer_ess: is_vote.then(|| Diagnostic::new(effective_sample_size(&indicator))),
            unique_texts: self.tally.distinct(),
            unique_answers: is_vote.then_some(choice.votes.len()),
            votes: choice.votes,
            importance: divergence.importance,
            kl_reason: divergence.reason,
            curve: self.curve,
            warnings,
        };
        Ok((divergence.kl, trace))
    }

    fn divergence(&self, config: &QAlign, slots: &Slots) -> Result<Divergence, Error> {
        if self.base.len() < 2 {
            let reason = "one base sample says nothing about the target; run more chains".to_owned();
            return Ok(Divergence { importance: None, kl: None, reason: Some(reason) });
        }
        let rewards: Vec<f64> =
            self.base.iter().map(|(slot, _)| slots.get(*slot).reward.unwrap_or(f64::NAN)).collect();
        let (weights, summary) = importance(&rewards, config.beta)
            .map_err(|error| Error::Method { method: super::INFO.name, message: error.to_string() })?;
        // KL to the raw law = KL to the law drawn from + the target's mean of the log-ratio of the two.
        let ratio: f64 = weights.iter().zip(&self.base).map(|(weight, (_, ratio))| weight * ratio).sum();
        Ok(Divergence { importance: Some(summary), kl: Some(summary.kl + ratio), reason: None })
    }

    fn warnings(&self, config: &QAlign, importance: Option<&Importance>, rhat: &Diagnostic) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(Importance { samples, ess, .. }) = importance {
            // An independent draw of the target costs about samples / ess base draws; a chain shorter than that has hardly
            // left its first draw, and where one sample has all the weight even that cost is underestimated.
            let far = *ess < 2.0 || *samples as f64 / ess > config.steps as f64;
            if *samples >= JUDGED_SAMPLES && far {
                warnings.push(format!(
                    "{samples} base samples are worth {ess:.2} of the target: {} steps at beta = {} cannot have mixed, \
                     and kl is too small; raise beta or steps",
                    config.steps, config.beta
                ));
            }
        }
        if let Some(rhat) = rhat.value.filter(|rhat| *rhat > RHAT_LIMIT) {
            warnings
                .push(format!("split-R̂ of the reward is {rhat:.2}: the chains have not mixed; raise steps"));
        }
        let stuck = self.states.iter().filter(|chain| chain.iter().all(|state| *state == chain[0])).count();
        if stuck > 0 {
            warnings.push(format!("{stuck} of {} chains never left their first draw", config.chains));
        }
        warnings
    }
}
