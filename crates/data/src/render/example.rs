use serde::{Deserialize, Serialize};

use crate::tokenizer::{Tokenizer, TokenizerError};

/// Token ids and which of them are to be predicted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Token ids of prompt and completion.
    pub ids: Vec<u32>,
    /// For each id whether it belongs to the completion. `loss[t]` speaks of `ids[t]` itself, which is predicted from the
    /// ids before it: the caller shifts.
    pub loss: Vec<bool>,
}

impl Example {
    /// A prompt's ids followed by a completion's, which are to be predicted. For sampled completions: EOS is included if
    /// the sample ended, and left out if it was cut off.
    ///
    /// ```
    /// let example = data::render::Example::join(&[5, 6], &[7, 0]);
    /// assert_eq!(example.ids, [5, 6, 7, 0]);
    /// assert_eq!(example.loss, [false, false, true, true]);
    /// ```
    pub fn join(prompt: &[u32], completion: &[u32]) -> Self {
        let mut loss = vec![false; prompt.len()];
        loss.resize(prompt.len() + completion.len(), true);
        Self { ids: [prompt, completion].concat(), loss }
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Number of ids before the first that is to be predicted.
    pub fn prompt_len(&self) -> usize {
        self.loss.iter().position(|&loss| loss).unwrap_or(self.len())
    }

    /// Number of ids to be predicted.
    pub fn loss_tokens(&self) -> usize {
        self.loss.iter().filter(|&&loss| loss).count()
    }

    /// The text in stretches, each with whether it is to be predicted: for showing a batch to a reader.
    pub fn segments(&self, tokenizer: &Tokenizer) -> Result<Vec<(bool, String)>, TokenizerError> {
        let mut segments = Vec::new();
        let mut start = 0;
        while start < self.len() {
            let loss = self.loss[start];
            let end = (start..self.len()).find(|&at| self.loss[at] != loss).unwrap_or(self.len());
            segments.push((loss, tokenizer.decode(&self.ids[start..end], false)?));
            start = end;
        }
        Ok(segments)
    }
}

/// What generation starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The text they encode; of messages the rendered text, special tokens included.
    pub text: String,
}

/// Two answers to one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Number of leading ids that both share and neither is to predict.
    pub prompt_len: usize,
    /// The preferred answer.
    pub chosen: Example,
    /// The other answer.
    pub rejected: Example,
    /// The lead in reward that the preferred answer has, where the row states one.
    pub margin: Option<f64>,
}

impl Pair {
    /// Pairs two examples and finds how much of the prompt they share.
    ///
    /// This is the whole prompt unless one answer's first characters share a token with the prompt's last.
    pub fn new(chosen: Example, rejected: Example) -> Self {
        let prompt_len = chosen.ids[..chosen.prompt_len()]
            .iter()
            .zip(&rejected.ids[..rejected.prompt_len()])
            .take_while(|(left, right)| left == right)
            .count();
        Self { prompt_len, chosen, rejected, margin: None }
    }

    /// The pair with the lead that its row states.
    #[must_use]
    pub fn with_margin(self, margin: Option<f64>) -> Self {
        Self { margin, ..self }
    }
}
