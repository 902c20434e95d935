//! The files of a tokenizer directory, kept as read so that saving returns them unchanged.

use std::io::Write as _;
use std::path::Path;

use serde_json::Value;

use super::{TokenizerError, slow};
use crate::caught::caught;

const TOKENIZER: &str = "tokenizer.json";
const TEMPLATE: &str = "chat_template.jinja";
const CONFIG: &str = "tokenizer_config.json";
const ROLES: &str = "special_tokens_map.json";
const VOCABULARY: &str = "vocab.json";
const MERGES: &str = "merges.txt";

/// Everything that belongs to a tokenizer in a Hugging Face directory. Slow-tokenizer files are carried along.
const NAMES: [&str; 9] = [
    TOKENIZER,
    CONFIG,
    ROLES,
    TEMPLATE,
    "generation_config.json",
    "added_tokens.json",
    VOCABULARY,
    MERGES,
    "tokenizer.model",
];

/// Whether a normalizer, or one that it consists of, puts an empty text before every text: the library
/// indexes into it.
fn prepends_nothing(normalizer: &Value) -> bool {
    let own = normalizer.get("prepend").and_then(Value::as_str).is_some_and(str::is_empty);
    let parts = normalizer.get("normalizers").and_then(Value::as_array);
    own || parts.is_some_and(|parts| parts.iter().any(prepends_nothing))
}

#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    entries: Vec<(String, Vec<u8>)>,
}

impl Files {
    pub(super) fn read(dir: &Path) -> Result<Self, TokenizerError> {
        if !Self::are_in(dir) {
            return Err(TokenizerError::Missing { dir: dir.to_owned() });
        }
        let mut entries = Vec::new();
        for name in NAMES {
            let path = dir.join(name);
            if path.is_file() {
                entries.push((name.to_owned(), fs_err::read(path)?));
            }
        }
        let files = Self { entries };
        if files.get(TOKENIZER).is_some() {
            return Ok(files);
        }
        let model = match fs_err::read(dir.join("config.json")) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
            Err(_) => Value::Null,
        };
        files.with_tokenizer(&model)
    }

    /// Whether a directory holds a tokenizer: `tokenizer.json`, or `vocab.json` with `merges.txt`.
    pub(super) fn are_in(dir: &Path) -> bool {
        let has = |name: &str| dir.join(name).is_file();
        has(TOKENIZER) || has(VOCABULARY) && has(MERGES)
    }

    /// The files with a `tokenizer.json` made of `vocab.json` and `merges.txt`, for a model whose
    /// `config.json` is `model`.
    fn with_tokenizer(mut self, model: &Value) -> Result<Self, TokenizerError> {
        let (config, map) = (self.json(CONFIG)?, self.json(ROLES)?);
        let get = |name: &str| self.get(name).unwrap_or_default();
        let added = self.json("added_tokens.json")?;
        let made = slow::tokenizer_json(get(VOCABULARY), get(MERGES), &config, model, &added)?;
        if let Some(roles) = slow::special_tokens(&config, &map) {
            self.entries.retain(|(name, _)| name != ROLES);
            self.entries.push((ROLES.to_owned(), roles));
        }
        self.entries.insert(0, (TOKENIZER.to_owned(), made));
        Ok(self)
    }

    pub(super) fn new(entries: Vec<(String, Vec<u8>)>) -> Self {
        Self { entries }
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), TokenizerError> {
        fs_err::create_dir_all(dir)?;
        for (name, bytes) in &self.entries {
            // Written beside and renamed: a full disk or a kill leaves no half file under the real name.
            let part = dir.join(format!(".{name}.part"));
            let mut file = fs_err::File::create(&part)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs_err::rename(part, dir.join(name))?;
        }
        Ok(())
    }

    pub(super) fn set_template(&mut self, source: &str) {
        self.entries.retain(|(name, _)| name != TEMPLATE);
        self.entries.push((TEMPLATE.to_owned(), source.as_bytes().to_vec()));
    }

    /// Sets a field of a JSON file, if the file is there.
    pub(super) fn set_field(&mut self, name: &str, key: &str, value: &str) -> Result<(), TokenizerError> {
        let mut json = self.json(name)?;
        let (Some(map), Some(entry)) =
            (json.as_object_mut(), self.entries.iter_mut().find(|(known, _)| known == name))
        else {
            return Ok(());
        };
        map.insert(key.to_owned(), Value::String(value.to_owned()));
        entry.1 = format!("{json:#}\n").into_bytes();
        Ok(())
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.entries.iter().find(|(known, _)| known == name).map(|(_, bytes)| bytes.as_slice())
    }

    /// The file's JSON, or null where there is no such file.
    pub(super) fn json(&self, name: &str) -> Result<Value, TokenizerError> {
        let Some(bytes) = self.get(name) else { return Ok(Value::Null) };
        serde_json::from_slice(bytes).map_err(|source| TokenizerError::file(name, source.to_string()))
    }

    pub(super) fn tokenizer(&self) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let bytes = self.get(TOKENIZER).unwrap_or_default();
        let fail = |source: tokenizers::Error| TokenizerError::file(TOKENIZER, source.to_string());
        if self.json(TOKENIZER)?.get("normalizer").is_some_and(prepends_nothing) {
            let detail = "normalizer: a `Prepend` of an empty text, which the tokenizers library cannot apply\nhint: remove it";
            return Err(TokenizerError::file(TOKENIZER, detail));
        }
        let panicked = |message| {
            TokenizerError::file(TOKENIZER, format!("the tokenizers library fails on it: {message}"))
        };
        let mut tokenizer =
            caught(|| tokenizers::Tokenizer::from_bytes(bytes)).map_err(panicked)?.map_err(fail)?;
        tokenizer.with_truncation(None).map_err(fail)?;
        tokenizer.with_padding(None);
        Ok(tokenizer)
    }

    /// The chat template: the file if there is one, else the config's entry, a string or the `default` of a list of
    /// named templates.
    pub(super) fn template(&self, config: &Value) -> Result<Option<String>, TokenizerError> {
        if let Some(bytes) = self.get(TEMPLATE) {
            let text = std::str::from_utf8(bytes)
                .map_err(|source| TokenizerError::file(TEMPLATE, source.to_string()))?;
            return Ok(Some(text.to_owned()));
        }
        let fail =
            |detail: &str| TokenizerError::file("tokenizer_config.json", format!("chat_template: {detail}"));
        match config.get("chat_template") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Array(named)) => named
                .iter()
                .find(|entry| entry.get("name").and_then(Value::as_str) == Some("default"))
                .and_then(|entry| entry.get("template").and_then(Value::as_str))
                .map(|text| Some(text.to_owned()))
                .ok_or_else(|| fail("a list of templates without one named `default`")),
            Some(_) => Err(fail("expected a string or a list of {name, template}")),
        }
    }

    /// BLAKE3 over `id token` of the whole vocabulary by id, then over the merges in order. The two spellings of a merge
    /// (`"a b"` and `["a", "b"]`) count as equal; normaliser and pre-tokenizer do not count, for different versions of
    /// the library write the same ones differently.
    pub(super) fn hash(&self, tokenizer: &tokenizers::Tokenizer) -> Result<String, TokenizerError> {
        let mut vocabulary: Vec<(u32, String)> =
            tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        vocabulary.sort_unstable();
        let mut hasher = blake3::Hasher::new();
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (id, token) in &vocabulary {
            field(&id.to_le_bytes());
            field(token.as_bytes());
        }
        field(b"merges");
        let json = self.json(TOKENIZER)?;
        for merge in json.pointer("/model/merges").and_then(Value::as_array).into_iter().flatten() {
            match merge {
                Value::String(pair) => {
                    let (left, right) = pair.split_once(' ').unwrap_or((pair, ""));
                    field(left.as_bytes());
                    field(right.as_bytes());
                }
                pair => {
                    for side in 0..2 {
                        field(pair.get(side).and_then(Value::as_str).unwrap_or_default().as_bytes());
                    }
                }
            }
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}
