//! Data by name: prompts, examples and pairs as token ids.

use std::collections::BTreeMap;
use std::path::PathBuf;

use data::chat::Message;
use data::read::{ReadOptions, read};
use data::render::{Example, Limit, Pair, RenderError, Renderer, Stepwise, TokenLength, Turns, fit};
use data::rows::{Body, Kind, Row, RowError, Text};
use data::wordmath::{Config, Generator, Split, Style};
use generate::Prompt;
use model::hub;
use recipe::{DataLocation, DataName, Rules, Validate, Violation};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::labelled::labelled;
use super::reader::with_messages;
use super::{Error, Loaded, Loading, Places};

/// `[data]`: which rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DataTable {
    /// `wordmath`, a file of JSON lines or of one list of objects (also gzipped),
    /// `hf://datasets/org/name[@revision]/path`, or
    /// `stage:NAME`. Rows are in TRL's formats, ShareGPT's (`conversations` of `from` and `value`) or
    /// Alpaca's (`instruction`,
    /// `input`, `output`); the columns `tools`, `documents` and `chat_template_kwargs` go to the chat
    /// template.
    pub path: DataName,
    /// More files, read after the first.
    pub also: Vec<DataName>,
    /// Split of `wordmath`: `train`, `test` or `test-new`.
    pub split: String,
    /// The most rows (0: all; `wordmath` has no end and needs a number).
    pub limit: usize,
    /// The first row of `wordmath`.
    pub skip: u64,
    /// Shuffle the rows of files by the run's seed before the limit is applied.
    pub shuffle: bool,
    /// Rows held out from training, to measure on.
    #[schemars(range(min = 0))]
    pub held_out: usize,
    /// Rows with more tokens, prompt and completion together, are left out and counted (0: the model's context).
    pub max_length: usize,
    /// Put plain text in the model's chat template: a prompt becomes a user's message and a completion the
    /// assistant's, and
    /// texts that are dialogues (`Human: …`) become a message for each turn. Left out: where the model has a
    /// chat template, as
    /// `inference generate` does, and not for the output of an earlier stage. With `false`, plain text goes
    /// to the model as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat: Option<bool>,
    /// Which of the assistant's turns `sft` learns from `messages`: `last`, or `all` of them.
    #[serde(skip_serializing_if = "Learn::is_default")]
    pub learn: Learn,
    /// Of pairs that several objectives label (`responses` with `preferred` or `scores`), the objective that decides which
    /// answer is the preferred one. Pairs that it leaves open are left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub objective: Option<String>,
    /// Names of columns where they differ from TRL's.
    pub columns: Columns,
    /// Difficulty of `wordmath`.
    pub wordmath: Wordmath,
}

impl Default for DataTable {
    fn default() -> Self {
        Self {
            path: DataName::wordmath(),
            also: Vec::new(),
            split: "train".into(),
            limit: 0,
            skip: 0,
            shuffle: false,
            held_out: 0,
            max_length: 0,
            chat: None,
            learn: Learn::Last,
            objective: None,
            columns: Columns::default(),
            wordmath: Wordmath::default(),
        }
    }
}

/// Which of the assistant's turns are learned from a conversation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Learn {
    /// The last one; all before it is the prompt.
    #[default]
    Last,
    /// All of them.
    All,
}

impl Learn {
    /// Whether the last turn alone is learned.
    pub fn is_default(&self) -> bool {
        *self == Self::Last
    }
}

/// Names of columns where they differ from TRL's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Columns {
    /// The prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion: Option<String>,
    /// The preferred answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    /// The other answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rejected: Option<String>,
    /// The lead of the preferred answer, a number; used by `reward`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub margin: Option<String>,
    /// The steps of a solution, a list of texts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completions: Option<String>,
    /// The labels of the steps, a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<String>,
    /// The conversation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<String>,
    /// For pairs that several objectives label: the column with the position, 0 or 1, of the response that each prefers,
    /// as `{ helpful = "better_response_id", safe = "safer_response_id" }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub objectives: BTreeMap<String, String>,
}

/// Difficulty of `wordmath`; the limits are the generator's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Wordmath {
    /// Fewest operations of a problem.
    #[schemars(range(min = 1, max = 5))]
    pub min_steps: usize,
    /// Most operations of a problem.
    #[schemars(range(min = 1, max = 5))]
    pub max_steps: usize,
    /// Largest quantity.
    #[schemars(range(min = 20, max = 9999))]
    pub max_number: i64,
    /// Largest number added or taken away.
    #[schemars(range(min = 5, max = 9999))]
    pub max_addend: i64,
    /// Larger factor of a product.
    #[schemars(range(min = 5, max = 9999))]
    pub max_factor: i64,
    /// Smaller factor of a product.
    #[schemars(range(min = 3, max = 9999))]
    pub max_multiplier: i64,
    /// Share of solutions told in words.
    #[schemars(range(min = 0, max = 1))]
    pub words_share: f64,
    /// Adds a sentence with an irrelevant number to `test` problems.
    pub distractor: bool,
}

impl Default for Wordmath {
    fn default() -> Self {
        let config = Config::default();
        Self {
            min_steps: config.min_steps,
            max_steps: config.max_steps,
            max_number: config.max_number,
            max_addend: config.max_addend,
            max_factor: config.max_factor,
            max_multiplier: config.max_multiplier,
            words_share: config.words_share,
            distractor: config.distractor,
        }
    }
}

impl Wordmath {
    /// The generator's settings. Problems depend on `seed`; what is held out for `test` does not.
    pub fn config(&self, seed: u64) -> Config {
        Config {
            seed,
            min_steps: self.min_steps,
            max_steps: self.max_steps,
            max_number: self.max_number,
            max_addend: self.max_addend,
            max_factor: self.max_factor,
            max_multiplier: self.max_multiplier,
            words_share: self.words_share,
            distractor: self.distractor,
        }
    }
}

impl Validate for DataTable {
    fn validate(&self, rules: &mut Rules) {
        let endless = matches!(self.path.location(), DataLocation::Wordmath);
        rules.check(&["split"], known_split(&self.split));
        if endless {
            rules.check(&["limit", "path"], wordmath_needs_a_limit(self.limit));
            rules.check(&["objective", "path"], wordmath_has_no_objectives(self.objective.as_deref()));
            rules.check(&["wordmath", "path"], generator_accepts(&self.wordmath));
        }
        if self.limit > 0 {
            rules.check(&["held_out", "limit"], held_out_leaves_rows(self));
        }
    }
}

fn known_split(split: &str) -> Result<(), Violation> {
    if Split::ALL.iter().any(|known| known.name() == split) {
        return Ok(());
    }
    Err(Violation::new(format!("there is no split {split:?}"))
        .hint("write \"train\", \"test\" or \"test-new\""))
}

fn wordmath_needs_a_limit(limit: usize) -> Result<(), Violation> {
    const MOST: usize = 1_000_000;
    if limit > MOST {
        let message = format!("{limit} rows of wordmath are more than are made at once");
        return Err(
            Violation::new(message).hint(format!("at most {MOST}; `pretrain` makes its rows one by one"))
        );
    }
    if limit > 0 {
        return Ok(());
    }
    Err(Violation::new("wordmath has no end, and no limit is given").hint("set `limit` to a number of rows"))
}

fn wordmath_has_no_objectives(objective: Option<&str>) -> Result<(), Violation> {
    match objective {
        None => Ok(()),
        Some(_) => Err(Violation::new("pairs of wordmath have one label, brevity")
            .hint("leave `objective` out, or read a file; the method `pool` with `objectives` writes one")),
    }
}

fn generator_accepts(table: &Wordmath) -> Result<(), Violation> {
    table.config(0).validate().map_err(|error| Violation::new(error.to_string()))
}

fn held_out_leaves_rows(table: &DataTable) -> Result<(), Violation> {
    if table.held_out < table.limit {
        return Ok(());
    }
    let message = format!("{} of {} rows are held out", table.held_out, table.limit);
    Err(Violation::new(message).hint("leave some to train on"))
}

impl DataTable {
    /// The files that are read; `None` for `wordmath`. Files of the hub are downloaded.
    pub fn files(
        &self,
        places: &Places,
        stage_file: &str,
        download: bool,
    ) -> Result<Option<Vec<PathBuf>>, Error> {
        let mut files = Vec::new();
        for name in std::iter::once(&self.path).chain(&self.also) {
            match name.location() {
                DataLocation::Wordmath => return Ok(None),
                DataLocation::File(path) => files.push(path.clone()),
                DataLocation::Stage(name) => files.push(places.stage(name)?.join(stage_file)),
                DataLocation::Hub { repo, revision, path_in_repo } => {
                    let revision = revision.as_deref().unwrap_or("main");
                    let found = hub::cached(hub::Kind::Dataset, repo, revision, path_in_repo);
                    match found {
                        Some(path) => files.push(path),
                        None if download => {
                            files.push(hub::file(hub::Kind::Dataset, repo, revision, path_in_repo)?);
                        }
                        None => files.push(PathBuf::from(name.as_str())),
                    }
                }
            }
        }
        Ok(Some(files))
    }

    fn split(&self) -> Split {
        Split::ALL.into_iter().find(|split| split.name() == self.split).unwrap_or(Split::Train)
    }

    pub(super) fn read(
        &self,
        places: &Places,
        kind: Kind,
        stage_file: &str,
        seed: u64,
        chat: bool,
    ) -> Result<data::read::Rows, Error> {
        let files = self.files(places, stage_file, true)?.unwrap_or_default();
        let options = ReadOptions {
            kind,
            columns: data::rows::Columns {
                prompt: self.columns.prompt.clone(),
                completion: self.columns.completion.clone(),
                chosen: self.columns.chosen.clone(),
                rejected: self.columns.rejected.clone(),
                margin: self.columns.margin.clone(),
                completions: self.columns.completions.clone(),
                labels: self.columns.labels.clone(),
                messages: self.columns.messages.clone(),
                objectives: self.columns.objectives.clone(),
            },
            limit: (self.limit > 0).then_some(self.limit),
            shuffle: self.shuffle.then_some(seed),
        };
        let mut rows = read(&files, &options)?;
        if chat {
            rows.rows = rows
                .rows
                .into_iter()
                .map(|row| {
                    let place = format!("{}:{}", row.file, row.line);
                    row.into_chat().map_err(|error| Error::Data { what: place, message: error.to_string() })
                })
                .collect::<Result<_, _>>()?;
        }
        Ok(rows)
    }

    /// Whether plain text is put in the model's chat template.
    pub(super) fn chats(&self, loaded: &Loaded) -> bool {
        let stage = matches!(self.path.location(), DataLocation::Stage(_));
        self.chat.unwrap_or(loaded.tokenizer.chat_template().is_some() && !stage)
    }

    /// Whether plain text goes as it is to a model that has a chat template, as `chat = false` asks for.
    pub fn is_raw(&self, loaded: &Loaded) -> bool {
        self.chat == Some(false) && loaded.tokenizer.chat_template().is_some()
    }

    pub(super) fn length_limit(&self, loaded: &Loaded) -> usize {
        let context = loaded.decoder.config.max_position_embeddings;
        if self.max_length == 0 { context } else { self.max_length.min(context) }
    }
}

/// The prompts of a table. Those of more than `max_prompt` or the table's own most tokens are left out and counted.
pub fn prompts(
    table: &DataTable,
    places: &Places,
    loaded: &Loaded,
    seed: u64,
    max_prompt: usize,
) -> Result<Loading<Prompt>, Error> {
    let renderer = loaded.renderer()?;
    let chat = table.chats(loaded);
    let limit = if table.max_length == 0 { max_prompt } else { max_prompt.min(table.max_length) };
    let mut found = Loading { limit, ..Loading::whole(Vec::new()) };
    let mut add = |prompt: Result<data::render::Prompt, RenderError>, columns| match prompt {
        Ok(prompt) if prompt.ids.len() <= limit => {
            let (ids, text) = (prompt.ids, prompt.text);
            found.rows.push(Prompt { index: found.rows.len(), ids, text, columns });
            Ok(())
        }
        Err(error) if error.too_long().is_none() => Err(error),
        _ => {
            found.too_long += 1;
            Ok(())
        }
    };
    let mut not_finite = 0;
    if matches!(table.path.location(), DataLocation::Wordmath) {
        let generator = Generator::new(table.wordmath.config(seed))?;
        for index in table.skip..table.skip + table.limit as u64 {
            let problem = generator.problem(table.split(), index);
            let columns = json!({"id": problem.id, "answer": problem.answer.to_string()});
            let prompt = asked(problem.prompt(), chat)?;
            add(renderer.prompt(&prompt), columns.as_object().cloned().unwrap_or_default())?;
        }
    } else {
        let rows = table.read(places, Kind::Prompt, "prompts.jsonl", seed, chat)?;
        not_finite = rows.not_finite;
        for row in rows.rows {
            let prompt = renderer.row_prompt(&row);
            let messages = messages_of(&row.body);
            add(prompt, with_messages(row.extra, messages))?;
        }
    }
    if found.rows.is_empty() {
        let message = format!(
            "{} prompts have more than {limit} tokens, and none is left\n  hint: raise data.max_length, or lower sampling.max_new_tokens",
            found.too_long
        );
        return Err(Error::Data { what: table.path.to_string(), message });
    }
    Ok(Loading { not_finite, ..found })
}

/// A prompt of `wordmath`, as the model reads it.
fn asked(prompt: String, chat: bool) -> Result<Text, RowError> {
    let prompt = Text::Plain(prompt);
    if chat { prompt.into_prompt_messages().map(Text::Chat) } else { Ok(prompt) }
}

/// A completion of `wordmath`, as the model writes it.
fn answered(completion: String, chat: bool) -> Text {
    let completion = Text::Plain(completion);
    if chat { Text::Chat(completion.into_completion_messages(false)) } else { completion }
}

/// The messages of a row's prompt, where it is a chat.
fn messages_of(body: &Body) -> Option<&[Message]> {
    match body {
        Body::Prompt { prompt }
        | Body::Completion { prompt, .. }
        | Body::Preference { prompt, .. }
        | Body::Stepwise { prompt, .. }
        | Body::Labelled { prompt, .. } => match prompt {
            Text::Chat(messages) => Some(messages),
            Text::Plain(_) => None,
        },
        Body::Messages { messages } => {
            let last = messages.iter().rposition(Message::is_assistant).unwrap_or(messages.len());
            Some(&messages[..last])
        }
    }
}

/// Prompts with one completion.
pub fn examples(
    table: &DataTable,
    places: &Places,
    loaded: &Loaded,
    seed: u64,
) -> Result<Loading<Example>, Error> {
    let renderer = loaded.renderer()?;
    let (limit, chat) = (table.length_limit(loaded), table.chats(loaded));
    if matches!(table.path.location(), DataLocation::Wordmath) {
        let generator = Generator::new(table.wordmath.config(seed))?;
        let items = (table.skip..table.skip + table.limit as u64).map(|index| {
            let problem = generator.problem(table.split(), index);
            let (prompt, completion) = (asked(problem.prompt(), chat)?, answered(problem.completion(), chat));
            Ok(renderer.completion(&prompt, &completion)?)
        });
        return within(table, items, limit);
    }
    let (kind, turns) = match table.learn {
        Learn::Last => (Kind::Completion, Turns::Last),
        Learn::All => (Kind::Messages, Turns::All),
    };
    let renderer = renderer.with_turns(turns);
    let rows = table.read(places, kind, "examples.jsonl", seed, chat)?;
    fitting(table, &rows, limit, |row| renderer.row_example(row))
}

/// Prompts and completions as plain text, for a tokenizer that is yet to be trained on them; `None` for `wordmath`.
pub fn texts(table: &DataTable, places: &Places, seed: u64) -> Result<Option<Vec<(String, String)>>, Error> {
    if matches!(table.path.location(), DataLocation::Wordmath) {
        return Ok(None);
    }
    let rows = table.read(places, Kind::Completion, "examples.jsonl", seed, table.chat == Some(true))?.rows;
    let plain = rows.into_iter().map(|row| match row.body {
        Body::Completion { prompt: Text::Plain(prompt), completion: Text::Plain(completion) } => {
            Ok((prompt, completion))
        }
        _ => Err(Error::Data {
            what: format!("{}:{}", row.file, row.line),
            message: "a row of messages, and there is no chat template before there is a tokenizer; write `prompt` and `completion` as text".into(),
        }),
    });
    Ok(Some(plain.collect::<Result<_, _>>()?))
}

/// Preference pairs. Rows of an earlier stage carry the token ids that were sampled, and these are used.
pub fn pairs(table: &DataTable, places: &Places, loaded: &Loaded, seed: u64) -> Result<Loading<Pair>, Error> {
    let renderer = loaded.renderer()?;
    let (limit, chat) = (table.length_limit(loaded), table.chats(loaded));
    if matches!(table.path.location(), DataLocation::Wordmath) {
        // Pairs of the two styles of one solution: the bare equations are preferred, so that brevity is learned.
        let generator = Generator::new(table.wordmath.config(seed))?;
        let items = (table.skip..table.skip + table.limit as u64).map(|index| {
            let text = |style| {
                let problem = generator.styled(table.split(), index, style);
                (problem.prompt(), answered(problem.completion(), chat))
            };
            let ((prompt, chosen), (_, rejected)) = (text(Style::Equations), text(Style::Words));
            Ok(renderer.pair(&asked(prompt, chat)?, &chosen, &rejected)?)
        });
        return within(table, items, limit);
    }
    if let Some(objective) = &table.objective {
        let mut found = labelled(table, places, loaded, seed, std::slice::from_ref(objective))?;
        let rows = std::mem::take(&mut found.rows);
        return Ok(found.with_rows(rows.iter().filter_map(|pair| pair.preference(0)).collect()));
    }
    let rows = table.read(places, Kind::Preference, "pairs.jsonl", seed, chat)?;
    let tokenizer = loaded.tokenizer.hash();
    fitting(table, &rows, limit, |row| match sampled_ids(&row.extra, tokenizer) {
        Some((prompt, chosen, rejected)) => {
            let pair = Pair::new(Example::join(&prompt, &chosen), Example::join(&prompt, &rejected));
            check(&renderer, row, [&pair.chosen, &pair.rejected])?;
            Ok(pair.with_margin(row.margin()))
        }
        None => renderer.row_pair(row),
    })
}

/// Solutions in labelled steps, each ended by `separator`.
pub fn steps(
    table: &DataTable,
    places: &Places,
    loaded: &Loaded,
    seed: u64,
    separator: &str,
) -> Result<Loading<Stepwise>, Error> {
    if matches!(table.path.location(), DataLocation::Wordmath) {
        let message = "its solutions have no labels of steps\n  hint: name a JSONL file with the columns `prompt`, `completions` and `labels`";
        return Err(Error::Data { what: table.path.to_string(), message: message.into() });
    }
    let renderer = loaded.renderer()?;
    let rows = table.read(places, Kind::Stepwise, "steps.jsonl", seed, table.chats(loaded))?;
    fitting(table, &rows, table.length_limit(loaded), |row| renderer.row_stepwise(row, separator))
}

/// Refuses sampled token ids that the model has no embeddings for.
pub(super) fn check(renderer: &Renderer<'_>, row: &Row, examples: [&Example; 2]) -> Result<(), RenderError> {
    examples.iter().try_for_each(|example| renderer.check_ids(&example.ids)).map_err(|error| error.at(row))
}

fn sampled_ids(extra: &Map<String, Value>, tokenizer: &str) -> Option<(Vec<u32>, Vec<u32>, Vec<u32>)> {
    if extra.get("tokenizer")?.as_str()? != tokenizer {
        return None;
    }
    let ids = |key: &str| serde_json::from_value::<Vec<u32>>(extra.get(key)?.clone()).ok();
    Some((ids("prompt_ids")?, ids("chosen_ids")?, ids("rejected_ids")?))
}

/// Generated rows of at most `limit` tokens.
fn within<T: TokenLength>(
    table: &DataTable,
    items: impl Iterator<Item = Result<T, Error>>,
    limit: usize,
) -> Result<Loading<T>, Error> {
    let mut found = Loading { limit, ..Loading::whole(Vec::new()) };
    for item in items {
        let item = item?;
        if item.tokens() > limit {
            found.too_long += 1;
        } else {
            found.rows.push(item);
        }
    }
    not_empty(table, found)
}

/// Rows of files that are rendered and have at most `limit` tokens.
fn fitting<'r, T: TokenLength>(
    table: &DataTable,
    rows: &'r data::read::Rows,
    limit: usize,
    render: impl FnMut(&'r Row) -> Result<T, RenderError>,
) -> Result<Loading<T>, Error> {
    let fitted = fit(&rows.rows, Limit::Drop(limit), render)?;
    let found = Loading {
        rows: fitted.items,
        identical: rows.identical,
        too_long: fitted.dropped,
        limit,
        unlabelled: 0,
        not_finite: rows.not_finite,
    };
    not_empty(table, found)
}

fn not_empty<T>(table: &DataTable, found: Loading<T>) -> Result<Loading<T>, Error> {
    if !found.rows.is_empty() {
        return Ok(found);
    }
    let message = format!(
        "no row is left: {} have more than {} tokens, {} have two equal answers\n  hint: raise data.max_length, which is at most the model's context",
        found.too_long, found.limit, found.identical
    );
    Err(Error::Data { what: table.path.to_string(), message })
}
