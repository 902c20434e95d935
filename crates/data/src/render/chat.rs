//! Messages: one rendering, one encoding, the mask from the places of the answers in the text.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::chat::{ChatOptions, Message, Rendered, text_alone};
use crate::tokenizer::Encoded;

use super::{Example, Prompt, RenderError, Renderer, mask};

/// Which of the assistant's turns are learnt from a conversation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    /// All of them.
    #[default]
    All,
    /// The last one.
    Last,
}

impl Renderer<'_> {
    pub(super) fn chat_prompt(&self, messages: &[Message]) -> Result<Prompt, RenderError> {
        text_alone(messages)?;
        let open = messages.last().is_some_and(Message::is_assistant);
        let options = ChatOptions {
            add_generation_prompt: !open,
            continue_final_message: open,
            ..self.options.clone()
        };
        let Rendered { text, .. } = self.template()?.render(messages, &options)?;
        let ids = self.encode_chat(&text)?.ids;
        if ids.is_empty() {
            return Err(RenderError::EmptyPrompt);
        }
        Ok(Prompt { ids, text })
    }

    pub(super) fn chat_completion(
        &self,
        prompt: &[Message],
        completion: &[Message],
    ) -> Result<Example, RenderError> {
        if prompt.last().is_some_and(Message::is_assistant) {
            return Err(RenderError::OpenPrompt);
        }
        let messages = [prompt, completion].concat();
        let learnt = (prompt.len()..messages.len()).filter(|&at| messages[at].is_assistant()).collect();
        self.chat_example(&messages, learnt)
    }

    pub(super) fn chat_messages(&self, messages: &[Message], turns: Turns) -> Result<Example, RenderError> {
        let mut learnt: Vec<usize> = (0..messages.len()).filter(|&at| messages[at].is_assistant()).collect();
        if turns == Turns::Last {
            learnt = learnt.split_off(learnt.len().saturating_sub(1));
        }
        self.chat_example(messages, learnt)
    }

    /// The conversation with the messages at `learnt` in the mask, ending with the last of them.
    fn chat_example(&self, messages: &[Message], learnt: Vec<usize>) -> Result<Example, RenderError> {
        let Some(&last) = learnt.last() else { return Err(RenderError::NoAssistant) };
        let messages = &messages[..=last];
        text_alone(messages)?;
        let rendered = self.template()?.render(messages, &self.options)?;
        let spans = if self.template()?.has_generation() {
            blocks(messages, &rendered, &learnt)?
        } else {
            self.places(messages, &rendered.text, &learnt)?
        };
        let encoded = self.encode_chat(&rendered.text)?;
        let mut loss = vec![false; encoded.ids.len()];
        for span in &spans {
            self.mark(&mut loss, &encoded, &rendered.text, span);
        }
        // What follows the last token to learn (a line feed after the end of the turn) is never generated.
        let end = loss.iter().rposition(|&loss| loss).map_or(0, |last| last + 1);
        let mut ids = encoded.ids;
        ids.truncate(end);
        loss.truncate(end);
        if !ids.last().is_some_and(|&id| self.tokenizer.is_special(id)) {
            // The template writes no token that ends the turn, so the model would never learn to stop.
            ids.push(self.tokenizer.special().eos.as_ref().ok_or(RenderError::NoEos)?.id);
            loss.push(true);
        }
        Ok(Example { ids, loss })
    }

    /// Where the answers lie, by comparing texts: an answer begins where the rendering of all turns before it, with the
    /// header for an answer, ends, and ends where the rendering up to and including it ends.
    fn places(
        &self,
        messages: &[Message],
        text: &str,
        learnt: &[usize],
    ) -> Result<Vec<Range<usize>>, RenderError> {
        let template = self.template()?;
        let header = ChatOptions { add_generation_prompt: true, ..self.options.clone() };
        learnt
            .iter()
            .map(|&turn| {
                let start = template.render(&messages[..turn], &header)?.text;
                let end = if turn + 1 == messages.len() {
                    text.to_owned()
                } else {
                    template.render(&messages[..=turn], &self.options)?.text
                };
                if !text.starts_with(&start) || !text.starts_with(&end) || start.len() > end.len() {
                    return Err(RenderError::NotAPrefix { turn });
                }
                Ok(start.len()..end.len())
            })
            .collect()
    }

    /// Marks the tokens of one answer, through the token that ends its turn and not beyond it.
    fn mark(&self, loss: &mut [bool], encoded: &Encoded, text: &str, span: &Range<usize>) {
        let inside = mask(&encoded.offsets, std::slice::from_ref(span));
        let Some(last) = inside.iter().rposition(|&inside| inside) else { return };
        let blank = |from: usize| text[encoded.offsets[from].end.min(span.end)..span.end].trim().is_empty();
        let turn_end = (0..=last)
            .rev()
            .take_while(|&at| inside[at])
            .find(|&at| self.tokenizer.is_special(encoded.ids[at]))
            .filter(|&at| blank(at));
        let end = match turn_end {
            Some(end) => end,
            // A block that closes just before the end of the turn: the model must write that token as well.
            None if encoded.ids.get(last + 1).is_some_and(|id| self.tokenizer.stop_ids().contains(id)) => {
                loss[last + 1] = true;
                last
            }
            None => last,
        };
        for (loss, inside) in loss.iter_mut().zip(&inside).take(end + 1) {
            *loss |= inside;
        }
    }

    fn encode_chat(&self, text: &str) -> Result<Encoded, RenderError> {
        self.check_bytes(text)?;
        let encoded = self.tokenizer.encode_bytes(text, false)?;
        match &self.tokenizer.special().bos {
            Some(bos) if encoded.ids.starts_with(&[bos.id, bos.id]) => {
                Err(RenderError::DoubleBos { bos: bos.text.clone() })
            }
            _ => Ok(encoded),
        }
    }
}

/// The generation blocks that belong to the messages at `learnt`.
fn blocks(
    messages: &[Message],
    rendered: &Rendered,
    learnt: &[usize],
) -> Result<Vec<Range<usize>>, RenderError> {
    let turns: Vec<usize> = (0..messages.len()).filter(|&at| messages[at].is_assistant()).collect();
    let spans = &rendered.spans;
    if turns == learnt && !spans.is_empty() {
        return Ok(spans.clone());
    }
    if spans.len() != turns.len() {
        return Err(RenderError::Blocks { spans: spans.len(), turns: turns.len() });
    }
    let learnt = turns.iter().zip(spans).filter(|(turn, _)| learnt.contains(turn));
    Ok(learnt.map(|(_, span)| span.clone()).collect())
}
