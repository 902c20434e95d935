//! `vocab.json` with `merges.txt`, the files of a byte-level BPE without `tokenizer.json`, made into one as
//! transformers does.

use serde_json::{Map, Value, json};

use super::TokenizerError;

/// The split that Qwen 2's tokenizer makes before its byte-level BPE.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const END: &str = "<|endoftext|>";

/// The families whose slow files are known, by the class that `tokenizer_config.json` names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    Gpt2,
    Qwen2,
}

fn family(config: &Value, model: &Value) -> Result<Family, TokenizerError> {
    let class = config.get("tokenizer_class").and_then(Value::as_str);
    let model = model.get("model_type").and_then(Value::as_str);
    match (class.map(|class| class.trim_end_matches("Fast")), model) {
        (Some("GPT2Tokenizer"), _) | (None, Some("gpt2")) => Ok(Family::Gpt2),
        (Some("Qwen2Tokenizer"), _) | (None, Some("qwen2")) => Ok(Family::Qwen2),
        (class, model) => Err(TokenizerError::file(
            "vocab.json",
            format!(
                "there is no tokenizer.json, and of {} vocab.json and merges.txt do not say how text is split\nhint: \
                 make one in Python: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`",
                class.or(model).unwrap_or("an unnamed tokenizer class")
            ),
        )),
    }
}

/// `tokenizer.json` for a vocabulary and its merges; `added` is `added_tokens.json`.
pub(super) fn tokenizer_json(
    vocabulary: &[u8],
    merges: &[u8],
    config: &Value,
    model: &Value,
    added: &Value,
) -> Result<Vec<u8>, TokenizerError> {
    let family = family(config, model)?;
    let fail = |file: &str, detail: String| TokenizerError::file(file, detail);
    let vocabulary: Map<String, Value> =
        serde_json::from_slice(vocabulary).map_err(|error| fail("vocab.json", error.to_string()))?;
    let merges = std::str::from_utf8(merges).map_err(|error| fail("merges.txt", error.to_string()))?;
    let merges: Vec<&str> =
        merges.lines().filter(|line| !line.starts_with("#version") && !line.trim().is_empty()).collect();
    let prefix = config.get("add_prefix_space").and_then(Value::as_bool).unwrap_or(false);
    let byte_level = |prefix: bool, split: bool| json!({"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": false, "use_regex": split});
    let (normalizer, split) = match family {
        Family::Gpt2 => (Value::Null, byte_level(prefix, true)),
        Family::Qwen2 => (
            json!({"type": "NFC"}),
            json!({"type": "Sequence", "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": false},
                byte_level(prefix, false),
            ]}),
        ),
    };
    let mut tokens: Vec<(u64, String)> = Vec::new();
    let listed =
        added.as_object().into_iter().flatten().filter_map(|(text, id)| Some((id.as_u64()?, text.clone())));
    tokens.extend(listed);
    if let Some(id) = vocabulary.get(END).and_then(Value::as_u64) {
        tokens.push((id, END.to_owned()));
    }
    tokens.sort_unstable();
    tokens.dedup();
    let tokens: Vec<Value> = tokens
        .into_iter()
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect();
    let whole = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens, "normalizer": normalizer,
        "pre_tokenizer": split, "post_processor": byte_level(true, true), "decoder": byte_level(true, true),
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": merges},
    });
    serde_json::to_vec(&whole).map_err(|error| fail("vocab.json", error.to_string()))
}

/// The roles of tokens that the family has where its files name none.
pub(super) fn special_tokens(config: &Value, map: &Value) -> Option<Vec<u8>> {
    let said = ["bos_token", "eos_token"].iter().any(|role| config.get(role).or(map.get(role)).is_some());
    let roles = json!({"bos_token": END, "eos_token": END, "unk_token": END});
    (!said).then(|| roles.to_string().into_bytes())
}
