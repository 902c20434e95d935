//! A real tokenizer, where it is at hand: SmolLM2-135M-Instruct in the cache folder, or where `PLUMB_SMOLLM2` says.

use std::path::PathBuf;

use data::chat::{ChatOptions, ChatTemplate, Clock, Message};
use data::tokenizer::Tokenizer;

fn directory() -> Option<PathBuf> {
    let cache = || {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
        base.map(|base| base.join("plumb/smollm2-135m-instruct"))
    };
    let path = std::env::var_os("PLUMB_SMOLLM2").map(PathBuf::from).or_else(cache)?;
    if path.join("tokenizer.json").is_file() {
        return Some(path);
    }
    eprintln!("skipped: no SmolLM2-135M-Instruct at {}", path.display());
    None
}

#[test]
fn smollm2_encodes_and_renders_as_in_transformers() {
    let Some(reference) = testkit::shared("data/reference/smollm2_135m_instruct_f32.json") else { return };
    let Some(directory) = directory() else { return };
    let reference: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(reference).unwrap()).unwrap();
    let tokenizer = Tokenizer::from_dir(directory).unwrap();
    let cases = reference["tokenizer_cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let ids = tokenizer.encode(case["text"].as_str().unwrap(), false).unwrap();
        assert_eq!(serde_json::json!(ids), case["ids"], "{}", case["text"]);
    }
    let template = ChatTemplate::of(&tokenizer, Clock::System).unwrap();
    let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let case = &reference["chat_template_case"];
    let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
    assert_eq!(template.render(&messages, &options).unwrap().text, case["text"]);
    for case in reference["generation"].as_array().unwrap() {
        let rendered = template.render(&[Message::user(case["user"].as_str().unwrap())], &options).unwrap();
        assert_eq!(rendered.text, case["chat_text"]);
        assert_eq!(serde_json::json!(tokenizer.encode(&rendered.text, false).unwrap()), case["prompt_ids"]);
    }
}
