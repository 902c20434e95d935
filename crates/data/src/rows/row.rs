use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::chat::Message;

use super::{Columns, Kind, RowError, StepLabels, Text, keys, kind, labelled, layouts, preference, stepwise};

/// One row: its content, the columns that are not part of the format, and where it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The content.
    pub body: Body,
    /// All other columns, such as `answer`.
    pub extra: Map<String, Value>,
    /// The file it was read from; empty for a row made in memory.
    pub file: Arc<str>,
    /// Its line there, from 1; 0 for a row made in memory.
    pub line: usize,
}

/// The content of a row, by kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// To be answered.
    Prompt {
        /// The prompt.
        prompt: Text,
    },
    /// With one answer.
    Completion {
        /// The prompt.
        prompt: Text,
        /// The answer.
        completion: Text,
    },
    /// With two answers, the first preferred.
    Preference {
        /// The prompt.
        prompt: Text,
        /// The preferred answer.
        chosen: Text,
        /// The other answer.
        rejected: Text,
        /// The lead in reward that the preferred answer has by its annotator, where one is stated.
        margin: Option<f64>,
    },
    /// With one answer in steps.
    Stepwise {
        /// The prompt.
        prompt: Text,
        /// The steps, in order; at least one.
        steps: Vec<String>,
        /// What each is labelled with.
        labels: StepLabels,
    },
    /// With two answers, of which each objective prefers one.
    Labelled {
        /// The prompt.
        prompt: Text,
        /// The answers.
        responses: [Text; 2],
        /// By objective the position of the answer it prefers; `None` where it prefers neither.
        preferred: BTreeMap<String, Option<usize>>,
    },
    /// A conversation.
    Messages {
        /// Its turns.
        messages: Vec<Message>,
    },
}

impl Row {
    /// Reads a row of the kind asked for out of an object.
    pub fn parse(map: Map<String, Value>, kind: Kind, columns: &Columns) -> Result<Self, RowError> {
        let mut fields = Fields { map, columns };
        layouts::adopt_conversation(&mut fields.map, columns);
        let body = match kind {
            Kind::Prompt => fields.prompt()?,
            Kind::Completion => fields.completion()?,
            Kind::Preference => {
                let (prompt, chosen, rejected) = fields.preference()?;
                Body::Preference { prompt, chosen, rejected, margin: fields.margin()? }
            }
            Kind::Stepwise => fields.stepwise()?,
            Kind::Labelled => fields.labelled()?,
            Kind::Messages if !fields.has("messages") && fields.has_answer() => fields.completion()?,
            Kind::Messages => Body::Messages { messages: fields.messages("messages")? },
        };
        Ok(Self { body, extra: fields.map, file: Arc::from(""), line: 0 })
    }

    /// A preference pair whose two answers are the same teaches nothing.
    pub fn is_identical_pair(&self) -> bool {
        match &self.body {
            Body::Preference { chosen, rejected, .. } => chosen == rejected,
            Body::Labelled { responses: [first, second], .. } => first == second,
            _ => false,
        }
    }

    /// The lead of a pair's preferred answer, where the row states one.
    pub fn margin(&self) -> Option<f64> {
        match self.body {
            Body::Preference { margin, .. } => margin,
            _ => None,
        }
    }

    /// The row with plain text turned into messages, for a model that expects its chat template: see
    /// [`Text::into_prompt_messages`] and [`Text::into_completion_messages`].
    pub fn into_chat(self) -> Result<Self, RowError> {
        let in_dialogue = match &self.body {
            Body::Completion { prompt, .. }
            | Body::Preference { prompt, .. }
            | Body::Labelled { prompt, .. } => prompt.is_dialogue(),
            Body::Prompt { .. } | Body::Stepwise { .. } | Body::Messages { .. } => false,
        };
        let answer = |text: Text| Text::Chat(text.into_completion_messages(in_dialogue));
        let extra = &self.extra;
        let asked = |prompt: Text| {
            if let Text::Plain(text) = &prompt
                && let Some(message) = layouts::alpaca_message(extra, text)
            {
                return Ok(Text::Chat(vec![message]));
            }
            prompt.into_prompt_messages().map(Text::Chat)
        };
        let body = match self.body {
            Body::Prompt { prompt } => Body::Prompt { prompt: asked(prompt)? },
            Body::Completion { prompt, completion } => {
                Body::Completion { prompt: asked(prompt)?, completion: answer(completion) }
            }
            Body::Preference { prompt, chosen, rejected, margin } => Body::Preference {
                prompt: asked(prompt)?,
                chosen: answer(chosen),
                rejected: answer(rejected),
                margin,
            },
            Body::Stepwise { prompt, steps, labels } => {
                Body::Stepwise { prompt: asked(prompt)?, steps, labels }
            }
            Body::Labelled { prompt, responses, preferred } => {
                Body::Labelled { prompt: asked(prompt)?, responses: responses.map(answer), preferred }
            }
            body @ Body::Messages { .. } => body,
        };
        Ok(Self { body, ..self })
    }
}

/// The columns of a row that have not been taken yet.
struct Fields<'a> {
    map: Map<String, Value>,
    columns: &'a Columns,
}

impl Fields<'_> {
    fn has(&self, column: &str) -> bool {
        self.map.get(self.columns.source(column)).is_some_and(|value| !value.is_null())
    }

    /// The value of a column. One that is read under another name stays among the extra columns.
    fn take(&mut self, column: &str, remedy: &str) -> Result<(String, Value), RowError> {
        let source = self.columns.source(column).to_owned();
        let value =
            if source == column { self.map.shift_remove(column) } else { self.map.get(&source).cloned() };
        match value {
            Some(value) => Ok((source, value)),
            None => Err(RowError::Missing {
                remedy: if source == column {
                    remedy.to_owned()
                } else {
                    format!("correct the name given for the column `{column}`")
                },
                column: source,
                found: keys(&self.map),
            }),
        }
    }

    /// Whether there is a prompt with its completion.
    fn has_answer(&self) -> bool {
        let alpaca = layouts::is_alpaca(&self.map, self.columns) && self.has("output");
        alpaca || self.has("prompt") && self.has("completion")
    }

    fn text(&mut self, column: &str) -> Result<Text, RowError> {
        if column == "prompt" && layouts::is_alpaca(&self.map, self.columns) {
            return layouts::alpaca_prompt(&self.map);
        }
        let (name, value) = self.take(column, &remedy(column, column))?;
        text(&name, value)
    }

    fn messages(&mut self, column: &str) -> Result<Vec<Message>, RowError> {
        let (name, value) = self.take(column, &remedy("conversation", column))?;
        match value {
            Value::Array(list) => messages(&name, list),
            other => Err(RowError::Type {
                column: name,
                found: kind(&other).to_owned(),
                expected: "a list of messages",
            }),
        }
    }

    fn prompt(&mut self) -> Result<Body, RowError> {
        if !self.has("prompt") {
            if self.has("messages") {
                let mut prompt = self.messages("messages")?;
                while prompt.len() > 1 && prompt.last().is_some_and(Message::is_assistant) {
                    prompt.pop();
                }
                return Ok(Body::Prompt { prompt: Text::Chat(prompt) });
            }
            if self.has("chosen") && self.has("rejected") && !layouts::is_alpaca(&self.map, self.columns) {
                let (prompt, ..) = self.preference()?;
                return Ok(Body::Prompt { prompt });
            }
        }
        Ok(Body::Prompt { prompt: self.text("prompt")? })
    }

    fn completion(&mut self) -> Result<Body, RowError> {
        if !self.has("prompt") && self.has("messages") {
            let mut prompt = self.messages("messages")?;
            let answers = prompt.iter().rev().take_while(|message| message.is_assistant()).count();
            if answers == 0 || answers == prompt.len() {
                return Err(RowError::shape(
                    "`messages` holds no answer to a prompt: it must end with a turn of the assistant, after \
                     another turn",
                    "remove such rows, or read the rows as prompts",
                ));
            }
            let completion = prompt.split_off(prompt.len() - answers);
            return Ok(Body::Completion { prompt: Text::Chat(prompt), completion: Text::Chat(completion) });
        }
        let alpaca = layouts::is_alpaca(&self.map, self.columns) && !self.has("completion");
        let prompt = self.text("prompt")?;
        let completion = self.text(if alpaca { "output" } else { "completion" })?;
        let completion = answer(&prompt, completion, "completion")?;
        Ok(Body::Completion { prompt, completion })
    }

    fn stepwise(&mut self) -> Result<Body, RowError> {
        let prompt = self.text("prompt")?;
        let (column, steps) = self.take("completions", &remedy("steps", "completions"))?;
        let steps = stepwise::steps(&column, steps)?;
        let (column, labels) = self.take("labels", &remedy("labels of the steps", "labels"))?;
        let labels = stepwise::labels(&column, &labels, steps.len())?;
        Ok(Body::Stepwise { prompt, steps, labels })
    }

    /// TRL's optional column of a pair. JSON has no number that is not finite.
    fn margin(&mut self) -> Result<Option<f64>, RowError> {
        if !self.has("margin") {
            return Ok(None);
        }
        let (column, value) = self.take("margin", "")?;
        match value.as_f64() {
            Some(margin) => Ok(Some(margin)),
            None => {
                Err(RowError::Type { column, found: kind(&value).to_owned(), expected: "a number, or null" })
            }
        }
    }

    fn labelled(&mut self) -> Result<Body, RowError> {
        let prompt = self.text("prompt")?;
        let responses = if self.has("responses") {
            let (column, value) = self.take("responses", "")?;
            labelled::two(&column, value)?.map(|value| text(&column, value))
        } else if self.has("response_0") && self.has("response_1") {
            [self.text("response_0"), self.text("response_1")]
        } else {
            return Err(RowError::Missing {
                column: "responses".to_owned(),
                found: keys(&self.map),
                remedy: "rows of several objectives have `responses`, a list of two, or `response_0` and `response_1`"
                    .to_owned(),
            });
        };
        let [first, second] = responses;
        let responses = [answer(&prompt, first?, "responses")?, answer(&prompt, second?, "responses")?];
        let preferred = labelled::preferred(&mut self.map, &self.columns.objectives)?;
        Ok(Body::Labelled { prompt, responses, preferred })
    }

    fn preference(&mut self) -> Result<(Text, Text, Text), RowError> {
        let several = ["preferred", "scores"].into_iter().find(|column| self.has(column));
        if let (Some(column), false) = (several, self.has("chosen")) {
            return Err(RowError::shape(
                format!("the row has labels of several objectives, `{column}`, and no column `chosen`"),
                "name the objective to read as `objective`",
            ));
        }
        let (chosen, rejected) = (self.text("chosen")?, self.text("rejected")?);
        // ShareGPT's layout of a pair: one conversation, and two turns to follow it.
        if !self.has("prompt") && self.has("messages") {
            let prompt = Text::Chat(self.messages("messages")?);
            let chosen = answer(&prompt, chosen, "chosen")?;
            let rejected = answer(&prompt, rejected, "rejected")?;
            return Ok((prompt, chosen, rejected));
        }
        if !self.has("prompt") && !layouts::is_alpaca(&self.map, self.columns) {
            return preference::split(chosen, rejected);
        }
        let prompt = self.text("prompt")?;
        // As in TRL: answers that are whole conversations bring their prompt, and a plain one beside them only repeats it.
        if !prompt.is_chat() && chosen.is_chat() && rejected.is_chat() {
            return preference::split(chosen, rejected);
        }
        let chosen = answer(&prompt, chosen, "chosen")?;
        let rejected = answer(&prompt, rejected, "rejected")?;
        Ok((prompt, chosen, rejected))
    }
}

/// What to do about a column that is not there.
fn remedy(what: &str, column: &str) -> String {
    format!("name the column that holds the {what} in [data.columns], as `{column} = \"NAME\"`")
}

/// Brings an answer into the prompt's form: text after a chat prompt is an assistant's turn, and messages that repeat
/// the prompt lose it.
fn answer(prompt: &Text, completion: Text, column: &str) -> Result<Text, RowError> {
    match (prompt, completion) {
        (Text::Plain(_), Text::Chat(_)) => Err(preference::mixed("prompt", column)),
        (Text::Chat(_), Text::Plain(text)) => Ok(Text::Chat(vec![Message::assistant(text)])),
        (Text::Chat(prompt), Text::Chat(mut messages)) => {
            if messages.len() > prompt.len() && messages.starts_with(prompt) {
                messages.drain(..prompt.len());
            }
            Ok(Text::Chat(messages))
        }
        (Text::Plain(_), plain) => Ok(plain),
    }
}

fn text(column: &str, value: Value) -> Result<Text, RowError> {
    match value {
        Value::String(text) => Ok(Text::Plain(text)),
        Value::Array(list) => messages(column, list).map(Text::Chat),
        // One turn by itself.
        turn @ Value::Object(_) if Message::try_from(turn.clone()).is_ok() => {
            messages(column, vec![turn]).map(Text::Chat)
        }
        other => Err(RowError::Type {
            column: column.to_owned(),
            found: kind(&other).to_owned(),
            expected: "text or a list of messages",
        }),
    }
}

fn messages(column: &str, list: Vec<Value>) -> Result<Vec<Message>, RowError> {
    if list.is_empty() {
        return Err(RowError::Type {
            column: column.to_owned(),
            found: "an empty list".to_owned(),
            expected: "at least one message",
        });
    }
    list.into_iter()
        .enumerate()
        .map(|(index, value)| {
            Message::try_from(value).map_err(|source| RowError::Message {
                column: column.to_owned(),
                index,
                source,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, kind: Kind) -> Result<Row, RowError> {
        Row::parse(serde_json::from_str(json).unwrap(), kind, &Columns::default())
    }

    fn plain(text: &str) -> Text {
        Text::Plain(text.to_owned())
    }

    #[test]
    fn other_columns_are_kept_in_order() {
        let row =
            parse(r#"{"z": 1, "prompt": "p", "answer": "72", "completion": "c"}"#, Kind::Prompt).unwrap();
        assert_eq!(row.body, Body::Prompt { prompt: plain("p") });
        assert_eq!(keys(&row.extra), "`z`, `answer`, `completion`");
    }

    #[test]
    fn mapped_columns_are_read_and_stay() {
        let columns = Columns {
            prompt: Some("question".to_owned()),
            completion: Some("answer".to_owned()),
            ..Columns::default()
        };
        let map: Map<String, Value> =
            serde_json::from_str(r#"{"question": "6*7?", "answer": "= 42"}"#).unwrap();
        let row = Row::parse(map.clone(), Kind::Completion, &columns).unwrap();
        assert_eq!(row.body, Body::Completion { prompt: plain("6*7?"), completion: plain("= 42") });
        assert_eq!(row.extra, map);

        let wrong = Columns { prompt: Some("query".to_owned()), ..Columns::default() };
        let error = Row::parse(map, Kind::Prompt, &wrong).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no column `query`; the row has `question`, `answer`\nhint: correct the name given for the column \
             `prompt`"
        );
    }

    #[test]
    fn conversations_split_before_the_last_answer() {
        let json = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
        let Body::Completion { prompt: Text::Chat(prompt), completion } =
            parse(json, Kind::Completion).unwrap().body
        else {
            panic!("expected messages");
        };
        assert_eq!(prompt.len(), 3);
        assert_eq!(completion, Text::Chat(vec![Message::assistant("d")]));
        assert_eq!(parse(json, Kind::Prompt).unwrap().body, Body::Prompt { prompt: Text::Chat(prompt) });
        let error =
            parse(r#"{"messages": [{"role": "user", "content": "a"}]}"#, Kind::Completion).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`messages` holds no answer to a prompt: it must end with a turn of the assistant, after another \
             turn\nhint: remove such rows, or read the rows as prompts"
        );
    }

    #[test]
    fn an_implicit_prompt_is_the_common_beginning() {
        let json = r#"{"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: dé",
            "rejected": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: dè"}"#;
        let prompt = plain("\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:");
        let body = Body::Preference {
            prompt: prompt.clone(),
            chosen: plain(" dé"),
            rejected: plain(" dè"),
            margin: None,
        };
        let row = parse(json, Kind::Preference).unwrap();
        assert_eq!(row.body, body);
        assert_eq!(parse(json, Kind::Prompt).unwrap().body, Body::Prompt { prompt });
        let Body::Preference { prompt: Text::Chat(prompt), chosen, .. } = row.into_chat().unwrap().body
        else {
            panic!("expected messages");
        };
        assert_eq!(prompt, [Message::user("a"), Message::assistant("b"), Message::user("c")]);
        assert_eq!(chosen, Text::Chat(vec![Message::assistant("dé")]));

        let json = r#"{"prompt": "a", "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
        let row = parse(json, Kind::Preference).unwrap();
        assert!(row.is_identical_pair());
        let Body::Preference { prompt, chosen, .. } = row.body else { panic!("expected a pair") };
        assert_eq!(prompt, Text::Chat(vec![Message::user("a")]));
        assert_eq!(chosen, Text::Chat(vec![Message::assistant("b")]));
    }

    #[test]
    fn a_pair_may_state_its_margin_under_any_name() {
        let of = |json: &str, columns: &Columns| {
            let map = serde_json::from_str(json).unwrap();
            Row::parse(map, Kind::Preference, columns).map(|row| match row.body {
                Body::Preference { margin, .. } => (margin, keys(&row.extra)),
                other => panic!("{other:?}"),
            })
        };
        let plain = Columns::default();
        let pair = |rest: &str| format!(r#"{{"prompt": "p", "chosen": "a", "rejected": "b"{rest}}}"#);
        assert_eq!(of(&pair(r#", "margin": 1.5"#), &plain), Ok((Some(1.5), "none".into())));
        assert_eq!(of(&pair(r#", "margin": -2"#), &plain), Ok((Some(-2.0), "none".into())));
        assert_eq!(of(&pair(r#", "margin": null"#), &plain), Ok((None, "`margin`".into())));
        assert_eq!(of(&pair(""), &plain), Ok((None, "none".into())));
        let named = Columns { margin: Some("lead".to_owned()), ..Columns::default() };
        let both = pair(r#", "margin": "unread", "lead": 3"#);
        assert_eq!(of(&both, &named), Ok((Some(3.0), "`margin`, `lead`".into())));
        assert_eq!(
            of(&pair(r#", "margin": "large""#), &plain).unwrap_err().to_string(),
            "`margin` is a string; expected a number, or null"
        );
    }

    #[test]
    fn steps_have_one_label_each() {
        let row = |steps: &str, labels: &str| {
            let json = format!(r#"{{"prompt": "p", "completions": {steps}, "labels": {labels}}}"#);
            parse(&json, Kind::Stepwise).map(|row| row.body).map_err(|error| error.to_string())
        };
        let body = |labels| {
            let steps = vec!["a".to_owned(), "b".to_owned()];
            Ok(Body::Stepwise { prompt: plain("p"), steps, labels })
        };
        let two = r#"["a", "b"]"#;
        assert_eq!(row(two, "[true, false]"), body(StepLabels::Judged(vec![true, false])));
        assert_eq!(row(two, "[1, -0.5]"), body(StepLabels::Graded(vec![1.0, -0.5])));
        for (steps, labels, message) in [
            (
                two,
                "[true]",
                "`labels` has 1 entries for 2 steps\nhint: give one label for each step, or remove the row",
            ),
            (
                two,
                "[true, 1]",
                "`labels` is a list of both; expected a list of true and false, or of numbers, one for each step",
            ),
            (
                two,
                r#"[true, "no"]"#,
                "`labels` is a list with a string; expected a list of true and false, or of numbers, one for each step",
            ),
            (
                two,
                "true",
                "`labels` is a boolean; expected a list of true and false, or of numbers, one for each step",
            ),
            ("[]", "[]", "`completions` is an empty list; expected a list of texts, one for each step"),
            (
                r#"["a", 2]"#,
                "[1, 1]",
                "`completions` is a list with a number at place 1; expected a list of texts, one for each step",
            ),
            (r#""a""#, "[1]", "`completions` is a string; expected a list of texts, one for each step"),
        ] {
            assert_eq!(row(steps, labels).unwrap_err(), message);
        }
        let missing = parse(r#"{"prompt": "p", "completion": "a"}"#, Kind::Stepwise).unwrap_err().to_string();
        assert!(missing.starts_with("no column `completions`; the row has `completion`"), "{missing}");
    }

    #[test]
    fn mistakes_name_column_and_remedy() {
        let cases = [
            (
                r#"{"promt": "x"}"#,
                Kind::Prompt,
                "no column `prompt`; the row has `promt`\nhint: name the column that holds the prompt in \
                 [data.columns], as `prompt = \"NAME\"`",
            ),
            (r#"{"prompt": 3}"#, Kind::Prompt, "`prompt` is a number; expected text or a list of messages"),
            (
                r#"{"messages": []}"#,
                Kind::Messages,
                "`messages` is an empty list; expected at least one message",
            ),
            (
                r#"{"messages": [{"role": "user"}, {"content": "x"}]}"#,
                Kind::Messages,
                "`messages`, message 1: a message must have a `role` that is a string, found the keys `content`",
            ),
            (
                r#"{"chosen": "a", "rejected": "b"}"#,
                Kind::Preference,
                "`chosen` and `rejected` share no beginning that ends in \"\\n\\nAssistant:\"\nhint: add a `prompt` \
                 column",
            ),
            (
                r#"{"prompt": "p", "completion": [{"role": "assistant", "content": "x"}]}"#,
                Kind::Completion,
                "`prompt` and `completion` are of different types, one text and one messages\nhint: give both as text \
                 or both as messages",
            ),
        ];
        for (json, kind, message) in cases {
            assert_eq!(parse(json, kind).unwrap_err().to_string(), message);
        }
    }
}
