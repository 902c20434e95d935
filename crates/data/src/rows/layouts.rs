//! Layouts of other programs: ShareGPT's conversations and Alpaca's instructions, read as TRL's columns.

use serde_json::{Map, Value};

use crate::chat::Message;

use super::{Columns, RowError, Text, kind};

/// Names of the column with ShareGPT's turns.
const CONVERSATIONS: [&str; 2] = ["conversations", "conversation"];

/// Whether the row has the column `column` and it is not null.
fn has(map: &Map<String, Value>, column: &str) -> bool {
    map.get(column).is_some_and(|value| !value.is_null())
}

/// Gives a row of ShareGPT's layout the column `messages`, unless it has one or another is named for it. A
/// `system` column
/// beside the turns becomes the first of them.
pub(super) fn adopt_conversation(map: &mut Map<String, Value>, columns: &Columns) {
    if columns.messages.is_some() || has(map, "messages") || has(map, columns.source("prompt")) {
        return;
    }
    let Some(column) =
        CONVERSATIONS.into_iter().find(|column| matches!(map.get(*column), Some(Value::Array(_))))
    else {
        return;
    };
    let Some(Value::Array(mut turns)) = map.shift_remove(column) else { return };
    let role = |turn: &Value| turn.get("from").or(turn.get("role")).and_then(Value::as_str) == Some("system");
    if let Some(Value::String(system)) = map.get("system").filter(|_| !turns.first().is_some_and(role))
        && !system.is_empty()
    {
        turns.insert(0, Message::new("system", system.as_str()).into());
    }
    map.insert("messages".to_owned(), Value::Array(turns));
}

/// Whether a row is of Alpaca's layout: an `instruction`, and no prompt under TRL's name or the name given
/// for it.
pub(super) fn is_alpaca(map: &Map<String, Value>, columns: &Columns) -> bool {
    columns.prompt.is_none() && !has(map, "prompt") && has(map, "instruction")
}

/// The prompt of a row of Alpaca's layout. With a `system` text or a `history` of earlier questions and
/// answers it is a
/// conversation; else the text that models of this layout are trained on, which [`alpaca_message`] knows
/// again.
pub(super) fn alpaca_prompt(map: &Map<String, Value>) -> Result<Text, RowError> {
    let (instruction, input) = (text(map, "instruction")?, text(map, "input")?);
    let (system, history) = (text(map, "system")?, history(map)?);
    if system.is_empty() && history.is_empty() {
        return Ok(Text::Plain(alpaca_text(instruction, input)));
    }
    let system = (!system.is_empty()).then(|| Message::new("system", system));
    let turns = history
        .into_iter()
        .flat_map(|[question, answer]| [Message::user(question), Message::assistant(answer)]);
    let last = Message::user(alpaca_question(instruction, input));
    Ok(Text::Chat(system.into_iter().chain(turns).chain([last]).collect()))
}

/// What a user asks in a row of Alpaca's layout, where `prompt` is the text that was made of its columns.
pub(super) fn alpaca_message(extra: &Map<String, Value>, prompt: &str) -> Option<Message> {
    let column = |name: &str| extra.get(name).and_then(Value::as_str);
    let (instruction, input) = (column("instruction")?, column("input").unwrap_or_default());
    (alpaca_text(instruction, input) == prompt).then(|| Message::user(alpaca_question(instruction, input)))
}

fn alpaca_question(instruction: &str, input: &str) -> String {
    if input.is_empty() { instruction.to_owned() } else { format!("{instruction}\n{input}") }
}

/// The prompt of Stanford Alpaca, whose data set brought the layout.
fn alpaca_text(instruction: &str, input: &str) -> String {
    if input.is_empty() {
        return format!(
            "Below is an instruction that describes a task. Write a response that appropriately completes the \
             request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
        );
    }
    format!(
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a \
         response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\
         \n\n### Response:\n"
    )
}

fn text<'a>(map: &'a Map<String, Value>, column: &str) -> Result<&'a str, RowError> {
    match map.get(column) {
        None | Some(Value::Null) => Ok(""),
        Some(Value::String(text)) => Ok(text),
        Some(other) => {
            Err(RowError::Type { column: column.to_owned(), found: kind(other).to_owned(), expected: "text" })
        }
    }
}

fn history(map: &Map<String, Value>) -> Result<Vec<[String; 2]>, RowError> {
    match map.get("history") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(value) => serde_json::from_value(value.clone()).map_err(|_| RowError::Type {
            column: "history".to_owned(),
            found: kind(value).to_owned(),
            expected: "a list of pairs of question and answer",
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Body, Kind, Row};
    use super::*;

    fn row(value: Value, kind: Kind) -> Row {
        let Value::Object(map) = value else { panic!("an object") };
        Row::parse(map, kind, &Columns::default()).unwrap()
    }

    #[test]
    fn conversations_of_sharegpt_are_messages() {
        let value = json!({"conversations": [
            {"from": "system", "value": "Be short."}, {"from": "human", "value": "Name a colour."},
            {"from": "gpt", "value": "Blue.", "weight": 1}]});
        let Body::Completion { prompt: Text::Chat(prompt), completion: Text::Chat(answer) } =
            row(value.clone(), Kind::Completion).body
        else {
            panic!("messages")
        };
        assert_eq!(prompt, [Message::new("system", "Be short."), Message::user("Name a colour.")]);
        assert_eq!((answer[0].role(), answer[0].content()), ("assistant", Some("Blue.")));
        assert_eq!(answer[0].fields()["weight"], 1);
        let Body::Prompt { prompt } = row(value.clone(), Kind::Prompt).body else { panic!("a prompt") };
        assert_eq!(
            prompt,
            Text::Chat(vec![Message::new("system", "Be short."), Message::user("Name a colour.")])
        );
        let Body::Messages { messages } = row(value, Kind::Messages).body else { panic!("messages") };
        assert_eq!(messages.len(), 3);
        // A preference pair over one conversation; a system text of its own column.
        let value = json!({"system": "S", "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}});
        let Body::Preference { prompt, chosen, rejected, .. } = row(value, Kind::Preference).body else {
            panic!("a pair")
        };
        assert_eq!(prompt, Text::Chat(vec![Message::new("system", "S"), Message::user("q")]));
        assert_eq!(chosen, Text::Chat(vec![Message::assistant("a")]));
        assert_eq!(rejected, Text::Chat(vec![Message::assistant("b")]));
    }

    #[test]
    fn instructions_of_alpaca_are_prompts() {
        let value = json!({"instruction": "Add.", "input": "1 2", "output": "3"});
        let plain = row(value, Kind::Completion);
        let Body::Completion { prompt: Text::Plain(prompt), completion } = &plain.body else {
            panic!("text")
        };
        assert!(prompt.ends_with("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"), "{prompt}");
        assert_eq!(*completion, Text::Plain("3".into()));
        let Body::Completion { prompt, completion } = plain.into_chat().unwrap().body else {
            panic!("messages")
        };
        assert_eq!(prompt, Text::Chat(vec![Message::user("Add.\n1 2")]));
        assert_eq!(completion, Text::Chat(vec![Message::assistant("3")]));
        let value =
            json!({"instruction": "Go.", "input": "", "output": "x", "system": "S", "history": [["a", "b"]]});
        let Body::Completion { prompt: Text::Chat(turns), .. } = row(value, Kind::Completion).body else {
            panic!("messages")
        };
        let turns: Vec<_> =
            turns.iter().map(|turn| (turn.role(), turn.content().unwrap_or_default())).collect();
        assert_eq!(turns, [("system", "S"), ("user", "a"), ("assistant", "b"), ("user", "Go.")]);
        let value = json!({"instruction": "Go.", "chosen": "a", "rejected": "b"});
        assert!(matches!(row(value, Kind::Preference).body, Body::Preference { prompt: Text::Plain(_), .. }));
        // A column named for the prompt is read as it is.
        let columns = Columns {
            prompt: Some("instruction".into()),
            completion: Some("output".into()),
            ..Columns::default()
        };
        let map = json!({"instruction": "Add.", "output": "3"}).as_object().cloned().unwrap();
        let Body::Completion { prompt, .. } = Row::parse(map, Kind::Completion, &columns).unwrap().body
        else {
            panic!("text")
        };
        assert_eq!(prompt, Text::Plain("Add.".into()));
    }
}
