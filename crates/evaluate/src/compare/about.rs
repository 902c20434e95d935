//! What the report says was run: data, models, rewards, prompt format, how completions were drawn.

use std::path::Path;

use ::reward::prompts_hash;
use generate::{Prompt, Sampling};
use inference::setup::{DataTable, Loaded, MESSAGES, Places, RewardSet, RewardTable};
use recipe::{DataLocation, ModelLocation, ModelName};
use serde_json::Value;

use super::config::Compare;
use super::error::Error;
use super::run::Settings;
use crate::report::Fact;

/// Digits of a hash that are shown.
const DIGITS: usize = 16;

/// Letters of the first prompt that are shown.
const LETTERS: usize = 600;

/// The facts of a comparison, those of the program first.
pub(super) fn facts(
    compare: &Compare,
    settings: &Settings<'_>,
    loaded: &[Loaded],
    prompts: &[Prompt],
    (gold, proxy): (&RewardSet, Option<&RewardSet>),
) -> Result<Vec<Fact>, Error> {
    let mut facts = settings.program.clone();
    facts.push(Fact::new("data", data(settings.data, settings.places)?));
    let hash = prompts_hash(prompts)?;
    facts.push(Fact::new(
        "prompts",
        format!("{} prompts, hash of their tokens {}", prompts.len(), short(&hash)),
    ));
    facts.push(Fact::new("prompt format", format_of(&loaded[0], prompts)));
    if let Some(prompt) = prompts.first() {
        facts.push(Fact::new("first prompt", first(&loaded[0], prompt)));
    }
    for (table, loaded) in compare.policies.iter().zip(loaded) {
        let path = table.path.as_ref().unwrap_or(settings.model);
        let place = place(path, settings.places);
        let value = format!("{place}; weights {}, hash {}", loaded.dtype.name(), short(&loaded.hash));
        facts.push(Fact::new(format!("policy {}", table.name), value));
    }
    facts.push(Fact::new("gold reward", reward(&compare.gold, gold, settings.places)));
    if let (Some(table), Some(set)) = (&compare.proxy, proxy) {
        facts.push(Fact::new("proxy reward", reward(table, set, settings.places)));
    }
    for (place, table) in compare.runs.iter().enumerate() {
        let value = table.value.as_ref().map(|value| format!("value {}", value.label()));
        let draft = table.draft.as_ref().map(|draft| format!("draft {draft}"));
        let rollout =
            table.rollout.as_ref().map(|name| format!("rollout {}", self::place(name, settings.places)));
        let arms = table.arms.iter().map(|name| format!("arm {}", self::place(name, settings.places)));
        let further =
            table.models.iter().map(|(role, name)| format!("{role} {}", self::place(name, settings.places)));
        let all: Vec<String> = arms.chain(further).chain(rollout).chain(value).chain(draft).collect();
        if !all.is_empty() {
            let name = format!("run {}, {}", place + 1, inference::Method::info(&table.method).name);
            facts.push(Fact::new(name, all.join("; ")));
        }
    }
    facts.push(Fact::new("drawn at", sampling(settings.sampling)));
    facts.push(Fact::new("limit", format!("{} new tokens", settings.max_new_tokens)));
    facts.push(Fact::new("pools", format!("{} samples of a prompt of each policy", compare.samples)));
    Ok(facts)
}

/// `temperature 0.7, top_p 0.9`.
pub(super) fn sampling(sampling: &Sampling) -> String {
    let mut words = vec![format!("temperature {}", sampling.temperature)];
    if sampling.top_k > 0 {
        words.push(format!("top_k {}", sampling.top_k));
    }
    if sampling.top_p < 1.0 {
        words.push(format!("top_p {}", sampling.top_p));
    }
    if sampling.min_p > 0.0 {
        words.push(format!("min_p {}", sampling.min_p));
    }
    if !sampling.stop.is_empty() {
        words.push(format!("stop {:?}", sampling.stop));
    }
    words.join(", ")
}

/// The files with their hashes, or the problems of the generator.
fn data(table: &DataTable, places: &Places) -> Result<String, Error> {
    let mut parts = Vec::new();
    match table.files(places, "prompts.jsonl", false)? {
        None => {
            let (from, to) = (table.skip, table.skip + table.limit as u64);
            parts.push(format!("wordmath, split {}, problems {from} to {to}", table.split));
        }
        Some(files) => {
            for (name, file) in std::iter::once(&table.path).chain(&table.also).zip(&files) {
                let hash =
                    hash_of(file).map_or_else(String::new, |hash| format!(", blake3 {}", short(&hash)));
                let place = match name.location() {
                    DataLocation::File(_) => name.to_string(),
                    _ => format!("{name} ({})", file.display()),
                };
                parts.push(format!("{place}{hash}"));
            }
            if table.limit > 0 {
                parts.push(format!("the first {} rows", table.limit));
            }
            if table.shuffle {
                parts.push("shuffled by the seed".to_owned());
            }
        }
    }
    Ok(parts.join("; "))
}

/// The hash of a file; `None` where it cannot be read, which reading its rows has told.
fn hash_of(path: &Path) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(fs_err::File::open(path).ok()?).ok()?;
    Some(hasher.finalize().to_hex().to_string())
}

/// A model by its name, and where it lies if the name does not say so.
fn place(name: &ModelName, places: &Places) -> String {
    match name.location() {
        ModelLocation::Dir(_) | ModelLocation::Tiny => name.to_string(),
        // Of a stage or of the hub the folder tells the run, or the commit.
        _ => match places.model(name, false) {
            Ok(Some(folder)) => format!("{name} ({})", folder.display()),
            _ => name.to_string(),
        },
    }
}

/// A reward with its settings, and the hash of its weights where it has some.
fn reward(table: &RewardTable, set: &RewardSet, places: &Places) -> String {
    let described = settings_of(table);
    let models: Vec<String> = table.models().into_iter().map(|name| place(name, places)).collect();
    let settings = serde_json::to_string(table).unwrap_or_default();
    let weights = set.identity.strip_prefix(&settings).unwrap_or_default();
    let hashes: Vec<String> = weights.split_whitespace().filter(|word| is_hash(word)).map(short).collect();
    let mut words = vec![described];
    if !models.is_empty() {
        words.push(format!("model {}", models.join(", ")));
    }
    if !hashes.is_empty() {
        words.push(format!("hash {}", hashes.join(", ")));
    }
    words.join("; ")
}

/// `answer (form = "last-number")`.
fn settings_of(table: &RewardTable) -> String {
    let value = serde_json::to_value(table).unwrap_or_default();
    let Some((kind, settings)) = value.as_object().and_then(|tagged| tagged.iter().next()) else {
        return value.to_string();
    };
    let settings = match settings {
        Value::Object(keys) => {
            let one = |(key, value): (&String, &Value)| format!("{key} = {value}");
            keys.iter().filter(|(key, _)| *key != "path").map(one).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    if settings.is_empty() { kind.clone() } else { format!("{kind} ({settings})") }
}

fn is_hash(word: &str) -> bool {
    word.len() >= DIGITS && word.chars().take(DIGITS).all(|c| c.is_ascii_hexdigit())
}

/// The first digits of a hash; what follows it, such as a number format, stays.
fn short(hash: &str) -> String {
    let (digits, rest) = hash.split_at(hash.find('-').unwrap_or(hash.len()));
    format!("{}{rest}", digits.get(..DIGITS).unwrap_or(digits))
}

/// Whether prompts go through the chat template of the base.
fn format_of(loaded: &Loaded, prompts: &[Prompt]) -> String {
    let chats = prompts.iter().filter(|prompt| prompt.columns.contains_key(MESSAGES)).count();
    let template = loaded.tokenizer.chat_template().map(|template| {
        let hash = blake3::hash(template.as_bytes()).to_hex();
        format!("the model's chat template, blake3 {}", short(&hash))
    });
    match template {
        None => "text as it is; the model has no chat template".to_owned(),
        Some(template) if chats == prompts.len() => template,
        Some(template) if chats > 0 => {
            format!("{chats} of {} prompts in {template}, the others text as it is", prompts.len())
        }
        Some(_) => "text as it is, without the chat template that the model has".to_owned(),
    }
}

/// The text of a prompt as the model reads it, special tokens among it.
fn first(loaded: &Loaded, prompt: &Prompt) -> String {
    let text = loaded.tokenizer.decode(&prompt.ids, false).unwrap_or_else(|_| prompt.text.clone());
    let mut shown: String = text.chars().take(LETTERS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("{shown:?}, {} tokens", prompt.ids.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn data_are_named_with_their_hash() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("rows.jsonl");
        fs_err::write(&file, "{\"prompt\": \"a\"}\n").expect("written");
        let table: DataTable = serde_json::from_value(json!({ "path": file, "limit": 5 })).expect("a table");
        let text = data(&table, &Places::default()).expect("a file");
        assert!(text.contains("rows.jsonl, blake3 ") && text.ends_with("the first 5 rows"), "{text}");
        let other = text.clone();
        fs_err::write(&file, "{\"prompt\": \"b\"}\n").expect("written");
        assert_ne!(data(&table, &Places::default()).expect("a file"), other, "other rows, another hash");
        let wordmath: DataTable =
            serde_json::from_value(json!({ "path": "wordmath", "split": "test", "skip": 10, "limit": 5 }))
                .expect("a table");
        let text = data(&wordmath, &Places::default()).expect("problems");
        assert_eq!(text, "wordmath, split test, problems 10 to 15");
    }

    #[test]
    fn rewards_and_sampling_are_named_with_their_settings() {
        let table = |value| serde_json::from_value::<RewardTable>(value).expect("a reward");
        assert_eq!(settings_of(&table(json!({ "answer": {} }))), "answer");
        let form = table(json!({ "answer": { "form": "last-number" } }));
        assert_eq!(settings_of(&form), "answer (form = \"last-number\")");
        assert_eq!(sampling(&Sampling::default()), "temperature 1");
        let drawn =
            Sampling { temperature: 0.5, top_p: 0.75, stop: vec!["\n".into()], ..Sampling::default() };
        assert_eq!(sampling(&drawn), "temperature 0.5, top_p 0.75, stop [\"\\n\"]");
        assert_eq!(short("0123456789abcdef0123-bf16"), "0123456789abcdef-bf16");
    }
}
