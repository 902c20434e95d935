//! Special tokens and the ids that end a generation.

use std::collections::BTreeSet;

use serde_json::Value;
use tokenizers::AddedToken;

use super::TokenizerError;

/// A token with a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecialToken {
    /// Its text.
    pub text: String,
    /// Its id.
    pub id: u32,
}

/// The tokens with a role, those that the tokenizer names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Beginning of text.
    pub bos: Option<SpecialToken>,
    /// End of text, or of a turn.
    pub eos: Option<SpecialToken>,
    /// Padding.
    pub pad: Option<SpecialToken>,
    /// Unknown text.
    pub unk: Option<SpecialToken>,
}

impl SpecialTokens {
    /// Reads the roles from `tokenizer_config.json`, and from `special_tokens_map.json` those it does not mention. Where neither
    /// mentions an end of text, as GPT-2's files do not, it is the first of the ids that end a generation. A
    /// padding or unknown
    /// token that the vocabulary lacks is none: no text holds one, and padding is by masks.
    pub(super) fn find(
        tokenizer: &tokenizers::Tokenizer,
        config: &Value,
        map: &Value,
        ends: &[u32],
    ) -> Result<Self, TokenizerError> {
        let find = |key: &str| -> Result<Option<SpecialToken>, TokenizerError> {
            let (entry, file) = match config.get(key) {
                Some(entry) => (entry, "tokenizer_config.json"),
                None => (map.get(key).unwrap_or(&Value::Null), "special_tokens_map.json"),
            };
            let text = match entry {
                Value::Null => return Ok(None),
                Value::String(text) => text.as_str(),
                other => other.get("content").and_then(Value::as_str).ok_or_else(|| {
                    TokenizerError::file(
                        file,
                        format!("{key} is {other}; expected a string or an object with `content`"),
                    )
                })?,
            };
            let id = tokenizer.token_to_id(text).ok_or_else(|| TokenizerError::UnknownSpecial {
                file: file.to_owned(),
                key: key.to_owned(),
                token: text.to_owned(),
                size: tokenizer.get_vocab_size(true),
            })?;
            Ok(Some(SpecialToken { text: text.to_owned(), id }))
        };
        let said = config.get("eos_token").or(map.get("eos_token")).is_some();
        let end = ends.first().filter(|_| !said);
        let end = end.and_then(|id| Some(SpecialToken { text: tokenizer.id_to_token(*id)?, id: *id }));
        Ok(Self {
            bos: find("bos_token")?,
            eos: find("eos_token")?.or(end),
            pad: harmless(find("pad_token"))?,
            unk: harmless(find("unk_token"))?,
        })
    }

    /// The tokens that are set, under their names in `tokenizer_config.json`.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, &SpecialToken)> {
        [
            ("bos_token", &self.bos),
            ("eos_token", &self.eos),
            ("pad_token", &self.pad),
            ("unk_token", &self.unk),
        ]
        .into_iter()
        .filter_map(|(name, token)| token.as_ref().map(|token| (name, token)))
    }
}

/// No token where the vocabulary lacks the one that is named.
fn harmless(
    found: Result<Option<SpecialToken>, TokenizerError>,
) -> Result<Option<SpecialToken>, TokenizerError> {
    match found {
        Err(TokenizerError::UnknownSpecial { .. }) => Ok(None),
        found => found,
    }
}

/// Registers the tokens of the config's `added_tokens_decoder` that `tokenizer.json` lacks, as transformers does.
pub(super) fn add_missing_tokens(
    tokenizer: &mut tokenizers::Tokenizer,
    config: &Value,
) -> Result<(), TokenizerError> {
    let place = "tokenizer_config.json";
    let Some(entries) = config.get("added_tokens_decoder").and_then(Value::as_object) else { return Ok(()) };
    let mut missing = Vec::new();
    for (key, entry) in entries {
        let id: u32 = key.parse().map_err(|_| {
            TokenizerError::file(place, format!("added_tokens_decoder: key `{key}` is not a token id"))
        })?;
        let token: AddedToken = serde_json::from_value(entry.clone())
            .map_err(|source| TokenizerError::file(place, format!("added_tokens_decoder, {id}: {source}")))?;
        match tokenizer.token_to_id(&token.content) {
            Some(known) if known == id => {}
            Some(known) => {
                return Err(TokenizerError::file(
                    place,
                    format!(
                        "added_tokens_decoder gives `{}` the id {id}, tokenizer.json gives it {known}",
                        token.content
                    ),
                ));
            }
            None => missing.push((id, token)),
        }
    }
    missing.sort_unstable_by_key(|(id, _)| *id);
    for (id, token) in missing {
        let text = token.content.clone();
        let added =
            if token.special { tokenizer.add_special_tokens([token]) } else { tokenizer.add_tokens([token]) };
        added.map_err(|source| TokenizerError::file(place, format!("`{text}`: {source}")))?;
        let given = tokenizer.token_to_id(&text);
        if given != Some(id) {
            return Err(TokenizerError::file(
                place,
                format!(
                    "added_tokens_decoder gives `{text}` the id {id}, but the next free id is {}\nhint: list the \
                     token in the added_tokens of tokenizer.json",
                    given.map_or_else(|| "unknown".to_owned(), |id| id.to_string())
                ),
            ));
        }
    }
    Ok(())
}

/// Ids of the added tokens that are marked special.
pub(super) fn special_ids(tokenizer: &tokenizers::Tokenizer) -> BTreeSet<u32> {
    tokenizer
        .get_added_tokens_decoder()
        .into_iter()
        .filter(|(_, token)| token.special)
        .map(|(id, _)| id)
        .collect()
}

/// `eos_token_id` of the generation config, a number or a list of them, in its order.
pub(super) fn ends(generation: &Value) -> Result<Vec<u32>, TokenizerError> {
    let listed = match generation.get("eos_token_id") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list.clone(),
        Some(one) => vec![one.clone()],
    };
    let id = |id: Value| {
        id.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            TokenizerError::file(
                "generation_config.json",
                format!("eos_token_id holds {id}; expected a token id or a list of token ids"),
            )
        })
    };
    listed.into_iter().map(id).collect()
}
