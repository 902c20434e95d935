//! The twists of some texts: values of those that go on, rewards of those that have ended.

use generate::schedule::{Ask, Reply};
use generate::{End, Error, Prompt, TokenId};

use super::config::INFO;
use crate::pooled::unexpected;
use crate::search::finite;

/// Texts whose twists are being asked for.
#[derive(Debug, Default)]
pub(super) struct Potentials {
    texts: Vec<(Vec<TokenId>, Option<End>)>,
    got: Vec<Option<f64>>,
}

impl Potentials {
    pub(super) fn new(texts: Vec<(Vec<TokenId>, Option<End>)>) -> Self {
        let got = vec![None; texts.len()];
        Self { texts, got }
    }

    /// Places of texts without a score that have ended, or of those that have not.
    fn missing(&self, ended: bool) -> Vec<usize> {
        (0..self.texts.len())
            .filter(|i| self.got[*i].is_none() && self.texts[*i].1.is_some() == ended)
            .collect()
    }

    /// The next ask; `None` once all are there.
    pub(super) fn ask(&self) -> Option<Ask> {
        let (open, ended) = (self.missing(false), self.missing(true));
        if !open.is_empty() {
            return Some(Ask::Value(open.into_iter().map(|i| self.texts[i].0.clone()).collect()));
        }
        let text = |i: usize| (self.texts[i].0.clone(), self.texts[i].1.unwrap_or(End::Budget));
        (!ended.is_empty()).then(|| Ask::Reward(ended.into_iter().map(text).collect()))
    }

    /// Takes the reply to [`Potentials::ask`].
    pub(super) fn take(&mut self, prompt: &Prompt, reply: Reply) -> Result<(), Error> {
        let (open, ended) = (self.missing(false), self.missing(true));
        let (places, what, given) = match reply {
            Reply::Values(given) if given.len() == open.len() => (open, "value", given),
            Reply::Rewards(given) if given.len() == ended.len() => (ended, "reward", given),
            other => return Err(unexpected(INFO.name, "values or rewards of its texts", &other)),
        };
        finite(INFO.name, prompt, what, &given)?;
        for (place, score) in places.into_iter().zip(given) {
            self.got[place] = Some(score);
        }
        Ok(())
    }

    /// The logarithms of the twists, in the order of the texts.
    pub(super) fn log_twists(&self, beta: f64) -> Vec<f64> {
        self.got.iter().flatten().map(|score| score / beta).collect()
    }
}
