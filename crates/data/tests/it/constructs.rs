//! Constructs of public chat templates against what Jinja renders under the environment of transformers
//! (`tests/fixtures/chat/constructs.py` records it).

use std::collections::BTreeMap;

use data::chat::{ChatOptions, ChatTemplate, Clock, Message};
use serde_json::{Map, Value};

/// Constructs that are refused here and rendered by Jinja, or the other way round: each is said, and none
/// renders other text.
const REFUSED_HERE: &[&str] = &["format filter", "macro more arguments"];
const RENDERED_HERE: &[&str] = &["comparison of types", "loop over none"];
/// Attributes of Python's own objects, which minijinja does not tell from items.
const OTHERWISE: &[&str] = &["attr"];

fn render(case: &Value, all: &Value) -> Result<String, String> {
    let mut context: Map<String, Value> = all["context"].as_object().unwrap().clone();
    if let Some(own) = case.get("context") {
        context.extend(own.as_object().unwrap().clone());
    }
    let text = |name: &str| context[name].as_str().unwrap().to_owned();
    let special: BTreeMap<String, String> =
        ["bos_token", "eos_token"].iter().map(|name| ((*name).to_owned(), text(name))).collect();
    let clock = Clock::parse(all["now"].as_str().unwrap()).unwrap();
    let template = ChatTemplate::new(case["template"].as_str().unwrap(), special, clock)
        .map_err(|error| error.to_string())?;
    let messages: Vec<Message> = serde_json::from_value(context["messages"].clone()).unwrap();
    let some = |name: &str| context.get(name).filter(|value| !value.is_null()).cloned();
    let options = ChatOptions {
        tools: some("tools"),
        documents: some("documents"),
        add_generation_prompt: true,
        continue_final_message: false,
        variables: context.clone(),
    };
    template.render(&messages, &options).map(|rendered| rendered.text).map_err(|error| error.to_string())
}

#[test]
fn constructs_render_as_in_jinja() {
    let all = crate::support::json("chat/constructs.json");
    let cases = all["cases"].as_array().unwrap();
    assert!(cases.len() > 300);
    let mut wrong = Vec::new();
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let found = render(case, &all);
        let agrees = match (&found, case.get("text")) {
            (Ok(found), Some(text)) => found == text.as_str().unwrap() || OTHERWISE.contains(&name),
            (Err(_), None) => true,
            (Err(_), Some(_)) => REFUSED_HERE.contains(&name),
            (Ok(_), None) => RENDERED_HERE.contains(&name),
        };
        if !agrees {
            wrong.push(format!(
                "{name}\n  found {found:?}\n  jinja {}",
                case.get("text").unwrap_or(&case["error"])
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
