//! The layout of HH-RLHF: turns marked `\n\nHuman:` and `\n\nAssistant:` in one text.

use crate::chat::Message;

use super::RowError;

const HUMAN: &str = "\n\nHuman:";
pub(super) const ASSISTANT: &str = "\n\nAssistant:";

pub(super) fn is_dialogue(text: &str) -> bool {
    text.starts_with(HUMAN) || text.starts_with(HUMAN.trim_start())
}

/// The turns of a dialogue in HH-RLHF's layout. An open `\n\nAssistant:` at the end is dropped: a chat template writes
/// its own header for the answer.
///
/// ```
/// let turns = data::rows::dialogue("\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Bye\n\nAssistant:")?;
/// let turns: Vec<_> = turns.iter().map(|turn| (turn.role(), turn.content().unwrap_or_default())).collect();
/// assert_eq!(turns, [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]);
/// # Ok::<(), data::rows::RowError>(())
/// ```
pub fn dialogue(text: &str) -> Result<Vec<Message>, RowError> {
    if !is_dialogue(text) {
        let start: String = text.chars().take(30).collect();
        return Err(RowError::shape(
            format!("the text begins with {start:?}, not with \"\\n\\nHuman:\""),
            "give plain prompts, or messages with roles",
        ));
    }
    Ok(turns(text.trim_start_matches('\n').strip_prefix(HUMAN.trim_start()).unwrap_or_default(), "user"))
}

/// The turns of the rest of a dialogue, whose first turn is `role`'s and has no marker any more. An empty last turn is
/// dropped, unless it is the only one.
pub(super) fn turns(mut rest: &str, mut role: &str) -> Vec<Message> {
    let mut turns = Vec::new();
    loop {
        let next = [(HUMAN, "user"), (ASSISTANT, "assistant")]
            .into_iter()
            .filter_map(|(marker, role)| rest.find(marker).map(|place| (place, marker, role)))
            .min();
        let Some((place, marker, next_role)) = next else {
            let last = rest.trim();
            if !last.is_empty() || turns.is_empty() {
                turns.push(Message::new(role, last));
            }
            return turns;
        };
        turns.push(Message::new(role, rest[..place].trim()));
        rest = &rest[place + marker.len()..];
        role = next_role;
    }
}
