//! Reward pools: the samples of a policy, and what rewards give them, as an artefact.
//!
//! Sampling is what costs; a pool is sampled once and then serves training (vBoN, preference pairs), calibration, and every
//! selection rule for all n. Its key names everything that decides about the samples, so a pool of another temperature or
//! tokenizer is never used by mistake. Rewards are added to it later, each under its own identity.

mod error;
mod file;
mod key;
mod sample;

use std::collections::BTreeMap;

use generate::{Candidate, Completion, Ledger, Prompt, Reward, TokenId};
use serde::{Deserialize, Serialize};

pub use error::PoolError;
pub use key::{PoolKey, prompts_hash};
pub use sample::{PoolSample, RewardColumn, RewardId};

/// The samples of one prompt, and what was found of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    index: usize,
    prompt: Vec<TokenId>,
    samples: Vec<PoolSample>,
    /// Scores by identity of the reward.
    rewards: BTreeMap<String, Vec<f64>>,
    /// Extracted answers, empty where none were extracted.
    answers: Vec<Option<String>>,
}

/// `M` samples of each prompt, with the scores of any number of rewards.
///
/// A pool that was opened for fewer samples than it has shows the first of them only; nothing is lost when it is saved.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    key: PoolKey,
    /// Samples shown, at most `key.samples`.
    shown: usize,
    cost: Ledger,
    columns: Vec<RewardColumn>,
    /// Identity of the extractor of the answers, and of how many samples it extracted them.
    extractor: Option<(String, usize)>,
    rows: Vec<Row>,
}

impl Pool {
    /// A pool of the samples drawn for `prompts` under `key`; `cost` is what drawing them cost.
    ///
    /// # Errors
    /// The prompts are not those of the key, a number of samples is not the key's, or a log-probability is not finite.
    pub fn new(
        key: PoolKey,
        prompts: &[Prompt],
        samples: &[Vec<Completion>],
        cost: Ledger,
    ) -> Result<Self, PoolError> {
        if prompts_hash(prompts)? != key.prompts {
            return Err(PoolError::OtherPrompts);
        }
        shape("prompts with samples", samples.len(), prompts.len())?;
        let row = |(place, (prompt, samples)): (usize, (&Prompt, &Vec<Completion>))| {
            shape(&format!("samples of prompt {place}"), samples.len(), key.samples)?;
            let samples: Vec<PoolSample> = samples.iter().map(PoolSample::from).collect();
            let numbers = |pick: fn(&PoolSample) -> f64| samples.iter().map(pick).collect::<Vec<f64>>();
            finite("the log-probability", place, &numbers(|sample| sample.log_prob))?;
            finite("the raw log-probability", place, &numbers(|sample| sample.raw_log_prob))?;
            finite("the divergence", place, &numbers(|sample| sample.kl.unwrap_or(0.0)))?;
            let (index, prompt) = (prompt.index, prompt.ids.clone());
            Ok(Row { index, prompt, samples, rewards: BTreeMap::new(), answers: Vec::new() })
        };
        let rows = prompts.iter().zip(samples).enumerate().map(row).collect::<Result<Vec<_>, PoolError>>()?;
        Ok(Self { shown: key.samples, key, cost, columns: Vec::new(), extractor: None, rows })
    }

    /// The pool of `key` whose prompts are those of `parts`, one part after the other. Scores are not taken over.
    ///
    /// # Errors
    /// The prompts together are not those of the key, or a part differs from it in more than its prompts.
    pub fn join(key: PoolKey, prompts: &[Prompt], parts: Vec<Self>) -> Result<Self, PoolError> {
        if prompts_hash(prompts)? != key.prompts {
            return Err(PoolError::OtherPrompts);
        }
        let mut joined = Self {
            shown: key.samples,
            key,
            cost: Ledger::default(),
            columns: Vec::new(),
            extractor: None,
            rows: Vec::with_capacity(prompts.len()),
        };
        for part in parts {
            let own = PoolKey { prompts: joined.key.prompts.clone(), ..part.key };
            if own != joined.key {
                return Err(PoolError::OtherPrompts);
            }
            joined.cost += part.cost;
            let bare = |row: Row| Row { rewards: BTreeMap::new(), answers: Vec::new(), ..row };
            joined.rows.extend(part.rows.into_iter().map(bare));
        }
        joined.check_prompts(prompts)?;
        Ok(joined)
    }

    /// What decided about the samples; its number of samples is that of the file.
    pub fn key(&self) -> &PoolKey {
        &self.key
    }

    /// Number of prompts.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no prompts.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Samples per prompt that the pool shows, `M`.
    pub fn samples_per_prompt(&self) -> usize {
        self.shown
    }

    /// What drawing all samples of the key cost.
    pub fn cost(&self) -> &Ledger {
        &self.cost
    }

    /// The tokens of the prompt at `place` of the pool.
    ///
    /// # Panics
    /// When there are fewer prompts.
    pub fn prompt(&self, place: usize) -> &[TokenId] {
        &self.rows[place].prompt
    }

    /// The samples of the prompt at `place` of the pool.
    ///
    /// # Panics
    /// When there are fewer prompts.
    pub fn samples(&self, place: usize) -> &[PoolSample] {
        &self.rows[place].samples[..self.shown]
    }

    /// The rewards that scored at least the samples shown.
    pub fn columns(&self) -> impl Iterator<Item = &RewardColumn> {
        self.columns.iter().filter(|column| column.samples >= self.shown)
    }

    /// What scoring by `id` cost, where the pool has its scores.
    pub fn column(&self, id: &RewardId) -> Option<&RewardColumn> {
        self.columns().find(|column| column.id.identity == id.identity)
    }

    /// The scores of the samples, for each prompt.
    ///
    /// # Errors
    /// The pool was not scored by this reward.
    pub fn rewards(&self, id: &RewardId) -> Result<Vec<&[f64]>, PoolError> {
        let not_scored = || PoolError::NotScored {
            name: id.name.clone(),
            identity: id.identity.clone(),
            have: self.columns().map(|c| format!("{} ({})", c.id.name, c.id.identity)).collect(),
        };
        let identity = self.column(id).map(|column| &column.id.identity).ok_or_else(not_scored)?;
        Ok(self.rows.iter().map(|row| &row.rewards[identity][..self.shown]).collect())
    }

    /// Adds scores of the samples shown, for each prompt; `cost` is what scoring cost. Scores of the same identity, which
    /// can only be the same or fewer, are replaced.
    ///
    /// # Errors
    /// Numbers of prompts or samples that are not the pool's, or a score that is not finite.
    pub fn add_rewards(
        &mut self,
        id: RewardId,
        values: Vec<Vec<f64>>,
        cost: Ledger,
    ) -> Result<(), PoolError> {
        shape(&format!("prompts scored by {}", id.name), values.len(), self.rows.len())?;
        for (place, values) in values.iter().enumerate() {
            shape(&format!("scores by {} of prompt {place}", id.name), values.len(), self.shown)?;
            finite(&format!("the score by {}", id.name), place, values)?;
        }
        if self.column(&id).is_some_and(|column| column.samples > self.shown) {
            return Ok(());
        }
        for (row, values) in self.rows.iter_mut().zip(values) {
            row.rewards.insert(id.identity.clone(), values);
        }
        self.columns.retain(|column| column.id.identity != id.identity);
        self.columns.push(RewardColumn { id, samples: self.shown, cost });
        Ok(())
    }

    /// Scores the samples shown by `reward` unless the pool has the scores of `id`; says whether it did.
    ///
    /// # Errors
    /// `prompts` are not the pool's, the reward fails, or gives a score that is not finite.
    pub fn score(
        &mut self,
        id: &RewardId,
        reward: &mut dyn Reward,
        prompts: &[Prompt],
    ) -> Result<bool, PoolError> {
        if self.column(id).is_some() {
            return Ok(false);
        }
        self.check_prompts(prompts)?;
        let before = *reward.ledger();
        let mut candidates = Vec::with_capacity(self.rows.len() * self.shown);
        for (place, prompt) in prompts.iter().enumerate() {
            let samples = self.samples(place).iter();
            candidates.extend(samples.map(|sample| Candidate { prompt, ids: &sample.ids, end: sample.end }));
        }
        let mut scores = reward.rewards(&candidates)?.into_iter();
        let values = self.rows.iter().map(|_| scores.by_ref().take(self.shown).collect()).collect();
        self.add_rewards(id.clone(), values, *reward.ledger() - before)?;
        Ok(true)
    }

    /// The answers that the extractor named `extractor` found in the samples, for each prompt; `None` where it has not
    /// been used on them.
    pub fn answers(&self, extractor: &str) -> Option<Vec<&[Option<String>]>> {
        let (name, samples) = self.extractor.as_ref()?;
        let known = name == extractor && *samples >= self.shown;
        known.then(|| self.rows.iter().map(|row| &row.answers[..self.shown]).collect())
    }

    /// Keeps what the extractor named `extractor` finds in the text of each sample shown. A pool keeps the answers of one
    /// extractor, the last.
    pub fn extract_answers(
        &mut self,
        extractor: &str,
        decode: &dyn Fn(&[TokenId]) -> String,
        extract: &dyn Fn(&str) -> Option<String>,
    ) {
        if self.answers(extractor).is_some() {
            return;
        }
        for row in &mut self.rows {
            let shown = &row.samples[..self.shown];
            row.answers = shown.iter().map(|sample| extract(&decode(&sample.ids))).collect();
        }
        self.extractor = Some((extractor.to_owned(), self.shown));
    }

    /// Shows the first `samples` of each prompt only.
    ///
    /// # Errors
    /// There are fewer.
    pub fn with_first(mut self, samples: usize) -> Result<Self, PoolError> {
        if samples > self.key.samples {
            let what = "samples asked of the pool".into();
            return Err(PoolError::Shape { what, found: samples, expected: self.key.samples });
        }
        self.shown = samples;
        Ok(self)
    }

    fn check_prompts(&self, prompts: &[Prompt]) -> Result<(), PoolError> {
        let same = prompts.len() == self.rows.len()
            && prompts.iter().zip(&self.rows).all(|(a, b)| a.index == b.index && a.ids == b.prompt);
        if same { Ok(()) } else { Err(PoolError::OtherPrompts) }
    }
}

fn shape(what: &str, found: usize, expected: usize) -> Result<(), PoolError> {
    if found == expected { Ok(()) } else { Err(PoolError::Shape { what: what.into(), found, expected }) }
}

fn finite(what: &str, prompt: usize, values: &[f64]) -> Result<(), PoolError> {
    match values.iter().position(|value| !value.is_finite()) {
        Some(sample) => {
            Err(PoolError::NotFinite { what: what.into(), prompt, sample, value: values[sample] })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
