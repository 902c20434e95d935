//! Weights of states, and the answer that they give.

use generate::Prompt;
use objective::error::InputError;
use serde::{Deserialize, Serialize};

use super::law::{Law, Scored};
use super::plan::{AnswerBy, Plan};
use super::slots::Slots;
use crate::candidate::Candidate;
use crate::method::Tools;
use crate::selection::{best_of_n, mbr, vote};

/// Weights of completions in the order in which they first got any: states interleaved by step, as the chains run.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    order: Vec<usize>,
    weights: Vec<f64>,
    /// Place in the two lists, by slot.
    places: Vec<Option<usize>>,
}

/// The answer so far.
#[derive(Debug)]
pub(super) struct Choice {
    pub(super) slot: usize,
    pub(super) answer: Option<String>,
    pub(super) votes: Vec<(String, f64)>,
}

impl Choice {
    /// Whether the winner stays the winner, whatever answers get `weight` in all from now on.
    pub(super) fn withstands(&self, weight: f64) -> bool {
        let winner = |vote: &&(String, f64)| Some(&vote.0) == self.answer.as_ref();
        let lead = self.votes.iter().find(winner).map_or(0.0, |(_, total)| *total);
        let next =
            self.votes.iter().filter(|vote| !winner(vote)).map(|(_, total)| *total).fold(0.0, f64::max);
        // Sums of fractional votes are rounded; whole ones differ by at least 1.
        lead - next > weight + 1e-6
    }
}

impl Tally {
    /// Adds weight to a completion; zero does not count as an appearance.
    pub(super) fn add(&mut self, slot: usize, weight: f64) {
        if weight <= 0.0 {
            return;
        }
        if self.places.len() <= slot {
            self.places.resize(slot + 1, None);
        }
        if let Some(place) = self.places[slot] {
            self.weights[place] += weight;
        } else {
            self.places[slot] = Some(self.order.len());
            self.order.push(slot);
            self.weights.push(weight);
        }
    }

    /// What there was to choose from.
    pub(super) fn candidates(&self, slots: &Slots) -> Vec<Candidate> {
        let one = |(slot, weight): (&usize, &f64)| Candidate {
            ids: slots.get(*slot).ids.clone(),
            reward: slots.get(*slot).reward,
            answer: Some(slots.answer(*slot).to_owned()).filter(|answer| !answer.is_empty()),
            weight: *weight,
        };
        self.order.iter().zip(&self.weights).map(one).collect()
    }

    /// Completions with weight.
    pub(super) fn distinct(&self) -> usize {
        self.order.len()
    }

    /// The answer by the plan's rule; `last` is the last state of the first chain.
    pub(super) fn choose(
        &self,
        plan: &Plan,
        last: usize,
        slots: &mut Slots,
        prompt: &Prompt,
        tools: &Tools,
    ) -> Result<Choice, InputError> {
        let plain = |slot| Choice { slot, answer: None, votes: Vec::new() };
        match (plan.common.answer, &tools.extract, &tools.similarity) {
            (AnswerBy::Vote, Some(extract), _) => {
                slots.read(&self.order, prompt, extract);
                let answers: Vec<&str> = self.order.iter().map(|slot| slots.answer(*slot)).collect();
                let vote = match plan.vote_beta {
                    Some(beta) => vote(&answers, &self.tilted(beta, slots))?,
                    None => vote(&answers, &self.weights)?,
                };
                let slot = self.order[vote.index];
                Ok(Choice { slot, answer: Some(vote.answer), votes: vote.totals })
            }
            (AnswerBy::Mbr, _, Some(similarity)) => {
                let ids = |place: usize| &*slots.get(self.order[place]).ids;
                let chosen = mbr(&self.weights, |i, j| similarity(ids(i), ids(j)))?;
                Ok(plain(self.order[chosen.index]))
            }
            (AnswerBy::Best, _, _) => {
                let reward = |slot: &usize| slots.get(*slot).reward.unwrap_or(f64::NEG_INFINITY);
                let rewards: Vec<f64> = self.order.iter().map(reward).collect();
                Ok(plain(self.order[best_of_n(&rewards)?]))
            }
            // Without its tool a rule is refused before the machine starts.
            _ => Ok(plain(last)),
        }
    }

    /// The weights times `exp(reward / beta) / length`, scaled so that the greatest factor is 1.
    fn tilted(&self, beta: f64, slots: &Slots) -> Vec<f64> {
        let origin = Scored { len: 1, ..Scored::default() };
        let factor = |slot: &usize| {
            let scored = slots.scored(*slot);
            Law::Tilted { beta }.log_ratio(&origin, &scored) - (scored.len as f64).ln()
        };
        let logs: Vec<f64> = self.order.iter().map(factor).collect();
        let greatest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        self.weights.iter().zip(logs).map(|(weight, log)| weight * (log - greatest).exp()).collect()
    }
}
