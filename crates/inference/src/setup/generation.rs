//! Sampling settings that a model brings in its `generation_config.json`.

use serde_json::{Map, Value};

use super::{Error, Loaded};

/// The settings that are read, under their names in the file, which are those of `[sampling]`. Ends of
/// sequence are read with the tokenizer.
const READ: [&str; 7] = [
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "no_repeat_ngram_size",
    "max_new_tokens",
];

/// The sampling settings of a model's own `generation_config.json`, as keys of `[sampling]` and values of
/// TOML. As in vLLM, `do_sample`
/// is not looked at: the method says whether tokens are drawn.
///
/// # Errors
/// The file is not JSON, or a setting in it is not a number.
pub fn generation_defaults(loaded: &Loaded) -> Result<Vec<(String, String)>, Error> {
    let name = "generation_config.json";
    let Some((_, bytes)) = loaded.tokenizer.files().find(|(file, _)| *file == name) else {
        return Ok(Vec::new());
    };
    let refuse = |message: String| Error::Data { what: format!("{name} of {}", loaded.name), message };
    let fields: Map<String, Value> =
        serde_json::from_slice(bytes).map_err(|error| refuse(error.to_string()))?;
    let mut found = Vec::new();
    for key in READ {
        match fields.get(key) {
            None | Some(Value::Null) => {}
            Some(Value::Number(number)) => found.push((format!("sampling.{key}"), number.to_string())),
            Some(other) => {
                return Err(refuse(format!(
                    "`{key}` is {other}, and it has to be a number\n  hint: mend the file, or take the key out"
                )));
            }
        }
    }
    Ok(found)
}
