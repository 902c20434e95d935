//! Plain text: prompt and completion are encoded together, and the prompt's own ids are where generation
//! begins.

use super::{Example, RenderError, Renderer};

impl Renderer<'_> {
    /// The prompt's ids with what the post-processor puts in front, but without an EOS it might put behind: generation
    /// could not continue after one.
    pub(super) fn plain_prompt(&self, text: &str) -> Result<Vec<u32>, RenderError> {
        self.check_bytes(text)?;
        let mut ids = self.tokenizer.encode(text, true)?;
        let stops = |ids: &[u32]| ids.last().is_some_and(|id| self.tokenizer.stop_ids().contains(id));
        if ids.is_empty() {
            return Err(RenderError::EmptyPrompt);
        }
        if !stops(&ids) {
            return Ok(ids);
        }
        let bare = self.tokenizer.encode(text, false)?;
        // An empty text keeps its first id: that is a BOS, even where BOS and EOS are the same token.
        let ends_as_text = |ids: &[u32]| if bare.is_empty() { ids.len() <= 1 } else { ids.ends_with(&bare) };
        while !ends_as_text(&ids) && stops(&ids) {
            ids.pop();
        }
        if ids.is_empty() {
            return Err(RenderError::EmptyPrompt);
        }
        Ok(ids)
    }

    /// The prompt with its completion, ended by one EOS.
    pub(super) fn plain_example(&self, prompt: &str, completion: &str) -> Result<Example, RenderError> {
        let eos = self.tokenizer.special().eos.as_ref().ok_or(RenderError::NoEos)?.id;
        let before = self.plain_prompt(prompt)?;
        let whole = self.plain_prompt(&format!("{prompt}{completion}"))?;
        let mut after = match whole.strip_prefix(&before[..]) {
            Some(rest) => rest.to_vec(),
            // The boundary merges into a token that generation, which continues the prompt's ids, never sees
            // there.
            None => self.tokenizer.encode_inside(completion)?,
        };
        if after.last() != Some(&eos) {
            after.push(eos);
        }
        Ok(Example::join(&before, &after))
    }
}
