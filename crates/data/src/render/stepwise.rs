//! A solution in steps as token ids, with the places where the steps end.

use serde::{Deserialize, Serialize};

use super::{RenderError, Renderer, TokenLength};
use crate::rows::{Body, Row, StepLabels, Text};

/// Token ids of a prompt and a solution in steps, and labels at the ends of steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stepwise {
    /// Prompt, then each step with the separator behind it.
    pub ids: Vec<u32>,
    /// Whether a label is at each id: the last of a step and its separator.
    pub ends: Vec<bool>,
    /// The labels, one for each such id; 1 and 0 for right and wrong.
    pub labels: Vec<f64>,
    /// Whether the labels say right or wrong, and not how much.
    pub judged: bool,
}

impl TokenLength for Stepwise {
    fn tokens(&self) -> usize {
        self.ids.len()
    }
}

impl Renderer<'_> {
    /// A prompt and steps as ids. As in TRL, prompt, steps and separators are encoded apart and joined, so that a step ends at
    /// the last id of its separator, whatever follows; no token that ends a text is added, nor a mark that
    /// begins one.
    ///
    /// # Errors
    /// A step and its separator have no tokens, or there is not one label for each step.
    pub fn stepwise(
        &self,
        prompt: &Text,
        steps: &[String],
        labels: &StepLabels,
        separator: &str,
    ) -> Result<Stepwise, RenderError> {
        if labels.len() != steps.len() {
            return Err(RenderError::StepLabels { steps: steps.len(), labels: labels.len() });
        }
        let separator = self.tokenizer.encode_inside(separator)?;
        let mut ids = self.prompt(prompt)?.ids;
        let mut ends = vec![false; ids.len()];
        for (step, text) in steps.iter().enumerate() {
            self.check_bytes(text)?;
            let own = self.tokenizer.encode_inside(text)?;
            if own.len() + separator.len() == 0 {
                return Err(RenderError::EmptyStep { step });
            }
            ids.extend(own.iter().chain(&separator));
            ends.resize(ids.len() - 1, false);
            ends.push(true);
        }
        self.check_ids(&ids)?;
        let judged = matches!(labels, StepLabels::Judged(_));
        Ok(Stepwise { ids, ends, labels: labels.numbers(), judged })
    }

    /// The row as a solution in steps.
    pub fn row_stepwise(&self, row: &Row, separator: &str) -> Result<Stepwise, RenderError> {
        self.with_row(row, |renderer| match &row.body {
            Body::Stepwise { prompt, steps, labels } => renderer.stepwise(prompt, steps, labels, separator),
            _ => Err(RenderError::NoAnswer { wanted: "solution in steps" }),
        })
    }
}

impl Stepwise {
    /// The same with the label of the last step alone.
    #[must_use]
    pub fn last_only(mut self) -> Self {
        if let (Some(last), Some(label)) =
            (self.ends.iter().rposition(|end| *end), self.labels.last().copied())
        {
            self.ends = (0..self.ids.len()).map(|at| at == last).collect();
            self.labels = vec![label];
        }
        self
    }
}
