//! Preference pairs that hold their prompt as the common beginning of both answers.

use crate::chat::Message;

use super::dialogue::ASSISTANT;
use super::{RowError, Text};

/// Splits `chosen` and `rejected` into their common prompt and the two answers.
///
/// Text is cut after the last `\n\nAssistant:` of the common beginning; messages after the shared leading ones, and at
/// the latest before the last, so that both sides keep an answer.
pub(super) fn split(chosen: Text, rejected: Text) -> Result<(Text, Text, Text), RowError> {
    match (chosen, rejected) {
        (Text::Plain(chosen), Text::Plain(rejected)) => split_text(&chosen, &rejected),
        (Text::Chat(chosen), Text::Chat(rejected)) => split_messages(chosen, rejected),
        _ => Err(mixed("chosen", "rejected")),
    }
}

pub(super) fn mixed(left: &str, right: &str) -> RowError {
    RowError::shape(
        format!("`{left}` and `{right}` are of different types, one text and one messages"),
        "give both as text or both as messages",
    )
}

fn split_text(chosen: &str, rejected: &str) -> Result<(Text, Text, Text), RowError> {
    let shared: usize = chosen
        .chars()
        .zip(rejected.chars())
        .take_while(|(left, right)| left == right)
        .map(|(left, _)| left.len_utf8())
        .sum();
    let Some(place) = chosen[..shared].rfind(ASSISTANT) else {
        return Err(RowError::shape(
            "`chosen` and `rejected` share no beginning that ends in \"\\n\\nAssistant:\"",
            "add a `prompt` column",
        ));
    };
    let (prompt, chosen) = chosen.split_at(place + ASSISTANT.len());
    let rejected = &rejected[prompt.len()..];
    Ok((Text::Plain(prompt.to_owned()), Text::Plain(chosen.to_owned()), Text::Plain(rejected.to_owned())))
}

fn split_messages(
    mut chosen: Vec<Message>,
    mut rejected: Vec<Message>,
) -> Result<(Text, Text, Text), RowError> {
    let shared = chosen.iter().zip(&rejected).take_while(|(left, right)| left == right).count();
    let shared = shared.min(chosen.len().saturating_sub(1)).min(rejected.len().saturating_sub(1));
    if shared == 0 {
        return Err(RowError::shape(
            "`chosen` and `rejected` share no leading message",
            "add a `prompt` column, or begin both with the same messages",
        ));
    }
    let chosen_answer = chosen.split_off(shared);
    let rejected_answer = rejected.split_off(shared);
    Ok((Text::Chat(chosen), Text::Chat(chosen_answer), Text::Chat(rejected_answer)))
}
