use super::{Tokenizer, TokenizerError};

/// Turns ids that arrive one by one into pieces of text, each made of whole characters.
///
/// The pieces and the remainder together are the decoded text. Only the tokens around the last piece are kept, so a step
/// costs the same however long the text is.
#[derive(Clone, Debug)]
pub struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The tokens of the last piece, then those that arrived since.
    ids: Vec<u32>,
    /// How many of `ids` belong to the last piece. They are decoded along, for a token's text may depend on the one
    /// before it (a leading space that is dropped at the beginning of a text).
    emitted: usize,
}

impl<'a> Stream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, ids: Vec::new(), emitted: 0 }
    }

    /// The text that `id` completes; empty while a character is unfinished.
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.ids.push(id);
        let piece = self.pending()?;
        if piece.is_empty() || piece.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.emitted);
        self.emitted = self.ids.len();
        Ok(piece)
    }

    /// What is left at the end of the stream: empty, or text whose last character never became whole.
    pub fn finish(self) -> Result<String, TokenizerError> {
        self.pending()
    }

    fn pending(&self) -> Result<String, TokenizerError> {
        let before = self.tokenizer.decode(&self.ids[..self.emitted], self.skip_special)?;
        let now = self.tokenizer.decode(&self.ids, self.skip_special)?;
        // `before` is a prefix of `now` unless the decoder rewrites the end of a text; then what they share is cut.
        let shared: usize = before
            .chars()
            .zip(now.chars())
            .take_while(|(left, right)| left == right)
            .map(|(left, _)| left.len_utf8())
            .sum();
        Ok(now[shared..].to_owned())
    }
}
