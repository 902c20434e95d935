//! Scores the rows of a JSONL file: log-probabilities under a language model, rewards under a reward model.

use std::fmt::Write;
use std::path::Path;

use burn::tensor::Device;
use data::chat::{ChatTemplate, Clock};
use data::read::Objects;
use data::render::Renderer;
use data::rows::Text;
use data::tokenizer::Tokenizer;
use generate::{Candidate, End, Prompt, Reward, Score};
use model::{Head, Policy, files};
use recipe::ModelName;
use reward::{SequenceModel, VocabularyModel};
use serde_json::{Map, Value, json};

use super::{Error, Places};

/// A row of the file.
struct Row {
    map: Map<String, Value>,
    prompt: Vec<u32>,
    completion: Vec<u32>,
    /// Which tokens of the completion are the answer's: not those of others' turns within a completion of
    /// several messages.
    learned: Vec<bool>,
}

/// Reads rows of `prompt` and `completion` (text), or `prompt_ids` and `completion_ids`, and returns them as lines of JSON
/// with `log_prob` and `token_log_probs` (natural logarithms under the raw law), or with `reward`. Of a
/// completion of several messages
/// `log_prob` is the sum over the assistant's tokens, as in training, and `token_log_probs` has all of them.
///
/// Rows of token ids are scored as they are; rows of text as training and generation read them, with the end-of-sequence
/// token behind the completion where `end` says so. The input `-` is standard input. A directory without a
/// tokenizer scores
/// rows of token ids.
pub fn score_file(name: &ModelName, input: &Path, end: bool, device: &Device) -> Result<String, Error> {
    let places = Places::default();
    let Some(directory) = places.model(name, true)? else {
        return Err(Error::Data { what: name.to_string(), message: "there is no such model".into() });
    };
    let (decoder, tokenizer) = if files::is_adapter(&directory) || Tokenizer::is_in(&directory) {
        let loaded = super::load_any(&places, name, device)?;
        (loaded.decoder, Some(loaded.tokenizer))
    } else {
        (files::load(&directory, device)?, None)
    };
    let renderer = tokenizer.as_ref().map(renderer_of).transpose()?;
    let mut rows = Vec::new();
    let standard = input == Path::new("-");
    let objects =
        if standard { Objects::new(std::io::stdin(), "standard input")? } else { Objects::open(input)? };
    let without_end = tokenizer.as_ref().filter(|_| !end);
    for object in objects {
        let (line, map) = object?;
        rows.push(row(map, line, input, renderer.as_ref(), without_end)?);
    }
    let policy = Policy::new(name.to_string(), &decoder);
    let mut text = String::new();
    let mut line = |mut map: Map<String, Value>, more: Value| {
        if let Some(more) = more.as_object() {
            map.extend(more.clone());
        }
        let _ = writeln!(text, "{}", Value::Object(map));
    };
    if decoder.config.head.is_score() {
        let prompts: Vec<Prompt> =
            rows.iter().enumerate().map(|(index, row)| Prompt::from_ids(index, row.prompt.clone())).collect();
        let candidates: Vec<Candidate<'_>> = rows
            .iter()
            .zip(&prompts)
            .map(|(row, prompt)| Candidate { prompt, ids: &row.completion, end: End::Eos })
            .collect();
        let rewards = if decoder.config.head == Head::Vocabulary {
            VocabularyModel::new(&policy)?.rewards(&candidates)?
        } else {
            SequenceModel::new(&policy)?.rewards(&candidates)?
        };
        for (row, reward) in rows.into_iter().zip(rewards) {
            line(row.map, json!({ "reward": reward }));
        }
    } else {
        let items: Vec<(&[u32], &[u32])> =
            rows.iter().map(|row| (&row.prompt[..], &row.completion[..])).collect();
        let scores = policy.score(&items)?;
        for (row, scores) in rows.into_iter().zip(scores) {
            let own = scores.iter().zip(&row.learned).filter(|(_, learned)| **learned);
            let sum: f64 = own.map(|(x, _)| f64::from(*x)).sum();
            line(row.map, json!({ "log_prob": sum, "token_log_probs": scores }));
        }
    }
    Ok(text)
}

fn renderer_of(tokenizer: &Tokenizer) -> Result<Renderer<'_>, Error> {
    let template = match tokenizer.chat_template() {
        Some(_) => Some(ChatTemplate::of(tokenizer, Clock::default())?),
        None => None,
    };
    Ok(Renderer::new(tokenizer, template))
}

fn row(
    map: Map<String, Value>,
    line: usize,
    input: &Path,
    renderer: Option<&Renderer<'_>>,
    without_end: Option<&Tokenizer>,
) -> Result<Row, Error> {
    let place = format!("{}:{line}", input.display());
    let refuse = |message: String| Error::Data { what: place.clone(), message };
    let ids = |key: &str| -> Result<Option<Vec<u32>>, Error> {
        let Some(value) = map.get(key) else { return Ok(None) };
        serde_json::from_value(value.clone())
            .map(Some)
            .map_err(|error| refuse(format!("`{key}` is no list of token ids: {error}")))
    };
    if let (Some(prompt), Some(completion)) = (ids("prompt_ids")?, ids("completion_ids")?) {
        let learned = vec![true; completion.len()];
        return Ok(Row { map, prompt, completion, learned });
    }
    let text = |key: &str| -> Result<Text, Error> {
        match map.get(key) {
            Some(Value::String(text)) => Ok(Text::Plain(text.clone())),
            Some(value) => serde_json::from_value(value.clone())
                .map(Text::Chat)
                .map_err(|error| refuse(format!("`{key}` is neither text nor messages: {error}"))),
            None => Err(refuse(format!(
                "no `{key}`\n  hint: a row has `prompt` and `completion`, or `prompt_ids` and `completion_ids`"
            ))),
        }
    };
    let (prompt, completion) = (text("prompt")?, text("completion")?);
    let Some(renderer) = renderer else {
        return Err(refuse(
            "the model has no tokenizer.json, so rows must hold `prompt_ids` and `completion_ids`".into(),
        ));
    };
    let example = renderer.completion(&prompt, &completion)?;
    let (prompt, mut completion) = example.ids.split_at(example.prompt_len());
    if let Some(tokenizer) = without_end
        && let Some(last) = completion.iter().rposition(|id| tokenizer.stop_ids().contains(id))
    {
        // A chat template may put a line break behind the end.
        let (before, rest) = (&completion[..last], &completion[last + 1..]);
        if tokenizer.decode(rest, true)?.trim().is_empty() {
            completion = before;
        }
    }
    let learned = example.loss[prompt.len()..prompt.len() + completion.len()].to_vec();
    Ok(Row { prompt: prompt.to_vec(), completion: completion.to_vec(), learned, map })
}
