//! Plain text: prompt and completion are encoded apart and joined.
//!
//! Generation continues the prompt's own ids, so training on `encode(prompt) ++ encode(completion) ++ EOS` shows the
//! model exactly the sequences it will meet, and the mask is exact by construction. Encoding the two as one text could
//! merge the prompt's end with the completion's beginning into a token that generation never sees there.

use super::{RenderError, Renderer};

impl Renderer<'_> {
    /// The prompt's ids with what the post-processor puts in front, but without an EOS it might put behind: generation
    /// could not continue after one.
    pub(super) fn plain_prompt(&self, text: &str) -> Result<Vec<u32>, RenderError> {
        let mut ids = self.tokenizer.encode(text, true)?;
        let bare = self.tokenizer.encode(text, false)?;
        // An empty text keeps its first id: that is a BOS, even where BOS and EOS are the same token.
        let ends_as_text = |ids: &[u32]| if bare.is_empty() { ids.len() <= 1 } else { ids.ends_with(&bare) };
        while !ends_as_text(&ids) && ids.last().is_some_and(|id| self.tokenizer.stop_ids().contains(id)) {
            ids.pop();
        }
        if ids.is_empty() {
            return Err(RenderError::EmptyPrompt);
        }
        Ok(ids)
    }

    /// The completion's ids, ended by one EOS.
    pub(super) fn plain_completion(&self, text: &str) -> Result<Vec<u32>, RenderError> {
        let eos = self.tokenizer.special().eos.as_ref().ok_or(RenderError::NoEos)?.id;
        let mut ids = self.tokenizer.encode(text, false)?;
        if ids.last() != Some(&eos) {
            ids.push(eos);
        }
        Ok(ids)
    }
}
